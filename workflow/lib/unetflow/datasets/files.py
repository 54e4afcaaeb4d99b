"""Picture, mask and HDF5 files, read whole or refused with one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from imageio.v3 import imread
from numpy.typing import NDArray
from tifffile import TiffFile

from unetflow.outlines import ENDINGS, read_outlines
from unetflow.store import NOT_ANNOTATED
from unetflow.tiff import open_tiff
from unetflow.volumes import TIFF

Pixels = NDArray[Any]
Mask = NDArray[np.integer]

NODATA = 42113
"""Tag of GeoTIFF whose text is the value of pixels that nothing is known of."""


def read_picture(path: Path, plane: int | None = None) -> Pixels:
    """Pixels of a picture file, or of one plane of a TIFF stack.

    Raises
    ------
    ValueError
        If the file cannot be decoded.
    """
    try:
        if path.suffix.lower() in TIFF:
            with open_tiff(path) as file:
                return file.asarray(key=plane)
        # Trying every format leaves the file open, and ends with what the last one says of it.
        return imread(path, plugin="pillow")
    except Exception as error:  # decoders raise whatever they like for a broken file
        raise ValueError(
            f"{path}: must be a readable image: {error}; replace the file or fetch it again"
        ) from error


def require_known(path: Path, pixels: Pixels) -> None:
    """Refuse pixels of a file that it marks as missing; those that are NaN are refused as such.

    Raises
    ------
    ValueError
        If some have the value of GeoTIFF's tag nodata.
    """
    if path.suffix.lower() not in TIFF:
        return
    with TiffFile(path) as file:
        text = str(file.pages.first.tags.valueof(NODATA, default="nan")).strip("\0 ")
    value = np.float64(text)
    if pixels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            value = value.astype(pixels.dtype)  # the text may have more digits
    count = np.count_nonzero(pixels == value)
    if count:
        raise ValueError(
            f"{path}: a picture must be known everywhere: {count} of its {pixels.size} pixels have "
            f"the value {text} that its tag nodata marks as missing; crop it, or fill them"
        )


def read_mask(path: Path, extents: Sequence[int], channel: int | None) -> Mask:
    """Return a mask file, a picture or outlines of objects, of an image of known extents."""
    if path.suffix.lower() in ENDINGS:
        return read_outlines(path, extents)
    return grey(read_picture(path), channel, path, "mask_channel")


def page_count(path: Path) -> int:
    """Number of planes of a TIFF stack."""
    with open_tiff(path) as file:
        return len(file.pages)


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises
    ------
    ValueError
        If it is none.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: must be an HDF5 file: {error}; fetch it again") from error


def grey(pixels: Pixels, channel: int | None, path: Path, key: str = "channel") -> Pixels:
    """Return one channel of a picture; colour whose channels are alike counts as grey.

    Raises
    ------
    ValueError
        If the picture has colours and no channel is chosen.
    """
    if pixels.ndim != 3 or pixels.shape[-1] not in (3, 4):
        return pixels
    if channel is not None:
        if channel >= pixels.shape[-1]:
            raise ValueError(
                f"{path}: layout.{key} must be below the {pixels.shape[-1]} channels of the "
                f"picture: got {channel}"
            )
        return pixels[..., channel]
    colours = pixels[..., :3]
    if (colours == colours[..., :1]).all():
        return pixels[..., 0]
    raise ValueError(
        f"{path}: an image must be grey: got colour of shape {pixels.shape}; "
        f"convert it or choose one with layout.{key}"
    )


def class_map(values: Mapping[str, int], mask: Mask, file: Path) -> Mask:
    """Classes 0, 1, ... of a mask whose values are those of the named classes.

    Raises
    ------
    ValueError
        If the mask holds another value.
    """
    result = np.full(mask.shape, NOT_ANNOTATED, np.uint8)
    for number, value in enumerate(values.values()):
        result[mask == value] = number
    strange = np.setdiff1d(mask, [*values.values(), NOT_ANNOTATED])
    if strange.size:
        raise ValueError(
            f"{file}: mask values must be {dict(values)}: found {strange[:5].tolist()}; "
            "correct layout.classes or the mask"
        )
    return result
