"""A fluorescent stack as light reaches the camera, and as a sCMOS camera counts it in dim light.

References
----------
.. [1] Huang et al. 2013, DOI 10.1038/nmeth.2488: noise of sCMOS cameras, Poisson and Gaussian.
.. [2] Weigert et al. 2018, DOI 10.1038/s41592-018-0216-7: restoration of dim stacks by a network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

OFFSET = 100.0
"""Counts of a pixel without light."""
ELECTRONS_PER_COUNT = 0.46
READ_NOISE = 1.6
"""Standard deviation, electrons, as of the cameras of [1]."""
BRIGHTEST = 30.0
"""Electrons of the brightest percent of the pixels: an exposure that does not bleach."""
HAZE = 3.0
"""Electrons of the light from elsewhere, on average."""
BLUR = (1.0, 1.3, 1.3)
"""Standard deviation of the microscope's point spread, in planes, rows and columns."""


def fluorescence(shape: Sequence[int], seed: int) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Return a noisy stack and the mean of infinitely many of it, both in counts.

    Filaments that wind through a cell, vesicles and haze, blurred by the microscope. Each pixel is
    the Poisson number of its electrons plus Gaussian read noise ([1]), by the camera's gain and
    offset, rounded; its true value is what that is on average.

    Parameters
    ----------
    shape : sequence of int
        (rows, columns) or (planes, rows, columns).
    seed : int
        Same seed, same bytes.
    """
    rng = np.random.default_rng(seed)
    extents = tuple(shape) if len(shape) == 3 else (1, *shape)
    light = filaments(extents, rng) + vesicles(extents, rng)
    light = ndimage.gaussian_filter(light, BLUR, mode="constant")
    light *= BRIGHTEST / max(float(np.percentile(light, 99)), 1e-6)
    smooth = ndimage.gaussian_filter(rng.standard_normal(extents, np.float32), (4, 24, 24))
    electrons = light + HAZE * np.exp(0.4 * smooth / smooth.std())
    seen = rng.poisson(electrons) + READ_NOISE * rng.standard_normal(extents)
    counts = np.clip(np.rint(OFFSET + seen / ELECTRONS_PER_COUNT), 0, 65535).astype(np.uint16)
    clean = np.asarray(OFFSET + electrons / ELECTRONS_PER_COUNT, np.float32)
    return counts.reshape(tuple(shape)), clean.reshape(tuple(shape))


def filaments(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Light (planes, rows, columns) of curves of slowly changing direction, a point a half pixel.

    They climb slowly, so that each is in focus in some planes.
    """
    planes, rows, columns = shape
    count, length = max(3, planes * rows * columns // 3000), 2 * (rows + columns)
    heading = rng.uniform(0, 2 * np.pi, (count, 1))
    heading = heading + np.cumsum(rng.normal(0, 0.03, (count, length)), axis=1)
    climb = np.broadcast_to(rng.normal(0, 0.02, (count, 1)), heading.shape)
    steps = 0.5 * np.stack([climb, np.sin(heading), np.cos(heading)])
    start = rng.uniform(0, 1, (3, count, 1)) * np.reshape(shape, (3, 1, 1))
    return points(start + np.cumsum(steps, axis=2), rng.uniform(0.4, 1, (count, 1)), shape)


def vesicles(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Light of points that are as bright as some pixels of a filament."""
    count = max(3, int(np.prod(shape)) // 2500)
    place = rng.uniform(0, 1, (3, count)) * np.reshape(shape, (3, 1))
    return points(place, rng.gamma(2, 5, count), shape)


def points(
    place: NDArray[np.float64], brightness: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Light of points (3, ...) of a brightness; those outside are left out."""
    index = np.floor(place).astype(int).reshape(3, -1)
    bright = np.broadcast_to(brightness, place.shape[1:]).ravel()
    inside = ((index >= 0) & (index < np.reshape(shape, (3, 1)))).all(axis=0)
    flat = np.ravel_multi_index(tuple(index[:, inside]), shape)
    light = np.bincount(flat, weights=bright[inside], minlength=int(np.prod(shape)))
    return light.reshape(shape).astype(np.float32)
