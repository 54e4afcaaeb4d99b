"""Scores of semantic classes, all from one confusion matrix; see `probabilities.count_pixels`.

Rows are true classes, columns predicted ones. Matrices of several images add up to that of their
pixels together. A class that occurs in neither truth nor prediction has no score: NaN, for callers
to leave out of a mean over classes (`numpy.nanmean`). Counting it as 1 would reward every
experiment for classes that its images do not have, counting it as 0 would punish it.

References
----------
.. [1] Maier-Hein et al. 2024, DOI 10.1038/s41592-023-02151-z: definitions of the scores, and the
   NaN for a class without reference and prediction.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def dice(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Dice coefficient (F1) of every class: 2 tp / (2 tp + fp + fn).

    Returns
    -------
    float64 array of shape (n_classes,)
        In [0, 1], 1 is best. NaN for a class in neither truth nor prediction.
    """
    hits, truth, prediction = _counts(confusion)
    return _scores(2 * hits, truth + prediction, truth + prediction)


def iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union (Jaccard index) of every class: tp / (tp + fp + fn).

    Returns
    -------
    float64 array of shape (n_classes,)
        In [0, 1], 1 is best. NaN for a class in neither truth nor prediction.
    """
    hits, truth, prediction = _counts(confusion)
    return _scores(hits, truth + prediction - hits, truth + prediction)


def precision(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Part of the pixels predicted as a class that are of it: tp / (tp + fp).

    Returns
    -------
    float64 array of shape (n_classes,)
        In [0, 1], 1 is best. 0 for a class that is in the truth and was never predicted, so that
        missing it cannot raise a mean; NaN for a class in neither.
    """
    hits, truth, prediction = _counts(confusion)
    return _scores(hits, prediction, truth + prediction)


def recall(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Part of the pixels of a class that were predicted as it: tp / (tp + fn).

    Returns
    -------
    float64 array of shape (n_classes,)
        In [0, 1], 1 is best. 0 for a class that was predicted and is not in the truth; NaN for a
        class in neither.
    """
    hits, truth, prediction = _counts(confusion)
    return _scores(hits, truth, truth + prediction)


def pixel_error(confusion: NDArray[np.int64]) -> float:
    """Part of the annotated pixels whose class is wrong.

    Returns
    -------
    float
        In [0, 1], 0 is best. NaN where no pixel is annotated.
    """
    pixels = int(confusion.sum())
    return 1 - int(np.trace(confusion)) / pixels if pixels else math.nan


def _counts(
    confusion: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of every class that are right, true, and predicted."""
    return np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)


def _scores(
    numerator: NDArray[np.int64], denominator: NDArray[np.int64], occurs: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Quotients; NaN for a class that does not occur, 0 where only the denominator is 0."""
    unscored = np.where(occurs > 0, 0.0, np.nan)
    return np.divide(numerator, denominator, out=unscored, where=denominator > 0)
