"""Scores of instance segmentation: which objects were found, and how well.

References
----------
.. [1] Maška et al. 2014, DOI 10.1093/bioinformatics/btu080: SEG.
.. [2] Maška et al. 2023, DOI 10.1038/s41592-023-01879-y: SEG in today's Cell Tracking Challenge.
.. [3] Kirillov et al. 2019, DOI 10.1109/CVPR.2019.00963, equation 1: panoptic quality.
.. [4] Schmidt et al. 2018, DOI 10.1007/978-3-030-00934-2_30: average precision of nuclei.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unetflow.metrics.contingency import Contingency, ratio


def object_ious(table: Contingency) -> NDArray[np.float64]:
    """Jaccard index of every true object with the predicted one that covers more than half of it.

    For a true object R and the predicted object S with |R ∩ S| > |R| / 2, of which there is at most
    one, |R ∩ S| / |R ∪ S|; 0 where there is none. Exactly half is no match.

    Returns
    -------
    float64 array of shape (true objects,)
        In [0, 1], in ascending order of the true label; empty without true objects. SEG of a
        sequence is the mean over the objects of all its frames, not over the frames' means: join
        the arrays of the frames, then take it.

    References
    ----------
    [1], [2]
    """
    overlaps = _overlaps(table)
    ious = np.zeros(overlaps.truth_objects)
    ious[overlaps.row[overlaps.majority]] = overlaps.iou[overlaps.majority]
    return ious


def mean_iou(table: Contingency) -> float:
    """SEG of the Cell Tracking Challenge: the mean of `object_ious` over all true objects.

    Returns
    -------
    float
        In [0, 1], 1 is best. False positives do not lower it. An empty prediction has 0; without
        true objects it is NaN, whatever the prediction.

    References
    ----------
    [1], [2]

    Examples
    --------
    >>> from unetflow.metrics.contingency import contingency
    >>> mean_iou(contingency(np.array([1, 1, 1, 0, 2]), np.array([5, 5, 0, 0, 0])))
    0.3333333333333333
    """
    ious = object_ious(table)
    return float(ious.mean()) if len(ious) else math.nan


def matching(table: Contingency, threshold: float) -> dict[str, float]:
    """Match objects one to one at an IoU threshold, and score what was found.

    Pairs of a true and a predicted object with IoU >= threshold may be matched. Of all ways to do
    so the one with the most pairs is taken, and among those one with the largest sum of IoU. Above
    0.5 there is only one way.

    Parameters
    ----------
    table : Contingency
        Of one image: label 0 is background on both sides.
    threshold : float
        Smallest IoU of a match, in (0, 1].

    Returns
    -------
    dict
        `tp`, `fp`, `fn`: matched pairs, predicted objects and true objects without a partner;
        `precision` = tp / (tp + fp), `recall` = tp / (tp + fn), `f1` = 2 tp / (2 tp + fp + fn),
        `average_precision` = tp / (tp + fp + fn) [4], and
        `panoptic_quality` = sum of the pairs' IoU / (tp + fp / 2 + fn / 2) [3].
        All scores are in [0, 1], 1 is best. If one side alone has no object they are all 0; if
        neither has one they are all NaN.

    Raises
    ------
    ValueError
        If the threshold is outside (0, 1].

    Notes
    -----
    Only objects with several possible partners go through the assignment problem, each group of
    such that are linked by itself; its matrices take about 25 bytes times the true times the
    predicted objects of the group. From 0.5 on, groups are two halves of one object. Counts equal
    those of `stardist.matching`; that breaks ties by the IoU of unmatched pairs too, so below 0.5
    its panoptic quality can be smaller.
    """
    if not 0 < threshold <= 1:
        raise ValueError(
            f"threshold must be an IoU above 0 and up to 1: got {threshold}; use 0.5, "
            "or a list such as 0.5 to 0.95 one value at a time"
        )
    overlaps = _overlaps(table)
    possible = overlaps.iou >= threshold
    row, column, iou = overlaps.row[possible], overlaps.column[possible], overlaps.iou[possible]
    contested = (np.bincount(row)[row] > 1) | (np.bincount(column)[column] > 1)
    matched = np.concatenate(
        [iou[~contested], _assign(row[contested], column[contested], iou[contested])]
    )
    tp = len(matched)
    fp, fn = overlaps.prediction_objects - tp, overlaps.truth_objects - tp
    empty = tp + fp + fn == 0
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "precision": ratio(tp, tp + fp, empty),
        "recall": ratio(tp, tp + fn, empty),
        "f1": ratio(2 * tp, 2 * tp + fp + fn, empty),
        "average_precision": ratio(tp, tp + fp + fn, empty),
        "panoptic_quality": ratio(float(matched.sum()), tp + fp / 2 + fn / 2, empty),
    }


def divided_and_joined(table: Contingency) -> dict[str, int]:
    """Count the objects that were found in several pieces, or several in one.

    Returns
    -------
    dict
        `over_segmented`: true objects in which two or more predicted ones lie, each with more than
        half of its pixels; `under_segmented`: predicted objects in which two or more true ones lie.
    """
    return {"over_segmented": len(divided(table)), "under_segmented": len(joined(table))}


def divided(table: Contingency) -> NDArray[np.integer]:
    """Labels of the true objects that were found in several pieces, see `divided_and_joined`."""
    overlaps, (labels, _) = _overlaps(table), table.truth_sizes
    inside = np.bincount(
        overlaps.row[overlaps.prediction_majority], minlength=overlaps.truth_objects
    )
    return labels[labels > 0][inside > 1]


def joined(table: Contingency) -> NDArray[np.integer]:
    """Labels of the predicted objects that are several true ones, see `divided_and_joined`."""
    overlaps, (labels, _) = _overlaps(table), table.prediction_sizes
    around = np.bincount(overlaps.column[overlaps.majority], minlength=overlaps.prediction_objects)
    return labels[labels > 0][around > 1]


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """Pairs of objects that share a pixel: arrays of shape (pairs,), and how many objects are."""

    row: NDArray[np.intp]  # rank of the true object among the true ones
    column: NDArray[np.intp]  # rank of the predicted object among the predicted ones
    iou: NDArray[np.float64]
    majority: NDArray[np.bool_]  # the pair covers more than half of the true object
    prediction_majority: NDArray[np.bool_]  # or of the predicted one
    truth_objects: int
    prediction_objects: int


def _overlaps(table: Contingency) -> _Overlaps:
    truth_label, truth_size, row = table.truth_marginal
    prediction_label, prediction_size, column = table.prediction_marginal
    truth_objects = int(np.count_nonzero(truth_label))
    prediction_objects = int(np.count_nonzero(prediction_label))
    pair = (table.truth_label > 0) & (table.prediction_label > 0)
    count, row, column = table.count[pair], row[pair], column[pair]
    return _Overlaps(
        # Background, where it occurs, is the first of the ascending labels and has no rank.
        row=row - (len(truth_label) - truth_objects),
        column=column - (len(prediction_label) - prediction_objects),
        iou=count / (truth_size[row] + prediction_size[column] - count),
        majority=2 * count > truth_size[row],
        prediction_majority=2 * count > prediction_size[column],
        truth_objects=truth_objects,
        prediction_objects=prediction_objects,
    )


def _assign(
    row: NDArray[np.intp], column: NDArray[np.intp], iou: NDArray[np.float64]
) -> NDArray[np.float64]:
    """IoU of the pairs of the best one-to-one assignment, group by group of linked objects."""
    if not len(row):
        return iou
    rows, row = np.unique(row, return_inverse=True)
    columns, column = np.unique(column, return_inverse=True)
    objects = len(rows) + len(columns)
    links = coo_array((np.ones(len(row), np.int8), (row, len(rows) + column)), (objects, objects))
    number, group = connected_components(links, directed=False)
    # Several objects around one, as are two halves at an IoU of 0.5: the largest is taken.
    sides = group[: len(rows)], group[len(rows) :]
    around = np.minimum(*(np.bincount(side, minlength=number) for side in sides)) == 1
    of_pair = group[row]
    simple = around[of_pair]
    largest = np.zeros(number)
    np.maximum.at(largest, of_pair[simple], iou[simple])
    others = np.flatnonzero(~simple)
    others = others[np.argsort(of_pair[others], kind="stable")]
    edges = np.flatnonzero(np.diff(of_pair[others])) + 1
    parts = np.split(others, edges) if len(others) else []
    return np.concatenate(
        [largest[largest > 0], *(_assign_group(row[at], column[at], iou[at]) for at in parts)]
    )


def _assign_group(
    row: NDArray[np.intp], column: NDArray[np.intp], iou: NDArray[np.float64]
) -> NDArray[np.float64]:
    """IoU of the pairs of the best one-to-one assignment."""
    rows, row = np.unique(row, return_inverse=True)
    columns, column = np.unique(column, return_inverse=True)
    matrix = np.zeros((len(rows), len(columns)))
    matrix[row, column] = iou
    # All IoU together add less than one pair does, so the number of pairs comes first.
    gain = (matrix > 0) + matrix / (2 * min(matrix.shape) + 1)
    chosen: NDArray[np.float64] = matrix[linear_sum_assignment(gain, maximize=True)]
    return chosen[chosen > 0]
