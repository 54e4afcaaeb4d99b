"""Scores of predicted images against their truth, and their summary over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from skimage.measure import label

from unetflow import axes as axis_rules
from unetflow.metrics.boundary import thin
from unetflow.metrics.contingency import (
    Contingency,
    adapted_rand,
    contingency,
    ratio,
    v_info,
    v_rand,
)
from unetflow.metrics.instances import divided_and_joined, matching, mean_iou
from unetflow.metrics.membranes import challenge_scores
from unetflow.metrics.semantic import confusion, dice, iou, pixel_error
from unetflow.metrics.surface import surface_scores
from unetflow.predicted import foreground as foreground_of
from unetflow.predicted import probabilities
from unetflow.progress import log, track
from unetflow.settings import EvaluateSettings
from unetflow.store import (
    NOT_ANNOTATED,
    Image,
    open_image,
    read_json,
    write_json,
    write_text,
)
from unetflow.volumes import open_volume

IOU_PERCENTS = range(50, 100, 5)


def score_plane(
    truth_classes: NDArray[np.uint8],
    truth_instances: NDArray[np.integer] | None,
    foreground: NDArray[np.floating],
    instances: NDArray[np.integer],
    class_names: Sequence[str],
) -> dict[str, float]:
    """Every score of one plane or volume.

    Parameters
    ----------
    truth_classes : uint8 array
        255 = not annotated: such pixels do not count, in any score.
    truth_instances : integer array, or None
        None: the connected components of what is not class 0.
    foreground : float array
        Predicted probability of each class but background, (classes - 1, ...).
    instances : integer array
        Predicted objects.

    Returns
    -------
    dict
        pixel_error, dice_NAME, iou_NAME of the class of largest probability; adapted_rand_error,
        v_rand, v_info (foreground-restricted, with thinned borders, with their split and merge
        parts); mean_iou (SEG of the Cell Tracking Challenge); and those of `score_objects`. A score
        that is not defined, such as the Dice of a class that is in neither, is left out.
    """
    predicted = most_probable(foreground)
    table = confusion(truth_classes, predicted, len(class_names), ignore_value=NOT_ANNOTATED)
    scores = {"pixel_error": pixel_error(table)}
    for name, one_dice, one_iou in zip(class_names, dice(table), iou(table), strict=True):
        scores |= {f"dice_{name}": float(one_dice), f"iou_{name}": float(one_iou)}
    unknown = truth_classes == NOT_ANNOTATED
    if truth_instances is None:
        truth_instances = label((truth_classes > 0) & ~unknown, connectivity=1)
    overlaps = contingency(truth_instances, instances, ignore=unknown)
    scores["adapted_rand_error"] = adapted_rand(overlaps)["adapted_rand_error"]
    scores["mean_iou"] = mean_iou(overlaps)
    scores |= score_objects(overlaps)
    thinned = contingency(truth_instances, thin(np.where(unknown, 0, instances)), ignore=unknown)
    for name, parts in (("v_rand", v_rand(thinned)), ("v_info", v_info(thinned))):
        scores |= {
            name if part == "score" else f"{name}_{part}": value for part, value in parts.items()
        }
    return {metric: value for metric, value in scores.items() if np.isfinite(value)}


def score_objects(overlaps: Contingency) -> dict[str, float]:
    """Which objects were found.

    Returns
    -------
    dict
        f1, precision, recall and panoptic_quality at IoU 0.5; average_precision_50 and so on to 95,
        tp / (tp + fp + fn) at that IoU in percent, and their mean average_precision;
        over_segmented and under_segmented, as parts of the true and the predicted objects.
    """
    matched = {percent: matching(overlaps, percent / 100) for percent in IOU_PERCENTS}
    half = matched[50]
    precisions = {f"average_precision_{at}": of["average_precision"] for at, of in matched.items()}
    counts = divided_and_joined(overlaps)
    true, predicted = half["tp"] + half["fn"], half["tp"] + half["fp"]
    return {
        **{name: half[name] for name in ("f1", "precision", "recall", "panoptic_quality")},
        "average_precision": float(np.mean([*precisions.values()])),
        **precisions,
        "over_segmented": ratio(counts["over_segmented"], true),
        "under_segmented": ratio(counts["under_segmented"], predicted),
    }


def most_probable(foreground: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Class of largest probability, of those of all classes but background."""
    foreground = foreground.astype(np.float32)
    background = 1 - foreground.sum(axis=0, keepdims=True)
    return np.asarray(np.concatenate([background, foreground]).argmax(axis=0), np.uint8)


def score_surfaces(
    truth_classes: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    class_names: Sequence[str],
    spacing: Sequence[float],
    tolerance: float,
) -> dict[str, float]:
    """Scores of the surface of each class but background, see `metrics.surface`.

    Of a class that one side alone has, distances are the image's diagonal: infinite ones would be
    left out of a mean, and reward what is missed.
    """
    diagonal = float(np.linalg.norm(np.multiply(truth_classes.shape, spacing)))
    scores: dict[str, float] = {}
    for value, name in enumerate(class_names[1:], start=1):
        masks = truth_classes == value, predicted == value
        found = surface_scores(*masks, spacing, tolerance, truth_classes == NOT_ANNOTATED)
        for metric in ("hausdorff_95", "hausdorff", "average_surface_distance"):
            found[metric] = min(found[metric], diagonal)
        scores |= {f"{metric}_{name}": score for metric, score in found.items()}
    return {metric: value for metric, value in scores.items() if np.isfinite(value)}


