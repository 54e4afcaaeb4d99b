"""The whole workflow on a tiny experiment."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import threading
import time
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import requests
import tifffile
import yaml
import zarr
from project import EXPERIMENT, Project

from unetflow.segmentation import segment_image
from unetflow.settings.prediction import SegmentSettings
from unetflow.store import NOT_ANNOTATED, create_image, open_image, read_json

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
experiments/tiny/fold0/seed0/tiling.run.json
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
archives/tiny/first/thumbnail.webp
archives/tiny/first/metrics.tsv
archives/tiny/second/summary.json
archives/tiny/summary.tsv
report/index.html
report/figures/tiny-scores.svg
report/figures/tiny-scores.pdf
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


def test_runs_tell_what_speed_is_made_from(finished: Project) -> None:
    folder = finished.path / "results/experiments/tiny/fold0/seed0"
    trained, predicted = (
        json.loads((folder / f"{name}.run.json").read_text()) for name in ("train", "predict")
    )
    # Of patches of 44 pixels, valid convolutions leave 28.
    assert (trained["steps"], trained["step_pixels"]) == (6, 6 * 28**2)
    assert predicted["pixels"] == 64 * 72
    assert min(trained["step_seconds"], predicted["predict_seconds"]) > 0


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


def assert_divided_by(seeds: Path, model: Path, folder: Path, name: str) -> None:
    """What a folder holds of an image is divided with the seeds that others chose."""
    seed = read_json(seeds)["seed_threshold"]
    how = SegmentSettings(method="watershed", seed_threshold=seed, minimum_size=3)
    again = folder / "again"
    segment_image(folder / "prediction.ome.zarr" / name, again, read_json(model), how)
    found = open_image(folder / "segmentation.ome.zarr" / name).array[...]
    np.testing.assert_array_equal(found, open_image(again).array[...])


def test_planes_of_a_volume_teach_and_others_of_it_are_tested(fresh: Project) -> None:
    text = EXPERIMENT.replace("name: tiny", "name: cube").replace(
        "shape: [3, 64, 72]", "shape: [12, 40, 40], planes_are_images: false"
    )
    content = yaml.safe_load(text)
    content["split"] = {"unit": "image", "folds": 1, "tested_planes": 4}
    content["patches"] |= {"tile": 16, "balanced": 1}
    content["model"] |= {"dimensions": 3, "padding": "zeros"}
    content["segment"] = {"method": "watershed", "seed_threshold": "auto", "minimum_size": 3}
    content["variants"] = {"few": {"weights.annotated_planes": {"z": 9, "x": 40}}}
    (fresh.path / "config/experiments/cube.yaml").write_text(yaml.safe_dump(content))
    fresh.snakemake("--config", "experiments=[cube]", "archives=[]")
    results = fresh.path / "results"
    (image,) = (results / "datasets/cube/images.ome.zarr").glob("membranes*")
    assert read_json(results / "experiments/cube/split.json")["fold0"] == {image.name: "divided"}
    truth = np.asarray(open_image(image).label("classes"))
    annotated = {"cube": np.ones(truth.shape, bool), "cube-few": np.zeros(truth.shape, bool)}
    annotated["cube-few"][5] = annotated["cube-few"][..., 20] = (
        True  # the fifth of nine that are left
    )
    for name, known in annotated.items():
        known[2::4] = False
        folder = results / "experiments" / name
        weights = zarr.open_group(folder / f"weights.zarr/{image.name}", mode="r")
        target = weights["target"][...]
        np.testing.assert_array_equal(target != NOT_ANNOTATED, known)
        assert weights.attrs["class_counts"] == np.bincount(target[known]).tolist()
        found = open_image(folder / f"fold0/seed0/prediction.ome.zarr/{image.name}").array[0]
        cells, tested = found[2::4] > 0.5, truth[2::4] > 0
        scores = pd.read_csv(folder / "metrics.tsv", sep="\t").set_index("metric")["value"]
        iou = (cells & tested).sum() / (cells | tested).sum()
        assert scores["iou_cell"] == pytest.approx(iou, abs=1e-5)
        found = folder / "fold0/seed0"
        assert_divided_by(found / "seeds.json", found / "model.json", found, image.name)
    assert (results / "report/figures/planes-cube-iou_cell.svg").is_file()


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
    assert re.search(r"^tiny +tiny +2 +2 ", status, re.MULTILINE)
    page = finished.path / "results/report/index.html"
    before = page.read_bytes()
    finished.snakemake(*nothing, "report")
    assert 'id="tiny-unweighted-weights"' in page.read_text()
    page.write_bytes(before)


def test_a_volume_is_viewed_until_it_is_interrupted(finished: Project) -> None:
    pytest.importorskip("neuroglancer", reason="neuroglancer is not installed")
    asked = ("--config", "view=tiny/second", "--nolock", "--quiet", "all", "--", "view")
    running = finished.start(*asked)
    assert running.stdout is not None
    address = next(
        line.removeprefix("tiny/second: ")
        for line in running.stdout
        if line.startswith("tiny/second: ")
    )
    assert requests.get(address.strip(), timeout=30).ok
    os.killpg(running.pid, signal.SIGINT)
    rest, _ = running.communicate(timeout=60)
    assert "Traceback" not in rest
    with pytest.raises(requests.ConnectionError):
        requests.get(address.strip(), timeout=30)


def test_a_volume_that_cannot_be_viewed_is_told_in_one_line(finished: Project) -> None:
    asked = ("--config", "view=tiny/third", "--nolock", "--quiet", "all", "--", "view")
    done = finished.snakemake(*asked, check=False)
    assert done.returncode != 0
    assert "error: view must name a volume of tiny: got 'third'; choose" in done.stdout
    assert "Traceback" not in done.stdout


def test_snakemakes_own_report_carries_the_captions(finished: Project, tmp_path: Path) -> None:
    finished.snakemake("--report", str(tmp_path / "report.zip"))
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        names = {Path(name).name for name in archive.namelist()}
        page = "".join(
            archive.read(name).decode("utf-8", "replace")
            for name in archive.namelist()
            if name.endswith((".html", ".js"))
        )
    shown = {"index.html", "tiny-scores.svg", "metrics.tsv", "summary.json", "tiling.json"}
    assert shown <= names
    for caption in (
        "All results on one page",
        "A chart of the report",
        "95 % interval",
        "tile by tile",
        "as training sees them",
    ):
        assert caption in page


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
    assert "plan_archive" in project.would_run(), "what was missing may be there now"


def test_a_volume_whose_server_answers_again_is_segmented_by_the_next_run(
    project: Project, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 72), np.uint8)
    create_image(tmp_path / "volume", "yx", image.shape, image.dtype, {})[...] = image
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/volume"
        project.append("config/archives/tiny.tsv", f"third\t{url}\ttiny\t\n")
        (tmp_path / "volume").rename(tmp_path / "elsewhere")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert project.snakemake(check=False).returncode != 0
            (tmp_path / "elsewhere").rename(tmp_path / "volume")
            project.snakemake()
        finally:
            server.shutdown()
    table = pd.read_csv(project.path / "results/archives/tiny/summary.tsv", sep="\t")
    assert set(table["state"]) == {"done"}
    assert project.would_run() == set()


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
    assert project.would_run() == {"evaluate_pack", "summarise_archive", "check_archive"} | {
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


def test_a_volume_of_blocks_is_normalised_by_its_own_grey_values(project: Project) -> None:
    changes = {"intensity.source": "image", "predict.block_minutes": 0.001}
    text = EXPERIMENT + f"  own: {json.dumps(changes)}\n"
    (project.path / "config/experiments/tiny.yaml").write_text(text)
    head = "volume\tpath\texperiment\n"
    row = "blocks\tdataset:tiny/membranes0_000\ttiny-own\n"
    (project.path / "config/archives/own.tsv").write_text(head + row)
    config = ("--config", "experiments=[tiny-own]", "archives=[own]")
    summary = "results/archives/own/blocks/summary.json"
    project.snakemake(summary, *config)
    folder = project.path / "results/archives/own/blocks"
    assert json.loads((folder / "summary.json").read_text())["state"] == "done"
    assert (folder / "prediction_blocks/0_0.json").is_file(), "no pack"
    assert (folder / "intensity.json").is_file()
    assert project.would_run(summary, *config) == set()


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


def test_a_dry_run_before_anything_is_made_names_the_jobs(fresh: Project) -> None:
    assert {"train_model", "plan_archive", "summarise_archive"} <= fresh.would_run()


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


def test_regions_of_unknown_classes_are_one_line_before_any_job(fresh: Project) -> None:
    fresh.append("config/experiments/tiny.yaml", "evaluate: {regions: {all: [cells]}}\n")
    done = fresh.snakemake(check=False)
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1] == (
        "error: experiment tiny: evaluate.regions.all must be of the classes membrane, cell: got "
        "cells; correct it"
    )
    assert not (fresh.path / "results").exists()


def test_regions_of_classes_that_a_task_does_not_name_end_the_run_before_training(
    fresh: Project,
) -> None:
    """Of a Decathlon task, whose classes are known once it is prepared."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    volume = np.arange(2 * 64 * 64, dtype=np.int16).reshape(2, 64, 64)
    task = {"labels": {"0": "background", "1": "edema"}, "training": []}
    for name in ("one", "two", "three"):
        entry = {"image": f"images/{name}.nii", "label": f"labels/{name}.nii"}
        task["training"].append(entry)
        for file, pixels in ((entry["image"], volume), (entry["label"], volume % 2)):
            path = fresh.path / "task" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(pixels), str(path))
    (fresh.path / "task/dataset.json").write_text(json.dumps(task))
    path = fresh.path / "config/experiments/tiny.yaml"
    made_here = "layout: {kind: synthetic, texture: membranes, shape: [3, 64, 72]}"
    of_task = "folder: task\n  layout: {kind: decathlon}"
    text = path.read_text().replace(made_here, of_task).replace("variants:", "_:")
    path.write_text(text.partition("_:")[0] + "evaluate: {regions: {all: [oedema]}}\n")
    asked = ("--config", "archives=[]")
    for _ in range(2):
        done = fresh.snakemake(*asked, check=False)
        assert done.returncode != 0
        assert (
            "experiment tiny: evaluate.regions.all must be of the classes background, edema: got "
            "oedema; correct it"
        ) in done.stdout
        assert not (fresh.path / "results/experiments").exists()


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
    project.snakemake("plan")
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
    settings = project.path / "config/experiments/tiny.yaml"
    auto = "{job_megavoxels: 0.002, method: watershed, seed_threshold: auto, minimum_size: 3}"
    settings.write_text(settings.read_text().replace("{job_megavoxels: 0.002}", auto))
    project.snakemake("plan")
    jobs = project.would_run()
    assert "choose_seeds" in jobs
    assert "train_model" not in jobs
    project.snakemake()
    trained = project.path / "results/experiments/tiny"
    seeds, model = trained / "fold0/seed0/seeds.json", trained / "final/seed0/model.json"
    assert_divided_by(seeds, model, results / "first", "")
