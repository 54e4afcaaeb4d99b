"""Pixels counted by their probability, and the curves and scores made from them."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_curve

from unetflow.metrics.probabilities import (
    average_precision,
    calibration_error,
    count_pixels,
    precision_recall,
    reliability,
)
from unetflow.scoring import most_probable


def sample(seed: int, n_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with many ties, and classes that follow them more or less; some unknown."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 12, random.integers(1, 4)))
    levels = random.multinomial(random.choice([4, 51, 255]), np.ones(n_classes) / n_classes, shape)
    probabilities = np.moveaxis(levels / levels.sum(axis=-1, keepdims=True), -1, 0)
    truth = probabilities.argmax(axis=0).astype(np.uint8)
    noise = random.random(shape)
    truth[noise < 0.5] = random.integers(0, n_classes, shape)[noise < 0.5]
    truth[noise < random.choice([0, 0.2])] = 255
    return truth, probabilities[1:].astype(np.float32)


@given(st.integers(0, 10**6), st.integers(2, 4))
def test_counts_are_those_of_numpy(seed: int, n_classes: int) -> None:
    truth, probabilities = sample(seed, n_classes)
    matrix, levels = count_pixels(truth, probabilities)
    known = truth != 255
    if known.any():  # else scikit-learn refuses
        found = most_probable(probabilities)[known]
        expected = confusion_matrix(truth[known], found, labels=range(n_classes))
        assert np.array_equal(matrix, expected)
    else:
        assert not matrix.any()
    for number, probability in enumerate(probabilities):
        places = np.rint(probability[known] * 255).astype(int)
        of_class = truth[known] == number + 1
        for side in (0, 1):
            counts = np.bincount(places[of_class == side], minlength=256)
            assert np.array_equal(levels[number, side], counts)


@given(st.integers(0, 10**6))
def test_counts_of_parts_add_up(seed: int) -> None:
    truth, probabilities = sample(seed)
    half = len(truth) // 2
    whole = count_pixels(truth, probabilities)
    parts = [count_pixels(truth[p], probabilities[:, p]) for p in (np.s_[:half], np.s_[half:])]
    for one, *others in zip(whole, *parts, strict=True):
        assert np.array_equal(one, sum(others))


@given(st.integers(0, 10**6))
def test_precision_recall_and_its_area_are_those_of_scikit_learn(seed: int) -> None:
    truth, probabilities = sample(seed)
    known = truth != 255
    of_class = (truth == 1)[known]
    levels = count_pixels(truth, probabilities)[1][0]
    if not of_class.any():
        assert math.isnan(average_precision(levels))
        return
    rounded = np.rint(probabilities[0][known] * 255) / 255
    assert average_precision(levels) == pytest.approx(average_precision_score(of_class, rounded))
    precision, recall, _ = precision_recall_curve(of_class, rounded)
    # It goes from the lowest threshold up, and ends in a point (1, 0) without threshold.
    ours = precision_recall(levels)
    assert np.allclose(ours[0][::-1], precision[:-1])
    assert np.allclose(ours[1][::-1], recall[:-1])


@given(st.integers(0, 10**6))
def test_reliability_is_that_of_scikit_learn(seed: int) -> None:
    truth, probabilities = sample(seed)
    known = truth != 255
    levels = count_pixels(truth, probabilities)[1][0]
    predicted, true, pixels = reliability(levels)
    if not known.any():
        assert len(predicted) == len(true) == len(pixels) == 0
        assert math.isnan(calibration_error(levels))
        return
    # A little lower, so that its rounding of an upper edge moves no level into the next bin.
    rounded = np.rint(probabilities[0][known] * 255).astype(float) / 255
    rounded = np.maximum(rounded - 1e-9, 0)
    expected = calibration_curve((truth == 1)[known], rounded, n_bins=15)
    assert np.allclose(true, expected[0])
    assert np.allclose(predicted, expected[1], atol=1e-6)
    assert pixels.sum() == known.sum()
    share = pixels / pixels.sum()
    assert calibration_error(levels) == pytest.approx((share * abs(true - predicted)).sum())


def test_a_worked_row() -> None:
    truth = np.array([1, 1, 0, 1, 0, 255], np.uint8)
    probability = np.array([[0.8, 0.8, 0.8, 0.4, 0.2, 0.9]])
    matrix, levels = count_pixels(truth, probability)
    assert matrix.tolist() == [[1, 1], [1, 2]]
    # Thresholds 0.8, 0.4, 0.2: precision 2/3, 3/4, 3/5 at recall 2/3, 1, 1.
    assert average_precision(levels[0]) == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 3 / 4)
    assert calibration_error(levels[0]) == pytest.approx((3 * abs(2 / 3 - 0.8) + 0.6 + 0.2) / 5)


def test_a_sure_and_right_prediction_is_perfect_and_a_constant_is_as_good_as_chance() -> None:
    truth = np.array([0, 0, 0, 1], np.uint8)
    levels = count_pixels(truth, truth[None].astype(np.float32))[1][0]
    assert (average_precision(levels), calibration_error(levels)) == (1, 0)
    levels = count_pixels(truth, np.full((1, 4), 0.25))[1][0]
    assert average_precision(levels) == pytest.approx(1 / 4)
    assert calibration_error(levels) == pytest.approx(0, abs=1 / 510)


def test_without_a_pixel_there_is_nothing_to_judge() -> None:
    levels = count_pixels(np.full((2, 3), 255, np.uint8), np.full((1, 2, 3), np.nan))[1][0]
    assert not levels.any()
    assert math.isnan(average_precision(levels))
    assert math.isnan(calibration_error(levels))


def test_means_of_rounded_probabilities_may_be_a_little_out_of_range() -> None:
    _, levels = count_pixels(np.array([1, 0], np.uint8), np.array([[1.0005, -0.0005]]))
    assert levels[0, 1, 255] == levels[0, 0, 0] == 1


ONE, HALF = np.ones((2, 3), np.uint8), np.full((1, 2, 3), 0.5)


@pytest.mark.parametrize(
    ("truth", "foreground", "message"),
    [
        (ONE, HALF[:, :1], "must have the same shape: got (2, 3) and (1, 3); crop"),
        (ONE * 2, HALF, "truth must be classes 0 to 1 or 255"),
        (ONE, HALF * 3, "must be in [0, 1]: got class 1 and [1.5] at (0, 0)"),
        (ONE, HALF * -1, "got class 1 and [-0.5] at (0, 0); check the number of classes"),
        (ONE, HALF * np.nan, "got class 1 and [nan] at (0, 0)"),
    ],
)
def test_wrong_input_is_named_with_its_remedy(
    truth: np.ndarray, foreground: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        count_pixels(truth, foreground)
