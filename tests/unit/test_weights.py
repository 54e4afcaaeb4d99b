"""Distances to objects, border weights and training targets."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage.measure import label

from unetflow import weights as weights_module
from unetflow.datasets.synthetic import synthesize
from unetflow.distances import nearest_two
from unetflow.separation import separate
from unetflow.settings.training import WeightsSettings
from unetflow.store import NOT_ANNOTATED, add_label, create_image
from unetflow.weights import (
    border_term,
    class_weights,
    counts_in,
    reach_of,
    target_and_weights,
    write_weights,
)

SAMPLINGS = {1: [(1.0,)], 2: [(1.0, 1.0), (1.0, 2.5)], 3: [(1.0, 1.0, 1.0), (3.0, 1.0, 1.5)]}


@st.composite
def objects(draw: st.DrawFn, dimensions: tuple[int, ...] = (1, 2, 3)) -> NDArray[np.uint32]:
    """Draw a label image, some of it empty, objects in pieces and ids with gaps among them."""
    shape = draw(st.lists(st.integers(1, 7), min_size=min(dimensions), max_size=max(dimensions)))
    elements = st.sampled_from([0, 0, 0, 0, 1, 2, 9, 4_000_000_000])
    return draw(hnp.arrays(np.uint32, tuple(shape), elements=elements))


def brute_force(
    instances: NDArray[np.integer], sampling: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances to the nearest two objects, by looking at every pair of pixels."""
    places = np.argwhere(np.ones(instances.shape, bool)) * sampling
    nearest = [np.full(len(places), np.inf)] * 2
    for name in np.unique(instances[instances > 0]):
        inside = np.argwhere(instances == name) * sampling
        nearest.append(np.linalg.norm(places[:, None] - inside, axis=2).min(axis=1))
    first, second = np.sort(nearest, axis=0)[:2]
    return first.reshape(instances.shape), second.reshape(instances.shape)


@given(objects(), st.data(), st.sampled_from([1.0, 2.5, 4.0, 100.0]))
def test_distances_up_to_the_radius_equal_brute_force(
    instances: NDArray[np.uint32], data: st.DataObject, radius: float
) -> None:
    sampling = data.draw(st.sampled_from(SAMPLINGS[instances.ndim]))
    for found, expected in zip(
        nearest_two(instances, radius, sampling), brute_force(instances, sampling), strict=True
    ):
        assert found.dtype == np.float32
        certain = abs(expected - radius) > 1e-5 * radius
        within = certain & (expected < radius)
        np.testing.assert_allclose(found[within], expected[within], rtol=1e-6)
        assert np.isinf(found[certain & ~within]).all()


@given(objects(), st.data(), st.sampled_from([1.0, 2.5, 4.0]))
def test_a_part_with_a_margin_has_the_distances_of_the_whole_bit_for_bit(
    instances: NDArray[np.uint32], data: st.DataObject, radius: float
) -> None:
    sampling = data.draw(st.sampled_from(SAMPLINGS[instances.ndim]))
    axes = []
    for extent, step in zip(instances.shape, sampling, strict=True):
        start, grown = data.draw(st.integers(0, extent - 1)), math.ceil(radius / step)
        axes.append((slice(max(0, start - grown), start + grown + 1), start, min(start, grown)))
    window, here, inside = zip(*axes, strict=True)
    for whole, part in zip(
        nearest_two(instances, radius, sampling),
        nearest_two(instances[window], radius, sampling),
        strict=True,
    ):
        assert whole[here] == part[inside]


def test_threads_change_nothing() -> None:
    instances = label(np.random.default_rng(0).random((3, 70, 90)) > 0.8)
    for sampling in SAMPLINGS[3]:
        one, three = (nearest_two(instances, 9.0, sampling, threads) for threads in (1, 3))
        assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))


