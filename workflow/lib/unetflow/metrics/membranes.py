"""Scores of the ISBI 2012 challenge, old and new: membranes between cells in electron micrographs.

A pixel is cell where its predicted probability of *cell* (1 - that of membrane, as in a submission
to the challenge) exceeds a threshold. Cells are 4-connected and membranes 8-connected, within their
section, and outside of it there is membrane. These rules, and the order in which labels are warped,
are those of the challenge's evaluation in Fiji [4].

References
----------
.. [1] Jain et al. 2010, DOI 10.1109/CVPR.2010.5539950: the warping error.
.. [2] Bertrand, Malandain 1994, DOI 10.1016/0167-8655(94)90046-9: simple points.
.. [3] Arganda-Carreras et al. 2015, DOI 10.3389/fnana.2015.00142: the challenge, and why it left
   its old scores: they judge the width of membranes.
.. [4] Arganda-Carreras et al. 2017, DOI 10.1093/bioinformatics/btx180: Trainable Weka Segmentation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from unetflow.metrics.boundary import thin
from unetflow.metrics.contingency import contingency, ratio, v_info, v_rand

THRESHOLDS = tuple(step / 10 for step in range(10))

# Neighbours one after the other around a pixel, (row, column).
RING = np.array([(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)])

# Of each pattern of neighbours (bit k = neighbour k is cell), the runs of cell that are 4-connected
# with the pixel; 0 if all are cell. If there is one, there is one of membrane: a simple point.
PATTERNS = (np.arange(256)[:, None] >> np.arange(8)) & 1
BESIDE, CORNER = PATTERNS[:, ::2], PATTERNS[:, 1::2]
RUNS = (BESIDE - BESIDE * CORNER * np.roll(BESIDE, -1, axis=1)).sum(axis=1)


class Best(NamedTuple):
    """A score and the lowest of the thresholds that give it."""

    score: float
    threshold: float


def challenge_scores(
    truth: NDArray[np.bool_], cells: NDArray[np.floating], ignore: NDArray[np.bool_] | None = None
) -> dict[str, Best]:
    """Every score of the challenge, each at the threshold that is best for it.

    Parameters
    ----------
    truth : bool array of shape (y, x) or (sections, y, x)
        True = cell, False = membrane.
    cells : float array of the same shape
        Predicted probability of cell, 0 to 1.
    ignore : bool array of the same shape, optional
        True where nothing is annotated. Such pixels are membrane on both sides, so that no cell
        reaches across them, and count in no total.

    Returns
    -------
    dict of Best
        At one threshold for all sections, all in [0, 1]. Errors by which it ranked at first, the
        least of each, over the pixels of all sections:

        - `warping_error`: part of the pixels at which the prediction splits or merges cells
          (`splits_and_mergers`) after `warp`: "minimum splits and mergers warping error".
        - `rand_error`: 1 - F-score of pairs of pixels, which is 1 - score of `contingency.v_rand`
          without thinning: foreground-restricted, so that pixels of true membrane do not count.
          Pairs lie within a section. NaN without a true cell.
        - `pixel_error`: 1 - F-score of cell pixels, 1 - 2 tp / (2 tp + fp + fn). NaN without a
          cell on either side, whatever the threshold.

        Plain errors beside them: the parts of the pixels that `warp` leaves different ([1],
        `warping_error_all`) and that differ at all (`pixel_error_rate`). NaN without any pixel.

        Scores by which it ranks now, the largest of each: `v_rand` and `v_info`, means over
        sections with a true cell of those of `contingency` after `boundary.thin` (the challenge
        thins to a line, see there, and tries threshold 1.0 too). NaN without such a section.

    Raises
    ------
    ValueError
        If shapes differ or are not of 2 or 3 axes, or a probability is not in [0, 1].
    TypeError
        If `truth` or `ignore` is not bool, or `cells` not float.
    """
    truth, cells, pixels = _as_sections(truth, cells, ignore)
    known, errors, scores = _components(truth), [], []
    for threshold in THRESHOLDS:
        predicted = cells > threshold
        found = _components(predicted)
        warped = np.stack([warp(*pair, threshold) for pair in zip(truth, cells, strict=True)])
        ranked = [splits_and_mergers(*pair) for pair in zip(warped, predicted, strict=True)]
        hits, positives = int((truth & predicted).sum()), int(truth.sum() + predicted.sum())
        errors.append(
            {
                "warping_error": ratio(int(np.sum(ranked)), pixels),
                "rand_error": 1 - v_rand(contingency(known, found))["score"],
                "pixel_error": 1 - ratio(2 * hits, positives),
                "warping_error_all": ratio(int((warped != predicted).sum()), pixels),
                "pixel_error_rate": ratio(int((truth != predicted).sum()), pixels),
            }
        )
        tables = [contingency(*pair) for pair in zip(known, map(thin, found), strict=True)]
        tables = [table for table in tables if table.truth_label.any()]
        rand, info = (sum(of(table)["score"] for table in tables) for of in (v_rand, v_info))
        scores.append({"v_rand": ratio(rand, len(tables)), "v_info": ratio(info, len(tables))})
    return _best(errors, sign=1) | _best(scores, sign=-1)


def warp(
    truth: NDArray[np.bool_], cells: NDArray[np.floating], threshold: float
) -> NDArray[np.bool_]:
    """True labels of a section (y, x), as near to the predicted ones as their topology allows.

    Pixels that differ are flipped where they are simple ([2]): the flip changes neither the number
    of cells nor of membranes, and what still differs from `cells > threshold` is an error of
    topology. Greedy, so it need not reach the least error: probabilities farthest from the
    threshold go first (ties by column, then row), in passes until one flips none. A queue would
    visit fewer pixels, but end in other labels than the challenge's. Nothing limits how far a
    membrane moves: [1] allows for a mask, the challenge gives none.

    Examples
    --------
    >>> warp(np.array([[True, False, True, True]]), np.array([[0.9, 0.8, 0.2, 0.7]]), 0.5)
    array([[ True,  True, False,  True]])
    """
    warped, probability = np.pad(np.ascontiguousarray(truth), 1), np.pad(cells, 1)
    column, row = np.nonzero((warped != (probability > threshold)).T)
    # float32, as there: it decides what is a tie.
    certainty = np.abs(probability[row, column] - threshold).astype(np.float32)
    wrong = (row * warped.shape[1] + column)[np.argsort(-certainty, kind="stable")]
    flip_simple(warped.view(np.uint8).ravel(), wrong, RUNS, RING @ (warped.shape[1], 1))
    return warped[1:-1, 1:-1]


def splits_and_mergers(warped: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> tuple[int, int]:
    """Pixels of a section (y, x) at which the prediction splits, and merges, cells of `warp`.

    Of those that differ, one predicted as cell merges if two or more cells are among its eight
    neighbours. One predicted as membrane splits if they are, or if its cell would fall apart
    without it. The others add or remove a cell or a hole.
    """
    warped, predicted = np.pad(warped, 1), np.pad(predicted, 1)
    wrong = np.flatnonzero(warped != predicted)
    near, cell = wrong[:, None] + RING @ (warped.shape[1], 1), warped.ravel()
    several = _different(_components(warped[None]).ravel()[near]) > 1
    # Two runs of membrane that are connected elsewhere enclose, with this pixel, part of the cell.
    membranes = ndimage.label(~warped, np.ones((3, 3)))[0].ravel()
    apart = several | (RUNS[cell[near] @ (1 << np.arange(8))] > _different(membranes[near]))
    return int((apart & cell[wrong]).sum()), int((several & ~cell[wrong]).sum())


@njit(nogil=True, cache=True)
def flip_simple(labels, wrong, runs, ring):  # type: ignore[no-untyped-def]
    """Flip the pixels `wrong` that are simple, in passes until one flips none; in place."""
    left, flipped = len(wrong), True
    while flipped:
        kept = 0
        for at in wrong[:left]:
            around = 0
            for bit, offset in enumerate(ring):
                around |= labels[at + offset] << bit
            if runs[around] == 1:
                labels[at] ^= 1
            else:
                wrong[kept] = at
                kept += 1
        left, flipped = kept, kept < left


def _different(labels: NDArray[np.integer]) -> NDArray[np.intp]:
    """Number of different labels but 0 in each row."""
    return np.asarray((np.diff(np.sort(labels, axis=1), axis=1, prepend=0) > 0).sum(axis=1))


def _components(cells: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Cells of (sections, y, x), numbered through."""
    neighbours = ndimage.generate_binary_structure(3, 1) & [[[False]], [[True]], [[False]]]
    return np.asarray(ndimage.label(cells, neighbours)[0])


