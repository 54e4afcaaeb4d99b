"""What the page shows of one archive, from its files as they are now."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unetflow.report import charts, scores, sources
from unetflow.report.slices import Stack, stack
from unetflow.report.sources import attempt, existing, facts
from unetflow.report.vega import Chart
from unetflow.seams import FARTHEST
from unetflow.volumes import choice_of

ROWS = 10_000
FAILURES = 3
# Of the archives of a page together: small pictures of some 1,600 volumes, and volumes with slices
PICTURE_BYTES = 8_000_000
VIEWED = 4
FIRST = ("objects", "median_size", "foreground", "predict_seconds", "shape", "experiment", "model")
LAST = ("path",)
APART = ("volume", "state", "reason", "outlier")
SEAM_COLUMNS = ("distance", "voxels", "centres", "planes", "ends")
SEAM_RINGS = (1, 2, 4, 8, 16, 32, FARTHEST)
TITLES = {
    "median_size": "median size, voxels",
    "foreground": "share of objects",
    "predict_seconds": "prediction, s",
}
# Failures first: they are what a reader has to act on.
ORDER = ("failed", "outlier", "done", "missing")


def archive_section(results: Path, name: str, share: float = 1.0) -> dict[str, Any]:
    """Return all that the template needs about one archive.

    Without a `summary.tsv` the rows come from the plan and from each volume's `summary.json`, so
    that what is done can be seen while the rest is under way.

    Parameters
    ----------
    share : float
        Of the page's room for pictures, which its archives divide; the first rows have theirs.
    """
    folder = results / "archives" / name
    table = sources.table(folder / "summary.tsv", ("volume", "state", "reason", "path"))
    rows: list[dict[Any, Any]]
    if table is None:
        rows = rows_so_far(folder)
    else:
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
    rows.sort(key=lambda row: (*ORDER, kinds(row)[-1]).index(kinds(row)[-1]))
    columns = columns_of(rows)
    done = (folder / str(row["volume"]) for row in rows if row["state"] == "done")
    seam_paths = [path for volume in done if (path := volume / "seams.tsv").is_file()]
    pictures = dict(thumbnails(folder, rows[:ROWS], int(PICTURE_BYTES * share)))
    found = [kind for row in rows for kind in kinds(row)]
    return {
        "name": name,
        "complete": table is not None,
        "path": folder / ("plan.json" if table is None else "summary.tsv"),
        "counts": {kind: found.count(kind) for kind in ORDER},
        "columns": columns,
        "further": any("further" in classes for _, _, classes in columns),
        "remarks": any(row["reason"] or row.get("outlier") for row in rows),
        "pictures": len(pictures),
        "rows": [
            {
                "volume": row["volume"],
                "folder": existing(folder / str(row["volume"])),
                "kinds": kinds(row),
                "picture": pictures.get(row["volume"]),
                "outlier": row.get("outlier") or "",
                "reason": row["reason"] or "",
                "cells": [cell(row.get(key)) for key, *_ in columns],
            }
            for row in rows[:ROWS]
        ],
        "total": len(rows),
        "failures": [row for row in rows if row["state"] == "failed"][:FAILURES],
        "stacks": list(stacks(name, folder, rows, max(1, int(VIEWED * share)))),
        "seams": seam_curve(name, seam_paths),
        "seam_paths": seam_paths,
    }


def kinds(row: Mapping[Any, Any]) -> list[str]:
    """Return what a volume counts as: its state, and after it whether it is an outlier."""
    return [str(row["state"]), *(["outlier"] if is_outlier(row) else [])]


def is_outlier(row: Mapping[Any, Any]) -> bool:
    """Whether a volume that is done is unlike the training images, or the archive's others."""
    return row["state"] == "done" and bool(row.get("outlier"))


