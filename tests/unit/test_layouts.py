"""Layouts, each on files of a few pixels: what is read, and how bad files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetflow.datasets.files import class_map
from unetflow.datasets.layouts import Labelled, Source, lineages, sources, unique
from unetflow.datasets.patterns import as_expression, matching, name_image, safe
from unetflow.datasets.prepare import checked
from unetflow.settings.datasets import DatasetSettings

Array = NDArray[Any]


def picture(*shape: int, seed: int = 0, dtype: Any = np.uint8) -> Array:
    """Return noise."""
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def write(path: Path, pixels: Array) -> Path:
    """Write a picture in the format of its suffix; a stack as planes of a TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="minisblack")
    else:
        iio.imwrite(path, pixels)
    return path


def found(root: Path, **layout: Any) -> dict[str, Source]:
    """Return the sources that a layout finds, by name."""
    dataset = DatasetSettings(name="made", layout=layout)
    return {source.name: source for source in unique(sources(dataset, root))}


def read(source: Source) -> Labelled:
    """Return the checked parts of a source."""
    return checked(source, *source.read())


def read_all(root: Path, **layout: Any) -> None:
    """Read every source that a layout finds."""
    for source in found(root, **layout).values():
        read(source)


def refused(root: Path, file: str, **layout: Any) -> str:
    """Return the one line, naming the file, with which a dataset is refused."""
    with pytest.raises(ValueError, match=r"\A/") as caught:
        read_all(root, **layout)
    line = str(caught.value)
    assert "\n" not in line
    assert file in line
    return line


# -------------------------------------------------------------------------------- patterns


@examples(deadline=None)
@given(st.text())
def test_a_safe_name_is_a_wildcard_value_and_stays_safe(text: str) -> None:
    name = safe(text)
    assert name
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
    assert safe(name) in (name, name.strip("_"))


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("images/*.tif", "images/{image}.tif"),
        ("*/images/*_raw.tif", "*/images/{image}_raw.tif"),
        ("**/train.tif", "**/train.tif"),
        ("**/*/mask.png", "**/{image}/mask.png"),
        ("{image}/masks/*.png", "{image}/masks/*.png"),
        ("one.tif", "one.tif"),
    ],
)
def test_the_last_star_is_the_name_unless_there_is_one(pattern: str, named: str) -> None:
    assert name_image(pattern) == named


def test_a_pattern_finds_names_at_any_depth_and_sorts_them(tmp_path: Path) -> None:
    for name in ("b/images/2.tif", "images/1.tif", "a/deep/images/3.tif", "masks/4.tif"):
        write(tmp_path / name, picture(8, 8))
    names = [names["image"] for _, names in matching(tmp_path, "**/images/{image}.tif")]
    assert sorted(names) == ["1", "2", "3"]
    assert [path for path, _ in matching(tmp_path, "**/images/*.tif")] == sorted(
        tmp_path.glob("**/images/*.tif")
    )


@pytest.mark.parametrize("name", ["a b", "a+b", "a(1)", "a[1]", "ü", "a.b"])
def test_odd_characters_in_file_names_are_no_pattern(tmp_path: Path, name: str) -> None:
    write(tmp_path / "images" / f"{name}.tif", picture(8, 8))
    write(tmp_path / "masks" / f"{name}.tif", np.eye(8, dtype=np.uint8))
    (source,) = found(tmp_path, kind="pairs", images="images/*.tif", masks="masks/*.tif").values()
    assert source.name == safe(name)


def test_what_is_known_is_filled_into_a_pattern() -> None:
    assert as_expression("{group}/{image}.tif", {"group": "a.b"}) == r"a\.b/(?P<image>[^/]+)\.tif"


def test_a_pattern_without_files_is_refused_with_folder_and_pattern(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"files must match '\*\.tif': found none; correct"):
        matching(tmp_path, "*.tif")


# ---------------------------------------------------------------------------------- stacks

STACK = {"kind": "stack", "images": "**/train.tif", "labels": "**/labels.tif"}
VALUES = {"membrane": 0, "cell": 255}


def make_stack(root: Path, planes: int = 3) -> tuple[Array, Array]:
    """Write a stack of pictures and one of masks with the values 0 and 255."""
    pixels, mask = picture(planes, 12, 10), picture(planes, 12, 10, seed=1) // 100 * 255
    write(root / "train.tif", pixels)
    write(root / "labels.tif", mask.astype(np.uint8))
    return pixels, mask


