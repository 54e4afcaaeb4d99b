"""Small volumes that share a job: each step is done once for each, and again where it must be."""

from __future__ import annotations

from pathlib import Path

import pytest

from unetflow.packs import Pack
from unetflow.states import lasting, restored, write_receipt
from unetflow.store import read_json, write_text


class Shared:
    """A job of three volumes, which writes a file for each and counts how often."""

    def __init__(self, root: Path) -> None:
        self.root, self.done = root, list[str]()
        self.before = dict.fromkeys("abc", "first")
        self.own = {"a": 1, "b": 2, "c": 3}
        self.fails: dict[str, Exception] = {}
        self.code, self.made_from = "code", "settings"

    @property
    def results(self) -> list[Path]:
        """Files of all volumes."""
        return [self.root / volume / "result" for volume in self.own]

    def step(self, volume: str, paths: dict[str, Path]) -> None:
        """Write the file of a volume."""
        if volume in self.fails:
            raise self.fails[volume]
        write_text(paths["result"], volume)
        self.done.append(volume)

    def run(self) -> list[str]:
        """Run the job; return the volumes that it dealt with."""
        self.done.clear()
        write_receipt(self.root / "before.json", {"made_from": self.before})
        output = self.root / "after.json"
        told = restored(output, self.results)
        output.unlink(missing_ok=True)  # as what runs it does
        again = restored(output, self.results)
        assert told == again, "what is told does not change when outputs are removed"
        patterns = {"result": f"{self.root}/{{volume}}/result"}
        pack = Pack(self.root / "before.json", output, patterns, self.code, told)
        pack.each(self.step, self.own, self.made_from, results=["result"])
        assert restored(output, self.results) == told, "nor once it has run"
        return self.done


@pytest.fixture
def job(tmp_path: Path) -> Shared:
    """Return such a job that has run."""
    found = Shared(tmp_path)
    assert found.run() == ["a", "b", "c"]
    return found


def test_what_is_done_is_not_done_again(job: Shared) -> None:
    assert job.run() == []


def test_a_volume_that_is_another_is_done_alone(job: Shared) -> None:
    job.before["b"] = "second"
    assert job.run() == ["b"]
    job.own["c"] = 4
    assert job.run() == ["c"]
    assert job.run() == []


def test_other_settings_or_code_do_all_again(job: Shared) -> None:
    job.made_from = "others"
    assert job.run() == ["a", "b", "c"]
    job.code = "newer"
    assert job.run() == ["a", "b", "c"]


def test_the_next_step_is_told_what_has_changed(job: Shared) -> None:
    first = read_json(job.root / "after.json")["made_from"]
    job.before["b"] = "second"
    job.run()
    second = read_json(job.root / "after.json")["made_from"]
    assert {volume for volume in first if first[volume] != second[volume]} == {"b"}


def test_what_was_removed_is_told_once_and_made_again(job: Shared) -> None:
    job.results[0].unlink()
    told = restored(job.root / "after.json", job.results)
    assert told
    assert job.run() == ["a"]
    assert restored(job.root / "after.json", job.results) == told
    job.results[0].unlink()
    assert restored(job.root / "after.json", job.results) not in ("", told), "another time"


def test_results_that_another_job_has_written_since_are_made_again(job: Shared) -> None:
    write_text(job.results[1], "by another")
    assert job.run() == ["b"]
    assert job.run() == []


def test_one_that_fails_keeps_no_other_and_nothing_says_that_all_is_done(job: Shared) -> None:
    job.made_from = "others"
    job.fails = {"a": OSError("no space"), "c": ValueError("two\nlines")}
    with pytest.raises(ValueError, match=r"^2 of 3 volumes failed: a: no space; c: two lines$"):
        job.run()
    assert job.done == ["b"]
    assert not (job.root / "after.json").exists()
    job.fails = {}
    assert job.run() == ["a", "c"]


def test_a_job_that_was_killed_goes_on_where_it_was(job: Shared) -> None:
    job.made_from, job.fails = "others", {"b": KeyboardInterrupt()}  # type: ignore[dict-item]
    with pytest.raises(KeyboardInterrupt):
        job.run()
    assert job.done == ["a"]
    assert read_json(lasting(job.root / "after.json"))["made_from"].keys() == {"a", "b", "c"}
    job.fails = {}
    assert job.run() == ["b", "c"]


def test_a_volume_that_has_left_is_no_part_of_what_is_written(job: Shared) -> None:
    del job.own["a"]
    assert job.run() == []
    assert read_json(job.root / "after.json")["made_from"].keys() == {"b", "c"}


def test_braces_in_a_name_stand_for_nothing(tmp_path: Path) -> None:
    pack = Pack("before", "after", {"result": f"{tmp_path}/{{volume}}/x"}, "")
    assert pack.paths_of("{volume}{0}")["result"] == tmp_path / "{volume}{0}/x"
