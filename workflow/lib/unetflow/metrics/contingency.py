"""The contingency table of two label images, and the scores that follow from it.

Every metric of instances starts from how many pixels each true object shares with each predicted
one. The table is sparse: an object meets few others, so it has a few cells an object whatever the
size of the image.

Undefined scores follow one rule in all modules of `metrics`: a score is 0 where one side alone is
empty, and NaN where there is nothing to judge. NaN is for callers to leave out of a mean
(`numpy.nanmean`), never to count as 0.

References
----------
.. [1] Arganda-Carreras et al. 2015, DOI 10.3389/fnana.2015.00142: V_rand and V_info, and their
   restriction to the foreground.
.. [2] Meilă 2007, DOI 10.1016/j.jmva.2006.11.013: the variation of information.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Marginal = tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.intp]]
"""Labels of one side, their pixels, and the position of each cell's label among them."""


@dataclass(frozen=True, eq=False)
class Contingency:
    """Non-empty cells of the table, in ascending order of the pair of labels.

    Attributes
    ----------
    truth_label, prediction_label : integer arrays of shape (cells,)
        The pair of labels of each cell, in the dtype of its image; 0 = background.
    count : int64 array of shape (cells,)
        Pixels that have this pair of labels, at least 1.
    """

    truth_label: NDArray[np.integer]
    prediction_label: NDArray[np.integer]
    count: NDArray[np.int64]

    @property
    def pixels(self) -> int:
        """Number of pixels counted, background included."""
        return int(self.count.sum())

    @cached_property
    def truth_marginal(self) -> Marginal:
        """True labels, their pixels, and which of them each cell has, see `marginal`."""
        return marginal(self.truth_label, self.count)

    @cached_property
    def prediction_marginal(self) -> Marginal:
        """Predicted labels, their pixels, and which of them each cell has, see `marginal`."""
        return marginal(self.prediction_label, self.count)

    @property
    def truth_sizes(self) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """True labels in ascending order, 0 among them where it occurs, and their pixels."""
        return self.truth_marginal[:2]

    @property
    def prediction_sizes(self) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """Predicted labels in ascending order, 0 among them where it occurs, and their pixels."""
        return self.prediction_marginal[:2]

    def where(self, cells: NDArray[np.bool_]) -> Contingency:
        """Return the table of these cells only, for a bool array of shape (cells,)."""
        return Contingency(self.truth_label[cells], self.prediction_label[cells], self.count[cells])


