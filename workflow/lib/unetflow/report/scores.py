"""Scores as people read them: their order, their meaning, and tables with a row per image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

# In the order of the page: name, what to call it, whether higher is better, meaning.
MEANINGS: tuple[tuple[str, str, bool, str], ...] = (
    (
        "dice_",
        "Dice",
        True,
        "Overlap of predicted and true pixels of this class: twice the shared area over the sum of "
        "both. 1 is perfect.",
    ),
    (
        "pixel_error",
        "Pixel error",
        False,
        "Share of pixels that are given the wrong class. 0 is perfect.",
    ),
    (
        "v_rand",
        "V-Rand",
        True,
        "Do two pixels that share an object in the truth share one in the prediction, and the "
        "other way round? After thinning of borders, as ISBI 2012 scores. 1 is perfect.",
    ),
    (
        "v_info",
        "V-Info",
        True,
        "How much the predicted objects tell about the true ones, and the other way round. After "
        "thinning of borders, as ISBI 2012 scores. 1 is perfect.",
    ),
    (
        "adapted_rand_error",
        "Adapted Rand error",
        False,
        "One minus the F-score of pixel pairs that share an object: merged and divided objects "
        "raise it. 0 is perfect.",
    ),
    (
        "mean_iou",
        "Mean IoU (SEG)",
        True,
        "Shared over joint area of each true object and the predicted one that covers more than "
        "half of it, 0 where none does, averaged over objects. 1 is perfect.",
    ),
    (
        "seg",
        "SEG of tracks",
        True,
        "The same over all true objects of a tracked sequence together. 1 is perfect.",
    ),
    (
        "det",
        "DET",
        True,
        "How much of the work of marking every true object the found ones save: objects missed, "
        "invented and joined lower it. 1 is perfect.",
    ),
    (
        "tra",
        "TRA",
        True,
        "The same of marking and following them: wrong and missing links lower it too. 1 is "
        "perfect.",
    ),
    (
        "f1",
        "F1 at IoU 0.5",
        True,
        "Objects that are found, none missing and none invented: a predicted object counts when it "
        "shares at least half of the joint area. 1 is perfect.",
    ),
    (
        "psnr",
        "PSNR",
        True,
        "Peak signal-to-noise ratio in decibels: the range of the true values over the root mean "
        "squared error. 6 more mean half the error.",
    ),
    (
        "ssim",
        "SSIM",
        True,
        "Structural similarity of predicted and true values: of mean, contrast and structure in "
        "windows of 11 pixels. 1 is perfect.",
    ),
    (
        "sam",
        "Spectral angle",
        False,
        "Angle between the predicted and the true spectrum of a pixel, in degrees. 0 is perfect.",
    ),
    (
        "ergas",
        "ERGAS",
        False,
        "Root mean squared error relative to the mean of each band, in per cent, over the ratio of "
        "the pixel sizes. 0 is perfect.",
    ),
    (
        "q2n",
        "Q2n",
        True,
        "Correlation, contrast and mean of all bands together, in blocks of 32 pixels. 1 is "
        "perfect.",
    ),
)
SPREAD = ("mean", "low", "high", "between_folds", "between_seeds")
FURTHER = {
    "iou_": "IoU",
    "precision_": "Precision of pixels",
    "recall_": "Recall of pixels",
    "pixel_average_precision_": "Average precision of pixels",
    "calibration_error_": "Calibration error",
    "v_rand_split": "V-Rand, split",
    "v_rand_merge": "V-Rand, merge",
    "v_info_split": "V-Info, split",
    "v_info_merge": "V-Info, merge",
    "variation_of_information_split": "Variation of information, split, bits",
    "variation_of_information_merge": "Variation of information, merge, bits",
    "average_precision": "Average precision, mean over IoU 0.5 to 0.95",
    "average_precision_": "Average precision at IoU in %",
    "panoptic_quality": "Panoptic quality at IoU 0.5",
    "over_segmented": "Share of objects found in pieces",
    "under_segmented": "Share of found objects that are several",
    "isbi2012_": "ISBI 2012, best threshold",
    "sliver07_": "SLIVER07, points of 100",
    "hausdorff_95_": "Hausdorff distance, 95 %",
    "hausdorff_": "Hausdorff distance",
    "average_surface_distance_": "Average surface distance",
    "rms_surface_distance_": "Root mean square surface distance",
    "surface_dice_": "Surface Dice",
    "volumetric_overlap_error_": "Volumetric overlap error",
    "relative_volume_difference_": "Relative volume difference",
    "rmse": "Root mean squared error",
    "psnr_": "PSNR",
    "rmse_": "Root mean squared error",
    "ssim_": "SSIM",
    "correlation_": "Correlation",
    "sam_": "Spectral angle",
    "ergas_": "ERGAS",
    "q2n_": "Q2n",
}


DOTS = 100


def title_of(metric: str) -> str:
    """Return what to call a metric."""
    names = {name: title for name, title, _, _ in MEANINGS} | FURTHER
    if metric in names:
        return names[metric]
    prefix = next((name for name in names if name.endswith("_") and metric.startswith(name)), None)
    return f"{names[prefix]}, {metric.removeprefix(prefix)}" if prefix else metric.replace("_", " ")


def in_order(metrics: Iterable[str]) -> list[str]:
    """Sort metrics: those with a meaning first, then the rest as they come."""
    heads = {name: position for position, (name, *_) in enumerate(MEANINGS)}

    def place(metric: str) -> int:
        return heads.get("dice_" if metric.startswith("dice_") else metric, len(heads))

    return sorted(metrics, key=place)


def finite(value: Any) -> float | None:
    """Return a number, or None where it is missing, NaN or infinite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def is_of(metric: str, name: str) -> bool:
    """Whether a metric is the one of `MEANINGS` of this name, Dice of any class."""
    return metric == name or (name == "dice_" and metric.startswith(name))


