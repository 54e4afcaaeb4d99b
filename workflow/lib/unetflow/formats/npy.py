"""An array that NumPy wrote."""

from __future__ import annotations

import numpy as np

from unetflow.formats.source import Source, axes_by_number, readable, whole


def open_source(place: str, scene: str, level: str) -> Source:
    """Return the array of a `.npy` file, mapped into memory; its axes are those of AXES_BY_NUMBER.

    Raises
    ------
    ValueError
        If the file is cut, or holds objects.
    """
    whole(place, scene, level)
    with readable(place, "NumPy file"):
        array = np.load(place, mmap_mode="r")
    return Source(array, axes_by_number(place, array.shape))
