"""Axis-aligned orientations of an image: which axes change places, and which are reversed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

from numpy.typing import NDArray

Region = tuple[slice, ...]


@dataclass(frozen=True)
class Orientation:
    """A way to turn the last axes of an array.

    Attributes
    ----------
    axes : tuple of int
        Axis `i` of the turned image is axis `axes[i]` of the image.
    reverse : tuple of bool
        Which axes of the turned image then run backwards.
    """

    axes: tuple[int, ...]
    reverse: tuple[bool, ...]

    def turn(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return a turned view of an array (..., *spatial)."""
        lead = pixels.ndim - len(self.axes)
        turned = pixels.transpose(*range(lead), *(lead + axis for axis in self.axes))
        view: NDArray[Any] = turned[self._steps()]
        return view

    def turn_back(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Undo `turn`."""
        lead = pixels.ndim - len(self.axes)
        back = (self.axes.index(axis) for axis in range(len(self.axes)))
        straight: NDArray[Any] = pixels[self._steps()]
        return straight.transpose(*range(lead), *(lead + axis for axis in back))

    def permuted(self, extents: Sequence[int]) -> tuple[int, ...]:
        """Extents, of an image or a tile, in the order of the turned axes."""
        return tuple(extents[axis] for axis in self.axes)

    def region(self, region: Region, shape: Sequence[int]) -> Region:
        """Where a region of an image of these extents lies in the turned image."""
        moved = ((region[axis], shape[axis]) for axis in self.axes)
        return tuple(
            mirror(part, extent) if reverse else part
            for (part, extent), reverse in zip(moved, self.reverse, strict=True)
        )

    def region_back(self, region: Region, shape: Sequence[int]) -> Region:
        """Where a region of the turned image lies in the image of these extents."""
        straight = [
            mirror(part, shape[axis]) if reverse else part
            for part, axis, reverse in zip(region, self.axes, self.reverse, strict=True)
        ]
        return tuple(straight[self.axes.index(axis)] for axis in range(len(self.axes)))

    def _steps(self) -> tuple[Any, ...]:
        return (..., *(slice(None, None, -1 if reverse else 1) for reverse in self.reverse))


def mirror(part: slice, extent: int) -> slice:
    """Return the same samples counted from the other end of the axis."""
    return slice(extent - part.stop, extent - part.start)


def bounds(region: Region) -> list[list[int]]:
    """Start and stop along each axis."""
    return [[part.start, part.stop] for part in region]


def orientations(count: int, dimensions: int) -> list[Orientation]:
    """Return the orientations of an image of 2 or 3 spatial axes that a mean is taken over.

    Parameters
    ----------
    count : int
        1, as it is; 4, the turns of the plane by 90°; 8, these and their mirror images; 16, these
        with the planes in both orders; 48, all symmetries of a cube.

    Raises
    ------
    ValueError
        If the image has no so many.
    """
    every = [
        Orientation(axes, reverse)
        for axes in permutations(range(dimensions))
        for reverse in product((False, True), repeat=dimensions)
    ]
    lead = tuple(range(dimensions - 2))
    upright = [one for one in every if one.axes[: len(lead)] == lead]
    in_plane = [one for one in upright if not any(one.reverse[: len(lead)])]
    # Two axes that change places are a mirror image, and so is an odd number of reversals.
    turns = [
        one for one in in_plane if (one.axes[-2] > one.axes[-1]) == (sum(one.reverse) % 2 == 1)
    ]
    found = {1: every[:1], 4: turns, 8: in_plane, 16: upright, 48: every}.get(count, [])
    if not found or len(found) != count:
        raise ValueError(
            f"orientations must be 1, 4 or 8, or 16 or 48 of a volume by a 3D network: got {count} "
            f"in {dimensions}D; lower predict.orientations"
        )
    return found
