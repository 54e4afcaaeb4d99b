"""A predicted image divided into instances block by block, and stitched at the seams."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow import predicted
from unetflow.dividing import segment, segment_planes
from unetflow.holes import mark_holes
from unetflow.joining import Joined, join, link_planes, renumber
from unetflow.labelling import Grid, Index, Region, Values, label_block, shard_blocks
from unetflow.objects import values_of
from unetflow.progress import track
from unetflow.pyramid import add_levels
from unetflow.settings.prediction import SegmentSettings
from unetflow.store import (
    Image,
    chunks_and_shards,
    create_array,
    describe_image,
    read_json,
)


@dataclass(frozen=True, eq=False)
class Division:
    """A prediction, and how it is divided into instances.

    Attributes
    ----------
    image : Image
        Axes c(z)yx, see `predicted`.
    by_plane : bool
        Whether each plane is divided by itself, as a 2D network predicted it.
    values : Values
        What is summed over each instance.
    layout : tuple
        Chunks and shards of the instances.
    """

    image: Image
    threshold: float
    by_plane: bool
    settings: SegmentSettings
    values: Values
    layout: tuple[tuple[int, ...], tuple[int, ...]]
    grid: Grid

    def above(self, region: Region) -> NDArray[np.bool_]:
        """Which voxels are objects'."""
        return predicted.foreground(self.image, region) > self.threshold

    def divide(self, region: Region, holes: NDArray[np.bool_]) -> NDArray[np.uint32]:
        """Instances of a region."""
        # A small part, in a block or a plane, may be one of a large object.
        parts = self.settings.model_copy(update={"minimum_size": 0})
        foreground = predicted.foreground(self.image, region)
        way = segment_planes if self.by_plane else segment
        return way(foreground, self.threshold, parts, holes)

    def create(self, path: Path, dtype: type) -> zarr.Array[Any]:
        """Create an array of the image's extents."""
        axes, shape = axis_rules.spatial(self.image.axes), self.image.spatial_shape
        return create_array(path, axes, shape, dtype, *self.layout, empty=True)


def division_of(
    prediction: Path, model: Mapping[str, Any], settings: SegmentSettings, pixels: Image | None
) -> Division:
    """Return how a prediction is divided into instances.

    Parameters
    ----------
    model : mapping
        Its `model.json`: what a 2D network predicted plane by plane is divided plane by plane, and
        its thresholds hold where those of the settings are "auto".
    pixels : Image, optional
        What was predicted, whose grey values are summed over each object, see `values_of`.

    Raises
    ------
    ValueError
        If the prediction is not there.
    """
    image = predicted.open_prediction(prediction)
    axes, shape = axis_rules.spatial(image.axes), image.spatial_shape
    threshold = model["threshold"] if settings.threshold == "auto" else settings.threshold
    if settings.seeds_are_chosen:
        settings = settings.model_copy(update={"seed_threshold": model["seed_threshold"]})
    by_plane = model["network"]["dimensions"] == 2
    layout = chunks_and_shards(axes, shape, cubes=len(shape) == 3 and not by_plane)
    grid = blocks_of(shape, layout[1], by_plane, settings)
    values = values_of(image, pixels)
    return Division(image, threshold, by_plane, settings, values, layout, grid)


def model_with_seeds(model: Path, seeds: Sequence[str]) -> dict[str, Any]:
    """Content of `model.json`, with the mean of the thresholds of seeds that files tell.

    Parameters
    ----------
    seeds : sequence of path
        See `seeds.choose_seeds`; without any, the model has none.
    """
    facts: dict[str, Any] = read_json(model)
    chosen = [read_json(Path(path))["seed_threshold"] for path in seeds]
    return facts | ({"seed_threshold": float(np.mean(chosen))} if chosen else {})


def blocks_of(
    shape: Sequence[int], shards: Sequence[int], by_plane: bool, settings: SegmentSettings
) -> Grid:
    """Division of an image into blocks; planes that are segmented by themselves meet nowhere."""
    margin = 1 if settings.method == "components" else settings.margin
    met = [not by_plane or axis >= len(shape) - 2 for axis in range(len(shape))]
    block = shard_blocks(shape, shards, settings.block_megavoxels * 1e6)
    return Grid(tuple(shape), block, tuple(margin * meets for meets in met))


def label_blocks(of: Division, chosen: Sequence[Index], folder: Path) -> None:
    """Divide blocks of an image, and write what joining them takes into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = of.create(folder / "labels", np.uint32)
    holes = None
    if of.settings.fill_holes > 0:
        holes = of.create(folder / "holes", np.bool_)
        mark_holes(of.grid, of.above, of.settings.fill_holes, folder, labels, holes)

    def divide(region: Region) -> NDArray[np.uint32]:
        none = np.zeros([part.stop - part.start for part in region], bool)
        return of.divide(region, none if holes is None else np.asarray(holes[region]))

    for index in track(chosen, "segmenting blocks", len(chosen)):
        label_block(of.grid, index, divide, labels, folder, of.values)


def join_blocks(of: Division, folders: Mapping[Index, Path], output: Path) -> Joined:
    """Write the instances of an image, of which all blocks are labelled, as OME-Zarr.

    Parameters
    ----------
    folders : mapping
        Where each block was labelled.
    output : Path
        uint32 ids, uint64 of more than four thousand million instances.
    """
    grid, settings, voxel_size_um = of.grid, of.settings, of.image.voxel_size_um
    axes = axis_rules.spatial(of.image.axes)
    link = settings.link_planes if of.by_plane and len(axes) == 3 else None
    least_iou = 0 if settings.method == "components" else settings.join_overlap
    minimum = 0 if link is not None else settings.minimum_size
    joined = join(grid, folders, least_iou, minimum, of.values.names)
    labels = {
        folder: zarr.open_array(folder / "labels", mode="r") for folder in {*folders.values()}
    }
    instances = of.create(output / "0", joined.ids[grid.blocks[0]].dtype.type)
    renumber(grid, lambda index: labels[folders[index]], joined.ids.__getitem__, instances)
    if link is not None:
        ids, found, links = link_planes(
            instances, grid, joined.objects, link, settings.minimum_size
        )
        merges = joined.merges.assign(label=ids[joined.merges["label"].to_numpy()])
        joined = replace(joined, objects=found, merges=pd.concat([merges, links]))
        renumber(grid, lambda _: instances, lambda _: ids, instances)
    levels = add_levels(output, "0", axes, voxel_size_um, mean=False)
    source = {"image": Path(os.path.relpath(of.image.path, output)).as_posix()}
    about = {"image-label": {"version": "0.5", "source": source}}  # so viewers colour the ids
    describe_image(output, axes, voxel_size_um, levels, about, {}, means=False)
    return joined
