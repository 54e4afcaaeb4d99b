"""Training targets and border weights of the U-Net.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, section 3, equation 2.
.. [2] Falk et al. 2019, DOI 10.1038/s41592-018-0261-2: the released form, on background pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow.distances import nearest_two
from unetflow.known_labels import labels_of, left_out_of
from unetflow.progress import log
from unetflow.separation import separate
from unetflow.settings.training import WeightsSettings
from unetflow.store import (
    NOT_ANNOTATED,
    Image,
    chunks_and_shards,
    create_array,
    open_image,
    replacing,
    require_space,
)

# A border term below it adds nothing to a float32 weight of about 1.
RESOLUTION = 2.0**-26

# Extents of a block that is computed and written at once, by number of axes. At sigma 5 the larger
# one takes 2 GB with its margin.
BLOCKS = {2: (2048, 2048), 3: (128, 512, 512)}


def reach_of(settings: WeightsSettings, sigma: float) -> float:
    """Sum of distances from which on the border term is below the resolution of float32 weights."""
    return sigma * math.sqrt(2 * max(0.0, math.log(max(settings.w0, 1e-30) / RESOLUTION)))


def sampling_of(
    image: Image, dimensions: int, settings: WeightsSettings
) -> tuple[list[float], float]:
    """Voxel size per axis of the network, and width of the border term, in the finest voxel's unit.

    Raises
    ------
    ValueError
        If the width is given in µm and the voxel size is not known.
    """
    sizes = axis_rules.voxel_size(axis_rules.spatial(image.axes)[-dimensions:], image.voxel_size_um)
    if sizes is None:
        if settings.sigma_unit == "um":
            raise ValueError(
                f"{image.path}: weights.sigma_unit um needs the voxel size: the image has none; "
                "add voxel_size_um to the dataset, or give sigma in voxels"
            )
        return [1.0] * dimensions, settings.sigma
    finest = min(sizes)
    sigma = settings.sigma / finest if settings.sigma_unit == "um" else settings.sigma
    return [size / finest for size in sizes], sigma


def border_term(
    instances: NDArray[np.integer],
    w0: float,
    sigma: float,
    reach: float,
    sampling: Sequence[float],
    threads: int = 1,
) -> NDArray[np.float32]:
    """`w0 exp(-(d1 + d2)² / (2 sigma²))` on background pixels, 0 on objects ([1], [2]).

    d1 and d2 are the distances to the nearest and second nearest object. With fewer than two
    objects the term is 0 everywhere.

    Parameters
    ----------
    instances : integer array
        Object ids, 0 = background.
    reach : float
        Where d1 + d2 is larger the term is 0.
    sampling : sequence of float
        Voxel size per axis; sigma and reach are in its unit.
    """
    first, second = nearest_two(instances, reach, sampling, threads)
    total = np.add(first, second, out=first)
    total[(total > np.float32(reach)) | (instances != 0)] = np.inf
    np.square(total, out=total)
    np.multiply(total, np.float32(-1 / (2 * sigma**2)), out=total)
    np.exp(total, out=total)
    return np.multiply(total, np.float32(w0), out=total)


def class_weights(counts: Sequence[int]) -> NDArray[np.float32]:
    """w_c: the inverse of each class's frequency, scaled so that the mean over pixels is 1.

    A class that never occurs has weight 0.
    """
    frequency = np.asarray(counts, np.float64)
    present = frequency > 0
    weights = np.zeros(len(frequency))
    weights[present] = frequency.sum() / (present.sum() * frequency[present])
    return weights.astype(np.float32)


def weights_of_classes(
    counts: Sequence[int], settings: WeightsSettings
) -> NDArray[np.float32] | float:
    """w_c: those that are given by hand, or that balance the classes, or 1.

    Raises
    ------
    ValueError
        If others are given than there are classes.
    """
    given = settings.class_weights
    if given is None:
        return class_weights(counts) if settings.balance_classes else 1.0
    if len(given) != len(counts):
        raise ValueError(
            f"weights.class_weights must be one per class, background first, {len(counts)} of them:"
            f" got {list(given)}"
        )
    return np.asarray(given, np.float32)


def target_and_weights(
    classes: NDArray[np.uint8],
    instances: NDArray[np.integer],
    class_counts: Sequence[int],
    settings: WeightsSettings,
    sampling: Sequence[float],
    sigma: float,
    threads: int = 1,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the training target and its weights `w_c + border term`.

    Parameters
    ----------
    classes : uint8 array
        Semantic labels, 255 = not annotated: weight 0.
    instances : integer array of the same shape
        Object ids, 0 = background.
    class_counts : sequence of int
        Pixels of each class in the targets of the whole dataset, for w_c.
    sampling : sequence of float
        Voxel size per axis in units of the finest one.
    sigma : float
        Width of the border term in the same unit.

    Raises
    ------
    ValueError
        If `class_weights` are not as many as there are classes.

    References
    ----------
    [1], equation 2.
    """
    target = separate(classes, instances) if settings.separate_touching else classes
    of_class = np.zeros(256, np.float32)
    of_class[: len(class_counts)] = weights_of_classes(class_counts, settings)
    of_class[1:] *= settings.foreground_factor
    weights = of_class[target]
    if settings.w0 > 0:
        objects = np.where(target > 0, instances, 0)
        reach = reach_of(settings, sigma)
        weights += border_term(objects, settings.w0, sigma, reach, sampling, threads)
    if settings.cap is not None:
        np.minimum(weights, np.float32(settings.cap), out=weights)
    weights[target == NOT_ANNOTATED] = 0
    return target, weights


