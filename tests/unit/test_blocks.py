"""Blocks: together they are the whole volume, killed ones go on, and failures are results."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from numpy.typing import NDArray
from small_model import OFFSET, SCALE, TILE, grey, settings, small_shards, whole, write_model

from unetflow import planning, store
from unetflow.assembly import drop_predictions, finish_prediction
from unetflow.blocks import predict_block, predict_pack
from unetflow.cluster import opened_once
from unetflow.inference import load
from unetflow.planning import plan_archive
from unetflow.regions import Job
from unetflow.settings.experiment import ExperimentSettings
from unetflow.states import known_by, lasting, repaired, state_of_file, write_receipt
from unetflow.store import create_image, open_image, read_json
from unetflow.volumes import open_volume

__all__ = ["small_shards"]

torch.set_num_threads(1)


def experiment(dimensions: int = 2, **predict: Any) -> ExperimentSettings:
    """Two shards or so a block."""
    return ExperimentSettings(
        dataset="isbi2012",
        model={"width": 2, "depth": 1, "dimensions": dimensions},
        patches={"tile": TILE},
        predict=settings(**predict).model_dump(mode="json"),
    )


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 3,000 voxels."""
    monkeypatch.setattr(planning, "voxels_a_minute", lambda *_: 100.0)


def planned(
    tmp_path: Path, volume: Path, experiment: ExperimentSettings, **wanted: str
) -> dict[str, Any]:
    row = {"path": str(volume), "experiment": "one", **wanted}
    plan_archive({"v": row}, {"one": experiment}, tmp_path / "plan.json", "key")
    plan: dict[str, Any] = read_json(tmp_path / "plan.json")["volumes"]["v"]
    return plan


def receipt_of(tmp_path: Path, block: str) -> Path:
    return tmp_path / "v/prediction_blocks" / f"{block}.json"


def predict(
    tmp_path: Path,
    plan: dict[str, Any],
    block: str,
    code: str = "code",
    needs: tuple[int, int] = (100, 1),
) -> dict[str, Any]:
    """Predict one block of a planned volume; return its receipt."""
    receipt = receipt_of(tmp_path, block)
    predict_block(
        tmp_path / "model",
        plan["path"],
        tmp_path / "v/prediction.ome.zarr",
        receipt,
        plan["blocks"][block]["job"],
        code,
        repaired(receipt, plan["path"]),
        needs=needs,
    )
    facts: dict[str, Any] = read_json(receipt)
    return facts


def finished(tmp_path: Path, plan: dict[str, Any], experiment: ExperimentSettings) -> store.Image:
    """Finish a volume whose blocks are predicted; return the image."""
    receipts = [receipt_of(tmp_path, block) for block in plan["blocks"]]
    folder, model = tmp_path / "v/prediction.ome.zarr", read_json(tmp_path / "model/model.json")
    output = tmp_path / "v/prediction.json"
    finish_prediction(plan, receipts, model, experiment.predict, folder, output)
    facts = read_json(output)
    assert (facts["state"], facts["reason"], facts["blocks"]) == ("done", "", len(receipts))
    store.validate(folder)
    return open_image(folder)


def volume(path: Path, shape: Sequence[int]) -> NDArray[Any]:
    """Write a volume of grey noise."""
    pixels = grey(tuple(shape))
    create_image(path, "zyx"[-len(shape) :], shape, np.uint8, {"y": 0.5, "x": 0.5})[...] = pixels
    return pixels


def expected(tmp_path: Path, pixels: NDArray[Any], dimensions: int) -> NDArray[np.float32]:
    """Whole prediction of a volume, plane by plane for a 2D network."""
    model = load(tmp_path / "model", "cpu", "32")
    normal = (pixels[None] - OFFSET) / SCALE
    if pixels.ndim == dimensions:
        return whole(model, normal)
    return np.stack([whole(model, normal[:, z]) for z in range(len(pixels))], axis=1)


CASES = [("yx", (90, 70), 2), ("zyx", (3, 70, 45), 2), ("zyx", (20, 34, 21), 3)]


@pytest.mark.parametrize(("axes", "shape", "dimensions"), CASES)
def test_blocks_in_any_order_are_the_whole_volume(
    tmp_path: Path, axes: str, shape: tuple[int, ...], dimensions: int, small_shards: None
) -> None:
    pixels = volume(tmp_path / "image", shape)
    write_model(tmp_path / "model", dimensions)
    of = experiment(dimensions)
    plan = planned(tmp_path, tmp_path / "image", of)
    assert len(plan["blocks"]) > 2
    covered = np.zeros(shape, int)
    for name, block in plan["blocks"].items():
        assert len(name.split("_")) == len(shape)
        region = tuple(slice(*part) for part in block["job"]["region"])
        covered[region] += 1
    assert (covered == 1).all()
    for name in sorted(plan["blocks"], reverse=True):
        assert predict(tmp_path, plan, name)["state"] == "done"
    found = finished(tmp_path, plan, of)
    assert found.axes == "c" + axes
    np.testing.assert_allclose(found.array[...], expected(tmp_path, pixels, dimensions), atol=1e-5)


def count_regions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """List of the regions that are predicted from now on."""
    seen, kept = [], Job.predict

    def noted(self: Job, given: Any, region: Any) -> Any:
        if given is not None:
            seen.append(region)
        return kept(self, given, region)

    monkeypatch.setattr(Job, "predict", noted)
    return seen


