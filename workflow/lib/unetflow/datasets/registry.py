"""Looking up a dataset in the registry, and where to fetch it, or weights, from."""

from __future__ import annotations

import difflib
from pathlib import Path

from unetflow.reading import parse, read_yaml
from unetflow.settings.datasets import DatasetSettings, Download

TORCHVISION = "https://download.pytorch.org/models"
"""Where torchvision fetches its weights from."""


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
    entry = read_yaml(path)
    if override is not None:
        if not override.is_file():
            raise ValueError(
                f"registry: {override} must exist: found none; correct --config registry"
            )
        replaced = read_yaml(override, may_be_empty=True)
        if name in replaced:
            download = parse(Download, replaced[name], f"{override}: {name}")
            entry["downloads"] = [resolved(download, override.parent)]
    dataset = parse(DatasetSettings, {**entry, "name": name}, str(path))
    made_here = dataset.layout.kind == "synthetic" or dataset.folder is not None
    if not dataset.downloads and not made_here:
        raise ValueError(
            f"dataset {name}: has no direct download; {dataset.instructions} Then name the file's "
            "url and sha256 in a YAML file and pass it as --config registry=FILE"
        )
    return dataset


def find_weights(name: str, override: Path | None) -> Download:
    """Return the download of a file of torchvision's weights, or of the override's copy of it.

    Parameters
    ----------
    name : str
        Such as vgg11-8a719046.pth, which ends with the first digits of its SHA-256.
    override : Path, optional
        See `find_dataset`; the file stands there by its name.
    """
    replaced = {} if override is None else read_yaml(override, may_be_empty=True)
    if override is not None and name in replaced:
        download = parse(Download, replaced[name], f"{override}: {name}")
        return resolved(download, override.parent).model_copy(update={"file": name})
    return Download(url=f"{TORCHVISION}/{name}", sha256=Path(name).stem.rpartition("-")[2])


def resolved(download: Download, folder: Path) -> Download:
    """Return a download whose relative URL is made a path."""
    if "://" in download.url or download.url.startswith("file:"):
        return download
    return download.model_copy(update={"url": str((folder / download.url).resolve())})
