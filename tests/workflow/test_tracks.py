"""From frames of the Cell Tracking Challenge to tracks and their scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from project import Project

from unetflow.lineage import read_lineage

pytestmark = pytest.mark.workflow

FRAMES = 6
OUTLINED = (1, 3)
EXPERIMENT = """
dataset:
  name: movies
  folder: movies
  layout: {kind: ctc, every_frame: true}
split: {unit: group, folds: 2, run: [0]}
patches: {tile: 44, per_image: 4}
model: {width: 4, depth: 1, dropout: 0}
train: {steps: 100, optimiser: adam, learning_rate: 0.01, validate_every: 50, threads: 1}
predict: {threads: 1}
segment: {threshold: 0.5, minimum_size: 8}
track: {enabled: true, max_distance: 6, gap: 1}
"""


def write_movie(folder: Path, name: str, column: int) -> None:
    """Write frames of two bright squares that move, markers of all and outlines of some."""
    rng = np.random.default_rng(column)
    for part in (name, f"{name}_GT/SEG", f"{name}_GT/TRA"):
        (folder / part).mkdir(parents=True)
    for frame in range(FRAMES):
        mask = np.zeros((64, 72), np.uint16)
        mask[8 + frame : 20 + frame, column : column + 12] = 1
        mask[40 - frame : 52 - frame, column + 20 : column + 32] = 2
        pixels = rng.normal(60, 5, mask.shape) + 120 * (mask > 0)
        tifffile.imwrite(folder / f"{name}/t{frame:03d}.tif", pixels.astype(np.uint8))
        tifffile.imwrite(folder / f"{name}_GT/TRA/man_track{frame:03d}.tif", mask)
        if frame in OUTLINED:
            tifffile.imwrite(folder / f"{name}_GT/SEG/man_seg{frame:03d}.tif", mask)
    last = FRAMES - 1
    (folder / f"{name}_GT/TRA/man_track.txt").write_text(f"1 0 {last} 0\n2 0 {last} 0\n")


@pytest.fixture(scope="module")
def movies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of three movies, one without truth."""
    folder = tmp_path_factory.mktemp("data") / "movies"
    for name, column in (("01", 6), ("02", 20), ("03", 30)):
        write_movie(folder, name, column)
    (folder / "03_GT").rename(folder / "unknown")
    return folder


def test_a_sequence_that_was_held_out_is_tracked_and_scored(fresh: Project, movies: Path) -> None:
    (fresh.path / "movies").symlink_to(movies)
    file = fresh.path / "config/experiments/movies.yaml"
    chosen = ("experiments=[movies]", "archives=[]")
    file.write_text(EXPERIMENT.replace(", every_frame: true", ""))
    failed = fresh.snakemake("--config", *chosen, check=False)
    assert failed.returncode != 0
    assert "experiment movies: frames to be tracked must follow each other" in failed.stdout

    file.write_text(EXPERIMENT)
    fresh.snakemake("--config", *chosen)
    experiment = fresh.path / "results/experiments/movies"
    fold = experiment / "fold0/seed0"
    parts = json.loads((experiment / "split.json").read_text())["fold0"]
    (held,) = {image.split("_")[0] for image, part in parts.items() if part == "test"}
    assert list(parts.values()).count("track") == FRAMES - len(OUTLINED)
    assert [path.name for path in (fold / "tracks").glob("*_RES")] == [f"{held}_RES"]
    assert len(list((fold / f"tracks/{held}_RES").glob("mask*.tif"))) == FRAMES
    assert read_lineage(fold / f"tracks/{held}_RES/res_track.txt")[:, 2].max() == FRAMES - 1

    table = pd.read_csv(experiment / "metrics.tsv", sep="\t").set_index(["image", "metric"])[
        "value"
    ]
    summary = json.loads((experiment / "summary.json").read_text())["metrics"]
    for metric in ("seg", "det", "tra"):
        score = table[f"{held} frames 0-{FRAMES - 1}", metric]
        assert score > 0.9, "bright squares on a dark ground"
        assert summary[metric]["mean"] == pytest.approx(score)
    images = table[:, "dice_cell"].index
    assert list(images) == [f"{held}_{frame:03d}" for frame in OUTLINED]

    # The final network follows the sequence without truth, and those with gaps in their outlines.
    final = experiment / "final/seed0/tracks"
    counts = {path.name: len(list(path.glob("mask*.tif"))) for path in final.glob("*_RES")}
    assert counts == dict.fromkeys(("01_RES", "02_RES", "03_RES"), FRAMES)
    page = (fresh.path / "results/report/index.html").read_text()
    assert "TRA" in page
    assert fresh.would_run("--config", *chosen) == set()

    file.write_text(EXPERIMENT.replace("gap: 1", "gap: 2"))
    assert fresh.would_run("--config", *chosen) == {
        "track_images",
        "evaluate_images",
        "summarise_experiment",
        "build_report",
    }