def test_other_threads_redo_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    volume(tmp_path / "image", (90, 70))
    write_model(tmp_path / "model")
    predict(tmp_path, planned(tmp_path, tmp_path / "image", experiment()), "0_0")
    seen = count_regions(monkeypatch)
    predict(tmp_path, planned(tmp_path, tmp_path / "image", experiment(threads=2)), "0_0")
    assert not seen


def test_a_block_that_runs_again_redoes_nothing_and_gives_the_same_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    volume(tmp_path / "image", (90, 70))
    write_model(tmp_path / "model")
    plan = planned(tmp_path, tmp_path / "image", experiment())
    first = predict(tmp_path, plan, "0_0")
    seen = count_regions(monkeypatch)
    again = predict(tmp_path, plan, "0_0")
    assert not seen
    assert {**again, "seconds": 0, "waiting": 0} == {**first, "seconds": 0, "waiting": 0}


@pytest.mark.parametrize("change", ["code", "a shard torn", "a shard lost", "settings", "journal"])
def test_work_that_is_stale_or_torn_is_redone_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None, change: str
) -> None:
    pixels = volume(tmp_path / "image", (90, 70))
    write_model(tmp_path / "model")
    of = experiment()
    plan = planned(tmp_path, tmp_path / "image", of)
    for block in plan["blocks"]:
        array = predict(tmp_path, plan, block)["array"]
    shards = sorted((tmp_path / "v/prediction.ome.zarr" / array / "c").rglob("0/*/*"))
    seen = count_regions(monkeypatch)
    code, redone = "code", 1
    if change == "code":
        code, redone = "other", len(shards)
    elif change == "settings":
        of = experiment(orientations=4)
        plan, redone = planned(tmp_path, tmp_path / "image", of), len(shards)
    elif change == "a shard torn":
        shards[0].write_bytes(shards[0].read_bytes()[:100])
    elif change == "a shard lost":
        shards[0].unlink()
    else:  # the line of a process killed while it wrote it
        (journal,) = receipt_of(tmp_path, "0_0").parent.glob(".journals/0_0/*")
        journal.write_text(journal.read_text().rstrip("\n"))
    for block in plan["blocks"]:
        predict(tmp_path, plan, block, code)
    assert len(seen) == redone
    found = finished(tmp_path, plan, of)
    if change != "settings":
        np.testing.assert_allclose(found.array[...], expected(tmp_path, pixels, 2), atol=1e-5)
    else:  # what is of other settings is gone
        assert not (tmp_path / "v/prediction.ome.zarr" / array).exists()


KILLED = """
import sys
from pathlib import Path
from unetflow import planning, store
from unetflow.blocks import predict_block
from unetflow.store import read_json
for name, extent in {"CHUNK": 16, "SHARD": 32, "CUBE": 8, "CUBES": 16}.items():
    setattr(store, name, extent)
here = Path(sys.argv[1])
block = read_json(here / "plan.json")["volumes"]["v"]["blocks"]["0_0"]["job"]
out = here / "v/prediction.ome.zarr"
receipt = here / "v/prediction_blocks/0_0.json"
predict_block(here / "model", str(here / "image"), out, receipt, block, "")
"""


