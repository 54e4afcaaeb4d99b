"""Instances of blocks joined at their seams: the whole volume as reference, and worked seams."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.metrics import adapted_rand_error
from small_model import small_shards

from unetflow.dividing import segment, segment_planes
from unetflow.joining import Joined, join, link_planes
from unetflow.labelling import Divide, Grid, components, label_block, measure, shard_blocks
from unetflow.metrics.contingency import contingency
from unetflow.segmentation import segment_image
from unetflow.settings.prediction import SegmentSettings
from unetflow.store import create_image, open_image

__all__ = ["small_shards"]

NUCLEI = Path(__file__).parents[3] / "shared/data/nuclei3d.zip"


def blockwise(
    grid: Grid, divide: Divide, least_iou: float = 0, minimum_size: int = 0
) -> tuple[NDArray[np.integer], Joined]:
    """Instances of a volume, block by block."""
    labels = zarr.zeros(grid.shape, dtype=np.uint32)
    with tempfile.TemporaryDirectory() as folder:
        for index in grid.blocks:
            label_block(grid, index, divide, labels, Path(folder))
        folders = dict.fromkeys(grid.blocks, Path(folder))
        joined = join(grid, folders, least_iou, minimum_size)
    result = np.zeros(grid.shape, np.int64)
    for index in grid.blocks:
        core = grid.core(index)
        result[core] = joined.ids[index][labels[core]]
    return result, joined


@st.composite
def masks(draw: st.DrawFn) -> tuple[NDArray[np.bool_], Grid]:
    """A random mask, and a division into blocks."""
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=2, max_size=3)))
    block = tuple(draw(st.integers(1, 7)) for _ in shape)
    margin = tuple(draw(st.integers(1, 3)) for _ in shape)
    seed, density = draw(st.integers(0, 10**6)), draw(st.sampled_from([0, 0.3, 0.5, 0.65, 1]))
    return np.random.default_rng(seed).random(shape) < density, Grid(shape, block, margin)


@given(masks())
def test_components_are_those_of_the_whole_volume_for_every_division(
    drawn: tuple[NDArray[np.bool_], Grid],
) -> None:
    mask, grid = drawn
    found, joined = blockwise(grid, lambda region: components(mask[region]))
    expected = label(mask, connectivity=1)  # numbered by their first voxels, too
    np.testing.assert_array_equal(found, expected)
    whole = tuple(slice(0, extent) for extent in mask.shape)
    undivided = measure(expected.astype(np.uint32), whole, mask.shape, int(expected.max()))
    for name, values in undivided.items():
        np.testing.assert_array_equal(joined.objects[name], values, name)


@given(masks(), st.integers(1, 6))
def test_an_object_is_small_by_the_whole_of_it(
    drawn: tuple[NDArray[np.bool_], Grid], minimum: int
) -> None:
    mask, grid = drawn
    found, _ = blockwise(grid, lambda region: components(mask[region]), 0, minimum)
    whole = label(mask, connectivity=1)
    kept = np.bincount(whole.ravel())[whole] >= minimum
    np.testing.assert_array_equal(found > 0, mask & kept)
    assert set(np.unique(found[found > 0])) == set(range(1, int(found.max()) + 1))


@given(masks())
@examples(max_examples=30)
def test_a_stack_that_is_divided_plane_by_plane_joins_nothing_through_planes(
    drawn: tuple[NDArray[np.bool_], Grid],
) -> None:
    mask, grid = drawn
    if mask.ndim == 2:
        return
    flat = Grid(grid.shape, grid.block, (0, *grid.margin[1:]))
    planes = lambda region: segment_planes(mask[region].astype(float), 0.5, SegmentSettings())  # noqa: E731
    found, _ = blockwise(flat, planes)
    np.testing.assert_array_equal(found, segment_planes(mask.astype(float), 0.5, SegmentSettings()))


def cells(shape: tuple[int, ...], count: int, radius: float) -> NDArray[np.float32]:
    """Probability of soft balls of a radius at random places, which touch and do not coincide."""
    rng = np.random.default_rng(0)
    centres: list[NDArray[np.float64]] = []
    while len(centres) < count:
        place = rng.uniform(0, shape)
        if all(np.linalg.norm(place - other) > 1.6 * radius for other in centres):
            centres.append(place)
    grid = np.indices(shape, dtype=np.float32)
    nearest = np.full(shape, np.inf, np.float32)
    for place in centres:
        offset = grid - place.reshape(-1, *[1] * len(shape))
        nearest = np.minimum(nearest, np.sqrt((offset**2).sum(axis=0)))
    return np.clip(1.5 - nearest / radius, 0, 1)


@pytest.mark.parametrize(
    ("shape", "block", "count"), [((200, 220), (64, 64), 90), ((60, 70, 80), (32, 32, 32), 60)]
)
def test_watershed_by_blocks_finds_the_cells_of_the_whole(
    shape: tuple[int, ...], block: tuple[int, ...], count: int
) -> None:
    foreground = cells(shape, count, 8)
    settings = SegmentSettings(method="watershed", seed_threshold=0.8)
    divide: Divide = lambda region: segment(foreground[region], 0.5, settings)  # noqa: E731
    whole = segment(foreground, 0.5, settings)
    assert whole.max() == count
    found, joined = blockwise(Grid(shape, block, (16,) * len(shape)), divide, 0.3)
    assert found.max() == count
    assert len(joined.merges) > count / 10
    error = adapted_rand_error(whole, found)[0]
    assert error < 1e-3
    # Without what blocks see around them, cells are cut at the seams.
    cut, _ = blockwise(Grid(shape, block, (0,) * len(shape)), divide)
    assert cut.max() > count


def test_objects_are_joined_from_the_overlap_at_the_seam_on_that_is_set() -> None:
    """Two blocks see one object of 10 voxels at their seam, and disagree on how wide it is."""
    grid = Grid((20, 8), (20, 4), (1, 1))

    def divide(region: tuple[slice, ...]) -> NDArray[np.integer]:
        whole = np.zeros(grid.shape, np.uint32)
        whole[:10] = 1
        if region[1].start > 0:
            whole[5:10] = 0  # the block behind sees half of it
        return whole[region]

    for least, objects in ((0.5, 1), (0.51, 2)):
        _, joined = blockwise(grid, divide, least)
        assert len(joined.objects["size"]) == objects
    _, joined = blockwise(grid, divide, 0.5)
    assert joined.merges.to_dict("records") == [
        {
            "front_label": 1,
            "behind_label": 1,
            "overlap": 10,
            "iou": 0.5,
            "axis": 1,
            "front_block": "0_0",
            "behind_block": "0_1",
            "label": 1,
        }
    ]


def test_there_may_be_more_objects_than_16_bits_count() -> None:
    mask = np.zeros((600, 600), bool)
    mask[::2, ::2] = True
    found, joined = blockwise(
        Grid(mask.shape, (100, 250), (1, 1)), lambda region: label(mask[region], connectivity=1)
    )
    assert len(joined.objects["size"]) == found.max() == 90_000
    np.testing.assert_array_equal(found[mask], np.arange(1, 90_001))


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 300)), min_size=2, max_size=3),
    st.floats(1, 1e9),
)
def test_blocks_are_whole_shards_and_as_large_as_allowed(
    axes: list[tuple[int, int]], most: float
) -> None:
    shape, shards = zip(*axes, strict=True)
    block = shard_blocks(shape, shards, most)
    assert all(extent % shard == 0 for extent, shard in zip(block, shards, strict=True))
    voxels = np.prod([float(min(pair)) for pair in zip(block, shape, strict=True)])
    if block != shards:
        assert voxels <= most
    if any(extent < whole for extent, whole in zip(block, shape, strict=True)):
        assert 4 * voxels > most or block == shards


@pytest.mark.parametrize("settings", [{}, {"method": "watershed", "margin": 4}])
def test_a_prediction_in_blocks_has_the_instances_of_the_whole(
    tmp_path: Path, small_shards: None, settings: dict[str, Any]
) -> None:
    foreground = cells((40, 50, 60), 30, 6)
    image = create_image(tmp_path / "prediction", "czyx", (1, 40, 50, 60), np.float32, {"z": 2.0})
    image[0] = foreground
    model = {"threshold": 0.5, "network": {"dimensions": 3}}
    chosen = SegmentSettings(**settings, block_megavoxels=0.01)
    joined = segment_image(tmp_path / "prediction", tmp_path / "out", model, chosen)
    found = open_image(tmp_path / "out")
    whole = segment(foreground, 0.5, chosen)
    assert len(joined.ids) > 4
    assert len(joined.merges) > 0
    assert (found.axes, found.voxel_size_um) == ("zyx", {"z": 2.0})
    assert len(joined.objects["size"]) == whole.max()
    table = contingency(whole, np.asarray(found.array[...]))
    assert table.count[(table.truth_label > 0) != (table.prediction_label > 0)].sum() == 0
    if chosen.method == "components":
        np.testing.assert_array_equal(found.array[...], whole)
    else:
        assert adapted_rand_error(whole, found.array[...])[0] < 1e-3
    assert set(joined.merges["label"]) <= set(range(1, int(whole.max()) + 1))
    assert {path.name for path in tmp_path.iterdir()} == {"prediction", "out"}
    assert not (tmp_path / "out/blocks").exists()


FLAT = {"threshold": 0.5, "network": {"dimensions": 2}}


@pytest.mark.parametrize("block_megavoxels", [0.001, 17])
def test_balls_in_a_stack_are_linked_through_its_planes(
    tmp_path: Path, small_shards: None, block_megavoxels: float
) -> None:
    foreground = np.where(cells((40, 50, 60), 12, 6) > 0.75, 0.9, 0)  # apart in space
    image = create_image(tmp_path / "prediction", "czyx", (1, *foreground.shape), np.float32, {})
    image[0] = foreground
    how = SegmentSettings(link_planes=0.3, minimum_size=40, block_megavoxels=block_megavoxels)
    joined = segment_image(tmp_path / "prediction", tmp_path / "out", FLAT, how)
    whole = label(foreground > 0.5, connectivity=1)
    # What is far smaller in the next plane, as at a ball's poles, is left apart, and too small.
    assert len(joined.objects["size"]) == whole.max() == 12
    found = np.asarray(open_image(tmp_path / "out").array[...])
    assert np.bincount(found.ravel())[1:].tolist() == joined.objects["size"].tolist()
    assert adapted_rand_error(whole, found, ignore_labels=(0,))[0] < 0.05
    assert joined.objects["size"].sum() == (found > 0).sum()


def test_an_object_is_linked_to_the_one_that_overlaps_it_most() -> None:
    """Of two objects below one, the larger is its continuation; a third plane has a far one."""
    planes = np.zeros((3, 4, 12), np.uint32)
    planes[0, :, :10] = 1
    planes[1, :, :7], planes[1, :, 7:10] = 2, 3
    planes[2, :, 10:] = 4
    whole = tuple(slice(0, extent) for extent in planes.shape)
    objects = measure(planes, whole, planes.shape, 4)
    for block in ((3, 4, 12), (1, 4, 5), (2, 2, 12)):
        grid = Grid(planes.shape, block, (0, 1, 1))
        ids, linked, _ = link_planes(zarr.array(planes), grid, objects, 0.2, 0)
        assert ids.tolist() == [0, 1, 1, 2, 3]
        assert linked["size"].tolist() == [68, 12, 8]
        ids, _, _ = link_planes(zarr.array(planes), grid, objects, 0.71, 0)
        assert ids.tolist() == [0, 1, 2, 3, 4]
    ids, linked, _ = link_planes(zarr.array(planes), grid, objects, 0.2, 10)
    assert ids.tolist() == [0, 1, 1, 2, 0]


@pytest.mark.data
@pytest.mark.parametrize("name", ["train/1135", "train/1136", "val/1137"])
def test_real_nuclei_are_the_same_in_blocks_as_in_one(name: str) -> None:
    if not NUCLEI.is_file():
        pytest.skip("no real images: there is no folder shared/data beside the project")
    with zipfile.ZipFile(NUCLEI) as archive:
        content = io.BytesIO(archive.read(f"nuclei3d/{name}_mini.h5"))
    with h5py.File(content) as file:
        smooth = ndimage.gaussian_filter(file["raw"][...].astype(np.float32), (1, 2, 2))
    foreground = smooth / smooth.max()
    threshold = float(threshold_otsu(foreground))
    settings = SegmentSettings()
    divide: Divide = lambda region: segment(foreground[region], threshold, settings)  # noqa: E731
    found, _ = blockwise(Grid(foreground.shape, (37, 50, 41), (1, 1, 1)), divide)
    np.testing.assert_array_equal(found, label(foreground > threshold, connectivity=1))

    seeds = SegmentSettings(method="watershed", seed_threshold=(1 + 2 * threshold) / 3)
    divide = lambda region: segment(foreground[region], threshold, seeds)  # noqa: E731
    whole = segment(foreground, threshold, seeds)
    found, joined = blockwise(Grid(foreground.shape, (50, 50, 50), (32, 32, 32)), divide, 0.3)
    assert whole.max() > 10
    assert len(joined.merges) > 5
    # The nuclei of one volume, twice as wide as what a block sees around it, lose a boundary.
    lost, most = (1, 0.05) if name == "train/1135" else (0, 0)
    assert abs(int(found.max()) - int(whole.max())) == lost
    assert adapted_rand_error(whole, found)[0] <= most
