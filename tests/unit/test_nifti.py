"""Classes as NIfTI: each voxel at the point of the patient where it was found, by SimpleITK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from unetflow.datasets.prepare import prepare
from unetflow.evaluation import evaluate_image
from unetflow.judging import open_truth
from unetflow.metrics.surface import surface_scores
from unetflow.nifti import write_nifti, write_nifti_of_volume, write_niftis
from unetflow.predicted import metadata
from unetflow.settings.datasets import DatasetSettings
from unetflow.settings.evaluation import EvaluateSettings
from unetflow.settings.prediction import PredictSettings
from unetflow.store import Image, add_label, create_image, open_image
from unetflow.truths import UnusableTruth
from unetflow.volumes import open_volume
from unetflow.voxels import resampled, resampled_classes, resampled_ids

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")

NAMES = ("background", "rim", "core")
SPACING, ORIGIN = (0.7, 0.9, 2.5), (-20.0, 31.0, 4.5)
ANGLE = 0.2
OBLIQUE = np.array(
    [[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]]
)


def balls(shape: tuple[int, ...]) -> NDArray[np.int16]:
    """Return grey values that rise to the middle of a ball off the centre."""
    place = np.indices(shape) - np.multiply(shape, 0.42).reshape(-1, 1, 1, 1)
    radius = np.sqrt((place**2 * np.array([9, 1, 1]).reshape(-1, 1, 1, 1)).sum(axis=0))
    return np.clip(100 - 6 * radius, 0, None).astype(np.int16)


def classes_of(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the classes that an infallible network finds."""
    return np.digitize(grey, [40, 70]).astype(np.uint8)


def scan(path: Path, code: str = "LPS", shape: tuple[int, ...] = (12, 30, 28)) -> Path:
    """Write a volume that lies obliquely, its axes towards what a code says."""
    image = sitk.GetImageFromArray(balls(shape))
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(OBLIQUE.ravel().tolist())
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(path))
    return path


def predict(volume: Image, path: Path, **settings: Any) -> Path:
    """Write what an infallible network would."""
    one_hot = np.eye(3, dtype=np.float16)[classes_of(volume.array[...])]
    stored = np.moveaxis(one_hot, -1, 0)[1:]
    about = metadata(NAMES, PredictSettings(**settings))
    create_image(path, "czyx", stored.shape, np.float16, volume.voxel_size_um, **about)[...] = (
        stored
    )
    return path


def require_same_points(found: Any, source: Any) -> None:
    """Compare the physical points of the same indices."""
    assert found.GetSize() == source.GetSize()
    for index in ((0, 0, 0), (3, 5, 1), tuple(size - 1 for size in source.GetSize())):
        points = [image.TransformIndexToPhysicalPoint(index) for image in (found, source)]
        assert points[0] == pytest.approx(points[1], abs=1e-3)


@pytest.mark.parametrize("code", ["LPS", "RAS", "LAS", "SRP", "PIR", "ASL"])
@pytest.mark.parametrize("ending", ["nii", "mhd"])
def test_classes_lie_where_they_were_found(tmp_path: Path, code: str, ending: str) -> None:
    path = scan(tmp_path / f"a.{ending}", code)
    prediction = predict(open_volume(path), tmp_path / "prediction.ome.zarr")
    facts = {"volume": {"path": str(path)}, "reason": None}
    output = tmp_path / "classes.nii.gz"
    write_nifti_of_volume(facts, prediction, output)
    found, source = sitk.ReadImage(str(output)), sitk.ReadImage(str(path))
    require_same_points(found, source)
    expected = classes_of(sitk.GetArrayFromImage(source))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), expected)
    assert set(np.unique(expected)) == {0, 1, 2}
    assert [file.name for file in tmp_path.glob("classes*")] == ["classes.nii.gz"]


@pytest.mark.parametrize("size", [{"z": 1000, "y": 1000, "x": 1000}, {"z": 7000, "x": 1100}])
def test_classes_found_in_other_voxels_come_back_on_the_files_grid(
    tmp_path: Path, size: dict[str, float]
) -> None:
    path = scan(tmp_path / "a.nii", "RAI", (14, 31, 29))
    volume = resampled(open_volume(path), size)
    prediction = predict(volume, tmp_path / "prediction.ome.zarr")
    assert volume.array.shape != open_volume(path).array.shape
    write_nifti(prediction, str(path), tmp_path / "classes.nii.gz")
    found, source = (sitk.ReadImage(str(tmp_path / it)) for it in ("classes.nii.gz", "a.nii"))
    require_same_points(found, source)
    truth = classes_of(sitk.GetArrayFromImage(source)) > 0
    overlap = sitk.GetArrayFromImage(found) > 0
    dice = 2 * (truth & overlap).sum() / (truth.sum() + overlap.sum())
    # Of voxels of 7 mm, a ball of 7 slices of 2.5 mm is hardly to be had better.
    assert dice > (0.95 if size["z"] == 1000 else 0.7)


