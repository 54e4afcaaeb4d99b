"""True classes and instances of an image or a volume, read region by region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unetflow.joining import join
from unetflow.labelling import Grid, Index, Region, components, label_block
from unetflow.progress import one_line
from unetflow.scoring import is_foreground
from unetflow.store import NOT_ANNOTATED, Image, chunks_and_shards, create_array
from unetflow.volumes import open_volume

SIDE, CUBE, VOXELS = 4096, 256, 2**24
"""Extents of the blocks of a plane and of a volume, and voxels of one of whole planes."""


@dataclass(frozen=True)
class Foreground:
    """Classes of a label image: 1 where it is not 0, read when indexed."""

    labels: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents along all axes."""
        return tuple(self.labels.shape)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Classes of a region."""
        return (np.asarray(self.labels[index]) > 0).astype(np.uint8)


class UnusableTruth(ValueError):
    """A volume's truth that cannot be read, or is none of it."""


@dataclass(frozen=True)
class Guarded:
    """What is read of a truth: whatever goes wrong then is the truth's fault.

    Attributes
    ----------
    classes : int, optional
        How many there are; None for ids.
    """

    array: Any
    classes: int | None = None

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Pixels of a region."""
        try:
            found = np.asarray(self.array[index])
        except Exception as error:  # decoders raise whatever they like for a broken file
            raise UnusableTruth(one_line(error)) from error
        wrong = found < 0
        if self.classes is not None:
            wrong |= (found >= self.classes) & (found != NOT_ANNOTATED)
        if wrong.any():
            rule = "ids from 0" if self.classes is None else f"classes from 0 to {self.classes - 1}"
            raise UnusableTruth(
                f"truth must hold {rule}, classes also 255 (not annotated): found "
                f"{found[wrong].flat[0]}; correct its labels"
            )
        return found


@dataclass(frozen=True)
class TrueValues:
    """What a regression is to predict of a volume, read region by region.

    Attributes
    ----------
    image : Image
        Of the volume's spatial extents.
    """

    image: Image

    @classmethod
    def open(cls, place: Path | str, shape: Sequence[int], names: Sequence[str]) -> Self:
        """Open a picture of true values, or those that a dataset's image has.

        Raises
        ------
        UnusableTruth
            Here, and when it is read.
        """
        try:
            image = open_volume(place)
            target = image.target()
        except Exception as error:
            raise UnusableTruth(one_line(error)) from error
        if target is None and Path(place).parent.name == "images.ome.zarr":
            raise UnusableTruth(
                f"{place}: a dataset's image must have true values to be a truth: it has none; "
                "name one that has, or a picture of them"
            )
        image = target or image
        channels = image.array.shape[image.axes.index("c")] if "c" in image.axes else 1
        if (image.spatial_shape, channels) != (tuple(shape), len(names)):
            raise UnusableTruth(
                f"{image.path}: truth must have the extents {tuple(shape)} of the volume, and the "
                f"channels {', '.join(names)}: it has {image.spatial_shape} and {channels} of them;"
                " name the true values of this volume"
            )
        return cls(image)

    def region(self, index: Region) -> NDArray[np.float64]:
        """Values (channels, ...) of a spatial region."""
        try:
            found = self.image.region(index).astype(np.float64)
        except Exception as error:  # decoders raise whatever they like for a broken file
            raise UnusableTruth(one_line(error)) from error
        if not np.isfinite(found).all():
            raise UnusableTruth(
                f"{self.image.path}: true values must be finite: found NaN or infinite; repair it"
            )
        return found


def truth_arrays(truth: Image, shape: Sequence[int], class_names: Sequence[str]) -> tuple[Any, Any]:
    """Classes, and instances or None, of a truth: its labels, or else what its own pixels are.

    Of a network of more than two classes these are classes by their numbers. Else pixels of one
    value beside 0 are a class: its objects are its components, as with classes. So are those of the
    values 1 and 255 in 8 bits, of which 255 are not annotated. What is returned is read when
    indexed.

    Raises
    ------
    ValueError
        If the extents are others than those of the volume, if an image without labels has channels,
        or if there are fractions.
    """
    classes, known = truth.label("classes"), truth.label("instances")
    array = truth.array if classes is None else classes
    if classes is None and (array.dtype.kind not in "iub" or "c" in truth.axes):
        raise ValueError(
            f"{truth.path}: truth must have labels/classes, or be a label image of whole numbers "
            f"without channels: found {array.dtype} along {truth.axes}; name its label image"
        )
    for labels in (array, known):
        if labels is None:
            continue
        if labels.shape != tuple(shape):
            raise ValueError(
                f"{truth.path}: truth must have the extents {tuple(shape)} of the volume, or state "
                f"voxels that cover it: it has {labels.shape}; name the truth of this volume"
            )
        if labels.dtype.kind not in "iub":
            raise ValueError(
                f"{truth.path}: labels of a truth must be whole numbers: found {labels.dtype}; "
                "save them again"
            )
    if classes is not None or len(class_names) > 2:
        return array, known
    found = some_ids(array)
    if array.dtype == np.uint8 and found == {1, NOT_ANNOTATED}:
        return array, None
    return Foreground(array), array if len(found) > 1 else None


def some_ids(labels: Any) -> set[int]:
    """Ids of a label image, or some of them, which is read as far as it takes to tell its kind."""
    grid = Grid(tuple(labels.shape), block_of(labels.shape, False), (0,) * len(labels.shape))
    found: set[int] = set()
    for index in grid.blocks:
        part = np.asarray(labels[grid.core(index)])
        found |= {*np.unique(part[part > 0])[:3].tolist()}
        if found - {1, NOT_ANNOTATED} and len(found) > 1:
            break
    return found


def block_of(shape: Sequence[int], by_plane: bool) -> tuple[int, ...]:
    """Extents of the blocks in which an image is scored: cubes, or planes as far as they fit."""
    if len(shape) == 3 and not by_plane:
        return (CUBE,) * 3
    rows, columns = (min(extent, SIDE) for extent in shape[-2:])
    return (*(max(1, VOXELS // (rows * columns)) for _ in shape[:-2]), rows, columns)


def component_ids(
    classes: Callable[[Region], NDArray[np.uint8]], grid: Grid, by_plane: bool, folder: Path
) -> Callable[[Index], NDArray[np.unsignedinteger]]:
    """Return what reads the connected components of what is not class 0, block by block.

    They equal those of the whole for every division into blocks, but for their ids.

    Parameters
    ----------
    classes : callable
        Called with a region, for its classes.
    grid : Grid
        Division into blocks; its margin does not matter.
    by_plane : bool
        Planes are not connected with each other.
    folder : Path
        Labels are written to it, compressed, and must stay there as long as they are read.
    """
    axes = "zyx"[-len(grid.shape) :]
    across = [not by_plane or axis != "z" for axis in axes]
    seams = Grid(grid.shape, grid.block, tuple(map(int, across)))
    layout = chunks_and_shards(axes, grid.shape, cubes=len(axes) == 3 and all(across))
    labels = create_array(folder / "labels", axes, grid.shape, np.uint32, *layout)

    def divide(region: Region) -> NDArray[np.integer]:
        return components(is_foreground(classes(region)), sum(across))

    for index in seams.blocks:
        label_block(seams, index, divide, labels, folder)
    ids = join(seams, dict.fromkeys(seams.blocks, folder), least_iou=0).ids
    return lambda index: ids[index][np.asarray(labels[seams.core(index)])]
