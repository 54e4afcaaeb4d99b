"""Pictures of volumes: what they show, how much they read, and that they are no results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from unetflow import thumbnails
from unetflow.pyramid import add_levels
from unetflow.store import create_image, describe_image, open_image
from unetflow.thumbnails import COLOUR, coarse_volume, draw_thumbnail, drawn


def segmentation(path: Path, labels: NDArray[Any]) -> Path:
    """Write instances with coarser levels."""
    axes = "zyx"[-labels.ndim :]
    create_image(path, axes, labels.shape, np.uint32, {})[...] = labels
    levels = add_levels(path, "0", axes, {}, mean=False)
    describe_image(path, axes, {}, levels, {}, {}, means=False)
    return path


def volume(path: Path, pixels: NDArray[Any]) -> dict[str, str]:
    """Write a volume; return its row."""
    tifffile.imwrite(
        path, pixels, photometric="minisblack", metadata={"axes": "ZYX"[-pixels.ndim :]}
    )
    return {"path": str(path)}


def picture(path: Path) -> NDArray[Any]:
    with PIL.Image.open(path) as opened:
        assert opened.format == "WEBP"
        return np.asarray(opened.convert("RGB")).astype(int)


def orange(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a picture is coloured: red and blue differ."""
    return np.asarray(pixels[..., 0] - pixels[..., 2] > 60)


@pytest.mark.parametrize("shape", [(64, 72), (5, 300, 500), (3, 500, 40), (1, 1), (2000, 3)])
def test_a_picture_keeps_its_shape_within_160_pixels(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    labels = np.zeros(shape, np.uint32)
    path = segmentation(tmp_path / "s", labels)
    row = volume(tmp_path / "v.tif", np.random.default_rng(0).random(shape, np.float32))
    draw_thumbnail(row, path, tmp_path / "t.webp")
    found = picture(tmp_path / "t.webp").shape[:2]
    shrink = max(max(shape[-2:]) / 160, 1)
    assert found == tuple(max(1, round(extent / shrink)) for extent in shape[-2:])


def test_it_shows_the_middle_plane_with_the_contours_of_its_instances(tmp_path: Path) -> None:
    pixels = np.zeros((5, 120, 150), np.uint8)
    pixels[2, :, 75:] = 200
    labels = np.zeros(pixels.shape, np.uint32)
    labels[2, 30:90, 20:50] = 7
    labels[0] = 1 + np.arange(120)[:, None] // 10
    row = volume(tmp_path / "v.tif", pixels)
    draw_thumbnail(row, segmentation(tmp_path / "s", labels), tmp_path / "t.webp")
    found = picture(tmp_path / "t.webp")
    assert found[10, 140].min() > 240
    assert found[10, 10].max() < 15
    assert found[60, 35].max() < 60, "the inside keeps its grey value"
    coloured = orange(found)
    assert coloured[31:88, 20].mean() > 0.9
    assert not coloured[:25].any()
    assert not coloured[:, 60:].any()


def test_the_worked_contour_is_the_rim_of_each_instance() -> None:
    labels = np.zeros((5, 6), np.uint32)
    labels[1:4, 1:5] = 3
    found = (drawn(np.zeros((5, 6)), labels) == COLOUR).all(axis=-1)
    rim = labels > 0
    rim[2, 2:4] = False
    np.testing.assert_array_equal(found, rim)


def test_only_the_region_that_is_predicted_is_shown(tmp_path: Path) -> None:
    pixels = np.zeros((4, 100, 100), np.uint8)
    pixels[3, 50:, :40] = np.arange(50)[:, None] * 4
    row = volume(tmp_path / "v.tif", pixels) | {"region": "3:4, 50:, :40"}
    path = segmentation(tmp_path / "s", np.zeros(pixels.shape, np.uint32))
    draw_thumbnail(row, path, tmp_path / "t.webp")
    found = picture(tmp_path / "t.webp")
    assert found.shape == (50, 40, 3)
    assert found[-1].min() > 240 > 20 > found[0].max()


def test_the_coarsest_level_that_is_large_enough_is_read(tmp_path: Path) -> None:
    path = tmp_path / "v.zarr"
    array = create_image(path, "yx", (1500, 1700), np.uint16, {})
    array[...] = np.broadcast_to(np.arange(1700), array.shape)
    describe_image(path, "yx", {}, add_levels(path, "0", "yx", {}, mean=True), {}, {})
    whole = [(0.0, 1.0)] * 2
    assert coarse_volume({"path": str(path)}, whole).spatial_shape == (188, 213)
    assert coarse_volume({"path": str(path)}, [(0.0, 0.5)] * 2).spatial_shape == (375, 425)
    row = {"path": str(path), "level": "1"}
    assert coarse_volume(row, [(0.0, 0.1)] * 2).spatial_shape == (750, 850)
    labels = np.zeros((1500, 1700), np.uint32)
    labels[:, :850] = 1
    draw_thumbnail({"path": str(path)}, segmentation(tmp_path / "s", labels), tmp_path / "t.webp")
    found = picture(tmp_path / "t.webp")
    assert found.shape[1] == 160
    assert orange(found).any(axis=0)[:78].sum() == 0
    assert orange(found)[:, 78:82].any(axis=1).all()
    assert np.diff(found[:, :70, 1].mean(axis=0)).min() > -3, "grey values rise to the right"


def test_of_a_plane_without_coarser_levels_the_middle_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "MOST", 64)
    pixels = np.zeros((400, 500), np.uint8)
    pixels[168:232, 218:282] = np.arange(1, 65) * 3
    labels = np.zeros(pixels.shape, np.uint32)
    labels[160:240, 250:] = 1
    row = volume(tmp_path / "v.tif", pixels)
    draw_thumbnail(row, segmentation(tmp_path / "s", labels), tmp_path / "t.webp")
    found = picture(tmp_path / "t.webp")
    assert found.shape == (64, 64, 3)
    assert orange(found)[:, 31:34].any(axis=1).all()
    assert np.diff(found[:, :28, 1].mean(axis=0)).min() > -3


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    row = volume(tmp_path / "v.tif", np.random.default_rng(0).integers(0, 9, (90, 90), np.uint8))
    path = segmentation(tmp_path / "s", np.eye(90, dtype=np.uint32))
    for name in ("a", "b"):
        draw_thumbnail(row, path, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_drawn_leaves_no_picture_and_no_error(tmp_path: Path) -> None:
    path = segmentation(tmp_path / "s", np.zeros((9, 9), np.uint32))
    row = volume(tmp_path / "v.tif", np.zeros((9, 9), np.uint8))
    draw_thumbnail(row, path, tmp_path / "t.webp")
    assert (tmp_path / "t.webp").is_file()
    (tmp_path / "v.tif").write_bytes(b"no picture")
    draw_thumbnail(row, path, tmp_path / "t.webp")
    assert sorted(it.name for it in tmp_path.iterdir()) == ["s", "v.tif"]
    assert zarr.open_group(path, mode="r")
    assert open_image(path).spatial_shape == (9, 9)
