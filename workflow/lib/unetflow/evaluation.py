"""Scores of predicted images, and of an archive's volumes, against their truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unetflow.annotation import HeldOutPlanes
from unetflow.comparison import Comparison, compare
from unetflow.judging import Judged, on_grid_of_truth, open_truth
from unetflow.metrics.membranes import challenge_scores
from unetflow.metrics.probabilities import LEVELS
from unetflow.packs import Pack
from unetflow.predicted import foreground as foreground_of
from unetflow.predicted import open_prediction, probability_image
from unetflow.progress import log, track
from unetflow.regression import regression_of
from unetflow.settings.evaluation import EvaluateSettings
from unetflow.store import NOT_ANNOTATED, Image, open_image, read_json, write_text
from unetflow.truths import UnusableTruth, truth_arrays
from unetflow.value_scores import ValueScores, volume_scores


def evaluate_image(
    truth: Image,
    prediction: Image,
    segmentation: Image,
    model: Mapping[str, Any],
    settings: EvaluateSettings,
    tested_planes: int | None = None,
) -> tuple[dict[str, float], NDArray[np.int64]]:
    """Scores of an image or volume, and its pixels by their probability, see `comparison`.

    Of a stack that was predicted plane by plane, the mean over its planes; NaN is what is not
    defined. Where only some planes are tested, no other pixel counts.

    Of an image that was prepared with voxels of another size, scores are those on the grid that it
    was annotated on: probabilities are interpolated linearly, objects are those of the nearest
    voxel. Only tested planes are planes of what the network has seen.
    """
    found = probability_image(prediction)
    if tested_planes is None:
        judged = on_grid_of_truth(truth, found, segmentation, model["class_names"])
    else:
        classes, known = truth_arrays(truth, segmentation.spatial_shape, model["class_names"])
        judged = Judged(HeldOutPlanes(classes, tested_planes), known, found, segmentation)
    return all_scores(compare(*judged, model, settings), settings)


def all_scores(
    compared: Comparison, settings: EvaluateSettings
) -> tuple[dict[str, float], NDArray[np.int64]]:
    """Scores of a comparison, those of surfaces only where the settings ask for them."""
    scores, levels = compared.scores()
    if settings.surface_tolerance is not None:
        points = settings.challenge == "sliver07"
        scores |= compared.surfaces(settings.surface_tolerance, points)
    return scores, levels


def undefined(scores: Mapping[str, float]) -> str:
    """Say which scores there are not, and why; empty where there are all."""
    names = ", ".join(name for name, value in scores.items() if not math.isfinite(value))
    return names and f"not defined, since there is nothing to judge: {names}"


def evaluate_images(
    images: Mapping[str, Sequence[Path]],
    labels: Mapping[str, str],
    output: Path,
    curves: Path,
    model: Mapping[str, Any],
    settings: EvaluateSettings,
    tracked: Mapping[str, Mapping[str, float]] | None = None,
    tested_planes: int | None = None,
) -> None:
    """Write the scores of several images as a TSV with a row per image and metric.

    A score that is not defined has no row: the log names it. The second TSV holds what curves are
    drawn from: of each class but background and each level of its probability, k / 255, the pixels
    of all images that are of the class, `positives`, and that are not, `negatives`. Of a regression
    it is empty, see `value_scores` for its scores.

    Parameters
    ----------
    images : mapping of image name to its truth, prediction and segmentation (OME-Zarr)
        Of a regression without the last.
    labels : mapping
        What stands in the first columns of each row, such as experiment, split and seed.
    model : mapping
        Its `model.json`, for the classes and the number of dimensions.
    tracked : mapping, optional
        Further scores, of sequences by their names, see `track_scores`.
    tested_planes : int, optional
        Only every n-th plane of each image is scored.
    """
    rows, classes = [], model["class_names"][1:]
    levels = np.zeros((len(classes), 2, LEVELS), np.int64)
    regression, of_values = regression_of(model), None
    for name, paths in track(images.items(), "scoring images", len(images)):
        truth, prediction, *rest = (open_image(path) for path in paths)
        if regression is None:
            how = model, settings, tested_planes
            scores, pixels = evaluate_image(truth, prediction, rest[0], *how)
            levels += pixels
        else:
            of_values = of_values or ValueScores(regression, model, paths[0].parent, settings)
            scores = of_values.of_image(truth, prediction)
        if reason := undefined(scores):
            log(f"{name}: {reason}")
        rows += [
            {**labels, "image": name, "metric": key, "value": value}
            for key, value in scores.items()
            if math.isfinite(value)
        ]
    if settings.challenge == "isbi2012":
        together = {**labels, "image": f"all of {labels['split']}"}
        scores = score_challenge([(paths[0], paths[1]) for paths in images.values()], settings)
        rows += [{**together, "metric": key, "value": value} for key, value in scores.items()]
    rows += [
        {**labels, "image": name, "metric": key, "value": value}
        for name, scores in (tracked or {}).items()
        for key, value in scores.items()
    ]
    table = pd.DataFrame(rows, columns=[*labels, "image", "metric", "value"])
    write_text(output, str(table.to_csv(sep="\t", index=False, float_format="%.6g")))
    parts = [
        pd.DataFrame({**labels, "class": name, "level": range(LEVELS)}).assign(
            negatives=negatives, positives=positives
        )
        for name, (negatives, positives) in zip(classes, levels, strict=True)
    ]
    head = [*labels, "class", "level", "negatives", "positives"]
    counted = pd.concat(parts) if parts else pd.DataFrame(columns=head)
    write_text(curves, str(counted.to_csv(sep="\t", index=False)))


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
    facts: Mapping[str, Any],
    paths: Mapping[str, Path | str],
    output: Path,
    model: Mapping[str, Any],
    settings: EvaluateSettings,
) -> None:
    """Write the scores of an archive's volume as a TSV with the columns metric, value and reason.

    A volume that failed has none. One whose truth cannot be used has a row with the reason alone:
    the other volumes go on. A last row names the scores that are not defined.

    Parameters
    ----------
    facts : mapping
        How its prediction went, see `assembly.finish_prediction`.
    paths : mapping
        Of `truth` (OME-Zarr with labels, or a label image in any format; of a regression true
        values), `prediction` and, but of a regression, `segmentation`.
    """
    rows: list[dict[str, Any]] = []
    if facts["state"] == "done":
        prediction, regression = open_prediction(Path(paths["prediction"])), regression_of(model)
        try:
            if regression is None:
                segmentation = open_image(Path(paths["segmentation"]))
                found = probability_image(prediction)
                names = model["class_names"]
                place = facts["volume"]["path"]
                judged = open_truth(paths["truth"], place, found, segmentation, names)
                scores, _ = all_scores(compare(*judged, model, settings), settings)
            else:
                of = facts["volume"], paths["truth"], prediction, regression
                scores = volume_scores(*of, model, settings)
        except UnusableTruth as error:
            rows = [{"reason": f"no scores: {error}"}]
            log(rows[0]["reason"])
        else:
            rows = [
                {"metric": metric, "value": value}
                for metric, value in scores.items()
                if math.isfinite(value)
            ]
            if reason := undefined(scores):
                rows.append({"reason": reason})
    table = pd.DataFrame(rows, columns=["metric", "value", "reason"])
    write_text(output, str(table.to_csv(sep="\t", index=False, float_format="%.6g")))


def evaluate_pack(
    pack: Pack,
    truths: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Any],
    settings: EvaluateSettings,
) -> None:
    """Score small volumes that share a job.

    Parameters
    ----------
    pack : Pack
        With the paths `facts`, `prediction`, `segmentation` and `metrics`.
    truths : mapping of volume to `truth`, its path, and `state`, what tells it from another one
    """

    def evaluate(volume: str, paths: Mapping[str, Path]) -> None:
        of = {**paths, "truth": truths[volume]["truth"]}
        evaluate_volume(read_json(paths["facts"]), of, paths["metrics"], model, settings)

    made_from = [model, settings.model_dump(mode="json")]
    pack.each(evaluate, truths, made_from, results=["metrics"])
