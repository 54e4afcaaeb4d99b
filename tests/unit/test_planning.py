"""Plans of archives: a bad volume is a result."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from unetflow.planning import HOURS_LEFT, plan_archive
from unetflow.settings.experiment import ExperimentSettings
from unetflow.sharing import OPENING_MINUTES
from unetflow.states import current_plan
from unetflow.store import create_image, read_json, write_json


def experiment(dimensions: int = 2) -> ExperimentSettings:
    """Return an experiment with a small network."""
    return ExperimentSettings(
        dataset="isbi2012",
        model={"width": 4, "depth": 2, "dimensions": dimensions},
        patches={"tile": 76},
    )


def plan(folder: Path, paths: dict[str, Path], dimensions: int = 2) -> dict[str, Any]:
    """Plan volumes and return the plan of each."""
    rows = {name: {"path": str(path), "experiment": "one"} for name, path in paths.items()}
    output = folder / "plan.json"
    plan_archive(rows, {"one": experiment(dimensions)}, output, "key")
    volumes: dict[str, Any] = read_json(output)["volumes"]
    return volumes


def volume(path: Path, axes: str = "zyx") -> Path:
    """Write a volume."""
    shape = tuple({"c": 2, "z": 3}.get(axis, 40) for axis in axes)
    create_image(path, axes, shape, "u1", {})[...] = 1
    return path


@pytest.mark.parametrize(("axes", "block"), [("yx", "0_0"), ("zyx", "0_0_0"), ("czyx", "0_0_0")])
def test_a_volume_is_planned_with_its_block_and_needs(
    tmp_path: Path, axes: str, block: str
) -> None:
    planned = plan(tmp_path, {"a": volume(tmp_path / "a", axes)})["a"]
    assert (planned["state"], planned["reason"], planned["axes"]) == ("planned", "", axes)
    assert planned["voxels"] == 40 * 40 * (3 if "z" in axes else 1)
    assert list(planned["blocks"]) == [block]
    assert planned["blocks"][block]["job"]["tile"] == [76, 76]
    assert planned["blocks"][block]["mem_mb"] > 900


def test_blocks_of_a_volume_ask_for_the_same_so_that_they_can_be_a_job_array(
    tmp_path: Path,
) -> None:
    path = tmp_path / "large"
    create_image(path, "zyx", (400, 20000, 10000), "u1", {})
    blocks = plan(tmp_path, {"large": path})["large"]["blocks"].values()
    assert len({block["voxels"] for block in blocks}) > 1, "those at the border are smaller"
    for need in ("runtime", "mem_mb"):
        assert len({block[need] for block in blocks}) == 1


def truncated(path: Path) -> Path:
    """Write a TIFF file and cut it."""
    tifffile.imwrite(path, np.ones((40, 40), "u1"))
    path.write_bytes(path.read_bytes()[:600])
    return path


def without_axes(path: Path) -> Path:
    """Write a folder whose OME metadata lack what they must have."""
    datasets = [{"path": "0"}]
    attributes = {"ome": {"version": "0.5", "multiscales": [{"datasets": datasets}]}}
    zarr.create_group(path, zarr_format=3, attributes=attributes)
    zarr.create_array(path / "0", shape=(40, 40), dtype="u1", zarr_format=3)
    return path


def half_written(path: Path) -> Path:
    """Write metadata that end in the middle."""
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_for')
    return path


def missing(path: Path) -> Path:
    """Write nothing."""
    return path


def over_time(path: Path) -> Path:
    """Write several time points."""
    return volume(path, "tyx")


def with_a_long_name(path: Path) -> Path:
    """Return a path that no system takes."""
    return path.with_name("a" * 300 + ".tif")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (with_a_long_name, "File name too long"),
        (missing, "a volume must exist: found nothing"),
        (truncated, "must be a readable TIFF file"),
        (without_axes, "must be a readable OME-Zarr image"),
        (half_written, "must be a readable OME-Zarr image"),
        (over_time, "a volume must be one time point: found 40"),
    ],
)
def test_a_volume_that_cannot_be_read_is_failed_and_the_others_are_planned(
    tmp_path: Path, make: Any, reason: str
) -> None:
    paths = {
        "first": volume(tmp_path / "first"),
        "bad": make(tmp_path / "bad.tif"),
        "last": volume(tmp_path / "last"),
    }
    plans = plan(tmp_path, paths)
    assert {name: planned["state"] for name, planned in plans.items()} == {
        "first": "planned",
        "bad": "failed",
        "last": "planned",
    }
    assert plans["bad"]["blocks"] == {}
    assert "\n" not in plans["bad"]["reason"]
    assert str(paths["bad"]) in plans["bad"]["reason"]
    assert reason in plans["bad"]["reason"]


def test_a_3d_network_on_a_plane_is_failed_with_the_rule(tmp_path: Path) -> None:
    planned = plan(tmp_path, {"a": volume(tmp_path / "a", "yx")}, dimensions=3)["a"]
    assert planned["state"] == "failed"
    assert "a 3D network needs 3 spatial axes: the image has 2; use a 2D" in planned["reason"]


def test_a_plan_for_a_larger_network_or_tile_needs_more_memory(tmp_path: Path) -> None:
    rows = {"a": {"path": str(volume(tmp_path / "a")), "experiment": "one"}}
    needs = []
    for width, tile in ((8, 76), (256, 76), (256, 396)):
        settings = ExperimentSettings(
            dataset="isbi2012", model={"width": width, "depth": 2}, patches={"tile": tile}
        )
        plan_archive(rows, {"one": settings}, tmp_path / "plan.json", "key")
        planned = read_json(tmp_path / "plan.json")["volumes"]["a"]
        needs.append(planned["blocks"]["0_0_0"]["mem_mb"])
    assert needs == sorted(set(needs))


def test_what_a_row_chooses_is_planned_and_handed_to_the_block(tmp_path: Path) -> None:
    path = volume(tmp_path / "a", "tczyx")
    row = {"path": str(path), "experiment": "one", "time": "7", "channel": "1"}
    plan_archive({"a": row}, {"one": experiment()}, tmp_path / "plan.json", "key")
    planned = read_json(tmp_path / "plan.json")["volumes"]["a"]
    assert (planned["axes"], planned["shape"]) == ("czyx", [1, 3, 40, 40])
    chosen = {"scene": "", "time": "7", "channel": "1", "level": ""}
    assert planned["blocks"]["0_0_0"]["job"]["choice"] == chosen


def test_a_plan_is_current_for_its_own_key_alone(tmp_path: Path) -> None:
    assert current_plan(tmp_path / "plan.json", "key") is None
    plan(tmp_path, {"a": volume(tmp_path / "a")})
    found = current_plan(tmp_path / "plan.json", "key")
    assert found is not None
    assert list(found["volumes"]) == ["a"]
    assert current_plan(tmp_path / "plan.json", "another") is None


def test_small_volumes_share_jobs_and_keep_them_when_rows_are_appended(tmp_path: Path) -> None:
    paths = {f"v{i}": volume(tmp_path / f"v{i}") for i in range(7)}

    def packs(
        names: list[str], minutes: float, anew: bool = True, megavoxels: float = 1000
    ) -> dict[str, str]:
        if anew:
            (tmp_path / "packs.json").unlink(missing_ok=True)
        rows = {name: {"path": str(paths[name]), "experiment": "one"} for name in names}
        of = ExperimentSettings(
            dataset="isbi2012",
            model={"width": 8, "depth": 2},
            patches={"tile": 76},
            predict={"block_minutes": minutes},
            segment={"job_megavoxels": megavoxels},
        )
        plan_archive(rows, {"one": of}, tmp_path / "plan.json", "key")
        planned = read_json(tmp_path / "plan.json")["volumes"]
        return {name: plan["pack"] for name, plan in planned.items() if "pack" in plan}

    every = [*paths]
    alone = read_minutes(tmp_path, paths["v0"])
    three = packs(every, 3.5 * alone)
    assert [*three.values()] == ["v0"] * 3 + ["v3"] * 3 + ["v6"]
    before = packs(every[:4], 3.5 * alone)
    assert before == {name: three[name] for name in every[:4]}
    grown = packs(every, 3.5 * alone, anew=False)
    assert {name: grown[name] for name in before} == before
    assert [grown[name] for name in every[4:]] == ["v4"] * 3, "v3 keeps its job for itself"
    shorter = packs(every, 2.5 * alone, anew=False)
    assert [*shorter.values()] == ["v0"] * 2 + ["v2", "v3", "v4", "v4", "v2"]
    assert packs(every[::-1], 2.5 * alone, anew=False) == shorter, "whatever the order of rows"
    assert packs(every[1:], 3.5 * alone, anew=False)["v1"] == "v1", "its first is gone"
    assert set(packs(every, 1000).values()) == {"v0"}
    assert packs(every, 1.5 * alone) == {}, "none is less than half of a job"
    names = ("summary.json", "intensity.json", "prediction_blocks/packed_0_0.json")
    made = [tmp_path / "v1" / name for name in names]
    for path in [*made, tmp_path / "v1/objects.tsv"]:
        write_json(path, {})
    packs(every, 1000, anew=False)
    assert not any(path.exists() for path in made), "its jobs are others now"
    assert (tmp_path / "v1/objects.tsv").exists()
    write_json(made[0], {})
    packs(every, 1000, anew=False)
    assert made[0].exists(), "they are the same"
    packs(every, 1.5 * alone, anew=False)
    assert not made[0].exists(), "it has jobs of its own"
    voxels = read_json(tmp_path / "plan.json")["volumes"]["v0"]["voxels"]
    two = packs(every, 1000, megavoxels=2.5e-6 * voxels)
    assert [*two.values()] == ["v0"] * 2 + ["v2"] * 2 + ["v4"] * 2 + ["v6"]
    assert packs(every, 1000, megavoxels=1.5e-6 * voxels) == {}, "nor to segment"


def test_a_pack_of_many_volumes_asks_for_the_time_of_their_work(tmp_path: Path) -> None:
    paths = {f"v{i}": volume(tmp_path / f"v{i}") for i in range(30)}
    planned = plan(tmp_path, paths)
    assert {of["pack"] for of in planned.values()} == {"v0"}
    work = sum(of["minutes"] + OPENING_MINUTES for of in planned.values())
    threads = experiment().predict.threads
    assert planned["v0"]["pack_runtime"] == 10 + math.ceil(HOURS_LEFT * work / threads)
    # As many jobs of their own would start, and load their libraries, as many times.
    alone = sum(block["runtime"] for of in planned.values() for block in of["blocks"].values())
    assert planned["v0"]["pack_runtime"] < alone / 10


def read_minutes(tmp_path: Path, path: Path) -> float:
    """Work of a volume, with its opening."""
    of = ExperimentSettings(
        dataset="isbi2012", model={"width": 8, "depth": 2}, patches={"tile": 76}
    )
    row = {"v": {"path": str(path), "experiment": "one"}}
    plan_archive(row, {"one": of}, tmp_path / "plan.json", "key")
    minutes = read_json(tmp_path / "plan.json")["volumes"]["v"]["minutes"]
    return float(minutes) + OPENING_MINUTES
