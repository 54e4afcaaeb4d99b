"""Outlines: from labels and back is identity, and scikit-image draws the same pixels from them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from roifile import ROI_TYPE, ImagejRoi, roiread, roiwrite
from skimage.draw import ellipse, polygon2mask

from unetflow.datasets.layouts import sources
from unetflow.outlines import read_outlines, write_outlines
from unetflow.segmentation import segment_images, segment_volume
from unetflow.settings.datasets import DatasetSettings
from unetflow.settings.prediction import SegmentSettings
from unetflow.store import Image, create_image, open_image

KINDS = {"fiji": "zip", "qupath": "geojson"}
LARGEST = 2**32 - 1

labels_of = st.builds(
    lambda shape, ids, seed: np.random.default_rng(seed).choice(ids, shape).astype(np.uint32),
    st.sampled_from([(7, 8), (20, 15), (3, 5, 6)]),
    st.sampled_from([[0, 1], [1, 1, 1, 2], [0, 1, 1, 2, 7, LARGEST], [0]]),
    st.integers(0, 10**6),
)


def image_of(labels: NDArray[np.integer]) -> Image:
    return Image("labels", labels, "zyx"[-labels.ndim :], {})


def mask_of(rings: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels that scikit-image finds in an odd number of rings; its coordinates are of centres."""
    inside = np.zeros(shape, bool)
    for ring in rings:
        inside ^= polygon2mask(shape, np.asarray(ring)[:, ::-1] - 0.5)
    return inside


@given(labels_of, st.sampled_from([*KINDS]))
def test_labels_are_the_same_once_written_as_outlines_and_read(
    labels: NDArray[np.uint32], kind: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_outlines(image_of(labels), Path(folder) / "outlines", kind)
        found = read_outlines(Path(folder) / f"outlines.{KINDS[kind]}", labels.shape)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, labels)


@given(labels_of)
@examples(max_examples=50)
def test_scikit_image_draws_the_same_pixels_from_regions_of_imagej(
    labels: NDArray[np.uint32],
) -> None:
    plane = labels[0] if labels.ndim == 3 else labels
    with tempfile.TemporaryDirectory() as folder:
        write_outlines(image_of(plane), Path(folder) / "outlines", "fiji")
        found = {roi.name: roi for roi in roiread(Path(folder) / "outlines.zip")}
    assert {*map(int, found)} == {*np.unique(plane[plane > 0]).tolist()}
    for name, roi in found.items():
        rings = roi.coordinates(multi=True)
        np.testing.assert_array_equal(mask_of(rings, plane.shape), plane == int(name))
        rows, columns = np.nonzero(plane == int(name))
        assert (roi.left, roi.top) == (columns.min(), rows.min())
        assert roi.roitype == (ROI_TYPE.RECT if roi.composite else ROI_TYPE.TRACED)


