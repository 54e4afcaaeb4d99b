"""How the volumes of an archive went, in one table; outliers among them; and which have failed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from unetflow.progress import log
from unetflow.sheets import left_over
from unetflow.store import read_json, write_text
from unetflow.volume_logs import error_of, logs_of

COMPARED = {"median_size": "median size of objects", "foreground": "share of objects"}
"""Columns by which the volumes of an archive are compared, and what to call them."""
FEWEST, FAR, LEAST_SPREAD, MAD_TO_DEVIATION = 10, 3.5, 0.1, 1.4826
LEAST = 1e-6
"""Share of objects, or size, that one of 0 is taken for."""
NOT_PLANNED = ".not_planned"
"""File of an archive's results whose time says when last a volume could not be planned."""
MISSING: Mapping[str, Any] = {
    "state": "missing",
    "reason": "",
    **dict.fromkeys(("objects", "median_size", "foreground")),
    "outlier": "",
    **dict.fromkeys(("predict_seconds", "path", "experiment", "shape", "voxels")),
}
"""What is known of a volume without a result."""


def summarise_archive(
    folder: Path, volumes: Sequence[str], with_truth: Collection[str], output: Path
) -> None:
    """Write an archive's `summary.tsv`, a row per volume of the sheet.

    Volumes that it no longer names are left where they are; the log names them.

    Parameters
    ----------
    folder : Path
        Of the archive's results: of each volume its `summary.json`, and of those with truth their
        `metrics.tsv`.
    """
    rows = []
    for volume in volumes:
        scores = folder / volume / "metrics.tsv" if volume in with_truth else None
        # One of values tells nothing of objects.
        facts = {**MISSING, **read_json(folder / volume / "summary.json")}
        rows.append(row_of(volume, facts, scores))
    write_text(output, table_of(rows))
    removed = left_over(folder, volumes)
    if removed:
        log(f"no longer in the sheet, left for you to remove: {', '.join(removed)}")


def summarise_crash(folder: Path, experiments: Mapping[str, str], logs: Path) -> str:
    """Write an archive's `summary.tsv` as far as it is known, after a job has failed.

    A volume without a result has the state "missing". It is written again by `summarise_archive`
    once all have one.

    Parameters
    ----------
    folder : Path
        Of the archive's results.
    experiments : mapping of volume to its experiment
    logs : Path
        Folder of the logs of all stages.

    Returns
    -------
    str
        One line that counts the volumes.
    """
    plan = folder / "plan.json"
    planned = read_json(plan)["volumes"] if plan.is_file() else {}
    rows = []
    for volume, experiment in experiments.items():
        summary, metrics = (folder / volume / name for name in ("summary.json", "metrics.tsv"))
        since = summary.stat().st_mtime if summary.is_file() else 0.0
        pack = planned.get(volume, {}).get("pack", "")
        found = logs_of(logs, folder.name, volume, pack)
        error = error_of([log for log in found if log.modified > since])
        facts = {**MISSING, "experiment": experiment, "reason": error or "not made yet"}
        if since:
            facts = {**MISSING, **read_json(summary)}  # an older one says less
            facts["reason"] = "; ".join(filter(None, (facts["reason"], error)))
        rows.append(row_of(volume, facts, metrics if metrics.is_file() else None))
    text, output = table_of(rows), folder / "summary.tsv"
    if not output.is_file() or output.read_text(encoding="utf-8") != text:
        write_text(output, text)
    states = [row["state"] for row in rows]
    counts = (f"{states.count(state)} {state}" for state in ("done", "failed", "missing"))
    return f"archive {folder.name}, {len(rows)} volumes: {', '.join(counts)}; see {output}"


def row_of(volume: str, facts: Mapping[str, Any], metrics: Path | None) -> dict[str, Any]:
    """Row of a volume in the table: what its `summary.json` says, and its scores."""
    shape = "x".join(map(str, facts["shape"])) if facts["shape"] else ""
    row = {"volume": volume, **facts, "shape": shape}
    if metrics is not None:
        table = pd.read_csv(metrics, sep="\t")
        found = table.dropna(subset="metric")
        row |= dict(zip(found["metric"], found["value"], strict=True))
        row["reason"] = "; ".join([row["reason"], *table["reason"].dropna()]).strip("; ")
    return row


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as text, with outliers among the volumes of each experiment."""
    table = pd.DataFrame(rows).astype({"objects": "Int64", "voxels": "Int64"})
    told = [table["outlier"].fillna("")]
    for column, what in COMPARED.items():
        values = table[column].astype(float)
        told.append(values.groupby(table["experiment"]).transform(unlike_the_others, what))
    phrases = zip(*told, strict=True)
    table["outlier"] = ["; ".join(filter(None, of_volume)) for of_volume in phrases]
    return str(table.to_csv(sep="\t", index=False, float_format="%.6g"))


def unlike_the_others(values: pd.Series[float], what: str) -> pd.Series[str]:
    """Phrase for each volume whose value lies far from those of the others; empty for the rest.

    By the modified z-score ([1]) of its logarithm, beyond 3.5: deviation from the median, over the
    median absolute deviation, which is taken to be at least a tenth, so that values closer than
    about 40 % are never told. Of fewer than ten values none is.

    References
    ----------
    .. [1] Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers, ISBN 978-0-87389-247-6.
    """
    logarithms = values.clip(lower=LEAST).map(math.log)
    beyond = logarithms - logarithms.median()
    spread = max(MAD_TO_DEVIATION * float(beyond.abs().median()), LEAST_SPREAD)
    enough = values.count() >= FEWEST
    phrases = [
        f"{what} {factor:.2g} times the median of the archive"
        if enough and abs(math.log(factor)) > FAR * spread
        else ""
        for factor in beyond.map(math.exp)
    ]
    return pd.Series(phrases, values.index)


def check_archive(summary: Path) -> None:
    """Refuse an archive with volumes that failed.

    The file NOT_PLANNED is written anew where some could not be planned: what was missing, such as
    a server or a library, may be there by the next run, and is no part of the plan's key.

    Raises
    ------
    ValueError
        Naming each of them with its reason.
    """
    table = pd.read_csv(summary, sep="\t", keep_default_na=False)
    failed = table[table["state"] == "failed"]
    if (failed["shape"] == "").any():
        summary.with_name(NOT_PLANNED).touch()
    if len(failed):
        reasons = "; ".join(f"{row.volume}: {row.reason}" for row in failed.itertuples())
        raise ValueError(
            f"{summary.parent.name}: {len(failed)} of {len(table)} volumes failed: {reasons}"
        )
