"""The whole workflow on a tiny experiment."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from project import EXPERIMENT, Project

from unetflow.store import create_image

pytestmark = pytest.mark.workflow

EVERY_FILE = """
datasets/tiny/images.ome.zarr/membranes0_000/zarr.json
datasets/tiny/images.ome.zarr/membranes0_000/labels/classes/zarr.json
datasets/tiny/images.ome.zarr/membranes0_000/labels/instances/zarr.json
datasets/tiny/index.json
datasets/tiny/intensity/membranes0_000.json
experiments/tiny/split.json
experiments/tiny/weights.zarr/membranes0_000/zarr.json
experiments/tiny/patches/membranes0_000.zarr/zarr.json
experiments/tiny/fold0/seed0/model.safetensors
experiments/tiny/fold0/seed0/model.json
experiments/tiny/fold0/seed0/history.tsv
experiments/tiny/fold0/seed0/train.run.json
experiments/tiny/fold0/seed0/prediction.ome.zarr/membranes0_000/zarr.json
experiments/tiny/fold0/seed0/segmentation.ome.zarr/membranes0_000/zarr.json
experiments/tiny/fold0/seed0/objects.tsv
experiments/tiny/fold0/seed0/tiling.json
experiments/tiny/fold0/seed0/metrics.tsv
experiments/tiny/fold0/seed0/curves.tsv
experiments/tiny/metrics.tsv
experiments/tiny/curves.tsv
experiments/tiny/summary.json
experiments/tiny-unweighted/summary.json
archives/tiny/plan.json
archives/tiny/first/prediction.ome.zarr/zarr.json
archives/tiny/first/prediction_blocks/packed_0_0.json
archives/tiny/first/prediction.json
archives/tiny/first/segmentation.ome.zarr/zarr.json
archives/tiny/first/objects.tsv
archives/tiny/first/metrics.tsv
archives/tiny/second/summary.json
archives/tiny/summary.tsv
report/index.html
"""


def test_every_file_of_the_data_contract_is_there(finished: Project) -> None:
    missing = [
        name for name in EVERY_FILE.split() if not (finished.path / "results" / name).exists()
    ]
    assert missing == []


def test_scores_are_told_per_image_and_summarised(finished: Project) -> None:
    folder = finished.path / "results/experiments/tiny"
    table = pd.read_csv(folder / "metrics.tsv", sep="\t")
    assert list(table) == ["experiment", "split", "seed", "image", "metric", "value"]
    summary = json.loads((folder / "summary.json").read_text())["metrics"]
    of_dice = table[table["metric"] == "dice_cell"]["value"]
    assert summary["dice_cell"]["mean"] == pytest.approx(of_dice.mean())
    assert summary["dice_cell"]["n"] == len(of_dice) == 1


def test_a_variant_makes_again_only_what_differs(finished: Project) -> None:
    folder = finished.path / "results/experiments/tiny-unweighted"
    assert (folder / "weights.zarr").is_dir(), "its weights differ"
    assert (folder / "fold0/seed0/model.json").is_file()
    assert not (finished.path / "results/datasets/tiny-unweighted").exists()


def test_what_is_left_to_the_plan_is_chosen_and_told(project: Project) -> None:
    automatic = {"model.width": "auto", "model.depth": "auto", "patches.tile": "auto"}
    changes = automatic | {"train.batch": "auto", "train.device": "cpu"}
    text = EXPERIMENT + f"  planned: {json.dumps(changes)}\n"
    (project.path / "config/experiments/tiny.yaml").write_text(text)
    wanted = "experiments=[tiny-planned]"
    project.snakemake("--config", wanted, "archives=[]")
    folder = project.path / "results/experiments/tiny-planned"
    values = json.loads((folder / "training_plan.json").read_text())["values"]
    facts = json.loads((folder / "fold0/seed0/model.json").read_text())
    assert facts["network"]["width"] == values["model.width"] == 16
    assert facts["network"]["depth"] == values["model.depth"]
    assert facts["tile"] == values["patches.tile"]
    assert facts["training"]["settings"]["batch"] == values["train.batch"]
    assert set(facts["training"]["planned"]) == set(values)
    assert project.would_run("--config", wanted, "archives=[]") == set()


def test_nothing_half_written_stays(finished: Project) -> None:
    results = finished.path / "results"
    assert [str(path) for path in results.rglob("*.partial")] == []
    assert not list((results / "experiments/tiny").glob(".checkpoint/*"))


def test_a_finished_workflow_has_nothing_to_do(finished: Project) -> None:
    assert finished.would_run() == set()


def test_the_final_networks_are_exported_on_request(finished: Project) -> None:
    packages = [
        f"results/experiments/{name}/final/seed0/export/{name}.zip"
        for name in ("tiny", "tiny-unweighted")
    ]
    text = finished.snakemake("--dry-run", "export").stdout
    assert all(package in text for package in packages)
    # An archive has had the other's final network trained.
    assert finished.would_run(packages[0]) == {"export_model"}


def test_report_and_status_read_any_results_folder(fresh: Project, finished: Project) -> None:
    fresh.snakemake("--nolock", "report")
    assert "tiny" in (fresh.path / "results/report/index.html").read_text()
    assert "tiny" in fresh.snakemake("--nolock", "--quiet", "all", "--", "status").stdout
    assert "tiny" in finished.snakemake("--nolock", "--quiet", "all", "--", "status").stdout


def test_report_and_status_show_what_another_configuration_ran(finished: Project) -> None:
    nothing = ("--config", "experiments=[]", "archives=[]", "--nolock", "--quiet", "all", "--")
    status = finished.snakemake(*nothing, "status").stdout
    assert re.search(r"^tiny-unweighted +1/1 ", status, re.MULTILINE)
    assert re.search(r"^tiny +2 +2 ", status, re.MULTILINE)
    page = finished.path / "results/report/index.html"
    before = page.read_bytes()
    finished.snakemake(*nothing, "report")
    assert 'id="tiny-unweighted-weights"' in page.read_text()
    page.write_bytes(before)


def test_snakemakes_own_report_carries_the_captions(finished: Project, tmp_path: Path) -> None:
    finished.snakemake("--report", str(tmp_path / "report.zip"))
    assert (tmp_path / "report.zip").stat().st_size > 100_000


def test_a_bad_volume_is_a_result_and_the_last_rule_names_it(project: Project) -> None:
    project.append("config/archives/tiny.tsv", "third\tno/such/file.tif\ttiny\t\n")
    done = project.snakemake(check=False)
    assert done.returncode != 0
    assert "1 of 3 volumes failed: third: no/such/file.tif: a volume must exist" in done.stdout
    table = pd.read_csv(project.path / "results/archives/tiny/summary.tsv", sep="\t")
    assert dict(zip(table["volume"], table["state"], strict=True)) == {
        "first": "done",
        "second": "done",
        "third": "failed",
    }
    assert "no/such/file.tif" in (project.path / "results/report/index.html").read_text()


def test_a_repaired_volume_is_segmented_and_a_bad_truth_is_told(project: Project) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 72), np.uint8)
    volume, truth = (project.path / name for name in ("third.tif", "truth.tif"))
    volume.write_bytes(b"II*\0")
    project.append("config/archives/tiny.tsv", "third\tthird.tif\ttiny\ttruth.tif\n")

    def row() -> tuple[str, str]:
        table = pd.read_csv(
            project.path / "results/archives/tiny/summary.tsv", sep="\t", keep_default_na=False
        )
        third = table.set_index("volume").loc["third"]
        return third["state"], third["reason"]

    assert project.snakemake(check=False).returncode != 0
    assert row()[0] == "failed"
    tifffile.imwrite(volume, image)
    project.snakemake()
    assert row()[0] == "done"
    assert "no scores: truth.tif: a volume must exist" in row()[1]
    tifffile.imwrite(truth, (image > 99).astype(np.uint8))
    assert project.would_run() == {"evaluate_volume", "summarise_archive", "check_archive"} | {
        "build_report"
    }
    project.snakemake()
    assert row() == ("done", "")


def test_volumes_of_other_formats_are_segmented_and_the_old_are_left_alone(
    project: Project,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 72), np.uint8)
    with h5py.File(project.path / "stack.h5", "w") as file:
        file["raw"], file["other"] = pixels, pixels
    well = {"images": [{"path": "0"}, {"path": "1"}]}
    plate = {"wells": [{"path": "A/1"}]}
    for place, facts in (("plate.zarr", {"plate": plate}), ("plate.zarr/A/1", {"well": well})):
        zarr.create_group(project.path / place, attributes={"ome": facts})
    for image in ("0", "1"):
        path = project.path / "plate.zarr/A/1" / image
        create_image(path, "tyx", pixels.shape, pixels.dtype, {})[...] = pixels
    sheet = project.path / "config/archives/tiny.tsv"
    head, *rows = sheet.read_text().splitlines()
    rows += ["stack\tstack.h5:/raw\ttiny\t\t", "plate\tplate.zarr\ttiny\t\t1"]
    sheet.write_text("\n".join([f"{head}\ttime", *rows]) + "\n")
    folder = project.path / "results/archives/tiny"
    old = {path: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")}
    project.snakemake()
    table = pd.read_csv(folder / "summary.tsv", sep="\t", index_col="volume")
    assert set(table["state"]) == {"done"}
    shapes = {"stack": "2x64x72", "plate-A1-0": "64x72", "plate-A1-1": "64x72"}
    assert table["shape"].drop(["first", "second"]).to_dict() == shapes
    assert old == {path: path.stat().st_mtime_ns for path in old}
    assert project.would_run() == set()


def test_a_new_row_leaves_the_other_volumes_alone(project: Project) -> None:
    project.append("config/archives/tiny.tsv", "third\tdataset:tiny/membranes0_002\ttiny\t\n")
    project.snakemake()
    again = project.path / "results/archives/tiny"
    receipts = {
        path.parts[-3]: path.stat().st_mtime for path in again.glob("*/prediction_blocks/*")
    }
    assert receipts["third"] > max(receipts["first"], receipts["second"])
    assert project.would_run() == set()
    assert receipts["first"] < (again / "plan.json").stat().st_mtime, "not predicted again"


@pytest.mark.parametrize("stage", ["patches", "train"])
def test_a_killed_run_ends_with_the_same_results(
    fresh: Project, finished: Project, stage: str
) -> None:
    running = fresh.start()
    logs = fresh.path / "results/logs" / stage
    while not any(path.is_file() for path in logs.rglob("*.log")):
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    fresh.snakemake("--unlock")
    fresh.snakemake("--rerun-incomplete")
    folder = "results/experiments/tiny"
    for name in ("fold0/seed0/model.safetensors", "final/seed0/model.safetensors", "metrics.tsv"):
        assert (fresh.path / folder / name).read_bytes() == (
            finished.path / folder / name
        ).read_bytes(), name


def test_another_results_folder_is_filled_from_scratch(finished: Project) -> None:
    jobs = finished.would_run("--config", "results=elsewhere")
    assert {"prepare_dataset", "train_model", "build_report"} <= jobs


def test_batches_need_a_plan(fresh: Project) -> None:
    done = fresh.snakemake("--dry-run", "--batch", "summarise_archive=1/2", check=False)
    assert done.returncode != 0
    assert "run `snakemake plan` first" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("learning_rte: 1", "train: {"),
            "unknown key train.learning_rte; the nearest is train.learning_rate",
        ),
        (("width: 0", "model: {"), "model.width must be greater than or equal to 1: got 0"),
        (("tile: 45", "patches: {"), "patches.tile must be"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_before_any_job(
    fresh: Project, change: tuple[str, str], message: str
) -> None:
    setting, section = change
    key = setting.split(":")[0]
    lines = [
        line.replace(section, f"{section}{setting}, ") if line.startswith(section) else line
        for line in EXPERIMENT.replace(f"{key}: 44, ", "").replace(f"{key}: 2, ", "").splitlines()
    ]
    (fresh.path / "config/experiments/tiny.yaml").write_text("\n".join(lines))
    done = fresh.snakemake(check=False)
    assert done.returncode != 0
    assert f"config/experiments/tiny.yaml: {message}" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (fresh.path / "results").exists()


def test_an_unknown_experiment_names_the_nearest(fresh: Project) -> None:
    done = fresh.snakemake("--config", "experiments=[tny]", check=False)
    assert done.returncode != 0
    assert "found none; the nearest is tiny" in done.stdout


def test_an_archive_without_its_experiment_is_left_out_with_a_line(fresh: Project) -> None:
    done = fresh.snakemake("--dry-run", "--config", "experiments=[demo]")
    assert "archive tiny is left out: it needs the experiment tiny" in done.stdout
    assert "plan_archive" not in done.stdout


def test_blocks_that_several_jobs_label_are_those_of_one(project: Project) -> None:
    results = project.path / "results/archives/tiny"
    path = results / "first/segmentation.ome.zarr/0"
    before = zarr.open_array(path)[...]
    objects = (results / "first/objects.tsv").read_text()
    project.append("config/experiments/tiny.yaml", "segment: {job_megavoxels: 0.002}\n")
    assert project.would_run() >= {"segment_part", "segment_volume"}
    project.snakemake()
    np.testing.assert_array_equal(zarr.open_array(path)[...], before)
    assert (results / "first/objects.tsv").read_text() == objects
    assert not list((results / "first").glob("label_blocks/*"))
    assert project.would_run() == set()
    again = ("--forcerun", "segment_volume")
    assert "segment_part" in project.would_run(*again), "parts are removed once they are joined"
    project.snakemake(*again)
    np.testing.assert_array_equal(zarr.open_array(path)[...], before)
