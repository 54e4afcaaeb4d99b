"""The mean prediction over evenly spaced rotations of a whole image, as in the paper.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, section 4: seven rotations.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From pixels (channel, rows, columns) to values (class, rows, columns) of the same plane."""


def mean_over_rotations(
    predict: Predict, pixels: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """Mean of what is predicted of a plane turned by 0, 360/count, ... degrees, turned back.

    The plane is turned about its centre on a canvas that holds it in any direction, and mirrored
    beyond its border, by cubic splines; predictions are turned back linearly, so that they stay
    within their bounds. The canvas and the plane have one memory each: it is for images that fit.

    Parameters
    ----------
    pixels : float32 array (channel, rows, columns)
    """
    total = np.array(predict(pixels), np.float32)
    rows, columns = pixels.shape[1:]
    side = math.ceil(math.hypot(rows, columns)) + 2
    for number in range(1, count):
        angle = 2 * math.pi * number / count
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        canvas = np.stack([turned(plane, turn, (side, side), order=3) for plane in pixels])
        found = predict(canvas)
        for target, plane in zip(total, found, strict=True):
            target += turned(plane, turn.T, (rows, columns), order=1)
    return total / np.float32(count)


def turned(
    plane: NDArray[np.float32], turn: NDArray[np.float64], shape: tuple[int, int], order: int
) -> NDArray[np.float32]:
    """Return a plane turned about its centre, on a canvas of a shape with the same centre."""
    centre = (np.array(plane.shape) - 1) / 2
    offset = centre - turn @ ((np.array(shape) - 1) / 2)
    found = affine_transform(plane, turn, offset, shape, order=order, mode="mirror")
    return np.asarray(found, np.float32)
