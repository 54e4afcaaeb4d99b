"""Regions of an image: what they read, how they are predicted, and their order in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import dask.threaded
import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from unetflow import predicted
from unetflow.geometry import reach, smaller_tile
from unetflow.inference import Model, load, out_of_memory, probabilities
from unetflow.intensity import (
    Histogram,
    Normalisation,
    histogram,
    normalisation,
    stored_normalisation,
)
from unetflow.orientations import Region
from unetflow.progress import Bar, log, one_line
from unetflow.regression import output_names
from unetflow.settings.prediction import PredictSettings
from unetflow.settings.training import IntensitySettings
from unetflow.states import require_chunks
from unetflow.store import Image, read_json
from unetflow.volumes import open_volume
from unetflow.voxels import require_size, resampled


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
        return stored_normalisation(facts)
    if own is not None:
        histograms = [Histogram(**channel) for channel in own]
    else:
        pixels = image.region(tuple(slice(0, extent) for extent in image.spatial_shape))
        histograms = [histogram(channel, image.name) for channel in pixels]
    return own_normalisation(facts, histograms)


def own_normalisation(facts: Mapping[str, Any], own: Sequence[Histogram]) -> Normalisation:
    """Normalisation by an image's own histograms, as the `intensity` of a model says."""
    settings = IntensitySettings.model_validate(
        {name: facts[name] for name in IntensitySettings.model_fields if name in facts}
    )
    found = normalisation(own, settings)
    # A package of another program adds it, so as not to divide by zero.
    scale = tuple(scale + facts.get("epsilon", 0.0) for scale in found.scale)
    return Normalisation(found.offset, scale, found.clip)


@dataclass(frozen=True)
class Read:
    """What the prediction of a region needs.

    Attributes
    ----------
    pixels : float32 array (channel, *leading, *part)
        Normalised.
    part : Region
        Of the axes that the network sees, with their halo.
    region : Region
        What is predicted.
    inside : bool array, or None
        Which voxels of it.
    tile : tuple of int
        That it was read for.
    """

    pixels: NDArray[np.float32]
    part: Region
    region: Region
    inside: NDArray[np.bool_] | None
    tile: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """What predicts an image: a network, how it sees grey values, what is kept of its output.

    Attributes
    ----------
    within : Region, optional
        Part of the image that is predicted.
    mask : Image, optional
        Of the image's spatial extents: voxels that are predicted are not 0.
    mask_known_by : sequence
        What tells it from other masks.
    """

    model: Model
    image: Image
    normalise: Normalisation
    tile: tuple[int, ...]
    settings: PredictSettings
    within: Region | None = None
    mask: Image | None = None
    mask_known_by: Sequence[Any] = ()

    @property
    def class_names(self) -> list[str]:
        """Names of the network's classes, background first, or of the channels of its values."""
        return output_names(self.model.facts)

    @property
    def channels(self) -> list[str]:
        """Names of the channels that are stored."""
        return predicted.channels(self.class_names, self.settings)

    def wanted(self, region: Region) -> tuple[Region, NDArray[np.bool_] | None] | None:
        """Part of a region that is predicted, and which of its voxels; None where none are."""
        part = region
        if self.within is not None:
            part = tuple(
                slice(max(a.start, b.start), min(a.stop, b.stop))
                for a, b in zip(region, self.within, strict=True)
            )
            if any(along.start >= along.stop for along in part):
                return None
        if self.mask is None:
            return part, None
        inside = self.mask.region(part)[0] > 0
        if not inside.any():
            return None
        box = find_objects(inside.view(np.uint8))[0]
        part = tuple(
            slice(along.start + found.start, along.start + found.stop)
            for along, found in zip(part, box, strict=True)
        )
        return part, inside[box]

    def read(self, region: Region) -> Read | None:
        """Read what a region needs, or nothing where none of it is wanted.

        Raises
        ------
        ValueError
            If pixels cannot be read, or are no numbers.
        """
        image, dimensions = self.image, len(self.tile)
        try:
            wanted = self.wanted(region)
            if wanted is None:
                return None
            region, inside = wanted
            shape = image.spatial_shape[-dimensions:]
            orientations = self.settings.orientations
            part = reach(self.model.geometry, shape, region[-dimensions:], self.tile, orientations)
            pixels = image.region((*region[:-dimensions], *part))
        except (RuntimeError, ValueError) as error:  # what codecs raise
            raise ValueError(
                f"{image.path}: pixels must be readable: {error}; copy the volume again"
            ) from error
        if not np.isfinite(pixels).all():
            raise ValueError(
                f"{image.path}: grey values must be finite: got NaN or infinite; repair it"
            )
        return Read(self.normalise.apply(pixels), part, region, inside, self.tile)

    def predict(self, given: Read | None, region: Region) -> NDArray[np.generic]:
        """Return what is stored (channels, *region), 0 where nothing is wanted."""
        extents = [along.stop - along.start for along in region]
        dtype = predicted.stored_dtype(self.settings)
        result = np.zeros((len(self.channels), *extents), dtype)
        if given is None:
            return result
        # Threads of a pool begin with a number of their own.
        torch.set_num_threads(self.settings.threads)
        place = tuple(
            slice(along.start - whole.start, along.stop - whole.start)
            for along, whole in zip(given.region, region, strict=True)
        )
        target = result[:, *place]
        # A 2D network goes plane by plane.
        for plane in np.ndindex(given.pixels.shape[1 : -len(self.tile)]):
            target[:, *plane] = self.predict_plane(given, plane)
        if given.inside is not None:
            target[:, ~given.inside] = 0
        return result

    def predict_plane(self, given: Read, plane: tuple[int, ...]) -> NDArray[np.generic]:
        """Return what is stored of a plane, or of a volume by a 3D network."""
        dimensions = len(self.tile)

        def read(asked: Region) -> NDArray[np.float32]:
            within = (
                slice(along.start - have.start, along.stop - have.start)
                for along, have in zip(asked, given.part, strict=True)
            )
            index: tuple[Any, ...] = (slice(None), *plane, *within)
            return np.asarray(given.pixels[index])

        found = probabilities(
            self.model,
            read,
            self.image.spatial_shape[-dimensions:],
            given.region[-dimensions:],
            self.tile,
            self.settings.orientations,
            np.asarray if self.settings.output == "logits" else None,
        )
        return predicted.encode(found, self.class_names, self.channels, self.settings)


