"""What each format gives: pixels that are read when asked for, their axes, sizes and channels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from unetflow.store import Pixels

AXES_BY_NUMBER = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}
"""Axes of formats that name none."""

SAMPLES = "s"
"""What tifffile and bioio call the axis of a pixel's colours."""

MICROMETRES = {
    "angstrom": 1e-4,
    "å": 1e-4,
    "picometer": 1e-6,
    "pm": 1e-6,
    "nanometer": 1e-3,
    "nm": 1e-3,
    "micrometer": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "um": 1.0,
    "\u00b5m": 1.0,  # the micro sign
    "\u03bcm": 1.0,  # the Greek letter
    "\\u00b5m": 1.0,  # as ImageJ escapes it
    "millimeter": 1e3,
    "mm": 1e3,
    "centimeter": 1e4,
    "cm": 1e4,
    "meter": 1e6,
    "m": 1e6,
    "inch": 25400.0,
    "in": 25400.0,
}
"""Micrometres per unit, by the names of OME-NGFF and the symbols of OME-XML and ImageJ."""


INSIDE_HDF5 = re.compile(r"(?P<file>.+?\.(?:h5|hdf5|hdf))(?::(?P<dataset>.+))?", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One scene and level of a file, as the file holds it.

    `array` is indexed with an int or a slice for each axis; `axes` are letters of "tczyx" in the
    file's own order; `channels` are names, as far as the file has them.
    """

    array: Pixels
    axes: str
    voxel_size_um: dict[str, float] = field(default_factory=dict)
    channels: Sequence[str] = ()


def micrometres(size: float | str | None, unit: str | None) -> float | None:
    """Length in micrometres; None where it is none, or its unit is unknown."""
    factor = MICROMETRES.get((unit or "").strip().lower().replace("metre", "meter"))
    length = math.nan if size is None or factor is None else float(size) * factor
    return length if math.isfinite(length) and length > 0 else None


def known(sizes: dict[str, float | None]) -> dict[str, float]:
    """Voxel sizes without those that are unknown."""
    return {axis: size for axis, size in sizes.items() if size is not None}


def divided(place: str) -> tuple[str, str]:
    """File, and the dataset inside that `FILE.h5:/path/of/dataset` names, else nothing."""
    match = INSIDE_HDF5.fullmatch(place)
    return (match["file"], match["dataset"] or "") if match else (place, "")


def axes_by_number(place: str, shape: Sequence[int]) -> str:
    """Axes of an array whose format names none.

    Raises
    ------
    ValueError
        If it has fewer than 2 or more than 5.
    """
    if len(shape) not in AXES_BY_NUMBER:
        raise ValueError(
            f"{place}: an array without named axes must have 2 to 5: got {tuple(shape)}; convert "
            "it to OME-Zarr"
        )
    return AXES_BY_NUMBER[len(shape)]


def index_of(cell: str, what: str, count: int, place: str, names: Sequence[str] = ()) -> int:
    """Index that a cell of the sheet names: a name that there is once, else a number from 0 on.

    Raises
    ------
    ValueError
        Saying how many, or which, there are.
    """
    if list(names).count(cell) == 1:
        return list(names).index(cell)
    if cell.isdecimal() and int(cell) < count:
        return int(cell)
    raise ValueError(
        f"{place}: {what} must be {choices(count, names)}: got {cell!r}; correct the sheet"
    )


def only(cell: str, what: str, count: int, place: str, names: Sequence[str] = ()) -> int:
    """Index that a cell of the sheet names; it may be empty where there is but one.

    Raises
    ------
    ValueError
        If nothing is chosen of several, or what there is not.
    """
    if cell:
        return index_of(cell, what, count, place, names)
    if count == 1:
        return 0
    noun = "time point" if what == "time" else what
    raise ValueError(
        f"{place}: a volume must be one {noun}: found {count}; name {choices(count, names)} in "
        f"the column {what}"
    )


def choices(count: int, names: Sequence[str]) -> str:
    """What may stand in a cell."""
    numbers = "0, the only one," if count == 1 else f"a number from 0 to {count - 1}"
    listed = ", ".join(name for name in names if name)
    return f"{numbers} or one of {listed}" if listed else numbers


def whole(place: str, scene: str, level: str) -> None:
    """Refuse the choice of a scene or level in a format that has one of each."""
    only(scene, "scene", 1, place)
    only(level, "level", 1, place)


@contextmanager
def readable(place: str, kind: str) -> Iterator[None]:
    """Turn what is raised inside into one line that says what the place must be.

    Raises
    ------
    ValueError
        For any error: decoders raise whatever they like for a broken file.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ImportError) and "://" in place:
            raise ValueError(
                f"{place}: a URL must be one that can be read here: {error}; install "
                "unetflow[remote]"
            ) from error
        reason = " ".join(str(error).split()) or repr(error)
        raise ValueError(
            f"{place}: must be a readable {kind}: {reason}; replace it or convert it to OME-Zarr"
        ) from error