def test_planes_of_a_stack_are_images_with_their_classes(tmp_path: Path) -> None:
    pixels, mask = make_stack(tmp_path)
    images = found(tmp_path, **STACK, classes=VALUES)
    assert list(images) == ["train_000", "train_001", "train_002"]
    assert [(image.group, image.frame) for image in images.values()] == [
        ("train", 0),
        ("train", 1),
        ("train", 2),
    ]
    for plane, source in enumerate(images.values()):
        image, classes, instances = read(source)
        np.testing.assert_array_equal(image, pixels[plane])
        np.testing.assert_array_equal(classes, mask[plane] == 255)
        assert instances is None


def test_a_stack_can_be_one_volume(tmp_path: Path) -> None:
    pixels, mask = make_stack(tmp_path)
    images = found(tmp_path, **STACK, classes=VALUES, planes_are_images=False)
    image, classes, _ = read(images["train"])
    np.testing.assert_array_equal(image, pixels)
    np.testing.assert_array_equal(classes, mask == 255)


def test_the_first_named_class_is_class_0_whatever_its_value(tmp_path: Path) -> None:
    _, mask = make_stack(tmp_path)
    images = found(tmp_path, **STACK, classes={"cell": 255, "membrane": 0})
    _, classes, _ = read(images["train_001"])
    np.testing.assert_array_equal(classes, mask[1] == 0)


def test_stacks_without_masks_are_images_without_classes(tmp_path: Path) -> None:
    make_stack(tmp_path)
    write(tmp_path / "test.tif", picture(2, 12, 10))
    images = found(tmp_path, **STACK, classes=VALUES, unannotated="test.tif")
    assert list(images)[3:] == ["test_000", "test_001"]
    assert read(images["test_001"])[1:] == (None, None)


def test_a_group_pairs_several_stacks_with_their_masks(tmp_path: Path) -> None:
    first, _ = make_stack(tmp_path / "one", 2)
    make_stack(tmp_path / "two", 3)
    layout = STACK | {"images": "{group}/train.tif", "labels": "{group}/labels.tif"}
    images = found(tmp_path, **layout, classes=VALUES)
    assert list(images) == ["one_000", "one_001", "two_000", "two_001", "two_002"]
    np.testing.assert_array_equal(read(images["one_001"])[0], first[1])


def test_a_mask_stack_of_fewer_planes_is_refused(tmp_path: Path) -> None:
    make_stack(tmp_path)
    write(tmp_path / "labels.tif", np.zeros((2, 12, 10), np.uint8))
    line = refused(tmp_path, "labels.tif", **STACK, classes=VALUES)
    assert "got 2, train.tif has 3; export it again" in line


def test_a_stack_without_mask_stack_is_refused(tmp_path: Path) -> None:
    make_stack(tmp_path)
    (tmp_path / "labels.tif").unlink()
    line = refused(tmp_path, "labels.tif", **STACK, classes=VALUES)
    assert line.endswith("found none; correct the pattern")


def test_an_unknown_class_value_names_values_and_remedy(tmp_path: Path) -> None:
    make_stack(tmp_path)
    write(tmp_path / "labels.tif", np.full((3, 12, 10), 7, np.uint8))
    line = refused(tmp_path, "labels.tif", **STACK, classes=VALUES)
    assert "must be {'membrane': 0, 'cell': 255}: found [7]; correct layout.classes" in line


def test_a_colour_stack_is_refused(tmp_path: Path) -> None:
    colours = picture(3, 12, 10, 3)
    tifffile.imwrite(tmp_path / "test.tif", colours, photometric="rgb")
    make_stack(tmp_path)
    layout = STACK | {"unannotated": "test.tif", "classes": VALUES}
    assert "must be grey" in refused(tmp_path, "test.tif", **layout)


def test_255_in_a_class_mask_is_not_annotated_unless_it_is_a_class() -> None:
    mask = np.array([[0, 1, 255]], np.uint8)
    path = Path("mask.tif")
    np.testing.assert_array_equal(
        class_map({"background": 0, "cell": 1}, mask, path), [[0, 1, 255]]
    )
    black_and_white = np.array([[0, 255]], np.uint8)
    np.testing.assert_array_equal(class_map(VALUES, black_and_white, path), [[0, 1]])


