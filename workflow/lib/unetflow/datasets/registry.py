"""Looking up a dataset in the registry, and where to fetch it from."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from unetflow.settings import DatasetSettings


def find_dataset(name: str, registry: Path, override: Path | None) -> DatasetSettings:
    """Return the registry's entry of a dataset, with the override's URL and checksum.

    Parameters
    ----------
    registry : Path
        Folder of NAME.yaml files.
    override : Path, optional
        YAML file of {name: {url, sha256}} for a mirror or local copy; relative URLs are relative to
        it.

    Raises
    ------
    ValueError
        If neither knows the dataset, or the dataset has no download.
    """
    path = registry / f"{name}.yaml"
    if not path.is_file():
        known = sorted(entry.stem for entry in registry.glob("*.yaml"))
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"the nearest is {close[0]}" if close else f"known are {', '.join(known)}"
        raise ValueError(f"dataset {name}: {path} must exist: found none; {hint}")
    entry: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if override is not None:
        replaced = yaml.safe_load(override.read_text(encoding="utf-8")) or {}
        if name in replaced:
            entry["downloads"] = [resolved(replaced[name], override.parent)]
    dataset = DatasetSettings(**entry, name=name)
    made_here = dataset.layout.kind == "synthetic" or dataset.folder is not None
    if not dataset.downloads and not made_here:
        raise ValueError(
            f"dataset {name}: has no direct download; {dataset.instructions} Then name the file's "
            "url and sha256 in a YAML file and pass it as --config registry=FILE"
        )
    return dataset


def resolved(download: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a download whose relative URL is made a path."""
    url = str(download["url"])
    return (
        download
        if "://" in url or url.startswith("file:")
        else {**download, "url": str((folder / url).resolve())}
    )
