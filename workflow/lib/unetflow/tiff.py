"""TIFF files that are whole: what tifffile only logs, or never looks at, is an error."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import tifffile


def open_tiff(path: Path | str) -> tifffile.TiffFile:
    """Return an opened TIFF file all of whose pages and pixels are there; a text may be a URL.

    tifffile reads a file that was cut between two pages as one of fewer pages.

    Raises
    ------
    ValueError
        If the file is cut, or no TIFF.
    """
    file = None
    try:
        with strict():
            opened = fsspec.open(path).open() if "://" in str(path) else path
            file = tifffile.TiffFile(opened, name=str(path))
            size = file.filehandle.size
            for page in file.pages:
                parts = zip(page.dataoffsets, page.databytecounts, strict=True)
                if max((start + count for start, count in parts), default=0) > size:
                    raise ValueError(f"page {page.index} goes beyond the {size} bytes of the file")
    except Exception as error:  # decoders raise whatever they like for a broken file
        if file is not None:
            file.close()
        raise ValueError(
            f"{path}: must be a readable TIFF file: {' '.join(str(error).split())}; "
            "replace the file or fetch it again"
        ) from error
    return file


@contextmanager
def strict() -> Iterator[None]:
    """Raise the first error that tifffile logs inside."""
    told: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = tifffile.logger()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if told:
        raise ValueError(told[0])