def is_headline(metric: str) -> bool:
    """Whether a metric has a card; it is shown where there is little room too."""
    return any(is_of(metric, name) for name, *_ in MEANINGS)


def cards(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry per headline score of a `summary.json`."""
    found = []
    for metric in in_order(metrics):
        for name, _, higher, meaning in MEANINGS:
            if is_of(metric, name):
                values = {key: finite(metrics[metric].get(key)) for key in SPREAD}
                entry = {"metric": metric, "title": title_of(metric), "higher": higher}
                found.append(
                    {**entry, **values, "meaning": meaning, "n": metrics[metric].get("n", 0)}
                )
    return found


def preliminary(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Mean over the images scored so far, without an interval, in the form of a `summary.json`."""
    each = table.groupby(["metric", "image"], sort=False)["value"].mean()
    return {
        str(metric): {"mean": float(values.mean()), "low": None, "high": None, "n": len(values)}
        for metric, values in each.groupby(level=0, sort=False)
    }


def image_table(table: pd.DataFrame) -> dict[str, Any]:
    """Columns (name, title, whether a headline) and rows of scores per split, seed and image."""
    keys = ["split", "seed", "image"]
    each = table.groupby([*keys, "metric"], sort=False)["value"].mean()
    wide = each.unstack("metric", sort=False).reset_index()
    metrics = in_order(str(column) for column in wide.columns if column not in keys)
    rows = [
        {
            "labels": [row["split"], row["seed"], row["image"]],
            "values": [finite(row[metric]) for metric in metrics],
        }
        for row in wide.to_dict("records")
    ]
    columns = [(metric, title_of(metric), is_headline(metric)) for metric in metrics]
    return {"metrics": columns, "rows": rows}


def beside_baselines(
    metrics: Mapping[str, Mapping[str, Any]], baselines: Sequence[str]
) -> dict[str, Any]:
    """Columns (title, whether higher is better) and rows of means, of the network and of baselines.

    Of a `summary.json`; the best of each column is marked.
    """
    heads = [head for head in cards(metrics) if head["metric"] in (name for name, *_ in MEANINGS)]
    rows = [("the network", ""), *((name, f"_{name}") for name in baselines)]
    cells = [
        [finite(metrics.get(head["metric"] + suffix, {}).get("mean")) for head in heads]
        for _, suffix in rows
    ]
    best = []
    for head, column in zip(heads, zip(*cells, strict=True), strict=True):
        known = [value for value in column if value is not None]
        best.append(None if not known else max(known) if head["higher"] else min(known))
    return {
        "columns": [(head["title"], head["higher"]) for head in heads],
        "rows": [
            {
                "name": name,
                "cells": [(value, value == top) for value, top in zip(row, best, strict=True)],
            }
            for (name, _), row in zip(rows, cells, strict=True)
        ],
    }


def rank_of(table: pd.DataFrame) -> str:
    """Say by what `ranked` sorts."""
    return "mean Dice" if table["metric"].str.startswith("dice_").any() else "PSNR"


def ranked(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Images of the first seed, the worst first: by their mean Dice over the classes, or PSNR."""
    of_classes = table["metric"].str.startswith("dice_")
    wanted = of_classes if of_classes.any() else table["metric"] == "psnr"
    chosen = table[wanted & (table["seed"] == table["seed"].min())]
    means = chosen.groupby(["split", "seed", "image"])["value"].mean().dropna().sort_values()
    return [
        {"split": split, "seed": seed, "image": image, "score": float(score)}
        for (split, seed, image), score in means.items()
    ]


def distribution(table: pd.DataFrame) -> pd.DataFrame:
    """Headline scores of images, each with its mean over the seeds, for `charts.distribution`.

    Of more than `DOTS` images those are kept that lie evenly spread over the ranks of a score.

    Returns
    -------
    DataFrame
        Columns `score`, `image`, `value`, `place` ("best", "median", "worst", else "").
    """
    places = {entry["image"]: title.lower() for title, entry in extremes(ranked(table))}
    each = table.groupby(["metric", "image"], sort=False)["value"].mean().dropna()
    parts = []
    for card in cards(preliminary(table)):
        values = each.get(card["metric"], pd.Series(dtype=float)).sort_values()
        kept = {round(rank) for rank in np.linspace(0, len(values) - 1, DOTS)}
        kept |= {rank for rank, image in enumerate(values.index) if image in places}
        values = values.iloc[sorted(kept)] if len(values) > DOTS else values
        part = {"score": card["title"], "image": values.index, "value": values.to_numpy()}
        parts.append(pd.DataFrame({**part, "place": [places.get(at, "") for at in values.index]}))
    return pd.concat(parts) if parts else pd.DataFrame(columns=["score", "image", "value", "place"])


def extremes(ranking: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Best, median and worst of a ranking, each image once."""
    last = len(ranking) - 1
    chosen: dict[int, str] = {}
    for title, place in (("Best", last), ("Worst", 0), ("Median", last // 2)):
        if 0 <= place <= last:
            chosen.setdefault(place, title)
    return [(chosen[place], ranking[place]) for place in sorted(chosen, reverse=True)]
