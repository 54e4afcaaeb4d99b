"""Planes that teach and planes that are tested: never both, and the same in any window."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetflow.annotation import HeldOutPlanes, count_planes, is_annotated, is_tested, untaught
from unetflow.store import NOT_ANNOTATED

EXTENTS = st.tuples(*[st.integers(1, 13)] * 3)
EVERY = st.none() | st.dictionaries(st.sampled_from("zyx"), st.integers(1, 15), min_size=1)
TESTED = st.none() | st.integers(2, 9)


def planes(extent: int, every: int | None, tested: int | None) -> tuple[set[int], set[int]]:
    """Annotated and tested planes across an axis, counted one by one."""
    held_out = set() if tested is None else set(range(tested // 2, extent, tested))
    left = [plane for plane in range(extent) if plane not in held_out]
    return set(left[every // 2 :: every]) if every else set(), held_out


@given(st.integers(1, 60), st.integers(1, 20), TESTED)
def test_annotated_planes_are_every_nth_of_those_that_are_not_tested(
    extent: int, every: int, tested: int | None
) -> None:
    annotated, held_out = planes(extent, every, tested)
    numbers = np.arange(extent)
    assert {*np.flatnonzero(is_annotated(numbers, every, tested))} == annotated
    assert {*np.flatnonzero(is_tested(numbers, tested))} == held_out


def taught(
    shape: tuple[int, ...], every: dict[str, int] | None, tested: int | None
) -> NDArray[np.bool_]:
    """Which voxels teach, one by one."""
    found = np.ones(shape, bool)
    across = [
        planes(extent, (every or {}).get(axis), None if place else tested)
        for place, (axis, extent) in enumerate(zip("zyx", shape, strict=True))
    ]
    for voxel in np.ndindex(shape):
        known = every is None or any(
            at in annotated for at, (annotated, _) in zip(voxel, across, strict=True)
        )
        found[voxel] = known and voxel[0] not in across[0][1]
    return found


@given(EXTENTS, EVERY, TESTED, st.data())
def test_a_window_teaches_what_the_whole_teaches_there(
    shape: tuple[int, ...], every: dict[str, int] | None, tested: int | None, data: st.DataObject
) -> None:
    starts = [data.draw(st.integers(0, extent - 1)) for extent in shape]
    window = tuple(
        slice(start, data.draw(st.integers(start + 1, extent)))
        for start, extent in zip(starts, shape, strict=True)
    )
    expected = ~taught(shape, every, tested)[window]
    found = untaught(window, "zyx", every, tested)
    np.testing.assert_array_equal(np.broadcast_to(found, expected.shape), expected)


@given(EXTENTS, EVERY, TESTED)
def test_planes_are_counted_across_all_axes(
    shape: tuple[int, ...], every: dict[str, int] | None, tested: int | None
) -> None:
    extents = dict(zip("zyx", shape, strict=True))
    numbers = {"z": 1} if every is None else every
    expected = [
        len(planes(extents[axis], step, tested if axis == "z" else None)[0])
        for axis, step in numbers.items()
    ]
    assert count_planes(extents, every, tested) == sum(expected)


@given(EXTENTS, st.integers(2, 9), st.data())
def test_classes_are_known_in_tested_planes_alone_whatever_is_read(
    shape: tuple[int, ...], tested: int, data: st.DataObject
) -> None:
    classes = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) % 3
    expected = np.full_like(classes, NOT_ANNOTATED)
    expected[tested // 2 :: tested] = classes[tested // 2 :: tested]
    first = data.draw(st.integers(0, shape[0] - 1))
    found = HeldOutPlanes(classes, tested)
    assert found.shape == shape
    for index in (
        (slice(first, None), slice(1, None), slice(None)),
        (first, slice(None), slice(2)),
    ):
        np.testing.assert_array_equal(found[index], expected[index])
        assert found[index].dtype == np.uint8
