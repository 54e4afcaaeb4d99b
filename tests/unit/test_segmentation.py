"""From probabilities to instances: worked arrays, and scikit-image and scipy as references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from small_model import small_shards

from unetflow import store
from unetflow.dividing import segment, segment_planes
from unetflow.segmentation import segment_image, segment_images, segment_part, segment_volume
from unetflow.settings.prediction import SegmentSettings
from unetflow.store import create_image, open_image, read_json

__all__ = ["small_shards"]

METHODS = ("components", "watershed")
FLAT = {"threshold": 0.5, "network": {"dimensions": 2}}
DEEP = {"threshold": 0.5, "network": {"dimensions": 3}}


def likelihoods(*shape: int) -> st.SearchStrategy[NDArray[np.float64]]:
    levels = st.sampled_from([0, 0.1, 0.5, 0.6, 0.8, 0.9, 1])
    return hnp.arrays(
        np.float64, st.tuples(*(st.integers(1, side) for side in shape)), elements=levels
    )


def partition(labels: NDArray[np.integer]) -> set[frozenset[int]]:
    """Objects as sets of pixels, whatever their ids."""
    flat = labels.ravel()
    return {frozenset(np.flatnonzero(flat == name).tolist()) for name in np.unique(flat[flat > 0])}


@given(st.one_of(likelihoods(7, 7), likelihoods(4, 5, 5)), st.sampled_from([0, 0.5, 0.7, 1]))
def test_components_are_those_of_scipy_above_the_threshold(
    foreground: NDArray[np.float64], threshold: float
) -> None:
    found = segment(foreground, threshold, SegmentSettings())
    expected, count = ndimage.label(foreground > threshold)  # connected through faces
    assert found.dtype == np.uint32
    assert partition(found) == partition(expected)
    assert found.max(initial=0) == count


@given(likelihoods(7, 7), st.sampled_from(METHODS), st.integers(0, 5), st.sampled_from([0, 0.5]))
def test_smaller_objects_are_dropped_and_ids_are_consecutive(
    foreground: NDArray[np.float64], method: Any, minimum: int, threshold: float
) -> None:
    every = segment(foreground, threshold, SegmentSettings(method=method))
    found = segment(foreground, threshold, SegmentSettings(method=method, minimum_size=minimum))
    kept = {pixels for pixels in partition(every) if len(pixels) >= minimum}
    assert partition(found) == kept
    assert set(np.unique(found[found > 0])) == set(range(1, len(kept) + 1))


@given(likelihoods(7, 7), st.sampled_from([0.1, 0.5]))
def test_watershed_grows_every_seed_over_what_it_can_reach(
    foreground: NDArray[np.float64], threshold: float
) -> None:
    settings = SegmentSettings(method="watershed", seed_threshold=0.7)
    found = segment(foreground, threshold, settings)
    seeds, count = ndimage.label(foreground > 0.7)
    components, _ = ndimage.label(foreground > threshold)
    assert found.max(initial=0) == count
    seeded = np.unique(components[seeds > 0])
    assert ((found > 0) == (np.isin(components, seeded) & (components > 0))).all()
    # Pixels of a seed stay together, and each object holds exactly one seed.
    for seed in range(1, count + 1):
        assert len(np.unique(found[seeds == seed])) == 1
    assert len({int(found[seeds == seed][0]) for seed in range(1, count + 1)}) == count


@given(likelihoods(7, 7))
def test_watershed_with_threshold_0_fills_the_picture(foreground: NDArray[np.float64]) -> None:
    found = segment(foreground, 0, SegmentSettings(method="watershed"))
    assert (found > 0).all() == bool((foreground > 0.8).any())
    assert found.any() == bool((foreground > 0.8).any())


def test_a_worked_row_is_cut_at_its_lowest_point() -> None:
    foreground = np.array([[0.2, 0.9, 0.8, 0.7, 0.6, 0.7, 0.9, 0.1]])
    components = segment(foreground, 0.5, SegmentSettings())
    grown = segment(foreground, 0.5, SegmentSettings(method="watershed", seed_threshold=0.85))
    filled = segment(foreground, 0, SegmentSettings(method="watershed", seed_threshold=0.85))
    assert components.tolist() == [[0, 1, 1, 1, 1, 1, 1, 0]]
    assert grown[0, [0, 1, 2, 3, 5, 6, 7]].tolist() == [0, 1, 1, 1, 2, 2, 0]
    assert grown[0, 4] in (1, 2)
    assert filled[0, [0, 1, 2, 3, 5, 6, 7]].tolist() == [1, 1, 1, 1, 2, 2, 2]


@given(likelihoods(7, 7), st.sampled_from([0, 0.5]), st.sampled_from([0, 0.3, 0.7, 1]))
def test_merging_joins_whole_objects_of_the_watershed_and_leaves_background(
    foreground: NDArray[np.float64], threshold: float, below: float
) -> None:
    settings = SegmentSettings(method="watershed", seed_threshold=0.7)
    parts = segment(foreground, threshold, settings)
    found = segment(foreground, threshold, settings.model_copy(update={"merge_below": below}))
    assert ((found > 0) == (parts > 0)).all()
    assert all(len(np.unique(found[parts == part])) == 1 for part in np.unique(parts))
    # What is joined touches, also by a corner.
    for name in range(1, int(found.max()) + 1):
        assert ndimage.label(found == name, np.ones((3, 3)))[1] == 1
    if below == 0:
        assert partition(found) == partition(parts)
    if below == 1 and foreground.min() > 0:
        assert len(partition(found)) == ndimage.label(found > 0, np.ones((3, 3)))[1]


def test_the_whole_boundary_says_whether_neighbours_are_one_object() -> None:
    """Two cells with a hole in their wall, and one cell with a faint line across."""
    foreground = np.full((20, 30), 0.99)
    foreground[:, 10] = 0.1
    foreground[8:10, 10] = 0.9
    foreground[:, 20] = 0.7
    chosen = {"method": "watershed", "seed_threshold": 0.8}
    by_threshold = segment(foreground, 0, SegmentSettings(**chosen))
    assert [by_threshold[0, column] for column in (0, 15, 29)] == [1, 1, 2]
    chosen |= {"seed_threshold": 0.95, "merge_below": 0.3}
    merged = segment(foreground, 0, SegmentSettings(**chosen))
    assert [merged[0, column] for column in (0, 15, 29)] == [1, 2, 2]


def test_merging_goes_on_from_the_weakest_boundary_with_the_mean_of_what_was_joined() -> None:
    """Of three cells in a row the left two are one; their wall to the right is then too high."""
    foreground = np.full((10, 32), 0.99)
    foreground[:, 10] = 0.8
    foreground[:5, 21], foreground[5:, 21] = 0.05, 0.6
    chosen = {"method": "watershed", "seed_threshold": 0.95}
    found = segment(foreground, 0, SegmentSettings(**chosen, merge_below=0.3))
    assert [found[0, column] for column in (0, 15, 31)] == [1, 1, 2]
    every = segment(foreground, 0, SegmentSettings(**chosen, merge_below=0.5))
    assert len(np.unique(every)) == 1


def test_pixels_at_the_threshold_and_corners_do_not_connect() -> None:
    foreground = np.array([[0.9, 0.5, 0.9], [0.5, 0.9, 0.5]])
    assert segment(foreground, 0.5, SegmentSettings()).tolist() == [[1, 0, 2], [0, 3, 0]]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("minimum_size", [0, 1, 2, 4, 5])
def test_a_single_object_is_kept_up_to_its_size(method: Any, minimum_size: int) -> None:
    foreground = np.zeros((5, 5))
    foreground[1:3, 1:3] = 0.9
    settings = SegmentSettings(method=method, minimum_size=minimum_size)
    assert segment(foreground, 0.5, settings).max() == (minimum_size <= 4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5)])
@pytest.mark.parametrize("threshold", [0, 0.5])
def test_an_image_without_foreground_has_no_objects(
    method: Any, shape: tuple[int, ...], threshold: float
) -> None:
    settings = SegmentSettings(method=method, minimum_size=3)
    assert not segment(np.zeros(shape), threshold, settings).any()


@given(likelihoods(4, 6, 6), st.sampled_from(METHODS))
@examples(max_examples=50)
def test_ids_are_unique_in_a_stack_and_planes_are_segmented_alone(
    foreground: NDArray[np.float64], method: Any
) -> None:
    settings = SegmentSettings(method=method)
    found, seen = segment_planes(foreground, 0.5, settings), set()
    for index, plane in enumerate(foreground):
        assert partition(found[index]) == partition(segment(plane, 0.5, settings))
        ids = set(np.unique(found[index])) - {0}
        assert not ids & seen
        seen |= ids
    assert seen == set(range(1, len(seen) + 1))
    assert found.dtype == np.uint32


def test_what_the_threshold_parts_no_seed_joins() -> None:
    foreground = np.array([[0.95, 0.85, 0.95]])
    for method in METHODS:
        settings = SegmentSettings(method=method, seed_threshold=0.8)
        assert segment(foreground, 0.9, settings).tolist() == [[1, 0, 2]]


# --------------------------------------------------------------------------------- on disk


def write_prediction(path: Path, foreground: NDArray[np.floating], **size: float) -> Path:
    """Write probabilities with axes c(z)yx."""
    axes = "czyx" if foreground.ndim == 4 else "cyx"
    create_image(path, axes, foreground.shape, foreground.dtype, size)[...] = foreground
    return path


STACK = np.zeros((1, 3, 6, 7), np.float16)
STACK[0, :, 1:3, 1:4] = 0.75
STACK[0, 1, 4:, 5:] = 0.75


@pytest.mark.parametrize(("model", "count"), [(FLAT, 4), (DEEP, 2)])
def test_what_a_2d_network_predicted_is_segmented_plane_by_plane(
    tmp_path: Path, model: dict[str, Any], count: int
) -> None:
    path = write_prediction(tmp_path / "prediction", STACK, z=2.0, y=0.5, x=0.5)
    segment_image(path, tmp_path / "out", model, SegmentSettings())
    image = open_image(tmp_path / "out")
    assert (image.axes, image.array.dtype) == ("zyx", np.uint32)
    assert image.voxel_size_um == {"z": 2.0, "y": 0.5, "x": 0.5}
    assert np.unique(image.array[...]).tolist() == list(range(count + 1))
    store.validate(tmp_path / "out")
    facts: Any = zarr.open_group(tmp_path / "out", mode="r").attrs["ome"]
    assert facts["multiscales"][0]["name"] == "out"
    assert (tmp_path / "out" / facts["image-label"]["source"]["image"]).resolve() == path


@pytest.mark.parametrize(
    ("threshold", "count"), [("auto", 4), (0.7, 4), (0.8, 0)], ids=["auto", "0.7", "0.8"]
)
def test_a_set_threshold_takes_the_place_of_the_models(
    tmp_path: Path, threshold: Any, count: int
) -> None:
    path = write_prediction(tmp_path / "prediction", STACK)
    settings = SegmentSettings(threshold=threshold)
    assert len(segment_image(path, tmp_path / "out", FLAT, settings).objects["size"]) == count
    assert open_image(tmp_path / "out").array[...].max() == count


def test_seeds_that_images_chose_are_taken(tmp_path: Path) -> None:
    path = write_prediction(tmp_path / "prediction", STACK)
    settings = SegmentSettings(method="watershed", seed_threshold="auto")
    for chosen, count in (0.7, 4), (0.8, 0):
        model = FLAT | {"seed_threshold": chosen}
        found = segment_image(path, tmp_path / f"{count}", model, settings)
        assert len(found.objects["size"]) == count


def test_the_probabilities_of_all_classes_but_background_are_added(tmp_path: Path) -> None:
    foreground = np.full((2, 3, 4), 0.3, np.float32)
    foreground[1, :, 2] = 0
    path = write_prediction(tmp_path / "prediction", foreground)
    segment_image(path, tmp_path / "out", FLAT, SegmentSettings())
    image = open_image(tmp_path / "out")
    assert image.array[...].tolist() == [[1, 1, 0, 2]] * 3


def test_images_are_segmented_into_one_folder(tmp_path: Path) -> None:
    paths = [write_prediction(tmp_path / "prediction" / name, STACK) for name in "ab"]
    for name, grey in ("a", 10), ("b", 20):
        path = tmp_path / "images" / name
        create_image(path, "zyx", STACK.shape[1:], np.uint8, {})[...] = grey
    files = {"segmentation": tmp_path / "out", "objects": tmp_path / "objects.tsv"}
    segment_images(paths, tmp_path / "images", files, FLAT, SegmentSettings())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]
    table = pd.read_csv(files["objects"], sep="\t")
    assert table["image"].tolist() == ["a"] * 4 + ["b"] * 4
    assert table["label"].tolist() == [1, 2, 3, 4] * 2
    assert table["mean_intensity"].tolist() == [10] * 4 + [20] * 4
    assert (table["mean_probability"] == 0.75).all()
    files["segmentation"] = tmp_path / "other"
    paths.append(tmp_path / "prediction/c")
    with pytest.raises(ValueError, match="must be an OME-Zarr image"):
        segment_images(paths, tmp_path / "images", files, FLAT, SegmentSettings())
    assert {path.name for path in tmp_path.iterdir()} == {
        "prediction",
        "images",
        "out",
        "objects.tsv",
    }


def done(root: Path) -> dict[str, Any]:
    """Facts of a volume whose voxels are all 7, and whose prediction has gone well."""
    tifffile.imwrite(
        root / "p.tif", np.full(STACK.shape[1:], 7, np.uint16), photometric="minisblack"
    )
    row = {"path": str(root / "p.tif"), "experiment": "demo", "shape": [3, 6, 7], "voxels": 126}
    return {"state": "done", "reason": "", "seconds": 3.5, "volume": row}


FAILED = {
    "state": "failed",
    "reason": "not there",
    "seconds": 0,
    "volume": {"path": "p.tif", "experiment": "demo"},
}


def outputs(root: Path) -> dict[str, Path]:
    return {
        "segmentation": root / "segmentation.ome.zarr",
        "objects": root / "objects.tsv",
        "merges": root / "merges.tsv",
        "seams": root / "seams.tsv",
        "summary": root / "summary.json",
    }


def test_a_volume_gets_instances_a_table_and_a_summary(tmp_path: Path) -> None:
    path = write_prediction(tmp_path / "prediction", STACK)
    files = outputs(tmp_path)
    segment_volume(done(tmp_path), path, (), files, FLAT, SegmentSettings())
    assert read_json(files["summary"]) == {
        "state": "done",
        "reason": "",
        "objects": 4,
        "median_size": float(
            np.median(np.bincount(open_image(files["segmentation"]).array[...].ravel())[1:])
        ),
        "foreground": pytest.approx(
            (open_image(files["segmentation"]).array[...] > 0).mean(), abs=1e-6
        ),
        "outlier": "",
        "predict_seconds": 3.5,
        "path": str(tmp_path / "p.tif"),
        "experiment": "demo",
        "shape": [3, 6, 7],
        "voxels": 126,
    }
    instances = open_image(files["segmentation"]).array[...]
    table = pd.read_csv(files["objects"], sep="\t")
    assert table["label"].tolist() == [1, 2, 3, 4]
    assert table["voxels"].tolist() == np.bincount(instances.ravel())[1:].tolist()
    assert table["mean_intensity"].tolist() == [7] * 4
    assert (tmp_path / "thumbnail.webp").is_file()
    segment_volume(FAILED, path, (), files, FLAT, SegmentSettings())
    assert not (tmp_path / "thumbnail.webp").exists(), "of a volume that failed there is none"


def test_a_volume_whose_prediction_failed_has_failed(tmp_path: Path) -> None:
    files = outputs(tmp_path)
    segment_volume(FAILED, tmp_path / "nothing", (), files, FLAT, SegmentSettings())
    summary = read_json(files["summary"])
    assert (summary["state"], summary["reason"]) == ("failed", "not there")
    assert (summary["objects"], summary["predict_seconds"]) == (None, 0)
    told = {"median_size": None, "foreground": None, "outlier": ""}
    assert {key: summary[key] for key in told} == told
    assert (summary["shape"], summary["voxels"]) == (None, None)
    group = zarr.open_group(files["segmentation"], mode="r")
    assert not list(group.members())
    assert group.attrs["reason"] == "not there"
    assert len(pd.read_csv(files["objects"], sep="\t")) == 0


def test_a_volume_that_failed_before_is_replaced_when_it_succeeds(tmp_path: Path) -> None:
    files = outputs(tmp_path)
    segment_volume(FAILED, tmp_path / "prediction", (), files, FLAT, SegmentSettings())
    path = write_prediction(tmp_path / "prediction", STACK)
    segment_volume(done(tmp_path), path, (), files, FLAT, SegmentSettings())
    assert open_image(files["segmentation"]).array[...].max() == 4
    segment_volume(FAILED, path, (), files, FLAT, SegmentSettings())
    assert not list(zarr.open_group(files["segmentation"], mode="r").members())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [2, 5, 400])
def test_what_several_jobs_label_is_what_one_does(
    tmp_path: Path, small_shards: None, method: str, count: int
) -> None:
    shape = (20, 40, 70)
    noise = np.random.default_rng(0).random(shape)
    foreground = ndimage.gaussian_filter(noise, (0, 2, 2))
    foreground = (foreground - foreground.min()) / np.ptp(foreground)
    create_image(tmp_path / "prediction", "czyx", (1, *shape), np.float32, {})[0] = foreground
    facts = done(tmp_path)
    tifffile.imwrite(tmp_path / "p.tif", (255 * noise).astype(np.uint8), photometric="minisblack")
    how = {"block_megavoxels": 0.005, "margin": 4, "threshold": 0.62, "seed_threshold": 0.7}
    settings = SegmentSettings(method=method, **how)
    parts = [tmp_path / f"{number}_of_{count}" for number in range(count)]
    for number, part in enumerate(parts):
        place = (tmp_path / "prediction", part, (number, count))
        segment_part(facts, *place, DEEP, settings)
    written = []
    for name, labelled in (("one", ()), ("several", parts)):
        files = outputs(tmp_path / name)
        segment_volume(facts, tmp_path / "prediction", labelled, files, DEEP, settings)
        tables = [files[table].read_text() for table in ("objects", "merges", "seams", "summary")]
        written.append((open_image(files["segmentation"]).array[...], tables))
    (one, tables), (several, same) = written
    assert one.max() > 20
    assert len(tables[1].splitlines()) > 5
    np.testing.assert_array_equal(one, several)
    assert tables == same


def test_a_part_of_a_volume_that_failed_is_empty(tmp_path: Path) -> None:
    place = (tmp_path / "nothing", tmp_path / "part", (0, 2))
    segment_part(FAILED, *place, DEEP, SegmentSettings())
    assert not list((tmp_path / "part").iterdir())