@pytest.mark.parametrize("keep", [0, 5, 100, 400])
@pytest.mark.parametrize("name", ["train.tif", "labels.tif"])
def test_a_truncated_stack_is_refused(tmp_path: Path, name: str, keep: int) -> None:
    make_stack(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    line = refused(tmp_path, name, **STACK, classes=VALUES)
    assert line.endswith("fetch it again")


def test_a_compressed_stack_that_lost_its_last_planes_is_refused(tmp_path: Path) -> None:
    make_stack(tmp_path)
    path = tmp_path / "test.tif"
    tifffile.imwrite(path, picture(6, 40, 40), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as file:
        start_of_fourth = file.pages[3].offset
    path.write_bytes(path.read_bytes()[:start_of_fourth])
    layout = STACK | {"unannotated": "test.tif", "classes": VALUES}
    assert refused(tmp_path, "test.tif", **layout).endswith("fetch it again")


# --------------------------------------------------------------------------- cell tracking


def make_sequence(root: Path, frames: int = 3, shape: tuple[int, ...] = (24, 24)) -> Array:
    """Write a sequence of frames, the outlines of the first and the markers of all."""
    outlines = np.zeros((24, 24), np.uint16)
    outlines[2:8, 2:8], outlines[2:8, 14:20] = 1, 2
    markers = np.zeros(shape, np.uint16)
    markers[..., 4:6, 4:6], markers[..., 4:6, 16:18], markers[..., 18:20, 10:12] = 1, 2, 3
    for frame in range(frames):
        write(root / f"01/t{frame:03d}.tif", picture(*shape, seed=frame))
        write(root / f"01_GT/TRA/man_track{frame:03d}.tif", markers)
    if len(shape) == 2:
        write(root / "01_GT/SEG/man_seg000.tif", outlines)
    return outlines


def test_frames_with_outlines_are_images(tmp_path: Path) -> None:
    outlines = make_sequence(tmp_path)
    write(tmp_path / "01_GT/SEG/man_seg002.tif", outlines)
    images = found(tmp_path, kind="ctc")
    assert list(images) == ["01_000", "01_002"]
    assert [(image.group, image.frame) for image in images.values()] == [("01", 0), ("01", 2)]
    image, _, instances = read(images["01_002"])
    np.testing.assert_array_equal(image, picture(24, 24, seed=2))
    np.testing.assert_array_equal(instances, outlines)


def test_frames_without_outlines_are_images_too_where_wanted(tmp_path: Path) -> None:
    outlines = make_sequence(tmp_path)
    (tmp_path / "01_GT/SEG/man_seg000.tif").rename(tmp_path / "01_GT/SEG/man_seg001.tif")
    (tmp_path / "01_GT/TRA/man_track002.tif").unlink()
    images = found(tmp_path, kind="ctc", every_frame=True)
    assert list(images) == ["01_000", "01_001", "01_002"]
    assert [(image.group, image.frame) for image in images.values()] == [
        ("01", n) for n in range(3)
    ]
    np.testing.assert_array_equal(read(images["01_001"])[2], outlines)
    for name in ("01_000", "01_002"):
        assert read(images[name])[1:] == (None, None)
    assert images["01_002"].read_markers is None
    for name in ("01_000", "01_001"):
        markers = images[name].read_markers
        assert markers is not None
        np.testing.assert_array_equal(np.unique(markers()), range(4))


def test_outlines_of_planes_do_not_go_with_every_frame(tmp_path: Path) -> None:
    make_sequence(tmp_path, frames=2, shape=(4, 24, 24))
    write(tmp_path / "01_GT/SEG/man_seg_001_002.tif", np.ones((24, 24), np.uint16))
    line = refused(tmp_path, "man_seg_001_002.tif", kind="ctc", every_frame=True)
    assert line.endswith("leave layout.every_frame out")


def test_lineages_are_those_of_their_sequences(tmp_path: Path) -> None:
    dataset = DatasetSettings(name="made", layout={"kind": "ctc"})
    make_sequence(tmp_path)
    assert lineages(dataset, tmp_path) == {}
    (tmp_path / "01_GT/TRA/man_track.txt").write_text("1 0 2 0\n2 0 1 0\n")
    assert {name: rows.tolist() for name, rows in lineages(dataset, tmp_path).items()} == {
        "01": [[1, 0, 2, 0], [2, 0, 1, 0]]
    }
    (tmp_path / "01_GT/TRA/man_track.txt").write_text("1 0 2\n")
    with pytest.raises(ValueError, match=r"man_track.txt, line 1: a track must be four integers"):
        lineages(dataset, tmp_path)


def test_around_the_marker_of_an_unlabelled_cell_nothing_is_annotated(tmp_path: Path) -> None:
    outlines = make_sequence(tmp_path)
    _, classes, _ = read(found(tmp_path, kind="ctc")["01_000"])
    assert classes is not None
    np.testing.assert_array_equal(classes == 1, outlines > 0)
    row, column = np.nonzero(classes == 255)
    # Outlines of 6 x 6 pixels reach 3 pixels beyond the marker at rows 18, 19, columns 10, 11.
    assert (row.min(), row.max(), column.min(), column.max()) == (15, 22, 7, 14)
    assert (classes[18:20, 10:12] == 255).all()


def test_unlabelled_cells_can_count_as_background(tmp_path: Path) -> None:
    outlines = make_sequence(tmp_path)
    _, classes, _ = read(found(tmp_path, kind="ctc", ignore_unlabelled=False)["01_000"])
    np.testing.assert_array_equal(classes, outlines > 0)


@pytest.mark.parametrize("frame", [4, 12, 30])
def test_what_is_not_outlined_outside_the_field_of_interest_is_not_annotated(
    tmp_path: Path, frame: int
) -> None:
    outlines = make_sequence(tmp_path)
    layout = {"kind": "ctc", "ignore_unlabelled": False, "field_of_interest": frame}
    _, classes, _ = read(found(tmp_path, **layout)["01_000"])
    expected = (outlines > 0).astype(np.uint8)
    for place in np.ndindex(outlines.shape):
        if min(*place, 23 - place[0], 23 - place[1]) < frame and not outlines[place]:
            expected[place] = 255
    np.testing.assert_array_equal(classes, expected)


def test_a_frame_whose_cells_are_all_outlined_is_annotated_everywhere(tmp_path: Path) -> None:
    outlines = make_sequence(tmp_path)
    write(tmp_path / "01_GT/TRA/man_track000.tif", outlines)
    _, classes, _ = read(found(tmp_path, kind="ctc")["01_000"])
    np.testing.assert_array_equal(classes, outlines > 0)


def test_a_frame_without_any_outline_still_leaves_out_its_markers(tmp_path: Path) -> None:
    outlines = make_sequence(tmp_path)
    write(tmp_path / "01_GT/SEG/man_seg000.tif", np.zeros_like(outlines))
    _, classes, instances = read(found(tmp_path, kind="ctc")["01_000"])
    markers = tifffile.imread(tmp_path / "01_GT/TRA/man_track000.tif")
    np.testing.assert_array_equal(classes == 255, markers > 0)
    assert instances is not None
    assert not instances.any()


def test_masks_of_single_planes_make_images_of_those_planes(tmp_path: Path) -> None:
    make_sequence(tmp_path, frames=2, shape=(4, 24, 24))
    outline = np.zeros((24, 24), np.uint16)
    outline[2:8, 2:8] = 1
    write(tmp_path / "01_GT/SEG/man_seg_001_002.tif", outline)
    write(tmp_path / "01_GT/SEG/man_seg_001_003.tif", outline)
    images = found(tmp_path, kind="ctc")
    assert list(images) == ["01_001_002", "01_001_003"]
    image, classes, instances = read(images["01_001_002"])
    np.testing.assert_array_equal(image, picture(4, 24, 24, seed=1)[2])
    np.testing.assert_array_equal(instances, outline)
    assert classes is not None
    assert (classes[18:20, 10:12] == 255).all()


def test_a_sequence_without_truth_gives_every_frame(tmp_path: Path) -> None:
    for number in (0, 7):
        write(tmp_path / f"data/02/t{number:03d}.tif", picture(24, 24, seed=number))
    images = found(tmp_path, kind="ctc")
    assert list(images) == ["02_000", "02_007"]
    assert [image.frame for image in images.values()] == [0, 7]
    assert read(images["02_007"])[1:] == (None, None)


def test_a_folder_without_sequences_is_refused(tmp_path: Path) -> None:
    line = refused(tmp_path, str(tmp_path), kind="ctc")
    assert line.endswith("must hold folders such as 01 and 01_GT: found none; fetch it again")


def test_a_sequence_without_frames_is_refused(tmp_path: Path) -> None:
    (tmp_path / "01").mkdir()
    assert "found none" in refused(tmp_path, "01", kind="ctc")


def test_a_truth_without_outlines_is_refused(tmp_path: Path) -> None:
    make_sequence(tmp_path)
    (tmp_path / "01_GT/SEG/man_seg000.tif").unlink()
    assert "found none" in refused(tmp_path, "01_GT", kind="ctc")


def test_outlines_without_their_frame_are_refused(tmp_path: Path) -> None:
    make_sequence(tmp_path)
    (tmp_path / "01/t000.tif").unlink()
    line = refused(tmp_path, "t000.tif", kind="ctc")
    assert line.endswith("found none for man_seg000.tif; fetch it again")


@pytest.mark.parametrize("name", ["01/t000.tif", "01_GT/SEG/man_seg000.tif"])
def test_a_frame_and_outlines_of_different_shapes_are_refused(tmp_path: Path, name: str) -> None:
    make_sequence(tmp_path)
    write(tmp_path / name, picture(20, 24, dtype=np.uint16))
    line = refused(tmp_path, "t000.tif", kind="ctc")
    assert "must have the shape of its image" in line


# ----------------------------------------------------------------------------------- pairs

PAIRS = {"kind": "pairs", "images": "images/*.tif", "masks": "masks/*.tif"}


def make_pair(root: Path, name: str = "a", suffix: str = ".tif") -> tuple[Array, Array]:
    """Write a picture and its mask of two objects."""
    pixels, mask = picture(12, 10), np.zeros((12, 10), np.uint16)
    mask[1:4, 1:4], mask[6:9, 5:9] = 1, 300
    write(root / "images" / f"{name}{suffix}", pixels)
    write(root / "masks" / f"{name}{suffix}", mask)
    return pixels, mask


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_picture_comes_with_its_instances(tmp_path: Path, suffix: str) -> None:
    pixels, mask = make_pair(tmp_path, suffix=suffix)
    layout = {"kind": "pairs", "images": f"images/*{suffix}", "masks": f"masks/*{suffix}"}
    (source,) = found(tmp_path, **layout).values()
    image, classes, instances = read(source)
    np.testing.assert_array_equal(image, pixels)
    np.testing.assert_array_equal(instances, mask)
    np.testing.assert_array_equal(classes, mask > 0)


def test_masks_can_have_another_suffix_and_format(tmp_path: Path) -> None:
    make_pair(tmp_path)
    write(tmp_path / "images/b_raw.png", picture(12, 10))
    write(tmp_path / "masks/b_mask.tif", np.eye(12, 10, dtype=np.uint8))
    layout = {"kind": "pairs", "images": "images/{image}_raw.png", "masks": "masks/*_mask.tif"}
    assert list(found(tmp_path, **layout)) == ["b"]


def test_groups_keep_images_of_one_name_apart(tmp_path: Path) -> None:
    for group in ("mouse1", "mouse2"):
        write(tmp_path / group / "images/a.tif", picture(12, 10))
        write(tmp_path / group / "masks/a.tif", np.eye(12, 10, dtype=np.uint8))
    layout = {
        "kind": "pairs",
        "images": "{group}/images/{image}.tif",
        "masks": "{group}/masks/{image}.tif",
    }
    images = found(tmp_path, **layout)
    assert {name: image.group for name, image in images.items()} == {
        "mouse1_a": "mouse1",
        "mouse2_a": "mouse2",
    }


def test_one_file_per_object_makes_one_instance_of_each(tmp_path: Path) -> None:
    for name, objects in (("a", 3), ("b", 1)):
        write(tmp_path / f"stage1/{name}/images/{name}.png", picture(12, 10))
        for number in range(objects):
            mask = np.zeros((12, 10), np.uint8)
            mask[4 * number : 4 * number + 2, 1:9] = 255
            write(tmp_path / f"stage1/{name}/masks/{number}.png", mask)
    layout = {
        "kind": "pairs",
        "images": "stage1/{image}/images/*.png",
        "masks": "**/{image}/masks/*.png",
    }
    images = found(tmp_path, **layout)
    _, classes, instances = read(images["a"])
    assert instances is not None
    np.testing.assert_array_equal(instances[[0, 4, 8, 2], 1], [1, 2, 3, 0])
    np.testing.assert_array_equal(classes, instances > 0)
    _, _, single = read(images["b"])
    assert len(np.unique(np.asarray(single))) == 2


def test_class_masks_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "images/a.tif", picture(12, 10))
    mask = np.full((12, 10), 10, np.uint8)
    mask[1:4], mask[6:9] = 50, 255
    write(tmp_path / "masks/a.tif", mask)
    classes = {"background": 10, "nucleus": 50}
    images = found(tmp_path, **PAIRS, labels_are="classes", classes=classes)
    _, found_classes, instances = read(images["a"])
    assert instances is None
    expected = np.select([mask == 50, mask == 255], [1, 255], 0)
    np.testing.assert_array_equal(found_classes, expected)


def test_class_masks_without_names_are_background_and_foreground(tmp_path: Path) -> None:
    make_pair(tmp_path)
    mask = np.eye(12, 10, dtype=np.uint8)
    write(tmp_path / "masks/a.tif", mask)
    _, classes, _ = read(found(tmp_path, **PAIRS, labels_are="classes")["a"])
    np.testing.assert_array_equal(classes, mask)


def test_an_empty_label_image_is_an_image_of_background(tmp_path: Path) -> None:
    make_pair(tmp_path)
    write(tmp_path / "masks/a.tif", np.zeros((12, 10), np.uint8))
    _, classes, instances = read(found(tmp_path, **PAIRS)["a"])
    assert classes is not None
    assert instances is not None
    assert not classes.any()
    assert not instances.any()


def test_a_missing_mask_names_image_and_remedy(tmp_path: Path) -> None:
    make_pair(tmp_path)
    write(tmp_path / "images/b.tif", picture(12, 10))
    line = refused(tmp_path, "images/b.tif", **PAIRS)
    assert "must have a mask that matches 'masks/*.tif': found none; add the mask" in line


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    make_pair(tmp_path)
    write(tmp_path / "masks/a.tif", np.eye(10, 12, dtype=np.uint8))
    line = refused(tmp_path, "images/a.tif", **PAIRS)
    assert "a has (12, 10), its mask (10, 12); export the mask again" in line


def test_an_object_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a/images/a.tif", picture(12, 10))
    for number, shape in enumerate([(12, 10), (10, 12)]):
        write(tmp_path / f"a/masks/{number}.tif", np.eye(*shape, dtype=np.uint8))
    layout = {"kind": "pairs", "images": "{image}/images/*.tif", "masks": "{image}/masks/*.tif"}
    line = refused(tmp_path, "a/masks/1.tif", **layout)
    assert "must have the shape of its image" in line


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_grey_values_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    pixels, _ = make_pair(tmp_path)
    values = pixels.astype(np.float32)
    values[3, 3] = bad
    write(tmp_path / "images/a.tif", values)
    line = refused(tmp_path, "images/a.tif", **PAIRS)
    assert line.endswith("a has NaN or infinite ones; repair or remove it")


def test_a_constant_image_is_refused(tmp_path: Path) -> None:
    make_pair(tmp_path)
    write(tmp_path / "images/a.tif", np.full((12, 10), 7, np.uint8))
    assert refused(tmp_path, "images/a.tif", **PAIRS).endswith("all of a are 7; remove it")


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_are_refused_where_grey_is_expected(tmp_path: Path, channels: int) -> None:
    make_pair(tmp_path, suffix=".png")
    write(tmp_path / "images/a.png", picture(12, 10, channels))
    layout = {"kind": "pairs", "images": "images/*.png", "masks": "masks/*.png"}
    line = refused(tmp_path, "images/a.png", **layout)
    assert line.endswith("convert it or choose one with layout.channel")


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_that_are_all_grey_count_as_grey(tmp_path: Path, channels: int) -> None:
    pixels, _ = make_pair(tmp_path, suffix=".png")
    colours = np.repeat(pixels[..., np.newaxis], channels, axis=2)
    colours[..., 3:] = 255
    write(tmp_path / "images/a.png", colours)
    layout = {"kind": "pairs", "images": "images/*.png", "masks": "masks/*.png"}
    np.testing.assert_array_equal(read(found(tmp_path, **layout)["a"])[0], pixels)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_channel_can_be_chosen(tmp_path: Path, channel: int) -> None:
    make_pair(tmp_path, suffix=".png")
    colours = picture(12, 10, 3)
    write(tmp_path / "images/a.png", colours)
    layout = {"kind": "pairs", "images": "images/*.png", "masks": "masks/*.png"}
    image, _, _ = read(found(tmp_path, **layout, channel=channel)["a"])
    np.testing.assert_array_equal(image, colours[..., channel])


def test_a_channel_that_a_picture_lacks_is_refused(tmp_path: Path) -> None:
    make_pair(tmp_path, suffix=".png")
    write(tmp_path / "images/a.png", picture(12, 10, 3))
    layout = {"kind": "pairs", "images": "images/*.png", "masks": "masks/*.png"}
    assert "layout.channel" in refused(tmp_path, "images/a.png", **layout, channel=5)


@pytest.mark.parametrize("keep", [0, 5, 60])
@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_truncated_picture_is_refused(
    tmp_path: Path, folder: str, suffix: str, keep: int
) -> None:
    make_pair(tmp_path, suffix=suffix)
    path = tmp_path / folder / f"a{suffix}"
    path.write_bytes(path.read_bytes()[:keep])
    layout = {"kind": "pairs", "images": f"images/*{suffix}", "masks": f"masks/*{suffix}"}
    line = refused(tmp_path, f"{folder}/a{suffix}", **layout)
    assert line.endswith("replace the file or fetch it again")
    # What a decoder for another format says of it helps nobody.
    assert "DICOM" not in line


def test_components_of_one_value_in_a_channel_of_the_mask_are_objects(tmp_path: Path) -> None:
    colours = np.zeros((8, 9, 4), np.uint8)
    colours[..., 3] = 255
    colours[1:4, 1:4, 0], colours[1:4, 4:6, 0], colours[5:7, 6:9, 0] = 10, 20, 10
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "images/a.tif", np.arange(72, dtype=np.uint16).reshape(8, 9))
    iio.imwrite(tmp_path / "masks/a.png", colours)
    names = {"kind": "pairs", "images": "images/{image}.tif", "masks": "masks/{image}.png"}
    image = found(tmp_path, **names, labels_are="components", mask_channel=0)["a"]
    _, classes, instances = read(image)
    assert len(np.unique(instances)) == 4
    assert len(np.unique(instances[colours[..., 0] == 10])) == 2
    np.testing.assert_array_equal(classes, colours[..., 0] > 0)