def with_smaller_tiles(job: Job, times: int = 1) -> Job:
    """Return a job that takes less memory, as far as there are smaller tiles."""
    tile = job.tile
    for _ in range(times):
        tile = smaller_tile(tile, job.model.geometry) or tile
    return replace(job, tile=tile)


def predict_in_memory(
    job: Job, given: Read | None, region: Region
) -> tuple[Job, NDArray[np.generic]]:
    """Predict a region; where its tiles do not fit the memory, with smaller ones.

    Tiles of any size say the same, but for the rounding of the convolution library.

    Returns
    -------
    Job
        With the tile that fitted.
    array (channels, *region)
        See `Job.predict`.

    Raises
    ------
    MemoryError
        If the smallest tile does not fit.
    """
    while True:
        if given is not None and given.tile != job.tile:
            given = job.read(region)
        try:
            return job, job.predict(given, region)
        except Exception as error:
            if not out_of_memory(error):
                raise
            reason = one_line(error)
        # Here the error is gone, and with it what the pass has held.
        if job.model.device.type == "cuda":
            torch.cuda.empty_cache()
        large, job = job, with_smaller_tiles(job)
        if job.tile == large.tile:
            raise MemoryError(
                f"{job.image.path}: a tile must fit the memory: the smallest, {job.tile}, does "
                f"not; use a larger machine ({reason})"
            )
        log(f"tile {large.tile} does not fit the memory, going on with {job.tile}: {reason}")


loaded = lru_cache(maxsize=1)(load)
"""The last model stays: volumes that share a job are predicted by the same."""


def load_for(settings: PredictSettings, folder: Path) -> Model:
    """Load a model as the settings want it to run."""
    return loaded(folder, settings.device, settings.precision, settings.backend, settings.threads)


def open_job(
    model: Model,
    volume: str,
    settings: PredictSettings,
    block: Mapping[str, Any],
    histograms: Path | None,
) -> Job:
    """Open what predicts a block of a volume.

    Parameters
    ----------
    block : mapping
        Its values in the plan.
    histograms : Path or None
        The volume's own, where the model normalises by them.

    Raises
    ------
    ValueError
        If volume or mask cannot be read, or do not suit the model or each other.
    """
    stored = open_volume(volume, **block["choice"])
    image: Any = resampled(stored, settings.voxel_size_um)
    if settings.missing_chunks == "error":
        reads = tuple(
            slice(start, min(stop, extent))
            for (start, stop), extent in zip(block["reads"], image.spatial_shape, strict=True)
        )
        require_chunks(stored, reads if image is stored else image.array.source(reads))
    if settings.voxel_size_um is None:
        require_size(image, model.facts.get("voxel_size_um", {}), len(model.geometry))
    measured = read_json(histograms) if histograms else {}
    if measured.get("reason"):
        raise ValueError(measured["reason"])
    own = measured.get("channels")
    within = tuple(slice(*part) for part in block["within"]) if block["within"] else None
    mask = open_volume(block["mask"]) if block["mask"] else None
    if mask is not None and mask.spatial_shape != image.spatial_shape:
        raise ValueError(
            f"{mask.path}: a mask must have the extents of its volume, {image.spatial_shape}: got "
            f"{mask.spatial_shape}; correct the mask in the sheet"
        )
    normalise = normalisation_of(model, image, own)
    tile, known = tuple(block["tile"]), block["mask_known_by"]
    return Job(model, image, normalise, tile, settings, within, mask, known)


def predict_regions(
    job: Job,
    array: zarr.Array[Any],
    regions: Sequence[Region],
    written: Callable[[Region], None] = lambda _: None,
) -> float:
    """Write predicted regions, whole shards, into an array of axes c and the image's spatial ones.

    Where a tile does not fit the memory, those after it are smaller, see `predict_in_memory`. While
    a region is computed the next is read and the last one written. Memory holds two regions'
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
    bar = Bar(f"predicting {job.image.name}", len(regions))

    def read(region: Region, _: None) -> Read | None:
        return job.read(region)

    def compute(region: Region, given: Read | None, _: Any) -> NDArray[np.generic]:
        nonlocal job
        start = time.monotonic()
        job, found = predict_in_memory(job, given, region)
        busy.append((start, time.monotonic()))
        return found

    def write(region: Region, found: NDArray[np.generic]) -> None:
        array[:, *region] = found
        written(region)
        bar.step()

    # A plain graph: one of delayed calls takes memory with the square of their number.
    graph: dict[Any, Any] = {}
    for number, region in enumerate(regions):
        before, last = ("compute", number - 1), ("write", number - 2)
        graph["read", number] = (partial(read, region), last if last in graph else None)
        pixels = ("read", number)
        # The device does one after the other.
        order = before if before in graph else None
        graph["compute", number] = (partial(compute, region), pixels, order)
        graph["write", number] = (partial(write, region), ("compute", number))
    try:
        dask.threaded.get(graph, [key for key in graph if key[0] == "write"], num_workers=3)
    finally:
        bar.close()
    if not busy:
        return 0.0
    return 1 - sum(stop - start for start, stop in busy) / (busy[-1][1] - busy[0][0])