@pytest.mark.parametrize(
    ("instances", "words"),
    [
        (np.array([0.0, 1.0]), "whole numbers: got float64"),
        (np.array([0, -1]), "from 0 to 4294967295: got -1 to 0"),
        (np.array([0, 2**32]), "from 0 to 4294967295: got 0 to 4294967296"),
    ],
)
def test_ids_that_are_none_are_refused(instances: NDArray[np.generic], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        nearest_two(instances, 9.0, (1.0,))  # type: ignore[arg-type]


def test_a_worked_row_has_two_objects() -> None:
    first, second = nearest_two(np.array([0, 5, 0, 0, 2, 2]), 9, (1.0,))
    assert first.tolist() == [1, 0, 1, 1, 0, 0]
    assert second.tolist() == [4, 3, 2, 2, 3, 4]


@given(objects((2, 3)), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([1.0, 10.0, 100.0]))
def test_the_border_term_equals_the_papers_formula(
    instances: NDArray[np.uint32], sigma: float, w0: float
) -> None:
    for sampling in SAMPLINGS[instances.ndim]:
        first, second = brute_force(instances, sampling)
        expected = w0 * np.exp(-((first + second) ** 2) / (2 * sigma**2))
        reach = reach_of(WeightsSettings(w0=w0), sigma)
        found = border_term(instances, w0, sigma, reach, sampling)
        assert found.dtype == np.float32
        np.testing.assert_allclose(
            found, np.where(instances == 0, expected, 0), rtol=1e-4, atol=2**-26
        )


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6)])
@pytest.mark.parametrize("count", [0, 1])
def test_the_border_term_is_0_with_fewer_than_two_objects(
    shape: tuple[int, ...], count: int
) -> None:
    instances = np.zeros(shape, np.uint32)
    instances[..., 1:3, 1:3] = 7 * count
    assert not border_term(instances, 10, 5, 33, (1.0,) * len(shape)).any()


def test_the_border_term_is_largest_in_the_gap_between_two_objects() -> None:
    instances = np.zeros((9, 11), np.uint32)
    instances[:, :5], instances[:, 6:] = 1, 2
    term = border_term(instances, 10, 5, 33, (1.0, 1.0))
    np.testing.assert_allclose(term[:, 5], 10 * math.exp(-(2**2) / 50), rtol=1e-6)
    assert np.count_nonzero(term) == 9


# ------------------------------------------------------------------------- separating line


@given(objects((2, 3)))
def test_one_pixel_of_every_touching_pair_becomes_background(
    instances: NDArray[np.uint32],
) -> None:
    classes = np.where(instances > 0, 1, 0).astype(np.uint8)
    found = separate(classes, instances)
    expected = classes.copy()
    for pixel in np.ndindex(instances.shape):
        for axis in range(instances.ndim):
            after = list(pixel)
            after[axis] += 1
            if after[axis] < instances.shape[axis]:
                pair = {int(instances[pixel]), int(instances[tuple(after)])}
                if len(pair) == 2 and 0 not in pair:
                    expected[pixel] = 0
    assert found.tolist() == expected.tolist()


@given(objects((2, 3)))
def test_separated_instances_stay_apart_when_they_are_labelled_again(
    instances: NDArray[np.uint32],
) -> None:
    separated = separate((instances > 0).astype(np.uint8), instances)
    found = label(separated, connectivity=1)
    for component in range(1, found.max() + 1):
        assert len(np.unique(instances[found == component])) == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_a_straight_border_is_one_pixel_wide(axis: int) -> None:
    instances = np.ones((6, 7), np.uint32)
    np.moveaxis(instances, axis, 0)[3:] = 2
    separated = np.moveaxis(separate(np.ones((6, 7), np.uint8), instances), axis, 0)
    assert separated[:, 0].tolist() == [1, 1, 0, *[1] * (separated.shape[0] - 3)]
    assert (separated == separated[:, :1]).all()


def test_a_worked_corner_of_three_cells() -> None:
    instances = np.array(
        [
            [1, 1, 1, 2, 2],
            [1, 1, 1, 2, 2],
            [3, 3, 3, 3, 3],
            [0, 3, 3, 3, 0],
        ]
    )
    assert separate((instances > 0).astype(np.uint8), instances).tolist() == [
        [1, 1, 0, 1, 1],
        [0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1],
        [0, 1, 1, 1, 0],
    ]


