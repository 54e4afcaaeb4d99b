"""NIfTI and MetaImage volumes, read with SimpleITK."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unetflow.formats.source import Source, known, micrometres, readable, whole

KIND = "NIfTI or MetaImage file"
HEADER_BYTES = 2**16
BLOCK_BYTES = 2**24


def open_source(place: str, scene: str, level: str) -> Source:
    """Return the image of a `.nii`, `.nii.gz`, `.mha` or `.mhd` file.

    Axes are yx, zyx or tzyx by their number; components of a pixel are channels. SimpleITK gives
    the spacing in millimetres.

    Raises
    ------
    ValueError
        If SimpleITK is not installed, or the file cannot be read.
    """
    whole(place, scene, level)
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise ValueError(
            f"{place}: NIfTI and MetaImage need SimpleITK: found none; install unetflow[medical]"
        ) from error
    with readable(place, KIND):
        reader = reader_of(place)
        shape, components = reader.GetSize()[::-1], reader.GetNumberOfComponents()
        axes = "tzyx"[-len(shape) :]
        pixel = sitk.Image([1] * len(shape), reader.GetPixelID(), components * (components > 1))
        if components > 1:
            shape, axes = (*shape, components), axes + "c"
        streaming = streams(place, components)
        pixels = Regions(place, shape, sitk.GetArrayFromImage(pixel).dtype, streaming)
        if place.lower().endswith(".nii"):
            require_bytes(reader, Path(place).stat().st_size)
    spacing = zip("xyz", reader.GetSpacing(), strict=False)
    return Source(pixels, axes, known({axis: micrometres(it, "mm") for axis, it in spacing}))


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
    path = Path(place)
    if path.suffix.lower() in (".mha", ".mhd"):
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES).partition(b"ElementDataFile")[0]
        return b"CompressedData = True" not in header
    return path.suffix.lower() == ".nii" and components == 1


def require_bytes(reader: Any, found: int) -> None:
    """Refuse a NIfTI file that was cut, of which SimpleITK reads the rest as 0.

    Raises
    ------
    ValueError
        If it has fewer bytes than its header says.
    """
    facts = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    extents = [max(1, int(facts[f"dim[{axis}]"])) for axis in range(1, int(facts["dim[0]"]) + 1)]
    need = int(float(facts["vox_offset"])) + math.prod(extents) * int(facts["bitpix"]) // 8
    if found < need:
        raise ValueError(f"it was cut: its header says {need} bytes, it has {found}")


class Regions:
    """Pixels of a file, read by regions where it streams, else at the first of them as a whole."""

    def __init__(self, place: str, shape: tuple[int, ...], dtype: DTypeLike, streams: bool) -> None:
        self.place, self.shape, self.dtype, self.streams = place, shape, np.dtype(dtype), streams
        self.lock = Lock()
        self.pixels: NDArray[Any] | None = None

    def __getitem__(self, index: Any) -> Any:
        """Pixels of a region."""
        if self.streams:
            return self.read(index)
        with self.lock:  # threads that come meanwhile wait for the first
            if self.pixels is None:
                self.check()
                self.pixels = self.read(tuple(slice(0, extent) for extent in self.shape))
        return self.pixels[index]

    def check(self) -> None:
        """Refuse a compressed NIfTI file that was cut or changed."""
        if self.place.lower().endswith(".gz"):
            with readable(self.place, KIND), gzip.open(self.place) as file:
                count = sum(len(block) for block in iter(lambda: file.read(BLOCK_BYTES), b""))
                require_bytes(reader_of(self.place), count)

    def read(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """Pixels of a region, from the file."""
        import SimpleITK as sitk

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
