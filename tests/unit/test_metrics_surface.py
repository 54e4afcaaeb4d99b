"""Distances between surfaces, and differences of volumes."""

from __future__ import annotations

import math
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from unetflow.metrics.surface import SECOND_RATER, sliver07_score, surface_scores

RMS = "rms_surface_distance"
DISTANCES = ("hausdorff_95", "hausdorff", "average_surface_distance", RMS)
VOLUMES = ("volumetric_overlap_error", "relative_volume_difference")
NAMES = (*DISTANCES[:3], "surface_dice", *VOLUMES, RMS)
SIZES = st.sampled_from([0.25, 0.7, 1.0, 1.5, 3.0])


def cases(axes: int, side: int, arrays: int) -> st.SearchStrategy:
    """Tuples of bool arrays of one shape, and of one voxel size per axis."""
    masks = hnp.array_shapes(min_dims=axes, max_dims=axes, max_side=side).flatmap(
        lambda shape: st.tuples(*[hnp.arrays(bool, shape)] * arrays)
    )
    return st.tuples(masks, st.tuples(*[SIZES] * axes))


PAIRS = cases(2, 6, 2) | cases(3, 4, 2)


def elements(
    mask: np.ndarray, spacing: tuple[float, ...], ignore: np.ndarray
) -> list[tuple[np.ndarray, float]]:
    """Position of every element, and its length in 2D (1 in 3D), by a look at each corner."""
    mask, ignore = np.pad(mask, 1), np.pad(ignore, 1)
    found = []
    for corner in product(*[range(n - 1) for n in mask.shape]):
        window = tuple(slice(c, c + 2) for c in corner)
        around = mask[window]
        if around.all() or not around.any() or ignore[window].any():
            continue
        length = 1.0
        if mask.ndim == 2:
            slanted = math.hypot(*spacing) / 2  # from the middle of a side to that of the next
            if around.sum() == 2 and around[0, 0] == around[0, 1]:
                length = spacing[1]
            elif around.sum() == 2 and around[0, 0] == around[1, 0]:
                length = spacing[0]
            else:
                length = 2 * slanted if around.sum() == 2 else slanted
        found.append((np.multiply(corner, spacing), length))
    return found


def volumes(truth: np.ndarray, prediction: np.ndarray) -> list[float]:
    true, found = truth.sum(), prediction.sum()
    if not true:
        return [1, math.inf] if found else [math.nan, math.nan]
    union, both = (truth | prediction).sum(), (truth & prediction).sum()
    return [1 - both / union, (found - true) / true]


def by_loops(
    truth: np.ndarray,
    prediction: np.ndarray,
    spacing: tuple[float, ...],
    tolerance: float,
    ignore: np.ndarray,
) -> dict[str, float]:
    sides = [elements(mask & ~ignore, spacing, ignore) for mask in (truth, prediction)]
    measured = []
    for here, there in (sides, sides[::-1]):
        measured.append(
            [(min((math.dist(x, y) for y, _ in there), default=math.inf), area) for x, area in here]
        )
    together = measured[0] + measured[1]
    total = sum(area for _, area in together)
    if together:
        surfaces = [
            max(
                min(
                    limit
                    for limit, _ in side
                    if sum(area for d, area in side if d <= limit + 1e-9)
                    >= 0.95 * sum(area for _, area in side) - 1e-9
                )
                for side in measured
                if side
            ),
            max(d for d, _ in together),
            sum(d * area for d, area in together) / total,
            sum(area for d, area in together if d <= tolerance + 1e-9) / total,
        ]
        rms = math.sqrt(sum(d**2 * area for d, area in together) / total)
    else:
        surfaces, rms = [math.nan] * 4, math.nan
    known = volumes(truth & ~ignore, prediction & ~ignore)
    return dict(zip(NAMES, [*surfaces, *known, rms], strict=True))


