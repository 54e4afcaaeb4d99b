"""A folder filled from archives: plain files and folders inside it, and nothing else anywhere."""

from __future__ import annotations

import errno
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self, cast

from unetflow.progress import log

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
CHUNK_BYTES = 2**20
UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,  # a compression that Python lacks
    UnicodeDecodeError,
)
OVERRIDE = "name a repaired copy as `url` in a registry override"


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked. The suffix decides: an .npz is a zip as well."""
    return name.lower().endswith(ZIP_SUFFIXES + TAR_SUFFIXES)


def name_parts(name: str) -> list[str]:
    """Folders and file name of a path inside an archive.

    Raises
    ------
    ValueError
        If the path could lead out of the folder that it is unpacked into, here or on Windows.
    """
    escapes = name.startswith("/") or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name)
    if escapes or ".." in name.split("/"):
        raise ValueError(f"{name!r} leads out of the folder")
    return [part for part in name.split("/") if part not in ("", ".")]


def require_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raise OSError unless the disk of `folder` has room for so many bytes."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        message = (
            f"not enough disk to {purpose}: it needs {needed_bytes / 1e9:.3f} GB and "
            f"{free_bytes / 1e9:.3f} GB are free in {folder}; "
            "free some, or move the results folder to a larger disk"
        )
        raise OSError(errno.ENOSPC, message)


class ArchiveFolder:
    """A folder being filled from archives and single files, none of which may touch another's.

    Parameters
    ----------
    folder : Path
        Existing and empty.
    max_bytes, max_members : int
        What one archive may unpack to, against archives made to fill the disk.
    """

    def __init__(self, folder: Path, max_bytes: int, max_members: int) -> None:
        self.folder = folder
        self.max_bytes, self.max_members = max_bytes, max_members
        self._taken: dict[str, tuple[str, bool]] = {}

    def claim(self, parts: list[str], is_folder: bool) -> Path:
        """Path of a new entry in the folder, if its name is free on every file system.

        Raises
        ------
        ValueError
            If a file of that name is there, a folder where a file should be or the reverse, or a
            name that differs only in case, which macOS and Windows take for the same.
        """
        for depth in range(1, len(parts) + 1):
            path, folder_here = "/".join(parts[:depth]), is_folder or depth < len(parts)
            there = self._taken.get(path.casefold())
            if there is None:
                self._taken[path.casefold()] = (path, folder_here)
            elif not folder_here and there == (path, False):
                raise ValueError(f"{path!r} is there twice")
            elif there != (path, folder_here):
                raise ValueError(f"{path!r} clashes with {there[0]!r}")
        return self.folder.joinpath(*parts)

    def extract(self, source: Path, name: str) -> None:
        """Unpack a zip or tar archive. Modes, owners and times are not kept.

        Everything is checked before the first byte is written; a compressed tar is read twice for
        that. Resource forks of macOS (`__MACOSX`, `._*`) are left out: they look like pictures.

        Parameters
        ----------
        source : Path
            The archive.
        name : str
            What it is called; the suffix says which kind it is.

        Raises
        ------
        ValueError
            If it is truncated or corrupt, too large, or holds anything but files and folders
            inside. Part of it may be in the folder by then.
        OSError
            If the disk is too small.
        """
        with _named(name), _opened(source, name) as members:
            total_bytes = 0
            planned: list[tuple[_Member, Path]] = []
            for count, member in enumerate(members, start=1):
                total_bytes += member.size_bytes
                if count > self.max_members:
                    raise _Refused(f"it holds more than {self.max_members} entries")
                if total_bytes > self.max_bytes:
                    raise _Refused(f"it unpacks to more than {self.max_bytes} bytes")
                if (target := self._target(member)) is not None:
                    planned.append((member, target))
            require_space(self.folder, total_bytes, f"unpack {name}")
            for member, target in planned:
                member.write(target)
        log(f"unpacked {name}: {len(planned)} entries, {total_bytes / 1e6:.1f} MB")

    def _target(self, member: _Member) -> Path | None:
        """Where a member goes; None for a resource fork."""
        if member.kind not in ("file", "folder"):
            raise _Refused(f"{member.name!r} is {member.kind}, not a plain file")
        try:
            parts = name_parts(member.name)
            if not parts or parts[0] == "__MACOSX" or parts[-1].startswith("._"):
                return None
            return self.claim(parts, member.kind == "folder")
        except ValueError as error:
            raise _Refused(str(error)) from error


class _Refused(Exception):
    """An archive that could be read and must not be unpacked."""


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str
    size_bytes: int
    open: Callable[[], IO[bytes]]

    def write(self, target: Path) -> None:
        if self.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.open() as read, target.open("xb") as written:
            shutil.copyfileobj(read, written, CHUNK_BYTES)


class _StrictTarInfo(tarfile.TarInfo):
    """Makes a tar that ends or breaks off inside an error, where tarfile takes it for the end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed lacks it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no valid header at byte {tarfile_.offset}") from error


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn what the readers of zip and tar raise into one line that names the file."""
    try:
        yield
    except _Refused as error:
        raise ValueError(f"{name} is not safe to unpack: {error}; {OVERRIDE}") from error
    except UNREADABLE as error:
        # bz2 and gzip report bad data as OSError without a number; with one it is the disk's.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        raise ValueError(
            f"{name} is truncated, corrupt or not an archive of the kind its name says: {reason}; "
            f"run the same command again to fetch it anew, or {OVERRIDE}"
        ) from error


@contextmanager
def _opened(source: Path, name: str) -> Iterator[Iterator[_Member]]:
    """Yield the members, one by one, so that a bomb is refused before all of it is read."""
    if name.lower().endswith(ZIP_SUFFIXES):
        with zipfile.ZipFile(source) as archive:
            yield (_zip_member(archive, info) for info in archive.infolist())
    else:
        with tarfile.open(source, tarinfo=_StrictTarInfo) as tar:
            yield (_tar_member(tar, info) for info in tar)


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    unix_type = stat.S_IFMT(info.external_attr >> 16)  # 0 where another system made the zip
    if unix_type == stat.S_IFLNK:
        kind = "a symbolic link"
    elif info.is_dir():
        kind = "folder"
    elif unix_type not in (0, stat.S_IFREG):
        kind = "a device or pipe"
    else:
        kind = "an encrypted file" if info.flag_bits & 1 else "file"
    return _Member(info.filename, kind, info.file_size, lambda: archive.open(info))


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    if info.issym() or info.islnk():
        kind = "a symbolic link" if info.issym() else "a hard link"
    elif info.isdir():
        kind = "folder"
    else:
        kind = "file" if info.isreg() else "a device or pipe"
    size_bytes = info.size if info.isreg() else 0
    return _Member(info.name, kind, size_bytes, lambda: cast(IO[bytes], archive.extractfile(info)))
