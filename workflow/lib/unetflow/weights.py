"""Training targets and border weights of the U-Net.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, section 3, equation 2.
.. [2] Falk et al. 2019, DOI 10.1038/s41592-018-0261-2: the released form, on background pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy import ndimage

from unetflow import axes as axis_rules
from unetflow.distances import nearest_two
from unetflow.settings import WeightsSettings
from unetflow.store import NOT_ANNOTATED, chunks_and_shards, create_array, open_image, replacing

# exp(-x²/2) stays below half a unit in the last place of a float32 weight of 1 from x = 6 on, also
# when it is multiplied by w0 = 100; sums of distances above 6 sigma add nothing.
CUTOFF_SIGMAS = 6.5


def separate(classes: NDArray[np.uint8], instances: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Classes with a background line of one pixel between touching instances.

    A pixel becomes background when a neighbour that comes after it along one of the axes belongs
    to another object: of two touching pixels one is taken, so the line is one pixel wide.

    Parameters
    ----------
    classes : uint8 array
        Semantic labels.
    instances : integer array of the same shape
        Object ids, 0 = background.
    """
    result = classes.copy()
    for axis in range(instances.ndim):
        before = (*(slice(None),) * axis, slice(None, -1))
        after = (*(slice(None),) * axis, slice(1, None))
        touching = (
            (instances[before] != instances[after])
            & (instances[before] > 0)
            & (instances[after] > 0)
        )
        result[before][touching & (result[before] != NOT_ANNOTATED)] = 0
    return result


def border_term(
    instances: NDArray[np.integer], settings: WeightsSettings, sampling: Sequence[float]
) -> NDArray[np.float32]:
    """`w0 exp(-(d1 + d2)² / (2 sigma²))` on background pixels, 0 on objects ([1], [2]).

    d1 and d2 are the distances to the nearest and second nearest object. With fewer than two
    objects the term is 0 everywhere.

    Parameters
    ----------
    instances : integer array
        Object ids, 0 = background.
    sampling : sequence of float
        Voxel size per axis in units of the finest one.
    """
    first, second = nearest_two(instances, CUTOFF_SIGMAS * settings.sigma, sampling)
    with np.errstate(over="ignore"):
        term = settings.w0 * np.exp(-((first + second) ** 2) / (2 * settings.sigma**2))
    return np.where(instances == 0, term, 0).astype(np.float32)


def class_weights(counts: Sequence[int]) -> NDArray[np.float32]:
    """w_c: the inverse of each class's frequency, scaled so that the mean over pixels is 1.

    A class that never occurs has weight 0.
    """
    frequency = np.asarray(counts, np.float64)
    present = frequency > 0
    weights = np.zeros(len(frequency))
    weights[present] = frequency.sum() / (present.sum() * frequency[present])
    return weights.astype(np.float32)


def target_and_weights(
    classes: NDArray[np.uint8],
    instances: NDArray[np.integer] | None,
    class_counts: Sequence[int],
    settings: WeightsSettings,
    sampling: Sequence[float],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the training target and its weights `w_c + border term`, for one image.

    Parameters
    ----------
    classes : uint8 array
        Semantic labels, 255 = not annotated: weight 0.
    instances : integer array of the same shape, or None
        Object ids; None: the connected components (sharing a face) of what is not class 0.
    class_counts : sequence of int
        Pixels of each class in the whole dataset, for w_c.
    sampling : sequence of float
        Voxel size per axis in units of the finest one.

    References
    ----------
    [1], equation 2.
    """
    annotated = classes != NOT_ANNOTATED
    if instances is None:
        instances, _ = ndimage.label(annotated & (classes > 0))
    target = separate(classes, instances) if settings.separate_touching else classes
    weights = np.ones(classes.shape, np.float32)
    if settings.balance_classes:
        weights = class_weights(class_counts)[np.where(annotated, target, 0)]
    if settings.w0 > 0:
        weights = weights + border_term(np.where(target > 0, instances, 0), settings, sampling)
    return target, np.where(annotated, weights, 0).astype(np.float32)


def write_weights(
    image_path: Path, output: Path, class_counts: Sequence[int], settings: WeightsSettings
) -> None:
    """Write the training target and border weights of one OME-Zarr image.

    Parameters
    ----------
    output : Path
        Zarr group, complete or absent: `target` uint8, `weights` float32, with the image's axes.
    """
    image = open_image(image_path)
    classes, instances = image.label("classes"), image.label("instances")
    if classes is None:
        raise ValueError(f"{image_path}: an image must be annotated: it has no labels/classes")
    spatial = axis_rules.spatial(image.axes)
    sizes = axis_rules.voxel_size(spatial, image.voxel_size_um) or (1.0,) * len(spatial)
    sampling = [size / min(sizes) for size in sizes]
    target, weights = target_and_weights(
        np.asarray(classes),
        None if instances is None else np.asarray(instances),
        class_counts,
        settings,
        sampling,
    )
    layout = chunks_and_shards(spatial, target.shape)
    with replacing(output) as partial:
        zarr.create_group(partial, zarr_format=3)
        for name, part in (("target", target), ("weights", weights)):
            create_array(partial / name, spatial, part.shape, part.dtype, *layout)[...] = part