def blobs(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth random masks that resemble each other, off the edges of the image."""
    noise = np.random.default_rng(seed).normal(size=(2, *shape))
    smooth = [ndimage.gaussian_filter(part, 2) for part in noise]
    first, second = (part / part.std() for part in (smooth[0], smooth[0] + smooth[1] / 3))
    inner = np.zeros(shape, dtype=bool)
    inner[(slice(2, -2),) * len(shape)] = True
    return (first > 0.7) & inner, (second > 0.7) & inner


def box(shape: tuple[int, ...], start: tuple[int, ...], sides: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, sides, strict=True))] = True
    return mask


@settings(max_examples=150)
@given(cases(2, 6, 3), st.sampled_from([0.0, 0.5, 1.0, 2.1]))
def test_2d_scores_equal_a_loop_over_corners(
    case: tuple[tuple[np.ndarray, ...], tuple[float, ...]], tolerance: float
) -> None:
    (truth, prediction, ignore), spacing = case
    ignore = ignore & np.roll(ignore, 1)  # a quarter of the pixels, so that some surface is left
    scores = surface_scores(truth, prediction, spacing, tolerance, ignore)
    expected = by_loops(truth, prediction, spacing, tolerance, ignore)
    assert scores == pytest.approx(expected, nan_ok=True)
    assert tuple(scores) == NAMES


@settings(max_examples=60)
@given(cases(3, 4, 3))
def test_3d_distances_and_volumes_equal_a_loop_over_corners(
    case: tuple[tuple[np.ndarray, ...], tuple[float, ...]],
) -> None:
    (truth, prediction, ignore), spacing = case
    ignore = ignore & np.roll(ignore, 1)
    scores = surface_scores(truth, prediction, spacing, 1, ignore)
    expected = by_loops(truth, prediction, spacing, 1, ignore)
    for name in ("hausdorff", *VOLUMES):
        assert scores[name] == pytest.approx(expected[name], nan_ok=True), name


def test_a_drawn_square_that_grew_by_a_column_has_the_scores_that_a_pencil_gives() -> None:
    truth = np.array([[1, 1, 0], [1, 1, 0]], dtype=bool)
    prediction = np.array([[1, 1, 1], [1, 1, 1]], dtype=bool)
    slanted = math.sqrt(2) / 2
    # Corners of the truth:     of the prediction:
    #   / - \                     / - - \        / \ slanted, - | of length 1
    #   |   |                     |     |
    #   \ - /                     \ - - /
    # The right column of the truth is 1 away from the prediction but for its corners, which lie on
    # the prediction's upper and lower line; the right column of the prediction is 1 away.
    truth_area, prediction_area = 4 + 4 * slanted, 6 + 4 * slanted
    assert surface_scores(truth, prediction, (1, 1), 0.5) == pytest.approx(
        {
            "hausdorff_95": 1,
            "hausdorff": 1,
            "average_surface_distance": (1 + 1 + 2 * slanted) / (truth_area + prediction_area),
            "surface_dice": 1 - (1 + 1 + 2 * slanted) / (truth_area + prediction_area),
            "volumetric_overlap_error": 1 / 3,
            "relative_volume_difference": 1 / 2,
            # Distances are 0 or 1, which are their own squares.
            "rms_surface_distance": math.sqrt(
                (1 + 1 + 2 * slanted) / (truth_area + prediction_area)
            ),
        }
    )


@given(PAIRS)
def test_sides_can_be_swapped(
    case: tuple[tuple[np.ndarray, np.ndarray], tuple[float, ...]],
) -> None:
    (truth, prediction), spacing = case
    scores = surface_scores(truth, prediction, spacing, 0.8)
    swapped = surface_scores(prediction, truth, spacing, 0.8)
    change, back = (pair.pop("relative_volume_difference") for pair in (scores, swapped))
    assert scores == pytest.approx(swapped, nan_ok=True)
    if truth.any() and prediction.any():
        assert (1 + change) * (1 + back) == pytest.approx(1)


@given(PAIRS)
def test_a_mask_is_equal_to_itself_alone(
    case: tuple[tuple[np.ndarray, np.ndarray], tuple[float, ...]],
) -> None:
    (truth, prediction), spacing = case
    if truth.any():
        assert list(surface_scores(truth, truth.copy(), spacing, 0).values()) == [
            0,
            0,
            0,
            1,
            0,
            0,
            0,
        ]
    scores = surface_scores(truth, prediction, spacing, 0)
    if (truth != prediction).any():
        assert scores["hausdorff"] >= scores["hausdorff_95"] >= 0
        assert scores["hausdorff"] >= scores["average_surface_distance"]
        assert scores["volumetric_overlap_error"] > 0


@given(PAIRS, st.data())
def test_scores_do_not_depend_on_where_the_objects_are(
    case: tuple[tuple[np.ndarray, np.ndarray], tuple[float, ...]], data: st.DataObject
) -> None:
    masks, spacing = case
    margins = [data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3))) for _ in spacing]
    moved = [np.pad(mask, margins) for mask in masks]
    scores = surface_scores(*masks, spacing, 0.8)
    assert surface_scores(*moved, spacing, 0.8) == pytest.approx(scores, nan_ok=True)


@given(PAIRS, st.sampled_from([0.1, 0.5, 3.0, 1000.0]))
def test_distances_are_in_the_unit_of_spacing(
    case: tuple[tuple[np.ndarray, np.ndarray], tuple[float, ...]], unit: float
) -> None:
    masks, spacing = case
    scores = surface_scores(*masks, spacing, 0.75)
    scaled = surface_scores(*masks, [size * unit for size in spacing], 0.75 * unit)
    expected = {name: scores[name] * (unit if name in DISTANCES else 1) for name in NAMES}
    assert scaled == pytest.approx(expected, nan_ok=True)


@given(PAIRS, st.randoms(use_true_random=False))
def test_axes_can_be_permuted_and_mirrored(
    case: tuple[tuple[np.ndarray, np.ndarray], tuple[float, ...]], random: Random
) -> None:
    masks, spacing = case
    axes = random.sample(range(len(spacing)), len(spacing))
    turned = [np.flip(mask.transpose(axes), 0) for mask in masks]
    scores = surface_scores(*masks, spacing, 0.8)
    turned_scores = surface_scores(*turned, [spacing[axis] for axis in axes], 0.8)
    assert turned_scores == pytest.approx(scores, nan_ok=True)


def test_boxes_weigh_by_the_area_that_geometry_gives() -> None:
    spacing, shape = (2.0, 0.5, 0.7), (5, 6, 40)
    sides, far_sides = (3, 4, 5), (1, 2, 3)

    def area(sides: tuple[int, ...]) -> float:
        """Of a box whose rims are cut off half a voxel from each edge."""
        a, b, c = spacing
        total = math.hypot(a * b, b * c, a * c)  # 8 triangles, each an eighth of it
        for axis in range(3):
            i, j = (spacing[other] for other in range(3) if other != axis)
            m, n = (sides[other] - 1 for other in range(3) if other != axis)
            total += (
                2 * m * n * i * j + 4 * (sides[axis] - 1) * spacing[axis] * math.hypot(i, j) / 2
            )
        return total

    truth = box(shape, (1, 1, 1), sides)
    prediction = truth | box(shape, (1, 1, 30), far_sides)
    here, there = area(sides), area(far_sides)
    scores = surface_scores(truth, prediction, spacing, 0)
    assert scores["surface_dice"] == pytest.approx(2 * here / (2 * here + there))


def test_spheres_in_each_other_are_apart_by_their_radii_up_to_half_a_voxel() -> None:
    spacing = (1.0, 0.5, 0.5)
    z, y, x = (
        size * (np.arange(n) - n // 2) for size, n in zip(spacing, (40, 72, 72), strict=True)
    )
    radius = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    truth, prediction = radius <= 14, radius <= 16
    scores = surface_scores(truth, prediction, spacing, 0.7)
    assert scores["average_surface_distance"] == pytest.approx(2, abs=0.5)
    assert scores["hausdorff"] == pytest.approx(2, abs=0.5)
    assert scores["surface_dice"] == 0
    assert scores["relative_volume_difference"] == pytest.approx((16 / 14) ** 3 - 1, rel=0.01)


def test_scores_are_those_of_surface_distance() -> None:
    numbers = np.arange(12 * 13 * 14).reshape(12, 13, 14)
    noise = numbers**3 % 1009 % 2 == 1  # 248 of the 256 neighbourhoods that there are, in 2D all
    solid = box(noise.shape, (3, 2, 5), (6, 6, 6))
    # surface-distance 0.1 gives these; of its two averages, the mean weighted by its areas.
    scores = surface_scores(noise, solid, (1.5, 0.4, 0.9), 0.41)
    assert [scores[name] for name in NAMES[:4]] == pytest.approx(
        [4.775981574503821, 6.670832032063167, 2.0779157978938025, 0.22932964016250224], rel=1e-12
    )
    scores = surface_scores(noise[0], solid[3], (0.4, 0.9), 0.41)
    assert [scores[name] for name in NAMES[:4]] == pytest.approx(
        [3.687817782917155, 4.924428900898052, 1.33274036991589, 0.35249958338432535], rel=1e-12
    )


@pytest.mark.parametrize("shape", [(30, 41), (12, 17, 15)])
@pytest.mark.parametrize("noise", [False, True])
# surface-distance calls scipy and numpy by names that these are about to drop.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scores_equal_surface_distance_where_it_is_installed(
    shape: tuple[int, ...], noise: bool
) -> None:
    peer = pytest.importorskip("surface_distance.metrics", reason="surface-distance is missing")
    random = np.random.default_rng(len(shape))
    for seed in range(5):
        truth, prediction = blobs(shape, seed)
        if noise:
            truth, prediction = random.random((2, *shape)) < random.uniform(0.1, 0.9)
        spacing, tolerance = random.uniform(0.2, 3, len(shape)), random.uniform(0, 3)
        scores = surface_scores(truth, prediction, spacing, tolerance)
        expected = peer.compute_surface_distances(truth, prediction, spacing)
        areas = [expected["surfel_areas_gt"].sum(), expected["surfel_areas_pred"].sum()]
        figures = [
            peer.compute_robust_hausdorff(expected, 95),
            peer.compute_robust_hausdorff(expected, 100),
            np.average(peer.compute_average_surface_distance(expected), weights=areas),
            peer.compute_surface_dice_at_tolerance(expected, tolerance),
        ]
        assert [scores[name] for name in NAMES[:4]] == pytest.approx(figures, rel=1e-12)
        sides = ("gt_to_pred", "pred_to_gt")
        squares = np.concatenate([expected[f"distances_{side}"] ** 2 for side in sides])
        weights = np.concatenate([expected[f"surfel_areas_{side}"] for side in ("gt", "pred")])
        assert scores[RMS] ** 2 == pytest.approx(np.average(squares, weights=weights), rel=1e-12)


@pytest.mark.parametrize("shape", [(40, 50), (14, 20, 24)])
@pytest.mark.parametrize("seed", range(3))
def test_distances_and_volumes_are_those_of_simpleitk(shape: tuple[int, ...], seed: int) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    truth, prediction = blobs(shape, seed)
    spacing = (2.3, 0.6, 0.9)[-len(shape) :]

    def image(mask: np.ndarray) -> object:
        result = sitk.GetImageFromArray(mask.astype(np.uint8))
        result.SetSpacing(spacing[::-1])
        return result

    def farthest(first: object, second: object) -> float:
        result = sitk.HausdorffDistanceImageFilter()
        result.Execute(first, second)
        return float(result.GetHausdorffDistance())

    scores = surface_scores(truth, prediction, spacing, 1)
    # A pixel of these stands for its upper left corner: some pixels around it are inside.
    corners = [
        ndimage.maximum_filter(mask, 2) != ndimage.minimum_filter(mask, 2)
        for mask in (truth, prediction)
    ]
    assert scores["hausdorff"] == pytest.approx(farthest(*map(image, corners)))

    # SimpleITK's own contours are up to half a voxel's diagonal away from these, on both sides.
    contours = [sitk.LabelContour(image(mask), fullyConnected=True) for mask in (truth, prediction)]
    diagonal = math.hypot(*spacing)
    assert scores["hausdorff"] == pytest.approx(farthest(*contours), abs=diagonal)

    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(image(prediction), image(truth))
    assert scores["volumetric_overlap_error"] == pytest.approx(1 - overlap.GetJaccardCoefficient())
    # The same difference, of the mean of both volumes instead of the true one.
    change = scores["relative_volume_difference"]
    assert 2 * change / (2 + change) == pytest.approx(overlap.GetVolumeSimilarity())


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_empty_sides_have_stated_scores(shape: tuple[int, ...]) -> None:
    empty, mask = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    mask[1, 1:3] = True
    spacing = (1,) * len(shape)
    missed = list(surface_scores(mask, empty, spacing, 100).values())
    assert missed == [math.inf, math.inf, math.inf, 0, 1, -1, math.inf]
    invented = list(surface_scores(empty, mask, spacing, 100).values())
    assert invented == [math.inf, math.inf, math.inf, 0, 1, math.inf, math.inf]
    for nothing in (empty, empty[:0]):
        scores = surface_scores(nothing, nothing, spacing, 100)
        assert tuple(scores) == NAMES
        assert np.isnan(list(scores.values())).all()
    ignored = surface_scores(mask, ~mask, spacing, 100, ignore=~empty)
    assert np.isnan(list(ignored.values())).all()


def test_a_mask_without_surface_still_has_a_volume() -> None:
    truth, prediction = np.ones((2, 4, 4), dtype=bool)
    ignore = np.pad(np.zeros((2, 2), dtype=bool), 1, constant_values=True)
    scores = list(surface_scores(truth, prediction, (1, 1), 1, ignore).values())
    assert scores == pytest.approx([math.nan] * 4 + [0, 0, math.nan], nan_ok=True)
    prediction[1, 1] = False  # a corner of four pixels that are not ignored: there is one
    scores = list(surface_scores(truth, prediction, (1, 1), 1, ignore).values())
    assert scores == [math.inf, math.inf, math.inf, 0, 1 / 4, -1 / 4, math.inf]


def test_what_is_ignored_changes_nothing() -> None:
    truth, prediction = blobs((30, 30), 0)
    ignore = box((30, 30), (8, 9), (9, 12))
    scores = surface_scores(truth, prediction, (1, 2), 1, ignore)
    assert scores != surface_scores(truth, prediction, (1, 2), 1)
    for content in product((False, True), repeat=2):
        masks = [np.where(ignore, c, m) for c, m in zip(content, (truth, prediction), strict=True)]
        assert surface_scores(*masks, (1, 2), 1, ignore) == scores


def test_an_ignored_pixel_takes_its_four_corners_and_no_more() -> None:
    truth = box((5, 9), (1, 1), (3, 3))
    prediction = truth | box((5, 9), (1, 7), (1, 1))
    ignore = box((5, 9), (1, 7), (1, 1))
    assert surface_scores(truth, prediction, (1, 1), 0)["hausdorff"] == 4
    assert surface_scores(truth, prediction, (1, 1), 0, ignore)["surface_dice"] == 1
    # The pixel to the right shares the two corners that are farther away.
    beside = np.roll(ignore, 1, axis=1)
    assert surface_scores(truth, prediction, (1, 1), 0, beside)["hausdorff"] == 3


def test_an_object_that_the_edge_cuts_is_closed_there_unless_a_pad_is_ignored() -> None:
    truth, prediction = box((6, 20), (0, 0), (6, 8)), box((6, 20), (0, 0), (6, 11))
    assert surface_scores(truth, prediction, (1, 1), 0)["surface_dice"] > 0.6
    padded = [np.pad(mask, 1) for mask in (truth, prediction)]
    ignore = np.pad(np.zeros(truth.shape, dtype=bool), 1, constant_values=True)
    scores = surface_scores(*padded, (1, 1), 0, ignore)
    # Two straight lines, three pixels from each other.
    assert [scores[name] for name in NAMES[:4]] == [3, 3, 3, 0]


def test_a_distance_that_equals_the_tolerance_but_for_rounding_is_within() -> None:
    truth, prediction = box((5, 30), (1, 1), (3, 20)), box((5, 30), (1, 4), (3, 20))
    assert math.sqrt((3 * 0.1) ** 2) > 0.3
    assert surface_scores(truth, prediction, (0.1, 0.1), 0.3)["surface_dice"] == 1
    assert surface_scores(truth, prediction, (0.1, 0.1), 0.2999)["surface_dice"] < 1


@pytest.mark.parametrize("size", [0.1, 0.3, 1 / 3, 0.7, 1.0, 1.1])
def test_exactly_95_percent_of_the_area_are_enough(size: float) -> None:
    truth = box((4, 23), (0, 0), (2, 23))
    ignore = ~box((4, 23), (1, 1), (2, 21))  # of the line below the truth, 20 elements are left
    for missing, distances in ((2, [0, size]), (3, [size, 2 * size]), (4, [2 * size, 3 * size])):
        # All elements of the prediction are on the truth, and all but its last ones on them.
        prediction = truth & ~box((4, 23), (0, 22 - missing), (2, missing + 1))
        scores = surface_scores(truth, prediction, (size, size), 0, ignore)
        assert [scores[name] for name in NAMES[:2]] == pytest.approx(distances)


def test_the_hausdorff_distance_and_its_percentile_part_at_an_outlier() -> None:
    truth = box((40, 60), (5, 5), (30, 30))
    prediction = truth | box((40, 60), (20, 55), (1, 1))
    scores = surface_scores(truth, prediction, (1, 1), 0)
    assert scores["hausdorff_95"] == 0
    assert scores["hausdorff"] == 56 - 35


def test_inputs_stay_as_they_are() -> None:
    arrays = [*blobs((20, 20), 1), box((20, 20), (3, 3), (4, 4))]
    for array in arrays:
        array.flags.writeable = False
    truth, prediction, ignore = arrays
    once = surface_scores(truth, prediction, (1, 1), 1, ignore)
    views = [np.repeat(array, 2, axis=1)[:, ::2] for array in arrays]
    assert surface_scores(views[0], views[1], (1, 1), 1, views[2]) == once


MASK = np.zeros((4, 4), dtype=bool)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"truth": MASK.astype(np.uint8)}, TypeError, "truth must be a bool array: got uint8; com"),
        ({"prediction": MASK * 0.5}, TypeError, "prediction must be a bool array: got float64; c"),
        ({"ignore": MASK.astype(int)}, TypeError, "ignore must be a bool array: got int64; compa"),
        ({"prediction": MASK[1:]}, ValueError, "prediction must have .* truth: got .3, 4.*; crop"),
        ({"ignore": MASK[:, 1:]}, ValueError, "ignore must have .* truth: got .4, 3.* and .*; cr"),
        ({"spacing": (1, 0)}, ValueError, r"spacing must be a positive .*: got \(1, 0\) .*; give"),
        ({"spacing": (-1, 1)}, ValueError, r"spacing must be a positive .*: got \(-1, 1\) .*;"),
        ({"spacing": (1, math.nan)}, ValueError, r"spacing must be a positive .*: got \(1, nan\)"),
        ({"spacing": (math.inf, 1)}, ValueError, r"spacing must be a positive .*: got \(inf, 1\)"),
        ({"spacing": (1,)}, ValueError, r"each of 2 or 3 axes: got \(1,\) for shape \(4, 4\); gi"),
        ({"tolerance": -0.1}, ValueError, "tolerance must be .* 0 or more: got -0.1; use the unit"),
        ({"tolerance": math.nan}, ValueError, "tolerance must be .*: got nan; use the unit of spa"),
        ({"tolerance": math.inf}, ValueError, "tolerance must be .*: got inf; use the unit of spa"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    usual = {"truth": MASK, "prediction": MASK, "spacing": (1, 1), "tolerance": 1}
    with pytest.raises(error, match=message):
        surface_scores(**usual | arguments)


@pytest.mark.parametrize("axes", [1, 4])
def test_other_than_two_or_three_axes_are_refused(axes: int) -> None:
    mask = np.zeros((2,) * axes, dtype=bool)
    with pytest.raises(ValueError, match=r"of 2 or 3 axes: got .* for shape .*channels one by one"):
        surface_scores(mask, mask, (1,) * axes, 1)


def test_points_are_a_quarter_less_for_each_error_of_a_second_rater() -> None:
    none = dict.fromkeys(SECOND_RATER, 0.0)
    assert sliver07_score(none) == 100
    assert sliver07_score({name: -2 * error for name, error in SECOND_RATER.items()}) == 50
    # Overlap 6.4 %, volume 4.7 %, distances 1.0, 1.8 and 19 mm have 75 points each
    worked = {
        "volumetric_overlap_error": 0.128,  # 50
        "relative_volume_difference": -0.0235,  # 87.5
        "average_surface_distance": 5.0,  # 0, and not -25
        "rms_surface_distance": 1.8,  # 75
        "hausdorff": 0.0,  # 100
    }
    assert sliver07_score(worked) == pytest.approx((50 + 87.5 + 0 + 75 + 100) / 5)
    assert math.isnan(sliver07_score(none | {"hausdorff": math.nan}))
