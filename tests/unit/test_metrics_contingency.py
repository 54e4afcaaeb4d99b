"""The contingency table and the clustering scores made from it."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import adapted_rand_error
from skimage.metrics import variation_of_information as skimage_variation_of_information

from unetflow.metrics.contingency import (
    Contingency,
    adapted_rand,
    contingency,
    summed,
    v_info,
    v_rand,
    variation_of_information,
)

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6)
SCORES = ("score", "split", "merge")


@st.composite
def label_pairs(draw: st.DrawFn, top: int = 4) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(SHAPES)
    dtypes = st.sampled_from([np.uint8, np.int16, np.uint32, np.int64, np.uint64])
    truth, prediction = (
        draw(hnp.arrays(draw(dtypes), shape, elements=st.integers(0, top))) for _ in range(2)
    )
    return truth, prediction


def cells(table: Contingency) -> dict[tuple[int, int], int]:
    pairs = zip(table.truth_label.tolist(), table.prediction_label.tolist(), strict=True)
    return dict(zip(pairs, table.count.tolist(), strict=True))


def singled_out(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Give every pixel predicted as background on true foreground an id of its own."""
    result = prediction.astype(np.int64)
    alone = (truth > 0) & (prediction == 0)
    result[alone] = np.arange(alone.sum()) + result.max() + 1
    return result


def test_a_worked_table_has_its_nonempty_cells_in_order() -> None:
    truth = np.array([[1, 1, 0, 0], [1, 1, 0, 9], [0, 0, 0, 9]], np.uint8)
    prediction = np.array([[5, 5, 5, 0], [2, 2, 0, 3], [0, 0, 0, 0]], np.int32)
    table = contingency(truth, prediction)
    assert cells(table) == {(0, 0): 5, (0, 5): 1, (1, 2): 2, (1, 5): 2, (9, 0): 1, (9, 3): 1}
    assert list(cells(table)) == sorted(cells(table))
    assert table.pixels == 12
    assert [part.tolist() for part in table.truth_sizes] == [[0, 1, 9], [6, 4, 2]]
    assert [part.tolist() for part in table.prediction_sizes] == [[0, 2, 3, 5], [6, 2, 1, 3]]
    assert (table.truth_label.dtype, table.prediction_label.dtype) == (np.uint8, np.int32)
    assert table.count.dtype == np.int64


@given(label_pairs())
def test_the_table_equals_a_loop_over_pixels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = pair
    looped = Counter(zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True))
    assert cells(contingency(truth, prediction)) == looped


