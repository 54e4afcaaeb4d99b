"""Where the voxels of a medical volume lie in the patient, and the turn from a file's axes to ours.

Ours are those of the patient: planes go towards the head, rows towards the back and columns towards
the left. Of an oblique volume they are the nearest axes: nothing is interpolated, and turning is
undone exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

TOWARDS = {"L": "x", "R": "x", "P": "y", "A": "y", "S": "z", "I": "z"}
"""Axis that each direction in the patient is along; R, A and I go against ours."""

LARGEST_MM = 1000.0
"""A voxel as large as a patient is a mistake of the header."""


@dataclass(frozen=True)
class Placement:
    """Grid of a volume in the patient, as SimpleITK gives it: x first, in mm, LPS.

    Attributes
    ----------
    size, spacing_mm, origin_mm : tuple of 3
    direction : tuple of 9 float
        Row by row; column k is where the k-th axis of the file goes.
    """

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def from_json(cls, facts: Mapping[str, Sequence[Any]]) -> Self:
        """Placement of what `to_json` returned."""
        return cls(**{key: tuple(value) for key, value in facts.items()})

    def to_json(self) -> dict[str, Any]:
        """Return plain builtins."""
        return {key: list(value) for key, value in asdict(self).items()}

    @property
    def code(self) -> str:
        """Direction in the patient that each axis of the file goes to, x first: LPS is ours."""
        import SimpleITK as sitk

        orient = sitk.DICOMOrientImageFilter
        return str(orient.GetOrientationFromDirectionCosines(self.direction))

    @property
    def axes(self) -> str:
        """Our name of each axis of the file's array, of which the last is the file's first."""
        return "".join(TOWARDS[letter] for letter in reversed(self.code))

    @property
    def flipped(self) -> tuple[bool, ...]:
        """Whether each axis of the file's array goes against ours."""
        return tuple(letter in "RAI" for letter in reversed(self.code))

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Extents along our z, y and x."""
        of = dict(zip(self.axes, reversed(self.size), strict=True))
        return tuple(of[axis] for axis in "zyx")

    @property
    def voxel_size_um(self) -> dict[str, float]:
        """Voxel size along our axes."""
        return {
            axis: 1000 * size
            for axis, size in zip(self.axes, reversed(self.spacing_mm), strict=True)
        }

    @property
    def corners(self) -> NDArray[np.float64]:
        """Places (8, 3), x first, of the outermost voxels, in the order of our axes, in mm."""
        steps = np.reshape(self.direction, (3, 3)) * self.spacing_mm
        last = np.array(self.size) - 1
        ends = np.array(list(product((0, 1), repeat=3)))  # along our z, y and x
        ends = ends[:, ["zyx".index(axis) for axis in reversed(self.axes)]]
        places: NDArray[np.float64] = ((ends ^ self.flipped[::-1]) * last) @ steps.T
        return places + self.origin_mm

    def in_file_order(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return a volume (z, y, x) along our axes as the file's array has it."""
        turned = volume.transpose(["zyx".index(axis) for axis in self.axes])
        against = tuple(axis for axis, flipped in enumerate(self.flipped) if flipped)
        return np.ascontiguousarray(np.flip(turned, against))


def of_voxels(shape: Sequence[int], voxel_size_um: Mapping[str, float]) -> Placement:
    """Placement of a volume (z, y, x) of which only the size of voxels is known, else 1 mm."""
    return Placement(
        tuple(shape[::-1]),
        tuple(voxel_size_um.get(axis, 1000.0) / 1000 for axis in "xyz"),
        (0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )


def require_spacing(place: str, stated_mm: Sequence[float]) -> None:
    """Refuse a volume whose header tells no size of its voxels.

    Raises
    ------
    ValueError
        If a size is not above 0 and below 1 m.
    """
    if not all(0 < size < LARGEST_MM for size in stated_mm):
        found = " x ".join(f"{size:g}" for size in stated_mm)
        raise ValueError(
            f"{place}: voxels must be larger than 0 and smaller than {LARGEST_MM:g} mm: the header "
            f"says {found} (x, y, z); correct it (pixdim of NIfTI, ElementSpacing of MetaImage, "
            "PixelSpacing of DICOM)"
        )
