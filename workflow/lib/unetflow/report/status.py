"""What is done and what is missing, as a few lines on the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from unetflow.report.sources import Run, attempt, facts, runs_of, training_progress

FAILURES = 20
LINE = 100


def show(
    results: Path, experiments: Mapping[str, Any], archives: Mapping[str, Sequence[str]]
) -> None:
    """Print how far each experiment and each archive has come.

    Parameters
    ----------
    experiments : mapping
        Settings by name, as plain data.
    archives : mapping
        Volumes of each.
    """
    runs = {name: runs_of(results, name, settings) for name, settings in experiments.items()}
    print(f"results folder: {results}{'' if results.is_dir() else ' (nothing yet)'}")
    header: tuple[str, ...]
    header = ("experiment", "trained", "predicted", "scored", "summary", "final network")
    print_aligned(header, [experiment_row(results, name, found) for name, found in runs.items()])
    for name, found in runs.items():
        for line in filter(None, map(training_line, found)):
            print(f"  {name} {line}")
    states = {
        name: {volume: volume_state(results, name, volume) for volume in volumes}
        for name, volumes in archives.items()
    }
    header = ("archive", "volumes", "done", "failed", "missing")
    print_aligned(header, [archive_row(name, volumes) for name, volumes in states.items()])
    for name, volumes in states.items():
        failed = [
            (volume, reason) for volume, (state, reason) in volumes.items() if state == "failed"
        ]
        for volume, reason in failed[:FAILURES]:
            print(f"  {name}/{volume} failed: {reason}")
        if len(failed) > FAILURES:
            print(f"  {name}: {len(failed) - FAILURES} more failed")
    page = results / "report" / "index.html"
    modified = attempt(lambda path: path.stat().st_mtime, page)
    if modified is None:
        print("\nreport: not built yet; `make report` builds it from what there is")
    else:
        print(f"\nreport: {page} of {datetime.fromtimestamp(modified):%Y-%m-%d %H:%M}")


def experiment_row(results: Path, name: str, runs: Sequence[Run]) -> tuple[str, ...]:
    """Count what the folds have; the final network stands apart, since it has no truth."""
    folds = [run for run in runs if run.split != "final"]
    final = [run for run in runs if run.split == "final"]
    counts = (
        f"{sum(getattr(run, state) for run in folds)}/{len(folds)}"
        for state in ("trained", "predicted", "scored")
    )
    summary = (results / "experiments" / name / "summary.json").is_file()
    trained = sum(run.trained for run in final)
    network = f"{trained}/{len(final)}" if len(final) > 1 else "yes" if trained else "no"
    return (name, *counts, "yes" if summary else "no", network)


def training_line(run: Run) -> str | None:
    """How far a training under way has come; None where none is."""
    progress = training_progress(run)
    if progress is None:
        return None
    ago = time.time() - progress.modified
    # A killed training leaves its log behind; the age of the last line tells it from a living one.
    unit, seconds = ("s", 1) if ago < 120 else ("min", 60) if ago < 7200 else ("h", 3600)
    line = progress.line or "no line yet"
    if progress.step is not None and progress.steps:
        left = line.split(", ")[-1]
        share = progress.step / progress.steps
        line = f"step {progress.step} of {progress.steps} ({share:.0%}), {left}"
    shown = line if len(line) <= LINE else line[: LINE - 1] + "…"
    return f"{run.name}: {shown}; last line {ago / seconds:.0f} {unit} ago"


def volume_state(results: Path, archive: str, volume: str) -> tuple[str, str]:
    """State ("done", "failed", "missing") of a volume, and the reason where it failed."""
    summary = facts(results / "archives" / archive / volume / "summary.json")
    return str(summary.get("state", "missing")), str(summary.get("reason", ""))


def archive_row(name: str, states: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """Count the volumes of an archive by state."""
    found = [state for state, _ in states.values()]
    counts = [str(found.count(state)) for state in ("done", "failed", "missing")]
    return (name, str(len(found)), *counts)


def print_aligned(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows below a header with aligned columns, nothing without rows."""
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print()
    for row in (header, *rows):
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )
