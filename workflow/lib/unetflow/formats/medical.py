"""NIfTI and MetaImage volumes and series of DICOM slices, read with SimpleITK."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from unetflow.formats.dicom import open_series, series_in
from unetflow.formats.itk import KIND, Regions, placement_in, reader_of, streams
from unetflow.formats.metaimage import SIZES, is_metaimage, read_fields, require_pixels
from unetflow.formats.nifti_header import is_nifti, read_header, require_bytes
from unetflow.formats.placement import Placement, require_spacing
from unetflow.formats.source import Source, readable, whole


def open_source(place: str, scene: str, level: str) -> Source:
    """Return the image of a `.nii`, `.nii.gz`, `.mha` or `.mhd` file, or of a folder of slices.

    Axes are yx, zyx or tzyx by their number, those of a volume turned to the patient's, see
    `placement`; components of a pixel are channels. SimpleITK gives the spacing in millimetres. The
    scene of a folder is one of its series.

    Raises
    ------
    ValueError
        If SimpleITK is not installed, the file cannot be read, or its voxels have no size.
    """
    require_simpleitk(place)
    if Path(place).is_dir():
        return open_series(place, scene, level)
    whole(place, scene, level)
    with readable(place, KIND):
        reader = reader_of(place)
        shape, components = reader.GetSize()[::-1], reader.GetNumberOfComponents()
        stated = stated_mm(place, reader)
        if place.lower().endswith(".nii"):
            require_bytes(read_header(place), Path(place).stat().st_size)
        placement = placement_in(reader) if len(shape) > 2 else None
        flipped = (False,) * (len(shape) - 3) + placement.flipped if placement else ()
        pixels = Regions(place, shape, reader, streams(place, components), flipped)
        if is_metaimage(place):
            require_pixels(place, math.prod(pixels.shape) * pixels.dtype.itemsize)
    require_spacing(place, stated)
    samples = "c" * (components > 1)
    if placement is None:
        sizes = zip("xy", reader.GetSpacing(), strict=True)
        return Source(pixels, "yx" + samples, {axis: 1000 * size for axis, size in sizes})
    axes = "t" * (len(shape) - 3) + placement.axes + samples
    return Source(pixels, axes, placement.voxel_size_um)


def require_simpleitk(place: str) -> None:
    """Refuse a medical volume where what reads it is missing."""
    try:
        import SimpleITK  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"{place}: NIfTI, MetaImage and DICOM need SimpleITK: found none; install "
            "unetflow[medical]"
        ) from error


def placement_of(place: str, scene: str = "") -> Placement | None:
    """Where the voxels of a medical volume lie; None of a plane.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    require_simpleitk(place)
    if Path(place).is_dir():
        return series_in(place, scene)[1]
    with readable(place, KIND):
        reader = reader_of(place)
        return placement_in(reader) if reader.GetDimension() > 2 else None


def stated_mm(place: str, reader: Any) -> tuple[float, ...]:
    """Sizes of voxels, x first, that a file itself states; 0 of those that SimpleITK guesses."""
    if is_nifti(place):
        return read_header(place).spacing_mm
    known = not is_metaimage(place) or any(name in read_fields(place) for name in SIZES)
    return tuple(size * known for size in reader.GetSpacing()[:3])
