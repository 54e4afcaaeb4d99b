"""Layouts of medical datasets, written by SimpleITK and nothing else; bad files are one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from unetflow.datasets.prepare import prepare
from unetflow.formats.placement import Placement
from unetflow.settings.datasets import DatasetSettings
from unetflow.store import Image, open_image, read_json, validate

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")

Array = NDArray[Any]
SHAPE = (4, 6, 8)
SPACING = (0.5, 1.0, 2.5)
MODALITIES = ("flair", "t1", "t1ce", "t2")
VALUES = {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 4}
BRATS = {
    "kind": "medical",
    "images": "**/{image}/{image}_{channel}.nii*",
    "channels": MODALITIES,
    "masks": "**/{image}/{image}_seg.nii*",
    "classes": VALUES,
}
SLIVER: dict[str, Any] = {
    "kind": "medical",
    "images": "**/liver-orig{image}.mhd",
    "masks": "**/liver-seg{image}.mhd",
    "classes": {"background": 0, "liver": 1},
}


def grey(seed: int, shape: Sequence[int] = SHAPE) -> Array:
    """Return noise."""
    return np.random.default_rng(seed).integers(-900, 900, shape).astype(np.int16)


def mask(values: Sequence[int], shape: Sequence[int] = SHAPE) -> Array:
    """Return noise of some values, which all occur."""
    found = np.random.default_rng(1).choice(values, shape).astype(np.uint8)
    found.ravel()[: len(values)] = values
    return found


def write(path: Path, pixels: Array, code: str = "LPS", origin: float = 0.0) -> Path:
    """Write a volume whose axes are those of the patient in a file whose axes go elsewhere."""
    image = sitk.GetImageFromArray(pixels)
    spacing = (*SPACING, 1.0)[: pixels.ndim]
    image.SetSpacing(spacing)
    image.SetOrigin((origin,) * pixels.ndim)
    if code != "LPS":
        image = sitk.DICOMOrient(image, code)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def brats(root: Path, *cases: str) -> Path:
    """Write cases as BRATS comes."""
    for number, case in enumerate(cases):
        for channel, name in enumerate(MODALITIES):
            write(root / f"data/{case}/{case}_{name}.nii.gz", grey(10 * number + channel))
        write(root / f"data/{case}/{case}_seg.nii.gz", mask([*VALUES.values()]))
    return root


def decathlon(root: Path, **changes: Any) -> Path:
    """Write a task of two labelled volumes and one without labels, of two modalities."""
    folder = root / "Task99_Test"
    for part, numbers in (("imagesTr", (1, 2)), ("imagesTs", (3,))):
        for number in numbers:
            channels = [sitk.GetImageFromArray(grey(10 * number + k)) for k in range(2)]
            image = sitk.JoinSeries(channels)
            image.SetSpacing((*SPACING, 1.0))
            (folder / part).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(folder / part / f"CASE_{number}.nii.gz"))
    for number in (1, 2):
        write(folder / f"labelsTr/CASE_{number}.nii.gz", mask([0, 1, 2]))
    task = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor"},
        "training": [
            {"image": f"./imagesTr/CASE_{n}.nii.gz", "label": f"./labelsTr/CASE_{n}.nii.gz"}
            for n in (1, 2)
        ],
        "test": ["./imagesTs/CASE_3.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(task | changes))
    return root


def prepared(root: Path, **layout: Any) -> tuple[dict[str, Any], dict[str, Image]]:
    """Return the index and the images of a dataset."""
    folder, dataset = root / "made", DatasetSettings(name="made", layout=layout)
    prepare(dataset, root, folder / "images", folder / "index.json", "key")
    index = read_json(folder / "index.json")
    return index, {
        of["image"]: open_image(folder / "images" / of["image"]) for of in index["images"]
    }


def refused(root: Path, **layout: Any) -> str:
    """Return the one line with which a dataset is refused."""
    with pytest.raises(ValueError, match=r"\A/") as caught:
        prepared(root, **layout)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_modalities_are_channels_in_the_order_of_the_layout(tmp_path: Path) -> None:
    index, images = prepared(brats(tmp_path, "BraTS20_001", "BraTS20_002"), **BRATS)
    assert index["class_names"] == [*VALUES]
    for number, (name, image) in enumerate(images.items()):
        assert image.axes == "czyx"
        validate(Path(image.path))
        expected = [grey(10 * number + channel) for channel in range(4)]
        np.testing.assert_array_equal(image.array[...], expected)
        assert image.voxel_size_um == {"z": 2500.0, "y": 1000.0, "x": 500.0}
        classes = image.label("classes")
        assert classes is not None
        values = np.array([*VALUES.values()])
        np.testing.assert_array_equal(values[classes[...]], mask(values))
        assert name == f"BraTS20_00{number + 1}"
    assert [of["group"] for of in index["images"]] == [*images]
    assert index["images"][0]["shape"] == [4, *SHAPE]
    assert sum(index["class_counts"]) == 2 * np.prod(SHAPE)


def test_a_case_without_mask_is_an_image_only_where_that_is_wanted(tmp_path: Path) -> None:
    brats(tmp_path, "a", "b")
    (tmp_path / "data/b/b_seg.nii.gz").unlink()
    assert "b_flair.nii.gz: a case must have a mask that matches" in refused(tmp_path, **BRATS)
    index, _ = prepared(tmp_path, **BRATS, require_masks=False)
    assert [of["annotated"] for of in index["images"]] == [True, False]


def test_a_missing_modality_is_named_with_its_case(tmp_path: Path) -> None:
    brats(tmp_path, "a", "b")
    (tmp_path / "data/b/b_t1ce.nii.gz").unlink()
    line = refused(tmp_path, **BRATS)
    assert "b_flair.nii.gz: a case must have every modality: found no t1ce of b; add" in line


def test_two_files_of_one_case_are_refused(tmp_path: Path) -> None:
    for folder in ("HGG", "LGG"):
        write(tmp_path / f"{folder}/A/A_flair.nii.gz", grey(0))
        write(tmp_path / f"{folder}/A/A_seg.nii.gz", mask([*VALUES.values()]))
    one = BRATS | {"channels": ("flair",)}
    assert "HGG/A/A_flair.nii.gz does too; write {group}" in refused(tmp_path, **one)
    grouped = {key: one[key].replace("**/", "{group}/") for key in ("images", "masks")}
    assert [*prepared(tmp_path, **one | grouped)[1]] == ["HGG_A", "LGG_A"]


def test_modalities_of_different_extents_are_refused(tmp_path: Path) -> None:
    brats(tmp_path, "a")
    write(tmp_path / "data/a/a_t1.nii.gz", grey(0, (4, 6, 7)))
    line = refused(tmp_path, **BRATS)
    assert "a_t1.nii.gz: volumes of a case must have the same extents: got (4, 6, 7)" in line


def test_modalities_in_different_places_are_refused(tmp_path: Path) -> None:
    brats(tmp_path, "a")
    write(tmp_path / "data/a/a_t2.nii.gz", grey(0), origin=3)
    line = refused(tmp_path, **BRATS)
    assert "a_t2.nii.gz: volumes of a case must lie in the same place: 3 mm from a_flair" in line


def test_a_mask_turned_about_the_diagonal_of_its_volume_is_refused(tmp_path: Path) -> None:
    """Its first and its last voxel are where they should be, and no other."""
    cube = (5, 5, 5)
    for name, pixels, degrees in (("orig", grey(0, cube), 0), ("seg", mask([0, 1], cube), 10)):
        image = sitk.GetImageFromArray(pixels)
        turn = sitk.VersorTransform((1.0, 1.0, 1.0), np.radians(degrees))
        image.SetDirection(turn.GetMatrix())
        sitk.WriteImage(image, str(tmp_path / f"liver-{name}001.mhd"))
    line = refused(tmp_path, **SLIVER)
    assert "liver-seg001.mhd: volumes of a case must lie in the same place" in line
    apart = max(
        np.linalg.norm(np.subtract(turn.TransformPoint(corner), corner), np.inf)
        for corner in np.ndindex(5, 5, 5)
    )
    assert f": {apart:.3g} mm from" in line


def test_a_mask_of_several_volumes_is_refused(tmp_path: Path) -> None:
    """The first would be taken for all."""
    write(tmp_path / "liver-orig001.nii", grey(0))
    several = [sitk.GetImageFromArray(mask([0, 1])) for _ in range(2)]
    for part in several:
        part.SetSpacing(SPACING)
    sitk.WriteImage(sitk.JoinSeries(several), str(tmp_path / "liver-seg001.nii"))
    patterns = {key: SLIVER[key].replace("mhd", "nii") for key in ("images", "masks")}
    line = refused(tmp_path, **SLIVER | patterns)
    assert "liver-seg001.nii: a mask must be one volume: got 2; save" in line


def test_a_mask_in_black_and_white_names_its_white(tmp_path: Path) -> None:
    for case, values in (("1", [0, 1]), ("2", [0, 255])):
        write(tmp_path / f"liver-orig{case}.mhd", grey(0))
        write(tmp_path / f"liver-seg{case}.mhd", mask(values))
    line = refused(tmp_path, **SLIVER)
    assert "seg2.mhd: a mask must have a class beside background: found 0 and 255 alone" in line
    assert "such as liver: 255" in line
    write(tmp_path / "liver-seg1.mhd", mask([0, 255]))
    index, _ = prepared(tmp_path, **SLIVER | {"classes": {"background": 0, "liver": 255}})
    assert all(index["class_counts"])


def test_voxels_of_a_mask_may_be_not_annotated(tmp_path: Path) -> None:
    write(tmp_path / "liver-orig1.mhd", grey(0))
    write(tmp_path / "liver-seg1.mhd", mask([0, 1, 255]))
    _, images = prepared(tmp_path, **SLIVER)
    classes = images["1"].label("classes")
    assert classes is not None
    np.testing.assert_array_equal(classes[...], mask([0, 1, 255]))


def test_a_mask_with_another_value_is_refused(tmp_path: Path) -> None:
    brats(tmp_path, "a")
    write(tmp_path / "data/a/a_seg.nii.gz", mask([0, 1, 2, 3, 4]))
    line = refused(tmp_path, **BRATS)
    assert "a_seg.nii.gz: mask values must be" in line
    assert "found [3]; correct layout.classes or the mask" in line


def test_a_mask_with_fractions_is_refused(tmp_path: Path) -> None:
    brats(tmp_path, "a")
    write(tmp_path / "data/a/a_seg.nii.gz", mask([0, 1]) * np.float32(0.5))
    assert "a_seg.nii.gz: mask values must be whole numbers" in refused(tmp_path, **BRATS)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("kind", ["orig", "seg"])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, ending: str, kind: str) -> None:
    """SimpleITK reads them as 0: what they mark would be background."""
    write(tmp_path / f"liver-orig001.{ending}", grey(0).astype(np.float32))
    write(tmp_path / f"liver-seg001.{ending}", mask([0, 1]).astype(np.float32))
    holes = np.where(mask([0, 1]) == 1, np.float32(np.nan), 0)
    write(tmp_path / f"liver-{kind}001.{ending}", holes)
    patterns = {key: SLIVER[key].replace("mhd", ending) for key in ("images", "masks")}
    line = refused(tmp_path, **SLIVER | patterns)
    assert f"liver-{kind}001.{ending}: grey values must be finite: got NaN or infinite" in line


def test_a_mask_of_real_numbers_that_are_whole_is_read(tmp_path: Path) -> None:
    brats(tmp_path, "a")
    write(tmp_path / "data/a/a_seg.nii.gz", mask([0, 1, 2, 4]).astype(np.float32))
    index, _ = prepared(tmp_path, **BRATS)
    assert all(index["class_counts"])


@pytest.mark.parametrize("code", ["RAS", "LIP", "AIR"])
def test_axes_that_are_flipped_in_one_file_change_nothing(tmp_path: Path, code: str) -> None:
    write(tmp_path / "liver-orig001.mhd", grey(0), code)
    write(tmp_path / "liver-seg001.mhd", mask([0, 1]))
    index, images = prepared(tmp_path, **SLIVER)
    (image,) = images.values()
    np.testing.assert_array_equal(image.array[...], grey(0))
    classes = image.label("classes")
    assert classes is not None
    np.testing.assert_array_equal(classes[...], mask([0, 1]))
    facts: Any = zarr.open_group(image.path, mode="r").attrs["placement"]
    assert Placement.from_json(facts).code == code
    assert index["images"][0]["image"] == "001"
    assert image.axes == "zyx"


def test_the_decathlon_names_modalities_classes_and_volumes(tmp_path: Path) -> None:
    decathlon(tmp_path)
    index, images = prepared(tmp_path, kind="decathlon")
    assert index["class_names"] == ["background", "edema", "non-enhancing_tumor"]
    assert [*images] == ["CASE_1", "CASE_2"]
    for number, image in enumerate(images.values(), start=1):
        assert image.axes == "czyx"
        np.testing.assert_array_equal(image.array[...], [grey(10 * number + k) for k in range(2)])
        classes = image.label("classes")
        assert classes is not None
        np.testing.assert_array_equal(classes[...], mask([0, 1, 2]))


def test_the_decathlons_test_part_has_no_annotation(tmp_path: Path) -> None:
    index, images = prepared(decathlon(tmp_path), kind="decathlon", unannotated_too=True)
    assert [of["annotated"] for of in index["images"]] == [True, True, False]
    assert [*images][-1] == "CASE_3"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"0": "background", "2": "b"}}, r"dataset.json: labels must be numbered 0, 1"),
        ({"labels": {}}, r"dataset.json: must be JSON with labels"),
        ({"training": [{"image": "a"}]}, r"dataset.json: must be JSON with labels"),
        ({"modality": {"0": "CT"}}, r"CASE_1.nii.gz: a volume must have the modalities .* 2 of 1;"),
        (
            {"training": [{"image": "imagesTr/no.nii.gz", "label": "x"}]},
            r"dataset.json: every volume must be there: found no Task99_Test/imagesTr/no.nii.gz;",
        ),
    ],
)
def test_a_task_that_is_incomplete_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    decathlon(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        prepared(tmp_path, kind="decathlon")
    assert "\n" not in str(caught.value)


def test_a_folder_without_task_is_refused(tmp_path: Path) -> None:
    assert "must have one dataset.json: found 0" in refused(tmp_path, kind="decathlon")


def test_cases_of_a_patient_are_a_group(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        write(tmp_path / patient / "scans/early.nii", grey(0))
        write(tmp_path / patient / "masks/early.nii", mask([0, 1]))
    patterns = {"images": "{group}/scans/{image}.nii", "masks": "{group}/masks/{image}.nii"}
    index, _ = prepared(tmp_path, **SLIVER | patterns)
    assert [(of["image"], of["group"]) for of in index["images"]] == [
        ("p1_early", "p1"),
        ("p2_early", "p2"),
    ]
