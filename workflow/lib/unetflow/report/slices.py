"""Planes of a volume with its prediction and its instances, for the page's slice viewer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from unetflow.predicted import foreground, holds_values
from unetflow.report import figures
from unetflow.report.sources import WINDOW
from unetflow.store import Image, open_image
from unetflow.volumes import may_be_zarr, open_volume

# Of 24 planes of 384 x 384 the picture takes 1.6 MB of the page, prediction and instances 0.7 MB.
PLANES = 24
SIDE = 384

# Of Okabe and Ito's palette, told apart by all kinds of colour vision.
COLOURS = np.array(
    [
        *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
        *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
    ],
    np.uint8,
)
LIKELY = (255, 64, 129)
ALPHAS = 8  # steps of opacity: few values compress well
FILL = 80

Span = tuple[float, float]
Reader = Callable[[tuple[int | slice, ...]], NDArray[Any]]


@dataclass(frozen=True)
class Frame:
    """What of a volume is shown, in shares of its extents, so that levels of any size fit.

    Attributes
    ----------
    planes : tuple of int
        Shown ones, evenly spread, the first and the last among them.
    depth : int
        Planes that there are.
    rows, columns : (float, float)
        Part of each plane, from 0 to 1.
    shape : (int, int)
        Rows and columns of the picture of a plane.
    """

    planes: tuple[int, ...]
    depth: int
    rows: Span
    columns: Span
    shape: tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """One picture that holds all planes, one below the other."""

    name: str
    picture: str


@dataclass(frozen=True)
class Stack:
    """The layers of a volume, its grey values first, and how they came about."""

    name: str
    frame: Frame
    extents: tuple[int, ...]
    layers: tuple[Layer, ...]

    @property
    def whole(self) -> bool:
        """Whether planes are shown whole, not only their middle."""
        return self.frame.rows == self.frame.columns == (0.0, 1.0)


def stack(
    name: str,
    place: Path | str,
    choice: Mapping[str, str],
    prediction: Path,
    labels: Path,
    truth: Path | None = None,
) -> Stack:
    """Return planes of a volume with what was found in it.

    Each layer is read at the level of its own pyramid that is just large enough. Of a volume
    without a pyramid whose planes are large, the middle of them is shown.

    Parameters
    ----------
    place, choice
        Of the volume, see `volumes.open_volume`.
    prediction, labels, truth : Path
        OME-Zarr images that may be missing. Of values the first channel is shown.
    """
    volumes = list(volume_levels(str(place), choice))
    frame = frame_of(volumes[0].spatial_shape, volumes[-1].spatial_shape)
    volume = fitting(volumes, frame)
    lead = (0,) * (len(volume.array.shape) - len(volume.spatial_shape))
    grey = cut(lambda index: volume.array[(*lead, *index)], volume, frame, binned)
    layers = [Layer("image", figures.data_uri(figures.grey(grey)))]
    if prediction.exists() and holds_values(open_image(prediction)):
        values = fitting(stored_levels(prediction), frame)
        shown = cut(lambda index: values.array[(0, *index)], values, frame, binned)
        layers.append(Layer("values", figures.data_uri(figures.grey(shown))))
    elif prediction.exists():
        predicted = fitting(stored_levels(prediction), frame)
        likely = cut(lambda index: foreground(predicted, index), predicted, frame, binned)
        layers.append(Layer("prediction", figures.data_uri(veil(likely), exact=True)))
    for layer, path in (("truth", truth), ("instances", labels)):
        if path is not None and path.exists():
            layers.append(Layer(layer, label_overlay(stored_levels(path), frame)))
    return Stack(name, frame, volumes[0].spatial_shape, tuple(layers))


def label_overlay(levels: Sequence[Image], frame: Frame) -> str:
    """Picture of the instances of an image, given all of its levels."""
    level = fitting(levels, frame)
    instances = cut(lambda index: level.array[index], level, frame, sampled)
    return figures.data_uri(coloured(instances, frame), exact=True)


def volume_levels(place: str, choice: Mapping[str, str]) -> Iterator[Image]:
    """Yield a volume at the level that was chosen and at the coarser ones that it has."""
    yield open_volume(place, **choice)
    if not may_be_zarr(place):
        return
    for level in itertools.count(int(choice.get("level") or 0) + 1):
        try:
            yield open_volume(place, **{**choice, "level": str(level)})
        except ValueError:  # there are no more
            return


def stored_levels(path: Path) -> list[Image]:
    """Return an image of our own at all of its levels, finest first."""
    image = open_image(path)
    ome: Any = zarr.open_group(path, mode="r").attrs["ome"]
    levels = (level["path"] for level in ome["multiscales"][0]["datasets"])
    return [replace(image, array=zarr.open_array(path / level, mode="r")) for level in levels]


def frame_of(extents: Sequence[int], coarsest: Sequence[int]) -> Frame:
    """Return what to show of a volume, given the extents of its finest and its coarsest level.

    A picture has a whole number, a power of 2, of the volume's pixels to one of its own, as the
    levels of pyramids have.
    """
    depth = extents[0] if len(extents) == 3 else 1
    planes = np.linspace(0, depth - 1, min(depth, PLANES)).round().astype(int)
    shares = [min(1.0, WINDOW / extent) for extent in coarsest[-2:]]
    rows, columns = ((0.5 - share / 2, 0.5 + share / 2) for share in shares)
    shown = [extent * share for extent, share in zip(extents[-2:], shares, strict=True)]
    by = 2 ** max(0, math.ceil(math.log2(max(shown) / SIDE)))
    high, wide = (math.ceil(extent / by) for extent in shown)
    return Frame(tuple(planes.tolist()), depth, rows, columns, (high, wide))


def fitting(levels: Sequence[Image], frame: Frame) -> Image:
    """Return the coarsest level that is no smaller than the picture, else the finest."""
    spans = (frame.rows[1] - frame.rows[0], frame.columns[1] - frame.columns[0])
    fine = [
        level
        for level in levels
        if all(
            extent * span >= size
            for extent, span, size in zip(level.spatial_shape[-2:], spans, frame.shape, strict=True)
        )
    ]
    return fine[-1] if fine else levels[0]


def cut(
    read: Reader,
    level: Image,
    frame: Frame,
    fit: Callable[[NDArray[Any], tuple[int, int]], NDArray[Any]],
) -> NDArray[Any]:
    """Planes of the frame, one below the other: (planes * rows, columns)."""
    extents = level.spatial_shape
    rows, columns = (
        slice(math.floor(start * extent), math.ceil(stop * extent))
        for (start, stop), extent in zip((frame.rows, frame.columns), extents[-2:], strict=True)
    )
    found = []
    for plane in frame.planes:
        at = (int((plane + 0.5) / frame.depth * extents[0]),) if len(extents) == 3 else ()
        found.append(fit(np.asarray(read((*at, rows, columns))), frame.shape))
    return np.concatenate(found)


def binned(plane: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Mean of the pixels that fall into each pixel of a picture of this shape."""
    values = plane.astype(np.float32)
    for axis, size in enumerate(shape):
        starts = np.arange(size) * values.shape[axis] // size
        counts = np.maximum(np.diff(np.append(starts, values.shape[axis])), 1)
        sums = np.add.reduceat(values, starts, axis=axis)
        values = (sums / (counts[:, None] if axis == 0 else counts)).astype(np.float32)
    return values


