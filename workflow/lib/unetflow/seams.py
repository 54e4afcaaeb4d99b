"""What a volume's division into blocks has done to its instances, by the distance from a seam.

Where blocks are joined well, a place beside a seam is like any other: as many instances have their
centre there, and no more of them end there. Instances that were cut show as two of them that both
end at the seam, and as a density that is too high around it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unetflow.joining import Objects
from unetflow.labelling import Grid

FARTHEST = 64
"""Voxels from a seam, from which on distances are not told apart."""


def seam_evidence(grid: Grid, objects: Objects) -> pd.DataFrame:
    """Count the instances of a volume by their distance from the nearest seam of its blocks.

    Returns
    -------
    DataFrame
        A row per distance in voxels from 0, beside a seam, to `FARTHEST`, with all that is farther
        away; none for a volume without seams.
        voxels: places at this distance. centres: instances whose centre of mass is at one of them.
        planes: faces between voxels, along any axis with seams, at this distance from the nearest
        seam of that axis. ends: sides of the boxes of instances that lie in one of them; those at
        the volume's own border are left out.
    """
    seams = {axis: seams_of(grid, axis) for axis in range(len(grid.shape))}
    seams = {axis: places for axis, places in seams.items() if len(places)}
    columns = ("voxels", "centres", "planes", "ends")
    if not seams:
        return pd.DataFrame({name: np.zeros(0, np.int64) for name in ("distance", *columns)})
    counts = {name: np.zeros(FARTHEST + 1, np.int64) for name in columns}
    nearest = np.full(len(objects["size"]), FARTHEST, np.int64)
    beyond = np.full(FARTHEST + 1, 1.0)  # share of voxels farther than each distance
    for axis, places in seams.items():
        # Voxel i lies between the faces i and i + 1: the one before a seam is as near as the next.
        voxels = distance(np.arange(grid.shape[axis]) + 0.5, places)
        beyond *= 1 - np.cumsum(np.bincount(voxels, minlength=FARTHEST + 1)) / grid.shape[axis]
        centre = objects["sum"][:, axis] / objects["size"] + 0.5
        nearest = np.minimum(nearest, distance(centre, places))
        counts["planes"] += at(distance(np.arange(1, grid.shape[axis]), places))
        for side in ("start", "stop"):
            ends = objects[side][:, axis]
            ends = ends[(ends > 0) & (ends < grid.shape[axis])]
            counts["ends"] += at(distance(ends, places))
    within = -np.diff(beyond, prepend=1.0)
    counts["voxels"] = np.rint(within * np.prod(grid.shape, dtype=np.float64)).astype(np.int64)
    counts["centres"] = at(nearest)
    return pd.DataFrame({"distance": np.arange(FARTHEST + 1), **counts})


def seams_of(grid: Grid, axis: int) -> NDArray[np.int64]:
    """Faces between blocks that instances may cross along an axis: 7 is before voxel 7."""
    if not grid.margin[axis]:
        return np.zeros(0, np.int64)
    return np.arange(grid.block[axis], grid.shape[axis], grid.block[axis])


def distance(places: NDArray[np.number], seams: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole voxels from each place to the nearest seam, `FARTHEST` at most."""
    behind = np.searchsorted(seams, places)
    found = np.full(len(places), np.inf)
    for near in (behind - 1, behind):
        there = (near >= 0) & (near < len(seams))
        found[there] = np.minimum(found[there], np.abs(places[there] - seams[near[there]]))
    return np.asarray(np.minimum(found, FARTHEST), np.int64)


def at(distances: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many there are at each distance."""
    return np.bincount(distances, minlength=FARTHEST + 1)
