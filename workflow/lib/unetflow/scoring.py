"""Scores of one predicted plane or volume against its truth, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from unetflow.metrics.boundary import nearest_labels
from unetflow.metrics.contingency import (
    Contingency,
    adapted_rand,
    contingency,
    ratio,
    summed,
    v_info,
    v_rand,
    variation_of_information,
)
from unetflow.metrics.instances import divided_and_joined, matching, mean_iou
from unetflow.metrics.probabilities import average_precision, calibration_error, count_pixels
from unetflow.metrics.semantic import dice, iou, pixel_error, precision, recall
from unetflow.metrics.surface import sliver07_score, surface_scores
from unetflow.store import NOT_ANNOTATED

IOU_PERCENTS = range(50, 100, 5)
OF_CLASSES = {"dice": dice, "iou": iou, "precision": precision, "recall": recall}
"""Scores of each class, from the confusion matrix."""

SURFACE_DISTANCES = (
    "hausdorff_95",
    "hausdorff",
    "average_surface_distance",
    "rms_surface_distance",
)

Regions = Mapping[str, Sequence[int]]
"""Names of unions of classes, and the classes by number."""


@dataclass(frozen=True, eq=False)
class Counts:
    """What all scores but those of surfaces are made from; counts of parts add up to the whole's.

    Attributes
    ----------
    classes : int64 array (classes, classes)
        Confusion matrix of the class of largest probability.
    levels : int64 array (classes - 1, 2, 256)
        Pixels by their probability, see `probabilities.count_pixels`.
    overlaps : Contingency
        Of true and predicted objects.
    thinned : Contingency
        The same with thinned borders, see `boundary.nearest_labels`.
    """

    classes: NDArray[np.int64]
    levels: NDArray[np.int64]
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
        See `scores_of`. Those that are not defined are left out: of a class that is in neither,
        all; without true objects mean_iou, those of pairs of pixels, and of information; without
        objects on either side those of objects too; without annotated pixels all. Where one side
        alone has objects, those of objects are 0.

    Raises
    ------
    ValueError
        If shapes differ, a label is negative, a class is out of range, or what counts has no
        probability.
    """
    for name, array in {"truth_instances": truth_instances, "instances": instances}.items():
        if array is not None and array.shape != truth_classes.shape:
            raise ValueError(
                f"{name} must have the shape of the true classes: got {array.shape} and "
                f"{truth_classes.shape}; crop or resample to the annotated image"
            )
    if truth_instances is None:
        truth_instances = label(is_foreground(truth_classes), connectivity=1)
    counts = count(truth_classes, truth_instances, foreground, instances)
    scores = scores_of(counts, class_names)
    return {metric: value for metric, value in scores.items() if np.isfinite(value)}


