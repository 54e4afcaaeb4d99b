"""Which planes of a stack teach and which are tested, where an experiment leaves some of them out.

References
----------
.. [1] Çiçek et al. 2016, DOI 10.1007/978-3-319-46723-8_49, section 3.2: networks learn from some
   planes of a volume and are tested on others of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow.store import NOT_ANNOTATED

Every = Mapping[Any, int]
"""Across each axis named, the distance of annotated planes; the first is in the middle of it."""


def is_tested(planes: NDArray[np.integer], tested: int | None) -> NDArray[np.bool_]:
    """Whether planes across the first axis, by their numbers, are held out: every `tested`-th."""
    if tested is None:
        return np.zeros(np.shape(planes), np.bool_)
    return np.asarray(planes % tested == tested // 2)


def is_annotated(
    planes: NDArray[np.integer], every: int, tested: int | None = None
) -> NDArray[np.bool_]:
    """Whether planes across an axis are among every n-th of those that are not tested."""
    before = 0 if tested is None else (planes + tested - 1 - tested // 2) // tested
    return np.asarray((planes - before) % every == every // 2) & ~is_tested(planes, tested)


def untaught(
    window: tuple[slice, ...], axes: str, annotated: Every | None, tested: int | None
) -> NDArray[np.bool_]:
    """Which voxels of a window teach nothing, in a shape that broadcasts to the window's.

    Tested planes do not, wherever annotated ones cross them, nor what lies in no annotated plane.

    Parameters
    ----------
    axes : str
        Of the window.
    annotated : mapping, optional
        Without, all voxels are annotated.
    tested : int, optional
        Without, no plane is held out.
    """
    numbers = [np.arange(part.start, part.stop) for part in window]
    apart = is_tested(numbers[0], tested).reshape(-1, *(1,) * (len(axes) - 1))
    taught = np.array(annotated is None)
    for axis, every in (annotated or {}).items():
        place = axes.index(axis)
        known = is_annotated(numbers[place], every, None if place else tested)
        taught = taught | known.reshape(-1, *(1,) * (len(axes) - 1 - place))
    return np.asarray(apart | ~taught)


def count_planes(shape: Mapping[str, int], annotated: Every | None, tested: int | None) -> int:
    """Return how many planes of a stack are annotated and teach, those of all axes together.

    Where all are, those across the first axis, which show every voxel.

    Parameters
    ----------
    shape : mapping of spatial axis to extent, in order
    """
    first, *_ = shape
    return sum(
        int(is_annotated(np.arange(shape[axis]), every, tested if axis == first else None).sum())
        for axis, every in ({first: 1} if annotated is None else annotated).items()
    )


@dataclass(frozen=True)
class HeldOutPlanes:
    """True classes of a stack, read when indexed: 255 but in the planes that are held out."""

    classes: Any
    tested: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents along all axes."""
        return tuple(self.classes.shape)

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[np.uint8]:
        """Classes of a region, with a slice or a number for each axis."""
        held_out = is_tested(np.arange(self.shape[0])[index[0]], self.tested)
        return np.where(held_out[..., None, None], self.classes[index], np.uint8(NOT_ANNOTATED))
