"""Prepared datasets: exact pixels in valid OME-Zarr and an index, or nothing at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from unetflow.datasets.prepare import prepare
from unetflow.settings.datasets import DatasetSettings
from unetflow.store import Image, open_image, read_json, validate

PAIRS = {"kind": "pairs", "images": "images/*.*", "masks": "masks/*.*"}
NAMED = {"kind": "pairs", "images": "images/{image}.*", "masks": "masks/{image}.*"}
DTYPES = ["uint8", "uint16", "int16", "int32", "float32"]


def noise(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    """Return noise."""
    return np.random.default_rng(0).integers(1, 99, shape).astype(dtype)


def cells(*shape: int) -> NDArray[np.uint16]:
    """Return a mask of two objects."""
    mask = np.zeros(shape, np.uint16)
    mask[..., 1:4, 1:4], mask[..., 6:9, 5:9] = 1, 700
    return mask


class Place:
    """Where a dataset lies and where it is prepared to."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "data"
        self.images = folder / "results" / "images.ome.zarr"
        self.index = folder / "results" / "index.json"

    def add(self, name: str, pixels: NDArray[Any], mask: NDArray[Any] | None) -> None:
        """Write a picture and its mask as TIFF files."""
        for part, content in (("images", pixels), ("masks", mask)):
            (self.root / part).mkdir(parents=True, exist_ok=True)
            if content is not None:
                tifffile.imwrite(
                    self.root / part / f"{name}.tif", content, photometric="minisblack"
                )

    def prepare(self, layout: dict[str, Any], **dataset: Any) -> Any:
        """Prepare and return the index."""
        settings = DatasetSettings(name="made", layout=layout, **dataset)
        prepare(settings, self.root, self.images, self.index, "key of the test")
        return read_json(self.index)

    def image(self, name: str) -> Image:
        """Open a prepared image."""
        return open_image(self.images / name)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def label(image: Image, name: str) -> NDArray[Any]:
    """Read a label image that must be there."""
    array = image.label(name)
    assert array is not None
    return np.asarray(array[...])


# ------------------------------------------------------------------------ what should work


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(12, 10), (3, 12, 10)])
def test_pixels_and_labels_are_written_exactly_and_valid(
    place: Place, shape: tuple[int, ...], dtype: str
) -> None:
    pixels = noise(*shape, dtype=dtype) - np.asarray(5, dtype)
    place.add("a", pixels, cells(*shape))
    place.prepare(NAMED)
    image = place.image("a")
    assert image.axes == "zyx"[-len(shape) :]
    assert image.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(image.array[...], pixels)
    instances, classes = label(image, "instances"), label(image, "classes")
    assert (instances.dtype, classes.dtype) == (np.uint32, np.uint8)
    np.testing.assert_array_equal(instances, cells(*shape))
    np.testing.assert_array_equal(classes, cells(*shape) > 0)
    for part in ("", "labels/classes", "labels/instances"):
        validate(place.images / "a" / part)