def sampled(plane: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Pixel in the middle of those that fall into each pixel of a picture of this shape."""
    rows, columns = (
        (2 * np.arange(size) + 1) * extent // (2 * size)
        for size, extent in zip(shape, plane.shape, strict=True)
    )
    return plane[np.ix_(rows, columns)]


def veil(likely: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Overlay of one colour, as opaque as a probability is high."""
    overlay = np.zeros((*likely.shape, 4), np.uint8)
    steps = np.rint((ALPHAS - 1) * np.clip(np.nan_to_num(likely), 0, 1))
    overlay[steps > 0, :3] = LIKELY
    overlay[..., 3] = np.rint(190 / (ALPHAS - 1) * steps)
    return overlay


def coloured(labels: NDArray[Any], frame: Frame) -> NDArray[np.uint8]:
    """Overlay of instances, each in one of some colours, with its border opaque."""
    # Ids that follow each other are neighbours; primes keep their colours apart.
    colours = COLOURS[(labels.astype(np.uint64) * 5 % 97 % len(COLOURS)).astype(np.intp)]
    overlay = np.concatenate([colours, np.full((*labels.shape, 1), FILL, np.uint8)], axis=-1)
    planes = labels.reshape(-1, *frame.shape)
    borders = [find_boundaries(plane, mode="inner", connectivity=1) for plane in planes]
    overlay[np.concatenate(borders), 3] = 255
    overlay[labels == 0] = 0
    return overlay
