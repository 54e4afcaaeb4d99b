"""Holes: scipy and scikit-image as references, and the same for every division into blocks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import remove_small_holes
from small_model import small_shards

from unetflow.dividing import segment, segment_planes
from unetflow.holes import mark_holes, small_holes
from unetflow.labelling import Grid, components
from unetflow.segmentation import segment_image
from unetflow.settings.prediction import SegmentSettings
from unetflow.store import create_image, open_image

__all__ = ["small_shards"]


@st.composite
def masks(draw: st.DrawFn) -> tuple[NDArray[np.bool_], Grid]:
    """A random mask, mostly foreground so that there are holes, and a division into blocks."""
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=2, max_size=3)))
    block = tuple(draw(st.integers(1, 7)) for _ in shape)
    margin = tuple(draw(st.integers(1, 3)) for _ in shape)
    seed, density = draw(st.integers(0, 10**6)), draw(st.sampled_from([0, 0.5, 0.6, 0.75, 0.9, 1]))
    return np.random.default_rng(seed).random(shape) < density, Grid(shape, block, margin)


def marked(mask: NDArray[np.bool_], grid: Grid, largest: int) -> NDArray[np.bool_]:
    """Holes of a mask, block by block."""
    labels, holes = zarr.zeros(mask.shape, dtype=np.uint32), zarr.zeros(mask.shape, dtype=bool)
    with tempfile.TemporaryDirectory() as folder:
        mark_holes(grid, lambda region: mask[region], largest, Path(folder), labels, holes)
    return np.asarray(holes[...])


@given(masks(), st.integers(0, 20))
def test_holes_are_those_of_scipy_and_scikit_image(
    drawn: tuple[NDArray[np.bool_], Grid], largest: int
) -> None:
    mask, _ = drawn
    enclosed = ndimage.binary_fill_holes(mask) & ~mask
    np.testing.assert_array_equal(small_holes(mask, mask.size), enclosed)
    # scikit-image takes background at the border for a hole too.
    filled = remove_small_holes(mask, max_size=largest, connectivity=1) & ~mask
    np.testing.assert_array_equal(small_holes(mask, largest), filled & enclosed)


@given(masks(), st.one_of(st.integers(0, 8), st.just(10**6)))
@examples(max_examples=60)
def test_holes_are_those_of_the_whole_volume_for_every_division(
    drawn: tuple[NDArray[np.bool_], Grid], largest: int
) -> None:
    mask, grid = drawn
    np.testing.assert_array_equal(marked(mask, grid, largest), small_holes(mask, largest))


@given(masks(), st.integers(0, 8))
@examples(max_examples=50)
def test_holes_of_a_stack_that_is_divided_plane_by_plane_are_those_of_its_planes(
    drawn: tuple[NDArray[np.bool_], Grid], largest: int
) -> None:
    mask, grid = drawn
    if mask.ndim == 2:
        return
    found = marked(mask, Grid(grid.shape, grid.block, (0, *grid.margin[1:])), largest)
    np.testing.assert_array_equal(found, [small_holes(plane, largest) for plane in mask])


@given(masks())
def test_components_of_planes_do_not_connect(drawn: tuple[NDArray[np.bool_], Grid]) -> None:
    mask, _ = drawn
    if mask.ndim == 2:
        return
    found, used = components(mask, 2), 0
    for plane, expected in zip(found, (label(it, connectivity=1) for it in mask), strict=True):
        np.testing.assert_array_equal(plane, np.where(expected > 0, expected + used, 0))
        used += expected.max()


RING = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 0, 0],
        [0, 1, 0, 0, 1, 1, 1],
        [0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 1],
    ]
)


@pytest.mark.parametrize("method", ["components", "watershed"])
def test_a_hole_of_two_pixels_is_filled_from_two_on_and_a_bay_at_the_border_never(
    method: Any,
) -> None:
    for largest in (0, 1, 2, 100):
        found = segment(0.9 * RING, 0.5, SegmentSettings(method=method, fill_holes=largest))
        expected = RING.copy()
        expected[2, 2:4] = largest >= 2
        np.testing.assert_array_equal(found, expected)


def test_a_hole_between_two_seeds_is_divided_by_watershed() -> None:
    foreground = np.full((5, 9), 0.9)
    foreground[2, 2:7] = 0.1
    foreground[:2, 4] = foreground[3:, 4] = 0.6
    chosen = SegmentSettings(method="watershed", seed_threshold=0.8, fill_holes=5)
    found = segment(foreground, 0.5, chosen)
    assert found[2, [2, 3, 5, 6]].tolist() == [1, 1, 2, 2]
    assert (found > 0).all()


@pytest.mark.parametrize("method", ["components", "watershed"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_an_image_in_blocks_has_the_holes_of_the_whole_filled(
    tmp_path: Path, small_shards: None, method: Any, dimensions: int
) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random((20, 40, 50)), 1)
    foreground = ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)
    image = create_image(tmp_path / "prediction", "czyx", (1, 20, 40, 50), np.float32, {})
    image[0] = foreground
    chosen = SegmentSettings(
        method=method, threshold=0.4, seed_threshold=0.4, fill_holes=30, block_megavoxels=0.01
    )
    model = {"threshold": 0.5, "network": {"dimensions": dimensions}}
    joined = segment_image(tmp_path / "prediction", tmp_path / "out", model, chosen)
    assert len(joined.ids) > 1
    found = np.asarray(open_image(tmp_path / "out").array[...])
    whole = (segment_planes if dimensions == 2 else segment)(foreground, 0.4, chosen)
    assert ((whole > 0) & (foreground <= 0.4)).sum() > 100
    np.testing.assert_array_equal(found > 0, whole > 0)
    if method == "components":
        np.testing.assert_array_equal(found, whole)
