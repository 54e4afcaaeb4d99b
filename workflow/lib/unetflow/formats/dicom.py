"""Series of DICOM slices: a folder that is one volume, if its slices are those of a grid."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow.formats.itk import Regions, placement_in, reader_of
from unetflow.formats.placement import Placement, require_spacing
from unetflow.formats.source import Source, only, readable

SERIES = "series of DICOM slices"
EVEN = 0.01
"""Part of a slice's distance by which distances may differ, and slices be shifted: for rounding."""

SOME_FILES = 16
"""Of a folder, in which a list or a readme may lie beside the slices."""
PIXEL_SIZES = ("0028|0030", "0018|1164")
"""PixelSpacing and ImagerPixelSpacing of DICOM; SimpleITK takes 1 mm where there is neither."""
SLICE_SIZES = ("0018|0050", "0018|0088")
"""SliceThickness and SpacingBetweenSlices, of a slice that is alone."""


def open_series(place: str, scene: str, level: str) -> Source:
    """Return the volume of a folder's series of slices."""
    only(level, "level", 1, place)
    names, placement = series_in(place, scene)
    with readable(place, SERIES):
        pixels = Slices(place, names, placement)
    require_spacing(place, placement.spacing_mm)
    return Source(pixels, placement.axes, placement.voxel_size_um)


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
        reader = reader_of(names[0])
        first = placement_in(reader)
        apart = number_in(reader, SLICE_SIZES)
        if len(names) > 1:
            step = np.subtract(reader_of(names[1]).GetOrigin(), first.origin_mm)
            apart = float(np.linalg.norm(step))
        known = any(reader.HasMetaDataKey(tag) for tag in PIXEL_SIZES)
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
