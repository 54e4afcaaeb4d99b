"""What tells files, volumes and plans from others of the same name."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore

from unetflow import axes as axis_rules
from unetflow.formats.dicom import is_series
from unetflow.orientations import Region
from unetflow.store import Image, read_json, write_json
from unetflow.volumes import file_of, is_remote

METADATA = ("zarr.json", ".zattrs", ".zarray")


def current_plan(path: Path, key: str) -> dict[str, Any] | None:
    """Return a plan, or None where there is none or it was made from something else."""
    if not path.is_file():
        return None
    plan: dict[str, Any] = read_json(path)
    return plan if plan.get("key") == key else None


def digest(*facts: Any) -> str:
    """Sixteen digits of the SHA-256 of plain values."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def state_of_file(path: Path) -> tuple[tuple[int, int], ...]:
    """Size in bytes and time of change in ns of a file; of a Zarr folder those of its metadata.

    Of a folder of DICOM slices they are those of each: its own time says nothing of its files.
    Nothing where there is nothing.
    """
    found, places = [], [path]
    if path.is_dir():
        places = sorted(path.iterdir()) if is_series(path) else metadata_files(path)
    for place in places:
        with suppress(OSError):
            status = place.stat()
            found.append((status.st_size, status.st_mtime_ns))
    return tuple(found)


def metadata_files(folder: Path) -> list[Path]:
    """Metadata of a Zarr group and of all groups and arrays below it, or of an array."""
    here = [folder / name for name in METADATA if (folder / name).is_file()]
    is_array = any(
        file.name == ".zarray"
        or (file.name == "zarr.json" and read_json(file).get("node_type") == "array")
        for file in here
    )
    if is_array or not here:  # chunks lie below an array: there may be millions
        return here
    below = sorted(child for child in folder.iterdir() if child.is_dir())
    return here + [file for child in below for file in metadata_files(child)]


def state_of_files(place: str) -> str:
    """Digest of the names, sizes and times of a volume's files; nothing of a URL."""
    path = file_of(place)
    if path is None:
        return ""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    states = [(str(file), file.stat()) for file in files if file.is_file()]
    return digest([(name, state.st_size, state.st_mtime_ns) for name, state in states])


def lasting(receipt: Path) -> Path:
    """Hidden copy of a receipt: outputs are removed before their job runs again, this is not."""
    return receipt.with_name(f".{receipt.name}")


def write_receipt(path: Path, facts: Mapping[str, Any]) -> None:
    """Write what a job says of itself, JSON, and before it the copy that lasts."""
    write_json(lasting(path), facts)
    write_json(path, facts)


def repaired(receipt: Path, volume: str) -> str:
    """What tells a repaired volume from the one that a block has failed on; else what was told.

    Files of a volume that is read without fault are not looked at: there may be millions. Of one
    at a URL nothing is known, so each run tries it again.
    """
    copy = lasting(receipt)
    if not copy.is_file():
        return ""
    facts = read_json(copy)
    told: str = facts["made_from"]["repaired"]
    if facts["state"] == "done":
        return told
    found = digest(state_of_file(copy)) if is_remote(volume) else state_of_files(volume)
    return told if found == facts["files"] else found


def restored(receipt: Path, results: Iterable[Path]) -> str:
    """What tells a job some of whose results were removed since from the one that made them.

    While all of them are there it stays what was told; that of a job that never ran is nothing.

    Parameters
    ----------
    receipt : Path
        JSON that the job wrote last, with what was told as `restored`.
    """
    copy = lasting(receipt)
    if not copy.is_file():
        return ""
    if all(path.exists() for path in results):
        told: str = read_json(copy)["restored"]
        return told
    return digest(state_of_file(copy))


def known_by(image: Image) -> list[Any]:
    """What tells a volume's data from other data, which its predictions would not belong to.

    Of a file, or each slice of a series, size and time of change; of a dataset's image what its
    index says of its pixels; of another Zarr folder, which may grow, its metadata but the extents;
    of a URL the data type.
    """
    path = file_of(str(image.path))
    if path is not None and (path.is_file() or is_series(path)):
        return [list(state) for state in state_of_file(path)]
    facts = [read_json(file) for file in metadata_files(path)] if path else []
    for of in facts:
        of.pop("shape", None)
        of.pop("consolidated_metadata", None)  # repeats those of the arrays
    if path is not None and path.parent.name == "images.ome.zarr":
        index = path.parent.with_name("index.json")
        facts.append(pixels_in(index, state_of_file(index)).get(path.name))
    return [str(image.array.dtype), digest(facts)]


@lru_cache(maxsize=4)
def pixels_in(index: Path, _state: tuple[tuple[int, int], ...]) -> dict[str, str]:
    """SHA-256 of each image of a dataset by its index, read once as long as that stays as it is."""
    images = read_json(index)["images"] if index.is_file() else []
    return {image["image"]: image["sha256"] for image in images}


def data_of(image: Image, reads: Region) -> list[str]:
    """SHA-256 of the voxels of a region, in a list."""
    voxels = hashlib.sha256()
    beside = math.prod(part.stop - part.start for part in reads[1:])
    step = max(2**26 // beside, 1)
    for first in range(reads[0].start, reads[0].stop, step):
        some = slice(first, min(first + step, reads[0].stop))
        voxels.update(image.region((some, *reads[1:])).tobytes())
    return [voxels.hexdigest()]


def require_unchanged(image: Image, reads: Region, planned: Sequence[Any]) -> None:
    """Refuse a volume that is no longer the one that was planned.

    Else blocks that were predicted before and after would be put together.

    Parameters
    ----------
    planned : sequence
        What `known_by` or `data_of` told of it then.

    Raises
    ------
    ValueError
        If they tell something else now.
    """
    by_data = len(planned) == 1 and isinstance(planned[0], str)
    if (data_of(image, reads) if by_data else known_by(image)) != planned:
        raise ValueError(
            f"{image.path}: a volume must stay as it is while it is predicted: it has changed "
            "since it was planned; run again once it is complete"
        )


def require_chunks(image: Image, reads: Region) -> None:
    """Refuse a Zarr volume here that does not store all chunks of a region.

    Zarr reads what is not there as its fill value, so that a copy that was cut short looks whole.

    Raises
    ------
    ValueError
        Naming how many are missing, and the first.
    """
    selection: Any = image.array
    path, array = file_of(str(image.path)), getattr(selection, "array", None)
    if path is None or not isinstance(array, zarr.Array):
        return
    if not isinstance(array.store, LocalStore):  # as tifffile's view of a file
        return
    along = dict(zip(axis_rules.spatial(image.axes), reads, strict=True))
    steps = zip(selection.source_axes, array.shards or array.chunks, strict=True)
    chosen = {"t": [selection.time], "c": selection.channels}
    numbers = [
        range(along[axis].start // step, (along[axis].stop - 1) // step + 1)
        if axis in along
        else sorted({index // step for index in chosen[axis]})
        for axis, step in steps
    ]
    folder = array.store.root / array.path
    keys = (array.metadata.encode_chunk_key(place) for place in itertools.product(*numbers))
    missing = [key for key in keys if not (folder / key).is_file()]
    if missing:
        raise ValueError(
            f"{image.path}: all chunks must be stored: {len(missing)} are not, such as "
            f"{missing[0]}; copy the volume again, or set predict.missing_chunks to fill if it "
            "leaves empty chunks out"
        )
