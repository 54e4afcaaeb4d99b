"""From foreground probabilities to instances, of a plane or volume in memory.

References
----------
.. [1] J. Nunez-Iglesias et al.: Machine Learning of Hierarchical Clustering to Segment 2D and 3D
       Images. PLoS ONE 2013, DOI 10.1371/journal.pone.0071715: agglomeration of watershed regions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage import graph
from skimage.segmentation import watershed

from unetflow.holes import small_holes
from unetflow.labelling import components
from unetflow.settings.prediction import SegmentSettings


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
        seeds = components(foreground > max(threshold, float(settings.seed_threshold)))
        mask = above if threshold > 0 else None
        instances = watershed(-foreground.astype(np.float32), seeds, mask=mask)
        if settings.merge_below is not None:
            instances = merge(instances, foreground, settings.merge_below)
    if settings.minimum_size > 1:
        # Not skimage.remove_small_objects, which warns where there is a single object.
        instances[np.bincount(instances.ravel())[instances] < settings.minimum_size] = 0
    used = np.zeros(int(instances.max(initial=0)) + 1, bool)
    used[instances] = True
    used[0] = False
    return np.asarray((np.cumsum(used, dtype=np.uint32) * used)[instances])


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
