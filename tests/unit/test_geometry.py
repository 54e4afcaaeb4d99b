"""Extents and tiles: against a walk through the layers, and covering regions exactly once."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetflow.geometry import (
    AxisGeometry,
    axis_tiles,
    geometry_from_json,
    geometry_to_json,
    mirrored,
    tiles,
    unet_geometry,
)

DEPTHS = range(1, 6)


def output_of(extent: int, depth: int) -> int | None:
    """Walk an extent through the layers; None where a pooling sees an odd one or nothing is left.

    Two convolutions of extent 3 lose 4 samples, a pooling halves, an up-convolution doubles.
    """
    for _ in range(depth):
        extent -= 4
        if extent <= 0 or extent % 2:
            return None
        extent //= 2
    extent -= 4
    for _ in range(depth):
        if extent <= 0:
            return None
        extent = 2 * extent - 4
    return extent if extent > 0 else None


@pytest.mark.parametrize("depth", DEPTHS)
def test_admissible_extents_and_outputs_equal_a_walk_through_the_layers(depth: int) -> None:
    axis = unet_geometry(depth, dimensions=1)[0]
    for extent in range(1, 900):
        output = output_of(extent, depth)
        assert axis.is_admissible(extent) == (output is not None)
        if output is not None:
            assert extent - 2 * axis.halo == output


def test_the_papers_tile_of_572_leaves_388() -> None:
    (rows, columns) = unet_geometry(depth=4, dimensions=2)
    assert rows == columns
    assert rows.divisor == 16
    assert rows.is_admissible(572)
    assert 572 - 2 * rows.halo == output_of(572, depth=4) == 388


def test_the_largest_step_of_the_papers_tile_is_384_and_not_388() -> None:
    assert unet_geometry(depth=4, dimensions=1)[0].step(572) == 384


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_input_for_an_output_is_the_smallest_admissible_one(depth: int) -> None:
    axis = unet_geometry(depth, dimensions=1)[0]
    sizes = {extent: output_of(extent, depth) for extent in range(1, 900)}
    for output in range(1, 100):
        enough = [extent for extent, left in sizes.items() if left is not None and left >= output]
        assert axis.input_for(output) == enough[0]


@given(st.sampled_from(DEPTHS), st.integers(1, 1000))
def test_the_nearest_admissible_extents_enclose_the_one_asked_for(depth: int, extent: int) -> None:
    axis = unet_geometry(depth, dimensions=1)[0]
    below, above = axis.nearest(extent)
    assert axis.is_admissible(below)
    assert axis.is_admissible(above)
    assert above - below == axis.divisor
    assert below <= max(extent, axis.minimum) < above


@st.composite
def axis_cases(draw: st.DrawFn) -> tuple[AxisGeometry, int, int, int | None]:
    axis = unet_geometry(draw(st.integers(1, 4)), dimensions=1)[0]
    stop = draw(st.integers(1, 500))
    start = draw(st.integers(0, stop - 1))
    smallest = axis.input_for(axis.divisor)
    steps = st.integers(0, 20).map(lambda step: smallest + step * axis.divisor)
    return axis, start, stop, draw(st.none() | steps)


@given(axis_cases())
def test_tiles_write_an_axis_exactly_once_and_in_order(
    case: tuple[AxisGeometry, int, int, int | None],
) -> None:
    axis, start, stop, tile = case
    spans = axis_tiles(start, stop, axis, tile)
    written = [sample for span in spans for sample in range(span.start, span.stop)]
    assert written == list(range(start, stop))


@given(axis_cases())
def test_tiles_start_at_multiples_of_the_divisor_and_are_admissible(
    case: tuple[AxisGeometry, int, int, int | None],
) -> None:
    axis, start, stop, tile = case
    for span in axis_tiles(start, stop, axis, tile):
        extent = span.read_stop - span.read_start
        assert (span.read_start + axis.halo) % axis.divisor == 0
        assert axis.is_admissible(extent)
        assert tile is None or extent <= tile


@given(axis_cases())
def test_tiles_contain_what_they_write_with_its_halo(
    case: tuple[AxisGeometry, int, int, int | None],
) -> None:
    axis, start, stop, tile = case
    for span in axis_tiles(start, stop, axis, tile):
        assert span.start < span.stop
        assert span.read_start + axis.halo + span.offset == span.start
        assert span.offset >= 0
        assert span.stop <= span.read_stop - axis.halo


@given(axis_cases())
def test_tiles_are_as_few_as_the_tile_allows(
    case: tuple[AxisGeometry, int, int, int | None],
) -> None:
    axis, start, stop, tile = case
    first = start - start % axis.divisor
    fewest = 1 if tile is None else -(-(stop - first) // axis.step(tile))
    assert len(axis_tiles(start, stop, axis, tile)) <= fewest


@given(st.data(), st.integers(1, 3), st.integers(1, 3))
def test_tiles_cover_a_region_exactly_once(
    data: st.DataObject, depth: int, dimensions: int
) -> None:
    geometry = unet_geometry(depth, dimensions)
    axis = geometry[0]
    region = []
    for _ in geometry:
        stop = data.draw(st.integers(1, 60))
        region.append(slice(data.draw(st.integers(0, stop - 1)), stop))
    extents = st.integers(0, 4).map(lambda step: axis.input_for(axis.divisor * (1 + step)))
    tile = data.draw(st.none() | st.tuples(*[extents] * dimensions))
    covered = np.zeros([part.stop for part in region], int)
    for spans in tiles(region, geometry, tile):
        covered[tuple(slice(span.start, span.stop) for span in spans)] += 1
    assert (covered[tuple(region)] == 1).all()
    assert covered.sum() == covered[tuple(region)].size


@given(st.integers(1, 12), st.integers(-60, 60), st.integers(0, 60))
def test_mirroring_equals_numpys_reflection(extent: int, start: int, count: int) -> None:
    before, after = max(-start, 0), max(start + count - extent, 0)
    reflected = np.pad(np.arange(extent), (before, after), mode="reflect")
    expected = reflected[start + before :][:count]
    assert mirrored(start, start + count, extent).tolist() == expected.tolist()


@given(st.integers(2, 12), st.integers(-60, 60), st.integers(-5, 5))
def test_mirroring_goes_on_periodically(extent: int, start: int, periods: int) -> None:
    moved = start + periods * 2 * (extent - 1)
    once, again = mirrored(start, start + 30, extent), mirrored(moved, moved + 30, extent)
    assert once.tolist() == again.tolist()


def test_geometry_survives_json() -> None:
    geometry = unet_geometry(depth=3, dimensions=3)
    assert geometry_from_json(geometry_to_json(geometry)) == geometry


@pytest.mark.parametrize(
    ("tile", "message"),
    [
        (512, "tile must be 188 plus a multiple of 16: got 512; nearest are 508 and 524"),
        (1, "tile must be 188 plus a multiple of 16: got 1; nearest are 188 and 204"),
        (
            188,
            "tile must leave an output of at least 16: got 188, which leaves 4; "
            "the smallest is 204",
        ),
    ],
)
def test_an_impossible_tile_is_refused_with_the_nearest_possible(tile: int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        unet_geometry(depth=4, dimensions=1)[0].step(tile)
