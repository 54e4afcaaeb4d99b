"""Voxel sizes: resampling is the same for any region, and other sizes are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from unetflow.store import Image, create_image
from unetflow.volumes import open_volume
from unetflow.voxels import require_size, resampled

SIZES = {"z": 2.0, "y": 0.5, "x": 0.25}


def volume(path: Path, axes: str, shape: tuple[int, ...]) -> Image:
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    sizes = {axis: SIZES[axis] for axis in axes if axis in SIZES}
    create_image(path, axes, shape, np.uint8, sizes)[...] = pixels
    return open_volume(path)


@pytest.mark.parametrize(
    ("axes", "shape", "target"),
    [
        ("yx", (20, 31), {"y": 1.0, "x": 0.1}),
        ("zyx", (5, 20, 31), {"z": 0.7, "y": 0.5, "x": 0.33}),
        ("czyx", (2, 5, 12, 9), {"y": 0.2}),
    ],
)
def test_resampled_voxels_are_scipys_at_their_centres(
    tmp_path: Path, axes: str, shape: tuple[int, ...], target: dict[str, float]
) -> None:
    image = volume(tmp_path / "image", axes, shape)
    found = resampled(image, target)
    spatial = axes.removeprefix("c")
    steps = [target.get(axis, SIZES[axis]) / SIZES[axis] for axis in spatial]
    extents = [round(n / s) for n, s in zip(shape[-len(spatial) :], steps, strict=True)]
    assert found.spatial_shape == tuple(extents)
    assert found.voxel_size_um == {axis: target.get(axis, SIZES[axis]) for axis in spatial}
    centres = [(np.arange(n) + 0.5) * s - 0.5 for n, s in zip(extents, steps, strict=True)]
    places = np.meshgrid(*centres, indexing="ij")
    whole = found.region(tuple(slice(0, n) for n in extents))
    source = image.region(tuple(slice(0, n) for n in image.spatial_shape))
    for channel, expected in zip(whole, source, strict=True):
        reference = map_coordinates(expected.astype(np.float64), places, order=1, mode="nearest")
        np.testing.assert_allclose(channel, reference, atol=1e-3)


@given(data=st.data())
def test_a_voxel_is_the_same_in_any_region(data: st.DataObject, tmp_path_factory: object) -> None:
    folder = tmp_path_factory.getbasetemp() / "voxels"  # type: ignore[attr-defined]
    known = folder.exists()
    image = open_volume(folder) if known else volume(folder, "czyx", (2, 6, 15, 11))
    found = resampled(image, {"z": 1.3, "y": 0.21, "x": 0.4})
    whole = found.array[...]
    index = []
    for extent in found.spatial_shape:
        start = data.draw(st.integers(0, extent - 1))
        index.append(slice(start, data.draw(st.integers(start + 1, extent))))
    np.testing.assert_array_equal(found.array[(slice(None), *index)], whole[:, *index])
    assert found.array[(0, *index)].shape == whole[0, *index].shape


def test_a_volume_of_that_size_is_left_as_it_is(tmp_path: Path) -> None:
    image = volume(tmp_path / "image", "zyx", (5, 20, 31))
    assert resampled(image, None) is image
    assert resampled(image, {"y": 0.5, "x": 0.25}) is image


def test_a_volume_without_sizes_cannot_be_resampled(tmp_path: Path) -> None:
    create_image(tmp_path / "image", "yx", (5, 6), np.uint8, {})[...] = 1
    with pytest.raises(ValueError, match=r"must state the size of its voxels .* along x, y; write"):
        resampled(open_volume(tmp_path / "image"), {"y": 1, "x": 1})


def test_voxels_of_another_size_are_told_with_both(tmp_path: Path) -> None:
    image = volume(tmp_path / "image", "zyx", (5, 20, 31))
    require_size(image, {"y": 0.51, "x": 0.25}, 2)
    require_size(image, {}, 3)
    require_size(image, {"z": 9.0, "y": 0.5}, 2)  # a 2D network sees no z
    with pytest.raises(
        ValueError, match=r"learned from, 0\.5 x 0\.5 um \(y, x\): got 0\.5 x 0\.25"
    ):
        require_size(image, {"z": 2.0, "y": 0.5, "x": 0.5}, 2)
    with pytest.raises(ValueError, match=r"9 x 0\.5 um \(z, y\): got 2 x 0\.5 um; set predict"):
        require_size(image, {"z": 9.0, "y": 0.5}, 3)
