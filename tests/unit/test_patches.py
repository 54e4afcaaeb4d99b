"""The augmentation cache: deformations that are what they say, and patches made again."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline

from unetflow import patches
from unetflow.elastic import Deformation, displacements, draw, spline_matrix
from unetflow.geometry import Geometry, mirrored, unet_geometry
from unetflow.inference import build
from unetflow.losses import cross_entropy
from unetflow.models.sliding_window.settings import SlidingWindowSettings
from unetflow.patches import cut_patch, cut_patches, open_source
from unetflow.resampling import Interpolation, resample
from unetflow.settings.training import PatchesSettings, WeightsSettings
from unetflow.store import add_label, create_array, create_image
from unetflow.weights import target_and_weights, write_weights

COUNTS, WEIGHTS = [3, 1], WeightsSettings()
STILL: dict[str, Any] = {
    "elastic_sigma": 0,
    "rotation_degrees": 0,
    "scaling": 0,
    "mirror": False,
}
PADDED = unet_geometry(depth=1, dimensions=2, padded=True)
FLAT, DEEP = unet_geometry(depth=1, dimensions=2), unet_geometry(depth=1, dimensions=3)


class Turned:
    """A generator whose uniform draws are all at the upper end: the largest angle and zoom."""

    def uniform(self, _low: float, high: float) -> float:
        return high


def smooth(shape: tuple[int, ...]) -> NDArray[np.float64]:
    pixels = np.random.default_rng(0).normal(0, 1, shape)
    return ndimage.gaussian_filter(pixels, 3, mode="mirror") * 1000


# -------------------------------------------------------------------------------- splines


@given(st.integers(2, 12), st.integers(13, 80), st.integers(0, 2**32))
def test_between_points_runs_the_cubic_spline_that_is_level_at_its_mirrored_ends(
    grid: int, extent: int, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=grid)
    spline = CubicSpline(np.arange(grid), values, bc_type="clamped")
    np.testing.assert_allclose(
        spline_matrix(extent, grid, (extent - 1) / (grid - 1)) @ values,
        spline(np.linspace(0, grid - 1, extent)),
        atol=1e-9,
    )


@given(st.integers(2, 12), st.integers(13, 80))
def test_the_spline_matrix_passes_through_its_points_and_sums_to_one(grid: int, step: int) -> None:
    matrix = spline_matrix((grid - 1) * step + 1, grid, step)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(matrix[::step], np.eye(grid), atol=1e-12)


@pytest.mark.parametrize("shape", [(21, 31), (9, 21, 31)])
def test_displacements_at_grid_points_have_the_stated_deviation(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    corners = np.ix_(range(len(shape)), *[(0, -1)] * len(shape))
    settings = PatchesSettings(elastic_sigma=10, elastic_grid=3)
    drawn = np.array([displacements(shape, settings, generator)[corners] for _ in range(300)])
    assert drawn.std() == pytest.approx(10, rel=0.05)
    assert abs(drawn.mean()) < 1


def test_vectors_stand_as_far_apart_as_asked() -> None:
    """Between vectors 8 pixels apart a spline through 16 times as many points is the same."""
    settings = PatchesSettings(elastic_sigma=4, elastic_spacing=8)
    field = displacements((33, 41), settings, np.random.default_rng(0))
    vectors = np.random.default_rng(0).normal(0, 4, (2, 5, 6))
    np.testing.assert_allclose(field[:, ::8, ::8], vectors, atol=1e-5)


# ----------------------------------------------------------------------------- coordinates


@pytest.mark.parametrize("shape", [(7, 9), (8, 9), (8, 6), (3, 8, 7), (4, 4, 4)])
def test_no_displacement_and_no_rotation_is_the_identity(shape: tuple[int, ...]) -> None:
    """Every pixel of the patch shows one pixel of the image, also where extents are even."""
    centre = tuple(range(10, 10 + len(shape)))
    points = draw(shape, centre, PatchesSettings(**STILL), np.random.default_rng(0)).points()
    starts = [round(float(along.flat[0])) for along in points]
    grid = np.meshgrid(
        *(np.arange(start, start + extent) for start, extent in zip(starts, shape, strict=True)),
        indexing="ij",
    )
    np.testing.assert_allclose(points, np.stack(grid), atol=1e-9)
    for start, extent, middle in zip(starts, shape, centre, strict=True):
        assert abs(start + (extent - 1) / 2 - middle) <= 0.5


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "convolution", "spline"])
def test_a_rotation_by_90_degrees_equals_numpys(interpolation: Interpolation) -> None:
    image = smooth((31, 31))
    still = draw((11, 11), (15, 15), PatchesSettings(**STILL), np.random.default_rng(0))
    turned = draw((11, 11), (15, 15), PatchesSettings(**STILL | {"rotation_degrees": 90}), Turned())
    found = resample(image, turned, interpolation)
    straight = resample(image, still, interpolation)
    np.testing.assert_allclose(straight, image[10:21, 10:21], atol=1e-3)
    rotations = [np.abs(found - np.rot90(straight, turns)).max() < 1e-2 for turns in range(4)]
    assert rotations in ([False, True, False, False], [False, False, False, True])


def test_a_volume_is_rotated_in_its_planes_alone() -> None:
    settings = PatchesSettings(**STILL | {"rotation_degrees": 90})
    points = draw((5, 7, 7), (9, 9, 9), settings, Turned()).points()
    assert (points[0] == np.arange(7, 12)[:, None, None]).all()
    np.testing.assert_allclose(points[1:, 0], points[1:, -1])


def test_scaling_spreads_the_points_by_the_stated_factor() -> None:
    settings = PatchesSettings(**STILL | {"scaling": 0.5})
    points = draw((5, 5), (9, 9), settings, Turned()).points()
    np.testing.assert_allclose(points[0][:, 0], 9 + 1.5 * np.arange(-2, 3))
    factors = [
        np.ptp(draw((5, 5), (9, 9), settings, np.random.default_rng(seed)).points()[0]) / 4
        for seed in range(200)
    ]
    assert 1 / 1.5 <= min(factors) < 0.75 < 1.4 < max(factors) <= 1.5
    assert np.mean(np.log(factors)) == pytest.approx(0, abs=0.06)


# ------------------------------------------------------------------------------ resampling


def reading(points: NDArray[np.floating]) -> Deformation:
    """Return the deformation that reads an image at given coordinates (n, *shape)."""
    count, *shape = points.shape
    places = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    shift = (points - np.stack(places)).astype(np.float32)
    return Deformation(np.eye(count), np.zeros(count), shift)


STRONG = PatchesSettings(elastic_sigma=3, scaling=0.3)
METHODS: list[Interpolation] = ["nearest", "linear", "convolution", "spline"]


@given(st.lists(st.integers(1, 9), min_size=2, max_size=3), st.integers(0, 2**32))
def test_whole_coordinates_show_the_mirrored_image(extents: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 200, extents)
    points = generator.integers(-20, 30, (len(extents), *(4, 5, 3)[: len(extents)])).astype(float)
    index = [
        [int(mirrored(place, place + 1, extent)[0]) for place in along.ravel().astype(int).tolist()]
        for along, extent in zip(points, extents, strict=True)
    ]
    expected = image[tuple(index)].reshape(points.shape[1:])
    for method in METHODS:
        np.testing.assert_allclose(resample(image, reading(points), method), expected, atol=2e-3)


@given(st.integers(2, 3), st.integers(0, 2**32))
@examples(max_examples=30)
def test_between_pixels_it_equals_scipy(dimensions: int, seed: int) -> None:
    image = smooth((60, 70, 50)[:dimensions])
    generator = np.random.default_rng(seed)
    centre = tuple(int(generator.integers(extent)) for extent in image.shape)
    deformation = draw((24, 20, 16)[:dimensions], centre, STRONG, generator)
    points = deformation.points()
    for order, method in ((0, "nearest"), (1, "linear"), (3, "spline")):
        expected = ndimage.map_coordinates(image, points, order=order, mode="mirror")
        found = resample(image, deformation, method)  # type: ignore[arg-type]
        assert (np.abs(found - expected) > 3e-3).mean() < (0.001 if order == 0 else 1e-9)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(40, 30), (20, 30, 24)])
def test_the_layout_in_memory_does_not_matter(order: Any, shape: tuple[int, ...]) -> None:
    image = smooth(shape).astype(np.float32)
    deformation = draw((12,) * image.ndim, (9,) * image.ndim, STRONG, np.random.default_rng(0))
    found = resample(np.array(image, order=order), deformation, "spline")
    expected = ndimage.map_coordinates(image, deformation.points(), order=3, mode="mirror")
    np.testing.assert_allclose(found, expected, atol=3e-3)


@pytest.mark.parametrize("dtype", ["uint32", "int64", "float64"])
def test_small_differences_of_large_numbers_stay(dtype: str) -> None:
    image = (2**31 + 50 * (np.indices((40, 40)).sum(axis=0) // 9 % 2)).astype(dtype)
    deformation = draw((20, 20), (20, 20), STRONG, np.random.default_rng(0))
    found = resample(image, deformation, "spline")
    points = deformation.points()
    expected = ndimage.map_coordinates(image.astype(np.float64), points, order=3, mode="mirror")
    np.testing.assert_allclose(found, expected, atol=0.01, rtol=0)


def test_mirroring_turns_every_axis_half_of_the_time() -> None:
    settings = PatchesSettings(**STILL | {"mirror": True})
    signs = [
        np.diag(draw((5, 5, 5), (9, 9, 9), settings, np.random.default_rng(seed)).matrix)
        for seed in range(200)
    ]
    assert {tuple(sign) for sign in signs} == set(itertools.product([-1.0, 1.0], repeat=3))
    assert np.abs(np.mean(signs, axis=0)).max() < 0.25


def test_cubic_convolution_reproduces_a_parabola() -> None:
    """Keys' kernel is exact for polynomials of degree 2; a linear one would be off by 1/4."""
    rows, columns = np.indices((40, 40)) - 20.0
    points = np.random.default_rng(0).uniform(10, 30, (2, 9, 9))
    y, x = points - 20
    found = resample(rows**2 - rows * columns, reading(points), "convolution")
    np.testing.assert_allclose(found, y**2 - y * x, atol=1e-3)


