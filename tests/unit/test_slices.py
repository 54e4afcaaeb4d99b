"""Planes of the slice viewer: which are shown, of what part, from which level."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import block_reduce

from unetflow.pyramid import add_levels
from unetflow.report import slices
from unetflow.report.examples import worst_slices
from unetflow.store import Image, create_image, describe_image, remove

EXTENTS = st.integers(1, 5000)


def write(path: Path, axes: str, pixels: NDArray[Any], mean: bool) -> None:
    create_image(path, axes, pixels.shape, pixels.dtype, {})[...] = pixels
    levels = add_levels(path, "0", axes, {}, mean)
    describe_image(path, axes, {}, levels, {}, {}, means=mean)


@given(st.tuples(EXTENTS, EXTENTS, EXTENTS) | st.tuples(EXTENTS, EXTENTS))
def test_a_picture_is_of_bounded_size_and_begins_and_ends_with_the_volume(
    extents: tuple[int, ...],
) -> None:
    frame = slices.frame_of(extents, extents)
    depth = extents[0] if len(extents) == 3 else 1
    assert len(frame.planes) == min(depth, slices.PLANES)
    assert frame.planes[0] == 0
    assert frame.planes[-1] == depth - 1
    assert all(np.diff(frame.planes) >= 1)
    assert 1 <= min(frame.shape) <= max(frame.shape) <= slices.SIDE
    if max(extents[-2:]) <= slices.WINDOW:
        assert frame.rows == frame.columns == (0, 1)
    for (start, stop), extent in zip((frame.rows, frame.columns), extents[-2:], strict=True):
        assert (stop - start) * extent <= slices.WINDOW + 1e-6


def test_only_the_middle_of_large_planes_without_a_pyramid_is_shown() -> None:
    assert slices.frame_of((3, 8192, 600), (3, 8192, 600)).rows == (0.375, 0.625)
    assert slices.frame_of((3, 8192, 600), (3, 256, 19)).rows == (0, 1)


def test_means_of_whole_boxes_are_those_of_scikit_image() -> None:
    plane = np.random.default_rng(0).random((24, 36)).astype(np.float32)
    expected = block_reduce(plane, (4, 3), np.mean)
    np.testing.assert_allclose(slices.binned(plane, (6, 12)), expected, rtol=1e-5)
    np.testing.assert_array_equal(slices.sampled(plane, (6, 12)), plane[2::4, 1::3])


@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 40))
def test_a_plane_of_one_value_keeps_it_at_any_size(rows: int, high: int, wide: int) -> None:
    plane = np.full((rows, 7), 3, np.uint16)
    assert np.unique(slices.binned(plane, (high, wide))).tolist() == [3]
    assert np.unique(slices.sampled(plane, (high, wide))).tolist() == [3]


def test_planes_of_any_level_are_those_of_the_whole(tmp_path: Path) -> None:
    # Blocks that every level resolves: reading a coarse one must find the same picture.
    small = np.random.default_rng(0).integers(1, 200, (5, 16, 24)).astype(np.uint8)
    write(tmp_path / "a", "zyx", small.repeat(64, axis=1).repeat(64, axis=2), mean=True)
    levels = slices.stored_levels(tmp_path / "a")
    assert len(levels) > 2
    frame = slices.frame_of(levels[0].spatial_shape, levels[-1].spatial_shape)
    assert frame.shape == (256, 384)
    assert slices.fitting(levels, frame).spatial_shape == (5, 256, 384)
    expected = small.repeat(16, axis=1).repeat(16, axis=2).reshape(-1, 384)
    for level in levels:
        found = slices.cut(level.array.__getitem__, level, frame, slices.binned)
        np.testing.assert_array_equal(found, expected)


def test_a_level_is_chosen_that_is_no_smaller_than_the_picture() -> None:
    frame = slices.Frame((0,), 1, (0.25, 0.75), (0, 1), (50, 100))
    levels = [Image("", np.zeros(shape), "yx", {}) for shape in ((400, 400), (100, 100), (50, 50))]
    assert slices.fitting(levels, frame).spatial_shape == (100, 100)
    assert slices.fitting(levels[2:], frame).spatial_shape == (50, 50)


@pytest.mark.parametrize("predicted", [True, False])
def test_a_stack_has_a_layer_of_all_that_is_there(tmp_path: Path, predicted: bool) -> None:
    labels = np.zeros((3, 40, 50), np.uint32)
    labels[:, 5:20, 5:20] = 70_000
    write(tmp_path / "image", "zyx", labels.astype(np.uint16), mean=True)
    write(tmp_path / "labels", "zyx", labels, mean=False)
    if predicted:
        write(tmp_path / "prediction", "czyx", (labels > 0)[None].astype(np.float16), mean=True)
    found = slices.stack("a", tmp_path / "image", {}, tmp_path / "prediction", tmp_path / "labels")
    names = [layer.name for layer in found.layers]
    assert names == ["image", *(["prediction"] if predicted else []), "instances"]
    assert found.whole
    assert found.extents == (3, 40, 50)


@pytest.mark.parametrize("deep", [True, False])
def test_the_worst_stack_of_an_experiment_is_shown_with_its_truth(
    tmp_path: Path, deep: bool
) -> None:
    axes, shape = ("zyx", (3, 40, 50)) if deep else ("yx", (40, 50))
    labels = np.zeros(shape, np.uint32)
    labels[..., 5:20, 5:20] = 7
    images, run = tmp_path / "images", tmp_path / "e/fold0/seed0"
    for name in ("good", "bad"):
        write(images / name, axes, labels.astype(np.uint16), mean=True)
        write(images / name / "labels/instances", axes, labels, mean=False)
        write(run / "segmentation.ome.zarr" / name, axes, labels, mean=False)
    rows = [("fold0", 0, name, "dice_cell", value) for name, value in (("good", 0.9), ("bad", 0.2))]
    table = pd.DataFrame(rows, columns=["split", "seed", "image", "metric", "value"])
    found = worst_slices("e", table, tmp_path / "e", images)
    if not deep:
        assert found is None
        return
    assert found is not None
    assert (found["image"], found["files"]) == ("bad", run)
    image, truth, instances = found["stack"].layers
    assert (image.name, truth.name, instances.name) == ("image", "truth", "instances")
    assert truth.picture == instances.picture, "they are the same"
    remove(run / "segmentation.ome.zarr" / "bad")
    assert worst_slices("e", table, tmp_path / "e", images) is None
    assert worst_slices("e", None, tmp_path / "e", images) is None


def test_instances_are_filled_and_their_borders_opaque() -> None:
    labels = np.zeros((2 * 6, 7), np.uint64)
    labels[1:5, 1:4] = 3
    labels[1:5, 4:6] = 2**40
    overlay = slices.coloured(labels, slices.Frame((0, 1), 2, (0, 1), (0, 1), (6, 7)))
    np.testing.assert_array_equal(overlay[..., 3] > 0, labels > 0)
    assert overlay[2, 2, 3] == slices.FILL
    assert overlay[2, 3, 3] == overlay[2, 4, 3] == 255
    assert tuple(overlay[2, 2, :3]) in {tuple(colour) for colour in slices.COLOURS}


def test_probabilities_are_as_opaque_as_they_are_high() -> None:
    alpha = slices.veil(np.array([[0, 0.5, 1, np.nan]], np.float32))[0, :, 3]
    assert alpha[0] == alpha[3] == 0
    assert 0 < alpha[1] < alpha[2]


def test_a_volume_has_the_levels_that_its_file_has(tmp_path: Path) -> None:
    write(tmp_path / "a", "yx", np.zeros((600, 600), np.uint8), mean=True)
    count = len(slices.stored_levels(tmp_path / "a"))
    assert len(list(slices.volume_levels(str(tmp_path / "a"), {}))) == count > 1
    below = slices.volume_levels(str(tmp_path / "a"), {"level": "1"})
    assert next(below).spatial_shape == (300, 300)
    np.save(tmp_path / "a.npy", np.zeros((4, 5), np.uint8))
    assert len(list(slices.volume_levels(str(tmp_path / "a.npy"), {}))) == 1
