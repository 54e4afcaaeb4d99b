"""What reruns after a change: the steps that it touches, and what follows them."""

from __future__ import annotations

import os

import pytest
from project import Project

pytestmark = pytest.mark.workflow

LIBRARY = "workflow/lib/unetflow"
AFTER_TRAINING = {
    "train_model",
    "predict_images",
    "segment_images",
    "evaluate_images",
    "summarise_experiment",
    "verify_tiling",
    "predict_pack",
    "finish_pack",
    "segment_pack",
    "evaluate_pack",
    "summarise_archive",
    "check_archive",
    "build_report",
}
CODE = "\n\ndef changed() -> int:\n    return 1\n"


def test_touching_code_and_settings_reruns_nothing(project: Project) -> None:
    for folder in ("workflow", "config", "resources", "profiles"):
        for path in (project.path / folder).rglob("*"):
            os.utime(path)
    assert project.would_run() == set()


def test_editing_training_reruns_it_and_what_follows(project: Project) -> None:
    project.append(f"{LIBRARY}/training.py", CODE)
    assert project.would_run() == AFTER_TRAINING


def test_editing_the_weights_leaves_intensity_alone(project: Project) -> None:
    project.append(f"{LIBRARY}/distances.py", CODE)
    jobs = project.would_run()
    assert {"compute_weights", "cut_patches", "train_model"} <= jobs
    assert not {"measure_intensity", "prepare_dataset", "split_images"} & jobs


def test_editing_the_report_reruns_only_the_report(project: Project) -> None:
    project.append(f"{LIBRARY}/report/page.py", CODE)
    assert project.would_run() == {"build_report"}


def test_editing_a_part_of_the_page_reruns_only_the_report(project: Project) -> None:
    project.append("workflow/report/viewer.js", "\nlet changed = 1;\n")
    assert project.would_run() == {"build_report"}


def test_editing_another_network_reruns_nothing(project: Project) -> None:
    project.append(f"{LIBRARY}/models/fcn/network.py", CODE)
    assert project.would_run() == set()


def test_editing_the_experiments_network_retrains(project: Project) -> None:
    project.append(f"{LIBRARY}/models/unet/network.py", CODE)
    assert project.would_run() == {"plan_training"} | AFTER_TRAINING


def test_comments_and_docstrings_rerun_nothing(project: Project) -> None:
    project.append(f"{LIBRARY}/training.py", "\n# a remark\n")
    project.append(f"{LIBRARY}/store.py", "\n# a remark\n")
    assert project.would_run() == set()


def test_a_setting_reruns_its_stage_and_what_follows(project: Project) -> None:
    path = project.path / "config/experiments/tiny.yaml"
    path.write_text(path.read_text() + "segment: {minimum_size: 3}\n")
    assert project.would_run() == {
        "segment_images",
        "evaluate_images",
        "summarise_experiment",
        "segment_pack",
        "evaluate_pack",
        "summarise_archive",
        "check_archive",
        "build_report",
    }


def test_reverting_an_edit_clears_it(project: Project) -> None:
    path = project.path / LIBRARY / "training.py"
    before = path.read_text()
    project.append(f"{LIBRARY}/training.py", CODE)
    path.write_text(before)
    assert project.would_run() == set()


def test_how_to_predict_does_not_retrain(project: Project) -> None:
    path = project.path / "config/experiments/tiny.yaml"
    path.write_text(path.read_text().replace("predict: {", "predict: {orientations: 4, "))
    jobs = project.would_run()
    assert "predict_images" in jobs
    assert "train_model" not in jobs


def test_another_experiment_is_made_beside_a_finished_one(project: Project) -> None:
    folder = project.path / "config/experiments"
    other = (folder / "tiny.yaml").read_text().replace("name: tiny", "name: other")
    (folder / "other.yaml").write_text(other)
    made = {"prepare_dataset", "train_model", "summarise_experiment", "build_report"}
    for experiments in ("[other]", "[tiny, other]"):
        assert made <= project.would_run("--config", f"experiments={experiments}", "archives=[]")


def test_an_experiment_of_another_dataset_is_made_anew(project: Project) -> None:
    path = project.path / "config/experiments/tiny.yaml"
    path.write_text(path.read_text().replace("name: tiny", "name: other"))
    assert "prepare_dataset" in project.would_run("--config", "archives=[]")


def test_what_concerns_volumes_alone_leaves_an_experiments_images(project: Project) -> None:
    path = project.path / "config/experiments/tiny.yaml"
    path.write_text(path.read_text().replace("predict: {", "predict: {dtype: uint8, keep: false, "))
    assert "predict_images" in project.would_run()  # the type is of both
    path.write_text(path.read_text().replace("dtype: uint8, ", "block_minutes: 5, "))
    assert not {"predict_images", "verify_tiling", "segment_images"} & project.would_run()


def test_jobs_are_looked_for_once_after_each_that_ends(project: Project) -> None:
    again = ("--forcerun", "compute_weights", "--until", "compute_weights")
    found = project.snakemake("--verbose", "--cores", "1", *again).stdout
    jobs = found.count("rule compute_weights:")
    assert jobs > 2
    # Not in each second of a job too, while others wait for its core
    assert found.count("Ready jobs:") <= jobs + 1, found