@given(st.integers(0, 2**32))
def test_nearest_neighbours_bring_no_new_labels(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.choice(np.array([0, 1, 7, 255], np.uint16), (9, 8))
    found = resample(labels, reading(generator.uniform(-20, 30, (2, 10, 10))), "nearest")
    assert found.dtype == np.uint16
    assert set(np.unique(found)) <= set(np.unique(labels))


def test_folds_are_counted_and_gentle_deformations_have_none() -> None:
    rows, columns = np.indices((40, 40)).astype(float)
    there_and_back = np.where(columns < 20, columns, 40 - columns)
    assert reading(np.stack([rows, columns])).folded() == 0
    assert reading(np.stack([rows, there_and_back])).folded() == pytest.approx(0.5, abs=0.05)
    gentle = PatchesSettings(elastic_sigma=10, elastic_grid=3)
    assert draw((388, 388), (0, 0), gentle, np.random.default_rng(0)).folded() == 0


# ----------------------------------------------------------------------------- the cache


class Source:
    """An image on disk with its target and weights."""

    def __init__(self, root: Path, axes: str, shape: tuple[int, ...], dtype: str = "uint8") -> None:
        self.path, self.weights = root / "image", root / "weights"
        generator = np.random.default_rng(1)
        self.pixels = (128 + 60 * smooth(shape) / np.abs(smooth(shape)).max()).astype(dtype)
        create_image(self.path, axes, shape, dtype, {})[...] = self.pixels
        spatial = axes.removeprefix("c")
        extents = shape[-len(spatial) :]
        self.target = generator.choice(np.array([0, 1, 255], np.uint8), extents)
        self.weight = generator.uniform(0.5, 3, extents).astype(np.float32)
        zarr.create_group(self.weights, zarr_format=3, attributes={"class_counts": COUNTS})
        for name, part in (("target", self.target), ("weights", self.weight)):
            create_array(self.weights / name, spatial, extents, part.dtype, extents, extents)[
                ...
            ] = part

    def cut(self, output: Path, geometry: Geometry, **settings: Any) -> zarr.Group:
        cut_patches(self.opened(geometry), output, PatchesSettings(**settings))
        return zarr.open_group(output, mode="r")

    def opened(self, geometry: Geometry) -> patches.Source:
        return patches.open_source(self.path, self.weights, geometry, WEIGHTS)


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = [f"{path.relative_to(folder)} {path.read_bytes().hex()}" for path in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


CASES = [
    ("yx", (40, 50), FLAT, 26),
    ("yx", (11, 7), FLAT, 26),  # smaller than the tile
    ("cyx", (3, 40, 30), FLAT, (20, 26)),
    ("zyx", (5, 30, 30), FLAT, 22),  # a stack with a 2D network
    ("zyx", (9, 24, 24), DEEP, (18, 20, 22)),
    ("czyx", (2, 1, 24, 24), DEEP, 20),
    ("yx", (40, 50), PADDED, (24, 26)),
]


def test_a_plane_has_no_patches_of_volumes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image: a 3D network needs 3 spatial axes: the image has"):
        Source(tmp_path, "cyx", (3, 40, 50)).opened(DEEP)


@pytest.mark.parametrize(("axes", "shape", "geometry", "tile"), CASES)
def test_any_patch_can_be_made_again_from_its_stored_seed(
    tmp_path: Path, axes: str, shape: tuple[int, ...], geometry: Geometry, tile: Any
) -> None:
    source = Source(tmp_path, axes, shape)
    settings = PatchesSettings(tile=tile, per_image=4, seed=5, scaling=0.2)
    group = source.cut(tmp_path / "cache", geometry, **settings.model_dump())
    extents = (tile,) * len(geometry) if isinstance(tile, int) else tile
    edges = [0 if axis.padded else axis.halo for axis in geometry]
    outputs = tuple(extent - 2 * edge for extent, edge in zip(extents, edges, strict=True))
    channels = shape[0] if "c" in axes else 1
    assert group["image"].shape == (4, channels, *extents)
    assert group["classes"].shape == group["weights"].shape == (4, *outputs)
    assert group.attrs["source"] == "image"
    table = pd.read_csv(tmp_path / "cache.tsv", sep="\t")
    assert table["patch"].tolist() == [0, 1, 2, 3]
    for number in (3, 0, 2):
        seed = group.attrs["seeds"][number]
        assert json.loads(table["seed"][number]) == seed
        again = cut_patch(source.opened(geometry), settings, seed)
        parts = {"image": again.pixels, "classes": again.classes, "weights": again.weights}
        for name, part in parts.items():
            stored = group[name][number]
            assert stored.dtype == part.dtype
            assert stored.tobytes() == np.ascontiguousarray(part).tobytes()
        assert group.attrs["centres"][number] == list(again.centre)


@pytest.mark.parametrize(("axes", "shape", "geometry", "tile"), CASES)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    tmp_path: Path, axes: str, shape: tuple[int, ...], geometry: Geometry, tile: Any
) -> None:
    source = Source(tmp_path, axes, shape)
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        source.cut(tmp_path / name, geometry, tile=tile, per_image=2, seed=seed)
    assert digest(tmp_path / "first") == digest(tmp_path / "again") != digest(tmp_path / "other")


@pytest.mark.parametrize(
    ("axes", "shape", "geometry"),
    [("yx", (40, 50), FLAT), ("zyx", (6, 30, 30), FLAT), ("czyx", (2, 9, 24, 24), DEEP)],
)
def test_balanced_patches_lie_evenly_around_rare_and_frequent_classes(
    tmp_path: Path, axes: str, shape: tuple[int, ...], geometry: Geometry
) -> None:
    source = Source(tmp_path, axes, shape)
    target = zarr.open_array(source.weights / "target", mode="r+")
    drawn = np.zeros(target.shape, np.uint8)
    drawn[..., :3, :] = 255
    drawn.ravel()[[-3, -2, -400]] = 1, 1, 2  # very rare
    target[...] = drawn
    opened = source.opened(geometry)
    places = [opened.balanced_place(1, [0, 7, number]) for number in range(900)]
    values = [int(drawn[place]) for place in places if place is not None]
    assert len(values) == 900
    np.testing.assert_allclose(np.bincount(values) / 900, [1 / 3] * 3, atol=0.06)
    # Pixels of one class are as likely as each other.
    of_ones = [place for place in places if place is not None and drawn[place] == 1]
    assert len(set(of_ones)) == 2
    assert 0.35 < of_ones.count(of_ones[0]) / len(of_ones) < 0.65
    half = [opened.balanced_place(0.5, [0, 7, number]) is None for number in range(900)]
    assert np.mean(half) == pytest.approx(0.5, abs=0.06)
    extent = {"tile": 22 if geometry is FLAT else 20, "per_image": 40}
    group = source.cut(tmp_path / "cache", geometry, balanced=1, **extent)
    around = [int(drawn[tuple(centre)]) for centre in group.attrs["centres"]]
    assert set(around) == {0, 1, 2}


def test_balance_changes_where_patches_lie_and_not_how_they_are_deformed() -> None:
    settings = PatchesSettings(tile=22)
    seed = [0, 7, 3]
    *_, anywhere = patches.drawn((40, 50), 2, settings, seed)
    plane, centre, there = patches.drawn((40, 50), 2, settings, seed, (5, 6))
    assert (plane, centre) == ((), (5, 6))
    np.testing.assert_array_equal(anywhere.matrix, there.matrix)
    np.testing.assert_array_equal(anywhere.displacement, there.displacement)


def test_an_image_of_which_nothing_is_annotated_is_not_balanced(tmp_path: Path) -> None:
    source = Source(tmp_path, "yx", (40, 50))
    zarr.open_array(source.weights / "target", mode="r+")[...] = 255
    assert source.opened(FLAT).balanced_place(1, [0]) is None


def test_more_patches_leave_the_first_ones_as_they_were(tmp_path: Path) -> None:
    source = Source(tmp_path, "yx", (40, 50))
    few = source.cut(tmp_path / "few", FLAT, tile=22, per_image=2)
    many = source.cut(tmp_path / "many", FLAT, tile=22, per_image=40)  # more than a shard holds
    for name in ("image", "classes", "weights"):
        assert (few[name][...] == many[name][:2]).all()


def test_images_of_other_names_get_other_patches(tmp_path: Path) -> None:
    source = Source(tmp_path, "yx", (40, 50))
    first = source.cut(tmp_path / "first", FLAT, tile=22, per_image=1)
    source.path = source.path.rename(tmp_path / "other_image")
    second = source.cut(tmp_path / "second", FLAT, tile=22, per_image=1)
    assert first.attrs["centres"] != second.attrs["centres"]


@pytest.mark.parametrize(("axes", "shape", "geometry", "tile"), CASES)
def test_patches_bring_no_new_labels(
    tmp_path: Path, axes: str, shape: tuple[int, ...], geometry: Geometry, tile: Any
) -> None:
    source = Source(tmp_path, axes, shape)
    group = source.cut(tmp_path / "cache", geometry, tile=tile, per_image=3)
    assert set(np.unique(group["classes"][...])) <= {0, 1, 255}
    weights = group["weights"][...]
    assert source.weight.min() - 1e-5 <= weights.min()
    assert weights.max() <= source.weight.max() + 1e-5


@pytest.mark.parametrize("tile", [22, 26])
def test_a_still_patch_is_a_piece_of_the_image_with_its_labels(tmp_path: Path, tile: int) -> None:
    source = Source(tmp_path, "yx", (64, 64))
    group = source.cut(tmp_path / "cache", FLAT, tile=tile, per_image=12, **STILL)
    halo, found = FLAT[0].halo, 0
    for number, (row, column) in enumerate(group.attrs["centres"]):
        if not all(tile // 2 < place < 64 - tile // 2 - 1 for place in (row, column)):
            continue  # touches the border
        # The centre of an even tile may be on either side of the middle, alike for all arrays.
        places = [
            (slice(top, top + tile), slice(left, left + tile))
            for top in (row - tile // 2, row - tile // 2 + 1)
            for left in (column - tile // 2, column - tile // 2 + 1)
        ]
        matches = [
            place
            for place in places
            if np.array_equal(group["image"][number, 0], source.pixels[place])
        ]
        assert len(matches) == 1
        core = slice(halo, tile - halo)
        assert (group["classes"][number] == source.target[matches[0]][core, core]).all()
        np.testing.assert_allclose(
            group["weights"][number], source.weight[matches[0]][core, core], rtol=1e-5
        )
        found += 1
    assert found


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", "float16", "float32"])
def test_overshoot_of_the_spline_stays_in_the_range_of_the_type(tmp_path: Path, dtype: str) -> None:
    source = Source(tmp_path, "yx", (40, 40), dtype)
    kind = np.iinfo if "int" in dtype else np.finfo
    limits = (0, 1) if dtype == "float32" else (kind(dtype).min, kind(dtype).max)
    pixels = np.random.default_rng(0).choice(np.array(limits, dtype), (40, 40))
    open_array = zarr.open_array(source.path / "0", mode="r+")
    open_array[...] = pixels
    stored = source.cut(tmp_path / "cache", FLAT, tile=26, per_image=2)["image"]
    assert stored.dtype == dtype
    # Overshoot is cut off: most pixels of black and white noise stay near black or white.
    share = (stored[...].astype(np.float64) - float(limits[0])) / (
        float(limits[1]) - float(limits[0])
    )
    assert 0.3 < share.mean() < 0.7
    assert np.isfinite(stored[...]).all()
    if dtype != "float32":
        assert np.mean((share < 0.01) | (share > 0.99)) > 0.2


def test_centres_are_spread_over_the_whole_image(tmp_path: Path) -> None:
    source = Source(tmp_path, "zyx", (3, 20, 30))
    group = source.cut(tmp_path / "cache", FLAT, tile=18, per_image=80)
    centres = np.array(group.attrs["centres"])
    assert centres.shape == (80, 3)
    assert (centres.min(axis=0) >= 0).all()
    assert (centres.max(axis=0) < (3, 20, 30)).all()
    assert set(centres[:, 0]) == {0, 1, 2}
    assert np.ptp(centres[:, 1]) >= 16
    assert np.ptp(centres[:, 2]) >= 24


@pytest.mark.parametrize(("axes", "shape", "geometry", "tile"), CASES)
def test_weights_can_be_those_of_the_deformed_objects(
    tmp_path: Path, axes: str, shape: tuple[int, ...], geometry: Geometry, tile: Any
) -> None:
    source = Source(tmp_path, axes, shape)
    spatial = axes.removeprefix("c")
    instances = np.random.default_rng(0).integers(0, 9, shape[-len(spatial) :]).astype(np.uint32)
    add_label(source.path, "classes", spatial, (instances > 0).astype(np.uint8), {})
    add_label(source.path, "instances", spatial, instances, {})
    settings = {"tile": tile, "per_image": 3, "scaling": 0.2}
    group = source.cut(tmp_path / "cache", geometry, weights="recomputed", **settings)
    usual = source.cut(tmp_path / "usual", geometry, **settings)
    assert (group["image"][...] == usual["image"][...]).all()
    dimensions = len(geometry)
    edges = [0 if axis.padded else axis.halo for axis in geometry]
    for number, seed in enumerate(group.attrs["seeds"]):
        plane, _, deformation = patches.drawn(
            instances.shape, dimensions, PatchesSettings(**settings), seed
        )
        left_out = resample(source.target, deformation, "nearest", plane) == 255
        moved = resample(instances, deformation, "nearest", plane)
        classes = np.where(left_out, 255, moved > 0).astype(np.uint8)
        moved[left_out] = 0
        target, weights = target_and_weights(classes, moved, COUNTS, WEIGHTS, [1.0] * dimensions, 5)
        core = tuple(
            slice(edge, extent - edge) for edge, extent in zip(edges, moved.shape, strict=True)
        )
        np.testing.assert_array_equal(group["classes"][number], target[core])
        np.testing.assert_array_equal(group["weights"][number], weights[core])


def test_what_the_target_leaves_out_stays_out_of_recomputed_weights(tmp_path: Path) -> None:
    source = Source(tmp_path, "yx", (40, 50))
    for name in ("classes", "instances"):
        add_label(source.path, name, "yx", np.ones((40, 50), np.uint32), {})
    some = WEIGHTS.model_copy(update={"annotated_planes": {"y": 2}})
    opened = replace(source.opened(FLAT), weight_settings=some)
    cut_patches(opened, tmp_path / "cache", PatchesSettings(tile=26, weights="recomputed"))
    cut_patches(opened, tmp_path / "usual", PatchesSettings(tile=26))
    found, usual = (zarr.open_group(tmp_path / name, mode="r") for name in ("cache", "usual"))
    skipped = usual["classes"][...] == 255
    assert 0.1 < skipped.mean() < 0.9
    np.testing.assert_array_equal(found["classes"][...] == 255, skipped)
    assert not found["weights"][...][skipped].any()
    assert found["weights"][...][~skipped].all()


def test_folds_are_told_in_the_log_and_in_the_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(tmp_path, "yx", (40, 50))
    with caplog.at_level("INFO", "unetflow"):
        source.cut(tmp_path / "gentle", FLAT, tile=26, per_image=2, elastic_sigma=0.1)
        assert "fold" not in caplog.text
        source.cut(tmp_path / "wild", FLAT, tile=26, per_image=2, elastic_sigma=60)
    assert "2 of 2 deformations fold" in caplog.text
    folded = {
        name: pd.read_csv(tmp_path / f"{name}.tsv", sep="\t")["folded"]
        for name in ("gentle", "wild")
    }
    assert (folded["gentle"] == 0).all()
    assert (folded["wild"] > 0.01).all()


# ------------------------------------------------------------------------------- failures


def test_what_does_not_fit_on_the_disk_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(tmp_path, "yx", (40, 50), "uint16")
    before = sorted(tmp_path.iterdir())
    need = 1000 * (26 * 26 * 2 + 10 * 10 * (1 + 4))
    usage = shutil.disk_usage(tmp_path)._replace(free=need - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"what comes needs 0\.0 GB .* lower patches\.per_image"):
        source.cut(tmp_path / "cache", FLAT, tile=26, per_image=1000)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), SystemExit(143)])
def test_a_failed_cut_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    source = Source(tmp_path, "yx", (30, 30))
    before = sorted(tmp_path.iterdir())
    written = []

    def fail(path: Path, *arguments: Any) -> Any:
        if len(written) == 2:
            raise error
        written.append(path)
        return create_array(path, *arguments)

    monkeypatch.setattr(patches, "create_array", fail)
    with pytest.raises(type(error)):
        source.cut(tmp_path / "cache", FLAT, tile=22, per_image=2)
    assert len(written) == 2
    assert sorted(tmp_path.iterdir()) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from unetflow import patches
from unetflow.geometry import unet_geometry
from unetflow.resampling import Interpolation, resample
from unetflow.settings.training import PatchesSettings, WeightsSettings
create_array, written = patches.create_array, []
def kill(path, *arguments):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    return create_array(path, *arguments)
patches.create_array = kill
root = Path(sys.argv[1])
source = patches.open_source(root / "image", root / "weights", unet_geometry(1, 2),
                             WeightsSettings())
patches.cut_patches(source, root / "cache", PatchesSettings(tile=22, per_image=2))
"""


def test_a_killed_cut_is_absent_and_made_whole_by_the_next(tmp_path: Path) -> None:
    source = Source(tmp_path, "yx", (30, 30))
    source.cut(tmp_path / "expected", FLAT, tile=22, per_image=2)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60, check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "cache").exists()
    source.cut(tmp_path / "cache", FLAT, tile=22, per_image=2)
    assert digest(tmp_path / "cache") == digest(tmp_path / "expected")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"image", "weights", "expected", "expected.tsv", "cache", "cache.tsv"}


def test_a_patch_of_one_window_is_of_its_middle_pixel(tmp_path: Path) -> None:
    """How a classifier of windows is trained as published: evenly by class, pixel by pixel."""
    model = SlidingWindowSettings(network="sliding_window", width=1, hidden=1)
    classes = np.zeros((120, 130), np.uint8)
    classes[40:48, 60:66] = 1  # of 325 pixels one
    path = tmp_path / "image"
    create_image(path, "yx", classes.shape, np.uint8, {})[...] = classes
    add_label(path, "classes", "yx", classes, {})
    add_label(path, "instances", "yx", classes.astype(np.uint32), {})
    settings = WeightsSettings(w0=0, balance_classes=False, separate_touching=False)
    write_weights(path, tmp_path / "weights", [15552, 48], 2, settings)
    source = open_source(path, tmp_path / "weights", model.geometry, settings)
    chosen = PatchesSettings(tile=95, per_image=200, balanced=1, elastic_sigma=0)
    cut_patches(source, tmp_path / "patches", chosen)
    found = zarr.open_group(tmp_path / "patches", mode="r")
    middles = np.asarray(found["classes"][...])
    assert middles.shape == (200, 1, 1)
    assert 70 < middles.sum() < 130
    windows = np.asarray(found["image"][...], np.float32)
    assert windows.shape == (200, 1, 95, 95)
    # Turned by any angle about its middle, which stays the pixel that is classified.
    np.testing.assert_array_equal(windows[:, 0, 47, 47] > 0.5, middles[:, 0, 0] == 1)
    logits = build(model, 1, 2)(torch.from_numpy(windows[:8]))
    assert logits.shape == (8, 2, 1, 1)
    classes_there = torch.from_numpy(middles[:8]).long()
    assert torch.isfinite(cross_entropy(logits, classes_there, torch.ones(8, 1, 1)))