def test_pixels_without_annotation_stay_so_at_a_border() -> None:
    classes = np.array([[1, NOT_ANNOTATED, 1, 1]], np.uint8)
    instances = np.array([[1, 1, 2, 2]])
    assert separate(classes, instances).tolist() == [[1, NOT_ANNOTATED, 1, 1]]


# ------------------------------------------------------------------------- class weights


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6).filter(any))
def test_class_weights_have_mean_1_and_share_the_total_equally(counts: list[int]) -> None:
    weights = class_weights(counts).astype(np.float64)
    shares = weights * counts
    assert shares.sum() / sum(counts) == pytest.approx(1, rel=1e-5)
    present = shares[np.array(counts) > 0]
    assert present == pytest.approx(np.full(len(present), present.mean()), rel=1e-5)
    assert not weights[np.array(counts) == 0].any()


def test_class_weights_may_be_given_by_hand() -> None:
    classes = np.array([[0, 1, 2, NOT_ANNOTATED, 0]], np.uint8)
    how = WeightsSettings(w0=0, class_weights=(0.5, 2, 7), separate_touching=False)
    _, weights = target_and_weights(classes, classes, [9, 9, 9], how, [1, 1], 5)
    assert weights.tolist() == [[0.5, 2, 7, 0, 0.5]]
    with pytest.raises(ValueError, match=r"one per class, background first, 2 of them: got \["):
        target_and_weights(classes, classes, [9, 9], how, [1, 1], 5)


# ----------------------------------------------------------------------------- all of it


@st.composite
def annotated(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    instances = draw(objects((2, 3)))
    unknown = draw(hnp.arrays(bool, instances.shape, elements=st.sampled_from([False, True])))
    return np.where(unknown, NOT_ANNOTATED, instances > 0).astype(np.uint8), instances


@given(annotated(), st.booleans(), st.booleans(), st.sampled_from([0.0, 10.0]))
def test_weights_are_positive_exactly_where_there_is_annotation(
    case: tuple[NDArray[np.uint8], NDArray[np.uint32]], balance: bool, touching: bool, w0: float
) -> None:
    classes, instances = case
    before = classes.copy(), instances.copy()
    settings = WeightsSettings(w0=w0, balance_classes=balance, separate_touching=touching)
    for known in (instances, label(classes == 1, connectivity=1)):
        target, weights = target_and_weights(
            classes, known, [30, 10], settings, (1.0,) * classes.ndim, 5
        )
        assert (target.dtype, weights.dtype) == (np.uint8, np.float32)
        assert ((target == NOT_ANNOTATED) == (classes == NOT_ANNOTATED)).all()
        assert ((weights > 0) == (classes != NOT_ANNOTATED)).all()
        assert np.isfinite(weights).all()
    assert np.array_equal(classes, before[0])
    assert np.array_equal(instances, before[1])


def test_weights_are_the_class_weight_plus_the_border_term() -> None:
    instances = np.zeros((7, 12), np.uint32)
    instances[2:5, 1:5], instances[2:5, 5:9] = 1, 2
    classes = (instances > 0).astype(np.uint8)
    classes[0, 0] = NOT_ANNOTATED
    settings = WeightsSettings(w0=3, sigma=2)
    target, weights = target_and_weights(classes, instances, [60, 20], settings, (1.0, 1.0), 2)
    divided = np.where(target == 1, instances, 0)
    assert not divided[2:5, 4].any()
    first, second = brute_force(divided, (1.0, 1.0))
    expected = np.where(
        target == 1, 80 / (2 * 20), 80 / (2 * 60) + 3 * np.exp(-((first + second) ** 2) / 8)
    )
    expected[0, 0] = 0
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5)])
def test_an_image_without_objects_has_the_background_weight_alone(shape: tuple[int, ...]) -> None:
    target, weights = target_and_weights(
        np.zeros(shape, np.uint8),
        np.zeros(shape, np.uint32),
        [100, 300],
        WeightsSettings(),
        (1.0,) * len(shape),
        5,
    )
    assert not target.any()
    assert (weights == 2).all()