def count(
    truth_classes: NDArray[np.uint8],
    truth_instances: NDArray[np.integer],
    foreground: NDArray[np.floating],
    instances: NDArray[np.integer],
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
    ignore = unknown[core] if unknown.any() else None
    if ignore is not None:
        instances = np.where(unknown, 0, instances)
    known, found = truth_classes[core], instances[core]
    classes, levels = count_pixels(known, foreground, NOT_ANNOTATED)
    overlaps = contingency(truth_instances, found, ignore=ignore)
    # Only what is predicted as background inside a true object takes another label.
    missed = (truth_instances > 0) & (found == 0)
    if ignore is not None:
        missed &= ~ignore
    chosen = np.zeros(instances.shape, np.bool_)
    chosen[core] = missed
    nearest = nearest_labels(instances, chosen).astype(found.dtype, copy=False)
    kept = overlaps.where(overlaps.prediction_label > 0)
    thinned = summed([kept, contingency(truth_instances[missed], nearest)])
    return Counts(classes, levels, overlaps, thinned)


def total(parts: Sequence[Counts]) -> Counts:
    """Counts of an image, or of several parts of it, from those of its parts."""
    return Counts(
        np.sum([part.classes for part in parts], axis=0),
        np.sum([part.levels for part in parts], axis=0),
        summed([part.overlaps for part in parts]),
        summed([part.thinned for part in parts]),
    )


def scores_of(
    counts: Counts, class_names: Sequence[str], regions: Regions | None = None
) -> dict[str, float]:
    """Every score but those of surfaces.

    Parameters
    ----------
    regions : mapping, optional
        They have the scores of classes too, of the pixels whose class is one of theirs.

    Returns
    -------
    dict
        pixel_error, and dice_NAME, iou_NAME, precision_NAME and recall_NAME of the class of largest
        probability; of the probability of each class but background pixel_average_precision_NAME
        and calibration_error_NAME; adapted_rand_error, v_rand, v_info (foreground-restricted, with
        thinned borders, with their split and merge parts); the two of variation_of_information;
        mean_iou (SEG of the Cell Tracking Challenge); and those of `score_objects`. NaN is a score
        that is not defined, such as the
        Dice of a class that is in neither.
    """
    table, overlaps = counts.classes, counts.overlaps
    scores = {"pixel_error": pixel_error(table)}
    for name, *values in zip(class_names, *(of(table) for of in OF_CLASSES.values()), strict=True):
        scores |= {
            f"{of}_{name}": float(value) for of, value in zip(OF_CLASSES, values, strict=True)
        }
    for name, classes in (regions or {}).items():
        of_region = united(table, classes)
        scores |= {f"{of}_{name}": float(it(of_region)[1]) for of, it in OF_CLASSES.items()}
    for name, levels in zip(class_names[1:], counts.levels, strict=True):
        scores[f"pixel_average_precision_{name}"] = average_precision(levels)
        scores[f"calibration_error_{name}"] = calibration_error(levels)
    scores["adapted_rand_error"] = adapted_rand(overlaps)["adapted_rand_error"]
    for part, value in variation_of_information(overlaps).items():
        scores[f"variation_of_information_{part}"] = value
    scores["mean_iou"] = mean_iou(overlaps)
    scores |= score_objects(overlaps)
    thinned = counts.thinned
    for name, parts in (("v_rand", v_rand(thinned)), ("v_info", v_info(thinned))):
        scores |= {
            name if part == "score" else f"{name}_{part}": value for part, value in parts.items()
        }
    return scores


def united(table: NDArray[np.int64], classes: Sequence[int]) -> NDArray[np.int64]:
    """Confusion matrix (2, 2) of all other classes and of some as one."""
    inside = np.isin(np.arange(len(table)), classes)
    parts = np.stack([~inside, inside]).astype(np.int64)
    return np.asarray(parts @ table @ parts.T)


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
    regions: Regions | None = None,
    points: bool = False,
) -> dict[str, float]:
    """Scores of the surface of each class but background, and of each region; `metrics.surface`.

    With `points` those of SLIVER07 too, as `sliver07_NAME`.

    Of a class that one side alone has, distances are the image's diagonal, and a truth that has
    none of a class counts as one pixel in the difference of volumes, which is then the pixels that
    were predicted: infinite scores would be left out of a mean, and reward what is wrong. NaN is a
    score of a class that neither side has.
    """
    diagonal = float(np.linalg.norm(np.multiply(truth_classes.shape, spacing)))
    unknown = truth_classes == NOT_ANNOTATED
    scores: dict[str, float] = {}
    each = {name: [value] for value, name in enumerate(class_names) if value > 0}
    for name, classes in (each | dict(regions or {})).items():
        masks = np.isin(truth_classes, classes), np.isin(predicted, classes) & ~unknown
        found = surface_scores(*masks, spacing, tolerance, unknown)
        largest = dict.fromkeys(SURFACE_DISTANCES, diagonal)
        largest["relative_volume_difference"] = int(masks[1].sum())
        for metric, limit in largest.items():
            found[metric] = min(found[metric], limit)
        if points:
            found["sliver07"] = sliver07_score(found)
        scores |= {f"{metric}_{name}": score for metric, score in found.items()}
    return scores
