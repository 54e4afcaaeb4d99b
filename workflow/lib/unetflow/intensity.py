"""Histograms of grey values, their merging, and the normalisation that they define."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetflow.settings import IntensitySettings
from unetflow.store import open_image, read_json, write_json

BINS = 65536


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
    data = channel.astype(np.float64).ravel()
    if not np.isfinite(data).all():
        bad = int(np.count_nonzero(~np.isfinite(data)))
        raise ValueError(
            f"{name}: grey values must be finite: got {bad} NaN or infinite; "
            "repair the image or remove it from the dataset"
        )
    values, counts = np.unique(data, return_counts=True)
    if len(values) == 1:
        raise ValueError(
            f"{name}: an image must have at least two grey values: all are {values[0]:g}; "
            "remove it from the dataset"
        )
    if len(values) > BINS:
        counts, edges = np.histogram(data, BINS)
        values = (edges[:-1] + edges[1:]) / 2
        values, counts = values[counts > 0], counts[counts > 0]
    return Histogram(values.tolist(), counts.tolist(), float(data.mean()), float(data.var()))


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """Histogram of the pixels of all of them together."""
    parts = list(histograms)
    pixels = np.array([sum(part.counts) for part in parts], dtype=np.float64)
    means = np.array([part.mean for part in parts])
    mean = float(np.average(means, weights=pixels))
    # Law of total variance: within the images plus between them.
    spread = np.array([part.variance for part in parts]) + (means - mean) ** 2
    values, index = np.unique(np.concatenate([part.values for part in parts]), return_inverse=True)
    counts = np.bincount(index, weights=np.concatenate([part.counts for part in parts]))
    return Histogram(
        values.tolist(),
        counts.astype(np.int64).tolist(),
        mean,
        float(np.average(spread, weights=pixels)),
    )


def percentile(of: Histogram, percent: float) -> float:
    """Grey value below or at which `percent` of the pixels lie."""
    cumulative = np.cumsum(of.counts)
    position = np.searchsorted(cumulative, percent / 100 * cumulative[-1])
    return of.values[min(int(position), len(of.values) - 1)]


@dataclass(frozen=True)
class Normalisation:
    """The linear map `(grey - offset) / scale`, one pair per channel."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def apply(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the normalised image; the channel is the first axis."""
        tail = (1,) * (image.ndim - 1)
        offset = np.array(self.offset, np.float32).reshape(-1, *tail)
        scale = np.array(self.scale, np.float32).reshape(-1, *tail)
        return (image.astype(np.float32) - offset) / scale


def normalisation(channels: Iterable[Histogram], settings: IntensitySettings) -> Normalisation:
    """Return the map that the settings ask for, from one histogram per channel.

    Where both percentiles are the same value (a nearly empty image) the standard deviation takes
    the place of their distance, so that the scale is never 0.
    """
    offsets, scales = [], []
    for of in channels:
        deviation = of.variance**0.5
        if settings.normalise == "zscore":
            offset, scale = of.mean, deviation
        else:
            offset = percentile(of, settings.low_percentile)
            scale = percentile(of, settings.high_percentile) - offset
        offsets.append(offset)
        scales.append(scale or deviation)
    return Normalisation(tuple(offsets), tuple(scales))


def read_histograms(path: Path) -> list[Histogram]:
    """Return the histograms, one per channel, of an image's intensity JSON."""
    return [Histogram(**channel) for channel in read_json(path)["channels"]]


def write_histograms(image_path: Path, output: Path) -> None:
    """Write the histograms, one per channel, of an OME-Zarr image."""
    image = open_image(image_path)
    pixels = image.region(tuple(slice(0, extent) for extent in image.spatial_shape))
    channels = [histogram(channel, image_path.name).to_json() for channel in pixels]
    write_json(output, {"image": image_path.name, "channels": channels})


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
