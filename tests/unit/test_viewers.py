"""Results as napari opens them, by its reader of OME-Zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unetflow import predicted
from unetflow.pyramid import add_levels
from unetflow.segmentation import segment_image
from unetflow.settings.prediction import PredictSettings, SegmentSettings
from unetflow.store import add_label, create_image, describe_image, open_image

pytestmark = pytest.mark.filterwarnings("ignore")  # napari's own, of its older parts

VOXEL = {"z": 2.0, "y": 0.5, "x": 0.25}


def layers(path: Path) -> list[tuple[Any, dict[str, Any], str]]:
    """What the reader hands to napari."""
    reader = pytest.importorskip("napari_ome_zarr", reason="pip install napari-ome-zarr")
    found: list[tuple[Any, dict[str, Any], str]] = reader.napari_get_reader(str(path))(str(path))
    return found


def write_prediction(path: Path, classes: list[str], shape: tuple[int, ...]) -> np.ndarray:
    """A predicted volume with coarser levels, as the workflow writes it."""
    settings = PredictSettings(dtype="float16")
    pixels = np.random.default_rng(0).random((len(classes) - 1, *shape)).astype(np.float16)
    create_image(path, "czyx", pixels.shape, pixels.dtype, VOXEL)[...] = pixels
    levels = add_levels(path, "0", "czyx", VOXEL, mean=True)
    describe_image(path, "czyx", VOXEL, levels, **predicted.metadata(classes, settings))
    return pixels


def test_probabilities_are_channels_between_black_and_white(tmp_path: Path) -> None:
    path = tmp_path / "prediction.ome.zarr"
    pixels = write_prediction(path, ["background", "nucleus", "border"], (3, 300, 280))
    ((pyramid, about, kind),) = layers(path)
    assert (kind, about["channel_axis"]) == ("image", 0)
    assert [name.rpartition(" ")[2] for name in about["name"]] == ["nucleus", "border"]
    assert about["scale"] == list(VOXEL.values())
    assert [tuple(limits) for limits in about["contrast_limits"]] == [(0, 1), (0, 1)]
    assert len(about["colormap"]) == 2
    np.testing.assert_array_equal(np.asarray(pyramid[0]), pixels)
    assert [level.shape[-2:] for level in pyramid] == [(300, 280), (150, 140)]


def test_a_segmentation_is_a_layer_of_labels(tmp_path: Path) -> None:
    write_prediction(tmp_path / "prediction.ome.zarr", ["background", "cell"], (3, 40, 50))
    output = tmp_path / "segmentation.ome.zarr"
    model = {"network": {"dimensions": 3}, "threshold": 0.5}
    segment_image(tmp_path / "prediction.ome.zarr", output, model, SegmentSettings())
    ((pyramid, about, kind),) = layers(output)
    assert (kind, about["scale"]) == ("labels", list(VOXEL.values()))
    np.testing.assert_array_equal(np.asarray(pyramid[0]), open_image(output).array[...])


def test_labels_of_an_image_come_with_it(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40), np.uint8)
    create_image(tmp_path / "image", "yx", pixels.shape, pixels.dtype, {})[...] = pixels
    add_label(tmp_path / "image", "classes", "yx", pixels % 3, {})
    (image, _, kind), (labels, _, kind_of_labels) = layers(tmp_path / "image")
    assert (kind, kind_of_labels) == ("image", "labels")
    np.testing.assert_array_equal(np.asarray(image[0]), pixels)
    np.testing.assert_array_equal(np.asarray(labels[0]), pixels % 3)
