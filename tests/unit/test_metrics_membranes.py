"""Scores of membranes, as the ISBI 2012 challenge takes them."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.measure import euler_number, label
from skimage.metrics import adapted_rand_error

from unetflow.metrics.boundary import thin
from unetflow.metrics.contingency import contingency, v_info, v_rand
from unetflow.metrics.membranes import (
    RUNS,
    THRESHOLDS,
    challenge_scores,
    splits_and_mergers,
    warp,
)

ERRORS = ("warping_error", "rand_error", "pixel_error", "warping_error_all", "pixel_error_rate")
SCORES = ("v_rand", "v_info")


def drawn(picture: str) -> np.ndarray:
    """Cells # and membranes . of lines of text."""
    return np.array([[sign == "#" for sign in line] for line in picture.split()])


def components(cells: np.ndarray) -> tuple[int, int]:
    """Number of cells and of membranes, with membrane around the image."""
    padded = np.pad(cells, 1)
    return ndimage.label(padded)[1], ndimage.label(~padded, np.ones((3, 3)))[1]


def flipped(cells: np.ndarray, at: tuple[int, ...]) -> np.ndarray:
    cells = cells.copy()
    cells[at] ^= True
    return cells


@st.composite
def sections(draw: st.DrawFn, side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, side), st.integers(1, side)))
    truth = draw(hnp.arrays(bool, shape))
    cells = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([0, 0.25, 0.5, 0.75, 1])))
    return truth, cells


TWO_CELLS = drawn("""
    ###########
    #####.#####
    #####.#####
    #####.#####
    ###########
    """)
TWO_CELLS[[0, -1]] = False