@pytest.mark.parametrize("finer", [None, {"z": 1250.0, "y": 900.0, "x": 700.0}])
def test_images_of_a_dataset_come_back_where_their_files_lay(
    tmp_path: Path, finer: dict[str, float] | None
) -> None:
    path = scan(tmp_path / "scan1.nii", "RAS")
    image = sitk.ReadImage(str(path))
    mask = sitk.GetImageFromArray(classes_of(sitk.GetArrayFromImage(image)))
    mask.CopyInformation(image)
    sitk.WriteImage(mask, str(tmp_path / "mask1.nii"))
    classes = {name: value for value, name in enumerate(NAMES)}
    layout = {"kind": "medical", "images": "scan*.nii", "masks": "mask*.nii", "classes": classes}
    dataset = DatasetSettings(name="made", layout=layout, resample_um=finer)
    images = tmp_path / "made"
    prepare(dataset, tmp_path, images, tmp_path / "index.json", "key")
    prepared = open_image(images / "1")
    known = prepared.label("classes")
    assert known is not None
    assert known.shape == prepared.array.shape == ((24 if finer else 12), 30, 28)
    predict(prepared, tmp_path / "predictions" / "1")
    folder = tmp_path / "nifti"
    write_niftis([tmp_path / "predictions/1"], images, folder)
    found = sitk.ReadImage(str(folder / "1.nii.gz"))
    require_same_points(found, image)
    both = sitk.LabelOverlapMeasuresImageFilter()
    found.CopyInformation(mask)
    both.Execute(found, mask)
    assert both.GetDiceCoefficient() > (0.9 if finer else 0.9999)