Region = tuple[slice, ...]


def blocks_of(
    shape: Sequence[int], extents: Sequence[int], margin: Sequence[int]
) -> Iterator[tuple[Region, Region, Region]]:
    """Yield each block of an array, the window around it, and the block within the window."""
    counts = (-(-extent // step) for extent, step in zip(shape, extents, strict=True))
    for index in np.ndindex(*counts):
        axes = []
        for place, extent, step, grown in zip(index, shape, extents, margin, strict=True):
            start, stop = place * step, min((place + 1) * step, extent)
            low, high = max(start - grown, 0), min(stop + grown, extent)
            axes.append((slice(start, stop), slice(low, high), slice(start - low, stop - low)))
        block, window, core = zip(*axes, strict=True)
        yield block, window, core


def counts_in(
    index: Mapping[str, Any],
    images: Path,
    settings: WeightsSettings,
    tested_planes: int | None = None,
) -> list[int]:
    """Pixels of each class in all training targets of a dataset, from its `index.json`.

    Where planes are left out, and classes are to be balanced, the labels of all its images are read
    and counted as if the others had never been annotated.

    Parameters
    ----------
    images : Path
        Folder of the dataset's images.
    """
    separated = settings.separate_touching
    known: list[int] = index["separated_class_counts" if separated else "class_counts"]
    balanced = settings.balance_classes and settings.class_weights is None
    if not balanced or (settings.annotated_planes is None and tested_planes is None):
        return known
    counts = np.zeros(NOT_ANNOTATED + 1, np.int64)
    for entry in index["images"]:
        if not entry["annotated"]:
            continue
        image = open_image(images / entry["image"])
        left_out = left_out_of(image, settings.annotated_planes, tested_planes)
        classes, instances = labels_of(image, len(image.spatial_shape), left_out)
        # The line between touching objects is drawn where the next pixel is another.
        margin = [1] * len(classes.shape)
        for _, window, core in blocks_of(classes.shape, BLOCKS[len(margin)], margin):
            target = classes[window]
            target = separate(target, instances[window]) if separated else target
            counts += np.bincount(target[core].ravel(), minlength=len(counts))
    return [int(count) for count in counts[: len(known)]]


def write_weights(
    image_path: Path,
    output: Path,
    class_counts: Sequence[int],
    dimensions: int,
    settings: WeightsSettings,
    threads: int = 1,
    tested_planes: int | None = None,
) -> None:
    """Write the training target and border weights of one OME-Zarr image, block by block.

    A block is read with a margin beyond which no object reaches it, so that the blocks of a volume
    larger than memory have the weights of the whole, bit for bit. A block and its margin take 30
    bytes a voxel.

    Parameters
    ----------
    output : Path
        Zarr group, complete or absent: `target` uint8, `weights` float32, with the image's axes.
        Its attributes hold `class_counts`.
    dimensions : int
        Of the network: with 2 each plane of a stack is weighted by itself.
    settings : WeightsSettings
        What `annotated_planes` leaves out is as if it had no labels: neither lines nor distances
        know of it.
    threads : int
        Blocks at once; of an image of one block, the threads of its distance transform.
    tested_planes : int, optional
        Of a stack whose every n-th plane is held out: it is left out likewise.
    """
    image = open_image(image_path)
    axis_rules.check_dimensions(image.axes, dimensions, str(image_path))
    sampling, sigma = sampling_of(image, dimensions, settings)
    spatial = axis_rules.spatial(image.axes)
    left_out = left_out_of(image, settings.annotated_planes, tested_planes)
    classes, instances = labels_of(image, dimensions, left_out)
    shape = classes.shape
    # One more, since the line between touching objects is drawn where the next pixel is another.
    reach = reach_of(settings, sigma)
    margin = [0] * (len(shape) - dimensions) + [math.ceil(reach / step) + 1 for step in sampling]
    chunks, _ = chunks_and_shards(spatial, shape)
    extents = tuple(
        -(-min(extent, limit) // chunk) * chunk
        for extent, limit, chunk in zip(shape, BLOCKS[len(shape)], chunks, strict=True)
    )
    blocks = list(blocks_of(shape, extents, margin))
    of_each = threads if len(blocks) == 1 else 1
    errors: list[Exception] = []

    def write(block: Region, window: Region, core: Region) -> None:
        if errors:
            return
        try:
            of_class, of_object = classes[window], instances[window]
            how = class_counts, settings, sampling, sigma, of_each
            planes = [
                target_and_weights(of_class[plane], of_object[plane], *how)
                for plane in np.ndindex(of_class.shape[:-dimensions])
            ]
            target, weights = (
                np.reshape(parts, of_class.shape) for parts in zip(*planes, strict=True)
            )
            tell_of_lost(of_object, target, core)
            for array, part in zip(arrays, (target, weights), strict=True):
                array[block] = part[core]
        except Exception as error:
            errors.append(error)

    with replacing(output) as partial:
        require_space(partial.parent, math.prod(shape) * 5, "free some")
        zarr.create_group(
            partial, zarr_format=3, attributes={"class_counts": [int(of) for of in class_counts]}
        )
        arrays = [
            create_array(partial / name, spatial, shape, dtype, chunks, extents)
            for name, dtype in (("target", np.uint8), ("weights", np.float32))
        ]
        tasks = [dask.delayed(write)(*block) for block in blocks]
        dask.compute(*tasks, scheduler="threads", num_workers=threads)
        # Not earlier: other threads would go on to write into what has been removed.
        if errors:
            raise errors[0]


def tell_of_lost(instances: NDArray[np.integer], target: NDArray[np.uint8], core: Region) -> None:
    """Log how many objects are so thin that the line between touching ones took all of them.

    Of the objects in the core of a window; the margin shows what else there is of them.
    """
    divided = instances[core][(target[core] == 0) & (instances[core] > 0)]
    if not len(divided):
        return
    lost = np.setdiff1d(divided, pd.unique(instances[target > 0]))
    if len(lost):
        log(
            f"warning: {len(lost)} objects, such as {int(lost[0])}, are thinner than the line "
            "between touching objects and are not in the training target; set "
            "weights.separate_touching: false, or annotate at a higher resolution"
        )
