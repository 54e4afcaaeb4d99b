"""Orientations: they are the symmetries of a square or a cube, and are undone exactly."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetflow.orientations import orientations

COUNTS = [(1, 2), (4, 2), (8, 2), (1, 3), (4, 3), (8, 3), (16, 3), (48, 3)]


def corners(pixels: NDArray[np.int64]) -> bytes:
    return np.ascontiguousarray(pixels).tobytes()


def test_orientations_of_a_plane_are_its_rotations_and_their_mirror_images() -> None:
    pixels = np.arange(9).reshape(3, 3)
    rotations = {corners(np.rot90(pixels, turns)) for turns in range(4)}
    mirrored = {corners(np.rot90(pixels[:, ::-1], turns)) for turns in range(4)}
    assert {corners(one.turn(pixels)) for one in orientations(4, 2)} == rotations
    assert {corners(one.turn(pixels)) for one in orientations(8, 2)} == rotations | mirrored


def test_orientations_of_a_volume_are_all_that_keep_its_planes_and_all_of_a_cube() -> None:
    cube = np.arange(27).reshape(3, 3, 3)
    upright = {
        corners(np.rot90(cube[::order, :, ::mirror], turns, (1, 2)))
        for order, mirror, turns in product((1, -1), (1, -1), range(4))
    }
    assert {corners(one.turn(cube)) for one in orientations(16, 3)} == upright
    # The symmetries of a cube: closed under rotation about each axis and reversal of one.
    reached, waiting = set(), [cube]
    while waiting:
        one = waiting.pop()
        if corners(one) not in reached:
            reached.add(corners(one))
            waiting += [np.rot90(one, axes=axes) for axes in ((0, 1), (1, 2))] + [one[::-1]]
    assert len(reached) == 48
    assert {corners(one.turn(cube)) for one in orientations(48, 3)} == reached


@pytest.mark.parametrize(("count", "dimensions"), COUNTS)
def test_the_first_orientation_is_the_image_itself_or_among_them(
    count: int, dimensions: int
) -> None:
    pixels = np.arange(4**dimensions).reshape((4,) * dimensions)
    found = [one.turn(pixels) for one in orientations(count, dimensions)]
    assert len(found) == count
    assert any(np.array_equal(one, pixels) for one in found)


@pytest.mark.parametrize(("count", "dimensions"), [(16, 2), (48, 2), (3, 2), (0, 3)])
def test_a_count_that_an_image_has_not_is_refused(count: int, dimensions: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} in {dimensions}D; lower predict"):
        orientations(count, dimensions)


@given(data=st.data(), dimensions=st.sampled_from([2, 3]))
def test_turning_a_region_and_turning_back_are_inverse(
    data: st.DataObject, dimensions: int
) -> None:
    one = data.draw(st.sampled_from(orientations({2: 8, 3: 48}[dimensions], dimensions)))
    shape = tuple(data.draw(st.integers(1, 7)) for _ in range(dimensions))
    pixels = np.arange(2 * np.prod(shape)).reshape(2, *shape)
    image = one.turn(pixels)
    assert image.shape[1:] == one.permuted(shape)
    np.testing.assert_array_equal(one.turn_back(image), pixels)
    starts = [data.draw(st.integers(0, extent - 1)) for extent in shape]
    region = tuple(
        slice(start, data.draw(st.integers(start + 1, extent)))
        for start, extent in zip(starts, shape, strict=True)
    )
    moved = one.region(region, shape)
    assert one.region_back(moved, shape) == region
    np.testing.assert_array_equal(image[:, *moved], one.turn(pixels[:, *region]))
