"""The table of an archive: outliers among its volumes, and what is known after a crash."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from unetflow.archive_summary import summarise_archive, summarise_crash
from unetflow.progress import ending, log, log_to
from unetflow.store import write_json, write_text
from unetflow.volume_logs import RUNNING_SECONDS, error_of, logs_of

FACTS: dict[str, Any] = {
    "state": "done",
    "reason": "",
    "objects": 5,
    "median_size": 100.0,
    "foreground": 0.2,
    "outlier": "",
    "predict_seconds": 1.0,
    "path": "p.tif",
    "experiment": "one",
    "shape": [9, 9],
    "voxels": 81,
}


def summed(folder: Path, volumes: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Table of an archive of such volumes."""
    for volume, facts in volumes.items():
        write_json(folder / volume / "summary.json", FACTS | facts)
    summarise_archive(folder, [*volumes], (), folder / "summary.tsv")
    return pd.read_csv(folder / "summary.tsv", sep="\t", index_col="volume", keep_default_na=False)


def test_a_volume_far_from_the_others_is_an_outlier(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(4, 0.2, 30))
    volumes: dict[str, dict[str, Any]] = {
        f"v{number}": {"median_size": size} for number, size in enumerate(values)
    }
    volumes["v7"] = {"median_size": 1000.0, "outlier": "too bright"}
    volumes["v8"] = {"foreground": 0.0}
    volumes["v9"] = {"state": "failed", "median_size": None, "foreground": None}
    told = summed(tmp_path, volumes)["outlier"]
    sizes = [of.get("median_size") or 100.0 for name, of in volumes.items() if name != "v9"]
    factor = 1000 / np.exp(np.median(np.log(sizes)))
    expected = f"too bright; median size of objects {factor:.2g} times the median of the archive"
    assert told["v7"] == expected
    assert told["v8"] == "share of objects 5e-06 times the median of the archive"
    assert set(told.drop(["v7", "v8"])) == {""}


@pytest.mark.parametrize(("factor", "outlier"), [(1.35, False), (1.5, True)])
def test_volumes_that_are_alike_make_no_outlier_of_a_small_difference(
    tmp_path: Path, factor: float, outlier: bool
) -> None:
    volumes: dict[str, dict[str, Any]] = {f"v{number}": {} for number in range(20)}
    volumes["v0"] = {"foreground": 0.2 * factor}
    assert bool(summed(tmp_path, volumes)["outlier"]["v0"]) == outlier


def test_few_volumes_and_those_of_other_experiments_are_not_compared(tmp_path: Path) -> None:
    volumes: dict[str, dict[str, Any]] = {f"v{number}": {} for number in range(9)}
    volumes["v0"] = {"foreground": 0.9}
    volumes |= {f"w{number}": {"experiment": "two", "foreground": 0.9} for number in range(20)}
    assert set(summed(tmp_path, volumes)["outlier"]) == {""}


def test_the_modified_z_score_is_that_of_its_definition(tmp_path: Path) -> None:
    values = np.exp(np.random.default_rng(1).standard_t(1.5, 200))
    volumes = {f"v{number}": {"median_size": size} for number, size in enumerate(values)}
    told = summed(tmp_path, volumes)["outlier"] != ""
    logs = np.log(np.maximum(values, 1e-6))
    mad = np.median(np.abs(logs - np.median(logs)))
    scores = np.abs(logs - np.median(logs)) / (1.4826 * mad)
    np.testing.assert_array_equal(told, scores > 3.5)
    assert 0 < told.sum() < 100


