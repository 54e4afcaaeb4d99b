"""Confusion matrices of classes and what follows from them."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unetflow.metrics.semantic import confusion, dice, iou, pixel_error, precision, recall

CLASSES = 4


@st.composite
def class_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=5))
    annotated = st.one_of(st.integers(0, CLASSES - 1), st.just(255))
    truth = draw(hnp.arrays(np.uint8, shape, elements=annotated))
    dtype = draw(st.sampled_from([np.uint8, np.int64]))
    return truth, draw(hnp.arrays(dtype, shape, elements=st.integers(0, CLASSES - 1)))


@given(class_pairs())
def test_confusion_equals_a_loop_over_annotated_pixels(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    expected = np.zeros((CLASSES, CLASSES), np.int64)
    for true, predicted in zip(*(part.ravel().tolist() for part in pair), strict=True):
        if true != 255:
            expected[true, predicted] += 1
    matrix = confusion(*pair, CLASSES)
    assert matrix.dtype == np.int64
    assert np.array_equal(matrix, expected)


@given(class_pairs())
def test_scores_equal_their_definition_on_masks(pair: tuple[np.ndarray, np.ndarray]) -> None:
    matrix = confusion(*pair, CLASSES)
    truth, prediction = (part[pair[0] != 255] for part in pair)
    for value in range(CLASSES):
        true, found = truth == value, prediction == value
        both = (true & found).sum()
        scores = [score(matrix)[value] for score in (dice, iou, precision, recall)]
        if not (true | found).any():
            assert np.isnan(scores).all()
            continue
        assert scores == pytest.approx(
            [
                2 * both / (true.sum() + found.sum()),
                both / (true | found).sum(),
                both / found.sum() if found.any() else 0,
                both / true.sum() if true.any() else 0,
            ]
        )
    if truth.size:
        assert pixel_error(matrix) == pytest.approx((truth != prediction).mean())
    else:
        assert math.isnan(pixel_error(matrix))


@given(class_pairs())
def test_matrices_of_parts_add_up_to_that_of_the_whole(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    truth, prediction = pair
    parts = [confusion(truth[part], prediction[part], CLASSES) for part in (np.s_[:1], np.s_[1:])]
    assert np.array_equal(sum(parts), confusion(truth, prediction, CLASSES))


def test_a_worked_image() -> None:
    truth = np.array([[0, 0, 0, 1], [0, 2, 2, 255]], np.uint8)
    prediction = np.array([[0, 0, 2, 0], [0, 2, 2, 1]], np.uint8)
    matrix = confusion(truth, prediction, CLASSES)
    assert matrix.tolist() == [[3, 0, 1, 0], [1, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    nan = math.nan
    assert dice(matrix) == pytest.approx([3 / 4, 0, 4 / 5, nan], nan_ok=True)
    assert iou(matrix) == pytest.approx([3 / 5, 0, 2 / 3, nan], nan_ok=True)
    assert precision(matrix) == pytest.approx([3 / 4, 0, 2 / 3, nan], nan_ok=True)
    assert recall(matrix) == pytest.approx([3 / 4, 0, 1, nan], nan_ok=True)
    assert pixel_error(matrix) == pytest.approx(2 / 7)


def test_a_class_that_is_only_predicted_scores_zero() -> None:
    matrix = confusion(np.array([0, 0]), np.array([0, 1]), 2)
    assert [score(matrix)[1] for score in (dice, iou, precision, recall)] == [0, 0, 0, 0]


def test_an_image_without_annotation_has_no_scores() -> None:
    matrix = confusion(np.full((2, 2), 255), np.ones((2, 2), np.uint8), 3)
    assert not matrix.any()
    assert all(np.isnan(score(matrix)).all() for score in (dice, iou, precision, recall))
    assert math.isnan(pixel_error(matrix))


def test_a_negative_ignore_value_leaves_room_for_256_classes() -> None:
    matrix = confusion(np.array([-1, 255]), np.array([3, 255]), 256, ignore_value=-1)
    assert matrix.sum() == matrix[255, 255] == 1


ONE = np.ones((2, 3), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((ONE, ONE[:1], 2), ValueError, "must have the same shape: got (2, 3) and (1, 3); crop"),
        ((ONE, ONE / 2, 2), TypeError, "prediction: classes must be integers: got float64; take"),
        ((ONE, ONE, 1), ValueError, "truth: classes must be 0 to 0: got 1 to 1; check n_classes"),
        ((ONE, ONE * 255, 2), ValueError, "prediction: classes must be 0 to 1: got 255 to 255;"),
        ((-ONE.astype(int), ONE, 2), ValueError, "truth: classes must be 0 to 1: got -1 to -1;"),
        ((ONE, ONE, 256), ValueError, "ignore_value must not be a class: got 255 with 256 classes"),
    ],
)
def test_wrong_input_is_named_with_its_remedy(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        confusion(*arguments)
