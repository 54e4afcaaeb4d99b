"""Scores of predicted probabilities: how well they rank pixels, and whether they are calibrated.

All come from the pixels of each class counted by their probability, rounded to one of 256 levels,
k / 255: exactly those that a prediction stored in 8 bits has. Counts of parts and of images add up.

References
----------
.. [1] Davis, Goadrich 2006, DOI 10.1145/1143844.1143874: precision-recall curves, and why to sum
   their steps: a straight line between two points promises what no threshold reaches.
.. [2] Naeini, Cooper, Hauskrecht 2015, DOI 10.1609/aaai.v29i1.9602: expected calibration error.
.. [3] Guo, Pleiss, Sun, Weinberger 2017, Proc. Machine Learning Research 70, 1321-1330:
   reliability diagrams of networks, in 15 bins.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

LEVELS = 256
BINS = 15
"""Bins of calibration; each holds 17 levels, so that no bin gets half of one."""

ROUNDING = 1e-3
"""How far beyond [0, 1] a probability may be: means of rounded ones are."""


def count_pixels(
    truth: NDArray[np.uint8], foreground: NDArray[np.floating], ignore_value: int = 255
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels of every true class by the most probable class, and by each probability.

    Parameters
    ----------
    truth : integer array, any number of axes
        Classes 0 to n_classes - 1, and `ignore_value` where a pixel does not count.
    foreground : float array (n_classes - 1, *shape of truth)
        Probability of each class but 0, which has what is left of 1.

    Returns
    -------
    confusion : int64 array (n_classes, n_classes)
        Rows are true classes, columns most probable ones, the first of equals. All 0 where
        nothing is annotated.
    levels : int64 array (n_classes - 1, 2, 256)
        Of each class but 0, the pixels that are not and that are of it, by its probability in
        1 / 255, rounded half to even.

    Raises
    ------
    ValueError
        If shapes differ, a class is out of range, or what counts has no probability.
    """
    n_classes = len(foreground) + 1
    if foreground.shape[1:] != truth.shape:
        raise ValueError(
            f"truth and prediction must have the same shape: got {truth.shape} and "
            f"{foreground.shape[1:]}; crop or resample the prediction to the annotated image"
        )
    confusion = np.zeros((n_classes, n_classes), np.int64)
    levels = np.zeros((n_classes - 1, 2, LEVELS), np.int64)
    probabilities = np.asarray(foreground, np.float32).reshape(n_classes - 1, -1)
    wrong = _count_pixels(truth.ravel(), probabilities, ignore_value, confusion, levels)
    if wrong >= 0:
        place = np.unravel_index(wrong, truth.shape)
        raise ValueError(
            f"truth must be classes 0 to {n_classes - 1} or {ignore_value}, and probabilities must "
            f"be in [0, 1]: got class {truth[place]} and {foreground[:, *place].tolist()} at "
            f"{tuple(map(int, place))}; check the number of classes, and softmax logits"
        )
    return confusion, levels


@njit(nogil=True, cache=True)
def _count_pixels(truth, probabilities, ignored, confusion, levels):  # type: ignore[no-untyped-def]
    """Count, and return the place of the first pixel that cannot be counted, or -1."""
    for place in range(len(truth)):
        true = truth[place]
        if true == ignored:
            continue
        if true < 0 or true >= len(confusion):
            return place
        together = np.float32(0)
        for value in probabilities[:, place]:
            # Not a number is in no range.
            if not -ROUNDING <= value <= 1 + ROUNDING:
                return place
            together += value
        likely, most = 0, np.float32(1) - together
        for at in range(len(probabilities)):
            value = probabilities[at, place]
            if value > most:
                likely, most = at + 1, value
            level = min(max(int(np.rint(value * 255)), 0), 255)
            levels[at, 1 if true == at + 1 else 0, level] += 1
        confusion[true, likely] += 1
    return -1


def precision_recall(levels: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall of a class at every threshold, from the highest down.

    A pixel is of the class where its probability is at least the threshold.

    Parameters
    ----------
    levels : int64 array (2, 256)
        Of one class, see `count_pixels`.

    Returns
    -------
    precision, recall : float64 arrays of shape (thresholds,)
        At the levels that occur. Empty without a pixel of the class, which has no recall.
    """
    true, found = (np.cumsum(counts[::-1]) for counts in (levels[1], levels.sum(axis=0)))
    occurs = levels.sum(axis=0)[::-1] > 0
    if not true[-1]:
        occurs[:] = False
    return true[occurs] / found[occurs], true[occurs] / max(true[-1], 1)


def average_precision(levels: NDArray[np.int64]) -> float:
    """Area below the precision-recall curve: sum over thresholds of (R_n - R_{n-1}) P_n [1].

    Parameters
    ----------
    levels : int64 array (2, 256)
        Of one class, see `count_pixels`.

    Returns
    -------
    float
        In [0, 1], 1 is best; a constant has the part of the pixels that are of the class. NaN
        without a pixel of the class, whatever the prediction.
    """
    precision, recall = precision_recall(levels)
    return float((np.diff(recall, prepend=0) * precision).sum()) if len(recall) else math.nan


def reliability(
    levels: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean probability, part that is of the class, and pixels of each bin that has any [3].

    Parameters
    ----------
    levels : int64 array (2, 256)
        Of one class, see `count_pixels`.

    Returns
    -------
    predicted, true : float64 arrays of shape (bins,)
        In [0, 1]; equal where a network is calibrated.
    pixels : int64 array of shape (bins,)
    """
    width = (LEVELS - 1) // BINS
    # Above its lower edge, up to its upper one; the first has probability 0 too.
    bins = np.maximum(-(-np.arange(LEVELS) // width) - 1, 0)
    counts = levels.sum(axis=0)
    pixels = np.bincount(bins, counts)
    occurs = pixels > 0
    predicted = np.bincount(bins, counts * np.arange(LEVELS) / (LEVELS - 1))
    true = np.bincount(bins, levels[1])
    return (
        predicted[occurs] / pixels[occurs],
        true[occurs] / pixels[occurs],
        pixels[occurs].astype(np.int64),
    )


def calibration_error(levels: NDArray[np.int64]) -> float:
    """Expected calibration error: sum over bins of n_b / n |true_b - predicted_b| [2].

    Parameters
    ----------
    levels : int64 array (2, 256)
        Of one class, see `count_pixels`.

    Returns
    -------
    float
        In [0, 1], 0 is best. NaN where no pixel counts.

    Examples
    --------
    >>> levels = np.zeros((2, 256), int)
    >>> levels[:, 255] = 1, 3  # of four pixels that are surely of the class, three are
    >>> calibration_error(levels)
    0.25
    """
    predicted, true, pixels = reliability(levels)
    return float((pixels * abs(true - predicted)).sum() / pixels.sum()) if len(pixels) else math.nan
