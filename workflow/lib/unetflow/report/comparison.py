"""Experiments of one dataset side by side: their scores, image by image, and their speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from unetflow.report import charts, scores
from unetflow.report.costs import speed_of
from unetflow.report.experiment import score_table
from unetflow.report.planes import plane_charts
from unetflow.report.vega import Chart
from unetflow.summaries import compare


def comparisons(results: Path, experiments: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Return one entry per dataset that several finished experiments have scored.

    Experiments that are tested on some planes have an entry of their own: they share no pixels with
    the others. An entry has `dataset`, `base` (the first experiment), the headline `metrics` (name,
    title, whether higher is better), `rows` (experiment, images that it shares with the base, and
    per metric its mean over these and how far that is from the base's, as of `summaries.compare`),
    `charts` of these differences, `speed` of each experiment, see `costs.speed_of`, and `planes`,
    scores over the number of annotated planes.
    """
    of_dataset: dict[tuple[str, int | None], dict[str, Any]] = {}
    for name, settings in experiments.items():
        scored = score_table(results / "experiments" / name, [])
        if scored is not None:
            dataset = settings["dataset"]
            key = dataset if isinstance(dataset, str) else dataset["name"]
            every = settings["split"]["tested_planes"]
            of_dataset.setdefault((key, every), {})[name] = scored
    return [
        {
            **side_by_side(dataset if every is None else f"{dataset}-planes-{every}", tables),
            "speed": {name: speed_of(results / "experiments" / name) for name in tables},
            "paths": [results / "experiments" / name / "metrics.tsv" for name in tables],
            "planes": plane_charts(results, dataset, experiments, tables),
        }
        for (dataset, every), tables in of_dataset.items()
        if len(tables) > 1
    ]


def side_by_side(dataset: str, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of one dataset."""
    base, *_ = tables
    heads = scores.cards(scores.preliminary(tables[base]))
    metrics = [(head["metric"], head["title"], head["higher"]) for head in heads]
    rows = []
    for name, scored in tables.items():
        common = scored[scored["image"].isin(tables[base]["image"])]
        means, apart = scores.preliminary(common), compare(tables[base], scored)
        rows.append(
            {
                "name": name,
                # Not the row of all sections together, which has other scores
                "images": max(
                    (means[metric]["n"] for metric, *_ in metrics if metric in means), default=0
                ),
                "cells": [
                    {
                        "mean": means.get(metric, {}).get("mean"),
                        "better": better(apart.get(metric, {}), higher),
                        **apart.get(metric, {}),
                    }
                    for metric, _, higher in metrics
                ],
            }
        )
    shown = [chart_of(dataset, base, rows, at, *metric) for at, metric in enumerate(metrics)]
    return {
        **{"dataset": dataset, "base": base, "metrics": metrics, "rows": rows},
        "charts": [chart for chart in shown if chart],
    }


def chart_of(
    dataset: str,
    base: str,
    rows: Sequence[Mapping[str, Any]],
    column: int,
    metric: str,
    title: str,
    higher: bool,
) -> Chart | None:
    """Return how far the others are from the base in one metric; None where none shares it."""
    cells = {row["name"]: row["cells"][column] for row in rows if row["name"] != base}
    shown = [
        {
            "name": name.removeprefix(f"{base}-"),
            "verdict": cell["better"] or "undecided",
            **{key: cell[key] for key in ("difference", "low", "high")},
        }
        for name, cell in cells.items()
        if "difference" in cell
    ]
    return (
        charts.intervals(
            f"comparison-{dataset}-{quote(metric, safe='')}",
            f"{title}: {'higher' if higher else 'lower'} is better",
            shown,
            "difference",
        )
        if shown
        else None
    )


def better(apart: Mapping[str, Any], higher: bool) -> str:
    """Return "better" or "worse" where the interval of a difference leaves 0 out, else ""."""
    low, high = apart.get("low"), apart.get("high")
    if low is None or high is None or low <= 0 <= high:
        return ""
    return "better" if (low > 0) == higher else "worse"
