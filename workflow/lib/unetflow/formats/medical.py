"""NIfTI and MetaImage volumes and series of DICOM slices, read with SimpleITK."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow.formats.metaimage import (
    SIZES,
    is_compressed,
    is_metaimage,
    read_fields,
    require_pixels,
)
from unetflow.formats.nifti_header import (
    is_nifti,
    read_header,
    read_through,
    require_bytes,
    stored_values,
)
from unetflow.formats.placement import Placement, require_spacing
from unetflow.formats.source import Source, only, readable, whole

KIND = "NIfTI or MetaImage file"
SERIES = "series of DICOM slices"
EVEN = 0.01
"""Part of a slice's distance by which the distances of slices may differ: positions are rounded."""

SOME_FILES = 16
"""Of a folder, in which a list or a readme may lie beside the slices."""
PIXEL_SIZES = ("0028|0030", "0018|1164")
"""PixelSpacing and ImagerPixelSpacing of DICOM; SimpleITK takes 1 mm where there is neither."""
SLICE_SIZES = ("0018|0050", "0018|0088")
"""SliceThickness and SpacingBetweenSlices, of a slice that is alone."""


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


def open_series(place: str, scene: str, level: str) -> Source:
    """Return the volume of a folder's series of slices."""
    only(level, "level", 1, place)
    names, placement = series_in(place, scene)
    with readable(place, SERIES):
        pixels = Slices(place, names, placement)
    require_spacing(place, placement.spacing_mm)
    return Source(pixels, placement.axes, placement.voxel_size_um)


def require_simpleitk(place: str) -> None:
    """Refuse a medical volume where what reads it is missing."""
    try:
        import SimpleITK  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"{place}: NIfTI, MetaImage and DICOM need SimpleITK: found none; install "
            "unetflow[medical]"
        ) from error


def is_series(path: Path) -> bool:
    """Whether a path is a folder of DICOM slices, told from some of its files."""
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        some = [entry for entry in islice(entries, SOME_FILES) if entry.is_file()]
    return any(has_magic(Path(entry.path)) for entry in some)


def has_magic(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


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


def placement_in(reader: Any) -> Placement:
    """Where the voxels of a file of 3 or 4 axes lie, of which the fourth is time."""
    rows = np.reshape(reader.GetDirection(), (reader.GetDimension(),) * 2)
    return Placement(
        tuple(reader.GetSize()[:3]),
        tuple(reader.GetSpacing()[:3]),
        tuple(reader.GetOrigin()[:3]),
        tuple(rows[:3, :3].ravel().tolist()),
    )


def series_in(folder: str, scene: str) -> tuple[Sequence[str], Placement]:
    """Files of a folder's series, from slice to slice, and where their voxels lie.

    Raises
    ------
    ValueError
        If it cannot be read, if slices are shifted along each other, or a file holds several.
    """
    import SimpleITK as sitk

    with readable(folder, SERIES):
        found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(folder)
    chosen = found[only(scene, "scene", len(found), folder, found)]
    with readable(folder, SERIES):
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder, chosen)
        alone = reader_of(names[0])
        first = placement_in(alone)
        apart = number_in(alone, SLICE_SIZES)
        if len(names) > 1:
            step = np.subtract(reader_of(names[1]).GetOrigin(), first.origin_mm)
            apart = float(np.linalg.norm(step))
        known = any(alone.HasMetaDataKey(tag) for tag in PIXEL_SIZES)
        spacing = (*(length * known for length in first.spacing_mm[:2]), apart)
    if first.size[2] > 1:
        raise ValueError(
            f"{names[0]}: a file of a series must be one slice: it has {first.size[2]} frames; "
            "convert it to NIfTI, as dcm2niix does"
        )
    if len(names) > 1:
        require_upright(folder, step, first)
    size = (*first.size[:2], len(names))
    return names, Placement(size, spacing, first.origin_mm, first.direction)


def require_upright(folder: str, step_mm: NDArray[np.float64], first: Placement) -> None:
    """Refuse slices whose stack leans, as with a tilted gantry: no grid has their voxels."""
    along = step_mm @ first.direction[2::3]
    shift = np.linalg.norm(step_mm - along * np.array(first.direction[2::3]))
    if shift > EVEN * np.linalg.norm(step_mm):
        raise ValueError(
            f"{folder}: slices must be stacked along their normal: each is shifted by "
            f"{shift:.3g} mm, as with a gantry tilted by "
            f"{np.degrees(np.arctan2(shift, abs(along))):.3g} degrees; resample them to an upright "
            "grid, as dcm2niix does"
        )


def number_in(reader: Any, tags: Sequence[str]) -> float:
    """Number that the first of some DICOM tags holds; 0 where there is none."""
    texts = [reader.GetMetaData(tag) for tag in tags if reader.HasMetaDataKey(tag)]
    return next((float(text) for text in texts if text.strip()), 0.0)


