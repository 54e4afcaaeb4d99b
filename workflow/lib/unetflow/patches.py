"""The augmentation cache: patches of one image, deformed once for every epoch and fold."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from unetflow.elastic import coordinates, resample
from unetflow.geometry import Geometry
from unetflow.settings import PatchesSettings
from unetflow.store import Image, create_array, open_image, replacing

PATCHES_PER_SHARD = 32


def patch_seed(seed: int, image: str, number: int) -> list[int]:
    """Seed of one patch: from the experiment's seed, the image's name and the patch's number."""
    return [seed, zlib.crc32(image.encode()), number]


def cut_patch(
    image: Image,
    target: zarr.Array[Any],
    weights: zarr.Array[Any],
    tile: tuple[int, ...],
    geometry: Geometry,
    settings: PatchesSettings,
    seed: list[int],
) -> tuple[NDArray[np.generic], NDArray[np.uint8], NDArray[np.float32], tuple[int, ...]]:
    """Return one deformed patch: pixels, classes, weights and the place it was cut from.

    The centre is drawn uniformly over the image. A 2D network's patch comes from one plane.

    Returns
    -------
    pixels : (channels, *tile), dtype of the image
        Integers are rounded and clipped to their range.
    classes : uint8, (*output extents)
        Nearest neighbour: no new values.
    weights : float32, (*output extents)
        Linear interpolation: the weight of a pixel that is not annotated does not leak by more than
        a pixel.
    centre : tuple of int
        Image coordinate that the patch's centre shows, with the plane first.
    """
    generator = np.random.default_rng(seed)
    dimensions = len(tile)
    plane = tuple(int(generator.integers(extent)) for extent in image.spatial_shape[:-dimensions])
    extents = image.spatial_shape[-dimensions:]
    centre = tuple(int(generator.integers(extent)) for extent in extents)
    points = coordinates(tile, centre, settings, generator)
    core = points[
        :,
        *(
            slice(axis.halo, extent - axis.halo)
            for axis, extent in zip(geometry, tile, strict=True)
        ),
    ]
    pixels = np.stack(
        [
            resample(channel, points, order=3)
            for channel in image.region((*plane, *(slice(None),) * dimensions))
        ]
    )
    dtype = image.array.dtype
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        pixels = np.clip(np.rint(pixels.astype(np.float64)), limits.min, limits.max)
    classes = resample(np.asarray(target[plane]), core, order=0).astype(np.uint8)
    weighted = resample(np.asarray(weights[plane]), core, order=1)
    return pixels.astype(dtype), classes, weighted, (*plane, *centre)


def cut_patches(
    image_path: Path,
    weights_path: Path,
    output: Path,
    geometry: Geometry,
    settings: PatchesSettings,
) -> None:
    """Write the patches of one image as a Zarr group of `image`, `classes` and `weights`.

    The group's attributes hold each patch's seed and centre, so that any can be made again.
    """
    image, tile, count = open_image(image_path), settings.tile, settings.per_image
    if isinstance(tile, int):
        tile = (tile,) * len(geometry)
    target, weights = (
        zarr.open_array(weights_path / name, mode="r") for name in ("target", "weights")
    )
    cropped = tuple(extent - 2 * axis.halo for extent, axis in zip(tile, geometry, strict=True))
    with replacing(output) as partial:
        seeds = [patch_seed(settings.seed, image.path.name, number) for number in range(count)]
        patches = [
            cut_patch(image, target, weights, tile, geometry, settings, seed) for seed in seeds
        ]
        attributes = {
            "source": image.path.name,
            "seeds": seeds,
            "centres": [patch[3] for patch in patches],
        }
        zarr.create_group(partial, zarr_format=3, attributes=attributes)
        spatial = "zyx"[-len(tile) :]
        channels = len(patches[0][0])
        for name, axes, shape, part in (
            ("image", "nc" + spatial, (count, channels, *tile), 0),
            ("classes", "n" + spatial, (count, *cropped), 1),
            ("weights", "n" + spatial, (count, *cropped), 2),
        ):
            stacked = np.stack([patch[part] for patch in patches])
            whole_patch, shard = (1, *shape[1:]), (min(count, PATCHES_PER_SHARD), *shape[1:])
            create_array(partial / name, axes, shape, stacked.dtype, whole_patch, shard)[...] = (
                stacked
            )
