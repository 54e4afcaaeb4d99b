"""What is done and what is missing, as a few lines on the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from unetflow.report.archive_progress import STATES, Progress, archive_progress, duration
from unetflow.report.sources import Run, attempt, runs_of, training_progress
from unetflow.sheets import left_over
from unetflow.volume_logs import RUNNING_SECONDS

FAILURES = 20
LINE = 100


def show(
    results: Path, experiments: Mapping[str, Any], archives: Mapping[str, Mapping[str, str]]
) -> None:
    """Print how far each experiment and each archive has come.

    Parameters
    ----------
    experiments : mapping
        Settings by name, as plain data.
    archives : mapping
        Volumes of each, with their experiments.
    """
    runs = {name: runs_of(results, name, settings) for name, settings in experiments.items()}
    print(f"results folder: {results}{'' if results.is_dir() else ' (nothing yet)'}")
    header: tuple[str, ...]
    header = ("experiment", "trained", "predicted", "scored", "summary", "final network")
    print_aligned(header, [experiment_row(results, name, found) for name, found in runs.items()])
    for name, found in runs.items():
        for line in filter(None, map(training_line, found)):
            print(f"  {name} {line}")
    show_archives(results, archives)
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


def show_archives(results: Path, archives: Mapping[str, Mapping[str, str]]) -> None:
    """Print how far the volumes and blocks of each archive have come, and what to look at."""
    found = {
        archive: archive_progress(results, archive, volumes)
        for archive, volumes in archives.items()
    }
    rows = [(name, *of) for name, parts in found.items() for of in parts.items()]
    print_aligned(("archive", "experiment", "volumes", *STATES), [volume_row(*row) for row in rows])
    header = ("archive", "experiment", "blocks", *STATES, "voxels/s a job", "prediction left")
    print_aligned(header, [block_row(*row) for row in rows if row[2].blocks])
    if any(progress.volumes["running"] for *_, progress in rows):
        print(f"  running: a log was written in the last {RUNNING_SECONDS // 60} min")
    for archive, parts in found.items():
        told = [line for progress in parts.values() for line in progress.told.items()]
        for volume, line in told[:FAILURES]:
            print(f"  {archive}/{volume} {line}")
        if len(told) > FAILURES:
            print(f"  {archive}: {len(told) - FAILURES} more failed")
        removed = left_over(results / "archives" / archive, archives[archive])
        if removed:
            shown = f"{', '.join(removed[:FAILURES])}{', …' if len(removed) > FAILURES else ''}"
            count = f"{len(removed)} no longer in the sheet, left for you to remove"
            print(f"  {archive}: {count}: {shown}")


def volume_row(archive: str, experiment: str, progress: Progress) -> tuple[str, ...]:
    """Count the volumes of an archive and experiment by state."""
    counts = (progress.volumes.total(), *(progress.volumes[state] for state in STATES))
    return (archive, experiment, *map(str, counts))


def block_row(archive: str, experiment: str, progress: Progress) -> tuple[str, ...]:
    """Count the blocks, with how fast a job predicts them and how long the rest takes."""
    counts = (progress.blocks.total(), *(progress.blocks[state] for state in STATES))
    rate = "" if progress.rate is None else f"{progress.rate:,.3g}"
    left = duration(progress.remaining) if progress.left else "none"
    alone = ", one job at a time" if left not in ("", "none") and not progress.jobs else ""
    return (archive, experiment, *map(str, counts), rate, left + alone)


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
