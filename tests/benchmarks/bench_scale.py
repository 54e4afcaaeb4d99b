"""The workflow's graph for archives of many volumes: planning, and a dry run of all jobs."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import in_fresh_process, write

ROOT = Path(__file__).parents[2]
COUNTS = (10, 1000, 10000)
SHAPE = (4, 64, 64)

EXPERIMENT = """
dataset: {name: tiny, layout: {kind: synthetic, texture: membranes, shape: [3, 64, 72]}}
split: {unit: block, folds: 3, run: [0]}
patches: {tile: 44, per_image: 2}
model: {width: 2, depth: 1}
train: {steps: 6}
"""
DRY = ["--dry-run", "--quiet", "rules"]
STEPS = {
    "planning the archive": ["plan"],
    "dry run": DRY,
    "dry run of a tenth": [*DRY, "--batch", "summarise_archive=1/10"],
}


def write_project(folder: Path, count: int) -> None:
    """Copy the workflow, with an archive of as many volumes, all links to one file."""
    for name in ("workflow", "config", "resources", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "config/experiments/tiny.yaml").write_text(EXPERIMENT)
    (folder / "config/config.yaml").write_text("experiments: [tiny]\narchives: [many]\n")
    (folder / "volumes").mkdir()
    np.save(folder / "volumes/0.npy", np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8))
    lines = ["volume\tpath\texperiment"]
    for number in range(count):
        if number:
            os.link(folder / "volumes/0.npy", folder / f"volumes/{number}.npy")
        lines.append(f"v{number}\tvolumes/{number}.npy\ttiny")
    (folder / "config/archives/many.tsv").write_text("\n".join(lines) + "\n")


def run(folder: Path, arguments: list[str]) -> tuple[float, float, int]:
    """Seconds and peak in MiB of Snakemake and its jobs, and the jobs that a dry run counts."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "workflow/lib")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:])
    jobs = re.findall(r"^total +(\d+)$", done.stdout, re.MULTILINE)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return seconds, peak, int(jobs[-1]) if jobs else 0


def main() -> None:
    """Time each step once for each archive."""
    rows: list[dict[str, object]] = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_project(folder, count)
            in_fresh_process(run, folder, ["results/datasets/tiny/index.json"])  # a checkpoint too
            for step, arguments in STEPS.items():
                seconds, peak, jobs = in_fresh_process(run, folder, arguments)
                note = f"{jobs:,} jobs, {jobs / count:.2f} a volume" if "dry" in step else ""
                row = {"case": f"{count:,} volumes", "method": step, "note": note, "ratio": 1.0}
                rows.append(row | {"median_seconds": seconds, "peak_mib": peak})
                print(rows[-1], flush=True)
            write("scale", rows, rounds=1)


if __name__ == "__main__":
    main()
