"""Instances of a volume larger than memory: blocks labelled apart, and joined where they meet.

A block is divided into instances with a margin around it, of which only its own voxels, its core,
are kept. Beside them it writes what it sees in two planes at each seam: the last of the block in
front and the first of the one behind. There both blocks have labelled the same voxels, and two
instances are one where they overlap enough. Connected components are one wherever they overlap at
all, so that they equal those of the whole volume for every division into blocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unetflow.metrics.contingency import contingency, marginal

Index = tuple[int, ...]
Region = tuple[slice, ...]
Divide = Callable[[Region], NDArray[np.integer]]
"""Instances of a region of the volume, 0 = background."""

Objects = Mapping[str, NDArray[np.int64]]
"""What `measure` tells of instances."""

SEAM = 2
"""Planes that both blocks at a seam label: the last of one and the first of the other."""

LAST = int(np.iinfo(np.int64).max)
NONE = np.zeros(0, np.int64)
COMBINED: Mapping[str, tuple[Any, int]] = {
    "first": (np.minimum, LAST),
    "size": (np.add, 0),
    "sum": (np.add, 0),
    "start": (np.minimum, LAST),
    "stop": (np.maximum, 0),
}
"""How what `measure` tells of the parts of an instance becomes that of the whole."""


@dataclass(frozen=True)
class Grid:
    """Division of a volume into blocks.

    Attributes
    ----------
    shape, block : tuple of int
        Extents of the volume, and of all blocks but the last along each axis.
    margin : tuple of int
        Voxels that a block sees around it along each axis; 0 where instances do not cross, else at
        least 1.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    margin: tuple[int, ...]

    @property
    def blocks(self) -> list[Index]:
        """Places of the blocks, the last axis fastest."""
        counts = (range(-(-n // step)) for n, step in zip(self.shape, self.block, strict=True))
        return list(itertools.product(*counts))

    def core(self, index: Index) -> Region:
        """Voxels that are a block's own."""
        return tuple(
            slice(i * step, min((i + 1) * step, extent))
            for i, step, extent in zip(index, self.block, self.shape, strict=True)
        )

    def grown(self, index: Index) -> Region:
        """Voxels that a block sees."""
        return tuple(
            slice(max(core.start - margin, 0), min(core.stop + margin, extent))
            for core, margin, extent in zip(self.core(index), self.margin, self.shape, strict=True)
        )

    def seams(self) -> Iterator[tuple[int, Index, Index]]:
        """Axis and blocks, in front and behind, of every seam that instances may cross."""
        for index, axis in itertools.product(self.blocks, range(len(self.shape))):
            behind = tuple(i + (at == axis) for at, i in enumerate(index))
            if self.margin[axis] and behind[axis] * self.block[axis] < self.shape[axis]:
                yield axis, index, behind


def shard_blocks(
    shape: Sequence[int], shards: Sequence[int], most_voxels: float
) -> tuple[int, ...]:
    """Extents of blocks of whole shards, as near to cubes as they come, of at most so many voxels.

    A block of one shard is taken however large that is.
    """
    block = list(shards)
    while True:
        short = [axis for axis, extent in enumerate(shape) if block[axis] < extent]
        if not short or 2 * math.prod(map(min, block, shape)) > most_voxels:
            return tuple(block)
        block[min(short, key=lambda axis: block[axis])] *= 2


def label_block(
    grid: Grid, index: Index, divide: Divide, labels: zarr.Array[Any], folder: Path
) -> None:
    """Write a block's instances, numbered from 1 within it, and what joining them takes.

    Parameters
    ----------
    divide : callable
        Called with the region that the block sees.
    labels : uint32 array of the volume's extents
    folder : Path
        Where `BLOCK.npz` goes: what `measure` tells of each instance, and per axis `front` and
        `behind`, the planes at the block's seams.
    """
    core, grown = grid.core(index), grid.grown(index)
    seen = divide(grown)
    own = tuple(
        slice(c.start - g.start, c.stop - g.start) for c, g in zip(core, grown, strict=True)
    )
    names = np.unique(seen[own])
    names = names[names > 0]
    # What lies in the margin alone is another block's.
    rank = np.zeros(int(seen.max(initial=0)) + 1, np.uint32)
    rank[names] = np.arange(1, len(names) + 1)
    seen = rank[seen]
    labels[core] = seen[own]
    facts = measure(seen[own], core, grid.shape, len(names))
    for axis, (place, extent) in enumerate(zip(core, grid.shape, strict=True)):
        for side, seam in (("front", place.start), ("behind", place.stop)):
            if grid.margin[axis] and 0 < seam < extent:
                start = seam - 1 - grown[axis].start
                planes = slice(start, start + SEAM)
                facts[f"{side}{axis}"] = seen[(*own[:axis], planes, *own[axis + 1 :])]
    np.savez_compressed(folder / f"{name_of(index)}.npz", **facts)  # type: ignore[arg-type]


def name_of(index: Index) -> str:
    """A block's place as it is written."""
    return "_".join(map(str, index))


def measure(
    labels: NDArray[np.uint32], core: Region, shape: Sequence[int], count: int
) -> dict[str, NDArray[Any]]:
    """Tell of the instances 1 to count of a block where they are in the volume.

    Returns
    -------
    dict
        int64 arrays: `first`, the place of the first voxel of each as one number, and `size`, its
        voxels, of shape (count,); `sum` of the places of its voxels, and its box from `start` to
        `stop`, of shape (count, axes).
    """
    lacking = 3 - labels.ndim
    starts = np.array([0] * lacking + [part.start for part in core], np.int64)
    whole = np.array([1] * lacking + [*shape], np.int64)
    first = np.full(count + 1, LAST)
    place = np.zeros((count + 1, 4), np.int64)  # voxels, and the sum of their places
    box = np.full((2, count + 1, 3), LAST)
    box[1] = 0
    _measure(labels.reshape((1,) * lacking + labels.shape), starts, whole, first, place, box)
    return {
        "first": first[1:],
        "size": place[1:, 0],
        "sum": place[1:, 1 + lacking :],
        "start": box[0, 1:, lacking:],
        "stop": box[1, 1:, lacking:],
    }


@numba.njit(cache=True, nogil=True)
def _measure(
    labels: NDArray[np.uint32],
    starts: NDArray[np.int64],
    shape: NDArray[np.int64],
    first: NDArray[np.int64],
    place: NDArray[np.int64],
    box: NDArray[np.int64],
) -> None:
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                name = labels[z, y, x]
                if name == 0:
                    continue
                here = (starts[0] + z, starts[1] + y, starts[2] + x)
                first[name] = min(first[name], (here[0] * shape[1] + here[1]) * shape[2] + here[2])
                place[name, 0] += 1
                for axis in range(3):
                    place[name, 1 + axis] += here[axis]
                    box[0, name, axis] = min(box[0, name, axis], here[axis])
                    box[1, name, axis] = max(box[1, name, axis], here[axis] + 1)


@dataclass(frozen=True, eq=False)
class Joined:
    """What the instances of all blocks are in the whole volume.

    Attributes
    ----------
    ids : mapping
        Of each block, uint32 or uint64 array of shape (its instances + 1,): the id of each in the
        volume; 0 of background, and of what is too small.
    objects : dict
        int64 arrays of the volume's instances as of `measure`, ids from 1 in the order of their
        first voxels.
    merges : DataFrame
        A row per pair that was joined: axis, block and label in front and behind, overlap (voxels
        of the seam's planes), iou.
    """

    ids: Mapping[Index, NDArray[np.unsignedinteger]]
    objects: Objects
    merges: pd.DataFrame


def join(grid: Grid, folder: Path, least_iou: float, minimum_size: int = 0) -> Joined:
    """Decide which instances of neighbouring blocks are one, and number those of the volume.

    Parameters
    ----------
    folder : Path
        Where `label_block` has written all blocks.
    least_iou : float
        In the planes of a seam, from which on two instances are one; 0: wherever they overlap.
    minimum_size : int
        Instances of fewer voxels are left out.
    """
    told = [written(folder, index, *COMBINED) for index in grid.blocks]
    counts = [len(facts["first"]) for facts in told]
    before = dict(zip(grid.blocks, np.cumsum([0, *counts]), strict=False))
    merges = found_merges(grid, folder, least_iou)
    offset = {name_of(index): start for index, start in before.items()}
    front, behind = (
        (merges[f"{side}_block"].map(offset) + merges[f"{side}_label"] - 1).to_numpy(np.int64)
        for side in ("front", "behind")
    )
    parts = {name: np.concatenate([facts[name] for facts in told]) for name in COMBINED}
    ids, objects = combined(parts, front, behind, minimum_size)
    of_block = {
        index: np.append(ids[:1], ids[start + 1 : start + 1 + count])
        for (index, start), count in zip(before.items(), counts, strict=True)
    }
    return Joined(of_block, objects, merges)


def combined(
    parts: Objects, one: NDArray[np.int64], other: NDArray[np.int64], minimum_size: int
) -> tuple[NDArray[np.unsignedinteger], Objects]:
    """Number the instances that consist of parts, of which pairs belong together.

    Parameters
    ----------
    one, other : int64 arrays of shape (pairs,)
        Parts, counted from 0.

    Returns
    -------
    ids : uint32 or uint64 array of shape (parts + 1,)
        Of background and of each part: 0, and the instance in the order of first voxels; 0 also
        where that has fewer voxels than `minimum_size`.
    objects : dict
        As `parts`, of the instances.
    """
    total = len(parts["first"])
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(total, total))
    number, instance = connected_components(graph, directed=False) if total else (0, NONE)
    objects = {}
    for name, (combine, empty) in COMBINED.items():
        objects[name] = np.full((number, *parts[name].shape[1:]), empty, np.int64)
        combine.at(objects[name], instance, parts[name])
    order = np.argsort(objects["first"])
    order = order[objects["size"][order] >= minimum_size]
    numbers = np.zeros(number, np.uint32 if len(order) < 2**32 else np.uint64)
    numbers[order] = np.arange(1, len(order) + 1)
    ids = np.append(numbers.dtype.type(0), numbers[instance])
    return ids, {name: values[order] for name, values in objects.items()}


def written(folder: Path, index: Index, *names: str) -> dict[str, NDArray[Any]]:
    """Arrays of a block's file."""
    with np.load(folder / f"{name_of(index)}.npz") as facts:
        return {name: facts[name] for name in names}


def found_merges(grid: Grid, folder: Path, least_iou: float) -> pd.DataFrame:
    """Return the pairs of instances of neighbouring blocks that are one."""
    nothing = pairs(NONE, NONE, least_iou)
    tables = [nothing.assign(axis=NONE, front_block="", behind_block="")]
    for axis, front, behind in grid.seams():
        near, far = f"behind{axis}", f"front{axis}"  # the seam is behind the block in front
        seam = written(folder, front, near)[near], written(folder, behind, far)[far]
        blocks = {"front_block": name_of(front), "behind_block": name_of(behind)}
        tables.append(pairs(*seam, least_iou).assign(axis=axis, **blocks))
    return pd.concat(tables, ignore_index=True)


def pairs(
    front: NDArray[np.integer], behind: NDArray[np.integer], least_iou: float
) -> pd.DataFrame:
    """Instances of two blocks that are one by what both see at their seam."""
    table = contingency(front, behind)
    _, front_size, row = marginal(table.truth_label, table.count)
    _, behind_size, column = marginal(table.prediction_label, table.count)
    iou = table.count / (front_size[row] + behind_size[column] - table.count)
    chosen = (table.truth_label > 0) & (table.prediction_label > 0) & (iou >= least_iou)
    return pd.DataFrame(
        {
            "front_label": table.truth_label[chosen].astype(np.int64),
            "behind_label": table.prediction_label[chosen].astype(np.int64),
            "overlap": table.count[chosen],
            "iou": iou[chosen],
        }
    )


def link_planes(
    instances: zarr.Array[Any], grid: Grid, objects: Objects, least_iou: float, minimum_size: int
) -> tuple[NDArray[np.unsignedinteger], Objects]:
    """Decide which instances of neighbouring planes are one: those that overlap each other most.

    Parameters
    ----------
    instances : integer array (planes, rows, columns)
        Each instance in one plane, numbered from 1.
    objects : dict
        Of these instances.
    least_iou : float
        Intersection over union of an instance and one of the next plane, from which on they are
        one if neither overlaps another more.

    Returns
    -------
    tuple
        See `combined`.
    """
    tables = []
    for index in grid.blocks:
        planes, *plane = grid.core(index)
        seen = np.asarray(instances[planes.start : planes.stop + 1, *plane])
        table = contingency(seen[:-1], seen[1:])
        columns = {"one": table.truth_label, "other": table.prediction_label}
        tables.append(pd.DataFrame({**columns, "overlap": table.count}))
    # Blocks in one plane see parts of an overlap.
    found = pd.concat(tables).astype(np.int64).groupby(["one", "other"], as_index=False).sum()
    found = found[(found["one"] > 0) & (found["other"] > 0)]
    one, other = found["one"].to_numpy() - 1, found["other"].to_numpy() - 1
    size = objects["size"]
    found["iou"] = found["overlap"] / (size[one] + size[other] - found["overlap"])
    best = found["iou"] >= least_iou
    for side in ("one", "other"):
        best &= found["iou"] == found.groupby(side)["iou"].transform("max")
    return combined(objects, one[best], other[best], minimum_size)
