"""SEG, and scores of matched objects."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unetflow.metrics.contingency import contingency
from unetflow.metrics.instances import divided_and_joined, matching, mean_iou, object_ious

RATES = ("precision", "recall", "f1", "average_precision", "panoptic_quality")
PAIRS = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5).flatmap(
    lambda shape: st.tuples(
        *[hnp.arrays(np.uint16, shape, elements=st.sampled_from([0, 1, 2, 5, 300]))] * 2
    )
)


def iou_matrix(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    rows = [truth == label for label in np.unique(truth[truth > 0])]
    columns = [prediction == label for label in np.unique(prediction[prediction > 0])]
    result = np.zeros((len(rows), len(columns)))
    for i, true in enumerate(rows):
        for j, found in enumerate(columns):
            result[i, j] = (true & found).sum() / (true | found).sum()
    return result


def best_assignment(iou: np.ndarray, threshold: float) -> tuple[int, float]:
    """Most pairs at the threshold, then the largest sum, over all one-to-one assignments."""
    if iou.shape[0] > iou.shape[1]:
        iou = iou.T
    best = (0, 0.0)
    for columns in permutations(range(iou.shape[1]), iou.shape[0]):
        values = [row[column] for row, column in zip(iou, columns, strict=True)]
        values = [value for value in values if value >= threshold]
        best = max(best, (len(values), sum(values)))
    return best


@given(PAIRS)
def test_seg_equals_a_loop_over_objects(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = pair
    jaccard = []
    for label in np.unique(truth[truth > 0]):
        true = truth == label
        jaccard.append(0.0)
        for found in np.unique(prediction[prediction > 0]):
            shared = (true & (prediction == found)).sum()
            if shared > true.sum() / 2:
                jaccard[-1] = shared / (true | (prediction == found)).sum()
    table = contingency(truth, prediction)
    assert object_ious(table).tolist() == pytest.approx(jaccard)
    if jaccard:
        assert mean_iou(table) == pytest.approx(sum(jaccard) / len(jaccard))
    else:
        assert math.isnan(mean_iou(table))


def test_exactly_half_of_an_object_is_no_match() -> None:
    truth = np.array([1, 1, 1, 1])
    assert mean_iou(contingency(truth, np.array([2, 2, 3, 3]))) == 0
    assert mean_iou(contingency(truth, np.array([2, 2, 2, 3]))) == 0.75


def test_one_prediction_may_match_several_true_objects_in_seg() -> None:
    truth = np.array([1, 1, 2, 2, 0])
    prediction = np.array([7, 7, 7, 7, 7])
    assert object_ious(contingency(truth, prediction)).tolist() == [0.4, 0.4]


def test_a_worked_frame_has_the_seg_of_the_challenges_own_tool() -> None:
    truth = np.array(
        [
            [1, 1, 1, 0, 2, 2],
            [1, 1, 1, 0, 2, 2],
            [0, 0, 0, 0, 0, 0],
            [3, 3, 0, 9, 9, 9],
        ]
    )
    prediction = np.array(
        [
            [4, 4, 4, 4, 0, 8],  # object 1: 6 shared of a union of 8
            [4, 4, 4, 4, 0, 8],  # object 2: half covered, so 0
            [0, 0, 0, 0, 0, 0],
            [0, 0, 0, 6, 6, 5],  # object 3: missed, object 9: 2 of 3
        ]
    )
    # py-ctcmetrics 1.3.3 gives the same number for these two frames.
    assert mean_iou(contingency(truth, prediction)) == pytest.approx((6 / 8 + 0 + 0 + 2 / 3) / 4)


def test_pixels_left_out_shrink_the_objects() -> None:
    truth, prediction = np.array([1, 1, 1, 1]), np.array([1, 1, 0, 0])
    ignore = np.array([False, False, False, True])
    assert mean_iou(contingency(truth, prediction, ignore)) == pytest.approx(2 / 3)


@given(PAIRS, st.sampled_from([0.05, 0.2, 1 / 3, 0.5, 0.6, 1.0]))
def test_matching_equals_trying_all_assignments(
    pair: tuple[np.ndarray, np.ndarray], threshold: float
) -> None:
    iou = iou_matrix(*pair)
    pairs, total = best_assignment(iou, threshold)
    scores = matching(contingency(*pair), threshold)
    missed, wrong = iou.shape[0] - pairs, iou.shape[1] - pairs
    assert (scores["tp"], scores["fp"], scores["fn"]) == (pairs, wrong, missed)
    if not sum(iou.shape):
        assert all(math.isnan(scores[name]) for name in RATES)
    elif not pairs:
        assert all(scores[name] == 0 for name in RATES)
    else:
        assert scores["precision"] == pytest.approx(pairs / iou.shape[1])
        assert scores["recall"] == pytest.approx(pairs / iou.shape[0])
        f1 = 2 / (1 / scores["precision"] + 1 / scores["recall"])
        assert scores["f1"] == pytest.approx(f1)
        assert scores["average_precision"] == pytest.approx(pairs / (pairs + wrong + missed))
        assert scores["panoptic_quality"] == pytest.approx(f1 * total / pairs)


def test_more_pairs_go_before_a_larger_iou() -> None:
    #           A A A A A A A A B B B     A with a: 5 of 8 + 3, with b: 3 of 8;
    # predicted a a a a a b b b a a a     B with a: 3 of 8
    truth = np.array([1] * 8 + [2] * 3)
    prediction = np.array([1] * 5 + [2] * 3 + [1] * 3)
    iou = iou_matrix(truth, prediction)
    assert iou.tolist() == [[5 / 11, 3 / 8], [3 / 8, 0]]
    scores = matching(contingency(truth, prediction), 0.3)
    assert scores["tp"] == 2
    assert scores["panoptic_quality"] == pytest.approx((3 / 8 + 3 / 8) / 2)
    assert matching(contingency(truth, prediction), 0.4)["tp"] == 1


def test_a_pair_exactly_at_the_threshold_matches() -> None:
    table = contingency(np.array([1] * 10), np.array([1] * 7 + [0] * 3))
    assert matching(table, 0.7)["tp"] == 1
    assert matching(table, np.nextafter(0.7, 1))["tp"] == 0


def test_two_halves_at_one_half_make_one_match() -> None:
    scores = matching(contingency(np.array([1, 1]), np.array([1, 2])), 0.5)
    assert (scores["tp"], scores["fp"], scores["fn"]) == (1, 1, 0)


def test_a_crowd_of_contested_objects_is_matched_one_to_one() -> None:
    side = 40
    truth = np.kron(np.arange(1, side * side + 1).reshape(side, side), np.ones((4, 4), np.int64))
    prediction = np.roll(truth, (2, 2), axis=(0, 1))
    scores = matching(contingency(truth, prediction), 0.1)  # each IoU is 4 / 28
    assert scores["tp"] == side * side
    assert scores["panoptic_quality"] == pytest.approx(1 / 7)


def test_groups_of_contested_objects_are_matched_apart() -> None:
    """A chain of three by two objects, two halves, a whole, and two objects in one."""
    chain = ([1] * 4 + [2] * 4 + [3] * 4, [1] * 2 + [2] * 4 + [3] * 4 + [4] * 2)
    rest = ([4, 4, 5, 6, 7], [5, 6, 7, 8, 8])
    truth, prediction = (np.array(one + other) for one, other in zip(chain, rest, strict=True))
    for threshold in (0.2, 0.3, 0.5):
        pairs, total = best_assignment(iou_matrix(truth, prediction), threshold)
        scores = matching(contingency(truth, prediction), threshold)
        assert scores["tp"] == pairs
        both = scores["tp"] + scores["fp"] / 2 + scores["fn"] / 2
        assert scores["panoptic_quality"] == pytest.approx(total / both)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(
    ("truth", "prediction", "rate"),
    [([0, 0], [0, 0], math.nan), ([0, 0], [1, 2], 0.0), ([1, 2], [0, 0], 0.0), ([4], [7], 1.0)],
)
def test_empty_sides_have_stated_scores(
    truth: list[int], prediction: list[int], rate: float, threshold: float
) -> None:
    scores = matching(contingency(np.array(truth), np.array(prediction)), threshold)
    assert [scores[name] for name in RATES] == pytest.approx([rate] * 5, nan_ok=True)


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, math.nan])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    table = contingency(np.array([1]), np.array([1]))
    with pytest.raises(
        ValueError, match=r"threshold must be an IoU above 0 and up to 1: got .*use"
    ):
        matching(table, threshold)


@given(PAIRS)
def test_objects_in_pieces_and_joined_ones_are_those_of_brute_force(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    truth, prediction = pair

    def holding_several(outer: np.ndarray, inner: np.ndarray) -> int:
        found = 0
        for name in np.unique(outer[outer > 0]):
            there = outer == name
            pieces = np.unique(inner[there & (inner > 0)])
            found += sum((inner[there] == p).sum() * 2 > (inner == p).sum() for p in pieces) > 1
        return found

    assert divided_and_joined(contingency(truth, prediction)) == {
        "over_segmented": holding_several(truth, prediction),
        "under_segmented": holding_several(prediction, truth),
    }


def test_a_cell_in_two_pieces_and_two_cells_in_one() -> None:
    whole, halves = np.array([[1, 1, 1, 1, 0]]), np.array([[1, 1, 2, 2, 0]])
    assert divided_and_joined(contingency(whole, halves)) == {
        "over_segmented": 1,
        "under_segmented": 0,
    }
    assert divided_and_joined(contingency(halves, whole)) == {
        "over_segmented": 0,
        "under_segmented": 1,
    }