@pytest.mark.parametrize("centre", [False, True])
def test_a_point_is_simple_if_its_flip_changes_no_number_of_components(centre: bool) -> None:
    ring = [(1, 2), (0, 2), (0, 1), (0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]
    for pattern in range(256):
        patch = np.zeros((3, 3), bool)
        patch[tuple(zip(*ring, strict=True))] = [pattern >> bit & 1 for bit in range(8)]
        patch[1, 1] = centre
        other = flipped(patch, (1, 1))
        kept = all(
            ndimage.label(phase(patch), structure)[1] == ndimage.label(phase(other), structure)[1]
            for phase, structure in ((np.asarray, None), (np.logical_not, np.ones((3, 3))))
        )
        assert (RUNS[pattern] == 1) == kept
        assert np.array_equal(warp(patch, other.astype(np.float32), 0.5), other) == kept


@given(sections(), st.sampled_from([0.0, 0.3, 0.5]))
def test_warping_keeps_the_number_of_cells_and_of_membranes(
    section: tuple[np.ndarray, np.ndarray], threshold: float
) -> None:
    truth, cells = section
    before = truth.copy(), cells.copy()
    warped = warp(truth, cells, threshold)
    assert np.array_equal(truth, before[0])
    assert np.array_equal(cells, before[1])
    assert components(warped) == components(truth)
    assert euler_number(warped, 1) == euler_number(truth, 1)
    # Only pixels that differed have moved, and none that still differs is simple.
    assert not (warped != truth)[truth == (cells > threshold)].any()
    for at in np.argwhere(warped != (cells > threshold)):
        assert components(flipped(warped, tuple(at))) != components(warped)


def test_warping_takes_the_pixel_farthest_from_the_threshold_first() -> None:
    truth = drawn("##.##")
    for left, right, expected in ((0.9, 0.6, "##.##"), (0.2, 0.3, "#.###"), (0.3, 0.2, "###.#")):
        cells = np.array([[0.9, left, 0.75, right, 0.9]])
        assert np.array_equal(warp(truth, cells, 0.5), drawn(expected))
    ties = np.array([[0.9, 0.25, 0.75, 0.25, 0.9]])  # the first column, then the second
    assert np.array_equal(warp(truth, ties, 0.5), drawn("#.###"))
    assert np.array_equal(warp(truth.T, ties.T, 0.5), drawn("#.###").T)


def test_warping_does_not_depend_on_the_order_in_memory() -> None:
    truth, cells = (image[0] for image in waves())
    fortran = warp(np.asfortranarray(truth), np.asfortranarray(cells), 0.5)
    assert np.array_equal(fortran, warp(truth, cells, 0.5))
    assert not np.array_equal(fortran, truth)


@functools.cache
def components_of_nine(pixels: bytes) -> tuple[int, int]:
    return components(np.frombuffer(pixels, bool).reshape(3, 3))


def least_error(truth: np.ndarray, target: np.ndarray, free: bool) -> int:
    """Least error by all sequences of flips: of pixels that differ, or, if `free`, of any."""
    seen, queue = {truth.tobytes()}, [truth]
    while queue:
        state = queue.pop()
        for at in np.argwhere(np.full((3, 3), free) | (state != target)):
            near = flipped(state, tuple(at))
            kept = components_of_nine(near.tobytes()) == components_of_nine(state.tobytes())
            if kept and near.tobytes() not in seen:
                seen.add(near.tobytes())
                queue.append(near)
    return min(int((np.frombuffer(state, bool) != target.ravel()).sum()) for state in seen)


def test_the_greedy_error_is_never_below_the_least_and_mostly_it() -> None:
    random = np.random.default_rng(0)
    reached = []
    for truth, target in random.random((40, 2, 3, 3)) > 0.4:
        error = int((warp(truth, target.astype(np.float32), 0.5) != target).sum())
        toward, free = (least_error(truth, target, free) for free in (False, True))
        assert free <= toward <= error <= (truth != target).sum()
        reached.append(error == toward)
    assert np.mean(reached) > 0.9


@given(sections())
def test_splits_and_mergers_are_what_components_say(
    section: tuple[np.ndarray, np.ndarray],
) -> None:
    warped, predicted = section[0], section[1] > 0.5
    labels, number = ndimage.label(np.pad(warped, 1))
    splits = mergers = 0
    for y, x in np.argwhere(warped != predicted):
        around = set(np.delete(labels[y : y + 3, x : x + 3].ravel(), 4).tolist()) - {0}
        if warped[y, x]:
            apart = ndimage.label(flipped(warped, (y, x)))[1] > number
            splits += apart or len(around) > 1
        else:
            mergers += len(around) > 1
    assert splits_and_mergers(warped, predicted) == (splits, mergers)


def test_a_perfect_prediction_is_best() -> None:
    scores = challenge_scores(TWO_CELLS, TWO_CELLS.astype(np.float32))
    assert {name: best.score for name, best in scores.items()} == {
        **dict.fromkeys(ERRORS, 0),
        **dict.fromkeys(SCORES, 1),
    }
    assert {best.threshold for best in scores.values()} == {0}


def test_a_wider_membrane_is_no_error_of_topology() -> None:
    wide = TWO_CELLS.copy()
    wide[:, 4:7] = False
    scores = challenge_scores(TWO_CELLS, wide.astype(np.float64))
    assert scores["warping_error"].score == scores["warping_error_all"].score == 0
    assert scores["pixel_error_rate"].score == 6 / 55
    assert scores["pixel_error"].score == pytest.approx(6 / (2 * 24 + 6))
    assert scores["rand_error"].score > 0
    assert scores["v_rand"].score == scores["v_info"].score == 1


def test_a_gap_that_merges_two_cells_costs_a_pixel() -> None:
    gap = flipped(TWO_CELLS, (2, 5))
    scores = challenge_scores(TWO_CELLS, gap.astype(np.float64))
    assert splits_and_mergers(TWO_CELLS, gap) == (0, 1)
    assert scores["warping_error"].score == scores["warping_error_all"].score == 1 / 55
    assert scores["pixel_error_rate"].score == 1 / 55
    # 30 of 31 pixels are of the true cells, 15 each: p² sums to 2 · 15², s² to 30².
    assert scores["rand_error"].score == pytest.approx(1 - 2 * 450 / (450 + 900))


def test_a_missing_membrane_costs_its_length_and_one_too_many_a_pixel() -> None:
    merged, split = TWO_CELLS.copy(), TWO_CELLS.copy()
    merged[1:-1, 5], split[:, 2] = True, False
    for predicted, expected in ((merged, (0, 3)), (split, (1, 0))):
        warped = warp(TWO_CELLS, predicted.astype(np.float32), 0.5)
        assert splits_and_mergers(warped, predicted) == expected
        score = challenge_scores(TWO_CELLS, predicted.astype(np.float64))["warping_error"].score
        assert score == sum(expected) / 55


def test_a_hole_and_a_speck_are_errors_of_topology_but_rank_nobody() -> None:
    truth = np.zeros((7, 12), bool)
    truth[1:6, 1:6] = True
    spoilt = truth.copy()
    spoilt[3, 3], spoilt[3, 9] = False, True
    scores = challenge_scores(truth, spoilt.astype(np.float64))
    assert scores["warping_error"].score == 0
    assert scores["warping_error_all"].score == 2 / 84


def waves() -> tuple[np.ndarray, np.ndarray]:
    section, y, x = np.mgrid[:2, :24, :30]
    field = np.sin(0.9 * y + section) + np.sin(0.7 * x) + np.sin(0.5 * (x + y))
    noise = np.sin(1.9 * x - 2.3 * y + section)
    cells = np.clip(0.5 + 0.35 * (field + 0.8) + 0.3 * noise, 0, 1)
    return field > -0.8, cells.astype(np.float32)


def test_errors_are_those_of_the_evaluation_in_fiji() -> None:
    truth, cells = waves()
    scores = challenge_scores(truth, cells)
    # Metrics of Trainable Weka Segmentation (commit 41c7083), run on these two sections.
    fiji = {
        "warping_error": (8 / 1440, 0.2),
        "rand_error": (0.0236272755156, 0.0),
        "pixel_error": (0.0736751400259, 0.3),
        "warping_error_all": (20 / 1440, 0.4),
        "pixel_error_rate": (169 / 1440, 0.4),
    }
    assert {name: scores[name] for name in fiji} == {
        name: pytest.approx(best) for name, best in fiji.items()
    }
    different, ranked = [], []
    for threshold in THRESHOLDS:
        predicted = cells > threshold
        warped = [warp(*section, threshold) for section in zip(truth, cells, strict=True)]
        different.append((warped != predicted).sum())
        ranked.append(sum(map(sum, map(splits_and_mergers, warped, predicted))))
    assert different == [51, 46, 36, 31, 20, 23, 31, 43, 56, 85]
    assert ranked == [11, 11, 8, 9, 9, 8, 12, 13, 26, 27]


@settings(max_examples=30)
@given(sections(5))
def test_the_rand_error_counts_pairs_of_true_cell_pixels(
    section: tuple[np.ndarray, np.ndarray],
) -> None:
    truth, cells = section
    known, inside = label(truth, connectivity=1)[truth], []
    for threshold in THRESHOLDS:
        found = label(cells > threshold, connectivity=1)[truth]
        pairs = list(itertools.product(range(len(known)), repeat=2))
        true = {(i, j) for i, j in pairs if known[i] == known[j]}
        positive = {(i, j) for i, j in pairs if i == j or found[i] == found[j] > 0}
        inside.append(2 * len(true & positive) / max(len(true) + len(positive), 1))
    error = challenge_scores(truth, cells)["rand_error"].score
    assert error == pytest.approx(1 - max(inside)) if truth.any() else math.isnan(error)


def test_the_rand_error_agrees_with_scikit_image_where_no_true_cell_is_membrane() -> None:
    random = np.random.default_rng(0)
    truth = ndimage.gaussian_filter(random.random((60, 60)), 2) > 0.48
    cells = np.where(truth | (random.random((60, 60)) > 0.7), 1.0, 0.0)
    found = label(cells > 0, connectivity=1)
    expected = adapted_rand_error(label(truth, connectivity=1), found)[0]
    # Its pairs are of different pixels, the challenge's of a pixel with itself too.
    assert challenge_scores(truth, cells)["rand_error"].score == pytest.approx(expected, rel=1e-2)


def test_new_scores_are_means_over_sections_of_thinned_cells() -> None:
    truth, cells = waves()
    scores = challenge_scores(truth, cells)
    for name, score in (("v_rand", v_rand), ("v_info", v_info)):
        means = [
            np.mean(
                [
                    score(contingency(label(t, connectivity=1), thin(label(p, connectivity=1))))[
                        "score"
                    ]
                    for t, p in zip(truth, cells > threshold, strict=True)
                ]
            )
            for threshold in THRESHOLDS
        ]
        assert scores[name] == pytest.approx((max(means), THRESHOLDS[np.argmax(means)]))


def test_the_best_threshold_is_found_and_the_lowest_of_equals() -> None:
    cells = np.where(TWO_CELLS, 0.85, 0.65)
    cells[:, 5] = 0.45
    scores = challenge_scores(TWO_CELLS, cells)
    assert scores["pixel_error"] == scores["pixel_error_rate"] == (0, 0.7)
    assert scores["v_rand"] == (1, 0.5)


def test_sections_of_a_stack_count_together_and_touch_nowhere() -> None:
    gap = flipped(TWO_CELLS, (2, 5))
    truth, cells = np.stack([TWO_CELLS] * 2), np.stack([TWO_CELLS, gap]).astype(np.float32)
    scores = challenge_scores(truth, cells)
    assert scores["warping_error"].score == 1 / 110
    # Within a section: 2 · 15² pairs in truth, in the second 30² in the prediction.
    assert scores["rand_error"].score == pytest.approx(1 - 2 * 900 / (900 + 450 + 900))
    alone = challenge_scores(TWO_CELLS, gap.astype(np.float32))
    assert scores["v_rand"].score == pytest.approx((1 + alone["v_rand"].score) / 2)
    assert challenge_scores(truth[:1], cells[:1]) == challenge_scores(truth[0], cells[0])


def test_without_a_true_cell_pairs_are_not_defined() -> None:
    nothing, cells = np.zeros((4, 5), bool), np.zeros((4, 5))
    scores = challenge_scores(nothing, cells)
    undefined = {name for name, best in scores.items() if math.isnan(best.score)}
    assert undefined == {"rand_error", "pixel_error", "v_rand", "v_info"}
    assert scores["warping_error"].score == scores["pixel_error_rate"].score == 0
    cells[1, 2] = 0.35
    scores = challenge_scores(nothing, cells)
    assert scores["pixel_error"] == (1, 0)
    assert scores["warping_error_all"] == (0, 0.4)
    assert math.isnan(scores["rand_error"].score)


def test_an_empty_prediction_splits_cells_into_pixels() -> None:
    scores = challenge_scores(TWO_CELLS, np.zeros(TWO_CELLS.shape))
    assert scores["pixel_error"].score == 1
    assert scores["pixel_error_rate"].score == 30 / 55
    # Each cell shrinks to a pixel, which to delete splits nothing.
    assert scores["warping_error_all"].score == 2 / 55
    assert scores["warping_error"].score == 0
    assert scores["rand_error"].score == pytest.approx(1 - 2 * 30 / (30 + 450))
    assert scores["v_rand"].score == pytest.approx(2 * 30 / (30 + 450))


@settings(max_examples=30)
@given(sections(), st.integers(1, 2))
def test_ignoring_a_margin_equals_cutting_it_off(
    section: tuple[np.ndarray, np.ndarray], width: int
) -> None:
    truth, cells = section
    around = np.pad(np.zeros(truth.shape, bool), width, constant_values=True)
    known = np.pad(truth, width, constant_values=True)
    wide = np.pad(cells, width, constant_values=np.nan)
    cut, ignored = challenge_scores(truth, cells), challenge_scores(known, wide, around)
    for name in ERRORS:
        assert ignored[name] == pytest.approx(cut[name], nan_ok=True)


def test_nothing_is_judged_where_nothing_is_annotated() -> None:
    scores = challenge_scores(TWO_CELLS, np.ones(TWO_CELLS.shape), np.ones(TWO_CELLS.shape, bool))
    assert all(math.isnan(best.score) for best in scores.values())


@pytest.mark.parametrize("value", [-0.1, 1.1, 255.0, np.nan])
def test_what_is_no_probability_is_refused(value: float) -> None:
    cells = TWO_CELLS.astype(np.float64)
    cells[0, 0] = value
    with pytest.raises(ValueError, match=r"must be probabilities in \[0, 1\]: got .*softmax"):
        challenge_scores(TWO_CELLS, cells)


def test_other_types_and_shapes_are_refused() -> None:
    cells = TWO_CELLS.astype(np.float64)
    with pytest.raises(TypeError, match="got uint8, bool and float64; compare classes first"):
        challenge_scores(TWO_CELLS.astype(np.uint8), cells)
    with pytest.raises(TypeError, match="got bool, int64 and float64"):
        challenge_scores(TWO_CELLS, cells, np.zeros(TWO_CELLS.shape, np.int64))
    with pytest.raises(TypeError, match="cells float: got bool, bool and uint8"):
        challenge_scores(TWO_CELLS, cells.astype(np.uint8))
    with pytest.raises(ValueError, match=r"same shape .* got \(5, 11\), \(4, 11\) and \(5, 11\)"):
        challenge_scores(TWO_CELLS, cells[1:])
    with pytest.raises(ValueError, match="same shape"):
        challenge_scores(TWO_CELLS, cells, np.zeros((2, 5, 11), bool))
    with pytest.raises(ValueError, match=r"\(y, x\) or \(sections, y, x\): got \(11,\)"):
        challenge_scores(TWO_CELLS[0], cells[0])