def test_weights_are_capped_and_those_of_objects_scaled() -> None:
    instances = np.array([[1, 1, 0, 2, 2, 0, 0, 0]])
    classes = (instances > 0).astype(np.uint8)
    plain = WeightsSettings(w0=10, sigma=5, balance_classes=False)
    _, weights = target_and_weights(classes, instances, [4, 4], plain, (1.0, 1.0), 5)
    changed = plain.model_copy(update={"cap": 4.0, "foreground_factor": 3.0})
    _, found = target_and_weights(classes, instances, [4, 4], changed, (1.0, 1.0), 5)
    np.testing.assert_array_equal(found, np.minimum(np.where(classes, 3 * weights, weights), 4))
    assert (found == 4).any()


# ------------------------------------------------------------------------------- on disk


def test_written_weights_respect_the_size_of_voxels(tmp_path: Path) -> None:
    """Planes 3 µm and pixels 1 µm apart: a gap of one plane is as far as one of three pixels."""
    instances = np.zeros((5, 8, 9), np.uint32)
    instances[0], instances[2] = 1, 2
    path = tmp_path / "image"
    size = {"z": 3.0, "y": 1.0, "x": 1.0}
    create_image(path, "czyx", (2, *instances.shape), np.uint16, size)[...] = 1
    add_label(path, "classes", "zyx", (instances > 0).astype(np.uint8), size)
    add_label(path, "instances", "zyx", instances, size)
    settings = WeightsSettings(w0=10, sigma=5, balance_classes=False)
    write_weights(path, tmp_path / "weights", [1, 1], 3, settings)
    group = zarr.open_group(tmp_path / "weights", mode="r")
    assert group["target"][...].tolist() == (instances > 0).tolist()
    weights = group["weights"][...]
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights[1], 1 + 10 * math.exp(-(6**2) / 50), rtol=1e-6)
    np.testing.assert_allclose(weights[3], 1 + 10 * math.exp(-(12**2) / 50), rtol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"image", "weights"}


def write_image(
    path: Path,
    instances: NDArray[np.integer],
    known: bool = True,
    size: dict[str, float] | None = None,
) -> None:
    """Write an image whose pixels do not matter, with its labels."""
    axes, size = "zyx"[-instances.ndim :], size or {}
    create_image(path, axes, instances.shape, np.uint8, size)[...] = 1
    add_label(path, "classes", axes, (instances > 0).astype(np.uint8), size)
    if known:
        add_label(path, "instances", axes, instances, size)


SPARSE = {
    # shape, voxel size, extents of blocks, sigma: gaps between objects just within reach
    "plane": ((600, 560), {}, (256, 256), 12),
    "volume": ((6, 300, 540), {"z": 3.0, "y": 1.0, "x": 1.0}, (1, 256, 256), 9),
}


@pytest.mark.parametrize("case", SPARSE)
@pytest.mark.parametrize("known", [True, False])
def test_blocks_have_the_weights_of_the_whole_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, known: bool
) -> None:
    shape, size, extents, sigma = SPARSE[case]
    settings = WeightsSettings(sigma=sigma, balance_classes=False)
    reach = int(reach_of(settings, sigma))
    instances = np.zeros(shape, np.uint32)
    # The pixel at 255, the last of its block, is touched by one bar and just reached by the other.
    instances[..., 254], instances[..., 254 + reach - 5] = 1, 2
    write_image(tmp_path / "image", instances, known, size)

    def written(name: str) -> NDArray[np.float32]:
        write_weights(tmp_path / "image", tmp_path / name, [1, 1], len(shape), settings, threads=2)
        found = zarr.open_array(tmp_path / name / "weights", mode="r")
        return np.asarray(found)

    whole = written("whole")
    monkeypatch.setitem(weights_module.BLOCKS, len(shape), extents)
    np.testing.assert_array_equal(written("blocks"), whole)
    blocks_of = weights_module.blocks_of
    monkeypatch.setattr(
        weights_module,
        "blocks_of",
        lambda shape, extents, margin: blocks_of(
            shape, extents, [max(0, grown - 10) for grown in margin]
        ),
    )
    assert (written("narrow") != whole).any(), "a smaller margin is seen"