def test_markers_and_lineages_are_written_where_they_are_known(place: Place) -> None:
    truth = place.root / "01_GT"
    for folder in (place.root / "01", place.root / "02", truth / "SEG", truth / "TRA"):
        folder.mkdir(parents=True)
    for name in ("01/t000", "01/t001", "02/t000"):
        tifffile.imwrite(place.root / f"{name}.tif", noise(12, 10))
    tifffile.imwrite(truth / "SEG/man_seg001.tif", cells(12, 10))
    for number in range(2):
        tifffile.imwrite(truth / f"TRA/man_track00{number}.tif", cells(12, 10) // 7)
    (truth / "TRA/man_track.txt").write_text("100 0 1 0\n")
    index = place.prepare({"kind": "ctc", "every_frame": True})
    assert index["lineages"] == {"01": [[100, 0, 1, 0]]}
    assert [entry["annotated"] for entry in index["images"]] == [False, True, False]
    for name in ("01_000", "01_001"):
        np.testing.assert_array_equal(label(place.image(name), "markers"), cells(12, 10) // 7)
        validate(place.images / name / "labels/markers")
    assert place.image("02_000").label("markers") is None


def test_markers_of_another_shape_are_refused(place: Place) -> None:
    for folder in ("01", "01_GT/SEG", "01_GT/TRA"):
        (place.root / folder).mkdir(parents=True)
    tifffile.imwrite(place.root / "01/t000.tif", noise(12, 10))
    tifffile.imwrite(place.root / "01/t001.tif", noise(12, 10))
    tifffile.imwrite(place.root / "01_GT/SEG/man_seg000.tif", cells(12, 10))
    tifffile.imwrite(place.root / "01_GT/TRA/man_track001.tif", cells(10, 12))
    with pytest.raises(
        ValueError, match=r"t001.tif: .* 01_001 has \(12, 10\), its mask \(10, 12\)"
    ):
        place.prepare({"kind": "ctc", "every_frame": True})
    assert not place.images.exists()


def test_a_black_and_white_picture_is_stored_as_numbers(place: Place) -> None:
    place.add("a", np.eye(12, 10, dtype=bool), cells(12, 10))
    place.prepare(NAMED)
    assert place.image("a").array.dtype == np.uint8


def test_class_masks_make_classes_and_no_instances(place: Place) -> None:
    mask = np.array([[0, 7], [7, 255]], np.uint8).repeat(6, 0).repeat(5, 1)
    place.add("a", noise(12, 10), mask)
    layout = NAMED | {"labels_are": "classes", "classes": {"background": 0, "cell": 7}}
    index = place.prepare(layout)
    image = place.image("a")
    assert image.label("instances") is None
    expected = np.array([[0, 1], [1, 255]], np.uint8).repeat(6, 0).repeat(5, 1)
    np.testing.assert_array_equal(label(image, "classes"), expected)
    assert index["class_names"] == ["background", "cell"]
    # 255 is no class, so that its 30 pixels count for none.
    assert index["class_counts"] == [30, 60]


def test_the_line_between_touching_objects_is_counted_as_background(place: Place) -> None:
    mask = np.repeat(np.array([[1, 1, 2, 2]], np.uint16), 6, axis=0).repeat(3, axis=1)
    place.add("a", noise(6, 12), mask)
    index = place.prepare(NAMED)
    assert index["class_counts"] == [0, 72]
    assert index["separated_class_counts"] == [6, 66]


def test_an_empty_label_image_is_prepared(place: Place) -> None:
    place.add("a", noise(12, 10), np.zeros((12, 10), np.uint8))
    index = place.prepare(NAMED)
    assert not label(place.image("a"), "instances").any()
    assert index["class_counts"] == [120, 0]
    assert index["images"][0]["annotated"]


def test_the_index_tells_every_image(place: Place) -> None:
    place.add("b", noise(12, 10), cells(12, 10))
    place.add("a", noise(14, 10, dtype=np.uint16), cells(14, 10))
    index = place.prepare(NAMED, voxel_size_um={"z": 2.0, "y": 0.5, "x": 0.25})
    assert index["key"] == "key of the test"
    assert index["class_names"] == ["background", "cell"]
    assert index["class_counts"] == [120 + 140 - 42, 42]
    first, second = index["images"]
    assert first.pop("sha256") != second.pop("sha256")
    assert first == {
        "image": "a",
        "group": "all",
        "frame": 0,
        "axes": "yx",
        "shape": [14, 10],
        "dtype": "uint16",
        "voxel_size_um": {"y": 0.5, "x": 0.25},
        "annotated": True,
    }
    assert (second["image"], second["frame"]) == ("b", 1)
    assert place.image("a").voxel_size_um == {"y": 0.5, "x": 0.25}


def test_images_without_annotation_are_told_apart(place: Place) -> None:
    place.root.mkdir(parents=True)
    for name, shape in (("train", (2, 12, 10)), ("labels", (2, 12, 10)), ("test", (1, 12, 10))):
        pixels = noise(*shape) if name != "labels" else (cells(*shape) > 0).astype(np.uint8)
        tifffile.imwrite(place.root / f"{name}.tif", pixels, photometric="minisblack")
    layout = {
        "kind": "stack",
        "images": "train.tif",
        "labels": "labels.tif",
        "unannotated": "test.tif",
        "classes": {"background": 0, "cell": 1},
    }
    index = place.prepare(layout)
    annotated = {entry["image"]: entry["annotated"] for entry in index["images"]}
    assert annotated == {"train_000": True, "train_001": True, "test_000": False}
    assert place.image("test_000").label("classes") is None
    assert sum(index["class_counts"]) == 240


def test_the_same_files_give_the_same_bytes(place: Place, tmp_path: Path) -> None:
    again = Place(tmp_path / "again")
    for one in (place, again):
        one.add("a", noise(12, 10), cells(12, 10))
        one.prepare(NAMED)
    assert place.index.read_bytes() == again.index.read_bytes()
    parts = [path.relative_to(place.images) for path in place.images.rglob("*") if path.is_file()]
    assert parts
    for part in parts:
        assert (place.images / part).read_bytes() == (again.images / part).read_bytes()


@pytest.mark.parametrize("part", ["images", "masks"])
def test_another_pixel_gives_another_digest(place: Place, part: str) -> None:
    place.add("a", noise(12, 10), cells(12, 10))
    before = place.prepare(NAMED)["images"][0]["sha256"]
    path = place.root / part / "a.tif"
    pixels = tifffile.imread(path)
    pixels[0, 0] += 1
    tifffile.imwrite(path, pixels)
    assert place.prepare(NAMED)["images"][0]["sha256"] != before


def test_preparing_again_replaces_what_was_there(place: Place) -> None:
    place.add("a", noise(12, 10), cells(12, 10))
    place.prepare(NAMED)
    for part in ("images", "masks"):
        (place.root / part / "a.tif").rename(place.root / part / "b.tif")
    place.prepare(NAMED)
    assert [path.name for path in place.images.iterdir()] == ["b"]


def test_what_a_killed_run_left_is_replaced(place: Place) -> None:
    half = place.images.with_name("images.ome.zarr.partial")
    (half / "a").mkdir(parents=True)
    (half / "a" / "zarr.json").write_text("{")
    place.add("a", noise(12, 10), cells(12, 10))
    place.prepare(NAMED)
    validate(place.images / "a")
    assert not half.exists()


def test_a_synthetic_dataset_needs_no_files(place: Place) -> None:
    index = place.prepare({"kind": "synthetic", "shape": [2, 32, 32], "seed": 1})
    assert index["class_names"] == ["membrane", "cell"]
    assert sum(index["class_counts"]) == 2 * 32 * 32
    validate(place.images / "membranes0_001")


# --------------------------------------------------------------------------- bad pictures


def without_mask(place: Place) -> None:
    (place.root / "masks/b.tif").unlink()


def other_shape(place: Place) -> None:
    place.add("b", noise(12, 12), cells(12, 10))


def not_finite(place: Place) -> None:
    place.add("b", np.full((12, 10), np.nan, np.float32), cells(12, 10))


def constant(place: Place) -> None:
    place.add("b", np.full((12, 10), 3, np.uint8), cells(12, 10))


def colour(place: Place) -> None:
    (place.root / "images/b.tif").unlink()
    iio.imwrite(place.root / "images/b.png", noise(12, 10, 3))


def truncated_tiff(place: Place) -> None:
    path = place.root / "images/b.tif"
    path.write_bytes(path.read_bytes()[:-30])


def truncated_png(place: Place) -> None:
    (place.root / "images/b.tif").unlink()
    path = place.root / "images/b.png"
    iio.imwrite(path, noise(12, 10))
    path.write_bytes(path.read_bytes()[:90])


def fractions(place: Place) -> None:
    place.add("b", noise(12, 10), np.full((12, 10), 0.25, np.float32))


def negative(place: Place) -> None:
    place.add("b", noise(12, 10), cells(12, 10).astype(np.int32) - 1)


def same_name(place: Place) -> None:
    place.add("b b", noise(12, 10), cells(12, 10))
    place.add("b_b", noise(12, 10), cells(12, 10))


@pytest.mark.parametrize(
    ("spoil", "file", "remedy"),
    [
        (without_mask, "images/b.tif", "add the mask"),
        (other_shape, "images/b.tif", "export the mask again"),
        (not_finite, "images/b.tif", "repair or remove it"),
        (constant, "images/b.tif", "remove it"),
        (colour, "images/b.png", "choose one with layout.channel"),
        (truncated_tiff, "images/b.tif", "fetch it again"),
        (truncated_png, "images/b.png", "fetch it again"),
        (fractions, "images/b.tif", "whole numbers"),
        (negative, "images/b.tif", "relabel it"),
        (same_name, "images/b_b.tif", "use {group}"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_picture_is_one_line_and_leaves_nothing(
    place: Place, spoil: Callable[[Place], None], file: str, remedy: str
) -> None:
    # The first picture is good, so that something was written before the second is met.
    place.add("a", noise(12, 10), cells(12, 10))
    place.add("b", noise(12, 10), cells(12, 10))
    spoil(place)
    with pytest.raises(ValueError, match=r"\A/") as caught:
        place.prepare(NAMED)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{place.root / file}: ")
    assert remedy in line
    assert_nothing_is_there(place)


def test_an_unknown_class_value_is_one_line_and_leaves_nothing(place: Place) -> None:
    place.add("a", noise(12, 10), cells(12, 10))
    layout = NAMED | {"labels_are": "classes", "classes": {"background": 0, "cell": 1}}
    with pytest.raises(ValueError, match=r"masks/a\.tif: mask values must be .* correct layout"):
        place.prepare(layout)
    assert_nothing_is_there(place)


def test_a_pattern_without_pictures_is_one_line_and_leaves_nothing(place: Place) -> None:
    place.add("a", noise(12, 10), cells(12, 10))
    with pytest.raises(ValueError, match=r"data: files must match 'pictures/\*\.png'"):
        place.prepare(PAIRS | {"images": "pictures/*.png"})
    assert_nothing_is_there(place)


@pytest.mark.parametrize("folders", [["01"], ["01", "01_GT/SEG"]])
def test_a_sequence_without_pictures_is_one_line_and_leaves_nothing(
    place: Place, folders: list[str]
) -> None:
    for folder in folders:
        (place.root / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"data.*01.*: .* found none"):
        place.prepare({"kind": "ctc"})
    assert_nothing_is_there(place)


def assert_nothing_is_there(place: Place) -> None:
    """Refuse images, an index, or parts of them."""
    folder = place.images.parent
    left = [path.name for path in folder.iterdir()] if folder.exists() else []
    assert left == []


def test_a_bad_picture_leaves_what_an_earlier_run_prepared(place: Place) -> None:
    place.add("a", noise(12, 10), cells(12, 10))
    before = place.prepare(NAMED)
    place.add("b", np.zeros((12, 10), np.uint8), cells(12, 10))
    with pytest.raises(ValueError, match="must have two grey values"):
        place.prepare(NAMED)
    assert json.loads(place.index.read_text()) == before
    assert sorted(path.name for path in place.images.parent.iterdir()) == [
        "images.ome.zarr",
        "index.json",
    ]


def test_what_a_geotiff_marks_as_missing_is_no_grey_value(place: Place) -> None:
    """In a mask it may be one: 0 is often the background's value, and that of the tag."""
    tag = [(42113, "s", 0, "0", True)]
    pixels, mask = noise(12, 12), cells(12, 12)
    place.add("a", pixels, mask)
    tifffile.imwrite(place.root / "images/a.tif", pixels, extratags=tag)
    tifffile.imwrite(place.root / "masks/a.tif", mask, extratags=tag)
    assert place.prepare(PAIRS)["images"][0]["annotated"]
    pixels[2:5, 7] = 0
    tifffile.imwrite(place.root / "images/a.tif", pixels, extratags=tag)
    with pytest.raises(
        ValueError, match=r"a\.tif: .* 3 of its 144 pixels have the value 0 "
    ) as caught:
        place.prepare(PAIRS)
    assert "\n" not in str(caught.value)
