"""What tells files, volumes and plans from others of the same name."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from unetflow.orientations import Region
from unetflow.store import Image, read_json


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


def state_of_file(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of change in ns of a volume; None where there is none.

    Of an OME-Zarr image those of its metadata: a folder's time says nothing of its files.
    """
    for place in (path / "zarr.json", path):
        with suppress(OSError):
            status = place.stat()
            return status.st_size, status.st_mtime_ns
    return None


def state_of_files(place: Path) -> str:
    """Digest of the names, sizes and times of a volume's files."""
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    states = [(str(file), file.stat()) for file in files if file.is_file()]
    return digest([(name, state.st_size, state.st_mtime_ns) for name, state in states])


def repaired(receipt: Path, volume: Path) -> str:
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

    Of a file size and time of change, of an array of many files its data type and chunks.
    """
    if image.path.is_file():
        return list(state_of_file(image.path) or ())
    return [str(image.array.dtype), list(image.array.chunks)]


def data_of(image: Image, reads: Region) -> list[str]:
    """SHA-256 of the voxels of a region, in a list."""
    voxels = hashlib.sha256()
    for first in range(reads[0].start, reads[0].stop):
        voxels.update(image.region((slice(first, first + 1), *reads[1:])).tobytes())
    return [voxels.hexdigest()]