def test_a_plane_of_a_stack_is_weighted_by_itself_for_a_network_of_planes(tmp_path: Path) -> None:
    _, instances = synthesize("membranes", (4, 60, 50), seed=3)
    instances[1:3, 20:30, 20:30] = [[[900]], [[901]]]  # two objects that touch across planes
    write_image(tmp_path / "stack", instances, size={"z": 9.0, "y": 1.0, "x": 1.0})
    settings = WeightsSettings(sigma=3)
    for known in (True, False):
        write_image(tmp_path / f"stack{known}", instances, known)
        write_weights(tmp_path / f"stack{known}", tmp_path / "all", [3, 1], 2, settings)
        for plane in range(4):
            write_image(tmp_path / f"{known}{plane}", instances[plane], known)
            write_weights(tmp_path / f"{known}{plane}", tmp_path / "one", [3, 1], 2, settings)
            for name in ("target", "weights"):
                stack, one = (
                    zarr.open_array(tmp_path / folder / name, mode="r") for folder in ("all", "one")
                )
                np.testing.assert_array_equal(stack[plane], one[...])


@pytest.mark.parametrize("threads", [1, 3])
def test_a_block_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    write_image(tmp_path / "image", np.ones((700, 512), np.uint32))
    monkeypatch.setitem(weights_module.BLOCKS, 2, (256, 256))
    calls = []

    def fail(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError("disk full")
        return target_and_weights(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(weights_module, "target_and_weights", fail)
    with pytest.raises(OSError, match=r"^disk full$"):
        write_weights(
            tmp_path / "image", tmp_path / "out", [1, 1], 2, WeightsSettings(), threads=threads
        )
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_objects_that_the_line_takes_away_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_image(tmp_path / "image", np.array([[7, 5, 5, 5], [0, 0, 0, 0]]))
    write_image(tmp_path / "wide", np.array([[7, 7, 5, 5], [0, 0, 0, 0]]))
    with caplog.at_level("INFO", "unetflow"):
        write_weights(tmp_path / "wide", tmp_path / "w", [1, 1], 2, WeightsSettings())
        assert not caplog.text
        write_weights(tmp_path / "image", tmp_path / "v", [1, 1], 2, WeightsSettings())
    assert "1 objects, such as 7, are thinner than the line" in caplog.text


def test_an_object_whose_line_alone_reaches_into_a_margin_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = WeightsSettings(sigma=2)
    edge = 256 - (math.ceil(reach_of(settings, 2)) + 1)  # first row of the second block's window
    instances = np.full((600, 40), 2, np.uint32)
    instances[: edge + 1] = 1  # its last row, the line, is all that the window shows of it
    write_image(tmp_path / "image", instances)
    monkeypatch.setitem(weights_module.BLOCKS, 2, (256, 256))
    with caplog.at_level("INFO", "unetflow"):
        write_weights(tmp_path / "image", tmp_path / "w", [1, 1], 2, settings)
    assert not zarr.open_array(tmp_path / "w/target", mode="r")[edge].any()
    assert "thinner" not in caplog.text


@pytest.mark.parametrize("every", [{"z": 3}, {"z": 4, "y": 7, "x": 5}, {"y": 1}, None])
@pytest.mark.parametrize("tested", [None, 3])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("known", [True, False])
def test_planes_that_are_left_out_are_as_if_they_had_never_been_annotated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every: dict[str, int] | None,
    tested: int | None,
    dimensions: int,
    known: bool,
) -> None:
    random = np.random.default_rng(0)
    instances = np.kron(random.integers(0, 4, (3, 5, 6)), np.ones((4, 8, 8), int))
    counts = np.zeros(instances.shape, bool)
    left = [plane for plane in range(12) if tested is None or plane % tested != tested // 2]
    for axis, step in (every or {"z": 1}).items():
        planes = left if axis == "z" else range(instances.shape["zyx".index(axis)])
        np.moveaxis(counts, "zyx".index(axis), 0)[list(planes)[step // 2 :: step]] = True
    counts[[plane for plane in range(12) if plane not in left]] = False
    write_image(tmp_path / "all", instances, known)
    write_image(tmp_path / "shown", np.where(counts, instances, 0), known)
    classes = np.where(counts, instances > 0, NOT_ANNOTATED).astype(np.uint8)
    zarr.open_array(tmp_path / "shown/labels/classes/0", mode="r+")[...] = classes
    monkeypatch.setitem(weights_module.BLOCKS, 3, (1, 40, 40))

    def written(image: str, held_out: int | None, **chosen: Any) -> list[NDArray[Any]]:
        settings, output = WeightsSettings(sigma=2, **chosen), tmp_path / f"{image}{chosen}"
        write_weights(
            tmp_path / image, output, [1, 1], dimensions, settings, tested_planes=held_out
        )
        return [zarr.open_array(output / it, mode="r")[...] for it in ("target", "weights")]

    found = written("all", tested, annotated_planes=every)
    for part, expected in zip(found, written("shown", None), strict=True):
        assert part.dtype == expected.dtype
        np.testing.assert_array_equal(part, expected)
    if counts.all():
        return
    everything = written("all", None)
    assert (found[0] == NOT_ANNOTATED).tolist() == (~counts).tolist()
    if dimensions == 3:
        assert (found[1] != everything[1])[counts].any(), "what is hidden would have shaped these"


def test_a_plane_has_no_weights_of_volumes(tmp_path: Path) -> None:
    write_image(tmp_path / "image", np.ones((12, 14), np.uint32))
    with pytest.raises(ValueError, match="image: a 3D network needs 3 spatial axes: the image has"):
        write_weights(tmp_path / "image", tmp_path / "w", [1, 1], 3, WeightsSettings())


def test_tested_planes_teach_nothing_wherever_annotated_ones_cross_them(tmp_path: Path) -> None:
    write_image(tmp_path / "image", np.ones((9, 12, 14), np.uint32))
    settings = WeightsSettings(w0=0, annotated_planes={"z": 7, "x": 14})
    write_weights(
        tmp_path / "image", tmp_path / "w", [1, 1], 3, settings, threads=1, tested_planes=3
    )
    target, weights = (
        zarr.open_array(tmp_path / "w" / name)[...] for name in ("target", "weights")
    )
    expected = np.zeros((9, 12, 14), bool)
    expected[5] = True  # the fourth of the planes 0, 2, 3, 5, 6, 8 that are not tested
    expected[:, :, 7] = True
    expected[1::3] = False
    np.testing.assert_array_equal(target == NOT_ANNOTATED, ~expected)
    np.testing.assert_array_equal(weights > 0, expected)


def test_planes_across_an_axis_that_an_image_lacks_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "image", np.ones((4, 5), np.uint32))
    settings = WeightsSettings(annotated_planes={"z": 2, "y": 2})
    with pytest.raises(ValueError, match="annotated_planes must be across axes of the image, yx"):
        write_weights(tmp_path / "image", tmp_path / "w", [1, 1], 2, settings)


def test_classes_are_counted_as_the_training_targets_have_them(tmp_path: Path) -> None:
    index = {"class_counts": [0, 48], "separated_class_counts": [6, 42]}
    assert counts_in(index, tmp_path, WeightsSettings()) == [6, 42]
    assert counts_in(index, tmp_path, WeightsSettings(separate_touching=False)) == [0, 48]


@pytest.mark.parametrize("every", [{"z": 3}, {"z": 4, "y": 7, "x": 5}, None])
@pytest.mark.parametrize("tested", [None, 3])
@pytest.mark.parametrize("separated", [True, False])
def test_the_classes_counted_are_those_of_what_teaches(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every: dict[str, int] | None,
    tested: int | None,
    separated: bool,
) -> None:
    monkeypatch.setitem(weights_module.BLOCKS, 3, (3, 16, 16))
    random = np.random.default_rng(1)
    expected, entries = np.zeros(2, int), []
    settings = WeightsSettings(annotated_planes=every, separate_touching=separated, sigma=1)
    for name, known in (("a", True), ("b", False)):
        instances = np.kron(random.integers(0, 4, (3, 5, 6)), np.ones((4, 8, 8), int))
        write_image(tmp_path / name, instances, known)
        how = [1, 1], 3, settings
        write_weights(tmp_path / name, tmp_path / f"{name}.w", *how, tested_planes=tested)
        target = zarr.open_array(tmp_path / f"{name}.w/target", mode="r")[...]
        expected += np.bincount(target[target != NOT_ANNOTATED], minlength=2)
        entries.append({"image": name, "annotated": True})
    # Of a dataset of 2 · 23040 voxels
    index = {"class_counts": [40000, 6080], "separated_class_counts": [40001, 6079]}
    index |= {"images": [*entries, {"image": "none", "annotated": False}]}
    found = counts_in(index, tmp_path, settings, tested)
    if every is None and tested is None:
        assert found == index["separated_class_counts" if separated else "class_counts"]
    else:
        assert found == expected.tolist()
    by_hand = settings.model_copy(update={"class_weights": (1.0, 2.0)})
    assert sum(counts_in(index, tmp_path, by_hand, tested)) == 46080, "no label is read in vain"


def test_planes_across_an_axis_that_an_image_lacks_are_not_counted(tmp_path: Path) -> None:
    write_image(tmp_path / "image", np.ones((4, 5), np.uint32))
    index = {"separated_class_counts": [1, 1], "images": [{"image": "image", "annotated": True}]}
    settings = WeightsSettings(annotated_planes={"z": 2})
    with pytest.raises(ValueError, match="annotated_planes must be across axes of the image, yx"):
        counts_in(index, tmp_path, settings)


def test_without_instances_the_components_of_the_foreground_are_taken(tmp_path: Path) -> None:
    instances = np.array([[1, 1, 0, 2, 2], [0, 0, 0, 2, 0], [3, 0, 0, 0, 0]])
    for known in (True, False):
        write_image(tmp_path / f"{known}", instances, known)
        write_weights(tmp_path / f"{known}", tmp_path / f"{known}.w", [9, 6], 2, WeightsSettings())
    found = [zarr.open_array(tmp_path / f"{known}.w/weights", mode="r") for known in (True, False)]
    np.testing.assert_array_equal(found[0][...], found[1][...])
    assert (found[0][...] > 2).any()


def test_sigma_in_micrometres_is_that_in_voxels_times_their_size(tmp_path: Path) -> None:
    instances = np.zeros((9, 12), np.uint32)
    instances[:, :4], instances[:, 6:] = 1, 2
    write_image(tmp_path / "image", instances, size={"y": 0.5, "x": 0.25})
    write_image(tmp_path / "unknown", instances)
    voxels, um = WeightsSettings(sigma=6), WeightsSettings(sigma=1.5, sigma_unit="um")
    write_weights(tmp_path / "image", tmp_path / "voxels", [1, 1], 2, voxels)
    write_weights(tmp_path / "image", tmp_path / "um", [1, 1], 2, um)
    found = [zarr.open_array(tmp_path / name / "weights", mode="r") for name in ("voxels", "um")]
    np.testing.assert_array_equal(found[0][...], found[1][...])
    with pytest.raises(ValueError, match="sigma_unit um needs the voxel size"):
        write_weights(tmp_path / "unknown", tmp_path / "none", [1, 1], 2, um)
    assert not (tmp_path / "none").exists()


def test_an_image_without_annotation_is_refused(tmp_path: Path) -> None:
    create_image(tmp_path / "image", "yx", (4, 4), np.uint8, {})[...] = 0
    message = re.escape("image: an image must be annotated: it has no labels/classes")
    with pytest.raises(ValueError, match=message):
        write_weights(tmp_path / "image", tmp_path / "weights", [1, 1], 2, WeightsSettings())
    assert not (tmp_path / "weights").exists()
