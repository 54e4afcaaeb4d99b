"""Scores of one predicted plane or volume against its truth, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from unetflow.metrics.boundary import nearest_labels
from unetflow.metrics.contingency import (
    Contingency,
    adapted_rand,
    combined,
    contingency,
    ratio,
    v_info,
    v_rand,
)
from unetflow.metrics.instances import divided_and_joined, matching, mean_iou
from unetflow.metrics.semantic import confusion, dice, iou, pixel_error
from unetflow.metrics.surface import surface_scores
from unetflow.store import NOT_ANNOTATED

IOU_PERCENTS = range(50, 100, 5)


@dataclass(frozen=True, eq=False)
class Counts:
    """What all scores but those of surfaces are made from; counts of parts add up to the whole's.

    Attributes
    ----------
    classes : int64 array (classes, classes)
        Confusion matrix of the class of largest probability.
    overlaps : Contingency
        Of true and predicted objects.
    thinned : Contingency
        The same with thinned borders, see `boundary.nearest_labels`.
    """

    classes: NDArray[np.int64]
    overlaps: Contingency
    thinned: Contingency


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
        See `scores_of`, but for those that are not defined.
    """
    if truth_instances is None:
        truth_instances = label(is_foreground(truth_classes), connectivity=1)
    counts = count(truth_classes, truth_instances, foreground, instances, len(class_names))
    scores = scores_of(counts, class_names)
    return {metric: value for metric, value in scores.items() if np.isfinite(value)}


def count(
    truth_classes: NDArray[np.uint8],
    truth_instances: NDArray[np.integer],
    foreground: NDArray[np.floating],
    instances: NDArray[np.integer],
    n_classes: int,
    core: tuple[slice, ...] = (),
) -> Counts:
    """Count what scores are made from in a part of an image.

    Parameters
    ----------
    truth_classes, instances : arrays of the part with a margin around it
        At least `boundary.REACH` wide but at the image's own border. Without one, all is counted.
    truth_instances, foreground : arrays of the part
        (...) and (classes - 1, ...).
    core : tuple of slice
        Where the part lies in the arrays with a margin.
    """
    unknown = truth_classes == NOT_ANNOTATED
    if unknown.any():
        instances = np.where(unknown, 0, instances)
    known, ignore, found = truth_classes[core], unknown[core], instances[core]
    classes = confusion(known, most_probable(foreground), n_classes, ignore_value=NOT_ANNOTATED)
    overlaps = contingency(truth_instances, found, ignore=ignore)
    # Only what is predicted as background inside a true object takes another label.
    missed = (truth_instances > 0) & (found == 0) & ~ignore
    chosen = np.zeros(instances.shape, np.bool_)
    chosen[core] = missed
    nearest = nearest_labels(instances, chosen).astype(found.dtype, copy=False)
    kept = overlaps.where(overlaps.prediction_label > 0)
    thinned = combined([kept, contingency(truth_instances[missed], nearest)])
    return Counts(classes, overlaps, thinned)


def total(parts: Sequence[Counts]) -> Counts:
    """Counts of an image, or of several parts of it, from those of its parts."""
    return Counts(
        np.sum([part.classes for part in parts], axis=0),
        combined([part.overlaps for part in parts]),
        combined([part.thinned for part in parts]),
    )


def scores_of(counts: Counts, class_names: Sequence[str]) -> dict[str, float]:
    """Every score but those of surfaces.

    Returns
    -------
    dict
        pixel_error, dice_NAME, iou_NAME of the class of largest probability; adapted_rand_error,
        v_rand, v_info (foreground-restricted, with thinned borders, with their split and merge
        parts); mean_iou (SEG of the Cell Tracking Challenge); and those of `score_objects`. NaN is
        a score that is not defined, such as the Dice of a class that is in neither.
    """
    table, overlaps = counts.classes, counts.overlaps
    scores = {"pixel_error": pixel_error(table)}
    for name, one_dice, one_iou in zip(class_names, dice(table), iou(table), strict=True):
        scores |= {f"dice_{name}": float(one_dice), f"iou_{name}": float(one_iou)}
    scores["adapted_rand_error"] = adapted_rand(overlaps)["adapted_rand_error"]
    scores["mean_iou"] = mean_iou(overlaps)
    scores |= score_objects(overlaps)
    thinned = counts.thinned
    for name, parts in (("v_rand", v_rand(thinned)), ("v_info", v_info(thinned))):
        scores |= {
            name if part == "score" else f"{name}_{part}": value for part, value in parts.items()
        }
    return scores


def is_foreground(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a pixel is annotated as a class but background."""
    return np.asarray((classes > 0) & (classes != NOT_ANNOTATED))


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
