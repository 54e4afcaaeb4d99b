"""From images to probabilities: read, normalise, tile and write, as one Dask graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow import predicted
from unetflow.geometry import reach
from unetflow.inference import Model, array_reader, load, probabilities
from unetflow.intensity import Histogram, Normalisation, histogram, normalisation
from unetflow.orientations import Region
from unetflow.progress import Bar, log, track
from unetflow.rotations import mean_over_rotations
from unetflow.settings import IntensitySettings, PredictSettings
from unetflow.store import (
    Image,
    create_image,
    open_image,
    open_volume,
    read_json,
    replacing,
    shard_regions,
)


def normalisation_of(
    model: Model, image: Image, own: Sequence[Mapping[str, Any]] | None = None
) -> Normalisation:
    """Normalisation of an image: the training set's, or the image's own, as the model was trained.

    Parameters
    ----------
    own : sequence of mappings, optional
        The image's histograms, one per channel; without them it is read as a whole.

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
    settings = IntensitySettings(**{name: facts[name] for name in IntensitySettings.model_fields})
    if own is not None:
        return normalisation([Histogram(**channel) for channel in own], settings)
    pixels = image.region(tuple(slice(0, extent) for extent in image.spatial_shape))
    return normalisation([histogram(channel, image.path.name) for channel in pixels], settings)


@dataclass(frozen=True)
class Job:
    """What predicts an image: a network, how it sees grey values, what is kept of its output."""

    model: Model
    image: Image
    normalise: Normalisation
    tile: tuple[int, ...]
    settings: PredictSettings

    @property
    def class_names(self) -> list[str]:
        """Names of the network's classes, background first."""
        return list(self.model.facts["class_names"])

    @property
    def channels(self) -> list[str]:
        """Names of the channels that are stored."""
        return predicted.channels(self.class_names, self.settings)

    def read(self, region: Region) -> tuple[NDArray[np.float32], Region]:
        """Normalised pixels (channel, *leading, *part) that a region needs, and their part.

        Raises
        ------
        ValueError
            If they cannot be read, or are no numbers.
        """
        image, dimensions = self.image, len(self.tile)
        shape = image.spatial_shape[-dimensions:]
        orientations = self.settings.orientations
        part = reach(self.model.geometry, shape, region[-dimensions:], self.tile, orientations)
        try:
            pixels = image.region((*region[:-dimensions], *part))
        except (RuntimeError, ValueError) as error:  # what codecs raise
            raise ValueError(
                f"{image.path}: pixels must be readable: {error}; copy the volume again"
            ) from error
        if not np.isfinite(pixels).all():
            raise ValueError(
                f"{image.path}: grey values must be finite: got NaN or infinite; repair it"
            )
        return self.normalise.apply(pixels), part

    def predict(
        self, pixels: NDArray[np.float32], part: Region, region: Region
    ) -> NDArray[np.generic]:
        """Return what is stored (channels, *region); a 2D network goes plane by plane."""
        # Threads of a pool begin with a number of their own.
        torch.set_num_threads(self.settings.threads)
        dimensions, settings = len(self.tile), self.settings
        planes = pixels.shape[1:-dimensions]
        extents = [along.stop - along.start for along in region]
        dtype = predicted.stored_dtype(settings)
        result = np.empty((len(self.channels), *extents), dtype)
        for plane in np.ndindex(planes):

            def read(asked: Region, plane: tuple[int, ...] = plane) -> NDArray[np.float32]:
                within = (
                    slice(along.start - have.start, along.stop - have.start)
                    for along, have in zip(asked, part, strict=True)
                )
                index: tuple[Any, ...] = (slice(None), *plane, *within)
                return np.asarray(pixels[index])

            found = probabilities(
                self.model,
                read,
                self.image.spatial_shape[-dimensions:],
                region[-dimensions:],
                self.tile,
                settings.orientations,
                np.asarray if settings.output == "logits" else None,
            )
            result[:, *plane] = predicted.encode(found, self.class_names, self.channels, settings)
        return result


def load_for(settings: PredictSettings, folder: Path) -> Model:
    """Load a model as the settings want it to run."""
    return load(folder, settings.device, settings.precision, settings.backend, settings.threads)


def open_job(
    model: Model,
    volume: Path,
    settings: PredictSettings,
    tile: Sequence[int],
    histograms: Path | None,
) -> Job:
    """Open what predicts a volume.

    Parameters
    ----------
    histograms : Path or None
        The volume's own, where the model normalises by them.
    """
    image = open_volume(volume)
    own = read_json(histograms)["channels"] if histograms else None
    return Job(model, image, normalisation_of(model, image, own), tuple(tile), settings)


def predict_regions(
    job: Job,
    array: zarr.Array[Any],
    regions: Sequence[Region],
    written: Callable[[Region], None] = lambda _: None,
) -> float:
    """Write predicted regions, whole shards, into an array of axes c and the image's spatial ones.

    While a region is computed the next is read and the last one written. Memory holds two regions'
    pixels and two predictions, however many regions there are: a region is read once the last but
    one is written.

    Parameters
    ----------
    written : callable
        Told each region once it is in the array.

    Returns
    -------
    float
        Share of the time, from the first region read to the last computed, in which the device
        waited.
    """
    busy: list[tuple[float, float]] = []
    bar = Bar(f"predicting {job.image.path.name}", len(regions))

    def read(region: Region, _: None) -> tuple[NDArray[np.float32], Region]:
        return job.read(region)

    def compute(
        read: tuple[NDArray[np.float32], Region], region: Region, _: Any
    ) -> NDArray[np.generic]:
        start = time.monotonic()
        found = job.predict(*read, region)
        busy.append((start, time.monotonic()))
        return found

    def write(found: NDArray[np.generic], region: Region) -> None:
        array[:, *region] = found
        written(region)
        bar.step()

    task, before = dask.delayed, None
    writing: list[Any] = []
    for number, region in enumerate(regions):
        pixels = task(read)(region, writing[number - 2] if number > 1 else None)
        before = task(compute)(pixels, region, before)  # the device does one after the other
        writing.append(task(write)(before, region))
    try:
        dask.compute(*writing, scheduler="threads", num_workers=3)
    finally:
        bar.close()
    if not busy:
        return 0.0
    return 1 - sum(stop - start for start, stop in busy) / (busy[-1][1] - busy[0][0])


def predict_image(
    model: Model, image: Image, output: Path, tile: Sequence[int], settings: PredictSettings
) -> None:
    """Write the prediction of an image as an OME-Zarr image.

    Parameters
    ----------
    output : Path
        Axes are c, see `predicted.channels`, then the spatial ones of the image.

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
    else:
        predict_regions(job, array, shard_regions(array, len(spatial)))


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
) -> None:
    """Write the probabilities of several OME-Zarr images into one folder, complete or absent."""
    log(f"device {model.device}, {settings.threads} threads")
    # Scores need the probabilities of all classes.
    settings = settings.model_copy(update={"output": "probabilities", "channels": None})
    with replacing(output) as partial:
        partial.mkdir()
        for path in track(images, "predicting images", len(images)):
            predict_image(
                model, open_image(path), partial / path.name, model.facts["tile"], settings
            )