@given(labels_of)
@examples(max_examples=50)
def test_scikit_image_draws_the_same_pixels_from_geojson(labels: NDArray[np.uint32]) -> None:
    planes = labels.reshape(-1, *labels.shape[-2:])
    with tempfile.TemporaryDirectory() as folder:
        write_outlines(image_of(labels), Path(folder) / "outlines", "qupath")
        content = json.loads((Path(folder) / "outlines.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    drawn = np.zeros_like(planes)
    for feature in content["features"]:
        geometry = feature["geometry"]
        assert shapely.is_valid(shapely.from_geojson(json.dumps(geometry)))
        parts = geometry["coordinates"]
        parts = [parts] if geometry["type"] == "Polygon" else parts
        rings = [ring for part in parts for ring in part]
        assert all(ring[0] == ring[-1] for ring in rings)
        inside = mask_of(rings, planes.shape[1:])
        drawn[geometry["plane"]["z"], inside] = int(feature["properties"]["name"])
    np.testing.assert_array_equal(drawn, planes)


def test_a_ring_is_a_path_and_a_square_four_points(tmp_path: Path) -> None:
    labels = np.zeros((6, 12), np.uint32)
    labels[1:5, 1:5] = 1
    labels[2:4, 2:4] = 0
    labels[1:4, 6:9] = 2
    write_outlines(image_of(labels), tmp_path / "outlines", "fiji")
    ring, square = roiread(tmp_path / "outlines.zip")
    assert sorted(len(points) for points in ring.coordinates(multi=True)) == [5, 5]
    assert sorted(map(tuple, square.coordinates().tolist())) == [(6, 1), (6, 4), (9, 1), (9, 4)]


def test_an_empty_plane_has_no_outlines(tmp_path: Path) -> None:
    for kind, ending in KINDS.items():
        write_outlines(image_of(np.zeros((3, 4), np.uint32)), tmp_path / "outlines", kind)
        assert not read_outlines(tmp_path / f"outlines.{ending}", (3, 4)).any()


# ------------------------------------------------------------------ annotations of other hands


def test_regions_that_fiji_draws_are_read_in_their_order(tmp_path: Path) -> None:
    rectangle, circle = ImagejRoi(), ImagejRoi()
    rectangle.roitype, circle.roitype = ROI_TYPE.RECT, ROI_TYPE.OVAL
    rectangle.left, rectangle.top, rectangle.right, rectangle.bottom = 1, 2, 4, 5
    circle.left, circle.top, circle.right, circle.bottom = 10, 10, 30, 30
    triangle = ImagejRoi.frompoints(np.array([[40.0, 0.0], [50.0, 0.0], [40.0, 10.0]]))
    rectangle.name, circle.name, triangle.name = "0003-0002", "7", "cell"
    roiwrite(tmp_path / "set.zip", [rectangle, circle, triangle])
    found = read_outlines(tmp_path / "set.zip", (40, 60))
    expected = np.zeros((40, 60), int)
    expected[2:5, 1:4] = 1
    rows, columns = ellipse(19.5, 19.5, 10, 10)
    expected[rows, columns] = 2
    assert ((found == 1) == (expected == 1)).all()
    assert ((found == 2) != (expected == 2)).sum() <= 8
    assert (found == 3).sum() == pytest.approx(50, abs=6)
    rectangle.tofile(tmp_path / "one.roi")
    np.testing.assert_array_equal(read_outlines(tmp_path / "one.roi", (40, 60)), expected == 1)


QUPATH = """{"type": "FeatureCollection", "features": [
{"type": "Feature", "id": "8f4", "geometry": {"type": "Polygon",
 "coordinates": [[[1, 1], [5, 1], [5, 4], [1, 4], [1, 1]], [[2, 2], [3, 2], [3, 3], [2, 3], [2, 2]]]},
 "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}}},
{"type": "Feature", "id": "9a1", "geometry": {"type": "MultiPolygon", "plane": {"c": -1, "z": 1, "t": 0},
 "coordinates": [[[[6, 0], [8, 0], [8, 1], [6, 1], [6, 0]]], [[[6.6, 1.6], [9, 1.6], [9, 4], [6.6, 4], [6.6, 1.6]]]]},
 "properties": {"objectType": "annotation", "name": "b"}}]}"""  # noqa: E501


def test_annotations_of_qupath_have_holes_pieces_and_planes(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(QUPATH)
    expected = np.zeros((2, 5, 8), int)
    expected[0, 1:4, 1:5] = 1
    expected[0, 2, 2] = 0
    expected[1, 0, 6:8] = 2
    expected[1, 2:4, 7] = 2  # the centre of column 6 is left of 6.6
    np.testing.assert_array_equal(read_outlines(path, (2, 5, 8)), expected)
    features = json.loads(QUPATH)["features"]
    for content in (features[:1], features[0]):
        path.write_text(json.dumps(content))
        np.testing.assert_array_equal(read_outlines(path, (5, 8)), expected[0])


def feature(kind: str, *coordinates: Any, **properties: Any) -> str:
    geometry = {"type": kind, "coordinates": coordinates}
    return json.dumps({"type": "Feature", "geometry": geometry, "properties": properties})


BAD = {
    "no JSON": ("{", "must hold outlines of objects: Expecting property name"),
    "no feature": ("[1]", "must hold outlines of objects"),
    "a point": (feature("Point", 1, 2, name="p"), "'p' is a Point, which has no area; save it"),
    "a line": (feature("Polygon", [[0, 0], [4, 4], [0, 0]], name="l"), "'l' has no area|at least"),
    "beside": (
        feature("Polygon", [[20, 0], [24, 0], [24, 4], [20, 0]]),
        r"must hold pixels of their image, of shape \(5, 8\): that of 1 has x, y from \(20.0",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_bad_annotations_are_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_outlines(path, (5, 8))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_line_of_fiji_and_a_broken_set_are_told(tmp_path: Path) -> None:
    line = ImagejRoi()
    line.roitype, line.name = ROI_TYPE.LINE, "axis"
    roiwrite(tmp_path / "set.zip", [line])
    with pytest.raises(ValueError, match="'axis' is a line, which has no area"):
        read_outlines(tmp_path / "set.zip", (5, 8))
    (tmp_path / "set.zip").write_bytes(b"PK\0\0")
    with pytest.raises(ValueError, match=r"must hold outlines of objects: .*; save it again"):
        read_outlines(tmp_path / "set.zip", (5, 8))


# -------------------------------------------------------------------- masks, and segmentations


@pytest.mark.parametrize("masks", ["{image}.zip", "{image}.geojson", "{image}/*.roi"])
def test_outlines_are_masks_of_pairs(tmp_path: Path, masks: str) -> None:
    labels = np.zeros((20, 30), np.uint32)
    labels[2:9, 3:9], labels[12:15, 20:26] = 1, 2
    tifffile.imwrite(tmp_path / "a.tif", np.arange(600, dtype=np.uint16).reshape(20, 30))
    for kind in KINDS:
        write_outlines(image_of(labels), tmp_path / "a", kind)
    (tmp_path / "a").mkdir()
    for roi in roiread(tmp_path / "a.zip"):
        roi.tofile(tmp_path / "a" / f"{roi.name}.roi")
    layout = {"kind": "pairs", "images": "{image}.tif", "masks": masks}
    dataset = DatasetSettings(name="d", folder=str(tmp_path), layout=layout)
    (source,) = sources(dataset, tmp_path)
    _, classes, instances = source.read()
    assert classes is None
    np.testing.assert_array_equal(instances, labels)


@pytest.mark.parametrize("kind", KINDS)
def test_segmentations_are_written_as_outlines_where_wanted(tmp_path: Path, kind: Any) -> None:
    foreground = np.zeros((1, 2, 9, 12), np.float32)
    foreground[0, :, 1:5, 1:6], foreground[0, 1, 6:8, 8:] = 0.9, 0.9
    for folder in ("prediction", "predictions/a"):
        create_image(tmp_path / folder, "czyx", foreground.shape, np.float32, {})[...] = foreground
    for folder in ("volume", "images/a"):
        create_image(tmp_path / folder, "zyx", foreground.shape[1:], np.uint8, {})[...] = 1
    files = {key: tmp_path / key for key in ("objects", "merges", "seams", "summary")}
    files["segmentation"] = tmp_path / "segmentation.ome.zarr"
    model = {"threshold": 0.5, "network": {"dimensions": 2}}
    row = {"path": str(tmp_path / "volume")}
    facts = {"state": "done", "reason": "", "seconds": 0, "volume": row}
    few = {key: files[key] for key in ("segmentation", "objects")}
    for outlines in (kind, "none"):
        how = SegmentSettings(outlines=outlines, link_planes=0.3)
        segment_volume(facts, tmp_path / "prediction", [], files, model, how)
        written = tmp_path / f"outlines.{KINDS[kind]}"
        assert written.exists() == (outlines != "none")
        instances = np.asarray(open_image(files["segmentation"]).array[...])
        if outlines != "none":
            assert instances.max() == 2
            np.testing.assert_array_equal(read_outlines(written, instances.shape), instances)
        segment_images([tmp_path / "predictions/a"], tmp_path / "images", few, model, how)
        written = tmp_path / f"outlines/a.{KINDS[kind]}"
        assert written.exists() == (outlines != "none")
        instances = np.asarray(open_image(files["segmentation"] / "a").array[...])
        if outlines != "none":
            np.testing.assert_array_equal(read_outlines(written, instances.shape), instances)


@pytest.mark.parametrize("place", [(-9, -9, -5, -5), (20, 2, 25, 6), (2.1, 2.1, 2.3, 2.3)])
@pytest.mark.parametrize("plane", [0, -1, 3])
def test_outlines_without_a_pixel_of_their_image_are_refused(
    tmp_path: Path, place: tuple[float, ...], plane: int
) -> None:
    left, top, right, bottom = place if plane == 0 else (2, 2, 6, 6)
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    geometry = {"type": "Polygon", "coordinates": [ring], "plane": {"z": plane}}
    path = tmp_path / "one.geojson"
    path.write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": {}}))
    with pytest.raises(ValueError, match="must hold pixels of their image") as caught:
        read_outlines(path, (3, 10, 12))
    assert str(path) in str(caught.value)
