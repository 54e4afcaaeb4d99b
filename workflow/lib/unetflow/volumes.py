"""Volumes of an archive, read lazily from the formats that microscopes and facilities write."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow.formats.dicom import is_series
from unetflow.formats.source import Source, divided, index_of, only
from unetflow.store import Image, Pixels

CHOICES = ("scene", "time", "channel", "level")
"""Columns of a sheet that choose a part of what a path names."""

TIFF = (".tif", ".tiff", ".btf", ".tf8")
HDF5 = (".h5", ".hdf5", ".hdf")
NUMPY = (".npy",)
MEDICAL = (".nii", ".nii.gz", ".mha", ".mhd")
VENDOR = (".czi", ".nd2", ".lif", ".dv", ".oib", ".oif", ".sldy", ".vsi", ".ims")
LOCAL = NUMPY + MEDICAL + VENDOR
ZARR = ("zarr.json", ".zgroup", ".zarray")

Opener = Callable[[str, str, str], Source]


def open_volume(
    place: Path | str, scene: str = "", time: str = "", channel: str = "", level: str = ""
) -> Image:
    """Open one time point of one scene; its pixels are read as they are asked for.

    OME-Zarr (0.4, 0.5), Zarr arrays, TIFF, HDF5 (`FILE.h5:/path/of/dataset` where there are
    several), NumPy, NIfTI, MetaImage, a folder of DICOM slices, and what bioio has plugins for.
    Zarr, TIFF and HDF5 may be URLs. Where nothing names the axes, 2 are yx, 3 zyx, 4 czyx and 5
    tczyx. Samples of a pixel, such as red, green and blue, are channels. Medical volumes are turned
    to the axes of the patient; their fourth axis is time, or channels where such are chosen and no
    time.

    Parameters
    ----------
    place : Path or str
        File, folder or URL.
    scene : str
        Index or name; empty where there is one.
    time : str
        Index; empty where there is one time point.
    channel : str
        Indices or names, separated by commas, in the order wanted; empty: all, as they are.
    level : str
        Index in the pyramid; empty: 0, the full resolution.

    Returns
    -------
    Image
        Axes are some of "czyx", in this order; numbers in the machine's byte order.

    Raises
    ------
    ValueError
        One line, if the place is missing, cannot be read or is of no known format, if what is
        chosen is not there, or if something must be chosen. Pixels that cannot be decoded raise
        when they are read: ValueError or RuntimeError.
    """
    place = str(place)
    source = opener_of(place)(place, scene, level)
    shape, axes = source.array.shape, source.axes
    if channel and not time and "c" not in axes and is_medical(place):
        axes = axes.replace("t", "c")  # as in the Decathlon's volumes of several modalities
    if len(set(axes)) < len(axes) or not set("yx") <= set(axes) <= set(axis_rules.ORDER):
        raise ValueError(
            f"{place}: axes must be some of {axis_rules.ORDER!r}, y and x among them, each once: "
            f"got {axes!r}; convert it to OME-Zarr"
        )
    if source.array.dtype.kind not in "buif" or 0 in shape:
        raise ValueError(
            f"{place}: pixels must be real numbers, at least one: got {source.array.dtype} of "
            f"shape {tuple(shape)}; name another part of the file"
        )
    extents = dict(zip(axes, shape, strict=True))
    moment = only(time, "time", extents.get("t", 1), place)
    channels = chosen_channels(channel, extents.get("c", 1), place, source.channels)
    pixels = Selection(source.array, axes, moment, channels)
    return Image(place, pixels, pixels.axes, source.voxel_size_um)


def chosen_channels(cell: str, count: int, place: str, names: Sequence[str]) -> list[int]:
    """Indices of the channels that a cell of the sheet names, in its order."""
    names = names if len(names) == count else ()
    words = [word.strip() for word in cell.split(",")] if cell else []
    return [index_of(word, "channel", count, place, names) for word in words] or list(range(count))


def choice_of(row: Mapping[str, str]) -> dict[str, str]:
    """Arguments of `open_volume` that a row of a sheet gives, beside its path."""
    return {column: row.get(column, "") for column in CHOICES}


def parse_region(text: str, image: Image) -> tuple[slice, ...] | None:
    """Region of a volume that a sheet's cell names, such as `0:20, 100:900, :`; None for all.

    Raises
    ------
    ValueError
        If it is no such region, or not within the volume.
    """
    if not text:
        return None
    shape, region = image.spatial_shape, []
    parts = [part.strip() for part in text.split(",")]
    for part, extent in zip(parts, shape, strict=False):
        found = re.fullmatch(r"(\d*):(\d*)", part)
        start, stop = (int(found[1] or 0), int(found[2] or extent)) if found else (0, 0)
        region.append(slice(start, stop))
        if not 0 <= start < stop <= extent:
            parts = []
    if len(parts) != len(shape):
        raise ValueError(
            f"{image.path}: region must be start:stop along each of {', '.join(map(str, shape))} "
            f"voxels: got {text!r}; correct it in the sheet"
        )
    return tuple(region)


def is_remote(place: str) -> bool:
    """Whether a place is a URL."""
    return "://" in place


def file_of(place: str) -> Path | None:
    """File or folder here that a place names, without the dataset inside; None for a URL."""
    return None if is_remote(place) else Path(divided(place)[0])


def is_medical(place: str) -> bool:
    """Whether a place is a medical volume, whose voxels lie somewhere in a patient."""
    return place.lower().endswith(MEDICAL) or is_series(Path(place))


def may_be_zarr(place: str) -> bool:
    """Whether a place may be a Zarr folder: it is a folder, or a URL of no other known ending."""
    if is_remote(place):
        return not divided(place)[0].lower().endswith(TIFF + HDF5 + LOCAL)
    return os.path.isdir(place)  # False, too, where that cannot be known


def opener_of(place: str) -> Opener:
    """Return what opens a place; the library of a format is imported only where it is used.

    Raises
    ------
    ValueError
        If there is nothing at that place, or its format is not known.
    """
    path, name = file_of(place), divided(place)[0].lower()
    if path is not None and not path.exists():
        raise ValueError(
            f"{place}: a volume must exist: found nothing; correct the path in the sheet"
        )
    folder = path is not None and path.is_dir()
    series = path is not None and is_series(path)
    if path is not None and folder and not (series or any((path / of).is_file() for of in ZARR)):
        raise ValueError(
            f"{place}: a folder must be a Zarr image: found none of {', '.join(ZARR)}; name the "
            f"files in it by a pattern, such as {place.rstrip('/')}/*.tif"
        )
    if path is None and name.endswith(LOCAL):
        raise ValueError(
            f"{place}: a volume at a URL must be Zarr, TIFF or HDF5: found another ending; "
            "download it"
        )
    if series:
        from unetflow.formats.medical import open_source
    elif may_be_zarr(place):
        from unetflow.formats.ome_zarr import open_source
    elif name.endswith(TIFF):
        from unetflow.formats.tiff import open_source
    elif name.endswith(HDF5):
        from unetflow.formats.hdf5 import open_source
    elif name.endswith(NUMPY):
        from unetflow.formats.npy import open_source
    elif name.endswith(MEDICAL):
        from unetflow.formats.medical import open_source
    elif name.endswith(VENDOR):
        from unetflow.formats.vendor import open_source
    else:
        raise ValueError(
            f"{place}: a volume must be a Zarr folder or end in "
            f"{', '.join(TIFF + HDF5 + LOCAL)}: got another ending; convert it to OME-Zarr"
        )
    return open_source


class Selection:
    """One time point and some channels of an array, in the order of our axes, read when indexed.

    It is indexed as a NumPy array is, with an int or a slice of positive step for each axis, and
    returns a new array. The array below is asked for ints and slices of step 1 that are not empty.
    """

    def __init__(self, array: Pixels, axes: str, time: int, channels: Sequence[int]) -> None:
        self.array, self.source_axes, self.time, self.channels = array, axes, time, channels
        self.axes = "".join(axis for axis in axis_rules.ORDER if axis in axes and axis != "t")
        extents = dict(zip(axes, array.shape, strict=True)) | {"c": len(channels)}
        self.shape = tuple(extents[axis] for axis in self.axes)
        self.dtype = np.dtype(array.dtype).newbyteorder("=")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All pixels."""
        return self[...].astype(self.dtype if dtype is None else dtype, copy=False)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Pixels of a region."""
        wanted = dict(zip(self.axes, positions(index, self.shape), strict=True))
        shape = tuple(len(part) for part in wanted.values() if isinstance(part, range))
        if 0 in shape:
            return np.empty(shape, self.dtype)
        chosen = wanted.get("c", 0)
        if isinstance(chosen, int):
            return self.read(wanted | {"c": self.channels[chosen]})
        parts = runs([self.channels[channel] for channel in chosen])
        return np.concatenate([self.read(wanted | {"c": part}) for part in parts])

    def read(self, wanted: Mapping[str, int | range]) -> NDArray[Any]:
        """Pixels of a region whose channels are those of the array below."""
        parts = {axis: wanted.get(axis, self.time) for axis in self.source_axes}
        region = [
            part if isinstance(part, int) else slice(part[0], part[-1] + 1)
            for part in parts.values()
        ]
        pixels = np.asarray(self.array[tuple(region)])
        kept = {axis: part.step for axis, part in parts.items() if isinstance(part, range)}
        order = [axis for axis in self.axes if axis in kept]
        pixels = pixels.transpose([list(kept).index(axis) for axis in order])
        steps = tuple(slice(None, None, kept[axis]) for axis in order)
        return np.array(pixels[steps], self.dtype, order="C")


def positions(index: Any, shape: Sequence[int]) -> list[int | range]:
    """Position, or range of them, along each axis that an index names.

    Raises
    ------
    IndexError
        If it lies outside, has too many parts, or runs backwards.
    """
    parts = index if isinstance(index, tuple) else (index,)
    if Ellipsis not in parts:
        parts = (*parts, Ellipsis)
    at = parts.index(Ellipsis)
    rest = (slice(None),) * (len(shape) - len(parts) + 1)
    parts = (*parts[:at], *rest, *parts[at + 1 :])
    if len(parts) != len(shape):
        raise IndexError(f"an index must have at most {len(shape)} parts: got {len(parts)}")
    found = [range(extent)[part] for part, extent in zip(parts, shape, strict=True)]
    if any(isinstance(part, range) and part.step < 0 for part in found):
        raise IndexError(f"steps of an index must be positive: got {index}")
    return found


def runs(channels: Sequence[int]) -> list[range]:
    """Runs of channels that follow each other: each of them can be read at once."""
    found: list[range] = []
    for channel in channels:
        if found and channel == found[-1].stop:
            found[-1] = range(found[-1].start, channel + 1)
        else:
            found.append(range(channel, channel + 1))
    return found
