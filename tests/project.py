"""A copy of the project with a tiny experiment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]

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
    """A folder with a copy of the project, and how Python is called there for Snakemake."""

    path: Path
    call: tuple[str, ...] = ("-m", "snakemake", "--cores", "2")
    environment: Mapping[str, str] = field(default_factory=dict)

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end."""
        running = self.start(*arguments)
        output, _ = running.communicate()
        done = subprocess.CompletedProcess(arguments, running.returncode, output)
        if check:
            assert done.returncode == 0, output[-5000:]
        return done

    def start(
        self, *arguments: str, output: IO[str] | int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start Snakemake on this copy's own code, in a process group of its own."""
        environment = os.environ | self.environment
        environment["PYTHONPATH"] = str(self.path / "workflow/lib")
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        return subprocess.Popen(
            [sys.executable, *self.call, *arguments],
            cwd=self.path,
            env=environment,
            text=True,
            stdout=output,
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
