"""Histograms of grey values, their merging, and the normalisation that they define."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow.settings.training import IntensitySettings
from unetflow.store import Image, read_json, write_json
from unetflow.volumes import open_volume

BINS = 65536
PERCENTILES = (1, 50, 99)
"""By which images are compared."""
SLAB = 2**24
"""Voxels that are counted at once."""


@dataclass(frozen=True)
class Histogram:
    """Counts of grey values of one channel, with exact first and second moments.

    Attributes
    ----------
    values : list of float
        Grey values that occur, ascending; bin centres where there were more than 65,536.
    counts : list of int
        How many pixels have each of them.
    mean, variance : float
        Of the pixels themselves, not of the bins.
    """

    values: list[float]
    counts: list[int]
    mean: float
    variance: float

    def to_json(self) -> dict[str, object]:
        """Return plain builtins."""
        return asdict(self)


def histogram(channel: NDArray[np.generic], name: str) -> Histogram:
    """Histogram of one channel of an image.

    Parameters
    ----------
    channel : array of any shape and real dtype
        Grey values.
    name : str
        What to call the image in an error.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or all are equal: such an image cannot be normalised.
    """
    return varied(count(channel, name), name)


def varied(found: Histogram, name: str) -> Histogram:
    """Return the histogram of an image that can be normalised: one of at least two values."""
    if len(found.values) == 1:
        raise ValueError(
            f"{name}: an image must have at least two grey values: all are {found.values[0]:g}; "
            "remove it from the dataset"
        )
    return found


def count(channel: NDArray[np.generic], name: str) -> Histogram:
    """Histogram of a part of an image, which may have one grey value."""
    if channel.dtype in (np.uint8, np.uint16):
        table = np.bincount(channel.ravel())
        present = np.flatnonzero(table)
        greys, times = present.astype(np.float64), table[present]
        mean = np.average(greys, weights=times)
        variance = np.average((greys - mean) ** 2, weights=times)
        return Histogram(greys.tolist(), times.tolist(), float(mean), float(variance))
    data = channel.astype(np.float64).ravel()
    if not np.isfinite(data).all():
        bad = int(np.count_nonzero(~np.isfinite(data)))
        raise ValueError(
            f"{name}: grey values must be finite: got {bad} NaN or infinite; "
            "repair the image or remove it from the dataset"
        )
    values, counts = binned(*np.unique(data, return_counts=True))
    return Histogram(values.tolist(), counts.tolist(), float(data.mean()), float(data.var()))


def binned(
    values: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values and their counts; bins in their place where there are too many, but for that of 0."""
    if len(values) <= BINS:
        return values, counts
    zero = values == 0
    binned_counts, edges = np.histogram(values[~zero], BINS - 1, weights=counts[~zero])
    centres = (edges[:-1] + edges[1:]) / 2
    centres[centres == 0] = np.finfo(np.float64).tiny  # it is not that of zeros alone
    centres = np.concatenate([centres, values[zero]])
    binned_counts = np.concatenate([binned_counts, counts[zero]])
    order = np.argsort(centres)
    order = order[binned_counts[order] > 0]
    return centres[order], binned_counts[order]


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """Histogram of the pixels of all of them together."""
    parts = list(histograms)
    pixels = np.array([sum(part.counts) for part in parts], dtype=np.float64)
    means = np.array([part.mean for part in parts])
    mean = float(np.average(means, weights=pixels))
    # Law of total variance: within the images plus between them.
    spread = np.array([part.variance for part in parts]) + (means - mean) ** 2
    values, index = np.unique(np.concatenate([part.values for part in parts]), return_inverse=True)
    pooled = np.bincount(index, weights=np.concatenate([part.counts for part in parts]))
    values, counts = binned(values, pooled.astype(np.int64))
    return Histogram(
        values.tolist(), counts.tolist(), mean, float(np.average(spread, weights=pixels))
    )


def percentile(of: Histogram, percent: float) -> float:
    """Grey value below or at which `percent` of the pixels lie."""
    cumulative = np.cumsum(of.counts)
    position = np.searchsorted(cumulative, percent / 100 * cumulative[-1])
    return of.values[min(int(position), len(of.values) - 1)]


