"""The documentation as tests read it: pages, their fenced blocks, and the commands in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from project import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:snakemake|make) [^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its language, the file that it is a part of, and its text."""

    page: Path
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        """Name of a test."""
        return f"{self.page.name}: {self.text.splitlines()[0]}"


def blocks(language: str) -> list[Block]:
    """Fenced blocks of a language, page by page."""
    return [
        Block(page, *found)
        for page in PAGES
        for found in FENCE.findall(page.read_text(encoding="utf-8"))
        if found[0] == language
    ]


def commands() -> list[str]:
    """Every command once: the lines of shell blocks, and those of snakemake and make in texts."""
    lines = [line for block in blocks("sh") for line in block.text.splitlines()]
    texts = [FENCE.sub("", page.read_text(encoding="utf-8")) for page in PAGES]
    lines += [command for text in texts for command in INLINE.findall(text)]
    found = (re.sub(r"\s+#.*", "", line).strip() for line in lines)
    return list(dict.fromkeys(command for command in found if command))