def reader_of(place: str) -> Any:
    """Return a reader that knows the header of a file; it serves one thread at a time."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(place)
    reader.ReadImageInformation()
    return reader


def streams(place: str, components: int) -> bool:
    """Whether SimpleITK reads a region without the rest of the file.

    It does where the file is not compressed. A region of a NIfTI file with several components
    comes out wrong, or ends the process (SimpleITK 2.5): such a file is read as a whole.
    """
    if is_metaimage(place):
        return not is_compressed(read_fields(place))
    return place.lower().endswith(".nii") and components == 1


def require_finite(place: str, finite: bool) -> None:
    """Refuse values that are not finite, in the place of which SimpleITK gives 0 of a NIfTI file.

    Raises
    ------
    ValueError
        If they are not.
    """
    if not finite:
        raise ValueError(f"{place}: grey values must be finite: got NaN or infinite; repair it")


class Regions:
    """Pixels of a file, read by regions where it streams, else at the first of them as a whole.

    Axes that are flipped are turned round.
    """

    def __init__(
        self,
        place: str,
        shape: tuple[int, ...],
        reader: Any,
        streams: bool,
        flipped: tuple[bool, ...] = (),
    ) -> None:
        import SimpleITK as sitk

        components = reader.GetNumberOfComponents()
        extents, several = [1] * reader.GetDimension(), components * (components > 1)
        pixel = sitk.Image(extents, reader.GetPixelID(), several)
        self.dtype = np.dtype(sitk.GetArrayFromImage(pixel).dtype)
        self.shape = (*shape, components) if components > 1 else tuple(shape)
        self.place, self.streams = place, streams
        self.flipped = flipped + (False,) * (len(self.shape) - len(flipped))
        self.lock = Lock()
        self.pixels: NDArray[Any] | None = None

    def __getitem__(self, index: Any) -> Any:
        """Pixels of a region."""
        own = tuple(map(turned, index, self.shape, self.flipped))
        sides = zip(index, self.flipped, strict=True)
        kept = [flip for part, flip in sides if isinstance(part, slice)]
        back = tuple(slice(None, None, -1 if flip else None) for flip in kept)
        return self.stored(own)[back]

    def stored(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """Pixels of a region as the file has them."""
        if self.streams:
            return self.read(index)
        with self.lock:  # threads that come meanwhile wait for the first
            if self.pixels is None:
                self.pixels = self.everything()
        return self.pixels[index]

    def everything(self) -> NDArray[Any]:
        """All pixels, of a file that is whole."""
        self.check()
        return self.read(tuple(slice(0, extent) for extent in self.shape))

    def check(self) -> None:
        """Refuse a NIfTI file that was cut or changed, or has values that are not finite."""
        if is_nifti(self.place):
            with readable(self.place, KIND):
                finite = read_through(self.place)
            require_finite(self.place, finite)

    def read(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """Pixels of a region, from the file."""
        import SimpleITK as sitk

        if self.streams and is_nifti(self.place):
            values = stored_values(self.place, self.shape)
            require_finite(self.place, values is None or bool(np.isfinite(values[index]).all()))
        reader = reader_of(self.place)
        spatial, rest = index[: reader.GetDimension()], index[reader.GetDimension() :]
        ranges = [
            (part.start, part.stop) if isinstance(part, slice) else (part, part + 1)
            for part in spatial
        ]
        reader.SetExtractIndex([start for start, _ in ranges[::-1]])
        reader.SetExtractSize([stop - start for start, stop in ranges[::-1]])
        pixels: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
        return pixels[
            tuple(slice(None) if isinstance(part, slice) else 0 for part in spatial) + rest
        ]


class Slices(Regions):
    """Pixels of a series of slices, read as a whole."""

    def __init__(self, place: str, names: Sequence[str], placement: Placement) -> None:
        shape, first = placement.size[::-1], reader_of(names[0])
        super().__init__(place, shape, first, streams=False, flipped=placement.flipped)
        self.names = names

    def everything(self) -> NDArray[Any]:
        """All pixels, of slices that are evenly spaced."""
        import SimpleITK as sitk

        with readable(self.place, SERIES):
            places = np.array([reader_of(name).GetOrigin() for name in self.names])
            steps = np.diff(places, axis=0)
            if len(steps) and np.abs(steps - steps[0]).max() > EVEN * np.linalg.norm(steps[0]):
                worst = int(np.abs(steps - steps[0]).max(axis=1).argmax())
                raise ValueError(
                    f"slices must be evenly spaced: {np.linalg.norm(steps[worst]):g} mm after "
                    f"{Path(self.names[worst]).name}, else {np.linalg.norm(steps[0]):g} mm"
                )
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames(self.names)
            pixels: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
            return pixels


def turned(part: int | slice, extent: int, flipped: bool) -> int | slice:
    """Part of an axis, counted from its other end where it is flipped."""
    if not flipped:
        return part
    if isinstance(part, slice):
        return slice(extent - part.stop, extent - part.start)
    return extent - 1 - part
