"""What the page shows of one archive, from its files as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from unetflow.report import figures, scores, sources
from unetflow.report.sources import attempt, facts
from unetflow.seams import FARTHEST
from unetflow.volumes import choice_of

THUMBNAILS = 12
ROWS = 1000
FAILURES = 20
FIRST = ("volume", "state", "objects", "shape", "predict_seconds", "experiment")
LAST = ("reason", "path")
SEAM_COLUMNS = ("distance", "voxels", "centres", "planes", "ends")
SEAM_RINGS = (1, 2, 4, 8, 16, 32, FARTHEST)
TITLES = {"predict_seconds": "prediction, s"}


def archive_section(results: Path, name: str) -> dict[str, Any]:
    """Return all that the template needs about one archive.

    Without a `summary.tsv` the rows come from the plan and from each volume's `summary.json`, so
    that what is done can be seen while the rest is under way.
    """
    folder = results / "archives" / name
    table = sources.table(folder / "summary.tsv", ("volume", "state", "reason", "path"))
    rows: list[dict[Any, Any]]
    if table is None:
        rows = rows_so_far(folder)
    else:
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
    # Failures first: they are what a reader has to act on.
    order = {"failed": 0, "missing": 1}
    rows.sort(key=lambda row: order.get(str(row["state"]), 2))
    found = list(dict.fromkeys(str(key) for row in rows for key in row))
    metrics = scores.in_order(key for key in found if key not in (*FIRST, *LAST, "voxels"))
    columns = [
        *(key for key in FIRST if key in found),
        *metrics,
        *(key for key in LAST if key in found),
    ]
    counts = {
        state: sum(row["state"] == state for row in rows) for state in ("done", "failed", "missing")
    }
    return {
        "name": name,
        "complete": table is not None,
        "path": folder / ("plan.json" if table is None else "summary.tsv"),
        "counts": counts,
        "columns": [(key, TITLES.get(key) or scores.title_of(key)) for key in columns],
        "rows": [[cell(row.get(key)) for key in columns] for row in rows[:ROWS]],
        "total": len(rows),
        "failures": [row for row in rows if row["state"] == "failed"][:FAILURES],
        "thumbnails": thumbnails(name, folder, rows),
        "thumbnails_limit": THUMBNAILS,
        "seams": seam_curve(name, folder, rows),
    }


def seam_curve(name: str, folder: Path, rows: list[dict[Any, Any]]) -> Markup | None:
    """Density and ends of objects by their distance from the seams of blocks, of all volumes.

    Each is divided by that of the whole volumes. None where no volume has seams, or objects.
    """
    paths = [folder / str(row["volume"]) / "seams.tsv" for row in rows if row["state"] == "done"]
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
    how = {"label": "relative to the whole", "over": "voxels from the nearest seam of blocks"}
    return figures.curves(f"{name}-seams", lines, marks=False, **how)


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


def thumbnails(name: str, folder: Path, rows: list[dict[Any, Any]]) -> list[dict[str, Any]]:
    """Middle planes of the first volumes that are done, with the contours of their instances."""
    done = [row for row in rows if row["state"] == "done"][:THUMBNAILS]
    planned = facts(folder / "plan.json").get("volumes", {})
    choices = {row["volume"]: choice_of(planned.get(row["volume"], {})) for row in done}
    return [
        {
            "volume": row["volume"],
            "strip": attempt(partial(thumbnail, name, row, choices[row["volume"]]), folder),
        }
        for row in done
    ]


def thumbnail(
    name: str, row: Mapping[str, Any], choice: Mapping[str, str], folder: Path
) -> figures.Strip:
    """Return one volume's middle plane with contours."""
    plane = sources.volume_plane(str(row["path"]), **choice)
    labels = sources.labels_plane(folder / str(row["volume"]) / "segmentation.ome.zarr")
    by = figures.factor(plane, figures.THUMBNAIL)
    strip = figures.strip(f"archive-{name}-{row['volume']}", plane, by)
    strip.add(str(row["volume"]), figures.contours(labels, by, figures.PREDICTED))
    return strip
