"""A synthetic patient in four modalities: a lesion of rim and core in a body."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CLASSES = ("background", "rim", "core")
BODY, RIM, CORE = 0, 1, 2
GREY = np.array(
    [
        # body, rim, core: no modality tells all three apart as well as the four together do
        [400, 540, 480],
        [500, 430, 410],
        [500, 490, 630],
        [380, 490, 530],
    ],
    np.float64,
)
BIAS = 0.25
"""Largest part by which the coil's field brightens or darkens the corners."""
NOISE = 45.0
"""Standard deviation; contrasts are up to three times as much."""


def phantom(
    shape: Sequence[int], voxel_size: Sequence[float], seed: int
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Return a body with one lesion, seen by four modalities, and its classes.

    Body, lesion and core are ellipsoids in space, so that they look squeezed along an axis of
    large voxels. Each modality has a smooth field of its own, and noise. What is outside the body
    is 0, as in scans of which the skull was taken away; all in it is above 0.

    Parameters
    ----------
    shape : (planes, rows, columns)
    voxel_size : three float
        In any unit.
    seed : int
        Same seed, same bytes.

    Returns
    -------
    pixels : int16 (4, planes, rows, columns)
    classes : uint8 (planes, rows, columns)
        0 beside the lesion, 1 rim, 2 core.
    """
    rng = np.random.default_rng(seed)
    extent = np.multiply(shape, voxel_size)
    place = [
        (np.arange(count) + 0.5) * size - half
        for count, size, half in zip(shape, voxel_size, extent / 2, strict=True)
    ]
    space = np.stack(np.meshgrid(*place, indexing="ij"))
    body = inside(space, np.zeros(3), 0.46 * extent)
    radius = extent.min() * rng.uniform(0.16, 0.22)
    stretched = radius * rng.uniform(0.85, 1.2, 3)
    centre = rng.uniform(-0.17, 0.17, 3) * extent
    lesion = inside(space, centre, stretched) & body
    core = inside(space, centre + 0.15 * radius * rng.uniform(-1, 1, 3), 0.55 * stretched)
    classes = (lesion.astype(np.uint8) + (lesion & core)).astype(np.uint8)
    pixels = np.zeros((len(GREY), *shape), np.int16)
    for channel, greys in enumerate(GREY):
        level = greys[classes] * field(space / extent.reshape(-1, 1, 1, 1), rng)
        level += NOISE * rng.standard_normal(tuple(shape))
        pixels[channel] = np.where(body, np.clip(np.rint(level), 1, 2**15 - 1), 0)
    return pixels, classes


def inside(
    space: NDArray[np.float64], centre: NDArray[np.float64], radii: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Where an ellipsoid is."""
    away = (space - centre.reshape(-1, 1, 1, 1)) / radii.reshape(-1, 1, 1, 1)
    return np.asarray((away**2).sum(axis=0) <= 1)


def field(space: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth factor around 1: a plane and a paraboloid over a box of side 1 around 0."""
    slope, bend = rng.uniform(-BIAS, BIAS, (2, 3))
    slope, bend = (part.reshape(-1, 1, 1, 1) for part in (slope, bend))
    return np.asarray(1 + (slope * space + 2 * bend * (space**2 - 1 / 12)).sum(axis=0) / 2)