def contingency(
    truth: NDArray[np.integer],
    prediction: NDArray[np.integer],
    ignore: NDArray[np.bool_] | None = None,
) -> Contingency:
    """Count the pixels of every pair of labels that occurs.

    Parameters
    ----------
    truth, prediction : integer arrays of the same shape, any number of axes
        Object ids, 0 = background. They need not be consecutive, nor small: 64-bit ids are exact.
    ignore : bool array of the same shape, optional
        True where a pixel is left out, of objects' sizes too.

    Returns
    -------
    Contingency
        Without any cell where no pixel is left. Working memory is about 20 bytes a pixel, twice
        that where labels are noise.

    Raises
    ------
    ValueError
        If the shapes differ or a label is negative.
    TypeError
        If labels are not integers (bool is no label either) or `ignore` is not bool.

    Examples
    --------
    >>> table = contingency(np.array([0, 1, 1, 7]), np.array([0, 3, 3, 3]))
    >>> list(zip(table.truth_label.tolist(), table.prediction_label.tolist(), table.count.tolist()))
    [(0, 0, 1), (1, 3, 2), (7, 3, 1)]
    """
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(
                f"{name}: labels must be integers: got {labels.dtype}; "
                "give every object its id with skimage.measure.label"
            )
        if labels.size and labels.min() < 0:
            raise ValueError(
                f"{name}: labels must not be negative: got {labels.min()}; "
                "use 0 for background and `ignore` for pixels that do not count"
            )
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth and prediction must have the same shape: got {truth.shape} and "
            f"{prediction.shape}; crop or resample the prediction to the annotated image"
        )
    if ignore is not None:
        if ignore.dtype != np.bool_:
            raise TypeError(
                f"ignore must be a bool array: got {ignore.dtype}; compare it first, "
                "as in `ignore=classes == 255`"
            )
        if ignore.shape != truth.shape:
            raise ValueError(
                f"ignore must have the shape of the labels: got {ignore.shape} and "
                f"{truth.shape}; make it from the annotated image"
            )
        truth, prediction = truth[~ignore], prediction[~ignore]
    truth, prediction = truth.ravel(), prediction.ravel()

    columns = int(prediction.max(initial=0)) + 1
    if (int(truth.max(initial=0)) + 1) * columns >= 2**64:
        # Ids so large that a pair does not fit one key: count their ranks instead.
        truth_ids, truth_rank = np.unique(truth, return_inverse=True)
        prediction_ids, prediction_rank = np.unique(prediction, return_inverse=True)
        ranks = contingency(truth_rank, prediction_rank)
        return Contingency(
            truth_ids[ranks.truth_label], prediction_ids[ranks.prediction_label], ranks.count
        )
    # Sorting one key a pixel beat scipy.sparse, which also allocates a row for every id up to
    # the largest, and beat run lengths, which are no faster on cells and slow on noise.
    pairs = truth.astype(np.uint64)
    pairs *= np.uint64(columns)
    pairs += prediction.astype(np.uint64)
    keys, count = np.unique(pairs, return_counts=True)
    return Contingency(
        (keys // np.uint64(columns)).astype(truth.dtype),
        (keys % np.uint64(columns)).astype(prediction.dtype),
        count.astype(np.int64),
    )


def summed(tables: Sequence[Contingency]) -> Contingency:
    """Table of an image from those of its parts, at least one, whose labels are of one dtype.

    Whatever the parts, it is the table of the whole: counts are whole numbers.
    """
    truth, prediction, count = (
        np.concatenate([getattr(table, name) for table in tables])
        for name in ("truth_label", "prediction_label", "count")
    )
    order = np.lexsort((prediction, truth))
    truth, prediction = truth[order], prediction[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (truth[1:] != truth[:-1]) | (prediction[1:] != prediction[:-1])
    sums = np.add.reduceat(count[order], np.flatnonzero(new)) if len(order) else count
    return Contingency(truth[new], prediction[new], sums)


def marginal(labels: NDArray[np.integer], count: NDArray[np.int64]) -> Marginal:
    """Sum the counts of each label.

    Parameters
    ----------
    labels, count : arrays of shape (cells,)
        One side of a table and its counts.

    Returns
    -------
    labels : array of shape (labels,)
        In ascending order, each once.
    sizes : int64 array of shape (labels,)
        Pixels of each label; exact up to 2**53.
    index : integer array of shape (cells,)
        Position of each cell's label in the two others: `sizes[index]` is a size per cell.
    """
    unique, index = np.unique(labels, return_inverse=True)
    return unique, np.bincount(index, weights=count).astype(np.int64), index


def adapted_rand(table: Contingency) -> dict[str, float]:
    """Adapted Rand error, with precision and recall of pairs of pixels.

    A pair of true foreground pixels is positive where both lie in one object. With c, a, b the
    pixels of cells, of true objects and of predicted ones (only their part on true foreground),

        precision = sum c(c-1) / sum b(b-1),   recall = sum c(c-1) / sum a(a-1),
        error = 1 - 2 sum c(c-1) / (sum a(a-1) + sum b(b-1)),

    which is 1 minus their harmonic mean. Pixels of truth label 0 do not count. A predicted 0 on
    true foreground is no object: each such pixel stands alone, in no pair (as in `v_rand`).
    `skimage.metrics.adapted_rand_error` takes predicted 0 as one large object instead, so the
    errors agree where true foreground has no predicted 0; and up to 0.26 at least it returns
    precision and recall the other way round than it says (scikit-image issue 6485).

    Returns
    -------
    dict
        `adapted_rand_error` (0 is best), `precision`, `recall`, all in [0, 1]. An empty prediction
        has error 1, precision and recall 0. All are NaN where neither side has a pair: without
        true foreground, whatever the prediction, or with isolated pixels only.

    References
    ----------
    [1], over pairs of different pixels as in scikit-image.
    """
    cells = _foreground(table)
    together = float((cells.pixels * (cells.overlap - 1)).sum())
    truth = float((cells.pixels * (cells.truth - 1)).sum())
    prediction = float((cells.pixels * (cells.prediction - 1)).sum())
    return {
        "adapted_rand_error": 1 - ratio(2 * together, truth + prediction),
        "precision": ratio(together, prediction, empty=truth == 0),
        "recall": ratio(together, truth, empty=prediction == 0),
    }


def v_rand(table: Contingency) -> dict[str, float]:
    """Foreground-restricted Rand score, with its split and merge parts.

    With p, t, s the fractions of true foreground pixels in cells, in true objects and in predicted
    ones, and alpha = 0.5,

        score = sum p² / (alpha sum s² + (1 - alpha) sum t²),
        split = sum p² / sum t²,   merge = sum p² / sum s².

    Split falls below 1 where true objects are split, merge where they are merged. Pixels of truth
    label 0 do not count. A predicted 0 on true foreground is no object: every such pixel is an
    object of its own, as in the challenge's evaluation, so border drawn inside a cell splits it.
    Were 0 one object, an empty prediction would be a mere merger, and all borders one neurite.

    Returns
    -------
    dict
        `score`, `split`, `merge`, in (0, 1], 1 is best. With an empty prediction merge is 1 and
        split is pixels / sum of squared sizes, near 0. All are NaN without true foreground,
        whatever the prediction.

    References
    ----------
    [1]; thin the prediction first (`boundary.thin`) for the challenge's "after border thinning".
    """
    cells = _foreground(table)
    together = float((cells.pixels * cells.overlap).sum())
    truth = float((cells.pixels * cells.truth).sum())
    prediction = float((cells.pixels * cells.prediction).sum())
    return {
        "score": ratio(2 * together, truth + prediction),
        "split": ratio(together, truth),
        "merge": ratio(together, prediction),
    }


def v_info(table: Contingency) -> dict[str, float]:
    """Foreground-restricted information theoretic score, with its split and merge parts.

    With S the prediction, T the truth, I their mutual information and alpha = 0.5,

        score = I(S; T) / ((1 - alpha) H(S) + alpha H(T)),
        split = I(S; T) / H(S),   merge = I(S; T) / H(T).

    Pixels of truth label 0 do not count, and every predicted 0 on true foreground is an object of
    its own, as in `v_rand`.

    Returns
    -------
    dict
        `score`, `split`, `merge`, in [0, 1], 1 is best. Where H(S) = 0 (one predicted object)
        nothing is split and split is 1; where H(T) = 0 (one true object) nothing can be merged and
        merge is 1. With an empty prediction merge is 1 and split is H(T) / log(pixels). All are
        NaN without true foreground, whatever the prediction.

    References
    ----------
    [1]
    """
    cells = _foreground(table)
    total = cells.pixels.sum()
    if not total:
        return dict.fromkeys(("score", "split", "merge"), math.nan)
    # H(S|T) and H(T|S) first, not I: their terms are never negative, and exactly 0 without error.
    split = cells.mean_log2(cells.truth / cells.overlap)
    merge = cells.mean_log2(cells.prediction / cells.overlap)
    of_prediction = cells.mean_log2(total / cells.prediction)
    of_truth = cells.mean_log2(total / cells.truth)
    return {
        "score": _kept(split + merge, of_prediction + of_truth),
        "split": _kept(split, of_prediction),
        "merge": _kept(merge, of_truth),
    }


def variation_of_information(table: Contingency) -> dict[str, float]:
    """Variation of information in bits, over all pixels: label 0 is a label like any other.

    With S the prediction and T the truth, split = H(S|T) and merge = H(T|S), as the two values of
    `skimage.metrics.variation_of_information(truth, prediction)`; their sum is the distance.

    Returns
    -------
    dict
        `split`, `merge`, at least 0, 0 is best. Two empty images agree: both are 0. They are NaN
        only for a table without pixels.

    References
    ----------
    [2]
    """
    if not table.pixels:
        return dict.fromkeys(("split", "merge"), math.nan)
    cells = _cells(table)
    return {
        "split": cells.mean_log2(cells.truth / cells.overlap),
        "merge": cells.mean_log2(cells.prediction / cells.overlap),
    }


def ratio(numerator: float, denominator: float, empty: bool = True) -> float:
    """Quotient of two sums; where the denominator is 0, NaN if both sides are `empty`, else 0."""
    if denominator:
        return float(numerator / denominator)
    return math.nan if empty else 0.0


@dataclass(frozen=True, eq=False)
class _Cells:
    """What a pixel of each cell belongs to: float64 arrays of shape (cells,).

    A sum over objects of a squared size is a sum over pixels of the size of their object, and an
    entropy is a mean over pixels too, so both are taken cell by cell.
    """

    pixels: NDArray[np.float64]  # of the cell
    overlap: NDArray[np.float64]  # size of the overlap of the two objects that its pixels are in
    truth: NDArray[np.float64]  # size of the true object
    prediction: NDArray[np.float64]  # size of the predicted object

    def mean_log2(self, odds: NDArray[np.float64]) -> float:
        """Mean over the pixels of log2(odds), in bits."""
        return float((self.pixels * np.log2(odds)).sum() / self.pixels.sum())


def _cells(table: Contingency) -> _Cells:
    (_, truth, row), (_, prediction, column) = table.truth_marginal, table.prediction_marginal
    # float64, since squared sizes of a large volume overflow int64.
    count = table.count.astype(np.float64)
    return _Cells(
        count, count, truth[row].astype(np.float64), prediction[column].astype(np.float64)
    )


def _foreground(table: Contingency) -> _Cells:
    """Cells of true foreground, in which each pixel predicted as background is one object."""
    table = table.where(table.truth_label > 0)
    cells = _cells(table)
    alone = table.prediction_label == 0
    return _Cells(
        cells.pixels,
        np.where(alone, 1.0, cells.overlap),
        cells.truth,
        np.where(alone, 1.0, cells.prediction),
    )


def _kept(lost: float, entropy: float) -> float:
    """Return the part of an entropy that is not lost; all of it where there is none to lose."""
    return max(0.0, 1 - lost / entropy) if entropy else 1.0
