"""The instances of all blocks made those of the volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unetflow.labelling import LAST, Grid, Index, name_of, relabelled
from unetflow.metrics.contingency import contingency, marginal

Objects = Mapping[str, NDArray[Any]]
"""What `measure` and `sums` tell of instances."""

NONE = np.zeros(0, np.int64)
COMBINED: Mapping[str, tuple[Any, int]] = {
    "first": (np.minimum, LAST),
    "size": (np.add, 0),
    "sum": (np.add, 0),
    "start": (np.minimum, LAST),
    "stop": (np.maximum, 0),
}
"""How what `measure` tells of the parts of an instance becomes that of the whole."""
SUMMED = (np.add, 0)
"""How values do."""


@dataclass(frozen=True, eq=False)
class Joined:
    """What the instances of all blocks are in the whole volume.

    Attributes
    ----------
    grid : Grid
    ids : mapping
        Of each block, uint32 or uint64 array of shape (its instances + 1,): the id of each in the
        volume; 0 of background, and of what is too small.
    objects : dict
        int64 arrays of the volume's instances as of `measure`, and float64 ones of the sums of
        values; ids from 1 in the order of their first voxels.
    merges : DataFrame
        A row per pair that was joined: axis, block and label in front and behind, as that block had
        numbered it, overlap (voxels of the seam's planes), iou, and the id of what they became.
    """

    grid: Grid
    ids: Mapping[Index, NDArray[np.unsignedinteger]]
    objects: Objects
    merges: pd.DataFrame


def join(
    grid: Grid,
    folders: Mapping[Index, Path],
    least_iou: float,
    minimum_size: int = 0,
    summed: Sequence[str] = (),
) -> Joined:
    """Decide which instances of neighbouring blocks are one, and number those of the volume.

    Parameters
    ----------
    folders : mapping
        Where `label_block` has written each block.
    least_iou : float
        In the planes of a seam, from which on two instances are one; 0: wherever they overlap.
    minimum_size : int
        Instances of fewer voxels are left out.
    summed : sequence of str
        Names of the values that `label_block` has summed.
    """
    told = [written(folders[index], index, *COMBINED, *summed) for index in grid.blocks]
    counts = [len(facts["first"]) for facts in told]
    before = dict(zip(grid.blocks, np.cumsum([0, *counts]), strict=False))
    merges = found_merges(grid, folders, least_iou)
    offset = {name_of(index): start for index, start in before.items()}
    front, behind = (
        merges[f"{side}_block"].map(offset).to_numpy(np.int64)
        + merges[f"{side}_label"].to_numpy()
        - 1
        for side in ("front", "behind")
    )
    parts = {name: np.concatenate([facts[name] for facts in told]) for name in told[0]}
    ids, objects = combined(parts, front, behind, minimum_size)
    of_block = {
        index: np.append(ids[:1], ids[start + 1 : start + 1 + count])
        for (index, start), count in zip(before.items(), counts, strict=True)
    }
    return Joined(grid, of_block, objects, merges.assign(label=ids[front + 1]))


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
    for name, values in parts.items():
        combine, empty = COMBINED.get(name, SUMMED)
        objects[name] = np.full((number, *values.shape[1:]), empty, values.dtype)
        combine.at(objects[name], instance, values)
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


def found_merges(grid: Grid, folders: Mapping[Index, Path], least_iou: float) -> pd.DataFrame:
    """Return the pairs of instances of neighbouring blocks that are one."""
    nothing = pairs(NONE, NONE, least_iou)
    tables = [nothing.assign(axis=NONE, front_block="", behind_block="")]
    for axis, front, behind in grid.seams():
        near, far = f"behind{axis}", f"front{axis}"  # the seam is behind the block in front
        seam = (
            written(folders[front], front, near)[near],
            written(folders[behind], behind, far)[far],
        )
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
) -> tuple[NDArray[np.unsignedinteger], Objects, pd.DataFrame]:
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
    ids, objects
        See `combined`.
    links : DataFrame
        A row per pair, as in the merges of `Joined`; without blocks.
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
    ids, objects = combined(objects, one[best], other[best], minimum_size)
    links = found[best].rename(columns={"one": "front_label", "other": "behind_label"})
    label = ids[links["front_label"].to_numpy()]
    return ids, objects, links.assign(axis=0, front_block="", behind_block="", label=label)


def renumber(
    grid: Grid,
    source: Callable[[Index], zarr.Array[Any]],
    ids: Callable[[Index], NDArray[Any]],
    target: zarr.Array[Any],
) -> None:
    """Write the ids that each block's labels stand for, block by block.

    Parameters
    ----------
    source, target : arrays of the volume's extents
        The source is that of a block.
    """
    for index in grid.blocks:
        core = grid.core(index)
        target[core] = relabelled(np.asarray(source(index)[core]), ids(index))
