"""From images to probabilities: read, normalise, tile and write, as one Dask graph."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import dask
import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow.inference import Model, Region, load, probabilities
from unetflow.intensity import Normalisation, histogram, normalisation
from unetflow.progress import log, track
from unetflow.settings import IntensitySettings, PredictSettings
from unetflow.store import Image, create_image, open_image, replacing, write_json
from unetflow.volumes import open_volume

# One region is computed while the next is read and the last one written; the network itself
# already uses every CPU thread.
REGIONS_AT_ONCE = 2


def normalisation_of(model: Model, image: Image) -> Normalisation:
    """Normalisation of an image: the training set's, or the image's own, as the model was trained.

    Raises
    ------
    ValueError
        If the image has another number of channels than the model.
    """
    if "t" in image.axes:
        raise ValueError(
            f"{image.path}: a volume must be one time point: its axes are {image.axes!r}; "
            "split it into one volume per time point"
        )
    facts = model.facts["intensity"]
    channels = image.array.shape[image.axes.index("c")] if "c" in image.axes else 1
    if channels != model.facts["channels"]:
        raise ValueError(
            f"{image.path}: the model takes {model.facts['channels']} channels: the image has "
            f"{channels}; choose channels or another model"
        )
    if facts["source"] == "training":
        return Normalisation(tuple(facts["offset"]), tuple(facts["scale"]))
    pixels = image.region(tuple(slice(0, extent) for extent in image.spatial_shape))
    settings = IntensitySettings(**{name: facts[name] for name in IntensitySettings.model_fields})
    return normalisation([histogram(channel, image.name) for channel in pixels], settings)


def predict_region(
    model: Model,
    image: Image,
    normalise: Normalisation,
    region: Region,
    tile: Sequence[int],
    settings: PredictSettings,
) -> NDArray[np.float32]:
    """Foreground probabilities (classes - 1, *region) of a region of an image.

    A 2D network goes through the planes of the region one by one.
    """
    dimensions = len(tile)
    parts = []
    for plane in product(*(range(part.start, part.stop) for part in region[:-dimensions])):

        def read(part: Region, plane: tuple[int, ...] = plane) -> NDArray[np.float32]:
            lead = tuple(slice(index, index + 1) for index in plane)
            try:
                pixels = image.region((*lead, *part))
            except (RuntimeError, ValueError) as error:  # what codecs raise
                raise ValueError(
                    f"{image.path}: pixels must be readable: {error}; copy the volume again"
                ) from error
            if not np.isfinite(pixels).all():
                raise ValueError(
                    f"{image.path}: grey values must be finite: got NaN or infinite; repair it"
                )
            return normalise.apply(pixels.reshape(len(pixels), *pixels.shape[1 + len(plane) :]))

        extents = image.spatial_shape[-dimensions:]
        parts.append(
            probabilities(model, read, extents, region[-dimensions:], tile, settings.orientations)[
                1:
            ]
        )
    stacked = np.stack(parts, axis=1)
    return stacked.reshape(len(stacked), *(part.stop - part.start for part in region))


def shard_regions(array: zarr.Array[Any], spatial_axes: int) -> list[Region]:
    """Regions that each cover whole shards of an array: no two tasks write the same file."""
    shape = array.shape[-spatial_axes:]
    shards = (array.shards or array.chunks)[-spatial_axes:]
    return [
        tuple(
            slice(i, min(i + step, extent))
            for i, step, extent in zip(start, shards, shape, strict=True)
        )
        for start in product(
            *(range(0, extent, step) for extent, step in zip(shape, shards, strict=True))
        )
    ]


def predict_image(
    model: Model, image: Image, output: Path, tile: Sequence[int], settings: PredictSettings
) -> None:
    """Write the foreground probabilities of an image as an OME-Zarr image.

    Parameters
    ----------
    output : Path
        Axes are c, one per class but background, then the spatial ones of the image.

    Raises
    ------
    ValueError
        If the image does not suit the model.
    """
    normalise = normalisation_of(model, image)
    torch.set_num_threads(settings.threads)
    spatial, names = axis_rules.spatial(image.axes), model.facts["class_names"][1:]
    array = create_image(
        output,
        "c" + spatial,
        (len(names), *image.spatial_shape),
        settings.dtype,
        image.voxel_size_um,
        {"omero": {"channels": [{"label": name} for name in names]}},
    )

    def write(region: Region) -> None:
        predicted = predict_region(model, image, normalise, region, tile, settings)
        array[:, *region] = predicted.astype(settings.dtype)

    regions = shard_regions(array, len(spatial))
    groups = [regions[i : i + REGIONS_AT_ONCE] for i in range(0, len(regions), REGIONS_AT_ONCE)]
    for group in track(groups, f"predicting {image.name}", len(groups)):
        tasks = [dask.delayed(write)(region) for region in group]
        dask.compute(*tasks, scheduler="threads", num_workers=REGIONS_AT_ONCE)


def predict_images(
    model: Model, images: Sequence[Path], output: Path, settings: PredictSettings
) -> None:
    """Write the predictions of several OME-Zarr images into one folder, complete or absent."""
    log(f"device {model.device}, {settings.threads} threads")
    with replacing(output) as partial:
        partial.mkdir()
        for path in track(images, "predicting images", len(images)):
            predict_image(
                model, open_image(path), partial / path.name, model.facts["tile"], settings
            )


def predict_block(
    model: Path, volume: Path | str, prediction: Path, receipt: Path, job: dict[str, Any]
) -> None:
    """Predict one block of an archive's volume and write its receipt last.

    Data that cannot be read or does not suit the model is the block's result, state "failed" with
    the reason, so that other volumes go on; anything else, such as a full disk, is an error.

    Parameters
    ----------
    model : Path
        Folder of `model.json` and `model.safetensors`.
    job : dict
        The block's values in the plan: `tile`, `settings`, and `choice`: scene, time, channel and
        level of the volume.
    """
    settings = PredictSettings(**job["settings"])
    loaded = load(model, settings.device, settings.precision)
    started, facts = time.monotonic(), {"state": "done", "reason": ""}
    try:
        image = open_volume(volume, **job["choice"])
        with replacing(prediction) as partial:
            predict_image(loaded, image, partial, job["tile"], settings)
    except ValueError as error:
        facts = {"state": "failed", "reason": " ".join(str(error).split())}
        log(f"failed: {facts['reason']}")
    write_json(receipt, {**facts, "seconds": round(time.monotonic() - started, 2)})