def evaluate_image(
    truth: Image,
    prediction: Image,
    segmentation: Image,
    model: Mapping[str, Any],
    settings: EvaluateSettings,
) -> dict[str, float]:
    """Scores of an image: of a stack predicted plane by plane, the mean over its planes."""
    known = truth_arrays(truth, segmentation.array.shape, model["class_names"])
    return evaluate_arrays(*known, prediction, segmentation, model, settings)


def evaluate_arrays(
    classes: Any,
    instances: Any,
    prediction: Image,
    segmentation: Image,
    model: Mapping[str, Any],
    settings: EvaluateSettings,
) -> dict[str, float]:
    """Scores of an image whose true classes, and instances or None, are arrays."""
    frame = slice(settings.ignore_border, -settings.ignore_border or None)
    by_plane = settings.plane_by_plane and model["network"]["dimensions"] == 2
    axes = axis_rules.spatial(segmentation.axes)
    size = axis_rules.voxel_size(axes, segmentation.voxel_size_um) or (1.0,) * len(axes)
    names, tolerance = model["class_names"], settings.surface_tolerance
    scored = []
    for plane in np.ndindex(classes.shape[:-2] if by_plane else ()):
        index = (..., *plane, frame, frame)
        known, foreground = np.asarray(classes[index]), probabilities(prediction, index)
        true_instances = None if instances is None else np.asarray(instances[index])
        found = np.asarray(segmentation.array[index])
        scores = score_plane(known, true_instances, foreground, found, names)
        if tolerance is not None:
            spacing = size[-known.ndim :]
            scores |= score_surfaces(known, most_probable(foreground), names, spacing, tolerance)
        scored.append(scores)
    return {str(metric): float(value) for metric, value in pd.DataFrame(scored).mean().items()}


def truth_arrays(truth: Image, shape: Sequence[int], class_names: Sequence[str]) -> tuple[Any, Any]:
    """Classes, and instances or None, of a truth: its labels, or else what its own pixels are.

    Pixels of one value beside 0 are a class: its objects are its components, as with classes.

    Raises
    ------
    ValueError
        If the extents are others than those of the volume, if an image without labels has channels
        or fractions, or if classes cannot be told from ids.
    """
    classes, known = truth.label("classes"), truth.label("instances")
    array = truth.array if classes is None else classes
    if classes is None and (
        array.dtype.kind not in "iub" or "c" in truth.axes or len(class_names) > 2
    ):
        raise ValueError(
            f"{truth.path}: truth must have labels/classes, or be a label image of whole numbers "
            f"without channels (for 2 classes, the network has {len(class_names)}): found "
            f"{array.dtype} along {truth.axes}; name its label image"
        )
    if array.shape != tuple(shape):
        raise ValueError(
            f"{truth.path}: truth must have the extents {tuple(shape)} of the volume: it has "
            f"{array.shape}; name the truth of this volume"
        )
    if classes is not None:
        return classes, known
    ids = np.asarray(array)
    several = ids.max(initial=0) != ids.min(initial=ids.max(initial=0), where=ids > 0)
    return (ids > 0).astype(np.uint8), ids if several else None


def evaluate_images(
    images: Mapping[str, Sequence[Path]],
    labels: Mapping[str, str],
    output: Path,
    model: Mapping[str, Any],
    settings: EvaluateSettings,
) -> None:
    """Write the scores of several images as a TSV with a row per image and metric.

    Parameters
    ----------
    images : mapping of image name to its truth, prediction and segmentation (OME-Zarr)
    labels : mapping
        What stands in the first columns of each row, such as experiment, split and seed.
    model : mapping
        Its `model.json`, for the classes and the number of dimensions.
    """
    rows = []
    for name, paths in track(images.items(), "scoring images", len(images)):
        truth, prediction, segmentation = (open_image(path) for path in paths)
        scores = evaluate_image(truth, prediction, segmentation, model, settings)
        rows += [
            {**labels, "image": name, "metric": key, "value": value}
            for key, value in scores.items()
        ]
    if settings.challenge:
        together = {**labels, "image": f"all of {labels['split']}"}
        scores = score_challenge([(paths[0], paths[1]) for paths in images.values()], settings)
        rows += [{**together, "metric": key, "value": value} for key, value in scores.items()]
    table = pd.DataFrame(rows, columns=[*labels, "image", "metric", "value"])
    write_text(output, str(table.to_csv(sep="\t", index=False, float_format="%.6g")))


