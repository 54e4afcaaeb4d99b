"""Experiments of one dataset side by side, image by image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unetflow.report import scores
from unetflow.report.experiment import score_table
from unetflow.summaries import compare


def comparisons(results: Path, experiments: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Return one entry per dataset that several finished experiments have scored.

    An entry has `dataset`, `base` (the first experiment), the headline `metrics` (name, title,
    whether higher is better) and `rows`: experiment, images that it shares with the base, and per
    metric its mean over these and how far that is from the base's, as of `summaries.compare`.
    """
    of_dataset: dict[str, dict[str, Any]] = {}
    for name, settings in experiments.items():
        scored = score_table(results / "experiments" / name, [])
        if scored is not None:
            dataset = settings["dataset"]
            key = dataset if isinstance(dataset, str) else dataset["name"]
            of_dataset.setdefault(key, {})[name] = scored
    return [side_by_side(key, tables) for key, tables in of_dataset.items() if len(tables) > 1]


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
                "images": common["image"].nunique(),
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
    return {"dataset": dataset, "base": base, "metrics": metrics, "rows": rows}


def better(apart: Mapping[str, Any], higher: bool) -> str:
    """Return "better" or "worse" where the interval of a difference leaves 0 out, else ""."""
    low, high = apart.get("low"), apart.get("high")
    if low is None or high is None or low <= 0 <= high:
        return ""
    return "better" if (low > 0) == higher else "worse"