def start(tmp_path: Path) -> subprocess.Popen[bytes]:
    """Predict block 0_0 in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def large_plan(tmp_path: Path) -> tuple[ExperimentSettings, dict[str, Any]]:
    """One block of 64 shards."""
    volume(tmp_path / "image", (256, 256))
    write_model(tmp_path / "model")
    of = ExperimentSettings(
        dataset="isbi2012",
        model={"width": 2, "depth": 1},
        patches={"tile": TILE},
        predict=settings(orientations=4, block_minutes=1e6).model_dump(mode="json"),
    )
    return of, planned(tmp_path, tmp_path / "image", of)


def test_a_block_that_was_killed_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    of, plan = large_plan(tmp_path)
    process, done = start(tmp_path), 0
    while done < 10:
        assert process.poll() is None
        time.sleep(0.02)
        journals = list((tmp_path / "v/prediction_blocks").glob(".journals/0_0/*"))
        done = len(journals[0].read_text().splitlines()) if journals else 0
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not receipt_of(tmp_path, "0_0").exists()
    lines = journals[0].read_text().splitlines(keepends=True)
    lines = [line for line in lines if line.endswith("\n")]
    before = sum(float(line.split()[2]) for line in lines)
    seen, started = count_regions(monkeypatch), time.monotonic()
    receipt = predict(tmp_path, plan, "0_0", "")
    assert receipt["state"] == "done"
    assert len(seen) == 64 - len(lines)
    assert before <= receipt["seconds"] + 0.01 <= before + time.monotonic() - started + 0.02
    found = finished(tmp_path, plan, of).array
    straight = tmp_path / "straight"
    straight.mkdir()
    (straight / "model").symlink_to(tmp_path / "model")
    predict(straight, plan, "0_0")
    undisturbed = finished(straight, plan, of).array
    assert found[...].tobytes() == undisturbed[...].tobytes()


def test_the_workers_of_a_dask_cluster_predict_the_same(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    pixels = volume(tmp_path / "image", (2, 40, 35))
    write_model(tmp_path / "model")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as cluster:
        of = experiment(scheduler=cluster.scheduler_address)
        plan = planned(tmp_path, tmp_path / "image", of)
        assert predict(tmp_path, plan, "0_0_0")["state"] == "done"
        (journal,) = receipt_of(tmp_path, "0_0_0").parent.glob(".journals/0_0_0/*")
        assert len(journal.read_text().splitlines()) == 1
        found = finished(tmp_path, plan, of).array
        np.testing.assert_allclose(found[...], expected(tmp_path, pixels, 2), atol=1e-5)
        (tmp_path / "image/0/zarr.json").write_text("broken")
        assert predict(tmp_path, plan, "0_0_0", "other code")["state"] == "failed"


def test_the_jobs_of_a_batch_system_predict_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    # A batch system that starts a job at once, and writes down what was asked of it.
    submit, cancel = tmp_path / "bin/sbatch", tmp_path / "bin/scancel"
    submit.parent.mkdir()
    submit.write_text(
        f'#!/bin/sh\ncat "$1" >>"{tmp_path}/asked"\ncp "$1" "$0.$$"\n'
        'setsid sh "$0.$$" >/dev/null 2>&1 </dev/null &\necho "Submitted batch job $!"\n'
    )
    cancel.write_text('#!/bin/sh\nkill -- -"$1"\n')
    submit.chmod(0o755)
    cancel.chmod(0o755)
    monkeypatch.setenv("PATH", f"{submit.parent}:{os.environ['PATH']}")
    pixels = volume(tmp_path / "image", (2, 40, 35))
    write_model(tmp_path / "model")
    of = experiment(scheduler="slurm", workers=2, threads=1)
    plan = planned(tmp_path, tmp_path / "image", of)
    monkeypatch.chdir(tmp_path)
    assert predict(tmp_path, plan, "0_0_0", needs=(1000, 1))["state"] == "done"
    asked = (tmp_path / "asked").read_text()
    assert asked.count("#!") == 2
    assert "#SBATCH --mem=954M" in asked  # 1000 MB in units of 2**20
    found = finished(tmp_path, plan, of).array
    np.testing.assert_allclose(found[...], expected(tmp_path, pixels, 2), atol=1e-5)


def test_a_batch_system_that_is_not_there_is_an_error_and_no_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    volume(tmp_path / "image", (40, 35))
    write_model(tmp_path / "model")
    plan = planned(tmp_path, tmp_path / "image", experiment(scheduler="slurm"))
    with pytest.raises(OSError, match=r"predict\.scheduler must answer.*sbatch.*slurm"):
        predict(tmp_path, plan, "0_0", needs=(1000, 1))
    assert not receipt_of(tmp_path, "0_0").exists()


def test_a_full_disk_of_a_worker_is_not_told_as_the_schedulers_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")

    def full(*_: Any) -> NDArray[np.float32]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Job, "predict", full)
    volume(tmp_path / "image", (40, 35))
    write_model(tmp_path / "model")
    with distributed.LocalCluster(
        n_workers=1, processes=False, dashboard_address=":0", silence_logs=50
    ) as cluster:
        plan = planned(
            tmp_path, tmp_path / "image", experiment(scheduler=cluster.scheduler_address)
        )
        with pytest.raises(OSError, match=r"^.Errno 28. No space left on device$"):
            predict(tmp_path, plan, "0_0")
    assert not receipt_of(tmp_path, "0_0").exists()


def test_a_scheduler_that_does_not_answer_is_an_error_and_no_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dask = pytest.importorskip("dask", reason="dask is not installed")
    pytest.importorskip("distributed", reason="distributed is not installed")
    volume(tmp_path / "image", (40, 35))
    write_model(tmp_path / "model")
    plan = planned(tmp_path, tmp_path / "image", experiment(scheduler="tcp://127.0.0.1:9"))
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(OSError, match=r"127\.0\.0\.1:9"),
    ):
        predict(tmp_path, plan, "0_0")
    assert not receipt_of(tmp_path, "0_0").exists()


def test_two_copies_of_a_block_at_once_do_no_harm(tmp_path: Path, small_shards: None) -> None:
    of, plan = large_plan(tmp_path)
    copies = [start(tmp_path), start(tmp_path)]
    assert [copy.wait() for copy in copies] == [0, 0]
    assert read_json(receipt_of(tmp_path, "0_0"))["state"] == "done"
    found = finished(tmp_path, plan, of).array
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "model").symlink_to(tmp_path / "model")
    predict(alone, plan, "0_0")
    assert found[...].tobytes() == finished(alone, plan, of).array[...].tobytes()


def test_a_volume_that_grows_changes_the_new_blocks_and_the_old_edge_alone(
    tmp_path: Path, small_shards: None
) -> None:
    write_model(tmp_path / "model", 3)
    of = experiment(3)
    pixels = grey((60, 34, 21))
    array = create_image(tmp_path / "image", "zyx", (40, 34, 21), np.uint8, {})
    array[...] = pixels[:40]
    before = planned(tmp_path, tmp_path / "image", of)
    state = state_of_file(tmp_path / "image")
    for block in before["blocks"]:
        predict(tmp_path, before, block)
    zarr.open_array(tmp_path / "image/0", mode="r+").resize((60, 34, 21))
    zarr.open_array(tmp_path / "image/0", mode="r+")[40:] = pixels[40:]
    assert state_of_file(tmp_path / "image") != state, "so that it is planned again"
    after = planned(tmp_path, tmp_path / "image", of)
    same = [name for name, block in after["blocks"].items() if before["blocks"].get(name) == block]
    reach = 40 - 2 * 8  # far more than the network's halo
    kept = [name for name, b in before["blocks"].items() if b["job"]["region"][0][1] <= reach]
    assert kept
    assert set(kept) <= set(same)
    for block in set(after["blocks"]) - set(same):
        predict(tmp_path, after, block)
    found = finished(tmp_path, after, of).array[...]
    np.testing.assert_allclose(found, expected(tmp_path, pixels, 3), atol=1e-5)


def wanted(tmp_path: Path, of: ExperimentSettings, **wanted: str) -> NDArray[Any]:
    """Predict what a row wants of a volume; return the array."""
    plan = planned(tmp_path, tmp_path / "image", of, **wanted)
    assert plan["state"] == "planned", plan["reason"]
    for block in plan["blocks"]:
        assert predict(tmp_path, plan, block)["state"] == "done"
    return np.asarray(finished(tmp_path, plan, of).array[...])


@pytest.mark.parametrize(("shape", "dimensions"), [((3, 70, 45), 2), ((20, 34, 21), 3)])
def test_a_region_or_mask_alone_is_predicted_as_it_is_in_the_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_shards: None,
    shape: tuple[int, ...],
    dimensions: int,
) -> None:
    pixels = volume(tmp_path / "image", shape)
    write_model(tmp_path / "model", dimensions)
    of, whole = experiment(dimensions), expected(tmp_path, pixels, dimensions)
    seen = count_regions(monkeypatch)
    part = (slice(1, 2), slice(3, 30), slice(0, 20))
    found = wanted(tmp_path, of, region="1:2, 3:30, :20")
    np.testing.assert_allclose(found[:, *part], whole[:, *part], atol=1e-5)
    found[:, *part] = 0
    assert not found.any()
    every = len(planned(tmp_path, tmp_path / "image", of)["blocks"])
    assert len(seen) < every
    inside = np.zeros(shape, np.uint8)
    inside[2, 10:14, 5:9], inside[0, -1, -1] = 1, 7
    tifffile.imwrite(
        tmp_path / "mask.tif", inside, photometric="minisblack", metadata={"axes": "ZYX"}
    )
    found = wanted(tmp_path, of, mask=str(tmp_path / "mask.tif"))
    np.testing.assert_allclose(found, whole * (inside > 0), atol=1e-5)


@pytest.mark.parametrize("region", ["1:2", "0:4, :, :", "5:2, :, :", "a:b, :, :", "0:1, :, :, :"])
def test_a_region_that_is_none_of_the_volume_is_a_failed_plan(tmp_path: Path, region: str) -> None:
    volume(tmp_path / "image", (3, 40, 35))
    plan = planned(tmp_path, tmp_path / "image", experiment(), region=region)
    assert plan["state"] == "failed"
    assert (
        f"region must be start:stop along each of 3, 40, 35 voxels: got {region!r}"
        in (plan["reason"])
    )


def test_a_mask_of_other_extents_is_a_failed_receipt(tmp_path: Path) -> None:
    volume(tmp_path / "image", (3, 40, 35))
    tifffile.imwrite(tmp_path / "mask.tif", grey((40, 35)), photometric="minisblack")
    write_model(tmp_path / "model")
    plan = planned(tmp_path, tmp_path / "image", experiment(), mask=str(tmp_path / "mask.tif"))
    facts = predict(tmp_path, plan, "0_0_0")
    assert facts["state"] == "failed"
    assert (
        "a mask must have the extents of its volume, (3, 40, 35): got (40, 35)" in facts["reason"]
    )


def test_volumes_that_share_a_job_are_predicted_as_alone_and_one_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # blocks of ordinary size
    write_model(tmp_path / "model")
    of, members = experiment(), {}
    pixels = volume(tmp_path / "image", (40, 35))
    for name, path in {"v": tmp_path / "image", "bad": tmp_path / "nothing"}.items():
        plan = planned(tmp_path, tmp_path / "image", of)
        (block,) = plan["blocks"]
        job = plan["blocks"][block]["job"]
        facts = {"block": block, "job": job, "repaired": "", "histograms": ""}
        members[name] = {"path": str(path), **facts}
    made_from: list[dict[str, str]] = []
    for _ in range(2):
        predict_pack(tmp_path / "model", tmp_path, members, tmp_path / "v/pack.json", "code")
        made_from.append(read_json(tmp_path / "v/pack.json")["made_from"])
    assert made_from[0] == made_from[1], "whatever the time it took"
    assert made_from[0].keys() == {"v", "bad"}
    facts = receipt_of(tmp_path, f"packed_{block}")
    facts.rename(receipt_of(tmp_path, block))
    found = finished(tmp_path, plan, of).array
    np.testing.assert_allclose(found[...], expected(tmp_path, pixels, 2), atol=1e-5)
    reason = read_json(tmp_path / "bad/prediction_blocks" / f"packed_{block}.json")["reason"]
    assert "a volume must exist" in reason


def test_orientations_count_from_the_end_so_that_growth_changes_every_block(
    tmp_path: Path, small_shards: None
) -> None:
    of, found = experiment(orientations=8), []
    for extent in (90, 91, 92):
        place = tmp_path / str(extent)
        volume(place, (extent, 70))
        found.append(planned(tmp_path, place, of)["blocks"]["0_0"]["job"])
    assert found[0] != found[1], "another pooling grid"
    assert found[0]["phase"] == found[2]["phase"]
    assert planned(tmp_path, place, experiment())["blocks"]["0_0"]["job"]["phase"] == []


def test_a_volume_repaired_in_place_is_predicted_anew_as_a_whole(
    tmp_path: Path, small_shards: None
) -> None:
    pixels = volume(tmp_path / "image", (60, 30)).astype(np.float32)
    shutil.rmtree(tmp_path / "image")
    array = create_image(tmp_path / "image", "yx", (60, 30), np.float32, {})
    array[...] = np.where(np.arange(60)[:, None] > 50, np.nan, pixels)
    write_model(tmp_path / "model")
    of = experiment()
    plan = planned(tmp_path, tmp_path / "image", of)
    (block,) = plan["blocks"]
    assert predict(tmp_path, plan, block)["state"] == "failed"
    array[...] = 200 - pixels
    assert predict(tmp_path, plan, block)["state"] == "done"
    found = finished(tmp_path, plan, of).array
    np.testing.assert_allclose(found[...], expected(tmp_path, 200 - pixels, 2), atol=1e-5)


@pytest.mark.parametrize("checksum", ["metadata", "data"])
@pytest.mark.parametrize("what", ["volume", "mask"])
def test_a_volume_that_changes_between_two_blocks_is_no_mixture(
    tmp_path: Path, small_shards: None, checksum: str, what: str
) -> None:
    pixels = grey((90, 70))
    inside = np.ones(pixels.shape, np.uint8)
    for name, values in (("volume", pixels), ("mask", inside)):
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="minisblack")
    write_model(tmp_path / "model")
    of = experiment(input_checksum=checksum)
    plan = planned(tmp_path, tmp_path / "volume.tif", of, mask=str(tmp_path / "mask.tif"))
    first, *_, last = plan["blocks"]
    assert first != last
    assert predict(tmp_path, plan, first)["state"] == "done"
    other = 249 - pixels if what == "volume" else inside * 2
    tifffile.imwrite(tmp_path / f"{what}.tif", other, photometric="minisblack")
    facts = predict(tmp_path, plan, last)
    assert facts["state"] == "failed"
    assert facts["reason"] == (
        f"{tmp_path}/{what}.tif: a volume must stay as it is while it is predicted: it has changed "
        "since it was planned; run again once it is complete"
    )
    again = planned(tmp_path, tmp_path / "volume.tif", of, mask=str(tmp_path / "mask.tif"))
    assert all(predict(tmp_path, again, block)["state"] == "done" for block in again["blocks"])
    expects = expected(tmp_path, other if what == "volume" else pixels, 2)
    np.testing.assert_allclose(finished(tmp_path, again, of).array[...], expects, atol=1e-5)


def test_an_image_of_a_dataset_that_is_prepared_with_other_pixels_is_predicted_anew(
    tmp_path: Path, small_shards: None
) -> None:
    place = tmp_path / "dataset/images.ome.zarr/image"
    write_model(tmp_path / "model")
    of, found = experiment(), []
    for pixels in (grey((60, 30)), 249 - grey((60, 30))):
        shutil.rmtree(place, ignore_errors=True)
        create_image(place, "yx", pixels.shape, np.uint8, {})[...] = pixels
        entry = {"image": "image", "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
        (tmp_path / "dataset/index.json").write_text(json.dumps({"images": [entry]}))
        plan = planned(tmp_path, place, of)
        assert all(predict(tmp_path, plan, block)["state"] == "done" for block in plan["blocks"])
        found.append(finished(tmp_path, plan, of).array[...])
        np.testing.assert_allclose(found[-1], expected(tmp_path, pixels, 2), atol=1e-5)
    assert (found[0] != found[1]).any()


def test_a_file_that_is_only_touched_is_the_same_by_its_data(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "volume.tif", grey((20, 30)), photometric="minisblack")
    write_model(tmp_path / "model")
    for checksum, state in (("data", "done"), ("metadata", "failed")):
        plan = planned(tmp_path, tmp_path / "volume.tif", experiment(input_checksum=checksum))
        os.utime(tmp_path / "volume.tif", (0, 0) if checksum == "data" else (1, 1))
        assert predict(tmp_path, plan, *plan["blocks"])["state"] == state


def test_a_region_that_is_set_later_leaves_nothing_of_before_outside_it(
    tmp_path: Path, small_shards: None
) -> None:
    volume(tmp_path / "image", (90, 70))
    write_model(tmp_path / "model")
    assert wanted(tmp_path, experiment()).all()
    found = wanted(tmp_path, experiment(), region=":20, :20")
    assert found[:, :20, :20].all()
    assert not found[:, 20:].any()
    assert not found[:, :, 20:].any()


def test_what_was_removed_is_told_when_a_volume_is_finished_again(
    tmp_path: Path, small_shards: None
) -> None:
    volume(tmp_path / "image", (90, 70))
    write_model(tmp_path / "model")
    of = experiment()
    plan = planned(tmp_path, tmp_path / "image", of)
    for block in plan["blocks"]:
        predict(tmp_path, plan, block)
    folder = tmp_path / "v/prediction.ome.zarr"
    drop_predictions([folder], tmp_path / "v/dropped.json")
    with pytest.raises(
        ValueError, match=r"found nothing, as after predict.keep was false; predict"
    ):
        finished(tmp_path, plan, of)
    predict(tmp_path, plan, "0_0", "other code")
    with pytest.raises(ValueError, match=r"has 0 bytes instead of .* --forcerun predict_block"):
        finished(tmp_path, plan, of)


def test_blocks_of_unlike_machines_are_told(tmp_path: Path, small_shards: None) -> None:
    volume(tmp_path / "image", (90, 70))
    write_model(tmp_path / "model")
    of = experiment()
    plan = planned(tmp_path, tmp_path / "image", of)
    for number, block in enumerate(plan["blocks"]):
        plan["blocks"][block]["job"]["settings"]["precision"] = ["32", "bf16"][number % 2]
        predict(tmp_path, plan, block)
    with pytest.raises(ValueError, match=r"found 2 kinds, .* is auto; set them"):
        finished(tmp_path, plan, of)


def test_a_worker_opens_a_model_again_when_it_has_changed(tmp_path: Path) -> None:
    volume(tmp_path / "image", (40, 35))
    facts = []
    for name in ("background", "other"):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        write_model(tmp_path / "model", classes=2 if name == "background" else 3)
        weights = read_json(tmp_path / "model/model.json")["weights_sha256"]
        of, block = settings().model_dump_json(), json.dumps(job("none"))
        place = (str(tmp_path / "model"), str(tmp_path / "image"))
        opened = opened_once(*place, of, block, "", weights, "")
        facts.append(opened.model.facts["weights_sha256"] == weights)
    assert facts == [True, True]


def test_coarser_levels_are_means_of_the_finest(tmp_path: Path, small_shards: None) -> None:
    volume(tmp_path / "image", (3, 70, 45))
    write_model(tmp_path / "model")
    of = experiment()
    plan = planned(tmp_path, tmp_path / "image", of)
    for block in plan["blocks"]:
        predict(tmp_path, plan, block)
    finest = finished(tmp_path, plan, of)
    folder = tmp_path / "v/prediction.ome.zarr"
    scales = read_json(folder / "zarr.json")["attributes"]["ome"]["multiscales"][0]["datasets"]
    shapes = [zarr.open_array(folder / level["path"]).shape for level in scales]
    assert shapes == [(1, 3, 70, 45), (1, 3, 35, 23), (1, 3, 18, 12), (1, 3, 9, 6)]
    second = zarr.open_array(folder / scales[1]["path"])[...]
    even = finest.array[..., :44].reshape(1, 3, 35, 2, 22, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(second[..., :22], even, atol=1e-6)
    first, third = (level["coordinateTransformations"] for level in (scales[0], scales[2]))
    assert first == [{"type": "scale", "scale": [1, 1, 0.5, 0.5]}]
    assert third[0] == {"type": "scale", "scale": [1, 1, 2, 2]}
    assert third[1] == {"type": "translation", "translation": [0, 0, 0.75, 0.75]}


def test_a_volume_of_which_a_block_failed_has_failed_with_every_reason(tmp_path: Path) -> None:
    row = {"path": "p.tif", "reason": "", "shape": [3, 4], "blocks": {"0_0": {}, "0_1": {}}}
    reasons = ["no axis", "", "no pixels", "no axis"]
    receipts = [tmp_path / f"{number}.json" for number in range(4)]
    for path, reason in zip(receipts, reasons, strict=True):
        store.write_json(path, {"reason": reason, "seconds": 0.5, "waiting": 0.1, "array": "a"})
    model = {"class_names": ["background", "cell"]}
    finish_prediction(row, receipts, model, settings(), tmp_path / "p", tmp_path / "facts.json")
    facts = read_json(tmp_path / "facts.json")
    assert (facts["state"], facts["reason"]) == ("failed", "no axis; no pixels")
    assert (facts["seconds"], facts["blocks"], facts["waiting"]) == (2, 4, 0.1)
    assert facts["volume"] == {"path": "p.tif", "reason": "", "shape": [3, 4]}


def test_a_volume_that_could_not_be_planned_has_failed(tmp_path: Path) -> None:
    row = {"path": "p.tif", "reason": "not there", "blocks": {}}
    finish_prediction(row, [], {}, settings(), tmp_path / "p", tmp_path / "facts.json")
    facts = read_json(tmp_path / "facts.json")
    assert (facts["state"], facts["reason"], facts["seconds"]) == ("failed", "not there", 0)


def test_a_volume_at_a_url_that_failed_is_tried_again_by_each_run(tmp_path: Path) -> None:
    receipt, place = tmp_path / "receipt.json", "https://localhost/volume.zarr"
    tokens = [repaired(receipt, place)]
    for number in range(2):
        facts = {"state": "failed", "files": "", "made_from": {"repaired": tokens[-1]}}
        write_receipt(receipt, facts)
        os.utime(lasting(receipt), (number, number))
        tokens.append(repaired(receipt, place))
        assert repaired(receipt, place) == tokens[-1]
    assert len(set(tokens)) == 3
    write_receipt(receipt, {"state": "done", "made_from": {"repaired": tokens[-1]}})
    assert repaired(receipt, place) == tokens[-1], "until it is read"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_repaired_volume_is_told_from_the_one_that_failed(tmp_path: Path, kind: str) -> None:
    model, receipt = write_model(tmp_path / "model"), tmp_path / "out/receipt.json"
    place = str(tmp_path / ("volume" if kind == "folder" else "volume.tif"))
    bad = Path(place) / "0" / "c" if kind == "folder" else Path(place)
    if kind == "folder":
        volume(tmp_path / "volume", (40, 50))
        (shard,) = (path for path in bad.rglob("*") if path.is_file())
        good = shard.read_bytes()
        shard.write_bytes(good[:50])
    else:
        bad.write_bytes(b"no picture")

    def run() -> tuple[str, str]:
        told = repaired(receipt, place)
        receipt.unlink(missing_ok=True)  # as what runs it does
        assert repaired(receipt, place) == told
        predict_block(model, place, tmp_path / "out/prediction", receipt, job(place), "code", told)
        return read_json(receipt)["state"], told

    assert run() == ("failed", "")
    assert repaired(receipt, place) == "", "nothing has changed"
    if kind == "folder":
        shard.write_bytes(good)
    else:
        tifffile.imwrite(bad, grey((40, 50)), photometric="minisblack")
    state, told = run()
    assert (state, bool(told)) == ("done", True)
    assert repaired(receipt, place) == told, "what was told is told again"


# -------------------------------------------------------------------------------- failures


def job(volume: Path | str) -> dict[str, Any]:
    """Return values of a block of a plane."""
    known: list[Any] = []
    with suppress(ValueError):
        known = known_by(open_volume(volume))
    return {
        "tile": [TILE, TILE],
        "settings": settings().model_dump(mode="json"),
        "region": [[0, 2048]] * 2,
        "reads": [[0, 2048]] * 2,
        "volume": known,
        "within": [],
        "mask": "",
        "mask_known_by": [],
        "choice": {},
    }


def predicted(tmp_path: Path, volume: Path) -> dict[str, Any]:
    """Predict a volume as a block that was planned for another; return its receipt."""
    model, receipt = write_model(tmp_path / "model"), tmp_path / "out/receipt.json"
    predict_block(model, str(volume), tmp_path / "out/prediction", receipt, job(volume), "code")
    facts: dict[str, Any] = read_json(receipt)
    assert facts["seconds"] >= 0
    return facts


@pytest.mark.parametrize("shape", [(40, 35), (3, 40, 35)])
def test_a_tiff_file_is_predicted_as_the_same_pixels_in_ome_zarr(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    pixels = grey(shape)
    tifffile.imwrite(
        tmp_path / "volume.tif",
        pixels,
        photometric="minisblack",
        metadata={"axes": "ZYX"[-len(shape) :]},
    )
    create_image(tmp_path / "volume", "zyx"[-len(shape) :], shape, np.uint8, {})[...] = pixels
    found = []
    for name in ("volume.tif", "volume"):
        folder = tmp_path / f"of {name}"
        folder.mkdir()
        write_model(folder / "model")
        plan = planned(folder, tmp_path / name, experiment())
        predict(folder, plan, "_".join("0" * len(shape)))
        found.append(finished(folder, plan, experiment()).array[...])
    assert found[0].shape == (1, *shape)
    np.testing.assert_array_equal(*found)
    gc.collect()  # a file left open would be told here


def test_another_number_of_channels_is_a_failed_receipt_with_its_reason(tmp_path: Path) -> None:
    create_image(tmp_path / "volume", "cyx", (3, 30, 30), np.uint8, {})[...] = grey((3, 30, 30))
    facts = predicted(tmp_path, tmp_path / "volume")
    assert facts["state"] == "failed"
    assert facts["reason"].endswith(
        "the model takes 1 channels: the image has 3; choose channels or another model"
    )


def test_a_missing_volume_is_a_failed_receipt(tmp_path: Path) -> None:
    facts = predicted(tmp_path, tmp_path / "nowhere")
    assert facts["state"] == "failed"
    assert "a volume must exist: found nothing; correct the path in the sheet" in facts["reason"]


@pytest.mark.parametrize("kind", ["text", "colour", "folder"])
def test_what_is_no_volume_is_a_failed_receipt(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "volume.tif"
    if kind == "text":
        path.write_text("not a picture")
        expected = "must be a readable TIFF file"
    elif kind == "colour":
        tifffile.imwrite(path, grey((30, 30, 3)), photometric="rgb")
        expected = "the model takes 1 channels: the image has 3"
    else:
        path.mkdir()
        expected = "a folder must be a Zarr image: found none of zarr.json"
    facts = predicted(tmp_path, path)
    assert facts["state"] == "failed"
    assert expected in facts["reason"]
    assert "\n" not in facts["reason"]


def test_a_volume_with_a_time_axis_is_a_failed_receipt_with_its_reason(tmp_path: Path) -> None:
    create_image(tmp_path / "volume", "tyx", (5, 30, 30), np.uint8, {})[...] = grey((5, 30, 30))
    facts = predicted(tmp_path, tmp_path / "volume")
    assert facts["state"] == "failed"
    assert "time" in facts["reason"]


@pytest.mark.parametrize("damage", ["overwritten", "cut short"])
def test_pixels_that_cannot_be_read_are_a_failed_receipt(tmp_path: Path, damage: str) -> None:
    create_image(tmp_path / "volume", "zyx", (5, 40, 50), np.uint8, {})[...] = grey((5, 40, 50))
    (shard,) = (path for path in (tmp_path / "volume/0/c").rglob("*") if path.is_file())
    stored = shard.read_bytes()
    if damage == "overwritten":  # the first chunk; the index at the end is left whole
        shard.write_bytes(bytes(1000) + stored[1000:])
    else:
        shard.write_bytes(stored[: len(stored) // 2])
    facts = predicted(tmp_path, tmp_path / "volume")
    assert facts["state"] == "failed"
    assert facts["reason"]


def test_a_tiff_file_that_lost_its_end_is_a_failed_receipt(tmp_path: Path) -> None:
    path = tmp_path / "volume.tif"
    tifffile.imwrite(path, grey((5, 40, 50)), photometric="minisblack", compression="zlib")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    facts = predicted(tmp_path, path)
    assert facts["state"] == "failed"


def test_a_missing_chunk_is_a_failed_receipt_unless_empty_ones_are_left_out(
    tmp_path: Path, small_shards: None
) -> None:
    pixels = volume(tmp_path / "image", (90, 70))
    write_model(tmp_path / "model")
    (tmp_path / "image/0/c/2/2").unlink()
    plan = planned(tmp_path, tmp_path / "image", experiment())
    facts = [predict(tmp_path, plan, block) for block in plan["blocks"]]
    assert {of["state"] for of in facts} == {"done", "failed"}, "blocks that do not read it go on"
    (reason,) = {of["reason"] for of in facts if of["reason"]}
    assert "all chunks must be stored: 1 are not, such as c/2/2; copy the volume" in reason
    of = experiment(missing_chunks="fill")
    plan = planned(tmp_path, tmp_path / "image", of)
    for block in plan["blocks"]:
        assert predict(tmp_path, plan, block)["state"] == "done"
    pixels[64:, 64:] = 0
    found = finished(tmp_path, plan, of).array
    np.testing.assert_allclose(found[...], expected(tmp_path, pixels, 2), atol=1e-5)


def test_voxels_of_another_size_are_a_failed_receipt_or_resampled(tmp_path: Path) -> None:
    volume(tmp_path / "image", (40, 35))  # of 0.5 um
    write_model(tmp_path / "model")
    facts = read_json(tmp_path / "model/model.json") | {"voxel_size_um": {"y": 1.0, "x": 0.5}}
    store.write_json(tmp_path / "model/model.json", facts)
    plan = planned(tmp_path, tmp_path / "image", experiment())
    assert (
        "learned from, 1 x 0.5 um (y, x): got 0.5 x 0.5 um"
        in (predict(tmp_path, plan, "0_0")["reason"])
    )
    of = experiment(voxel_size_um={"y": 1.0, "x": 0.5})
    plan = planned(tmp_path, tmp_path / "image", of)
    assert plan["shape"] == [20, 35]
    assert predict(tmp_path, plan, "0_0")["state"] == "done"
    found = finished(tmp_path, plan, of)
    assert (found.array.shape, found.voxel_size_um) == ((1, 20, 35), {"y": 1.0, "x": 0.5})


def test_grey_values_that_are_no_numbers_are_a_failed_receipt(tmp_path: Path) -> None:
    pixels = grey((40, 35), "float32")
    pixels[20, 20] = np.nan
    create_image(tmp_path / "volume", "yx", pixels.shape, np.float32, {})[...] = pixels
    facts = predicted(tmp_path, tmp_path / "volume")
    assert facts["state"] == "failed"
    assert "finite" in facts["reason"]


@pytest.mark.parametrize(
    ("needs", "error", "message"),
    [
        ((10**9, 0), MemoryError, "this machine has .* lower predict.memory_gb"),
        ((0, 10**9), OSError, "GB are free; set predict.dtype to uint8"),
    ],
)
def test_what_cannot_fit_fails_before_it_begins(
    tmp_path: Path, needs: tuple[int, int], error: type[Exception], message: str
) -> None:
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    with pytest.raises(error, match=message):
        predict_block(model, "none", out / "p", out / "r.json", job("none"), "code", needs=needs)
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_a_full_disk_is_an_error_without_a_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_image(tmp_path / "volume", "yx", (40, 50), np.uint8, {})[...] = grey((40, 50))

    def full(*_: Any) -> NDArray[np.float32]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Job, "predict", full)
    with pytest.raises(OSError, match="No space left on device"):
        predicted(tmp_path, tmp_path / "volume")
    assert not (tmp_path / "out/receipt.json").exists()


def test_weights_that_do_not_belong_to_the_model_are_an_error_and_no_receipt(
    tmp_path: Path,
) -> None:
    create_image(tmp_path / "volume", "yx", (40, 50), np.uint8, {})[...] = grey((40, 50))
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="weights must have the SHA-256 that"):
        predict_block(
            model,
            str(tmp_path / "volume"),
            tmp_path / "p",
            tmp_path / "r.json",
            job(tmp_path / "volume"),
            "code",
        )
    assert not (tmp_path / "r.json").exists()
    assert not list((tmp_path / "p").iterdir())