def test_fractional_labels_are_refused(tmp_path: Path) -> None:
    make_pair(tmp_path)
    write(tmp_path / "masks/a.tif", np.full((12, 10), 0.5, np.float32))
    assert "whole numbers: the mask of a" in refused(tmp_path, "images/a.tif", **PAIRS)


def test_whole_numbers_stored_as_floats_are_labels(tmp_path: Path) -> None:
    _, mask = make_pair(tmp_path)
    write(tmp_path / "masks/a.tif", mask.astype(np.float32))
    np.testing.assert_array_equal(read(found(tmp_path, **PAIRS)["a"])[2], mask)


def test_negative_labels_are_refused(tmp_path: Path) -> None:
    _, mask = make_pair(tmp_path)
    write(tmp_path / "masks/a.tif", mask.astype(np.int16) - 1)
    line = refused(tmp_path, "images/a.tif", **PAIRS)
    assert "from 0 to 4294967295: the mask of a has -1 to 299; relabel it" in line


def test_an_unknown_class_value_of_a_pair_is_refused(tmp_path: Path) -> None:
    make_pair(tmp_path)
    classes = {"background": 0, "cell": 1}
    line = refused(tmp_path, "masks/a.tif", **PAIRS, labels_are="classes", classes=classes)
    assert "found [300]; correct layout.classes or the mask" in line


