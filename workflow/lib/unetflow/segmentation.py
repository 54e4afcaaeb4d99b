"""From foreground probabilities to instances.

References
----------
.. [1] J. Nunez-Iglesias et al.: Machine Learning of Hierarchical Clustering to Segment 2D and 3D
       Images. PLoS ONE 2013, DOI 10.1371/journal.pone.0071715: agglomeration of watershed regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from skimage import graph
from skimage.measure import label, regionprops_table
from skimage.segmentation import relabel_sequential, watershed

from unetflow import axes as axis_rules
from unetflow import predicted
from unetflow.progress import track
from unetflow.settings import SegmentSettings
from unetflow.store import Image, create_image, open_image, replacing, write_json, write_text


def segment(
    foreground: NDArray[np.floating], threshold: float, settings: SegmentSettings
) -> NDArray[np.uint32]:
    """Instances of one plane or volume.

    Parameters
    ----------
    foreground : float array (rows, columns) or (planes, rows, columns)
        Probability of not being background, in [0, 1].
    threshold : float
        Pixels above it are objects.

    Returns
    -------
    uint32 array of the same shape
        Consecutive ids, 0 = background. Components are connected through shared faces. By watershed
        every component above `seed_threshold` grows, on the probability, over what is above
        `threshold`; with threshold 0 objects fill the picture. Then `merge_below` joins neighbours.
    """
    above = foreground > threshold
    if settings.method == "components":
        instances = label(above, connectivity=1)
    else:
        seeds = label(foreground > settings.seed_threshold, connectivity=1)
        mask = above if threshold > 0 else None
        instances = watershed(-foreground.astype(np.float32), seeds, mask=mask)
        if settings.merge_below is not None:
            instances = merge(instances, foreground, settings.merge_below)
    if settings.minimum_size > 1:
        # Not skimage.remove_small_objects, which warns where there is a single object.
        instances[np.bincount(instances.ravel())[instances] < settings.minimum_size] = 0
    return np.asarray(relabel_sequential(instances)[0], dtype=np.uint32)


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
    foreground: NDArray[np.floating], threshold: float, settings: SegmentSettings
) -> NDArray[np.uint32]:
    """Instances of a stack, each plane by itself; ids are unique in the stack."""
    result = np.zeros(foreground.shape, np.uint32)
    used = 0
    for index in np.ndindex(foreground.shape[:-2]):
        plane = segment(foreground[index], threshold, settings)
        count = int(plane.max())
        result[index] = np.where(plane > 0, plane + np.uint32(used), 0)
        used += count
    return result


def segment_image(
    prediction: Path, output: Path, model: Mapping[str, Any], settings: SegmentSettings
) -> Image:
    """Write the instances of a predicted image as OME-Zarr and return it opened.

    Parameters
    ----------
    prediction : Path
        OME-Zarr, axes c(z)yx, see `predicted`.
    output : Path
        Complete or absent.
    model : mapping
        Its `model.json`: what a 2D network predicted plane by plane is segmented plane by
        plane, and its threshold holds where `settings.threshold` is "auto".
    """
    image = open_image(prediction)
    foreground = predicted.foreground(image)
    threshold = model["threshold"] if settings.threshold == "auto" else settings.threshold
    by_plane = model["network"]["dimensions"] == 2
    instances = (segment_planes if by_plane else segment)(foreground, threshold, settings)
    spatial = axis_rules.spatial(image.axes)
    with replacing(output) as partial:
        create_image(partial, spatial, instances.shape, np.uint32, image.voxel_size_um)[...] = (
            instances
        )
    return open_image(output)


def segment_images(
    predictions: Sequence[Path], output: Path, model: Mapping[str, Any], settings: SegmentSettings
) -> None:
    """Write the instances of several predicted images into one folder, complete or absent."""
    with replacing(output) as partial:
        partial.mkdir()
        for path in track(predictions, "segmenting images", len(predictions)):
            segment_image(path, partial / path.name, model, settings)


def segment_volume(
    facts: Mapping[str, Any],
    prediction: Path,
    outputs: Mapping[str, Path],
    model: Mapping[str, Any],
    settings: SegmentSettings,
) -> None:
    """Write an archive volume's instances, its table of objects, and its summary.

    Parameters
    ----------
    facts : mapping
        How its prediction went, see `blocks.finish_prediction`. If it failed, so has the volume:
        its segmentation is an empty group.
    outputs : mapping
        Paths of `segmentation`, `objects` and `summary`; the last says "state" and "reason".
    """
    reason = facts["reason"]
    table, count = "label\n", None
    if reason:
        zarr.create_group(outputs["segmentation"], overwrite=True, attributes={"reason": reason})
    else:
        if not (prediction / "zarr.json").is_file():
            raise ValueError(
                f"{prediction}: a volume must be predicted to be segmented: its prediction was "
                "removed, since predict.keep is false; predict again with "
                "`snakemake --forcerun predict_block predict_pack`"
            )
        image = segment_image(prediction, outputs["segmentation"], model, settings)
        instances = np.asarray(image.array)
        table, count = (
            object_table(instances, image.axes, image.voxel_size_um),
            int(instances.max()),
        )
    write_text(outputs["objects"], table)
    summary = {"state": facts["state"], "reason": reason, "objects": count}
    summary["predict_seconds"] = facts["seconds"]
    about = {key: facts["volume"].get(key) for key in ("path", "experiment", "shape", "voxels")}
    write_json(outputs["summary"], summary | about)


def object_table(instances: NDArray[np.uint32], axes: str, voxel_size_um: dict[str, float]) -> str:
    """Return a TSV with a row per object."""
    found = regionprops_table(instances, properties=("label", "area", "centroid", "bbox"))
    table = pd.DataFrame(found)
    count = len(axes)
    table.columns = pd.Index(
        ["label", "voxels"]
        + [f"centroid_{axis}" for axis in axes]
        + [f"start_{axis}" for axis in axes]
        + [f"stop_{axis}" for axis in axes]
    )
    size = axis_rules.voxel_size(axes, voxel_size_um)
    table["voxels"] = table["voxels"].astype(np.int64)
    if size is not None:
        table[f"size_um{count}"] = table["voxels"] * float(np.prod(size))
    return str(table.to_csv(sep="\t", index=False, float_format="%.6g"))
