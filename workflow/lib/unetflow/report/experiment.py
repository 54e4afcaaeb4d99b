"""What the page shows of one experiment, from its files as they are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unetflow.metrics.probabilities import (
    average_precision,
    calibration_error,
    precision_recall,
    reliability,
)
from unetflow.report import charts, examples, scores, sources
from unetflow.report.sources import Run, facts
from unetflow.report.vega import Chart

SCORE_COLUMNS = ("split", "seed", "image", "metric", "value")
ROWS = 1000
VALIDATED = ("validation_dice", "validation_loss")
"""What networks are judged by in training: segmentations, and regressions."""
RECORDED = ("host", "platform", "cpus", "gpus", "python", "commit")


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
    downloaded = results / "datasets" / f"{dataset}.downloads.json"
    made = {stage: results / "experiments" / maker for stage, maker in makers.items()}
    runs = sources.runs_of(results, name, settings)
    folds = [run for run in runs if run.split != "final"]
    summary = facts(folder / "summary.json")
    table = score_table(folder, folds)
    metrics = summary.get("metrics") or ({} if table is None else scores.preliminary(table))
    scored = [run.folder / "metrics.tsv" for run in folds if run.scored]
    paths = [folder / "metrics.tsv"] if (folder / "metrics.tsv").is_file() else scored
    regression, baselines = settings["task"] == "regression", settings["evaluate"]["baselines"]
    return {
        "name": name,
        "regression": regression,
        "baselines": scores.beside_baselines(metrics, [*baselines]) if baselines else None,
        "settings": settings,
        "dataset": {**datasets.get(dataset, {}), "name": dataset},
        "downloaded": {"path": downloaded, "files": facts(downloaded)},
        "index": {"path": index, **index_facts(facts(index))},
        "split": sources.existing(folder / "split.json"),
        "summary": folder / "summary.json",
        "complete": bool(summary),
        "scored": sum(run.scored for run in folds),
        "folds": len(folds),
        "cards": scores.cards(metrics),
        "metrics_paths": paths,
        "distribution": distribution_chart(name, table),
        "probabilities": probability_curves(name, folder / "curves.tsv"),
        "images": None if table is None else scores.image_table(table),
        "rows_shown": ROWS,
        "runs": [run_facts(run) for run in runs],
        "versions": run_records(runs),
        "curves": learning_curves(name, runs),
        "examples": list(examples.tested_images(name, table, folder, images)),
        "slices": examples.worst_slices(name, table, folder, images),
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
        "target_names": index.get("target_names", []),
    }


def run_facts(run: Run) -> dict[str, Any]:
    """Return state and facts of one training."""
    model = facts(run.folder / "model.json")
    learned = model.get("training", {})
    return {
        "run": run,
        "progress": sources.training_progress(run),
        "path": run.folder / "model.json",
        "weights_path": run.folder / "model.safetensors",
        "cost": facts(run.folder / "train.run.json"),
        "cost_path": run.folder / "train.run.json",
        "network": model.get("network", {}),
        "geometry": model.get("geometry", []),
        "threshold": scores.finite(model.get("threshold")),
        "seed_threshold": scores.finite(facts(run.folder / "seeds.json").get("seed_threshold")),
        "judged": next(
            (scores.finite(learned.get(name)) for name in VALIDATED if name in learned), None
        ),
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
            shown = {key: record.get(key) for key in RECORDED}
            versions = record.get("versions", {})
            key = str((shown, versions))
            found.setdefault(key, {**shown, "versions": versions, "paths": []})["paths"].append(
                path
            )
    return list(found.values())


def distribution_chart(name: str, table: pd.DataFrame | None) -> Chart | None:
    """Return the chart of headline scores over images, or None without any score."""
    if table is None or (shown := scores.distribution(table)).empty:
        return None
    note = (
        "A dot is a test image, the line their median. The images that are best, in the middle and "
        f"worst by their {scores.rank_of(table)} are marked in every score, and shown below."
    )
    return charts.distribution(f"{name}-scores", "Scores over the test images", shown, note)


def learning_curves(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return curves of loss and of validation, each None where there is nothing to draw."""
    losses, judged, paths, measure = {}, {}, [], VALIDATED[0]
    for run in runs:
        path = run.folder / "history.tsv"
        table = sources.table(path, ("step", "loss"))
        if table is None or table.empty:
            continue
        paths.append(path)
        # What is not a number, as in a training that diverged, is a gap.
        table = table.apply(pd.to_numeric, errors="coerce")
        table = table.dropna(subset="step").set_index("step")
        losses[run.name] = smoothed(table["loss"])
        for column in VALIDATED:
            if column in table and table[column].notna().any():
                judged[run.name], measure = table[column].dropna(), column
    found: dict[str, Any] = {"loss": None, "validation": None, "paths": paths}
    if losses:
        found["loss"] = charts.curves(
            *(f"{name}-loss", "Training loss", losses, "step", "loss, smoothed"),
            note="Mean over the last fiftieth of all steps.",
        )
    if judged:
        of_loss = measure == "validation_loss"
        called = ("validation", "validation loss") if of_loss else ("dice", "validation Dice")
        found["validation"] = charts.curves(
            *(f"{name}-{called[0]}", "Validation", judged, "step", called[1]),
            note="The large dot marks the step whose network is kept.",
            zero=False,
            dots=True,
            best=True,
            lowest=of_loss,
        )
    return found


