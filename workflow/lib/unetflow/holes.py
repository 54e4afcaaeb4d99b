"""Holes of objects, the same whatever the blocks in which an image is looked at.

A hole is a piece of background, connected through faces, that does not reach the border of the
image. A block sees a hole in part, so pieces of background are joined over all blocks as objects
are, which is exact, and takes no margin however large holes may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from unetflow.joining import Objects, join, renumber
from unetflow.labelling import Grid, Region, components, label_block, measure
from unetflow.progress import track


def small_holes(mask: NDArray[np.bool_], largest: int) -> NDArray[np.bool_]:
    """Return which pixels of a plane or volume are in holes of at most so many pixels."""
    pieces = components(~mask).astype(np.uint32)
    whole = tuple(slice(0, extent) for extent in mask.shape)
    found = measure(pieces, whole, mask.shape, int(pieces.max(initial=0)))
    return np.asarray(are_holes(found, mask.shape, range(mask.ndim), largest)[pieces])


def mark_holes(
    grid: Grid,
    mask: Callable[[Region], NDArray[np.bool_]],
    largest: int,
    folder: Path,
    labels: zarr.Array[Any],
    holes: zarr.Array[Any],
) -> None:
    """Write which voxels are in holes of at most so many voxels, block by block.

    Where instances do not cross an axis, as in a stack that is segmented plane by plane, holes are
    of one plane.

    Parameters
    ----------
    mask : callable
        Of a region, which voxels are objects'.
    folder, labels
        See `label_block`; what it writes there is overwritten by the next use.
    holes : bool array of the volume's extents
    """
    crossed = [axis for axis, margin in enumerate(grid.margin) if margin]
    near = replace(grid, margin=tuple(min(margin, 1) for margin in grid.margin))

    def background(region: Region) -> NDArray[np.integer]:
        return components(~mask(region), len(crossed))

    for index in track(near.blocks, "looking for holes", len(near.blocks)):
        label_block(near, index, background, labels, folder)
    pieces = join(near, dict.fromkeys(near.blocks, folder), 0)
    chosen = are_holes(pieces.objects, grid.shape, crossed, largest)
    renumber(near, lambda _: labels, lambda index: chosen[pieces.ids[index]], holes)


def are_holes(
    pieces: Objects, shape: Sequence[int], axes: Sequence[int], largest: int
) -> NDArray[np.bool_]:
    """Whether pieces of background are such holes, of shape (pieces + 1,); 0 is none."""
    inside = (pieces["start"] > 0) & (pieces["stop"] < np.array(shape))
    return np.append(False, inside[:, list(axes)].all(axis=1) & (pieces["size"] <= largest))
