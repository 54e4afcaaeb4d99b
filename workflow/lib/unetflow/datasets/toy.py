"""Bright circles and rectangles in noise: what a network learns in a minute.

References
----------
.. [1] J. Akeret et al.: Radio frequency interference mitigation using deep convolutional neural
       networks. Astronomy and Computing 2017, DOI 10.1016/j.ascom.2017.01.002: tf_unet, whose
       generator of toy problems draws such images.
"""

import numpy as np
from numpy.typing import NDArray

BACKGROUND, NOISE = 60.0, 20.0
"""Grey level, and standard deviation of the noise on all levels ([1])."""
BRIGHTER = (40.0, 120.0)
"""By which levels objects are brighter."""
PLANE = 4
"""Distance of neighbouring planes in pixels."""


def draw_shapes(
    shape: tuple[int, int, int], rng: np.random.Generator, round_ones: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Return an image of `(planes, rows, columns)` and its instances, of which none overlap.

    Objects lie wholly in their planes; of a stack they are balls and cuboids.
    """
    planes, rows, columns = shape
    instances = np.zeros(shape, np.uint32)
    level = np.full(shape, BACKGROUND, np.float32)
    smallest = min(rows, columns) / 32 + 2
    tries = round(rows * columns / (40 * smallest**2) * (planes + 7) / 8) + 1
    places = np.ogrid[:planes, :rows, :columns]
    found = 0
    for _ in range(tries):
        halves = smallest * rng.uniform(1, 3, 3)
        if round_ones:
            halves[:] = halves[0]
        halves[0] /= PLANE
        margin = np.minimum(halves, [0, np.inf, np.inf])
        centre = rng.uniform(margin, np.array(shape) - 1 - margin)
        apart = [
            ((place - middle) / half) ** 2
            for place, middle, half in zip(places, centre, halves, strict=True)
        ]
        distance = sum(apart) if round_ones else np.maximum(np.maximum(*apart[:2]), apart[2])
        inside = np.broadcast_to(distance <= 1, shape)
        if inside.any() and not instances[inside].any():
            found += 1
            instances[inside] = found
            level[inside] += rng.uniform(*BRIGHTER)
    level += NOISE * rng.standard_normal(shape, np.float32)
    return np.clip(np.rint(level), 0, 255).astype(np.uint8), instances
