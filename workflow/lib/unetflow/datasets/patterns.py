"""Files that patterns with {image} and {group} find."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def safe(text: str) -> str:
    """Return a name in which every character that a path or wildcard dislikes is an underscore."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "image"


def matching(root: Path, pattern: str) -> list[tuple[Path, dict[str, str]]]:
    """Files that match a pattern, with what {image} and {group} stand for, sorted.

    `*` is anything within a folder's name, `**/` any folders; where there is no {image} the last
    `*` takes its place.

    Raises
    ------
    ValueError
        If no file matches.
    """
    named = name_image(pattern)
    glob = re.sub(r"\{(image|group)\}", "*", named)
    expression = re.compile(as_expression(named, {}))
    found = []
    for path in sorted(root.glob(glob)):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match:
            found.append((path, match.groupdict()))
    if not found:
        raise ValueError(f"{root}: files must match {pattern!r}: found none; correct the pattern")
    return found


def name_image(pattern: str) -> str:
    """Return the pattern with {image} in the place of its last `*`, unless it has one already."""
    if "{image}" in pattern or "*" not in pattern.replace("**/", ""):
        return pattern
    head, _, tail = pattern.rpartition("*")
    return f"{head}{{image}}{tail}"


def as_expression(pattern: str, known: Mapping[str, str]) -> str:
    """Regular expression of a pattern; what {image} and {group} are known to be is filled in."""
    result, seen = "", set[str]()
    for part in re.split(r"(\*\*/|\*|\{image\}|\{group\})", pattern):
        key = part.strip("{}")
        if part == "**/":
            result += r"(?:.*/)?"
        elif part == "*":
            result += r"[^/]*"
        elif part in ("{image}", "{group}"):
            named = f"(?P={key})" if key in seen else f"(?P<{key}>[^/]+)"
            result += re.escape(known[key]) if key in known else named
            seen.add(key)
        else:
            result += re.escape(part)
    return result