def test_scores_are_those_of_the_grid_that_was_annotated(tmp_path: Path) -> None:
    path = scan(tmp_path / "scan1.nii", "RAS")
    image = sitk.ReadImage(str(path))
    drawn = classes_of(sitk.GetArrayFromImage(image))
    drawn[:, ::3] = 0  # as fine as no voxel of the network is
    mask = sitk.GetImageFromArray(drawn)
    mask.CopyInformation(image)
    sitk.WriteImage(mask, str(tmp_path / "mask1.nii"))
    classes = {name: value for value, name in enumerate(NAMES)}
    layout = {"kind": "medical", "images": "scan*.nii", "masks": "mask*.nii", "classes": classes}
    coarse = {"z": 3000.0, "y": 1500.0, "x": 1500.0}
    dataset = DatasetSettings(name="made", layout=layout, resample_um=coarse)
    prepare(dataset, tmp_path, tmp_path / "made", tmp_path / "index.json", "key")
    truth, file = open_image(tmp_path / "made/1"), tmp_path / "predictions/1"
    prediction = open_image(predict(truth, file))
    assert truth.array.shape != drawn.shape
    objects = (classes_of(truth.array[...]) > 0).astype(np.uint32)
    add_label(file, "found", "zyx", objects, truth.voxel_size_um)
    segmentation = open_image(file / "labels/found")
    model = {"class_names": NAMES, "network": {"dimensions": 3}}
    settings = EvaluateSettings(surface_tolerance=1, surface_unit="mm", plane_by_plane=False)
    scores, levels = evaluate_image(truth, prediction, segmentation, model, settings)
    assert set(levels.sum(axis=(1, 2))) == {drawn.size}

    # What SimpleITK says of the classes that are exported on that grid
    write_niftis([file], tmp_path / "made", tmp_path / "nifti")
    found = sitk.ReadImage(str(tmp_path / "nifti/1.nii.gz"))
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(found, mask)
    spacing = image.GetSpacing()[::-1]
    for value, name in enumerate(NAMES):
        if value:
            assert scores[f"dice_{name}"] == pytest.approx(overlap.GetDiceCoefficient(value))
            masks = drawn == value, sitk.GetArrayFromImage(found) == value
            surfaces = surface_scores(*masks, spacing, 1)
            assert scores[f"hausdorff_{name}"] == pytest.approx(surfaces["hausdorff"], rel=1e-5)
    # Planes that are held out are those that the network has seen
    _, levels = evaluate_image(truth, prediction, segmentation, model, settings, tested_planes=2)
    planes, *extents = truth.array.shape
    assert set(levels.sum(axis=(1, 2))) == {planes // 2 * np.prod(extents)}


def test_a_truth_that_lies_elsewhere_is_no_truth(tmp_path: Path) -> None:
    volume, truth = scan(tmp_path / "scan.nii"), tmp_path / "truth.nii"
    source = open_volume(volume)
    image = sitk.ReadImage(str(volume))
    mask = sitk.GetImageFromArray((sitk.GetArrayFromImage(image) > 40).astype(np.uint8))
    mask.CopyInformation(image)
    sitk.WriteImage(mask, str(truth))
    open_truth(truth, str(volume), source, source, NAMES[:2])
    mask.SetOrigin([x + 300 for x in image.GetOrigin()])
    sitk.WriteImage(mask, str(truth))
    with pytest.raises(UnusableTruth, match="must lie in the same place: 300 mm from"):
        open_truth(truth, str(volume), source, source, NAMES[:2])


def test_a_volume_of_another_format_lies_at_the_origin(tmp_path: Path) -> None:
    volume = Image("", balls((8, 20, 20)), "zyx", {"z": 2000.0, "y": 500.0, "x": 250.0})
    prediction = predict(volume, tmp_path / "prediction.ome.zarr")
    write_nifti(prediction, str(tmp_path / "a.tif"), tmp_path / "classes.nii.gz")
    found = sitk.ReadImage(str(tmp_path / "classes.nii.gz"))
    assert found.GetSpacing() == pytest.approx((0.25, 0.5, 2.0))
    assert found.GetOrigin() == (0, 0, 0)
    array = sitk.GetArrayFromImage(found)
    np.testing.assert_array_equal(array, classes_of(volume.array[...]))


def test_what_has_no_classes_in_a_volume_is_refused(tmp_path: Path) -> None:
    plane = create_image(tmp_path / "plane", "cyx", (1, 8, 8), np.float16, {})
    plane[...] = 0
    with pytest.raises(ValueError, match="NIfTI must be of a volume: got a plane; export"):
        write_nifti(tmp_path / "plane", "a.tif", tmp_path / "a.nii.gz")
    facts = {"volume": {"path": "a.nii"}, "reason": "it was cut"}
    with pytest.raises(ValueError, match=r"a\.nii: a volume must be predicted .* it was cut;"):
        write_nifti_of_volume(facts, tmp_path / "plane", tmp_path / "a.nii.gz")


# --------------------------------------------------------------------------------- resampling


def test_classes_are_resampled_by_their_largest_share() -> None:
    classes = classes_of(balls((10, 24, 24)))
    steps = (0.5, 1.0, 1.5)
    found = resampled_classes(classes, steps)
    # SimpleITK interpolates the share of each class; ours mirrors its edges no further than it.
    shares = []
    for value in range(3):
        image = sitk.GetImageFromArray((classes == value).astype(np.float32))
        size = [int(n) for n in np.round(np.divide(classes.shape, steps))][::-1]
        place = [(step - 1) / 2 for step in steps[::-1]]
        grid = (sitk.Transform(), sitk.sitkLinear, place, steps[::-1], np.eye(3).ravel().tolist())
        share = sitk.Resample(image, size, *grid, 0.0, sitk.sitkFloat32, True)
        shares.append(sitk.GetArrayFromImage(share))
    largest = np.sort(shares, axis=0)
    clear = largest[-1] - largest[-2] > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], np.argmax(shares, axis=0)[clear])


def test_ids_are_resampled_to_the_nearest_and_no_other_is_made() -> None:
    ids = np.random.default_rng(0).integers(0, 9, (6, 8, 10)).astype(np.uint32)
    np.testing.assert_array_equal(resampled_ids(ids, (1, 1, 1)), ids)
    twice = resampled_ids(ids, (0.5, 0.5, 0.5))
    np.testing.assert_array_equal(
        twice, ndimage.zoom(ids, 2, order=0, grid_mode=True, mode="nearest")
    )
    assert set(np.unique(resampled_ids(ids, (1.7, 0.6, 1.3)))) <= set(range(9))


def test_a_dataset_of_unknown_voxels_is_not_resampled(tmp_path: Path) -> None:
    layout = {"kind": "synthetic", "shape": [4, 32, 32]}
    dataset = DatasetSettings(name="made", layout=layout, resample_um={"y": 100.0})
    with pytest.raises(ValueError, match=r"size of its voxels .* leave dataset\.resample_um out"):
        prepare(dataset, tmp_path, tmp_path / "images", tmp_path / "index.json", "key")