@given(label_pairs(), st.data())
def test_ignored_pixels_count_nowhere(
    pair: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    truth, prediction = pair
    ignore = data.draw(hnp.arrays(np.bool_, truth.shape))
    kept = contingency(truth[~ignore], prediction[~ignore])
    assert cells(contingency(truth, prediction, ignore)) == cells(kept)


@given(label_pairs())
def test_swapping_the_images_transposes_the_table(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = pair
    swapped = {(b, a): n for (a, b), n in cells(contingency(prediction, truth)).items()}
    assert cells(contingency(truth, prediction)) == swapped


@pytest.mark.parametrize("other", [0, 1, 2**63, 2**64 - 1])
def test_ids_of_64_bits_are_exact(other: int) -> None:
    largest = 2**64 - 1
    truth = np.array([0, largest, largest, largest - 1], np.uint64)
    prediction = np.array([0, other, other, 1], np.uint64)
    expected = {(0, 0): 1, (largest, other): 2, (largest - 1, 1): 1}
    assert cells(contingency(truth, prediction)) == expected
    assert cells(contingency(np.zeros(4, np.uint8), truth)) == {
        (0, 0): 1,
        (0, largest - 1): 1,
        (0, largest): 2,
    }


@given(label_pairs(), st.integers(1, 3), st.integers(1, 3))
def test_tables_of_parts_combine_to_that_of_the_whole(
    pair: tuple[np.ndarray, np.ndarray], step: int, parts: int
) -> None:
    edges = range(0, len(pair[0]) + 1, step)
    tables = [contingency(*(side[at : at + step] for side in pair)) for at in edges]
    whole, joined = contingency(*pair), summed(tables)
    for name in ("truth_label", "prediction_label", "count"):
        one, other = getattr(whole, name), getattr(joined, name)
        assert np.array_equal(one, other)
        assert one.dtype == other.dtype
    assert cells(summed([joined] * parts)) == {at: parts * n for at, n in cells(whole).items()}


def test_memory_order_does_not_mix_up_pixels() -> None:
    truth = np.arange(12).reshape(3, 4)
    assert cells(contingency(np.asfortranarray(truth), truth)) == {(i, i): 1 for i in range(12)}


def test_an_image_without_pixels_has_an_empty_table() -> None:
    labels = np.zeros((0, 3), np.uint16)
    table = contingency(labels, labels)
    assert table.pixels == 0
    assert len(table.truth_sizes[0]) == 0
    everything = np.ones((2, 2), np.bool_)
    ignored = contingency(np.ones((2, 2), np.uint16), np.ones((2, 2), np.uint16), everything)
    for score in (adapted_rand, v_rand, v_info, variation_of_information):
        for emptied in (table, ignored):
            assert all(math.isnan(value) for value in score(emptied).values())


ONE = np.ones((2, 3), np.int32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((ONE, ONE[:1]), ValueError, "must have the same shape: got (2, 3) and (1, 3); crop"),
        ((ONE, ONE * 1.0), TypeError, "prediction: labels must be integers: got float64; give"),
        ((ONE > 0, ONE), TypeError, "truth: labels must be integers: got bool; give every object"),
        ((ONE, -ONE), ValueError, "prediction: labels must not be negative: got -1; use 0 for"),
        ((ONE, ONE, ONE), TypeError, "ignore must be a bool array: got int32; compare it first"),
        ((ONE, ONE, ONE[0] > 0), ValueError, "ignore must have the shape of the labels: got (3,)"),
    ],
)
def test_wrong_input_is_named_with_its_remedy(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        contingency(*arguments)


@given(label_pairs())
def test_adapted_rand_equals_scikit_image_with_background_pixels_standing_alone(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    truth, prediction = pair
    scores = adapted_rand(contingency(truth, prediction))
    with np.errstate(invalid="ignore"):
        error, *rates = adapted_rand_error(truth.astype(np.int64), singled_out(truth, prediction))
    # scikit-image returns recall before precision, against its own docstring: its issue 6485.
    expected = dict(
        zip(("adapted_rand_error", "recall", "precision"), (error, *rates), strict=True)
    )
    for name, value in expected.items():
        if not math.isnan(value):
            assert scores[name] == pytest.approx(value)
        else:  # 0/0: no pair on this side; ours is 0 where the other side has one
            assert math.isnan(scores[name]) if math.isnan(error) else scores[name] == 0


@given(label_pairs())
def test_variation_of_information_equals_scikit_image(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    truth, prediction = pair
    scores = variation_of_information(contingency(truth, prediction))
    expected = skimage_variation_of_information(truth.astype(np.int64), prediction.astype(np.int64))
    assert [scores["split"], scores["merge"]] == pytest.approx(list(expected))


@given(label_pairs())
def test_v_rand_equals_counting_pairs_of_pixels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = pair
    foreground = truth > 0
    scores = v_rand(contingency(truth, prediction))
    if not foreground.any():
        assert all(math.isnan(value) for value in scores.values())
        return
    in_truth, in_prediction = truth[foreground], singled_out(truth, prediction)[foreground]
    same_truth = in_truth[:, None] == in_truth[None]
    same_prediction = in_prediction[:, None] == in_prediction[None]
    both = (same_truth & same_prediction).sum()
    assert scores["split"] == pytest.approx(both / same_truth.sum())
    assert scores["merge"] == pytest.approx(both / same_prediction.sum())
    harmonic = 2 / (1 / scores["split"] + 1 / scores["merge"])
    assert scores["score"] == pytest.approx(harmonic)


@given(label_pairs())
def test_v_info_equals_mutual_information_over_entropy(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    truth, prediction = pair
    foreground = truth > 0
    scores = v_info(contingency(truth, prediction))
    if not foreground.any():
        assert all(math.isnan(value) for value in scores.values())
        return
    in_truth = truth[foreground].tolist()
    in_prediction = singled_out(truth, prediction)[foreground].tolist()
    n = len(in_truth)
    p, t, s = (
        {key: count / n for key, count in Counter(values).items()}
        for values in (zip(in_truth, in_prediction, strict=True), in_truth, in_prediction)
    )
    information = sum(p[i, j] * math.log(p[i, j] / (t[i] * s[j])) for i, j in p)
    h_truth, h_prediction = (-sum(q * math.log(q) for q in part.values()) for part in (t, s))
    expected = {
        "score": information / ((h_prediction + h_truth) / 2) if h_truth + h_prediction else 1,
        "split": information / h_prediction if h_prediction else 1,
        "merge": information / h_truth if h_truth else 1,
    }
    assert scores == pytest.approx(expected, abs=1e-12)


@given(label_pairs())
@example((np.array([1, 1, 2]), np.array([0, 0, 0])))
def test_scores_lie_in_their_range(pair: tuple[np.ndarray, np.ndarray]) -> None:
    table = contingency(*pair)
    for score in (adapted_rand, v_rand, v_info):
        assert all(math.isnan(value) or 0 <= value <= 1 for value in score(table).values())
    assert all(value >= 0 for value in variation_of_information(table).values())


@given(label_pairs())
def test_true_background_does_not_matter(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = pair
    elsewhere = np.where(truth > 0, prediction, 7)
    for score in (adapted_rand, v_rand, v_info):
        here = score(contingency(truth, prediction))
        assert here == pytest.approx(score(contingency(truth, elsewhere)), nan_ok=True)


WHOLE = np.array([[1, 1, 1, 1]])
HALVES = np.array([[1, 1, 2, 2]])
EMPTY = np.zeros((1, 4), np.int64)


def test_a_perfect_segmentation_scores_exactly_one() -> None:
    table = contingency(HALVES, HALVES + 40)
    assert v_rand(table) == dict.fromkeys(SCORES, 1)
    assert v_info(table) == dict.fromkeys(SCORES, 1)
    assert adapted_rand(table) == {"adapted_rand_error": 0, "precision": 1, "recall": 1}
    assert variation_of_information(table) == {"split": 0, "merge": 0}


def test_a_split_lowers_split_only() -> None:
    table = contingency(WHOLE, HALVES)  # p² = 2 (1/2)², t² = 1, s² = 2 (1/2)²
    assert v_rand(table) == pytest.approx({"score": 2 / 3, "split": 0.5, "merge": 1})
    assert v_info(table) == {"score": 0, "split": 0, "merge": 1}
    assert variation_of_information(table) == {"split": 1, "merge": 0}
    # 2 of the 6 pairs of the object are kept, and no wrong one is made
    assert adapted_rand(table) == pytest.approx(
        {"adapted_rand_error": 1 - 2 * 2 / (6 + 2), "precision": 1, "recall": 1 / 3}
    )


def test_a_merger_lowers_merge_only() -> None:
    table = contingency(HALVES, WHOLE)
    assert v_rand(table) == pytest.approx({"score": 2 / 3, "split": 1, "merge": 0.5})
    assert v_info(table) == {"score": 0, "split": 1, "merge": 0}
    assert variation_of_information(table) == {"split": 0, "merge": 1}


def test_predicted_background_is_one_object_a_pixel() -> None:
    table = contingency(WHOLE, np.array([[3, 3, 0, 0]]))
    assert v_rand(table) == pytest.approx(v_rand(contingency(WHOLE, np.array([[3, 3, 4, 5]]))))
    assert v_rand(table)["split"] == pytest.approx((2**2 + 1 + 1) / 4**2)
    assert v_info(table) == pytest.approx(v_info(contingency(WHOLE, np.array([[3, 3, 4, 5]]))))


def test_an_empty_prediction_splits_everything() -> None:
    table = contingency(HALVES, EMPTY)
    assert v_rand(table) == pytest.approx({"score": 2 * 4 / (4 + 8), "split": 0.5, "merge": 1})
    # H(T) = 1 bit, H(S) = 2 bits, I = 1 bit
    assert v_info(table) == pytest.approx({"score": 2 / 3, "split": 0.5, "merge": 1})
    assert adapted_rand(table) == {"adapted_rand_error": 1, "precision": 0, "recall": 0}
    assert variation_of_information(table) == {"split": 0, "merge": 1}


@pytest.mark.parametrize("prediction", [EMPTY, HALVES])
def test_without_true_foreground_the_foreground_scores_are_nan(prediction: np.ndarray) -> None:
    table = contingency(EMPTY, prediction)
    for score in (adapted_rand, v_rand, v_info):
        assert all(math.isnan(value) for value in score(table).values())
    assert variation_of_information(table)["merge"] == 0


def test_true_objects_of_one_pixel_have_no_pairs_to_judge() -> None:
    points = np.array([1, 0, 2])
    assert all(math.isnan(value) for value in adapted_rand(contingency(points, points)).values())
    assert v_rand(contingency(points, points)) == dict.fromkeys(SCORES, 1)
    merged = adapted_rand(contingency(points, np.array([1, 1, 1])))
    assert merged == {"adapted_rand_error": 1, "precision": 0, "recall": 0}


def test_squared_sizes_beyond_64_bits_do_not_overflow() -> None:
    size = 2**40
    table = Contingency(np.array([1, 2]), np.array([1, 1]), np.array([size, size]))
    assert v_rand(table) == pytest.approx({"score": 2 / 3, "split": 1, "merge": 0.5})
    assert adapted_rand(table)["precision"] == pytest.approx(0.5)