@pytest.mark.parametrize("names", [("a/x", "b/x"), ("x y", "x_y")])
def test_two_images_of_one_name_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        make_pair(tmp_path, name)
    layout = {"kind": "pairs", "images": "images/**/*.tif", "masks": "masks/**/*.tif"}
    line = refused(tmp_path, f"{names[0]}.tif", **layout)
    assert f"{names[1]}.tif" in line
    assert "must have different names" in line


# ------------------------------------------------------------------------------------ HDF5

HDF5 = {"kind": "hdf5", "files": "*.h5", "image": "raw", "labels": "labels/cells"}


def make_hdf5(root: Path, name: str = "v") -> tuple[Array, Array]:
    """Write a volume and its labels into an HDF5 file."""
    pixels, labels = picture(3, 12, 10), picture(3, 12, 10, seed=1, dtype=np.uint64) // 100
    with h5py.File(root / f"{name}.h5", "w") as file:
        file["raw"], file["labels/cells"] = pixels, labels
    return pixels, labels


def test_a_volume_comes_with_its_instances(tmp_path: Path) -> None:
    pixels, labels = make_hdf5(tmp_path)
    image, classes, instances = read(found(tmp_path, **HDF5)["v"])
    np.testing.assert_array_equal(image, pixels)
    np.testing.assert_array_equal(instances, labels)
    np.testing.assert_array_equal(classes, labels > 0)


