"""What is written is complete or absent, valid, and comes back as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from unetflow.store import (
    add_label,
    chunks_and_shards,
    create_array,
    create_image,
    open_image,
    read_json,
    remove,
    replacing,
    shard_regions,
    validate,
    write_json,
)

AXES = ["yx", "cyx", "zyx", "czyx", "tyx", "tzyx", "tczyx"]
DTYPES = ["uint8", "int16", "uint32", "float32", "float16"]


@st.composite
def images(draw: st.DrawFn) -> tuple[str, np.ndarray[Any, Any], dict[str, float]]:
    """Axes, pixels and voxel sizes."""
    axes = draw(st.sampled_from(AXES))
    shape = [draw(st.integers(1, 20 if axis in "yx" else 3)) for axis in axes]
    dtype = draw(st.sampled_from(DTYPES))
    pixels = draw(numpy_strategies.arrays(dtype, tuple(shape)))
    sizes = {
        axis: draw(st.floats(1e-3, 1e3)) for axis in axes if axis in "zyx" and draw(st.booleans())
    }
    return axes, pixels, sizes


# --------------------------------------------------------------------------- small files


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    with replacing(tmp_path / "new" / "a.txt") as partial:
        partial.write_text("half")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_text() == "half"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt("stop"), SystemExit(1)])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_leaves_the_old_and_no_part_of_the_new(
    tmp_path: Path, kind: str, error: BaseException
) -> None:
    path = tmp_path / "a"
    if kind == "folder":
        path.mkdir()
    old = path / "x" if kind == "folder" else path
    old.write_text("old")

    def fail() -> None:
        with replacing(path) as partial:
            if kind == "folder":
                partial.mkdir()
            (partial / "x" if kind == "folder" else partial).write_text("new")
            raise error

    with pytest.raises(type(error), match=str(error)):
        fail()
    assert old.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("first", ["file", "folder"])
@pytest.mark.parametrize("second", ["file", "folder"])
def test_a_file_or_folder_takes_the_place_of_either(
    tmp_path: Path, first: str, second: str
) -> None:
    for kind in (first, second):
        with replacing(tmp_path / "a") as partial:
            if kind == "folder":
                partial.mkdir()
                (partial / kind).write_text(kind)
            else:
                partial.write_text(kind)
    assert (tmp_path / "a").is_dir() == (second == "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "rest").write_text("rest")
    with replacing(tmp_path / "a") as partial:
        partial.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    remove(tmp_path / "nothing")
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_facts_come_back_from_json(tmp_path: Path) -> None:
    facts = {"µ": [1, 2.5, None, True], "nested": {"": "x"}}
    write_json(tmp_path / "a.json", facts)
    assert read_json(tmp_path / "a.json") == facts


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused_and_the_old_stays(
    tmp_path: Path, number: float
) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", number)
    assert read_json(tmp_path / "a.json") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# ------------------------------------------------------------------------- chunks, shards


@examples(deadline=None)
@given(st.sampled_from(AXES), st.data())
def test_shards_are_whole_chunks_and_no_larger_than_needed(axes: str, data: st.DataObject) -> None:
    shape = [data.draw(st.integers(1, 10**5)) for _ in axes]
    chunks, shards = chunks_and_shards(axes, shape)
    for axis, extent, chunk, shard in zip(axes, shape, chunks, shards, strict=True):
        assert shard % chunk == 0
        assert chunk <= min(extent, 256)
        assert shard < extent + chunk
        assert shard <= (2048 if axis in "yx" else 16) + chunk


def test_an_array_is_sharded_and_names_its_axes(tmp_path: Path) -> None:
    array = create_array(tmp_path / "a", "zyx", (3, 8, 8), "u1", (1, 4, 4), (2, 8, 8))
    assert (array.chunks, array.shards) == ((1, 4, 4), (2, 8, 8))
    assert array.metadata.dimension_names == ("z", "y", "x")


# -------------------------------------------------------------------------------- OME-Zarr


@examples(max_examples=25, deadline=None)
@given(images())
def test_an_image_comes_back_as_it_was_and_is_valid(
    image: tuple[str, np.ndarray[Any, Any], dict[str, float]],
) -> None:
    axes, pixels, sizes = image
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        create_image(path, axes, pixels.shape, pixels.dtype, sizes)[...] = pixels
        validate(path)
        opened = open_image(path)
        assert (opened.axes, opened.voxel_size_um) == (axes, sizes)
        assert opened.array.dtype == pixels.dtype
        np.testing.assert_array_equal(opened.array[...], pixels)
        spatial = tuple(n for axis, n in zip(axes, pixels.shape, strict=True) if axis in "zyx")
        assert opened.spatial_shape == spatial
        assert opened.label("classes") is None


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64"])
def test_labels_come_back_as_they_were_and_are_valid(tmp_path: Path, dtype: str) -> None:
    labels = np.arange(60).reshape(3, 4, 5).astype(dtype)
    sizes = {"z": 2.0, "x": 0.5}
    create_image(tmp_path / "a", "czyx", (2, 3, 4, 5), "u2", sizes)[...] = 1
    for name in ("classes", "instances"):
        add_label(tmp_path / "a", name, "zyx", labels, sizes)
    validate(tmp_path / "a")
    image = open_image(tmp_path / "a")
    for name in ("classes", "instances"):
        validate(tmp_path / "a/labels" / name)
        array = image.label(name)
        assert array is not None
        assert array.dtype == labels.dtype
        np.testing.assert_array_equal(array[...], labels)
    group = zarr.open_group(tmp_path / "a/labels", mode="r")
    assert dict(group.attrs)["ome"] == {"version": "0.5", "labels": ["classes", "instances"]}


def test_a_label_can_be_opened_as_an_image(tmp_path: Path) -> None:
    create_image(tmp_path / "a", "yx", (4, 5), "u1", {})[...] = 1
    add_label(tmp_path / "a", "classes", "yx", np.eye(4, 5, dtype=np.uint8), {})
    opened = open_image(tmp_path / "a/labels/classes")
    np.testing.assert_array_equal(opened.array[...], np.eye(4, 5))


@pytest.mark.parametrize(("axes", "count"), [("yx", 1), ("cyx", 1), ("zyx", 3), ("czyx", 3)])
def test_planes_cover_the_image_once(tmp_path: Path, axes: str, count: int) -> None:
    shape = tuple({"c": 2, "z": 3, "y": 4, "x": 5}[axis] for axis in axes)
    pixels = np.arange(np.prod(shape)).reshape(shape).astype("u1")
    create_image(tmp_path / "a", axes, shape, "u1", {})[...] = pixels
    image = open_image(tmp_path / "a")
    planes = [image.region((*index, slice(None), slice(None))) for index in image.planes()]
    assert len(planes) == count
    assert all(plane.shape == (2 if "c" in axes else 1, 4, 5) for plane in planes)
    assert sorted(np.concatenate(planes).ravel()) == sorted(pixels.ravel())


@pytest.mark.parametrize("axes", ["xy", "yxc", "ctyx", "zzyx", "zyyx", "zy"])
def test_axes_out_of_order_are_refused_before_anything_is_written(
    tmp_path: Path, axes: str
) -> None:
    with pytest.raises(ValueError, match=f"a: axes must be some of 'tczyx' .*: got '{axes}'"):
        create_image(tmp_path / "a", axes, [4] * len(axes), "u1", {})
    assert list(tmp_path.iterdir()) == []


def test_axes_of_another_number_than_the_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"3 axes 'zyx' do not fit 2 extents \(4, 4\)"):
        create_image(tmp_path / "a", "zyx", (4, 4), "u1", {})


def no_folder(path: Path) -> None:
    """Leave nothing there."""


def empty_folder(path: Path) -> None:
    path.mkdir()


def plain_group(path: Path) -> None:
    zarr.create_group(path, zarr_format=3)


def version_04(path: Path) -> None:
    multiscales = [{"version": "0.4", "datasets": [{"path": "0"}]}]
    zarr.create_group(path, zarr_format=2, attributes={"multiscales": multiscales})


def plain_array(path: Path) -> None:
    zarr.create_array(path, shape=(4, 4), dtype="u1", zarr_format=3)


def broken_metadata(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_ty')


def without_pixels(path: Path) -> None:
    create_image(path, "yx", (4, 4), "u1", {})
    shutil.rmtree(path / "0")


def empty_ome(path: Path) -> None:
    zarr.create_group(path, zarr_format=3, attributes={"ome": None})


def without(key: str, path: Path) -> None:
    """Write an image whose metadata lack a key of the multiscale."""
    create_image(path, "yx", (4, 4), "u1", {})
    facts = json.loads((path / "zarr.json").read_text())
    scales = facts["attributes"]["ome"]["multiscales"][0]
    del (scales if key in scales else scales["datasets"][0])[key]
    (path / "zarr.json").write_text(json.dumps(facts))


def without_axes(path: Path) -> None:
    without("axes", path)


def without_scale(path: Path) -> None:
    without("coordinateTransformations", path)


@pytest.mark.parametrize(
    "make",
    [
        no_folder,
        empty_folder,
        plain_group,
        version_04,
        plain_array,
        broken_metadata,
        without_pixels,
        empty_ome,
        without_axes,
        without_scale,
    ],
)
def test_a_folder_that_is_no_image_is_one_line_with_the_remedy(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "volume"
    make(path)
    with pytest.raises(ValueError, match=r"must be an OME-Zarr image of version 0\.5") as caught:
        open_image(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    assert line.endswith("convert it, for example with bioio or Fiji")


def test_metadata_that_break_the_specification_are_refused(tmp_path: Path) -> None:
    without_axes(tmp_path / "a")
    with pytest.raises(ValueError, match="axes"):
        validate(tmp_path / "a")


@pytest.mark.parametrize(
    ("shape", "shard"), [((1, 70, 45), (1, 32, 32)), ((1, 3, 64, 33), (1, 2, 32, 32))]
)
def test_regions_are_whole_shards_and_cover_the_array_once(
    tmp_path: Path, shape: tuple[int, ...], shard: tuple[int, ...]
) -> None:
    chunk = (*(1,) * (len(shape) - 2), 16, 16)
    array = create_array(tmp_path / "a", "czyx"[-len(shape) :], shape, "u1", chunk, shard)
    covered = np.zeros(shape[1:], int)
    for region in shard_regions(array, len(shape) - 1):
        covered[region] += 1
        for part, step, extent in zip(region, shard[1:], shape[1:], strict=True):
            assert part.start % step == 0
            assert part.stop in (part.start + step, extent)
    assert (covered == 1).all()
