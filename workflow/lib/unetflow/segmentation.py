"""From foreground probabilities to instances.

References
----------
.. [1] J. Nunez-Iglesias et al.: Machine Learning of Hierarchical Clustering to Segment 2D and 3D
       Images. PLoS ONE 2013, DOI 10.1371/journal.pone.0071715: agglomeration of watershed regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from skimage import graph
from skimage.segmentation import watershed

from unetflow import axes as axis_rules
from unetflow import predicted
from unetflow.holes import mark_holes, small_holes
from unetflow.joining import Joined, join, link_planes, renumber
from unetflow.labelling import (
    Grid,
    Region,
    components,
    consecutive,
    label_block,
    shard_blocks,
)
from unetflow.objects import object_table, require_parquet, values_of, write_table
from unetflow.progress import track
from unetflow.pyramid import add_levels
from unetflow.seams import seam_evidence
from unetflow.settings import SegmentSettings
from unetflow.store import (
    Image,
    chunks_and_shards,
    create_array,
    describe_image,
    open_image,
    remove,
    replacing,
    write_json,
    write_text,
)
from unetflow.volumes import choice_of, open_volume
from unetflow.voxels import resampled


def segment(
    foreground: NDArray[np.floating],
    threshold: float,
    settings: SegmentSettings,
    holes: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint32]:
    """Instances of one plane or volume.

    Parameters
    ----------
    foreground : float array (rows, columns) or (planes, rows, columns)
        Probability of not being background, in [0, 1].
    threshold : float
        Pixels above it are objects.
    holes : bool array of the same shape, optional
        Pixels that are objects too; else those that `settings.fill_holes` makes so.

    Returns
    -------
    uint32 array of the same shape
        Consecutive ids, 0 = background. Components are connected through shared faces. By watershed
        every component above `seed_threshold` grows, on the probability, over what is above
        `threshold`; with threshold 0 objects fill the picture. Then `merge_below` joins neighbours.
    """
    above = foreground > threshold
    above |= small_holes(above, settings.fill_holes) if holes is None else holes
    instances: NDArray[np.integer]
    if settings.method == "components":
        instances = components(above)
    else:
        seeds = components(foreground > settings.seed_threshold)
        mask = above if threshold > 0 else None
        instances = watershed(-foreground.astype(np.float32), seeds, mask=mask)
        if settings.merge_below is not None:
            instances = merge(instances, foreground, settings.merge_below)
    if settings.minimum_size > 1:
        # Not skimage.remove_small_objects, which warns where there is a single object.
        instances[np.bincount(instances.ravel())[instances] < settings.minimum_size] = 0
    return consecutive(instances, int(instances.max(initial=0)))[instances]


def merge(
    instances: NDArray[np.integer], foreground: NDArray[np.floating], below: float
) -> NDArray[np.integer]:
    """Join neighbours while the mean background probability along a boundary is below a value.

    The weakest boundary goes first, and what has been joined has the mean of its boundaries ([1]).
    A gap of some pixels, at which any threshold would join two objects, does not move the mean of
    a long boundary, and a weak line across one object is no boundary however sharp its seeds are.
    """
    if instances.max(initial=0) < 2:
        return instances
    regions = graph.rag_boundary(instances, 1 - foreground.astype(np.float64))
    if 0 in regions:
        regions.remove_node(0)  # background is no neighbour
    joined = graph.merge_hierarchical(
        instances,
        regions,
        thresh=below,
        rag_copy=False,
        in_place_merge=True,
        merge_func=lambda *_: None,
        weight_func=mean_boundary,
    )
    return np.where(instances > 0, joined + 1, 0)


def mean_boundary(
    regions: graph.RAG, source: int, destination: int, neighbour: int
) -> dict[str, float]:
    """Boundary of two regions about to be joined with a neighbour of either."""
    none = {"weight": 0.0, "count": 0}
    parts = [regions[region].get(neighbour, none) for region in (source, destination)]
    count = sum(part["count"] for part in parts)
    weight = sum(part["weight"] * part["count"] for part in parts) / count
    return {"weight": weight, "count": count}


def segment_planes(
    foreground: NDArray[np.floating],
    threshold: float,
    settings: SegmentSettings,
    holes: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint32]:
    """Instances of a stack, each plane by itself; ids are unique in the stack."""
    result = np.zeros(foreground.shape, np.uint32)
    used = 0
    for index in np.ndindex(foreground.shape[:-2]):
        filled = None if holes is None else holes[index]
        plane = segment(foreground[index], threshold, settings, filled)
        count = int(plane.max())
        result[index] = np.where(plane > 0, plane + np.uint32(used), 0)
        used += count
    return result


def segment_image(
    prediction: Path,
    output: Path,
    model: Mapping[str, Any],
    settings: SegmentSettings,
    pixels: Image | None = None,
) -> Joined:
    """Write the instances of a predicted image as OME-Zarr, block by block.

    Parameters
    ----------
    prediction : Path
        OME-Zarr, axes c(z)yx, see `predicted`.
    output : Path
        Complete or absent: uint32 ids, uint64 of more than four thousand million instances.
    model : mapping
        Its `model.json`: what a 2D network predicted plane by plane is segmented plane by
        plane, and its threshold holds where `settings.threshold` is "auto".
    pixels : Image, optional
        What was predicted, whose grey values are summed over each object, see `values_of`.
    """
    image = open_image(prediction)
    axes, shape = axis_rules.spatial(image.axes), image.spatial_shape
    threshold = model["threshold"] if settings.threshold == "auto" else settings.threshold
    by_plane = model["network"]["dimensions"] == 2
    link = settings.link_planes if by_plane and len(shape) == 3 else None
    # A small part, in a block or a plane, may be one of a large object; so with a hole.
    parts = settings.model_copy(update={"minimum_size": 0})

    def above(region: Region) -> NDArray[np.bool_]:
        return predicted.foreground(image, region) > threshold

    def divide(region: Region) -> NDArray[np.uint32]:
        foreground = predicted.foreground(image, region)
        filled = np.asarray(holes[region], bool)
        return (segment_planes if by_plane else segment)(foreground, threshold, parts, filled)

    layout = chunks_and_shards(axes, shape, cubes=len(shape) == 3 and not by_plane)
    grid = blocks_of(shape, layout[1], by_plane, settings)
    values = values_of(image, pixels)
    with replacing(output) as partial:
        blocks = partial / "blocks"
        blocks.mkdir(parents=True)
        labels = create_array(blocks / "labels", axes, shape, np.uint32, *layout, empty=True)
        holes = create_array(blocks / "holes", axes, shape, np.bool_, *layout)
        if settings.fill_holes > 0:
            mark_holes(grid, above, settings.fill_holes, blocks, labels, holes)
        for index in track(grid.blocks, "segmenting blocks", len(grid.blocks)):
            label_block(grid, index, divide, labels, blocks, values)
        least_iou = 0 if settings.method == "components" else settings.join_overlap
        minimum = 0 if link is not None else settings.minimum_size
        joined = join(grid, blocks, least_iou, minimum, values.names)
        dtype = joined.ids[grid.blocks[0]].dtype
        instances = create_array(partial / "0", axes, shape, dtype, *layout, empty=True)
        renumber(grid, labels, joined.ids.__getitem__, instances)
        if link is not None:
            ids, found = link_planes(instances, grid, joined.objects, link, settings.minimum_size)
            joined = replace(joined, objects=found)
            renumber(grid, instances, lambda _: ids, instances)
        remove(blocks)
        levels = add_levels(partial, "0", axes, image.voxel_size_um, mean=False)
        describe_image(partial, axes, image.voxel_size_um, levels, {}, {}, means=False)
    return joined


def blocks_of(
    shape: Sequence[int], shards: Sequence[int], by_plane: bool, settings: SegmentSettings
) -> Grid:
    """Division of an image into blocks; planes that are segmented by themselves meet nowhere."""
    margin = 1 if settings.method == "components" else settings.margin
    met = [not by_plane or axis >= len(shape) - 2 for axis in range(len(shape))]
    block = shard_blocks(shape, shards, settings.block_megavoxels * 1e6)
    return Grid(tuple(shape), block, tuple(margin * meets for meets in met))


def segment_images(
    predictions: Sequence[Path],
    images: Path,
    outputs: Mapping[str, Path],
    model: Mapping[str, Any],
    settings: SegmentSettings,
) -> None:
    """Write the instances of several predicted images, and one table of their objects.

    Parameters
    ----------
    images : Path
        Folder of the images, each of the name of its prediction.
    outputs : mapping
        Paths of `segmentation`, a folder that is complete or absent, and `objects`.
    """
    require_parquet(settings)
    tables = []
    with replacing(outputs["segmentation"]) as partial:
        partial.mkdir()
        for path in track(predictions, "segmenting images", len(predictions)):
            output, pixels = partial / path.name, open_image(images / path.name)
            joined = segment_image(path, output, model, settings, pixels)
            tables.append(object_table(joined.objects, open_image(output)))
            tables[-1].insert(0, "image", path.name)
    write_table(pd.concat(tables, ignore_index=True), outputs["objects"], settings)


def segment_volume(
    facts: Mapping[str, Any],
    prediction: Path,
    outputs: Mapping[str, Path],
    model: Mapping[str, Any],
    settings: SegmentSettings,
) -> None:
    """Write an archive volume's instances, its table of objects, and its summary.

    Grey values in the table are those of the volume, read once more, a block at a time.

    Parameters
    ----------
    facts : mapping
        How its prediction went, see `blocks.finish_prediction`. If it failed, so has the volume:
        its segmentation is an empty group.
    outputs : mapping
        Paths of `segmentation`, `objects`, `merges` (what was joined at the seams of blocks),
        `seams` (see `seam_evidence`) and `summary`, which says "state" and "reason".
    """
    reason = facts["reason"]
    require_parquet(settings)
    table, merges, seams, count = pd.DataFrame({"label": []}), "axis\n", "distance\n", None
    if reason:
        zarr.create_group(outputs["segmentation"], overwrite=True, attributes={"reason": reason})
    else:
        if not (prediction / "zarr.json").is_file():
            raise ValueError(
                f"{prediction}: a volume must be predicted to be segmented: its prediction was "
                "removed, since predict.keep is false; predict again with "
                "`snakemake --forcerun predict_block predict_pack`"
            )
        volume = volume_of(facts["volume"], open_image(prediction))
        joined = segment_image(prediction, outputs["segmentation"], model, settings, volume)
        table = object_table(joined.objects, open_image(outputs["segmentation"]))
        merges = str(joined.merges.to_csv(sep="\t", index=False, float_format="%.6g"))
        seams = str(seam_evidence(joined.grid, joined.objects).to_csv(sep="\t", index=False))
        count = len(joined.objects["size"])
    write_table(table, outputs["objects"], settings)
    write_text(outputs["merges"], merges)
    write_text(outputs["seams"], seams)
    summary = {"state": facts["state"], "reason": reason, "objects": count}
    summary["predict_seconds"] = facts["seconds"]
    about = {key: facts["volume"].get(key) for key in ("path", "experiment", "shape", "voxels")}
    write_json(outputs["summary"], summary | about)


def volume_of(row: Mapping[str, Any], prediction: Image) -> Image:
    """Volume that a row of a sheet names, with voxels of the size in which it was predicted."""
    return resampled(open_volume(row["path"], **choice_of(row)), prediction.voxel_size_um)
