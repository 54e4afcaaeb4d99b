"""The originals of a dataset, downloaded, verified and unpacked into one folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pooch

from unetflow.datasets.download import BY_HAND, delete_part, download_file
from unetflow.datasets.extract import ArchiveFolder, is_archive, name_parts, require_space
from unetflow.settings.datasets import Download


def fetch(
    downloads: Sequence[Download],
    archive: Path,
    record: Path,
    *,
    attempts: int = 5,
    pause_seconds: float = 2.0,
    timeout_seconds: tuple[float, float] = (15.0, 60.0),
    max_bytes: int = 200 * 10**9,
    max_members: int = 2_000_000,
) -> None:
    """Make the folder `archive`: every download, verified, unpacked if it is a zip or tar.

    The folder appears whole, by rename, or not at all. What an interrupted download has brought
    stays beside it as `NAME.part` (and `NAME.part.json`, which says of which version it is) and is
    continued the next time, provided that the server still has that version.

    Parameters
    ----------
    downloads : sequence of Download
        Relative paths in `url` are relative to the working directory. Local files are read in
        place and never changed.
    archive : Path
        Must not exist, or be empty.
    record : Path
        JSON file `{url: {sha256, size_bytes, date}}` with what downloads without published SHA-256
        were when they first came; later ones must be the same. It is rewritten whole and without a
        lock: one file per dataset where jobs run side by side.
    attempts : int
        Tries per download.
    pause_seconds : float
        Before the second try; doubled before each further one.
    timeout_seconds : (float, float)
        How long to wait for a connection, and for the next bytes.
    max_bytes, max_members : int
        What one zip or tar may unpack to.

    Raises
    ------
    ValueError
        If a file is not what it should be (SHA-256, size, kind), must not be unpacked, or names
        clash. Such a download is deleted.
    ConnectionError
        If a server does not give the file. What it gave is kept.
    OSError
        If the disk is too small, a local file is missing, or `archive` is not empty.
    """
    if not downloads:
        raise ValueError("nothing to fetch: the dataset has no `downloads`; name one or a `folder`")
    if archive.exists() and any(archive.iterdir()):
        raise FileExistsError(f"{archive} is not empty; delete it to fetch the dataset again")
    local = {download: _local_path(download.url) for download in downloads}
    parts = {download: archive.with_name(f"{_name(download)}.part") for download in downloads}
    if len(set(parts.values())) < len(downloads):
        names = ", ".join(download.name for download in downloads)
        raise ValueError(f"several downloads are stored under one name: {names}; set `file`")
    archive.parent.mkdir(parents=True, exist_ok=True)
    _require_space_for({d: part for d, part in parts.items() if local[d] is None})

    sources: dict[Download, Path] = {}
    entries: dict[str, dict[str, Any]] = {}
    recorded = json.loads(record.read_text()) if record.exists() else {}
    for download in downloads:
        path = local[download]
        if path is None:
            path = parts[download]
            download_file(download.url, path, attempts, pause_seconds, timeout_seconds)
        sources[download] = path
        with _deleted_if_bad(parts[download]):
            entries[download.url] = _verified(download, path, recorded.get(download.url), record)

    staging = archive.with_name(f"{archive.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
    staging.mkdir()
    try:
        folder = ArchiveFolder(staging, max_bytes, max_members)
        # Archives first: a `.part` that is moved into the folder is lost when a later one fails.
        for download in sorted(downloads, key=lambda download: not is_archive(download.name)):
            with _deleted_if_bad(parts[download]):
                _place(sources[download], download.name, folder, move=local[download] is None)
        new = {d.url: entries[d.url] for d in downloads if not d.sha256 and d.url not in recorded}
        if new:
            _write_json(record, recorded | new)
        staging.replace(archive)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    for part in parts.values():
        delete_part(part)


def _name(download: Download) -> str:
    with suppress(ValueError):  # a path that leads out of a folder is no file name either
        if name_parts(download.name) == [download.name]:
            return download.name
    raise ValueError(f"{download.name!r}, of {download.url}, is no file name; set `file` to one")


def _local_path(url: str) -> Path | None:
    """Path of a local file, or None for http(s)."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return None
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise ValueError(
            f"cannot fetch {url}: only http:, https:, file: and paths can be; {BY_HAND}"
        )
    path = Path(url2pathname(parts.path)) if parts.scheme else Path(url)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; correct `url` in the registry")
    return path


def _require_space_for(parts: dict[Download, Path]) -> None:
    """Raise OSError unless the disk has room for all that is still to come and of known size."""
    missing_bytes = 0
    for download, part in parts.items():
        there_bytes = part.stat().st_size if part.exists() else 0
        missing_bytes += max((download.size_bytes or 0) - there_bytes, 0)
    for folder in {part.parent for part in parts.values()}:
        require_space(folder, missing_bytes, f"fetch {', '.join(d.name for d in parts)}")


def _place(source: Path, name: str, folder: ArchiveFolder, move: bool) -> None:
    """Unpack an archive into the folder; put any other file there as it is."""
    if is_archive(name):
        folder.extract(source, name)
        return
    target = folder.claim([name], is_folder=False)
    if move:
        source.replace(target)
    else:
        require_space(folder.folder, source.stat().st_size, f"copy {name}")
        shutil.copyfile(source, target)


def _verified(
    download: Download, path: Path, recorded: dict[str, Any] | None, record: Path
) -> dict[str, Any]:
    """Entry of a file for the record, if it is what the registry and the record say."""
    name, sha256, size_bytes = download.name, pooch.file_hash(str(path)), path.stat().st_size
    page = " (it is a web page)" if _is_web_page(path) else ""
    if download.sha256 and not sha256.startswith(download.sha256):
        raise ValueError(
            f"{name} has SHA-256 {sha256}{page} and should have {download.sha256}; run the same "
            f"command again, and if that gives the same, the file at {download.url} was replaced: "
            "if you trust it, put its SHA-256 into a registry override"
        )
    if download.size_bytes and size_bytes != download.size_bytes:
        raise ValueError(
            f"{name} has {size_bytes} bytes{page} and should have {download.size_bytes}; "
            f"run the same command again, {BY_HAND}"
        )
    if not download.sha256 and page and not name.endswith((".html", ".htm")):
        kind = "a zip or tar archive" if is_archive(name) else "the file"
        raise ValueError(
            f"{download.url} sent a web page, not {kind}; open it in a browser, {BY_HAND}"
        )
    if not download.sha256 and recorded and recorded["sha256"] != sha256:
        raise ValueError(
            f"{name} has SHA-256 {sha256} and had {recorded['sha256']} on {recorded['date']}; "
            f"if you trust it, delete the entry of {download.url} in {record} and run again"
        )
    return {"sha256": sha256, "size_bytes": size_bytes, "date": f"{datetime.now(UTC):%Y-%m-%d}"}


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))


@contextmanager
def _deleted_if_bad(part: Path) -> Iterator[None]:
    """Delete a download whose content is wrong, so that the next run does not continue it."""
    try:
        yield
    except ValueError:
        delete_part(part)
        raise


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    new.replace(path)
