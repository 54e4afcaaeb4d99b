"""Coarser levels of an OME-Zarr image, each the mean of the one before, shard by shard.

References
----------
.. [1] OME-NGFF 0.5, multiscale images, https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from skimage.measure import block_reduce

from unetflow import axes as axis_rules
from unetflow.store import create_array, remove, shard_regions

Levels = dict[str, dict[str, int]]
"""Path of each level, finest first, to the voxels of the first that one of its own stands for."""


def add_levels(
    folder: Path, first: str, axes: str, voxel_size_um: Mapping[str, float], mean: bool
) -> Levels:
    """Write the coarser levels of an image beside its first, until a plane is one chunk.

    Parameters
    ----------
    first : str
        Name of the first level in the folder; the others are `first-1`, `first-2`, ...
    mean : bool
        Of the voxels below; else the first of them, as for class maps.
    """
    levels: Levels = {first: {}}
    source, factors = zarr.open_array(folder / first, mode="r"), dict.fromkeys(axes, 1)
    while any(
        extent > chunk for extent, chunk in zip(source.shape[-2:], source.chunks[-2:], strict=True)
    ):
        steps = halved(axes, source.shape, factors, voxel_size_um)
        factors = {axis: factors[axis] * step for axis, step in zip(axes, steps, strict=True)}
        shape = tuple(-(-extent // step) for extent, step in zip(source.shape, steps, strict=True))
        level = f"{first}-{len(levels)}"
        shards = source.shards or source.chunks
        remove(folder / level)  # of a run before
        target = create_array(folder / level, axes, shape, source.dtype, source.chunks, shards)
        for region in shard_regions(target, len(axis_rules.spatial(axes))):
            channels = (slice(0, extent) for extent in shape[: len(shape) - len(region)])
            index = (*channels, *region)
            target[index] = reduced(source, index, steps, mean)
        levels[level], source = factors, target
    return levels


def halved(
    axes: str,
    shape: tuple[int, ...],
    factors: Mapping[str, int],
    voxel_size_um: Mapping[str, float],
) -> tuple[int, ...]:
    """Step along each axis: 2 in the plane, and along z once planes are no further apart."""
    known = "z" in voxel_size_um and "y" in voxel_size_um
    deep = known and (voxel_size_um["z"] * factors["z"] < 1.5 * voxel_size_um["y"] * factors["y"])
    halve = {"y": True, "x": True, "z": deep}
    return tuple(
        2 if halve.get(axis, False) and extent > 1 else 1
        for axis, extent in zip(axes, shape, strict=True)
    )


def reduced(
    source: zarr.Array[Any], index: tuple[slice, ...], steps: tuple[int, ...], mean: bool
) -> NDArray[Any]:
    """Return a region of the coarser level; as many planes as chunks have are read at once."""
    result = np.empty([part.stop - part.start for part in index], source.dtype)
    depths = [max(1, chunk // step) for chunk, step in zip(source.chunks, steps, strict=True)]
    parts = [
        [slice(at, min(at + depth, extent)) for at in range(0, extent, depth)]
        for extent, depth in zip(result.shape[:-2], depths, strict=False)
    ]
    plane = tuple(slice(0, extent) for extent in result.shape[-2:])
    for place in itertools.product(*parts):
        here = (*place, *plane)
        below = tuple(
            slice((of.start + at.start) * step, min((of.start + at.stop) * step, extent))
            for of, at, step, extent in zip(index, here, steps, source.shape, strict=True)
        )
        result[here] = coarser(np.asarray(source[below]), steps, mean)
    return result


def coarser(pixels: NDArray[Any], steps: tuple[int, ...], mean: bool) -> NDArray[Any]:
    """Mean over boxes of voxels, whole numbers rounded, or the first of each box."""
    if not mean:
        return pixels[tuple(slice(None, None, step) for step in steps)]
    short = [(0, -extent % step) for extent, step in zip(pixels.shape, steps, strict=True)]
    padded = np.pad(pixels, short, mode="edge")  # at the end of an odd axis
    found = block_reduce(padded, steps, np.mean, func_kwargs={"dtype": np.float32})
    return np.rint(found) if pixels.dtype.kind in "iu" else np.asarray(found)
