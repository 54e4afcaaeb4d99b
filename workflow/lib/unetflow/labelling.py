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

import cc3d
import numba
import numpy as np
import zarr
from numpy.typing import NDArray

Index = tuple[int, ...]
Region = tuple[slice, ...]
Divide = Callable[[Region], NDArray[np.integer]]
"""Instances of a region of the volume, 0 = background."""

SEAM = 2
"""Planes that both blocks at a seam label: the last of one and the first of the other."""

LAST = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Values:
    """What is summed over each instance.

    Attributes
    ----------
    names : tuple of str
    read : callable
        Called with a region, gives an array of its extents for each name.
    """

    names: tuple[str, ...]
    read: Callable[[Region], Sequence[NDArray[Any]]]


NO_VALUES = Values((), lambda _: ())


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


def components(mask: NDArray[np.bool_], axes: int = 3) -> NDArray[np.unsignedinteger]:
    """Pieces of a mask that are connected through faces.

    Parameters
    ----------
    axes : int
        2 for a stack whose planes do not connect.
    """
    if mask.ndim <= axes:
        return np.asarray(cc3d.connected_components(mask, connectivity=4 if mask.ndim == 2 else 6))
    # One below the other, a row apart, planes are a plane.
    apart = np.pad(mask, ((0, 0), (0, 1), (0, 0)))
    return components(apart.reshape(-1, mask.shape[-1])).reshape(apart.shape)[:, :-1]


def label_block(
    grid: Grid,
    index: Index,
    divide: Divide,
    labels: zarr.Array[Any],
    folder: Path,
    values: Values = NO_VALUES,
) -> None:
    """Write a block's instances, numbered from 1 within it, and what joining them takes.

    Parameters
    ----------
    divide : callable
        Called with the region that the block sees.
    labels : uint32 array of the volume's extents
    folder : Path
        Where `BLOCK.npz` goes: what `measure` tells of each instance, the sums of `values`, and
        per axis `front` and `behind`, the planes at the block's seams.
    values : Values
        Each voxel is read once, in the box of all instances of the block alone.
    """
    core, grown = grid.core(index), grid.grown(index)
    seen = divide(grown)
    own = tuple(
        slice(c.start - g.start, c.stop - g.start) for c, g in zip(core, grown, strict=True)
    )
    facts = measure(seen[own], core, grid.shape, int(seen.max(initial=0)))
    used = facts["size"] > 0
    if not used.all():  # what lies in the margin alone is another block's
        seen = relabelled(seen, np.append(np.uint32(0), np.cumsum(used, dtype=np.uint32) * used))
        facts = {name: told[used] for name, told in facts.items()}
    labels[core] = seen[own]
    facts |= sums(seen[own], core, facts, values)
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
    labels: NDArray[np.integer], core: Region, shape: Sequence[int], count: int
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


def sums(
    labels: NDArray[np.integer], core: Region, facts: Mapping[str, NDArray[Any]], values: Values
) -> dict[str, NDArray[Any]]:
    """Sums, float64 of shape (count,), over the voxels of each instance of a block."""
    count = len(facts["size"])
    if count == 0 or not values.names:
        return {name: np.zeros(0) for name in values.names}
    starts, stops = facts["start"].min(axis=0), facts["stop"].max(axis=0)
    box = tuple(map(slice, starts.tolist(), stops.tolist()))
    inside = tuple(
        slice(part.start - own.start, part.stop - own.start)
        for part, own in zip(box, core, strict=True)
    )
    flat = labels[inside].ravel()
    return {
        name: np.bincount(flat, weights=read.ravel(), minlength=count + 1)[1:]
        for name, read in zip(values.names, values.read(box), strict=True)
    }


def relabelled(labels: NDArray[np.integer], ids: NDArray[Any]) -> NDArray[Any]:
    """Return `ids[labels]`, quickly where most labels are 0, whose id must be 0."""
    result = np.zeros(labels.size, ids.dtype)
    _relabel(labels.ravel(), ids, result)
    return result.reshape(labels.shape)


@numba.njit(cache=True, nogil=True)
def _relabel(labels: NDArray[np.integer], ids: NDArray[Any], result: NDArray[Any]) -> None:
    for place in range(labels.size):
        if labels[place] != 0:
            result[place] = ids[labels[place]]


@numba.njit(cache=True, nogil=True)
def _measure(
    labels: NDArray[np.integer],
    starts: NDArray[np.int64],
    shape: NDArray[np.int64],
    first: NDArray[np.int64],
    place: NDArray[np.int64],
    box: NDArray[np.int64],
) -> None:
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            x = 0
            while x < labels.shape[2]:
                name = labels[z, y, x]
                x += 1
                if name == 0:
                    continue
                begin = x - 1
                while x < labels.shape[2] and labels[z, y, x] == name:
                    x += 1
                count = x - begin  # of a run along the last axis
                here = (starts[0] + z, starts[1] + y, starts[2] + begin)
                first[name] = min(first[name], (here[0] * shape[1] + here[1]) * shape[2] + here[2])
                place[name, 0] += count
                place[name, 1] += count * here[0]
                place[name, 2] += count * here[1]
                place[name, 3] += count * here[2] + count * (count - 1) // 2
                for axis in range(3):
                    box[0, name, axis] = min(box[0, name, axis], here[axis])
                    box[1, name, axis] = max(box[1, name, axis], here[axis] + 1)
                box[1, name, 2] = max(box[1, name, 2], here[2] + count)
