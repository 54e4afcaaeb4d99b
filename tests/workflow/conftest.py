"""A copy of the project with a tiny experiment, run once; tests look at it or at copies of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

EXPERIMENT = """
description: A network too small to be good
dataset:
  name: tiny
  layout: {kind: synthetic, texture: membranes, shape: [3, 64, 72]}
split: {unit: block, folds: 3, run: [0]}
patches: {tile: 44, per_image: 2}
model: {width: 2, depth: 1}
train: {steps: 6, optimiser: adam, validate_every: 3, threads: 1}
predict: {threads: 1}
variants:
  unweighted: {weights.w0: 0}
"""

ARCHIVE = """volume\tpath\texperiment\ttruth
first\tdataset:tiny/membranes0_000\ttiny\tdataset:tiny/membranes0_000
second\tdataset:tiny/membranes0_001\ttiny\t
"""

CONFIG = "experiments: [tiny]\narchives: [tiny]\nresults: results\n"


@dataclass(frozen=True)
class Project:
    """A folder with a copy of the project."""

    path: Path

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end."""
        running = self.start(*arguments)
        output, _ = running.communicate()
        done = subprocess.CompletedProcess(arguments, running.returncode, output)
        if check:
            assert done.returncode == 0, output[-5000:]
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Snakemake on this copy's own code, in a process group of its own."""
        environment = {**os.environ, "PYTHONPATH": str(self.path / "workflow/lib")}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
            cwd=self.path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def would_run(self, *arguments: str) -> set[str]:
        """Rules that have jobs in a dry run."""
        text = self.snakemake("--dry-run", *arguments).stdout
        if "Job stats:" not in text:
            return set()
        table = text.split("Job stats:")[1].split("total")[0]
        return set(re.findall(r"^(\w+) +\d+$", table, re.MULTILINE)) - {"all", "job"}

    def append(self, file: str, text: str) -> None:
        """Add text to a file of the copy."""
        path = self.path / file
        path.write_text(path.read_text() + text)


def copy_project(to: Path) -> Project:
    """Copy what a run needs, with the tiny experiment in place of the demo."""
    to.mkdir()
    for name in ("workflow", "config", "resources", "profiles"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", to)
    (to / "config/config.yaml").write_text(CONFIG)
    (to / "config/experiments/tiny.yaml").write_text(EXPERIMENT)
    (to / "config/archives/tiny.tsv").write_text(ARCHIVE)
    return Project(to)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project whose workflow has run; not to be changed."""
    project = copy_project(tmp_path_factory.mktemp("finished") / "project")
    project.snakemake()
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """Return a copy of the finished project, to be changed at will."""
    return Project(Path(shutil.copytree(finished.path, tmp_path / "project", symlinks=True)))


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """Return a project in which nothing has run."""
    return copy_project(tmp_path / "project")
