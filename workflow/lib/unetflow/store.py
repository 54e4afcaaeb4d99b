"""OME-Zarr 0.5 images with labels: written whole or in parts, read lazily; and atomic small files.

References
----------
.. [1] OME-NGFF 0.5, https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import ZstdCodec

from unetflow import axes as axis_rules

NOT_ANNOTATED = 255
"""Value in `labels/classes` of pixels that are not annotated."""

TARGET = "target"
"""Name of the image beside an image's levels that holds its true values."""

SOURCE = "source_"
"""Beginning of the names of labels as drawn, beside those of voxels of another size."""

AXIS_TYPES = {"t": "time", "c": "channel"}
PARTIAL = ".partial"
"""Ending of what is being written and takes its name once it is whole."""

CHUNK, SHARD = 256, 2048
CUBE, CUBES = 64, 256


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, which takes the place of `path` on success and vanishes on an error."""
    partial = path.with_name(path.name + PARTIAL)
    remove(partial)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
    except BaseException:
        remove(partial)
        raise
    if path.is_dir() or partial.is_dir():
        remove(path)
    partial.replace(path)  # a file is at any time the old one or the new one


def remove(path: Path) -> None:
    """Remove a file or a folder, or nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def require_space(folder: Path, need: int, remedy: str) -> None:
    """Refuse to begin what does not fit on the disk.

    Parameters
    ----------
    remedy : str
        What to set lower, for the error.

    Raises
    ------
    OSError
        If less than `need` bytes are free where `folder` lies.
    """
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OSError(
            f"{folder}: what comes needs {need / 1e9:.1f} GB before compression: {free / 1e9:.1f} "
            f"GB are free; {remedy}, or set results to another disk"
        )


def require_memory(need: int, remedy: str) -> None:
    """Refuse to begin what does not fit the memory of this machine.

    Parameters
    ----------
    remedy : str
        What to set lower, for the error.

    Raises
    ------
    MemoryError
        If the machine has less than `need` bytes.
    """
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > has:
        raise MemoryError(
            f"a job needs {need / 1e9:.1f} GB of memory: this machine has {has / 1e9:.1f} GB; "
            f"{remedy}, or use a larger machine"
        )


