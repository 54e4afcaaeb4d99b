"""OME-TIFF files, as tifffile and the OME model read them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
import zarr

from unetflow.ome_tiff import write_ome_tiff, write_ome_tiffs
from unetflow.pyramid import add_levels
from unetflow.store import create_image, describe_image

VOXEL = {"z": 2.0, "y": 0.5, "x": 0.25}
NAMESPACE = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"


def write_pyramid(path: Path, axes: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An image of random numbers with coarser levels; returns the numbers."""
    random = np.random.default_rng(0)
    pixels = (random.random(shape) * 200).astype(dtype)
    voxel = {axis: VOXEL[axis] for axis in axes if axis in VOXEL}
    create_image(path, axes, shape, dtype, voxel)[...] = pixels
    describe_image(path, axes, voxel, add_levels(path, "0", axes, voxel, mean=False), {}, {})
    return pixels


@pytest.mark.parametrize(
    ("axes", "shape", "dtype", "stored"),
    [
        ("yx", (300, 700), np.uint32, np.uint32),
        ("cyx", (2, 600, 270), np.float16, np.float32),
        ("zyx", (3, 257, 300), np.uint64, np.uint32),
        ("czyx", (2, 3, 40, 50), np.uint8, np.uint8),
    ],
)
def test_pixels_axes_levels_and_voxel_sizes_come_back(
    tmp_path: Path, axes: str, shape: tuple[int, ...], dtype: type, stored: type
) -> None:
    pixels = write_pyramid(tmp_path / "image", axes, shape, dtype)
    write_ome_tiff(tmp_path / "image", tmp_path / "image.ome.tif")
    levels = sorted(path.name for path in (tmp_path / "image").glob("0-*"))
    with tifffile.TiffFile(tmp_path / "image.ome.tif") as file:
        (series,) = file.series
        assert (series.axes, series.shape, series.dtype) == (axes.upper(), shape, stored)
        np.testing.assert_array_equal(series.asarray(), pixels)
        assert len(series.levels) == 1 + len(levels)
        for level, name in zip(series.levels[1:], levels, strict=True):
            expected = zarr.open_array(tmp_path / "image" / name)[...]
            np.testing.assert_array_equal(level.asarray(), expected)
        described = ElementTree.fromstring(file.ome_metadata).find(f".//{NAMESPACE}Pixels")
    assert described is not None
    for axis in VOXEL.keys() & set(axes):
        assert float(described.attrib[f"PhysicalSize{axis.upper()}"]) == VOXEL[axis]
        assert described.attrib[f"PhysicalSize{axis.upper()}Unit"] == "µm"


def test_levels_of_fewer_planes_are_left_out(tmp_path: Path) -> None:
    cubes = {"z": 1.0, "y": 1.0, "x": 1.0}
    create_image(tmp_path / "image", "zyx", (4, 300, 300), np.uint8, cubes)[...] = 7
    levels = add_levels(tmp_path / "image", "0", "zyx", cubes, mean=False)
    describe_image(tmp_path / "image", "zyx", cubes, levels, {}, {})
    assert levels["0-1"]["z"] == 2
    write_ome_tiff(tmp_path / "image", tmp_path / "image.ome.tif")
    with tifffile.TiffFile(tmp_path / "image.ome.tif") as file:
        assert [level.shape for level in file.series[0].levels] == [(4, 300, 300)]


def test_ids_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    create_image(tmp_path / "image", "yx", (4, 5), np.uint64, {})[...] = 2**40
    with pytest.raises(ValueError, match="must be below"):
        write_ome_tiff(tmp_path / "image", tmp_path / "image.ome.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_a_volume_that_failed_is_named_with_its_reason(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "image", attributes={"reason": "no such file"})
    with pytest.raises(ValueError, match="must be predicted to be exported: it failed, no such"):
        write_ome_tiff(tmp_path / "image", tmp_path / "image.ome.tif")


def test_a_folder_of_images_is_whole_or_absent(tmp_path: Path) -> None:
    names = ["a", "b"]
    for name in names:
        write_pyramid(tmp_path / name, "yx", (30, 40), np.uint8)
    write_ome_tiffs([tmp_path / name for name in names], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.ome.tif", "b.ome.tif"]
    with pytest.raises(ValueError, match="must be an OME-Zarr image"):
        write_ome_tiffs([tmp_path / "a", tmp_path / "missing"], tmp_path / "other")
    assert not (tmp_path / "other").exists()
