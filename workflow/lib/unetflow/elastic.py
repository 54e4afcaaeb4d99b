"""Elastic deformation: random displacements on a coarse grid, composed into one resampling.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, section 3.1: random displacement
       vectors on a coarse 3 by 3 grid, Gaussian with 10 pixels standard deviation, per-pixel
       displacements by bicubic interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from unetflow.geometry import mirrored
from unetflow.settings import PatchesSettings


def spline_matrix(extent: int, grid: int) -> NDArray[np.float64]:
    """Matrix (extent, grid) that interpolates values at grid points spread over the axis.

    A spline of degree 3 through the grid points (2 or 1 where there are only three or two), whose
    first and last point lie on the first and last sample.
    """
    knots = np.linspace(0, extent - 1, grid)
    spline = make_interp_spline(knots, np.eye(grid), k=min(3, grid - 1))
    return np.asarray(spline(np.arange(extent)))


def displacements(
    shape: Sequence[int], sigma: float, grid: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Smooth random displacements (axes, *shape) in pixels."""
    field = generator.normal(0, sigma, (len(shape), *(grid,) * len(shape)))
    for axis, extent in enumerate(shape, start=1):
        field = np.moveaxis(np.tensordot(spline_matrix(extent, grid), field, (1, axis)), 0, axis)
    return field


def coordinates(
    shape: Sequence[int],
    centre: Sequence[float],
    settings: PatchesSettings,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Where each pixel of a patch is read from, in the frame of the image: (axes, *shape).

    Shift, rotation in the plane, zoom and elastic displacement are composed, so that the image is
    interpolated once.

    Parameters
    ----------
    shape : sequence of int
        Extents of the patch.
    centre : sequence of float
        Image coordinate of the patch's centre.
    """
    points = np.stack(
        np.meshgrid(*(np.arange(extent) - (extent - 1) / 2 for extent in shape), indexing="ij")
    )
    if settings.elastic_sigma > 0:
        points += displacements(shape, settings.elastic_sigma, settings.elastic_grid, generator)
    limit = np.log1p(settings.scaling)
    points *= np.exp(generator.uniform(-limit, limit))
    angle = np.deg2rad(generator.uniform(-settings.rotation_degrees, settings.rotation_degrees))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points[-2:] = np.tensordot(turn, points[-2:], 1)
    # The middle of an even extent lies between two pixels.
    middle = [place + (extent - 1) % 2 / 2 for place, extent in zip(centre, shape, strict=True)]
    shift = np.reshape(middle, (-1, *(1,) * len(shape)))
    return np.asarray(points + shift)


def resample(
    image: NDArray[np.generic], points: NDArray[np.float64], order: int
) -> NDArray[np.float32]:
    """Values of an image at points, mirrored beyond its border without repeating the edge.

    Parameters
    ----------
    image : array of n axes
        One channel.
    points : float array (n, *shape)
        Coordinates in the frame of the image.
    order : 0, 1 or 3
        Nearest (no new values), linear or cubic spline.

    Notes
    -----
    Only the region that the points touch is filtered and interpolated. Its margin of 12 samples
    keeps what lies outside from reaching it: the spline's filter decays by 0.27 a sample.
    """
    margin = 12 if order > 1 else 1
    flat = points.reshape(len(points), -1)
    lower = np.floor(flat.min(axis=1)).astype(int) - margin
    upper = np.ceil(flat.max(axis=1)).astype(int) + margin + 1
    region = image[np.ix_(*map(mirrored, lower.tolist(), upper.tolist(), image.shape))].astype(
        np.float32
    )
    shifted = points - lower.reshape(-1, *(1,) * (points.ndim - 1))
    resampled = ndimage.map_coordinates(region, shifted, order=order, mode="mirror")
    return np.asarray(resampled, np.float32)
