"""What the documentation says is so: settings parse, examples run, errors exist, links lead on."""

from __future__ import annotations

import ast
import doctest
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import PAGES, Block, blocks
from project import ROOT
from snakemake.cli import get_argument_parser

from unetflow.experiments import changed
from unetflow.reading import dotted_keys, parse
from unetflow.settings.datasets import DatasetSettings, Download
from unetflow.settings.experiment import ExperimentSettings, RunSettings
from unetflow.sheets import read_sheet

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMPARISON = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LONGEST = 200
FILES = (".json", ".safetensors")
"""Endings of files, which are named as keys are."""
LETTERS = 12
"""Of its own that a text of the library has, to be told from others."""
WORD = re.compile(r"(?<![\w/.'{])[a-z]{4,}(?![\w/.'}])")
"""A word of a message, but for names of files and keys."""
MOST = 0.6
"""Of the words of a message that stand in texts of the library; the others are values."""
TOLERANCE = 0.1


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_settings_are_valid(block: Block) -> None:
    content = yaml.safe_load(block.text)
    if block.title == "config/config.yaml":
        parse(RunSettings, content, str(block))
    elif block.title == "mirror.yaml":
        for name, download in content.items():
            assert (ROOT / f"resources/datasets/{name}.yaml").is_file()
            parse(Download, download, str(block))
    elif block.title.startswith("profiles/"):
        options = [action.option_strings for action in get_argument_parser()._actions]
        assert {f"--{key}" for key in content} <= {name for names in options for name in names}
    else:
        whole = {"dataset": "demo"} | content
        for changes in [{}, *content.get("variants", {}).values()]:
            parse(ExperimentSettings, changed(whole, changes, str(block)), str(block))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_in_texts_exist(page: Path) -> None:
    known = {*dotted_keys(ExperimentSettings), *dotted_keys(DatasetSettings)}
    sections = {key.partition(".")[0] for key in known if "." in key}
    words = set(re.findall(r"`([a-z]+\.[a-z_.]+)[`:]", page.read_text(encoding="utf-8")))
    named = {word for word in words if not word.endswith(FILES)}
    assert {word for word in named if word.partition(".")[0] in sections} <= known


@pytest.mark.parametrize("block", blocks("tsv"), ids=str)
def test_sheets_can_be_read(block: Block, tmp_path: Path) -> None:
    (tmp_path / "screen.tsv").write_text(block.text)
    assert len(read_sheet(tmp_path / "screen.tsv")) == len(block.text.splitlines()) - 1


@pytest.mark.parametrize("page", sorted({block.page.name for block in blocks("python")}))
def test_examples_give_what_they_show(page: str) -> None:
    shown = [block.text for block in blocks("python") if block.page.name == page]
    examples = doctest.DocTestParser().get_doctest("\n".join(shown), {}, page, page, 0)
    report: list[str] = []
    found = doctest.DocTestRunner(verbose=False).run(examples, out=report.append)
    assert found.attempted == sum(text.count(">>> ") for text in shown) > 0
    assert found.failed == 0, "".join(report)


def texts_of_the_library() -> list[re.Pattern[str]]:
    """Every text of the library and the rules, anything in the places of its values."""
    found = set()
    for path in (ROOT / "workflow/lib/unetflow").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            own = [part.value for part in parts if isinstance(part, ast.Constant)]
            own = [part for part in own if isinstance(part, str)]
            if sum(map(len, own)) >= LETTERS:
                found.add(".*?".join(f"({re.escape(part)})" for part in own))
    return [re.compile(expression) for expression in found]


def test_errors_are_those_of_the_library() -> None:
    lines = [
        line.removeprefix("error: ")
        for block in blocks("text")
        if block.page.name == "faq.md" and not block.text.startswith("zsh:")
        for line in block.text.splitlines()
    ]
    texts, strange = texts_of_the_library(), []
    for line in lines:
        covered = set()
        for text in texts:
            if found := text.search(line):
                spans = map(found.span, range(1, text.groups + 1))
                covered |= {place for span in spans for place in range(*span)}
        words = [word.span() for word in WORD.finditer(line)]
        if sum(covered >= {*range(*word)} for word in words) < MOST * len(words):
            strange.append(line)
    assert len(lines) > 10
    assert strange == []


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_links_of_pages_that_are_not_built_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    files = [target for target in targets if "://" not in target]
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs-material is not installed")
def test_pages_build_without_a_warning_and_all_links_lead_somewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    settings = (tmp_path / "settings/index.html").read_text(encoding="utf-8")
    assert "train.start_from" in settings, "config/README.md must be in the page of settings"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= LONGEST


def test_every_benchmark_has_one_place_for_its_table() -> None:
    benches = (ROOT / "tests/benchmarks").glob("bench_*.py")
    text = "".join(path.read_text(encoding="utf-8") for path in benches)
    names = re.findall(r"^ +(?:harness\.)?write\(\s*\"(\w+)\"", text, re.MULTILINE)
    assert sorted(names) == sorted(re.findall(r"<!-- benchmark (\w+) -->", COMPARISON))


def rows(text: str) -> list[list[str]]:
    """Cells of the rows of all tables of a page."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_times_in_the_readme_are_those_that_were_measured() -> None:
    measured = {(row[0], row[1]): row[3] for row in rows(COMPARISON) if len(row) == 6}
    table = README.split("| its time over ours |")[1].split("\n\n")[0]
    case, checked = "", 0
    for job, tool, ratio in (row for row in rows(table) if row[0] != "---"):
        case = job.partition(", ")[2] or case
        found = float(measured[case, tool].replace(",", ""))
        assert float(ratio) == pytest.approx(found, rel=TOLERANCE), f"{tool}: README.md is stale"
        checked += 1
    assert checked > 5


def test_the_citation_has_what_its_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["type"] in ("software", "dataset")
    assert str(citation["version"]) == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    for work in [citation, *citation["references"]]:
        assert work["title"]
        for author in work["authors"]:
            assert author.keys() in ({"name"}, {"family-names", "given-names"})
    for reference in citation["references"]:
        assert re.fullmatch(r"10\.\d{4,9}/\S+", reference["doi"])
        assert reference["doi"] in README
