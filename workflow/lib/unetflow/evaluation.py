"""Scores of predicted images, and of an archive's volumes, against their truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unetflow import axes as axis_rules
from unetflow.metrics.membranes import challenge_scores
from unetflow.predicted import foreground as foreground_of
from unetflow.predicted import probabilities
from unetflow.progress import log, track
from unetflow.scoring import most_probable, score_plane, score_surfaces
from unetflow.settings import EvaluateSettings
from unetflow.store import NOT_ANNOTATED, Image, open_image, write_text
from unetflow.volumes import open_volume


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
