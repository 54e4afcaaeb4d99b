"""Headers of NIfTI files: what SimpleITK says otherwise, or leaves out.

It takes 1 mm for a size that is missing, 0 for values that were cut off, and for NaN.
"""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

ENDINGS = (".nii", ".nii.gz")
NIFTI_1, NIFTI_2 = 348, 540
"""Bytes of a header, which is what it begins with."""

REAL = {16: "f4", 64: "f8"}
"""Codes of the types that hold NaN and infinite values, as components of a pixel too."""

BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class NiftiHeader:
    """Part of a header.

    Attributes
    ----------
    spacing_mm : tuple of float
        x first, of up to three axes; 0 where it is no number.
    real : str
        Type of the stored values, where it may hold such as are not finite, else empty.
    offset, need : int
        Bytes before the values, and of the whole file.
    """

    spacing_mm: tuple[float, ...]
    real: str
    offset: int
    need: int


def is_nifti(place: str) -> bool:
    """Whether a file is one by its ending."""
    return place.lower().endswith(ENDINGS)


def opened(place: str) -> BinaryIO:
    """Open a file, without its compression."""
    opening: Any = gzip.open if place.lower().endswith(".gz") else open
    file: BinaryIO = opening(place, "rb")
    return file


def read_header(place: str) -> NiftiHeader:
    """Read the header of a file.

    Raises
    ------
    ValueError
        If it has none.
    """
    with opened(place) as file:
        content = file.read(NIFTI_2)
    for order in "<>":
        (size,) = struct.unpack_from(f"{order}i", content.ljust(4))
        if size not in (NIFTI_1, NIFTI_2) or len(content) < size:
            continue
        if size == NIFTI_1:
            count, *extents = struct.unpack_from(f"{order}8h", content, 40)
            code, bits, _, _, *spacing = struct.unpack_from(f"{order}hhhf3f", content, 70)
            (offset,) = struct.unpack_from(f"{order}f", content, 108)
        else:
            code, bits, count, *extents = struct.unpack_from(f"{order}hh8q", content, 12)
            spacing = [*struct.unpack_from(f"{order}3d", content, 112)]
            (offset,) = struct.unpack_from(f"{order}q", content, 168)
        start = max(int(offset), size)
        values = math.prod(max(1, extent) for extent in extents[:count])
        return NiftiHeader(
            tuple(step if math.isfinite(step) else 0.0 for step in spacing[: min(count, 3)]),
            order + REAL[code] if code in REAL else "",
            start,
            start + values * bits // 8,
        )
    raise ValueError("it has no header of NIfTI")


def require_bytes(header: NiftiHeader, found: int) -> None:
    """Refuse a file that was cut, of which SimpleITK reads the rest as 0.

    Raises
    ------
    ValueError
        If it has fewer bytes than its header says.
    """
    if found < header.need:
        raise ValueError(f"it was cut: its header says {header.need} bytes, it has {found}")


def read_through(place: str) -> bool:
    """Read all of a file, a block at a time; return whether its values are finite.

    Raises
    ------
    ValueError, OSError, EOFError
        If it was cut or changed.
    """
    header, finite = read_header(place), True
    with opened(place) as file:
        count = len(file.read(header.offset))
        for block in iter(lambda: file.read(BLOCK_BYTES), b""):
            if header.real:
                of = min(len(block), max(0, header.need - count)) // int(header.real[-1])
                finite &= bool(np.isfinite(np.frombuffer(block, header.real, of)).all())
            count += len(block)
    require_bytes(header, count)
    return finite


def stored_values(place: str, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Values of a file that is not compressed, as they are stored; None of integers.

    Parameters
    ----------
    shape : tuple of int
        Of the array, x last.
    """
    header = read_header(place)
    if not header.real:
        return None
    return np.memmap(place, header.real, "r", header.offset, shape)
