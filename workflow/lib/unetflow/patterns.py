"""Paths of a sheet that are patterns, such as `data/*.tif`, and what they name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path

from unetflow.formats.source import divided
from unetflow.volumes import HDF5, LOCAL, TIFF, is_remote

ENDINGS = (".zarr", *TIFF, *HDF5, *LOCAL)
PATTERN = re.compile(r"(\*|\?|\[[^]]+\])")
"""What of a path stands for any characters, any one, or one of some."""


def of_pattern(row: Mapping[str, str], sheet: Path) -> list[dict[str, str]]:
    """Rows of what the path of a row names, if that is a pattern that names anything; else the row.

    Truth and mask are patterns too, and go to the path in which *, ? and [...] stand for the same;
    some volumes may have no truth.

    Raises
    ------
    ValueError
        If they are none, and the path names several.
    """
    found, rows = matches(row["path"]), []
    beside = {key: matches(row[key]) for key in ("truth", "mask") if row.get(key)}
    for key in beside:
        if len(found) > 1 and not beside[key] and not PATTERN.search(row[key]):
            raise ValueError(
                f"{sheet}: the {key} of a pattern must be a pattern: got {row[key]!r} for the "
                f"{len(found)} files of {row['path']!r}; put * where they differ"
            )
    for stands_for, place in found.items():
        name = re.sub("[^A-Za-z0-9_-]", "-", stem(place))
        one = {**row, "path": place, "volume": f"{row['volume']}-{name}"}
        for key, partners in beside.items():
            if stands_for in partners:
                one[key] = partners[stands_for]
            elif partners and key == "truth":  # without its mask it would be predicted as a whole
                del one[key]
        rows.append(one)
    return rows or [dict(row)]


def matches(place: str) -> dict[tuple[str, ...], str]:
    """Sorted paths that a pattern such as `data/*.tif` names, by what its *, ? and [...] stand for.

    Nothing of URLs, datasets, and paths that are there as they stand.
    """
    file, inside = divided(place)
    if is_remote(place) or place.startswith("dataset:") or os.path.lexists(file):
        return {}
    parts = PATTERN.split(file)
    any_of = {"*": "([^/]*)", "?": "([^/])"}
    parts[1::2] = [any_of.get(part, f"({part.replace('[!', '[^')})") for part in parts[1::2]]
    parts[::2] = [re.escape(part) for part in parts[::2]]
    paths = sorted(glob.glob(file)) if len(parts) > 1 else []
    named = [(re.fullmatch("".join(parts), path, re.DOTALL), path) for path in paths]
    return {
        match.groups(): f"{path}:{inside}" if inside else path for match, path in named if match
    }


def stem(place: str) -> str:
    """Name of a file or folder without what tells its format."""
    name = Path(divided(place)[0]).name
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)].removesuffix(".ome")
