"""Headers of MetaImage files: what SimpleITK replaces by a guess, or tells of in other words."""

from __future__ import annotations

import re
from pathlib import Path

ENDINGS = (".mha", ".mhd")
HEADER_BYTES = 2**16
FIELD = re.compile(r"^(\w+)[ \t]*[=:][ \t]*(.*?)\s*$", re.MULTILINE)
SIZES = ("ElementSpacing", "ElementSize")
"""Fields that tell the size of voxels; SimpleITK takes 1 mm where there is neither."""


def is_metaimage(place: str) -> bool:
    """Whether a file is one by its ending."""
    return place.lower().endswith(ENDINGS)


def read_header(place: str) -> bytes:
    """Return the text before the pixels, whose last line says where these are."""
    with Path(place).open("rb") as file:
        content = file.read(HEADER_BYTES)
    last = content.find(b"ElementDataFile")
    end = content.find(b"\n", max(0, last))
    return content[: end + 1] if last >= 0 and end >= 0 else content


def read_fields(place: str) -> dict[str, str]:
    """Fields of a header, by their names."""
    return dict(FIELD.findall(read_header(place).decode("latin-1")))


def is_compressed(fields: dict[str, str]) -> bool:
    """Whether pixels are stored compressed."""
    return fields.get("CompressedData", "").lower() == "true"


def require_pixels(place: str, size: int) -> None:
    """Refuse a file whose pixels are not there, or were cut.

    SimpleITK then says that the header, which is there, is not. Pixels in a list of files, or
    written as text, are for it to tell.

    Parameters
    ----------
    size : int
        Bytes of all pixels.

    Raises
    ------
    ValueError
        If the file that the header names is missing or too small.
    """
    fields = read_fields(place)
    name, inside = fields["ElementDataFile"], fields["ElementDataFile"].upper() == "LOCAL"
    if name.startswith("LIST") or "%" in name:
        return
    file = Path(place) if inside else Path(place).parent / name
    if not file.is_file():
        raise ValueError(f"its header says that its pixels are in {name}: found no such file")
    if is_compressed(fields):
        size = int(fields.get("CompressedDataSize", 0))
    elif fields.get("BinaryData", "").lower() != "true":
        return
    start = len(read_header(place)) if inside else max(0, int(fields.get("HeaderSize", 0)))
    found = file.stat().st_size - start
    if found < size:
        raise ValueError(f"its pixels were cut: {file.name} has {found} of {size} bytes of them")