def test_planes_of_a_volume_can_be_images(tmp_path: Path) -> None:
    pixels, labels = make_hdf5(tmp_path)
    images = found(tmp_path, **HDF5, planes_are_images=True)
    assert [(name, image.group, image.frame) for name, image in images.items()] == [
        ("v_000", "v", 0),
        ("v_001", "v", 1),
        ("v_002", "v", 2),
    ]
    image, _, instances = read(images["v_002"])
    np.testing.assert_array_equal(image, pixels[2])
    np.testing.assert_array_equal(instances, labels[2])


def test_labels_of_a_volume_can_be_classes(tmp_path: Path) -> None:
    _, labels = make_hdf5(tmp_path)
    classes = {"cell": 1, "rest": 0}
    _, found_classes, instances = read(
        found(tmp_path, **HDF5, labels_are="classes", classes=classes)["v"]
    )
    np.testing.assert_array_equal(found_classes, labels == 0)
    assert instances is None


def test_a_volume_can_be_without_labels(tmp_path: Path) -> None:
    make_hdf5(tmp_path)
    assert read(found(tmp_path, **(HDF5 | {"labels": None}))["v"])[1:] == (None, None)


def test_groups_keep_volumes_of_one_name_apart(tmp_path: Path) -> None:
    for group in ("one", "two"):
        (tmp_path / group).mkdir()
        make_hdf5(tmp_path / group)
    images = found(tmp_path, **(HDF5 | {"files": "{group}/{image}.h5"}))
    assert {image.group for image in images.values()} == {"one", "two"}