@dataclass(frozen=True)
class Normalisation:
    """The linear map `(grey - offset) / scale`, one pair per channel, of clipped grey values."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    clip: tuple[float, float] | None = None

    def apply(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the normalised image; the channel is the first axis."""
        tail = (1,) * (image.ndim - 1)
        offset = np.array(self.offset, np.float32).reshape(-1, *tail)
        scale = np.array(self.scale, np.float32).reshape(-1, *tail)
        grey = image.astype(np.float32)
        if self.clip is not None:
            grey = np.clip(grey, *self.clip)
        return np.asarray((grey - offset) / scale)

    def undo(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the grey values of normalised ones; the channel is the first axis."""
        tail = (1,) * (values.ndim - 1)
        offset = np.array(self.offset, np.float32).reshape(-1, *tail)
        scale = np.array(self.scale, np.float32).reshape(-1, *tail)
        return np.asarray(values * scale + offset, np.float32)


def normalisation(channels: Iterable[Histogram], settings: IntensitySettings) -> Normalisation:
    """Return the map that the settings ask for, from one histogram per channel.

    Where both percentiles are the same value (a nearly empty image) the standard deviation takes
    the place of their distance, so that the scale is never 0.
    """
    offsets, scales = [], []
    for of in channels:
        if settings.pixels == "nonzero":
            of = nonzero(of)
        if settings.clip is not None:
            of = clipped(of, *settings.clip)
        deviation = of.variance**0.5
        if settings.normalise == "zscore":
            offset, scale = of.mean, deviation
        else:
            offset = percentile(of, settings.low_percentile)
            scale = percentile(of, settings.high_percentile) - offset
        offsets.append(offset)
        scales.append(scale or deviation)
    return Normalisation(tuple(offsets), tuple(scales), settings.clip)


def nonzero(of: Histogram) -> Histogram:
    """Histogram of the pixels that are not 0, with exact moments; of all where all are alike."""
    values, counts = np.array(of.values), np.array(of.counts)
    kept = values != 0
    if kept.all() or not kept.any():
        return of
    share = float(counts.sum() / counts[kept].sum())
    mean = of.mean * share
    variance = max((of.variance + of.mean**2) * share - mean**2, 0.0)
    return Histogram(values[kept].tolist(), counts[kept].tolist(), mean, variance)


def clipped(of: Histogram, low: float, high: float) -> Histogram:
    """Histogram of the same pixels, of which none is below `low` or above `high`.

    Raises
    ------
    ValueError
        If that leaves one grey value.
    """
    values, index = np.unique(np.clip(of.values, low, high), return_inverse=True)
    counts = np.bincount(index, weights=of.counts).astype(np.int64)
    if len(values) == 1:
        raise ValueError(
            f"intensity.clip must leave grey values apart: got {low:g} to {high:g} for values from "
            f"{of.values[0]:g} to {of.values[-1]:g}; widen it"
        )
    mean = float(np.average(values, weights=counts))
    variance = float(np.average((values - mean) ** 2, weights=counts))
    return Histogram(values.tolist(), counts.tolist(), mean, variance)


def stored_normalisation(facts: Mapping[str, Any]) -> Normalisation:
    """Return the normalisation of the training images, as `model.json` tells it."""
    clip = facts.get("clip")
    return Normalisation(tuple(facts["offset"]), tuple(facts["scale"]), clip and tuple(clip))


def read_histograms(path: Path, of: str = "channels") -> list[Histogram]:
    """Return the histograms, one per channel, of an image's intensity JSON, or of its target."""
    return [Histogram(**channel) for channel in read_json(path)[of]]


def write_histograms(
    place: Path | str, output: Path, choice: Mapping[str, str] | None = None
) -> None:
    """Write the histograms, one per channel, of an image or a volume larger than memory.

    Those of an image's true values, where it has some, stand beside them as `target`.

    Parameters
    ----------
    choice : mapping, optional
        Scene, time, channel and level of the volume.
    """
    image = open_volume(place, **(choice or {}))
    channels = [varied(channel, image.name) for channel in counted(image)]
    facts: dict[str, Any] = {"image": image.name}
    facts["channels"] = [channel.to_json() for channel in channels]
    target = None if choice else image.target()
    if target is not None:
        facts["target"] = [channel.to_json() for channel in counted(target)]
    write_json(output, facts)


def counted(image: Image) -> list[Histogram]:
    """Histograms of the channels of an image, which may be larger than memory."""
    parts = (
        [count(channel, image.name) for channel in image.region(slab)]
        for slab in slabs(image.spatial_shape)
    )
    return reduce(lambda *pair: [merge(of) for of in zip(*pair, strict=True)], parts)


def slabs(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Regions of bounded size that cover a volume once."""
    beside = math.prod(shape[1:])
    if beside <= SLAB or len(shape) == 1:
        step = max(SLAB // beside, 1)
        rest = tuple(slice(0, extent) for extent in shape[1:])
        yield from ((slice(i, min(i + step, shape[0])), *rest) for i in range(0, shape[0], step))
    else:
        for i in range(shape[0]):
            yield from ((slice(i, i + 1), *rest) for rest in slabs(shape[1:]))


def normalisations(
    histograms: Mapping[str, Path], training: Sequence[str], settings: IntensitySettings
) -> tuple[Normalisation, dict[str, Normalisation]]:
    """Normalisation of the training set, and the one that each image gets.

    Parameters
    ----------
    histograms : mapping of image name to its intensity JSON
    training : sequence of str
        The images whose merged histograms are the training set's.
    """
    each = {name: read_histograms(path) for name, path in histograms.items()}
    merged = [merge(channels) for channels in zip(*(each[name] for name in training), strict=True)]
    pooled = normalisation(merged, settings)
    if settings.source == "training":
        return pooled, dict.fromkeys(each, pooled)
    return pooled, {name: normalisation(channels, settings) for name, channels in each.items()}


def levels(channels: Sequence[Histogram], normalise: Normalisation) -> list[list[float]]:
    """PERCENTILES of each channel of an image, as the network sees them."""
    maps = zip(channels, normalise.offset, normalise.scale, strict=True)
    low, high = normalise.clip or (-math.inf, math.inf)
    return [
        [(min(max(percentile(of, percent), low), high) - offset) / scale for percent in PERCENTILES]
        for of, offset, scale in maps
    ]


def range_of_levels(
    histograms: Mapping[str, Path], each: Mapping[str, Normalisation]
) -> list[list[list[float]]]:
    """Least and greatest `levels` of several images.

    Parameters
    ----------
    histograms : mapping of image name to its intensity JSON
    each : mapping of the images to be counted to their normalisation

    Returns
    -------
    list (channels, percentiles, 2)
    """
    found = np.array([levels(read_histograms(histograms[name]), of) for name, of in each.items()])
    result: list[list[list[float]]] = np.stack([found.min(axis=0), found.max(axis=0)], -1).tolist()
    return result