def test_what_is_left_of_removed_volumes_is_told_once_and_kept(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with log_to(str(tmp_path / "log.txt")):
        summed(tmp_path, {"v": {}})
    (line,) = [it for it in (tmp_path / "log.txt").read_text().splitlines() if "old" in it]
    assert line.endswith("no longer in the sheet, left for you to remove: old")
    assert (tmp_path / "old").is_dir()


# ---------------------------------------------------------------------------------- crashes


def crashed(path: Path, error: str) -> None:
    """Write the log of a job that has failed."""
    with pytest.raises(SystemExit), log_to(str(path)):
        raise OSError(error)


def test_a_crash_leaves_a_row_for_each_volume(tmp_path: Path) -> None:
    folder, logs = tmp_path / "archives/liver", tmp_path / "logs"
    write_json(folder / "a/summary.json", FACTS)
    write_text(folder / "a/metrics.tsv", "metric\tvalue\treason\nf1\t0.5\t\n")
    write_json(folder / "b/summary.json", FACTS | {"state": "failed", "reason": "broken"})
    plan: dict[str, dict[str, str]] = {"c": {}, "d": {"pack": "c"}, "e": {}}
    write_json(folder / "plan.json", {"volumes": plan})
    crashed(logs / "predict/archives/liver/c/pack.log", "no space left")
    crashed(logs / "segment/archives/liver/e.log", "out of paper")
    line = summarise_crash(folder, dict.fromkeys("abcdef", "one"), logs)
    assert line == (
        f"archive liver, 6 volumes: 1 done, 1 failed, 4 missing; see {folder}/summary.tsv"
    )
    table = pd.read_csv(folder / "summary.tsv", sep="\t", keep_default_na=False, dtype=str)
    assert table["volume"].tolist() == list("abcdef")
    assert table["state"].tolist() == ["done", "failed", *["missing"] * 4]
    assert table["f1"].tolist() == ["0.5", "", "", "", "", ""]
    error = "a job ended with an error: OSError: no space left"
    assert table["reason"].tolist() == [
        "",
        "broken",
        f"{error} ({logs}/predict/archives/liver/c/pack.log)",
        f"{error} ({logs}/predict/archives/liver/c/pack.log)",
        f"a job ended with an error: OSError: out of paper ({logs}/segment/archives/liver/e.log)",
        "not made yet",
    ]


def test_a_crash_after_a_result_is_told_beside_it_and_one_before_is_not(tmp_path: Path) -> None:
    folder, logs = tmp_path / "archives/liver", tmp_path / "logs"
    for volume, shift in (("old", -60), ("new", 60)):
        write_json(folder / volume / "summary.json", FACTS)
        path = logs / f"predict/archives/liver/{volume}/0_0.log"
        crashed(path, "killed")
        now = time.time() + shift
        os.utime(path, (now, now))
    summarise_crash(folder, {"old": "one", "new": "one"}, logs)
    table = pd.read_csv(folder / "summary.tsv", sep="\t", keep_default_na=False)
    assert table["state"].tolist() == ["done", "done"]
    assert table["reason"][0] == ""
    assert table["reason"][1].startswith("a job ended with an error: OSError: killed")


def test_a_summary_that_says_the_same_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "archives/liver"
    summed(folder, {"v": {}})
    before = (folder / "summary.tsv").stat().st_mtime_ns
    summarise_crash(folder, {"v": "one"}, tmp_path / "logs")
    assert (folder / "summary.tsv").stat().st_mtime_ns == before


# ------------------------------------------------------------------------------------- logs


def test_the_end_of_a_log_tells_how_its_step_went(tmp_path: Path) -> None:
    with log_to(str(tmp_path / "done.log")):
        log("Traceback of ideas")
    crashed(tmp_path / "failed.log", "the last line\nof several")
    (tmp_path / "running.log").write_text("12:00:00 predicting: 3/9, 5 s left\n")
    found = [ending(tmp_path / f"{name}.log") for name in ("done", "failed", "running", "none")]
    assert found == [("done", ""), ("failed", "of several"), ("", ""), ("", "")]


def test_a_step_that_succeeds_after_one_that_failed_in_the_same_log_is_done(tmp_path: Path) -> None:
    crashed(tmp_path / "a.log", "no")
    with log_to(str(tmp_path / "a.log")):
        pass
    assert ending(tmp_path / "a.log") == ("done", "")


def test_a_job_runs_while_its_log_is_young_and_has_no_end(tmp_path: Path) -> None:
    place = tmp_path / "predict/archives/liver/v"
    crashed(place / "failed.log", "no")
    with log_to(str(place / "done.log")):
        pass
    for name, age in (("young", 60), ("old", RUNNING_SECONDS + 60)):
        (place / f"{name}.log").write_text("12:00:00 device cpu\n")
        os.utime(place / f"{name}.log", (time.time() - age,) * 2)
    found = logs_of(tmp_path, "liver", "v")
    assert [it.path.name for it in found][:2] == ["old.log", "young.log"]
    assert [it.path.stem for it in found if it.runs] == ["young"]
    assert "OSError: no (" in error_of(found)
    assert error_of(logs_of(tmp_path, "liver", "other")) == ""