def smoothed(values: pd.Series[float]) -> pd.Series[float]:
    """Mean over the last fiftieth of all steps, thinned to some 100 points."""
    mean = values.rolling(max(1, len(values) // 50), min_periods=1).mean()
    return mean.iloc[:: max(1, len(mean) // 100)]


def probability_curves(name: str, path: Path) -> dict[str, Any]:
    """Return precision over recall, and reliability, of each class over all test images.

    Each is None where there is nothing to draw; scores are in the legend.
    """
    ranking, sureness = {}, {}
    for of, levels in (sources.attempt(level_counts, path) or {}).items():
        precision, recall = precision_recall(levels)
        if len(recall):
            legend = f"{of}, area {average_precision(levels):.3f}"
            # The highest level is a step from recall 0 on, which the area counts too.
            ranking[legend] = pd.Series([precision[0], *precision], [0.0, *recall])
        predicted, true, _ = reliability(levels)
        if len(predicted):
            legend = f"{of}, error {calibration_error(levels):.3f}"
            sureness[legend] = pd.Series(true, predicted)
    found: dict[str, Any] = {"path": path, "precision": None, "calibration": None}
    if ranking:
        found["precision"] = charts.curves(
            *(f"{name}-precision-recall", "Precision and recall", ranking, "recall", "precision"),
            note="At every threshold, over the pixels of all test images. The area is the average "
            "precision.",
            steps=True,
            shares=True,
        )
    if sureness:
        found["calibration"] = charts.curves(
            *(f"{name}-calibration", "Calibration", sureness),
            *("predicted probability", "part that is true"),
            note="On the diagonal a probability means what it says. The error is the mean distance "
            "from it.",
            dots=True,
            shares=True,
            diagonal=True,
        )
    return found


def level_counts(path: Path) -> dict[str, NDArray[np.int64]]:
    """Pixels of each class by their probability, see `probabilities.count_pixels`."""
    table = pd.read_csv(path, sep="\t", dtype={"class": str}, keep_default_na=False)
    counts = ["negatives", "positives"]
    return {
        str(of): pixels.sort_values("level")[counts].to_numpy(np.int64).T
        for of, pixels in table.groupby("class", sort=False)
    }


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting as dotted key and value."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield prefix + key, ", ".join(map(str, value)) or "none"
        else:
            yield prefix + key, "none" if value in (None, "", {}) else str(value)
