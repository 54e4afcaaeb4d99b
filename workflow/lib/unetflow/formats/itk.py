"""What SimpleITK reads of a medical volume: its header, and its pixels by regions."""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow.formats.metaimage import is_compressed, is_metaimage, read_fields
from unetflow.formats.nifti_header import is_nifti, read_through, stored_values
from unetflow.formats.placement import Placement
from unetflow.formats.source import readable

KIND = "NIfTI or MetaImage file"


def placement_in(reader: Any) -> Placement:
    """Where the voxels of a file of 3 or 4 axes lie, of which the fourth has no place."""
    rows = np.reshape(reader.GetDirection(), (reader.GetDimension(),) * 2)
    return Placement(
        tuple(reader.GetSize()[:3]),
        tuple(reader.GetSpacing()[:3]),
        tuple(reader.GetOrigin()[:3]),
        tuple(rows[:3, :3].ravel().tolist()),
    )


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


def turned(part: int | slice, extent: int, flipped: bool) -> int | slice:
    """Part of an axis, counted from its other end where it is flipped."""
    if not flipped:
        return part
    if isinstance(part, slice):
        return slice(extent - part.stop, extent - part.start)
    return extent - 1 - part
