"""How far an archive has come: worked folders, and that a stale receipt is none."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from unetflow.progress import log_to
from unetflow.report.archive_progress import archive_progress, duration
from unetflow.report.status import show
from unetflow.store import write_json, write_text


def plan(blocks: int, **more: Any) -> dict[str, Any]:
    """Plan of a volume of blocks of 100 voxels in 10 shards."""
    block = {"voxels": 100, "shards": [5, 2]}
    return {"blocks": {f"{n}_0": {**block, "job": {"n": n}} for n in range(blocks)}, **more}


def receipt(state: str, number: int, seconds: float) -> dict[str, Any]:
    return {"state": state, "seconds": seconds, "made_from": {"block": {"n": number}}}


def running(path: Path, age: float = 5) -> None:
    """Write the log of a job that has said nothing for so many seconds."""
    write_text(path, "12:00:00 device cpu, torch, 3 of 9 shards\n")
    os.utime(path, (time.time() - age,) * 2)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Volumes in every state, of two experiments; the second share a job."""
    folder, logs = tmp_path / "archives/liver", tmp_path / "logs"
    planned = {
        "done": plan(3),
        "bad": {"blocks": {}, "state": "failed"},
        "under_way": plan(6),
        "crashed": plan(1),
        "waiting": plan(2),
        **{name: plan(1, pack="p") for name in "pqrs"},
    }
    write_json(folder / "plan.json", {"volumes": planned})
    write_json(folder / "done/summary.json", {"state": "done", "predict_seconds": 20.0})
    write_json(folder / "bad/summary.json", {"state": "failed", "reason": "no such file"})
    for number, state in ((0, "done"), (1, "failed")):
        path = folder / f"under_way/prediction_blocks/{number}_0.json"
        write_json(path, receipt(state, number, 5.0))
    stale = receipt("done", 7, 1.0)  # of a job that is no longer planned
    write_json(folder / "under_way/prediction_blocks/2_0.json", stale)
    running(logs / "predict/archives/liver/under_way/3_0.log")
    running(logs / "predict/archives/liver/under_way/4_0.log", age=7200)
    with pytest.raises(SystemExit), log_to(str(logs / "predict/archives/liver/crashed/0_0.log")):
        raise OSError("no space left")
    write_json(folder / "p/prediction_blocks/packed_0_0.json", receipt("done", 0, 4.0))
    running(logs / "predict/archives/liver/p/pack.log")
    return tmp_path


VOLUMES = {
    **dict.fromkeys(("done", "bad", "under_way", "crashed", "waiting", "unplanned"), "one"),
    **dict.fromkeys("pqrs", "two"),
}


def test_volumes_and_blocks_are_counted_by_their_state(results: Path) -> None:
    found = archive_progress(results, "liver", VOLUMES)
    one, two = found["one"], found["two"]
    assert one.volumes == {"done": 1, "failed": 1, "running": 1, "missing": 3}
    assert one.blocks == {"done": 4, "failed": 1, "running": 1, "missing": 6}
    assert one.jobs == 1
    assert (one.voxels, one.seconds, one.left) == (400, 25.0, 700)
    assert one.rate == pytest.approx(16)
    assert one.remaining == pytest.approx(700 / 16)
    assert list(one.told) == ["bad", "crashed"]
    assert one.told["bad"] == "failed: no such file"
    assert one.told["crashed"].startswith("a job ended with an error: OSError: no space left (")
    # Of volumes that share a job one is predicted at a time.
    assert two.volumes == {"running": 1, "missing": 3}
    assert two.blocks == {"done": 1, "running": 1, "missing": 2}
    assert (two.jobs, two.left) == (1, 300)


def test_more_jobs_at_a_time_leave_less_time(results: Path) -> None:
    before = archive_progress(results, "liver", VOLUMES)["one"]
    running(results / "logs/predict/archives/liver/waiting/1_0.log")
    after = archive_progress(results, "liver", VOLUMES)["one"]
    assert after.jobs == 2
    assert before.remaining is not None
    assert after.remaining == pytest.approx(before.remaining / 2)


def test_shards_of_a_running_block_count_as_its_journal_names_them(results: Path) -> None:
    blocks = results / "archives/liver/under_way/prediction_blocks/.journals"
    write_text(blocks / "3_0/digest", "0_0 17\n0_2048 18\n2048_0 19\n")
    write_text(blocks / "4_0/digest", "0_0 17\n")  # of a job that was killed
    one = archive_progress(results, "liver", VOLUMES)["one"]
    assert one.left == pytest.approx(700 - 30)
    assert one.blocks["running"] == 1


def test_a_volume_that_is_segmented_now_runs(results: Path) -> None:
    running(results / "logs/segment/archives/liver/waiting.log")
    found = archive_progress(results, "liver", VOLUMES)["one"]
    assert (found.volumes["running"], found.blocks["running"]) == (2, 1)


def test_volumes_that_share_a_job_are_segmented_one_at_a_time(results: Path) -> None:
    folder, logs = results / "archives/liver", results / "logs"
    for name in "pqrs":
        write_json(folder / name / "prediction_blocks/packed_0_0.json", receipt("done", 0, 4.0))
    write_json(folder / "p/summary.json", {"state": "done", "predict_seconds": 4.0})
    (logs / "predict/archives/liver/p/pack.log").unlink()
    running(logs / "segment/archives/liver/p/segmented.log")
    found = archive_progress(results, "liver", VOLUMES)["two"]
    assert found.volumes == {"done": 1, "running": 1, "missing": 2}
    assert (found.blocks, found.jobs) == ({"done": 4}, 0)


def test_the_status_shows_them(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / "archives/liver/old").mkdir()
    show(results, {}, {"liver": VOLUMES})
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "liver one 6 1 1 1 3" in lines
    assert "liver one 12 4 1 1 6 16 44 s" in lines
    assert "liver two 4 1 1 0 2 25 12 s" in lines
    assert "liver/bad failed: no such file" in lines
    assert "running: a log was written in the last 10 min" in lines
    told = [line for line in lines if "no longer in the sheet" in line]
    assert told == ["liver: 1 no longer in the sheet, left for you to remove: old"]


TIMES = {None: "", 0: "0 s", 119: "119 s", 120: "2 min", 7199: "120 min", 7200: "2 h"}
TIMES |= {172_799: "48 h", 172_800: "2 days", float("inf"): ""}


@pytest.mark.parametrize(("seconds", "text"), TIMES.items())
def test_times_are_told_in_their_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
