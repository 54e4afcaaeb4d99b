"""Scores of an experiment's folds, gathered in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from unetflow.store import read_json, write_json, write_text


def merge_metrics(
    tables: Sequence[Path], folds: Sequence[Path], metrics: Path, summary: Path
) -> None:
    """Write all scores of an experiment as one TSV, and their mean and spread as JSON.

    Parameters
    ----------
    tables : sequence of Path
        Scores of each split and seed.
    folds : sequence of Path
        `model.json` of each; best step and threshold are told in the summary.
    """
    # An image may be called NA or null.
    table = pd.concat(
        [
            pd.read_csv(path, sep="\t", dtype={"image": str}, keep_default_na=False)
            for path in tables
        ]
    )
    write_text(metrics, str(table.to_csv(sep="\t", index=False)))
    models = [read_json(path) for path in folds]
    write_json(
        summary,
        {
            "metrics": summarise(table),
            "thresholds": [model["threshold"] for model in models],
            "best_steps": [model["training"]["best_step"] for model in models],
        },
    )


def merge_curves(tables: Sequence[Path], output: Path) -> None:
    """Write the pixels of all splits and seeds by class and probability, added, as one TSV."""
    found = [
        pd.read_csv(path, sep="\t", dtype={"class": str}, keep_default_na=False) for path in tables
    ]
    together = pd.concat(found).groupby(["class", "level"], sort=False)
    added = together[["negatives", "positives"]].sum().reset_index()
    write_text(output, str(added.to_csv(sep="\t", index=False)))


def summarise(table: pd.DataFrame) -> dict[str, dict[str, float | int | None]]:
    """Mean, 95 % interval, number of images and spread, per metric.

    An image that several seeds predicted counts once, with its mean. `between_folds` and
    `between_seeds` are the standard deviations of the means of folds and of seeds, whose networks
    were trained apart; null where there is one.
    """
    summary: dict[str, dict[str, float | int | None]] = {}
    for metric, group in table.groupby("metric", sort=False):
        values = group.groupby("image")["value"].mean().to_numpy()
        low, high = interval(values)
        summary[str(metric)] = {
            "mean": float(values.mean()),
            "low": low,
            "high": high,
            "n": len(values),
            "between_folds": spread(group.groupby("split")["value"].mean()),
            "between_seeds": spread(group.groupby("seed")["value"].mean()),
        }
    return summary


def compare(one: pd.DataFrame, other: pd.DataFrame) -> dict[str, dict[str, float | int | None]]:
    """Mean difference, other minus one, with its 95 % interval, per metric that both have.

    The images that both experiments scored are compared each with itself, so that how hard an
    image is for either does not widen the interval. Seeds count as in `summarise`.
    """
    means = [
        table.groupby(["metric", "image"], sort=False)["value"].mean() for table in (one, other)
    ]
    found = {}
    both = pd.concat(means, axis=1, join="inner", keys=("one", "other")).dropna()
    for metric, pairs in both.groupby("metric", sort=False):
        values = (pairs["other"] - pairs["one"]).to_numpy()
        low, high = interval(values)
        facts = {"difference": float(values.mean()), "low": low, "high": high, "n": len(values)}
        found[str(metric)] = facts
    return found


def interval(values: NDArray[np.float64]) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of a mean by bootstrap (percentiles, 2,000 resamples); None of one value."""
    if len(values) < 2:
        return None, None
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def spread(means: pd.Series[float]) -> float | None:
    """Standard deviation of means, of one less than their number; None of a single one."""
    return float(means.std()) if len(means) > 1 else None
