"""Scores of semantic classes, all from one confusion matrix.

Matrices of several images add up: `confusion(a) + confusion(b)` gives the scores over their pixels
together. A class that occurs in neither truth nor prediction has no score: NaN, for callers to
leave out of a mean over classes (`numpy.nanmean`). Counting it as 1 would reward every experiment
for classes that its images do not have, counting it as 0 would punish it.

References
----------
.. [1] Maier-Hein et al. 2024, DOI 10.1038/s41592-023-02151-z: definitions of the scores, and the
   NaN for a class without reference and prediction.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def confusion(
    truth: NDArray[np.integer],
    prediction: NDArray[np.integer],
    n_classes: int,
    ignore_value: int = 255,
) -> NDArray[np.int64]:
    """Count the pixels of every pair of true and predicted class.

    Parameters
    ----------
    truth, prediction : integer arrays of the same shape, any number of axes
        Classes 0 to n_classes - 1; the truth may also hold `ignore_value`.
    n_classes : int
        Number of classes, background included.
    ignore_value : int
        Truth of pixels that are not annotated: they are left out, whatever the prediction.

    Returns
    -------
    int64 array of shape (n_classes, n_classes)
        Rows are true classes, columns predicted ones. All 0 where nothing is annotated.

    Raises
    ------
    ValueError
        If the shapes differ, a class is out of range, or `ignore_value` is a class.
    TypeError
        If the classes are not integers.
    """
    if 0 <= ignore_value < n_classes:
        raise ValueError(
            f"ignore_value must not be a class: got {ignore_value} with {n_classes} classes; "
            "use 255, or -1 with more classes"
        )
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth and prediction must have the same shape: got {truth.shape} and "
            f"{prediction.shape}; crop or resample the prediction to the annotated image"
        )
    annotated = truth != ignore_value
    truth, prediction = truth[annotated], prediction[annotated]
    for name, classes in (("truth", truth), ("prediction", prediction)):
        if not np.issubdtype(classes.dtype, np.integer):
            raise TypeError(
                f"{name}: classes must be integers: got {classes.dtype}; "
                "take the argmax of probabilities"
            )
        if classes.size and not 0 <= classes.min() <= classes.max() < n_classes:
            raise ValueError(
                f"{name}: classes must be 0 to {n_classes - 1}: got {classes.min()} to "
                f"{classes.max()}; check n_classes, and mark unannotated pixels as {ignore_value}"
            )
    pairs = truth.astype(np.int64) * n_classes + prediction.astype(np.int64)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


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
