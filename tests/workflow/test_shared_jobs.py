"""Small volumes that share jobs: how many jobs there are, and what of them another sheet leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import zarr
from project import EXPERIMENT, Project

from unetflow.store import read_json

pytestmark = pytest.mark.workflow

CONFIG = ("--config", "experiments=[tiny-own]", "archives=[three]")
PLAN = "results/archives/three/plan.json"
SUMMARY = "results/archives/three/summary.tsv"
OF_PACK = ("measure_pack", "predict_pack", "finish_pack", "segment_pack", "evaluate_pack")


@pytest.fixture
def three(project: Project) -> Project:
    """Return a project with three volumes, which are normalised by their own grey values."""
    text = EXPERIMENT + f"  own: {json.dumps({'intensity.source': 'image'})}\n"
    (project.path / "config/experiments/tiny.yaml").write_text(text)
    write_sheet(project, range(3))
    return project


def write_sheet(project: Project, volumes: Iterable[int]) -> None:
    """Write a sheet of volumes of these numbers, each an image of three with its truth."""
    images = [(number, f"dataset:tiny/membranes0_00{number % 3}") for number in volumes]
    rows = [f"v{number}\t{image}\ttiny-own\t{image}" for number, image in images]
    path = project.path / "config/archives/three.tsv"
    path.write_text("\n".join(["volume\tpath\texperiment\ttruth", *rows]) + "\n")


def results_of(volume: Path) -> dict[Path, int]:
    """When each file of a volume was written, but what its block writes when it is looked at."""
    return {
        path: path.stat().st_mtime_ns
        for path in volume.rglob("*")
        if path.is_file() and "prediction_blocks" not in path.parts and path.name != "zarr.json"
    }


def test_volumes_that_share_a_job_share_all_of_them(three: Project) -> None:
    three.snakemake(PLAN, *CONFIG)
    text = three.snakemake("--dry-run", SUMMARY, *CONFIG).stdout
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE))
    assert {rule: jobs.get(rule) for rule in OF_PACK} == dict.fromkeys(OF_PACK, "1")
    assert "measure_volume" not in jobs


def test_planning_asks_for_the_time_of_its_rows(three: Project) -> None:
    found = []
    for count in (3, 1203):
        write_sheet(three, range(count))
        text = three.snakemake("--dry-run", PLAN, *CONFIG).stdout
        found.append(int(re.findall(r"runtime=(\d+)", text)[-1]))
    assert found[1] - found[0] == 20, "1 s a row"


def test_a_row_that_is_removed_leaves_those_that_shared_its_jobs(three: Project) -> None:
    three.snakemake(SUMMARY, *CONFIG)
    folder = three.path / "results/archives/three"
    assert {of["pack"] for of in read_json(folder / "plan.json")["volumes"].values()} == {"v0"}
    before = results_of(folder / "v1") | results_of(folder / "v2")
    names = {path.name for path in before}
    assert {"intensity.json", "prediction.json", "summary.json", "metrics.tsv"} <= names
    assert any("prediction.ome.zarr" in path.parts for path in before), "its shards"
    write_sheet(three, (1, 2))
    three.snakemake(SUMMARY, *CONFIG)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert three.would_run(SUMMARY, *CONFIG) == set()


def test_a_repaired_volume_is_measured_again(three: Project) -> None:
    """Its metadata, which plans are made from, are those of the volume that lacked a chunk."""
    volume = zarr.create_array(
        three.path / "lacking.zarr", shape=(64, 72), chunks=(32, 36), dtype="uint8"
    )
    volume[...] = np.random.default_rng(0).integers(1, 255, (64, 72))
    chunk = three.path / "lacking.zarr/c/0/0"
    kept = chunk.read_bytes()
    chunk.unlink()
    three.append("config/archives/three.tsv", "lacking\tlacking.zarr\ttiny-own\t\n")
    failed = three.snakemake(SUMMARY, *CONFIG)
    folder = three.path / "results/archives/three"
    assert read_json(folder / "lacking/summary.json")["state"] == "failed", failed.stdout
    before = results_of(folder / "v1")
    chunk.write_bytes(kept)
    three.snakemake(SUMMARY, *CONFIG)
    assert read_json(folder / "lacking/summary.json")["state"] == "done"
    assert before == results_of(folder / "v1")
    assert three.would_run(SUMMARY, *CONFIG) == set()