def score_challenge(
    sections: Sequence[tuple[Path, Path]], settings: EvaluateSettings
) -> dict[str, float]:
    """Scores of ISBI 2012 of 2D sections (truth, prediction), see `metrics.membranes`.

    Raises
    ------
    ValueError
        If the sections are not of one size.
    """
    frame = slice(settings.ignore_border, -settings.ignore_border or None)
    known, cells = [], []
    for truth, prediction in sections:
        classes = open_image(truth).label("classes")
        assert classes is not None  # else nothing was scored before
        known.append(np.asarray(classes[..., frame, frame]))
        cells.append(foreground_of(open_image(prediction), (..., frame, frame)))
    if len({array.shape for array in known}) > 1 or known[0].ndim != 2:
        raise ValueError(
            "evaluate.challenge isbi2012: images must be 2D sections of one size: got "
            f"{sorted({array.shape for array in known})}; leave it out"
        )
    together = np.stack(known)
    unknown = together == NOT_ANNOTATED
    probability = np.clip(np.stack(cells), 0, 1)  # sums of rounded ones may be more
    found = challenge_scores((together > 0) & ~unknown, probability, unknown)
    return {f"isbi2012_{name}": best.score for name, best in found.items()}


def evaluate_volume(
    summary: Mapping[str, Any],
    paths: Mapping[str, Path | str],
    output: Path,
    model: Mapping[str, Any],
    settings: EvaluateSettings,
) -> None:
    """Write the scores of an archive's volume as a TSV with the columns metric, value and reason.

    A volume that failed has none. One whose truth cannot be used has a row with the reason alone:
    the other volumes go on.

    Parameters
    ----------
    summary : mapping
        The volume's `summary.json`.
    paths : mapping
        Of `truth` (OME-Zarr with labels, or a label image in any format), `prediction` and
        `segmentation`.
    """
    rows: list[dict[str, Any]] = []
    if summary["state"] == "done":
        prediction, segmentation = (
            open_image(Path(paths[name])) for name in ("prediction", "segmentation")
        )
        shape, names = segmentation.array.shape, model["class_names"]
        try:
            classes, known = truth_arrays(open_volume(paths["truth"]), shape, names)
            classes, known = np.asarray(classes), None if known is None else np.asarray(known)
        except Exception as error:  # decoders raise whatever they like for a broken file
            rows = [{"reason": " ".join(f"no scores: {error}".split())}]
            log(rows[0]["reason"])
        else:
            scores = evaluate_arrays(classes, known, prediction, segmentation, model, settings)
            rows = [{"metric": metric, "value": value} for metric, value in scores.items()]
    table = pd.DataFrame(rows, columns=["metric", "value", "reason"])
    write_text(output, str(table.to_csv(sep="\t", index=False, float_format="%.6g")))


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


def summarise(table: pd.DataFrame) -> dict[str, dict[str, float | int | None]]:
    """Mean, 95 % interval and number of images, per metric.

    An image that several seeds predicted counts once, with its mean. The interval is the bootstrap
    over images (percentiles, 2,000 resamples, seeded); with fewer than two images it is null.
    """
    summary: dict[str, dict[str, float | int | None]] = {}
    for metric, group in table.groupby("metric", sort=False):
        values = group.groupby("image")["value"].mean().to_numpy()
        low = high = None
        if len(values) > 1:
            interval = stats.bootstrap(
                (values,),
                np.mean,
                n_resamples=2000,
                method="percentile",
                rng=np.random.default_rng(0),
            ).confidence_interval
            low, high = float(interval.low), float(interval.high)
        summary[str(metric)] = {
            "mean": float(values.mean()),
            "low": low,
            "high": high,
            "n": len(values),
        }
    return summary


def summarise_archive(
    volumes: Mapping[str, Path], scores: Mapping[str, Path], output: Path
) -> None:
    """Write an archive's `summary.tsv`, a row per volume of the sheet.

    Parameters
    ----------
    volumes : mapping of volume to its `summary.json`
    scores : mapping of the volumes with truth to their `metrics.tsv`
    """
    rows = []
    for volume, path in volumes.items():
        facts = read_json(path)
        shape = "x".join(map(str, facts["shape"])) if facts["shape"] else ""
        row = {"volume": volume, **facts, "shape": shape}
        if volume in scores:
            table = pd.read_csv(scores[volume], sep="\t")
            found = table.dropna(subset="metric")
            row |= dict(zip(found["metric"], found["value"], strict=True))
            row["reason"] = "; ".join([row["reason"], *table["reason"].dropna()]).strip("; ")
        rows.append(row)
    table = pd.DataFrame(rows).astype({"objects": "Int64", "voxels": "Int64"})
    write_text(output, str(table.to_csv(sep="\t", index=False, float_format="%.6g")))


def check_archive(summary: Path) -> None:
    """Refuse an archive with volumes that failed.

    Raises
    ------
    ValueError
        Naming each of them with its reason.
    """
    table = pd.read_csv(summary, sep="\t", keep_default_na=False)
    failed = table[table["state"] == "failed"]
    if len(failed):
        reasons = "; ".join(f"{row.volume}: {row.reason}" for row in failed.itertuples())
        raise ValueError(
            f"{summary.parent.name}: {len(failed)} of {len(table)} volumes failed: {reasons}"
        )
