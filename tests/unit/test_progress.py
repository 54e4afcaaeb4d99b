"""Logs hold the traceback and the lines of progress; the terminal gets one line."""

from __future__ import annotations

import io
import json
import re
import socket
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from pydantic import ValidationError

from unetflow import progress
from unetflow.progress import Bar, Waiting, log, log_to, track
from unetflow.report.sources import last_record
from unetflow.settings.training import SplitSettings


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def lines(path: Path) -> list[str]:
    """Return the lines of a log without their time and the record of the step."""
    found = [line.partition(" ")[2] for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in found if not line.startswith("record ")]


def test_lines_go_to_the_log_with_their_time(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "one.log"
    with log_to(str(path)):
        log("first, µm")
        log("second")
    assert lines(path) == ["first, µm", "second"]
    assert path.read_text(encoding="utf-8")[2] == ":"


def test_a_log_ends_with_the_record_of_the_step(tmp_path: Path) -> None:
    path = tmp_path / "one.log"
    for _ in range(2):
        with log_to(str(path)):
            time.sleep(0.02)
    last = path.read_text(encoding="utf-8").splitlines()[-1]
    facts = json.loads(re.sub(r"^\d\d:\d\d:\d\d record ", "", last))
    assert 0.02 <= facts["wall_seconds"] < 60
    assert facts["host"] == socket.gethostname()
    assert facts["versions"]["unetflow"] == version("unetflow")
    assert last_record(path) == facts


def test_a_log_is_gone_on_with(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with log_to(str(tmp_path / "one.log")):
            log(text)
    assert lines(tmp_path / "one.log") == ["old", "new"]


def test_after_the_step_the_log_gets_no_more(tmp_path: Path) -> None:
    with log_to(str(tmp_path / "one.log")):
        log("inside")
    log("outside")
    assert lines(tmp_path / "one.log") == ["inside"]


def fail(path: Path, error: Exception) -> None:
    """Fail inside a step."""
    with log_to(str(path)):
        log("before")
        raise error


def test_an_error_is_a_traceback_in_the_log_and_a_line_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.log"
    with pytest.raises(SystemExit, match="1"):
        fail(path, ValueError("a.tif: must be grey"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: a.tif: must be grey (traceback in {path})\n"
    text = path.read_text(encoding="utf-8")
    assert "before" in text
    assert "Traceback (most recent call last)" in text
    assert "in fail\n    raise error\nValueError: a.tif: must be grey" in text


def test_an_error_without_words_is_told_by_its_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        fail(tmp_path / "one.log", MemoryError())
    assert capsys.readouterr().err.startswith("error: MemoryError (traceback in ")


def test_an_error_of_many_lines_is_one_line_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        SplitSettings(folds=0)
    with pytest.raises(SystemExit, match="1"):
        fail(tmp_path / "one.log", caught.value)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "folds" in shown


def test_the_log_ends_also_after_an_interrupt(tmp_path: Path) -> None:
    def interrupted() -> None:
        with log_to(str(tmp_path / "one.log")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not progress.logger.handlers


# --------------------------------------------------------------------------------- the bar


def test_a_bar_writes_a_line_at_intervals_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 4.0)
    with log_to(str(tmp_path / "one.log")):
        bar = Bar("training", 10)
        for _ in range(10):
            now += 1
            bar.step(loss=1 / 3)
        bar.close()
    assert lines(tmp_path / "one.log") == [
        "training: 4/10, loss 0.3333, 6 s left",
        "training: 8/10, loss 0.3333, 2 s left",
        "training: 10/10, loss 0.3333, 0 s left",
    ]


def test_a_bar_that_goes_on_counts_from_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with log_to(str(tmp_path / "one.log")):
        bar = Bar("training", 100, done=90)
        now = 2.0
        bar.step()
        bar.close()
    # 2 s for one step, of which nine are left.
    assert lines(tmp_path / "one.log") == ["training: 91/100, 18 s left"]


def test_there_is_no_bar_where_stderr_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_to(str(tmp_path / "one.log")):
        assert list(track(range(3), "counting", 3)) == [0, 1, 2]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_there_is_a_bar_on_a_terminal_and_it_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert list(track("ab", "counting", 2)) == ["a", "b"]
    shown = terminal.getvalue()
    assert "counting" in shown
    assert "\n" not in shown
    assert shown.endswith("\r")


def test_items_count_once_they_are_dealt_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with log_to(str(tmp_path / "one.log")):
        for item in track("ab", "counting", 2):
            log(f"dealing with {item}")
    told = [line.split(",")[0] for line in lines(tmp_path / "one.log")]
    assert told == ["dealing with a", "counting: 1/2", "dealing with b", "counting: 2/2"]


def test_tracking_nothing_shows_nothing(tmp_path: Path) -> None:
    with log_to(str(tmp_path / "one.log")):
        assert list(track([], "counting", 0)) == []
    assert lines(tmp_path / "one.log") == []


def test_the_time_waited_is_that_of_the_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def producer() -> Iterator[int]:
        for number in range(4):
            now[0] += 3
            yield number

    items = Waiting(producer())
    seen = []
    for item in items:
        now[0] += 1
        seen.append(item)
    assert seen == [0, 1, 2, 3]
    assert items.waited == pytest.approx(12)
