"""Scores over the number of annotated planes, of experiments that differ in nothing else.

References
----------
.. [1] Çiçek et al. 2016, DOI 10.1007/978-3-319-46723-8_49, table 2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

import pandas as pd

from unetflow import axes as axis_rules
from unetflow.annotation import count_planes
from unetflow.report import charts
from unetflow.report.scores import title_of
from unetflow.report.sources import facts
from unetflow.report.vega import Chart
from unetflow.summaries import summarise

NOTE = (
    "Planes across all axes of a volume that its networks may learn from; the last point of a line "
    "may be all of them, those across the first axis. Mean over the tested volumes, with its 95 % "
    "interval (bootstrap over volumes)."
)


def plane_charts(
    results: Path,
    dataset: str,
    experiments: Mapping[str, Mapping[str, Any]],
    tables: Mapping[str, pd.DataFrame],
) -> list[Chart]:
    """Return charts of the IoU of each class but background, and of objects, over annotated planes.

    None where no experiments differ in `weights.annotated_planes` alone.

    Parameters
    ----------
    experiments : mapping
        Settings by name, as plain data.
    tables : mapping
        Scores of those of the dataset that have some.
    """
    index = facts(results / "datasets" / dataset / "index.json")
    planes = {name: planes_of(index, experiments[name]) for name in tables}
    counted = {name: experiments[name] for name in tables if planes[name]}
    series = [
        sorted(names, key=planes.__getitem__)
        for names in alike(counted)
        if len({planes[name] for name in names}) > 1
    ]
    summaries = {
        name: summarise(tables[name].dropna(subset="value")) for names in series for name in names
    }
    drawn = []
    for metric in [*(f"iou_{known}" for known in index.get("class_names", [])[1:]), "mean_iou"]:
        rows = [
            {
                "series": label(names[-1], experiments[name]),
                "over": planes[name],
                **{key: summaries[name][metric][key] for key in ("mean", "low", "high", "n")},
            }
            for names in series
            for name in names
            if metric in summaries[name]
        ]
        if rows:
            name = f"planes-{series[0][-1]}-{quote(metric, safe='')}"
            of = title_of(metric)
            title = f"{of} over annotated planes"
            drawn.append(charts.trends(name, title, rows, "annotated planes", of, NOTE))
    return drawn


def alike(experiments: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the names of experiments that differ in `weights.annotated_planes` alone, together."""
    found: dict[str, list[str]] = {}
    for name, settings in experiments.items():
        weights = {**settings["weights"], "annotated_planes": None}
        rest = {**settings, "weights": weights, "description": "", "variants": {}}
        found.setdefault(json.dumps(rest, sort_keys=True), []).append(name)
    return list(found.values())


def planes_of(index: Mapping[str, Any], settings: Mapping[str, Any]) -> float:
    """Return how many planes of a volume may teach, the median over volumes; 0 without any."""
    chosen = settings["weights"]["annotated_planes"], settings["split"]["tested_planes"]
    shapes = [
        dict(zip("zyx", of["shape"][-3:], strict=True))
        for of in index.get("images", ())
        if of["annotated"] and axis_rules.spatial(of["axes"]) == "zyx"
    ]
    return median([count_planes(shape, *chosen) for shape in shapes] or [0])


def label(name: str, settings: Mapping[str, Any]) -> str:
    """Return what to call a series: its experiment of most planes, and 2D or 3D."""
    return f"{name} ({settings['model']['dimensions']}D)"
