"""What tells files, volumes and plans from others of the same name."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore

from unetflow import axes as axis_rules
from unetflow.orientations import Region
from unetflow.store import Image, read_json
from unetflow.volumes import file_of

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

    A folder's own time says nothing of its files. Nothing where there is nothing.
    """
    found = []
    for place in metadata_files(path) if path.is_dir() else [path]:
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


def repaired(receipt: Path, volume: str) -> str:
    """What tells a repaired volume from the one that a block has failed on; else what was told.

    Files of a volume that is read without fault are not looked at: there may be millions.
    """
    if not receipt.is_file():
        return ""
    facts = read_json(receipt)
    told: str = facts["made_from"]["repaired"]
    if facts["state"] == "done":
        return told
    found = state_of_files(volume)
    return told if found == facts["files"] else found


def known_by(image: Image) -> list[Any]:
    """What tells a volume's data from other data, which its predictions would not belong to.

    Of a file size and time of change; of a Zarr folder, which may grow, its metadata but the
    extents; of a URL the data type.
    """
    path = file_of(str(image.path))
    if path is not None and path.is_file():
        return list(state_of_file(path))
    facts = [read_json(file) for file in metadata_files(path)] if path else []
    for of in facts:
        of.pop("shape", None)
        of.pop("consolidated_metadata", None)  # repeats those of the arrays
    return [str(image.array.dtype), digest(facts)]


def data_of(image: Image, reads: Region) -> list[str]:
    """SHA-256 of the voxels of a region, in a list."""
    voxels = hashlib.sha256()
    beside = math.prod(part.stop - part.start for part in reads[1:])
    step = max(2**26 // beside, 1)
    for first in range(reads[0].start, reads[0].stop, step):
        some = slice(first, min(first + step, reads[0].stop))
        voxels.update(image.region((some, *reads[1:])).tobytes())
    return [voxels.hexdigest()]


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
