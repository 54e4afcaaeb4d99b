"""What the page shows of one experiment, from its files as they are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unetflow.metrics.probabilities import (
    average_precision,
    calibration_error,
    precision_recall,
    reliability,
)
from unetflow.report import examples, figures, scores, sources
from unetflow.report.sources import Run, facts

SCORE_COLUMNS = ("split", "seed", "image", "metric", "value")
ROWS = 1000


def experiment_section(
    results: Path,
    name: str,
    settings: Mapping[str, Any],
    datasets: Mapping[str, Any],
    makers: Mapping[str, str],
) -> dict[str, Any]:
    """Return all that the template needs about one experiment.

    Parameters
    ----------
    settings, datasets : mapping
        Of the experiment, and of datasets by name, as plain data.
    makers : mapping
        Experiments that made its `weights` and its `patches`: variants share what is alike.
    """
    dataset = settings["dataset"]
    if not isinstance(dataset, str):
        dataset = dataset["name"]
    folder, data = results / "experiments" / name, results / "datasets" / dataset
    images = data / "images.ome.zarr"
    index = data / "index.json"
    made = {stage: results / "experiments" / maker for stage, maker in makers.items()}
    runs = sources.runs_of(results, name, settings)
    folds = [run for run in runs if run.split != "final"]
    summary = facts(folder / "summary.json")
    table = score_table(folder, folds)
    metrics = summary.get("metrics") or ({} if table is None else scores.preliminary(table))
    return {
        "name": name,
        "settings": settings,
        "dataset": {**datasets.get(dataset, {}), "name": dataset},
        "index": {"path": index, **index_facts(facts(index))},
        "summary": folder / "summary.json",
        "complete": bool(summary),
        "scored": sum(run.scored for run in folds),
        "folds": len(folds),
        "cards": scores.cards(metrics),
        "metrics_path": folder / "metrics.tsv",
        "probabilities": probability_curves(name, folder / "curves.tsv"),
        "images": None if table is None else scores.image_table(table),
        "rows_shown": ROWS,
        "runs": [run_facts(run) for run in runs],
        "versions": run_records(runs),
        "curves": learning_curves(name, runs),
        "examples": list(examples.tested_images(name, table, folder, images)),
        "unannotated": list(examples.unannotated(name, runs, images)),
        "weights": examples.weight_example(name, made["weights"] / "weights.zarr", images),
        "patches": examples.patch_examples(name, made["patches"] / "patches"),
        "rows": list(flat(settings)),
    }


def score_table(folder: Path, folds: Sequence[Run]) -> pd.DataFrame | None:
    """Return the scores of all images; of those scored already, as long as not all folds are."""
    whole = sources.table(folder / "metrics.tsv", SCORE_COLUMNS)
    parts = [sources.table(run.folder / "metrics.tsv", SCORE_COLUMNS) for run in folds]
    found = [part for part in parts if part is not None and len(part)] if whole is None else [whole]
    if not sum(map(len, found)):
        return None
    table = pd.concat(found, ignore_index=True)
    return table.assign(value=pd.to_numeric(table["value"], errors="coerce"))


def index_facts(index: Mapping[str, Any]) -> dict[str, Any]:
    """Return counts, extents and voxel sizes of the images; without an index the count is 0."""
    images = index.get("images", [])
    if not images:
        return {"count": 0, "class_names": []}
    shapes = sorted({" × ".join(map(str, image["shape"])) for image in images})
    voxels = [image.get("voxel_size_um", {}).values() for image in images]
    sizes = sorted({" × ".join(f"{um:g}" for um in each) for each in voxels} - {""})
    return {
        "count": len(images),
        "annotated": sum(image["annotated"] for image in images),
        "groups": len({image["group"] for image in images}),
        "shapes": shapes,
        "sizes": sizes,
        "class_names": index.get("class_names", []),
    }


def run_facts(run: Run) -> dict[str, Any]:
    """Return state and facts of one training."""
    model = facts(run.folder / "model.json")
    return {
        "run": run,
        "progress": sources.training_progress(run),
        "path": run.folder / "model.json",
        "network": model.get("network", {}),
        "geometry": model.get("geometry", []),
        "threshold": scores.finite(model.get("threshold")),
        "training": model.get("training", {}),
        "tiling": facts(run.folder / "tiling.json"),
        "tiling_path": run.folder / "tiling.json",
        "parameters": sources.parameter_count(run.folder / "model.safetensors") if model else None,
    }


def run_records(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return host and versions of all steps, each different set once, with its files."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for path in sorted(run.folder.glob("*.run.json")):
            record = facts(path)
            shown = {key: record.get(key) for key in ("host", "platform", "cpus", "python")}
            versions = record.get("versions", {})
            key = str((shown, versions))
            found.setdefault(key, {**shown, "versions": versions, "paths": []})["paths"].append(
                path
            )
    return list(found.values())


def learning_curves(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return curves of loss and of validation Dice, each None where there is nothing to draw."""
    losses, dices, paths = {}, {}, []
    for run in runs:
        path = run.folder / "history.tsv"
        table = sources.table(path, ("step", "loss"))
        if table is None or table.empty:
            continue
        paths.append(path)
        table = table.set_index("step")
        losses[run.name] = figures.smoothed(table["loss"])
        if "validation_dice" in table and table["validation_dice"].notna().any():
            dices[run.name] = table["validation_dice"].dropna()
    loss = figures.curves(f"{name}-loss", losses, "loss, smoothed", marks=False) if losses else None
    dice = figures.curves(f"{name}-dice", dices, "validation Dice", marks=True) if dices else None
    return {"loss": loss, "dice": dice, "paths": paths}


def probability_curves(name: str, path: Path) -> dict[str, Any]:
    """Return precision over recall, and reliability, of each class over all test images.

    Each is None where there is nothing to draw; scores are in the legend.
    """
    table = sources.table(path, ("class", "level", "negatives", "positives"))
    ranking, sureness = {}, {}
    for of, pixels in table.groupby("class", sort=False) if table is not None else ():
        levels = pixels.sort_values("level")[["negatives", "positives"]].to_numpy(np.int64).T
        precision, recall = precision_recall(levels)
        if len(recall):
            legend = f"{of}, area {average_precision(levels):.3f}"
            ranking[legend] = pd.Series(precision, recall)
        predicted, true, _ = reliability(levels)
        if len(predicted):
            legend = f"{of}, error {calibration_error(levels):.3f}"
            sureness[legend] = pd.Series(true, predicted)
    found: dict[str, Any] = {"path": path, "precision": None, "calibration": None}
    if ranking:
        found["precision"] = figures.shares(f"{name}-precision", ranking, "recall", "precision")
    if sureness:
        axes = "predicted probability", "part that is true"
        found["calibration"] = figures.shares(f"{name}-calibration", sureness, *axes, diagonal=True)
    return found


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting as dotted key and value."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield prefix + key, ", ".join(map(str, value)) or "none"
        else:
            yield prefix + key, "none" if value in (None, "", {}) else str(value)
