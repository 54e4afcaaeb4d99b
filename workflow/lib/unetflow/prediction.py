"""Whole images to probabilities: those of an experiment, which fit in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow import predicted
from unetflow.inference import Model, array_reader, probabilities
from unetflow.progress import log, track
from unetflow.regions import Job, normalisation_of, predict_regions
from unetflow.regression import output_names
from unetflow.rotations import mean_over_rotations
from unetflow.settings.networks import parse_network
from unetflow.settings.prediction import PredictSettings
from unetflow.store import Image, create_image, open_image, replacing, shard_regions
from unetflow.tile_plan import choose_tile


def predict_image(
    model: Model, image: Image, output: Path, tile: Sequence[int], settings: PredictSettings
) -> float:
    """Write the prediction of an image as an OME-Zarr image.

    Parameters
    ----------
    output : Path
        Axes are c, see `predicted.channels`, then the spatial ones of the image.

    Returns
    -------
    float
        Share of the time in which the device waited for data; NaN by `settings.rotations`, where
        it is not measured.

    Raises
    ------
    ValueError
        If the image does not suit the model.
    """
    job = Job(model, image, normalisation_of(model, image), tuple(tile), settings)
    spatial = axis_rules.spatial(image.axes)
    array = create_image(
        output,
        "c" + spatial,
        (len(job.channels), *image.spatial_shape),
        predicted.stored_dtype(settings),
        image.voxel_size_um,
        **predicted.metadata(job.class_names, settings),
        cubes=len(tile) == 3,
    )
    if settings.rotations > 1:
        predict_rotated(job, array)
        return math.nan
    return predict_regions(job, array, shard_regions(array, len(spatial)))


def predict_rotated(job: Job, array: zarr.Array[Any]) -> None:
    """Write the mean over rotations of each plane, which is in memory as a whole."""

    def predict(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = pixels.shape[1:]
        whole = tuple(slice(0, extent) for extent in shape)
        return probabilities(job.model, array_reader(pixels), shape, whole, job.tile)

    for plane in job.image.planes():
        pixels = job.normalise.apply(job.image.region((*plane, slice(None), slice(None))))
        found = mean_over_rotations(predict, pixels, job.settings.rotations)
        index: tuple[Any, ...] = (slice(None), *plane)
        array[index] = predicted.encode(found, job.class_names, job.channels, job.settings)


def predict_images(
    model: Model, images: Sequence[Path], output: Path, settings: PredictSettings
) -> dict[str, float]:
    """Write the probabilities of several OME-Zarr images into one folder, complete or absent.

    Of a regression, its values.

    Returns
    -------
    dict
        `predict_seconds`, from reading to writing, and `pixels`, each counted once for every
        orientation or rotation of which the mean is.
    """
    log(f"device {model.device}, {model.backend}, {settings.threads} threads")
    # Scores need the probabilities of all classes.
    every = settings.model_copy(update={"output": "probabilities", "channels": None})
    settings = predicted.stored_as(every, model.facts)
    began, pixels = time.monotonic(), 0
    with replacing(output) as partial:
        partial.mkdir()
        for path in track(images, "predicting images", len(images)):
            image = open_image(path)
            tile = tile_of(model, image, settings)
            predict_image(model, image, partial / path.name, tile, settings)
            pixels += math.prod(image.spatial_shape) * settings.orientations * settings.rotations
    return {"predict_seconds": time.monotonic() - began, "pixels": pixels}


def tile_of(model: Model, image: Image, settings: PredictSettings) -> Sequence[int]:
    """Tile of an image: the one that the model was trained for, or the fastest for the image."""
    if settings.tile != "auto":
        return list(model.facts["tile"])
    network = parse_network(model.facts["network"])
    classes, device = len(output_names(model.facts)), model.device.type
    plan = choose_tile(
        network,
        model.facts["channels"],
        classes,
        image.spatial_shape[-network.dimensions :],
        settings.memory_gb * 1e9,
        model.precision,
        "gpu" if device == "cuda" else "cpu",
    )
    log(f"{image.name}: {plan.count} tiles of at most {plan.tile}, waste {plan.waste:.2f}")
    return plan.tile
