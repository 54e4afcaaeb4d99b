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
ALONE = 6666
"""Volumes with jobs of their own: 20,000 jobs."""
FEW = 100
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
}
OF_OWN = {"dry run of a tenth": [*DRY, "--batch", "summarise_archive=1/10"]}
OWN = "predict: {block_minutes: 1.0e-6}\n"
"""Added to the experiment, each volume has jobs of its own."""


def write_project(folder: Path, count: int, more: str = "") -> None:
    """Copy the workflow, with an archive of as many volumes, all links to one file.

    `more` is added to the experiment.
    """
    folder.mkdir()
    for name in ("workflow", "config", "resources", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "config/experiments/tiny.yaml").write_text(EXPERIMENT + more)
    (folder / "config/config.yaml").write_text("experiments: [tiny]\narchives: [many]\n")
    (folder / "volumes").mkdir()
    np.save(folder / "volumes/0.npy", np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8))
    lines = ["volume\tpath\texperiment"]
    for number in range(count):
        if number:
            os.link(folder / "volumes/0.npy", folder / f"volumes/{number}.npy")
        lines.append(f"v{number}\tvolumes/{number}.npy\ttiny")
    (folder / "config/archives/many.tsv").write_text("\n".join(lines) + "\n")


def run(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Seconds, those of CPU, and peak in MiB of Snakemake and its jobs; jobs of a dry run."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *arguments],
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
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    jobs = re.findall(r"^total +(\d+)$", done.stdout, re.MULTILINE)
    return {
        "seconds": seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "mib": used.ru_maxrss / 1024,
        "jobs": int(jobs[-1]) if jobs else 0,
    }


def measured(case: str, method: str, of: dict[str, float], note: str = "") -> dict[str, object]:
    """Row of the table."""
    told = [f"{of['cpu']:,.3g} s of CPU", *([note] if note else [])]
    row = {"case": case, "method": method, "note": "; ".join(told), "ratio": 1.0}
    row |= {"median_seconds": of["seconds"], "peak_mib": of["mib"]}
    print(row, flush=True)
    return row


def steps(folder: Path, count: int, own: bool) -> list[dict[str, object]]:
    """Rows of planning and dry runs for an archive."""
    write_project(folder, count, OWN if own else "")
    in_fresh_process(run, folder, ["results/datasets/tiny/index.json"])  # a checkpoint too
    case, rows = f"{count:,} volumes" + ", each with jobs of its own" * own, []
    for method, arguments in (STEPS | OF_OWN if own else STEPS).items():
        of = in_fresh_process(run, folder, arguments)
        rows.append(measured(case, method, of, f"{of['jobs']:,} jobs" if of["jobs"] else ""))
    return rows


def each_volume(folder: Path, count: int, own: bool) -> list[dict[str, object]]:
    """Row of what a small volume costs beside its prediction."""
    write_project(folder, count, OWN if own else "")
    archive = "results/archives/many"
    receipts = [f"{archive}/v{number}/prediction_blocks/0_0_0.json" for number in range(count)]
    in_fresh_process(run, folder, ["plan"])
    in_fresh_process(run, folder, receipts if own else [f"{archive}/v0/pack.json"])
    of = in_fresh_process(run, folder, [f"{archive}/summary.tsv"])
    each = {key: of[key] / count for key in ("seconds", "cpu")}
    case = f"{count} volumes" + ", each with jobs of its own" * own
    return [measured(case, "finishing and segmenting one", {**each, "mib": of["mib"]})]


def main() -> None:
    """Time each step once for each archive."""
    graphs = [*((steps, count, False) for count in COUNTS), (steps, ALONE, True)]
    rows: list[dict[str, object]] = []
    for measure, count, own in [*graphs, (each_volume, FEW, False), (each_volume, FEW, True)]:
        with tempfile.TemporaryDirectory() as place:
            rows += measure(Path(place) / "project", count, own)
        write("scale", rows, rounds=1)


if __name__ == "__main__":
    main()
