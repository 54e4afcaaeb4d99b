"""Tables of objects: scikit-image and scipy as references, whatever the blocks and the format."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops
from skimage.segmentation import relabel_sequential
from small_model import small_shards

from unetflow import objects
from unetflow.joining import join
from unetflow.labelling import Grid, Region, Values, label_block, measure
from unetflow.objects import object_table
from unetflow.segmentation import segment_image, segment_volume
from unetflow.settings.prediction import SegmentSettings
from unetflow.store import Image, create_image, open_image
from unetflow.volumes import open_volume
from unetflow.voxels import resampled

__all__ = ["small_shards"]

SIZE = {"y": 0.3, "x": 0.3}
DEEP = {"threshold": 0.5, "network": {"dimensions": 3}}
FLAT = {"threshold": 0.5, "network": {"dimensions": 2}}


def table_of(instances: NDArray[np.uint32], size: dict[str, float]) -> pd.DataFrame:
    """Object table of an image that is one block, with the ids that it has."""
    whole = tuple(slice(0, extent) for extent in instances.shape)
    found = measure(instances, whole, instances.shape, int(instances.max(initial=0)))
    return object_table(found, Image("", instances, "zyx"[-instances.ndim :], size))


@given(
    st.one_of(
        hnp.arrays(np.uint32, (6, 7), elements=st.sampled_from([0, 0, 1, 2, 5])),
        hnp.arrays(np.uint32, (3, 4, 5), elements=st.sampled_from([0, 0, 1, 2, 5])),
    )
)
def test_the_object_table_equals_scikit_image(ids: NDArray[np.uint32]) -> None:
    instances = np.asarray(relabel_sequential(ids)[0], np.uint32)
    axes = "zyx"[-instances.ndim :]
    table = table_of(instances, dict.fromkeys(axes, 0.5) | {"x": 0.25})
    expected = regionprops(instances)
    assert len(table) == len(expected)
    for row, region in zip(table.to_dict("records"), expected, strict=True):
        assert row["label"] == region.label
        assert row["voxels"] == region.area
        volume = region.area * 0.25 * 0.5 ** (len(axes) - 1)
        assert row[f"size_um{len(axes)}"] == pytest.approx(volume)
        for place, axis in enumerate(axes):
            assert row[f"centroid_{axis}"] == pytest.approx(region.centroid[place], rel=1e-5)
            assert row[f"start_{axis}"] == region.bbox[place]
            assert row[f"stop_{axis}"] == region.bbox[place + len(axes)]
        inside = instances[(slice(1, -1),) * len(axes)]
        outside = np.count_nonzero(inside == region.label) < region.area
        assert row["touches_border"] == outside


def test_a_worked_table_has_no_size_where_the_voxel_is_unknown() -> None:
    instances = np.array([[0, 1, 1], [0, 1, 0]], np.uint32)
    assert table_of(instances, {"y": 1.0}).to_dict("records") == [
        {
            "label": 1,
            "voxels": 3,
            "centroid_y": pytest.approx(1 / 3, rel=1e-5),
            "centroid_x": pytest.approx(4 / 3, rel=1e-5),
            "start_y": 0,
            "start_x": 1,
            "stop_y": 2,
            "stop_x": 3,
            "touches_border": 1,
        }
    ]


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_an_image_without_objects_has_a_table_of_its_columns(shape: tuple[int, ...]) -> None:
    size = dict.fromkeys("zyx"[-len(shape) :], 1.0)
    table, full = (table_of(np.full(shape, value, np.uint32), size) for value in (0, 1))
    assert (len(table), [*table.columns]) == (0, [*full.columns])


# ------------------------------------------------------------------------- means of values


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(2, 6)), min_size=2, max_size=3),
    st.integers(0, 10**6),
    st.sampled_from([0.02, 0.5, 1]),
)
def test_values_are_summed_over_each_object_for_every_division(
    axes: list[tuple[int, int]], seed: int, density: float
) -> None:
    """Each voxel is read at most once, and none where a block has no object."""
    shape, block = zip(*axes, strict=True)
    rng = np.random.default_rng(seed)
    mask, grey = rng.random(shape) < density, rng.integers(0, 2**16, (2, *shape))
    reads = np.zeros(shape, int)

    def read(region: Region) -> list[NDArray[Any]]:
        reads[region] += 1
        return [channel[region] for channel in grey]

    grid, values = Grid(shape, block, (1,) * len(shape)), Values(("a", "b"), read)
    labels = zarr.zeros(shape, dtype=np.uint32)
    with tempfile.TemporaryDirectory() as folder:
        for index in grid.blocks:
            divide = lambda region: ndimage.label(mask[region])[0]  # noqa: E731
            label_block(grid, index, divide, labels, Path(folder), values)
        found = join(grid, dict.fromkeys(grid.blocks, Path(folder)), 0, 0, values.names).objects
    expected, count = ndimage.label(mask)
    for name, channel in zip("ab", grey, strict=True):
        sums = ndimage.sum_labels(channel, expected, np.arange(1, count + 1))
        np.testing.assert_array_equal(found[name], sums)
    assert (reads <= 1).all()
    assert (reads[mask] == 1).all()
    assert mask.any() or not reads.any()


def write(path: Path, axes: str, pixels: NDArray[Any], **size: float) -> Path:
    """Write an OME-Zarr image."""
    create_image(path, axes, pixels.shape, pixels.dtype, size)[...] = pixels
    return path


def blobs(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Smooth noise from 0 to 1."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random(shape), 2)
    return np.asarray((noise - noise.min()) / (noise.max() - noise.min()), np.float32)


@pytest.mark.parametrize("settings", [{}, {"method": "watershed", "seed_threshold": 0.7}])
@pytest.mark.parametrize("model", [FLAT, DEEP], ids=["2D", "3D"])
def test_means_are_scikit_images_of_the_whole_volume(
    tmp_path: Path, small_shards: None, settings: dict[str, Any], model: dict[str, Any]
) -> None:
    foreground = blobs((20, 40, 50))
    grey = np.random.default_rng(1).integers(0, 4000, (2, 20, 40, 50)).astype(np.uint16)
    prediction = write(tmp_path / "prediction", "czyx", foreground[None])
    pixels = open_image(write(tmp_path / "image", "czyx", grey))
    chosen = SegmentSettings(**settings, threshold=0.6, block_megavoxels=0.01)
    joined = segment_image(prediction, tmp_path / "out", model, chosen, pixels)
    image = open_image(tmp_path / "out")
    table = object_table(joined.objects, image)
    assert len(joined.ids) > 1
    assert len(table) > 1
    values = np.stack([foreground, *grey], axis=-1)
    expected = [it.intensity_mean for it in regionprops(image.array[...], values)]
    columns = ["mean_probability", "mean_intensity_0", "mean_intensity_1"]
    np.testing.assert_allclose(table[columns], expected, rtol=1e-6)


def test_linked_planes_have_the_means_of_the_whole_object(tmp_path: Path) -> None:
    foreground = np.full((1, 3, 6, 6), 0.75, np.float32)
    grey = np.zeros((3, 6, 6), np.uint8) + np.array([[[10]], [[20]], [[60]]], np.uint8)
    prediction = write(tmp_path / "prediction", "czyx", foreground)
    pixels = open_image(write(tmp_path / "image", "zyx", grey))
    chosen = SegmentSettings(link_planes=0.3)
    joined = segment_image(prediction, tmp_path / "out", FLAT, chosen, pixels)
    table = object_table(joined.objects, open_image(tmp_path / "out"))
    assert table[["mean_intensity", "mean_probability"]].to_numpy().tolist() == [[30, 0.75]]


def segmented(root: Path, row: dict[str, Any], **settings: Any) -> pd.DataFrame:
    """Table of the objects of an archive's volume, whose prediction lies in a folder."""
    facts = {"state": "done", "reason": "", "seconds": 0, "volume": row}
    names = {"segmentation": "out", "objects": "objects.tsv"}
    names |= {key: f"{key}.tsv" for key in ("merges", "seams", "summary")}
    outputs = {key: root / name for key, name in names.items()}
    segment_volume(facts, root / "prediction", (), outputs, FLAT, SegmentSettings(**settings))
    return pd.read_csv(outputs["objects"], sep="\t")


