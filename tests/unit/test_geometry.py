"""Extents and tiles: against a walk through the layers, and covering regions exactly once."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetflow.geometry import (
    AxisGeometry,
    Span,
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


Case = tuple[AxisGeometry, int, int, int, int | None]


@st.composite
def axis_cases(draw: st.DrawFn, padded: bool | None = None) -> Case:
    """Axis, region of it, extent of the image, and a tile."""
    padded = draw(st.booleans()) if padded is None else padded
    axis = unet_geometry(draw(st.integers(1, 4)), dimensions=1, padded=padded)[0]
    extent = draw(st.integers(1, 500))
    start = draw(st.integers(0, extent - 1))
    stop = draw(st.integers(start + 1, extent))
    steps = st.integers(0, 20).map(lambda step: axis.smallest_tile + step * axis.divisor)
    return axis, start, stop, extent, draw(st.none() | steps)


def extended(extent: int, axis: AxisGeometry) -> int:
    """Next multiple of the divisor."""
    return -(-extent // axis.divisor) * axis.divisor


@given(axis_cases())
def test_tiles_write_an_axis_exactly_once_and_in_order(case: Case) -> None:
    axis, start, stop, extent, tile = case
    spans = axis_tiles(start, stop, extent, axis, tile)
    written = [sample for span in spans for sample in range(span.start, span.stop)]
    assert written == list(range(start, stop))


@given(axis_cases(padded=False))
def test_valid_tiles_start_at_multiples_of_the_divisor_and_are_admissible(case: Case) -> None:
    axis, start, stop, extent, tile = case
    for span in axis_tiles(start, stop, extent, axis, tile):
        assert (span.read_start + axis.halo) % axis.divisor == 0
        assert axis.is_admissible(span.read_stop - span.read_start)
        assert span.border == (False, False)


@given(axis_cases(padded=False))
def test_valid_tiles_contain_what_they_write_with_its_halo(case: Case) -> None:
    axis, start, stop, extent, tile = case
    for span in axis_tiles(start, stop, extent, axis, tile):
        assert span.start < span.stop
        assert span.read_start + axis.halo + span.offset == span.start
        assert span.offset >= 0
        assert span.stop <= span.read_stop - axis.halo


@given(axis_cases(padded=True))
def test_padded_tiles_read_the_extended_image_and_are_padded_at_its_border(case: Case) -> None:
    axis, start, stop, extent, tile = case
    for span in axis_tiles(start, stop, extent, axis, tile):
        assert 0 <= span.read_start <= span.start < span.stop <= span.read_stop
        assert span.read_stop <= extended(extent, axis)
        at_start, at_stop = span.border
        assert span.read_start == 0 or not at_start
        assert span.read_stop == extended(extent, axis) or not at_stop
        # A tile that ends just at the border without padding sees enough, and costs less.
        assert not at_start or span.start // axis.divisor * axis.divisor < axis.reach
        assert not at_stop or span.read_stop - span.stop < axis.reach


def walk(span: Span, depth: int) -> range:
    """Samples of the image that a padded network gives for a tile, layer by layer.

    Two convolutions of extent 3 lose 2 samples on each side that is not padded. Pooling must pair
    an even sample with the next, as in the whole image.
    """
    lost_before, lost_after = (0 if padded else 2 for padded in span.border)
    first, last = span.read_start, span.read_stop
    skips = []
    for _ in range(depth):
        first, last = first + lost_before, last - lost_after
        skips.append(range(first, last))
        assert last > first
        assert first % 2 == last % 2 == 0
        first, last = first // 2, last // 2
    first, last = first + lost_before, last - lost_after
    for skip in reversed(skips):
        assert last > first
        first, last = 2 * first, 2 * last
        assert skip.start <= first < last <= skip.stop
        first, last = first + lost_before, last - lost_after
    return range(first, last)


@given(axis_cases(padded=True))
def test_a_walk_through_the_layers_of_a_padded_tile_stays_on_the_grid_and_gives_what_is_written(
    case: Case,
) -> None:
    axis, start, stop, extent, tile = case
    for span in axis_tiles(start, stop, extent, axis, tile):
        outputs = walk(span, depth=axis.divisor.bit_length() - 1)
        assert outputs.start + span.offset == span.start
        assert outputs.start <= span.start < span.stop <= outputs.stop


@given(axis_cases(padded=True))
def test_padded_tiles_read_no_more_than_the_grid_asks_for(case: Case) -> None:
    """With a divisor less on any side that is not padded, what is written is lost."""
    axis, start, stop, extent, tile = case
    first = start - start % axis.divisor
    for span in axis_tiles(start, stop, extent, axis, tile):
        outputs = walk(span, depth=axis.divisor.bit_length() - 1)
        if not span.border[0]:
            assert outputs.start + axis.divisor > (first if span.start == start else span.start)
        if not span.border[1]:
            assert outputs.stop - axis.divisor < span.stop


@given(axis_cases())
def test_tiles_are_as_few_as_the_tile_allows(case: Case) -> None:
    """By trying every way to divide the region at multiples of the divisor."""
    axis, start, stop, extent, tile = case
    spans = axis_tiles(start, stop, extent, axis, tile)
    assert tile is None or max(span.read_stop - span.read_start for span in spans) <= tile
    fewest = {start: 0}
    cuts = [*range(start - start % axis.divisor + axis.divisor, stop, axis.divisor), stop]
    for cut in cuts:
        reachable = []
        for before, count in fewest.items():
            (whole,) = axis_tiles(before, cut, extent, axis, None)
            if tile is None or whole.read_stop - whole.read_start <= tile:
                reachable.append(count + 1)
        if reachable:
            fewest[cut] = min(reachable)
    assert len(spans) == fewest[stop]


@given(axis_cases())
def test_no_smaller_tile_would_do_for_as_few(case: Case) -> None:
    axis, start, stop, extent, tile = case
    spans = axis_tiles(start, stop, extent, axis, tile)
    largest = max(span.read_stop - span.read_start for span in spans)
    smaller = axis.at_least(largest) - axis.divisor
    if tile is not None and len(spans) > 1 and smaller >= axis.smallest_tile:
        assert len(axis_tiles(start, stop, extent, axis, smaller)) > len(spans)


@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_tiles_cover_a_region_exactly_once(
    data: st.DataObject, depth: int, dimensions: int, padded: bool
) -> None:
    geometry = unet_geometry(depth, dimensions, padded=padded)
    axis = geometry[0]
    region, shape = [], []
    for _ in geometry:
        shape.append(data.draw(st.integers(1, 60)))
        stop = data.draw(st.integers(1, shape[-1]))
        region.append(slice(data.draw(st.integers(0, stop - 1)), stop))
    extents = st.integers(0, 4).map(lambda step: axis.smallest_tile + axis.divisor * step)
    tile = data.draw(st.none() | st.tuples(*[extents] * dimensions))
    covered = np.zeros(shape, int)
    for spans in tiles(region, shape, geometry, tile):
        covered[tuple(slice(span.start, span.stop) for span in spans)] += 1
    assert (covered[tuple(region)] == 1).all()
    assert covered.sum() == covered[tuple(region)].size


def test_an_image_that_fits_a_padded_tile_is_read_at_once_however_small_the_tile() -> None:
    axis = unet_geometry(depth=4, dimensions=1, padded=True)[0]
    (span,) = axis_tiles(0, 30, 30, axis, 32)
    assert (span.read_start, span.read_stop, span.border) == (0, 32, (True, True))
    with pytest.raises(ValueError, match="got 32, which leaves 0; the smallest is 208"):
        axis_tiles(0, 33, 33, axis, 32)
    with pytest.raises(ValueError, match="tile must be 16 plus a multiple of 16: got 40; nearest"):
        axis_tiles(0, 30, 30, axis, 40)


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
    for padded in (False, True):
        geometry = unet_geometry(depth=3, dimensions=3, padded=padded)
        assert geometry_from_json(geometry_to_json(geometry)) == geometry


def test_the_geometry_of_a_model_without_word_of_padding_is_valid() -> None:
    facts = {"divisor": 16, "halo": 92, "minimum": 188}
    assert geometry_from_json([facts] * 2) == unet_geometry(depth=4, dimensions=2)


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
