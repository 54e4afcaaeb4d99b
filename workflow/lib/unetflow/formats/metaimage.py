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


def read_fields(place: str) -> dict[str, str]:
    """Fields of a header, by their names; the last is ElementDataFile."""
    with Path(place).open("rb") as file:
        content = file.read(HEADER_BYTES)
    last = content.find(b"ElementDataFile")
    end = content.find(b"\n", last) if last >= 0 else -1
    return dict(FIELD.findall(content[: end if end >= 0 else None].decode("latin-1")))


def is_compressed(fields: dict[str, str]) -> bool:
    """Whether pixels are stored compressed."""
    return fields.get("CompressedData", "").lower() == "true"