def write_json(path: Path, facts: object) -> None:
    """Write a JSON file that is complete or absent."""
    write_text(path, json.dumps(facts, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file that is complete or absent, also where two processes do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def chunks_and_shards(
    axes: str, shape: Sequence[int], cubes: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunk and shard of an array: chunks of a screenful, shards of about a file of 10-100 MB.

    A chunk holds one plane of at most 256 x 256, as 2D networks and people read them. A shard is
    whole chunks.

    Parameters
    ----------
    cubes : bool
        Chunks of 64³ and shards of 256³ instead, for 3D networks: a shard is computed at once, and
        a thin one would be mostly halo.
    """
    chunk, shard = (CUBE, CUBES) if cubes else (CHUNK, SHARD)
    deep = (CUBE, CUBES) if cubes else (1, 16)
    most = {"y": chunk, "x": chunk, "z": deep[0]}
    chunks = tuple(min(extent, most.get(axis, 1)) for axis, extent in zip(axes, shape, strict=True))
    limits = tuple({"y": shard, "x": shard, "z": deep[1]}.get(axis, 16) for axis in axes)
    shards = tuple(
        -(-min(extent, limit) // chunk) * chunk
        for extent, limit, chunk in zip(shape, limits, chunks, strict=True)
    )
    return chunks, shards


def full_shards(axes: str, cubes: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunks and shards of a large volume, which a small one has too so that it may grow."""
    return chunks_and_shards(axes, (1, *(2**20,) * (len(axes) - 1)), cubes)


def create_array(
    path: Path,
    axes: str,
    shape: Sequence[int],
    dtype: DTypeLike,
    chunks: tuple[int, ...],
    shards: tuple[int, ...],
    empty: bool = False,
) -> zarr.Array[Any]:
    """Create a sharded, zstd-compressed array with named dimensions.

    Parameters
    ----------
    empty : bool
        Whether to store shards of nothing but 0 too, so that one that is missing is lost.
    """
    return zarr.create_array(
        path,
        shape=tuple(shape),
        dtype=np.dtype(dtype),
        chunks=chunks,
        shards=shards,
        compressors=ZstdCodec(level=1),
        dimension_names=tuple(axes),
        zarr_format=3,
        config={"write_empty_chunks": empty},
    )


def multiscale(
    name: str,
    axes: str,
    voxel_size_um: dict[str, float],
    levels: Mapping[str, Mapping[str, int]] | None = None,
    means: bool = True,
) -> dict[str, Any]:
    """OME metadata of an image; axes of unknown size have scale 1 and no unit.

    Parameters
    ----------
    levels : mapping, optional
        Path of each level to the voxels of the first that one of its own stands for, per axis. One
        level "0" where there are none.
    means : bool
        Whether it is the mean of them; else the first of them.
    """
    described = []
    for axis in axes:
        entry = {"name": axis, "type": AXIS_TYPES.get(axis, "space")}
        if axis in voxel_size_um:
            entry["unit"] = "micrometer"
        described.append(entry)
    datasets = []
    for path, factors in (levels or {"0": {}}).items():
        sizes = [(voxel_size_um.get(axis, 1.0), factors.get(axis, 1)) for axis in axes]
        scale = [float(size * factor) for size, factor in sizes]
        transformations = [{"type": "scale", "scale": scale}]
        if factors and means:  # the first voxel's centre is that of the voxels below it
            shift = [float(size * (factor - 1) / 2) for size, factor in sizes]
            transformations.append({"type": "translation", "translation": shift})
        datasets.append({"path": path, "coordinateTransformations": transformations})
    return {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": described, "datasets": datasets}],
    }


def describe_image(
    path: Path,
    axes: str,
    voxel_size_um: dict[str, float],
    levels: Mapping[str, Mapping[str, int]],
    extra: Mapping[str, Any],
    attributes: Mapping[str, Any],
    means: bool = True,
) -> None:
    """Make an OME-Zarr image of a folder that holds the arrays of its levels, see `multiscale`."""
    name = path.name.removesuffix(PARTIAL)
    ome = {**multiscale(name, axes, voxel_size_um, levels, means), **extra}
    facts = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, **attributes}}
    write_json(path / "zarr.json", facts)


def create_image(
    path: Path,
    axes: str,
    shape: Sequence[int],
    dtype: DTypeLike,
    voxel_size_um: dict[str, float],
    extra: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    cubes: bool = False,
) -> zarr.Array[Any]:
    """Create an OME-Zarr image with one level and return its array.

    Parameters
    ----------
    axes : str
        Some of "tczyx", in this order.
    voxel_size_um : dict
        Micrometres per spatial axis, as far as known.
    extra : dict, optional
        Further entries of the group's `ome` metadata.
    attributes : dict, optional
        Attributes of the group beside `ome`.
    cubes : bool
        See `chunks_and_shards`.
    """
    axis_rules.check(axes, shape, str(path))
    name = path.name.removesuffix(PARTIAL)
    metadata = {**multiscale(name, axes, voxel_size_um), **(extra or {})}
    beside = {"ome": metadata, **(attributes or {})}
    zarr.create_group(path, zarr_format=3, attributes=beside, overwrite=True)
    layout = chunks_and_shards(axes, shape, cubes)
    return create_array(path / "0", axes, shape, dtype, *layout, empty=True)


def shard_regions(array: zarr.Array[Any], spatial_axes: int) -> list[tuple[slice, ...]]:
    """Regions that each cover whole shards of an array: no two tasks write the same file."""
    shape = array.shape[-spatial_axes:]
    shards = (array.shards or array.chunks)[-spatial_axes:]
    starts = product(*(range(0, extent, step) for extent, step in zip(shape, shards, strict=True)))
    return [
        tuple(
            slice(i, min(i + step, extent))
            for i, step, extent in zip(start, shards, shape, strict=True)
        )
        for start in starts
    ]


def shard_files(array: zarr.Array[Any], start: Sequence[int]) -> list[Path]:
    """Files of a shard by its first voxel, one per channel, but those of nothing but 0."""
    shards = (array.shards or array.chunks)[-len(start) :]
    place = [str(first // step) for first, step in zip(start, shards, strict=True)]
    folder = Path(array.store.root) / array.path / "c"  # type: ignore[attr-defined]
    files = (folder.joinpath(str(channel), *place) for channel in range(array.shape[0]))
    return [file for file in files if file.is_file()]


def stored_bytes(array: zarr.Array[Any], start: Sequence[int]) -> int:
    """Bytes of these files."""
    return sum(file.stat().st_size for file in shard_files(array, start))


def add_label(
    image: Path,
    name: str,
    axes: str,
    labels: NDArray[np.integer],
    voxel_size_um: dict[str, float],
) -> None:
    """Add a label image to an OME-Zarr image.

    Parameters
    ----------
    image : Path
        Folder of the image.
    name : str
        Such as "classes" or "instances".
    axes : str
        Axes of the labels: those of the image without the channel.
    """
    parent = zarr.open_group(image / "labels", mode="a", zarr_format=3)
    names = [*parent.attrs.get("ome", {}).get("labels", []), name]  # type: ignore[union-attr, misc]
    extra = {"image-label": {"source": {"image": "../../"}}}
    create_image(image / "labels" / name, axes, labels.shape, labels.dtype, voxel_size_um, extra)[
        ...
    ] = labels
    parent.attrs["ome"] = {"version": "0.5", "labels": names}


class Pixels(Protocol):
    """What is read as it is asked for: a Zarr array, or what looks like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each axis."""

    @property
    def dtype(self) -> Any:
        """NumPy's type of a pixel."""

    def __getitem__(self, index: Any, /) -> Any:
        """Pixels of a region: an int or a slice for each axis, or an ellipsis for all."""


@dataclass(frozen=True)
class Image:
    """An opened image: its array, axes and voxel size; its path may be a URL."""

    path: Path | str
    array: Pixels
    axes: str
    voxel_size_um: dict[str, float]

    @property
    def name(self) -> str:
        """Last part of its path."""
        return str(self.path).rstrip("/").rpartition("/")[2]

    def label(self, name: str) -> zarr.Array[Any] | None:
        """Return the array of a label image, or None where the image has none of that name."""
        place = f"{self.path}/labels/{name}"
        try:
            zarr.open_group(place, mode="r")
        except FileNotFoundError:
            return None
        return zarr.open_array(f"{place}/0", mode="r")

    def target(self) -> Image | None:
        """Return the image (channel, *spatial) of the true values; None where there are none."""
        path = Path(self.path) / TARGET
        return open_image(path) if (path / "zarr.json").is_file() else None

    def planes(self) -> Iterator[tuple[int, ...]]:
        """Indices of the planes of an image with axes (c)(z)yx: (), or (z,)."""
        yield from np.ndindex(self.spatial_shape[:-2])

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Extents along z (where there is one), y and x."""
        return tuple(self.array.shape[-len(axis_rules.spatial(self.axes)) :])

    def region(self, index: tuple[slice | int, ...]) -> NDArray[Any]:
        """Pixels (channel, ...) of a spatial region; an image without channel axis has one."""
        lead = (slice(None),) if "c" in self.axes else ()
        pixels = np.asarray(self.array[lead + index])
        return pixels if "c" in self.axes else pixels[np.newaxis]


def open_image(path: Path) -> Image:
    """Open an OME-Zarr image of version 0.5.

    Raises
    ------
    ValueError
        If the folder holds no such image.
    """
    try:
        group = zarr.open_group(path, mode="r")
        ome: Any = group.attrs["ome"]
        scales = ome["multiscales"][0]
        level = scales["datasets"][0]
        array = zarr.open_array(path / level["path"], mode="r")
        axes = "".join(axis["name"] for axis in scales["axes"])
        scale = level["coordinateTransformations"][0]["scale"]
        sizes = {
            axis["name"]: factor
            for axis, factor in zip(scales["axes"], scale, strict=True)
            if axis.get("unit") == "micrometer"
        }
        # zarr's errors for a missing or other node, JSON's, and those of metadata of another form.
    except (OSError, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path}: must be an OME-Zarr image of version 0.5: {' '.join(repr(error).split())}; "
            "convert it, for example with bioio or Fiji"
        ) from error
    axis_rules.check(axes, array.shape, str(path))
    return Image(path, array, axes, sizes)


def validate(path: Path) -> None:
    """Refuse an OME-Zarr image or label that breaks the specification ([1])."""
    from ome_zarr_models.v05 import Image as ImageModel
    from ome_zarr_models.v05 import ImageLabel

    check: Callable[[zarr.Group], object]
    group = zarr.open_group(path, mode="r")
    ome: Any = group.attrs.get("ome", {})
    check = ImageLabel.from_zarr if "image-label" in ome else ImageModel.from_zarr
    check(group)