def test_grey_values_are_those_of_the_row_s_channels_and_time(tmp_path: Path) -> None:
    foreground = np.zeros((1, 4, 5), np.float32)
    foreground[0, :2, :3] = 0.75
    write(tmp_path / "prediction", "cyx", foreground)
    grey = np.zeros((2, 3, 4, 5), np.uint16)
    grey[:] = np.arange(6).reshape(2, 3, 1, 1)  # of time 1 channels 3, 4 and 5
    tifffile.imwrite(tmp_path / "v.tif", grey, imagej=True, metadata={"axes": "TCYX"})
    row = {"path": str(tmp_path / "v.tif"), "time": "1", "channel": "2, 0"}
    table = segmented(tmp_path, row)
    assert table[["mean_intensity_0", "mean_intensity_1"]].to_numpy().tolist() == [[5, 3]]


def test_of_a_resampled_volume_they_are_what_the_network_has_seen(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (12, 16)).astype(np.uint8)
    write(tmp_path / "volume", "yx", grey, y=1.0, x=0.5)
    seen = resampled(open_volume(tmp_path / "volume"), {"y": 0.7, "x": 0.7})
    foreground = blobs(seen.spatial_shape)
    write(tmp_path / "prediction", "cyx", foreground[None], y=0.7, x=0.7)
    table = segmented(tmp_path, {"path": str(tmp_path / "volume")})
    instances = open_image(tmp_path / "out").array[...]
    expected = ndimage.mean(seen.array[...], instances, table["label"])
    np.testing.assert_allclose(table["mean_intensity"], expected, rtol=1e-5)


def test_a_volume_that_is_no_longer_the_predicted_one_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "prediction", "cyx", np.ones((1, 4, 5), np.float32))
    write(tmp_path / "volume", "yx", np.ones((4, 6), np.uint8))
    with pytest.raises(ValueError, match=r"extents of its prediction, \(4, 5\): got \(4, 6\)"):
        segmented(tmp_path, {"path": str(tmp_path / "volume")})


# ---------------------------------------------------------------------------------- Parquet


def test_parquet_holds_the_same_table_and_goes_when_it_is_not_wanted(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write(tmp_path / "prediction", "cyx", blobs((30, 40))[None], **SIZE)
    write(tmp_path / "volume", "yx", np.arange(1200, dtype=np.uint16).reshape(30, 40), **SIZE)
    table = segmented(tmp_path, {"path": str(tmp_path / "volume")}, objects="parquet")
    found = pd.read_parquet(tmp_path / "objects.parquet")
    assert len(found) > 1
    pd.testing.assert_frame_equal(found, table, check_dtype=False, rtol=1e-5)
    segmented(tmp_path, {"path": str(tmp_path / "volume")})
    assert not (tmp_path / "objects.parquet").exists()


def test_parquet_without_what_writes_it_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"^segment.objects: parquet must .*unetflow\[parquet\]"):
        segmented(tmp_path, {"path": "nowhere"}, objects="parquet")
    assert not list(tmp_path.iterdir())
