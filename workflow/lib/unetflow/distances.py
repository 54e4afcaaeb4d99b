"""Distances to the nearest and the second nearest object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def nearest_two(
    instances: NDArray[np.integer], radius: float, sampling: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distances of every pixel to the nearest and to the second nearest object.

    Parameters
    ----------
    instances : integer array of any shape
        Object ids, 0 = background.
    radius : float
        Distances up to it are exact; larger ones may be infinite. Each object is transformed in its
        bounding box grown by it, which is what makes many objects affordable.
    sampling : sequence of float
        Voxel size per axis; radius and distances are in its unit.

    Returns
    -------
    first, second : float32 arrays of the same shape
        0 on the object itself; infinite where there is no (second) object within reach.
    """
    first = np.full(instances.shape, np.inf, np.float32)
    second = np.full(instances.shape, np.inf, np.float32)
    reach = [int(np.ceil(radius / step)) for step in sampling]
    _, compact = np.unique(instances, return_inverse=True)
    compact = compact.reshape(instances.shape) + (0 if (instances == 0).any() else 1)
    for label, box in enumerate(ndimage.find_objects(compact), start=1):
        if box is None:
            continue
        region = tuple(
            slice(max(edge.start - grown, 0), edge.stop + grown)
            for edge, grown in zip(box, reach, strict=True)
        )
        distance = ndimage.distance_transform_edt(compact[region] != label, sampling=sampling)
        distance = distance.astype(np.float32)
        np.minimum(second[region], np.maximum(first[region], distance), out=second[region])
        np.minimum(first[region], distance, out=first[region])
    return first, second