def columns_of(rows: Sequence[Mapping[Any, Any]]) -> list[tuple[str, str, str]]:
    """Return name, title and classes of the columns that hold anything.

    Of these classes are `number`, and `further` for what is left out where room is short.
    """
    found = dict.fromkeys(
        key for row in rows for key, value in row.items() if cell(value) is not None
    )
    between = [key for key in found if key not in (*FIRST, *LAST, *APART, "voxels")]
    keys = [
        *(key for key in FIRST if key in found),
        *scores.in_order(between),
        *(key for key in LAST if key in found),
    ]
    further = {*LAST, *(key for key in between if not scores.is_headline(key))}
    words = {key for key in keys if any(isinstance(row.get(key), str) for row in rows)}
    return [
        (
            key,
            TITLES.get(key) or scores.title_of(key),
            ("" if key in words else "number") + (" further" if key in further else ""),
        )
        for key in keys
    ]


def seam_curve(name: str, paths: Sequence[Path]) -> Chart | None:
    """Density and ends of objects by their distance from the seams of blocks, of all volumes.

    Each is divided by that of the whole volumes. None where no volume has seams, or objects.
    """
    found = [table for path in paths if (table := sources.table(path, SEAM_COLUMNS)) is not None]
    counted = pd.concat(found) if found else pd.DataFrame(columns=SEAM_COLUMNS)
    if not counted["centres"].any():
        return None
    # Rings, each twice as wide as the one before: few objects are at a single distance.
    ring = np.digitize(counted["distance"].to_numpy(), SEAM_RINGS)
    total = counted.groupby(ring).sum()
    total.index = pd.Index([np.mean(ends) for ends in pairwise((0, *SEAM_RINGS, 2 * FARTHEST))])
    lines = {
        legend: total[count] / total[places] * (total[places].sum() / total[count].sum())
        for legend, count, places in (
            ("objects per voxel", "centres", "voxels"),
            ("ends of objects per plane", "ends", "planes"),
        )
    }
    axes = "voxels from the nearest seam of blocks", "relative to the whole"
    return charts.curves(f"archive-{name}-seams", "Objects at seams", lines, *axes)


def rows_so_far(folder: Path) -> list[dict[str, Any]]:
    """Return a row per volume of the plan, with what its summary says where it has one."""
    rows = []
    for volume, plan in facts(folder / "plan.json").get("volumes", {}).items():
        known = {key: plan.get(key) for key in ("path", "experiment", "shape")}
        row = {"volume": volume, "state": "missing", "reason": "", **known}
        row |= facts(folder / volume / "summary.json")
        row["shape"] = "x".join(map(str, row["shape"] or ()))
        rows.append(row)
    return rows


def cell(value: Any) -> Any:
    """Return a number where a value is one, None where it is missing, else text."""
    if isinstance(value, str):
        return value or None
    return scores.finite(value)


def thumbnails(
    folder: Path, rows: Sequence[Mapping[Any, Any]], picture_bytes: int
) -> Iterator[tuple[str, str]]:
    """Yield volumes with the data URIs of their pictures, until these take too many bytes."""
    for row in rows:
        found = attempt(Path.read_bytes, folder / str(row["volume"]) / "thumbnail.webp")
        if found is None:
            continue
        picture_bytes -= len(found)
        if picture_bytes < 0:
            return
        yield row["volume"], f"data:image/webp;base64,{base64.b64encode(found).decode()}"


def stacks(
    name: str, folder: Path, rows: Sequence[Mapping[Any, Any]], viewed: int
) -> Iterator[dict[str, Any]]:
    """Yield planes of the first volumes that are done, outliers before others."""
    done = [row for row in rows if row["state"] == "done"][:viewed]
    planned = facts(folder / "plan.json").get("volumes", {}) if done else {}
    for row in done:
        volume, choice = str(row["volume"]), choice_of(planned.get(row["volume"], {}))
        read = partial(stack_of, f"{name}.{volume}", str(row["path"]), choice)
        shown = attempt(read, folder / volume)
        if shown is not None:
            yield {"volume": volume, "files": folder / volume, "stack": shown}


def stack_of(name: str, place: str, choice: Mapping[str, str], folder: Path) -> Stack:
    """Return planes of a volume with what its folder holds: instances, or values alone."""
    parts = (folder / f"{of}.ome.zarr" for of in ("prediction", "segmentation"))
    return stack(name, place, choice, *parts)