def _best(scores: Sequence[dict[str, float]], sign: int) -> dict[str, Best]:
    """Of each score, that of least `sign * score`; NaN only where it is at every threshold."""
    best = {}
    for name in scores[0]:
        over = (Best(row[name], at) for row, at in zip(scores, THRESHOLDS, strict=True))
        best[name] = min(over, key=lambda one: (math.isnan(one.score), sign * one.score))
    return best


def _as_sections(
    truth: NDArray[np.bool_], cells: NDArray[np.floating], ignore: NDArray[np.bool_] | None
) -> tuple[NDArray[np.bool_], NDArray[np.float64], int]:
    """Stacks of sections in which ignored pixels are membrane, and how many pixels count."""
    ignore = np.zeros(truth.shape, bool) if ignore is None else ignore
    if [array.dtype.kind for array in (truth, cells, ignore)] != ["b", "f", "b"]:
        raise TypeError(
            f"truth and ignore must be bool, cells float: got {truth.dtype}, {ignore.dtype} and "
            f"{cells.dtype}; compare classes first, as in `classes == 1`"
        )
    if not truth.shape == cells.shape == ignore.shape or truth.ndim not in (2, 3):
        raise ValueError(
            "truth, cells and ignore must have the same shape (y, x) or (sections, y, x): got "
            f"{truth.shape}, {cells.shape} and {ignore.shape}; crop to the annotated image"
        )
    cells = np.where(ignore, 0, cells).astype(np.float64)
    if not ((cells >= 0) & (cells <= 1)).all():
        raise ValueError(
            f"cells must be probabilities in [0, 1]: got {cells.min()} to {cells.max()}; apply a "
            "softmax to logits, and mark pixels without a value in `ignore`"
        )
    stack = (-1, *truth.shape[-2:])
    return (truth & ~ignore).reshape(stack), cells.reshape(stack), int((~ignore).sum())