@pytest.mark.parametrize("key", ["image", "labels"])
def test_a_missing_key_of_a_file_is_named_with_those_it_has(tmp_path: Path, key: str) -> None:
    make_hdf5(tmp_path)
    line = refused(tmp_path, "v.h5", **(HDF5 | {key: "nothing"}))
    assert "must hold ['nothing']: found ['labels', 'raw']; correct layout.image" in line


def test_a_truncated_hdf5_file_is_refused(tmp_path: Path) -> None:
    make_hdf5(tmp_path)
    content = (tmp_path / "v.h5").read_bytes()
    (tmp_path / "v.h5").write_bytes(content[: len(content) // 2])
    assert refused(tmp_path, "v.h5", **HDF5).endswith("fetch it again")


@pytest.mark.parametrize("planes_are_images", [False, True])
def test_a_volume_with_fewer_planes_of_labels_is_refused(
    tmp_path: Path, planes_are_images: bool
) -> None:
    make_hdf5(tmp_path)
    with h5py.File(tmp_path / "v.h5", "a") as file:
        del file["labels/cells"]
        file["labels/cells"] = np.zeros((2, 12, 10), np.uint16)
    line = refused(tmp_path, "v.h5", **HDF5, planes_are_images=planes_are_images)
    assert "must have the shape of its image" in line


# ------------------------------------------------------------------------------- synthetic


def test_planes_of_synthetic_stacks_are_images(tmp_path: Path) -> None:
    images = found(tmp_path, kind="synthetic", shape=[2, 32, 32], stacks=2, seed=3)
    assert list(images) == [
        "membranes0_000",
        "membranes0_001",
        "membranes1_000",
        "membranes1_001",
    ]
    image, classes, instances = read(images["membranes1_001"])
    assert (image.shape, image.dtype) == ((32, 32), np.uint8)
    assert classes is not None
    np.testing.assert_array_equal(classes, np.asarray(instances) > 0)


def test_synthetic_stacks_can_be_volumes_and_pictures(tmp_path: Path) -> None:
    (volume,) = found(
        tmp_path, kind="synthetic", shape=[2, 32, 32], planes_are_images=False
    ).values()
    assert read(volume)[0].shape == (2, 32, 32)
    (flat,) = found(tmp_path, kind="synthetic", shape=[32, 40], texture="cells").values()
    assert (flat.name, read(flat)[0].shape) == ("cells0", (32, 40))


# ------------------------------------------------------------------------------- any layout


def test_a_picture_of_more_than_three_axes_is_refused() -> None:
    source = Source("a", "all", 0, Path("a.tif"), lambda: (picture(2, 3, 4, 5), None, None))
    with pytest.raises(ValueError, match=r"a\.tif: an image must be a plane or a volume: a has"):
        read(source)


def test_ids_beyond_32_bits_are_refused() -> None:
    labels = np.full((4, 4), 2**32, np.uint64)
    source = Source("a", "all", 0, Path("a.tif"), lambda: (picture(4, 4), None, labels))
    with pytest.raises(ValueError, match=r"ids must be from 0 to 4294967295: .* relabel it"):
        read(source)


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    make_pair(tmp_path)
    (tmp_path / "images/a.tif").write_bytes(b"not read yet")
    assert list(found(tmp_path, **PAIRS)) == ["a"]
