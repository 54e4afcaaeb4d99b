"""Scores as people read them: their order, their meaning, and tables with a row per image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
    "hausdorff_95_": "Hausdorff distance, 95 %",
    "hausdorff_": "Hausdorff distance",
    "average_surface_distance_": "Average surface distance",
    "surface_dice_": "Surface Dice",
    "volumetric_overlap_error_": "Volumetric overlap error",
    "relative_volume_difference_": "Relative volume difference",
}


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


def cards(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry per headline score of a `summary.json`."""
    found = []
    for metric in in_order(metrics):
        for name, _, higher, meaning in MEANINGS:
            if metric == name or (name == "dice_" and metric.startswith(name)):
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
    """Columns and rows of scores with a row per split, seed and image."""
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
    return {"metrics": [(metric, title_of(metric)) for metric in metrics], "rows": rows}


def ranked(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Images of the first seed by their mean Dice over the classes, the worst first."""
    chosen = table[table["metric"].str.startswith("dice_") & (table["seed"] == table["seed"].min())]
    means = chosen.groupby(["split", "seed", "image"])["value"].mean().dropna().sort_values()
    return [
        {"split": split, "seed": seed, "image": image, "score": float(score)}
        for (split, seed, image), score in means.items()
    ]


def extremes(ranking: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Best, median and worst of a ranking, each image once."""
    last = len(ranking) - 1
    chosen: dict[int, str] = {}
    for title, place in (("Best", last), ("Worst", 0), ("Median", last // 2)):
        if 0 <= place <= last:
            chosen.setdefault(place, title)
    return [(chosen[place], ranking[place]) for place in sorted(chosen, reverse=True)]
