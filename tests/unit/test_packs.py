"""Small volumes that share a job: each step is done once for each, and again where it must be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from unetflow import store
from unetflow.packs import Pack
from unetflow.states import restored, write_receipt
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
    def output(self) -> Path:
        """What is written once all are done, in the folder of the first."""
        return self.root / next(iter(self.own)) / "after.json"

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
        output = self.output
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
    first = read_json(job.output)["made_from"]
    job.before["b"] = "second"
    job.run()
    second = read_json(job.output)["made_from"]
    assert {volume for volume in first if first[volume] != second[volume]} == {"b"}


def test_what_was_removed_is_told_once_and_made_again(job: Shared) -> None:
    job.results[0].unlink()
    told = restored(job.output, job.results)
    assert told
    assert job.run() == ["a"]
    assert restored(job.output, job.results) == told
    job.results[0].unlink()
    assert restored(job.output, job.results) not in ("", told), "another time"


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
    assert not (job.output).exists()
    job.fails = {}
    assert job.run() == ["a", "c"]


def test_a_job_that_was_killed_goes_on_where_it_was(job: Shared) -> None:
    job.made_from, job.fails = "others", {"b": KeyboardInterrupt()}  # type: ignore[dict-item]
    with pytest.raises(KeyboardInterrupt):
        job.run()
    assert job.done == ["a"]
    job.fails = {}
    assert job.run() == ["b", "c"]


def test_a_volume_that_has_left_is_no_part_of_what_is_written(job: Shared) -> None:
    del job.own["c"]
    assert job.run() == []
    assert read_json(job.output)["made_from"].keys() == {"a", "b"}


def test_a_job_that_loses_its_first_volume_makes_none_of_the_others_again(job: Shared) -> None:
    del job.own["a"]
    assert job.run() == []
    assert read_json(job.output)["made_from"].keys() == {"b", "c"}
    job.own["b"] = 4
    assert job.run() == ["b"]


def test_a_folder_that_is_removed_is_that_of_one_volume_even_if_it_is_the_first(
    job: Shared,
) -> None:
    shutil.rmtree(job.root / "a")
    assert job.run() == ["a"]
    assert job.run() == []


def test_a_volume_that_comes_back_or_to_another_job_is_not_made_again(job: Shared) -> None:
    of = job.own
    for some in ({"c": of["c"]}, {"b": of["b"], "a": of["a"]}, of):
        job.own = some
        assert job.run() == []


def test_what_is_written_grows_with_the_volumes_not_with_their_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def count(path: Path, text: str) -> None:
        written.append(len(text))
        write_text(path, text)

    monkeypatch.setattr(store, "write_text", count)
    sums = []
    for volumes in (20, 80):
        job = Shared(tmp_path / str(volumes))
        job.own = {f"v{number:02}": number for number in range(volumes)}
        job.before = dict.fromkeys(job.own, "first")
        job.run()
        sums.append(sum(written))
        written.clear()
    assert sums[1] < 5 * sums[0]


def test_braces_in_a_name_stand_for_nothing(tmp_path: Path) -> None:
    pack = Pack("before", "after", {"result": f"{tmp_path}/{{volume}}/x"}, "")
    assert pack.paths_of("{volume}{0}")["result"] == tmp_path / "{volume}{0}/x"
