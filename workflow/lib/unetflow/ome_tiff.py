"""Predictions and segmentations as OME-TIFF, which Fiji and QuPath open with a double click.

References
----------
.. [1] OME-TIFF, with coarser levels as sub-resolutions,
   https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from unetflow.progress import track
from unetflow.store import Image, open_image, replacing

TILE = 256
BIG_BYTES = 2**31
"""Above so many bytes before compression the file has 64-bit offsets (BigTIFF)."""


def write_ome_tiff(source: Path, output: Path) -> None:
    """Write an OME-Zarr image with its coarser levels as OME-TIFF, some tiles at a time.

    Parameters
    ----------
    source : Path
        Image of axes (c)(z)yx. Half floats become floats, ids of 64 bits ids of 32.
    output : Path
        Complete or absent; tiles of 256 x 256, compressed without loss, voxel sizes in µm.

    Raises
    ------
    ValueError
        If it is no image, is that of a volume that failed, or has ids above those of 32 bits.
    """
    refuse_failed(source)
    image = open_image(source)
    first, *others = (zarr.open_array(source / path, mode="r") for path in level_paths(source))
    # A level of fewer planes has no place in the format.
    coarser = [level for level in others if level.shape[:-2] == first.shape[:-2]]
    dtype = dtype_of(image)
    metadata: dict[str, Any] = {"axes": image.axes.upper(), "Name": source.name}
    for axis, size in image.voxel_size_um.items():
        metadata[f"PhysicalSize{axis.upper()}"] = size
        metadata[f"PhysicalSize{axis.upper()}Unit"] = "µm"
    how: dict[str, Any] = {"dtype": dtype, "tile": (TILE, TILE), "compression": "zlib"}
    how |= {"photometric": "minisblack", "maxworkers": 1}
    with replacing(output) as partial:
        big = first.size * dtype.itemsize > BIG_BYTES
        with tifffile.TiffWriter(partial, ome=True, bigtiff=big) as file:
            pixels = tiles(first, dtype)
            file.write(pixels, shape=first.shape, subifds=len(coarser), metadata=metadata, **how)
            for level in coarser:
                file.write(tiles(level, dtype), shape=level.shape, subfiletype=1, **how)


def write_ome_tiffs(sources: Sequence[Path], folder: Path) -> None:
    """Write several images, `IMAGE.ome.tif` each, into a folder that is complete or absent."""
    with replacing(folder) as partial:
        partial.mkdir()
        for source in track(sources, "writing OME-TIFF", len(sources)):
            write_ome_tiff(source, partial / f"{source.name}.ome.tif")


def refuse_failed(source: Path) -> None:
    """Refuse the group that stands for the prediction or segmentation of a volume that failed."""
    reason = source.is_dir() and zarr.open_group(source, mode="r").attrs.get("reason")
    if reason:
        raise ValueError(
            f"{source}: a volume must be predicted to be exported: it failed, {reason}; "
            "repair it and run again"
        )


def level_paths(source: Path) -> list[str]:
    """Paths of an image's levels, finest first."""
    ome: Any = zarr.open_group(source, mode="r").attrs["ome"]
    return [level["path"] for level in ome["multiscales"][0]["datasets"]]


def dtype_of(image: Image) -> np.dtype[Any]:
    """Type of OME-TIFF that holds an image's numbers."""
    dtype: np.dtype[Any] = np.dtype(image.array.dtype)
    return {"float16": np.dtype(np.float32), "uint64": np.dtype(np.uint32)}.get(dtype.name, dtype)


def tiles(level: zarr.Array[Any], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Yield the tiles of each plane, row by row, those at the far edges padded with 0."""
    height, width = level.shape[-2:]
    for plane in np.ndindex(level.shape[:-2]):
        for top in range(0, height, TILE):
            row = as_type(np.asarray(level[(*plane, slice(top, top + TILE))]), dtype)
            row = np.pad(row, ((0, TILE - len(row)), (0, -width % TILE)))
            yield from (row[:, left : left + TILE] for left in range(0, width, TILE))


def as_type(pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the same numbers in another type."""
    if pixels.dtype == np.uint64 and pixels.size and pixels.max() > np.iinfo(dtype).max:
        raise ValueError(
            f"ids in OME-TIFF must be below 2**32: got {pixels.max()}; open the OME-Zarr image"
        )
    return pixels.astype(dtype, copy=False)
