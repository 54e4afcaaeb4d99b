"""A small picture of a volume: its middle plane with contours of instances, or beside values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import zarr
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from unetflow.progress import log, one_line
from unetflow.store import Image, open_image, remove, replacing
from unetflow.volumes import choice_of, open_volume, parse_region

SIDE = 160
"""Pixels of a picture along its longer side."""
MOST = 2048
"""Pixels along a side of what is read of a plane without coarser levels: the middle of a larger."""
COLOUR = (230, 130, 0)
"""Of what is predicted, as in the report."""

Box = Sequence[tuple[float, float]]
"""Start and stop along each spatial axis, as shares of its extent."""


def draw_thumbnail(row: Mapping[str, Any], found: Path, output: Path) -> None:
    """Write the middle plane of a volume, or of the region that its row names, as WebP.

    Of a segmentation it has the contours of its instances; of a regression it stands beside that of
    the values, of the first channel too. Nothing is written, and the log says why, where that
    fails: a picture is no result.

    Parameters
    ----------
    row : mapping
        The volume's row of the sheet. Of channels the first that it chooses is shown.
    found : Path
        Segmentation, or values, as OME-Zarr, of the same volume or of one with other voxels.
    """
    remove(output)
    try:
        image = open_image(found)
        wanted = box_of(row, image)
        volume = coarse_volume(row, wanted)
        sides = zip(volume.spatial_shape[-2:], wanted[-2:], strict=True)
        box = [*wanted[:-2], *(middle(*side) for side in sides)]
        grey, of_result = plane(volume, box), coarse_plane(image, box)
        if "c" in image.axes:
            beside = grey_picture(grey)
            pixels = np.hstack([beside, grey_picture(of_result, beside.shape[:2])])
        else:
            pixels = drawn(grey, of_result)
        with replacing(output) as partial:
            PIL.Image.fromarray(pixels).save(partial, format="webp", quality=80, method=4)
    except Exception as error:  # decoders raise whatever they like
        log(f"no thumbnail: {one_line(error)}")


def box_of(row: Mapping[str, Any], image: Image) -> Box:
    """Part of an image that is predicted."""
    whole = tuple(slice(0, extent) for extent in image.spatial_shape)
    parts = parse_region(row.get("region", ""), image) or whole
    shares = zip(parts, image.spatial_shape, strict=True)
    return [(part.start / extent, part.stop / extent) for part, extent in shares]


def coarse_volume(row: Mapping[str, Any], box: Box) -> Image:
    """Open the coarsest level of a volume that is no smaller than a picture."""
    choice = choice_of(row)
    volume = open_volume(row["path"], **choice)
    with suppress(ValueError):  # there is no coarser level, or none that can be named
        while True:
            choice["level"] = str(int(choice["level"] or 0) + 1)
            coarser = open_volume(row["path"], **choice)
            if longest(coarser.spatial_shape, box) < SIDE:
                break
            volume = coarser
    return volume


def longest(shape: Sequence[int], box: Box) -> float:
    """Pixels of a box along the longer side of its planes."""
    sides = zip(shape[-2:], box[-2:], strict=True)
    return max(extent * (stop - start) for extent, (start, stop) in sides)


def middle(extent: int, part: tuple[float, float]) -> tuple[float, float]:
    """Middle of a part of an axis, no longer than what is read."""
    centre, half = sum(part) / 2, min((part[1] - part[0]) / 2, MOST / 2 / extent)
    return centre - half, centre + half


def index_in(shape: Sequence[int], box: Box) -> tuple[int | slice, ...]:
    """Index of a box's middle plane in an array of a spatial shape."""
    planes = (
        min(int(extent * sum(part) / 2), extent - 1)
        for extent, part in zip(shape[:-2], box[:-2], strict=True)
    )
    sides = (
        slice(int(extent * start), max(round(extent * stop), int(extent * start) + 1))
        for extent, (start, stop) in zip(shape[-2:], box[-2:], strict=True)
    )
    return (*planes, *sides)


def plane(volume: Image, box: Box) -> NDArray[Any]:
    """Middle plane (rows, columns) of a box in a volume, of its first channel."""
    lead = (0,) if "c" in volume.axes else ()
    return np.asarray(volume.array[(*lead, *index_in(volume.spatial_shape, box))])


def coarse_plane(image: Image, box: Box) -> NDArray[Any]:
    """Middle plane of a box in the coarsest level of our own image that suits a picture."""
    group: Any = zarr.open_group(image.path, mode="r")
    levels = [group[it["path"]] for it in group.attrs["ome"]["multiscales"][0]["datasets"]]
    fine = [level for level in levels if longest(level.shape, box) >= SIDE]
    return plane(replace(image, array=(fine or levels[:1])[-1]), box)


def grey_picture(pixels: NDArray[Any], shape: tuple[int, ...] | None = None) -> NDArray[np.uint8]:
    """Picture (rows, columns, RGB) of a plane, of `shape` if that is given.

    0.5 % of the pixels are left black, 0.5 % white.
    """
    shrink = max(max(pixels.shape) / SIDE, 1)
    rows, columns = shape or (max(1, round(extent / shrink)) for extent in pixels.shape)
    # A mean over each pixel's area.
    size, way = (columns, rows), PIL.Image.Resampling.BOX
    grey = np.asarray(PIL.Image.fromarray(pixels.astype(np.float32)).resize(size, way))
    low, high = np.percentile(grey, (0.5, 99.5))
    scaled = np.clip((grey - low) / max(float(high - low), 1e-12), 0, 1)
    return np.repeat(np.rint(255 * scaled).astype(np.uint8)[..., np.newaxis], 3, axis=-1)


def drawn(pixels: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Picture (rows, columns, RGB) of a plane with the contours of labels of the same extents."""
    picture = grey_picture(pixels)
    at = [
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(picture.shape[:2], labels.shape, strict=True)
    ]
    picture[find_boundaries(labels[np.ix_(*at)], mode="inner", connectivity=1)] = COLOUR
    return picture
