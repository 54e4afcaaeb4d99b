"""Deformations: random displacements on a coarse grid, composed with rotation, zoom and shift.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, section 3.1: random displacement
       vectors on a coarse 3 by 3 grid, Gaussian with 10 pixels standard deviation, per-pixel
       displacements by bicubic interpolation.
.. [2] Çiçek et al. 2016, DOI 10.1007/978-3-319-46723-8_49: vectors 32 voxels apart, deviation 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unetflow.settings.training import PatchesSettings


@dataclass(frozen=True)
class Deformation:
    """Where the pixels of a patch are read from: `offset + matrix @ (place + displacement)`.

    Attributes
    ----------
    matrix : float64 (n, n)
        Rotation and zoom.
    offset : float64 (n,)
        Coordinate in the image that the patch's centre shows without displacement.
    displacement : float32 (n, *shape)
        In pixels of the patch, whose places count from its centre.
    """

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    displacement: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the patch."""
        return self.displacement.shape[1:]

    def points(self) -> NDArray[np.float64]:
        """Coordinates (n, *shape) in the frame of the image."""
        places = [np.arange(extent) - (extent - 1) / 2 for extent in self.shape]
        moved = np.stack(np.meshgrid(*places, indexing="ij")) + self.displacement
        shift = self.offset.reshape(-1, *(1,) * len(self.shape))
        return np.asarray(np.tensordot(self.matrix, moved, 1) + shift)

    def without(self, frame: Sequence[int]) -> Deformation:
        """Return the deformation of a patch without a frame as wide as given along each axis."""
        inside = (slice(n, extent - n) for n, extent in zip(frame, self.shape, strict=True))
        core = np.ascontiguousarray(self.displacement[:, *inside])
        return Deformation(self.matrix, self.offset, core)

    def folded(self) -> float:
        """Fraction of the patch where it folds: where the Jacobian determinant is not positive.

        By differences between neighbours at some 32 places along each axis.
        """
        count, shift = len(self.shape), self.displacement
        places = [np.arange(0, max(extent - 1, 1), -(-extent // 32)) for extent in self.shape]
        vectors = np.arange(count)
        here = shift[np.ix_(vectors, *places)]
        jacobian = np.empty((*here.shape[1:], count, count))
        for axis, extent in enumerate(self.shape):
            ahead = list(places)
            ahead[axis] = np.minimum(places[axis] + 1, extent - 1)
            jacobian[..., axis] = np.moveaxis(shift[np.ix_(vectors, *ahead)] - here, 0, -1)
        determinant = np.linalg.det(jacobian + np.eye(count)) * abs(np.linalg.det(self.matrix))
        return float((determinant <= 0).mean())


@cache
def spline_matrix(extent: int, grid: int, spacing: float) -> NDArray[np.float64]:
    """Matrix (extent, grid) that interpolates values at grid points along an axis.

    The cubic B-spline through the points, mirrored at its ends; the first point lies on the first
    sample, the others `spacing` samples further each.
    """
    places = np.arange(extent)[np.newaxis] / spacing
    units = np.eye(grid)
    columns = [ndimage.map_coordinates(unit, places, order=3, mode="mirror") for unit in units]
    return np.stack(columns, axis=1)


def displacements(
    shape: Sequence[int], settings: PatchesSettings, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Smooth random displacements (axes, *shape) in pixels."""
    matrices = []
    for extent in shape:
        spacing = settings.elastic_spacing or max(extent - 1, 1) / (settings.elastic_grid - 1)
        grid = max(2, math.ceil((extent - 1) / spacing) + 1)
        matrices.append(spline_matrix(extent, grid, spacing))
    grids = [matrix.shape[1] for matrix in matrices]
    field = generator.normal(0, settings.elastic_sigma, (len(shape), *grids))
    for axis, matrix in enumerate(matrices[:-1], start=1):
        field = np.moveaxis(np.tensordot(matrix, field, (1, axis)), 0, axis)
    # The largest product comes last, in the precision of the result and with its layout.
    return np.ascontiguousarray(field, np.float32) @ matrices[-1].T.astype(np.float32)


def draw(
    shape: Sequence[int],
    centre: Sequence[float],
    settings: PatchesSettings,
    generator: np.random.Generator,
) -> Deformation:
    """Draw a deformation: elastic displacement, zoom, rotation in the plane, mirror and shift.

    Parameters
    ----------
    shape : sequence of int
        Extents of the patch.
    centre : sequence of float
        Image coordinate of the patch's centre.
    """
    displacement = np.zeros((len(shape), *shape), np.float32)
    if settings.elastic_sigma > 0:
        displacement = displacements(shape, settings, generator)
    limit = np.log1p(settings.scaling)
    zoom = np.exp(generator.uniform(-limit, limit))
    angle = np.deg2rad(generator.uniform(-settings.rotation_degrees, settings.rotation_degrees))
    matrix = np.eye(len(shape)) * zoom
    matrix[-2:, -2:] = (
        np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * zoom
    )
    if settings.mirror:
        matrix = matrix * generator.choice([-1.0, 1.0], len(shape))
    # The middle of an even extent lies between two pixels.
    middle = [place + (extent - 1) % 2 / 2 for place, extent in zip(centre, shape, strict=True)]
    return Deformation(matrix, np.array(middle, np.float64), displacement)
