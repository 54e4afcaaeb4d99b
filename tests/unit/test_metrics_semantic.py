"""Scores of classes from their confusion matrix, which scikit-learn counts here."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import confusion_matrix

from unetflow.metrics.semantic import dice, iou, pixel_error, precision, recall

CLASSES = 4


@st.composite
def class_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=5))
    annotated = st.one_of(st.integers(0, CLASSES - 1), st.just(255))
    truth = draw(hnp.arrays(np.uint8, shape, elements=annotated))
    dtype = draw(st.sampled_from([np.uint8, np.int64]))
    return truth, draw(hnp.arrays(dtype, shape, elements=st.integers(0, CLASSES - 1)))


def confusion(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    known = truth != 255
    if not known.any():  # which scikit-learn refuses
        return np.zeros((CLASSES, CLASSES), int)
    return confusion_matrix(truth[known], prediction[known], labels=range(CLASSES))


@given(class_pairs())
def test_scores_equal_their_definition_on_masks(pair: tuple[np.ndarray, np.ndarray]) -> None:
    matrix = confusion(*pair)
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


def test_a_worked_image() -> None:
    truth = np.array([[0, 0, 0, 1], [0, 2, 2, 255]], np.uint8)
    prediction = np.array([[0, 0, 2, 0], [0, 2, 2, 1]], np.uint8)
    matrix = confusion(truth, prediction)
    assert matrix.tolist() == [[3, 0, 1, 0], [1, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    nan = math.nan
    assert dice(matrix) == pytest.approx([3 / 4, 0, 4 / 5, nan], nan_ok=True)
    assert iou(matrix) == pytest.approx([3 / 5, 0, 2 / 3, nan], nan_ok=True)
    assert precision(matrix) == pytest.approx([3 / 4, 0, 2 / 3, nan], nan_ok=True)
    assert recall(matrix) == pytest.approx([3 / 4, 0, 1, nan], nan_ok=True)
    assert pixel_error(matrix) == pytest.approx(2 / 7)


def test_a_class_that_is_only_predicted_scores_zero() -> None:
    matrix = confusion(np.array([0, 0]), np.array([0, 1]))
    assert [score(matrix)[1] for score in (dice, iou, precision, recall)] == [0, 0, 0, 0]


def test_an_image_without_annotation_has_no_scores() -> None:
    matrix = confusion(np.full((2, 2), 255), np.ones((2, 2), np.uint8))
    assert not matrix.any()
    assert all(np.isnan(score(matrix)).all() for score in (dice, iou, precision, recall))
    assert math.isnan(pixel_error(matrix))
