"""What each stage has cost, from Snakemake's benchmark files, and how fast networks are."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unetflow.report import charts
from unetflow.report.scores import finite
from unetflow.report.sources import attempt, facts, last_record, of_stages, parameter_count
from unetflow.report.vega import Chart

STAGES = (
    *("fetch", "prepare", "split", "intensity", "weights", "patches", "sheets"),
    *("train", "plan", "predict", "segment", "evaluate", "report", "export"),
)
NAMED = 6
"""Names that a chart tells apart; what costs least is put together."""


def cost_section(results: Path) -> dict[str, Any]:
    """Return the rows of the table of costs, and the charts of hours and of memory."""
    rows = rows_of(results)
    return {"rows": rows, "charts": [time_chart(rows), memory_chart(rows)] if rows else []}


def time_chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Return the wall time of each stage, divided by what it was spent on."""
    total = sum(row["seconds"] for row in rows)
    unit, seconds = ("hours", 3600) if total > 3600 else ("minutes", 60)
    spent: dict[str, float] = {}
    for row in rows:
        spent[row["name"]] = spent.get(row["name"], 0.0) + row["seconds"]
    dearest = sorted(spent, key=lambda name: -spent[name])[:NAMED]
    shown = [
        {
            "stage": row["stage"],
            "name": row["name"] if row["name"] in dearest else "others",
            "value": row["seconds"] / seconds,
        }
        for row in rows
    ]
    note = "Wall time summed over jobs, some of which ran side by side."
    return charts.bars("cost-time", "Time of each stage", shown, unit, note=note)


def memory_chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Return the largest memory of any job of each stage."""
    peaks: dict[str, float] = {}
    for row in rows:
        peaks[row["stage"]] = max(peaks.get(row["stage"], 0.0), (row["mib"] or 0.0) / 1024)
    shown = [{"stage": stage, "name": "", "value": peak} for stage, peak in peaks.items()]
    note = "The largest resident memory of any job; one that ends within seconds has none recorded."
    return charts.bars("cost-memory", "Memory of each stage", shown, "GiB", note=note)


def rows_of(results: Path) -> list[dict[str, Any]]:
    """Jobs, seconds and memory of each stage of each experiment, archive and dataset.

    Seconds are of wall time, of all cores (`cpu`) and of all GPUs (`gpu`), None where none is on
    record. They come from Snakemake's benchmark files `costs/STAGE/NAME.tsv` and
    `costs/STAGE/NAME/*.tsv`, and from the records at the end of the logs of the same names; `paths`
    are these files or their folders.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for key, path in of_stages(results / "costs", ".tsv"):
        found = attempt(benchmark, path)
        if not found:
            continue
        empty = {"jobs": 0, "seconds": 0.0, "longest": 0.0, "mib": None, "cpu": None, "gpu": None}
        row = rows.setdefault(key, {**empty, "paths": [whole(results / "costs", path)]})
        seconds, mib = found
        row["jobs"] += 1
        row["seconds"] += seconds
        row["longest"] = max(row["longest"], seconds)
        row["mib"] = mib if row["mib"] is None else max(row["mib"], mib or 0.0)
    for key, path in of_stages(results / "logs", ".log"):
        record = attempt(last_record, path) if key in rows else None
        if record:
            row = rows[key]
            for unit in ("cpu", "gpu"):
                row[unit] = (row[unit] or 0.0) + record[f"{unit}_seconds"]
            row["paths"] = [row["paths"][0], whole(results / "logs", path)]
    order = {stage: position for position, stage in enumerate(STAGES)}
    known = sorted(rows, key=lambda key: (order.get(key[0], len(order)), key[1]))
    return [{"stage": stage, "name": name, **rows[stage, name]} for stage, name in known]


def whole(folder: Path, path: Path) -> Path:
    """The folder STAGE/NAME that a file lies in, or the file itself where it is named so."""
    return folder.joinpath(*path.relative_to(folder).parts[:2])


def benchmark(path: Path) -> tuple[float, float | None] | None:
    """Return the wall seconds and the peak memory in MiB of a job; short jobs have no memory."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    if not lines:
        return None
    try:
        mib = float(lines[-1]["max_rss"])
    except ValueError:  # "NA" or "-": the job ended before its first measurement
        mib = None
    return float(lines[-1]["s"]), mib


def speed_of(folder: Path) -> dict[str, Any]:
    """How large and how fast the networks of an experiment's folds are; what is not told is None.

    Returns
    -------
    dict
        `parameters`; seconds of a training `step`, and per million pixels that steps had outputs
        for (`learned`), that were predicted in one orientation (`predicted`), or that were
        classified window by window (`windows`); `machines` that all this ran on; `paths`.
    """
    seeds = sorted(folder.glob("fold*/seed*"))
    records = {
        name: {path: facts(path) for path in (seed / f"{name}.run.json" for seed in seeds)}
        for name in ("train", "predict", "tiling")
    }
    trained, predicted, tiled = ([*of.values()] for of in records.values())
    told = [record for record in trained + predicted if record]
    counts = (parameter_count(seed / "model.safetensors") for seed in seeds)
    return {
        "parameters": next((count for count in counts if count is not None), None),
        "step": seconds_per(trained, "step_seconds", "steps"),
        "learned": seconds_per(trained, "step_seconds", "step_pixels", 1e6),
        "predicted": seconds_per(predicted, "predict_seconds", "pixels", 1e6),
        "windows": seconds_per(tiled, "window_seconds", "windows", 1e6),
        "machines": ", ".join(filter(None, dict.fromkeys(map(machine, told)))),
        "paths": [path for of in records.values() for path, record in of.items() if record],
    }


def seconds_per(
    records: Sequence[Mapping[str, Any]], seconds: str, count: str, unit: float = 1
) -> float | None:
    """Seconds of so many counted, of all records that tell both; None where none does."""
    pairs = [(finite(record.get(seconds)), finite(record.get(count))) for record in records]
    known = [(spent, done) for spent, done in pairs if spent and done]
    if not known:
        return None
    return unit * sum(spent for spent, _ in known) / sum(done for _, done in known)


def machine(record: Mapping[str, Any]) -> str:
    """The GPU that a step has computed on, else the processor; empty where it does not tell."""
    gpus = record.get("gpus") or [record.get("processor", "")]
    return str(gpus[0])
