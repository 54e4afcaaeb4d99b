"""Another workflow uses this one as a module, with its own configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from project import ARCHIVE, EXPERIMENT, ROOT, Project

pytestmark = pytest.mark.workflow

SNAKEFILE = f"""
configfile: "settings.yaml"

module unetflow:
    snakefile: "{ROOT}/Snakefile"
    config: config["cells"]

use rule * from unetflow as unetflow_*

rule everything:
    default_target: True
    input: "counted.txt"

rule count:
    input: "cells/experiments/tiny/fold0/seed0/metrics.tsv"
    output: "counted.txt"
    shell: "wc -l < {{input}} > {{output}}"
"""


@pytest.fixture
def other(tmp_path: Path) -> Project:
    """Return a workflow that has its experiments and sheets, and nothing else of this one."""
    for name in ("experiments", "archives"):
        (tmp_path / "config" / name).mkdir(parents=True)
    (tmp_path / "config/experiments/tiny.yaml").write_text(EXPERIMENT)
    (tmp_path / "config/archives/tiny.tsv").write_text(ARCHIVE)
    settings = "cells: {experiments: [tiny], archives: [tiny], results: cells}\n"
    (tmp_path / "settings.yaml").write_text(settings)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    return Project(tmp_path)


def test_another_workflow_runs_this_one_as_a_module(other: Project) -> None:
    planned = other.snakemake("--dry-run", "unetflow_all").stdout
    assert re.search(r"^unetflow_train_model +\d+$", planned, re.MULTILINE)
    other.snakemake()
    scores = (other.path / "cells/experiments/tiny/fold0/seed0/metrics.tsv").read_text()
    assert int((other.path / "counted.txt").read_text()) == len(scores.splitlines()) > 5
    assert not (other.path / "results").exists()
