"""Regression: losses, normalisation, targets, baselines, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.io import savemat
from skimage.metrics import structural_similarity
from sklearn.decomposition import PCA

from unetflow.baselines import WIDTHS, baseline, best_width
from unetflow.datasets.fluorescence import ELECTRONS_PER_COUNT, OFFSET, READ_NOISE, fluorescence
from unetflow.datasets.landscape import degraded, interpolated, landscape
from unetflow.datasets.prepare import prepare
from unetflow.experiments import datasets_of
from unetflow.intensity import Normalisation, write_histograms
from unetflow.losses import deeply_supervised, l1, l2, loss_of, ssim
from unetflow.metrics.regression import ergas, psnr, sam
from unetflow.models.unet.settings import UNetSettings
from unetflow.patches import cut_patch, cut_patches, open_source, patch_seed
from unetflow.reading import parse
from unetflow.regression import Regression, learned_from, regression_of
from unetflow.report import figures
from unetflow.report.charts import points
from unetflow.report.scores import beside_baselines
from unetflow.sampling import Patches
from unetflow.settings.datasets import DatasetSettings
from unetflow.settings.evaluation import EvaluateSettings
from unetflow.settings.experiment import ExperimentSettings
from unetflow.settings.training import PatchesSettings, TrainSettings, WeightsSettings
from unetflow.store import create_image, open_image, read_json, write_json
from unetflow.training import Task, after_folds
from unetflow.value_scores import ValueScores

torch.set_num_threads(1)
LAYOUT = {"kind": "targets", "images": "in/{image}.*", "targets": "out/{image}.*"}


def values(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32))


def stored(path: Path, pixels: np.ndarray, target: np.ndarray) -> Path:
    """Write an image with its target, both (channel, rows, columns)."""
    create_image(path, "cyx", pixels.shape, pixels.dtype, {})[...] = pixels
    create_image(path / "target", "cyx", target.shape, np.float32, {})[...] = target
    return path


# ---------------------------------------------------------------------------------- losses


@given(st.integers(1, 3), st.integers(2, 3), st.integers(0, 99))
def test_errors_are_those_of_torch_where_all_pixels_weigh_the_same(
    channels: int, dimensions: int, seed: int
) -> None:
    shape = (2, channels, *(7, 6, 5)[:dimensions])
    found, true = values(shape, seed), values(shape, seed + 1)
    weights = torch.full((2, *shape[2:]), 0.3)
    functional = torch.nn.functional
    assert l1(found, true, weights).item() == pytest.approx(functional.l1_loss(found, true).item())
    assert l2(found, true, weights).item() == pytest.approx(functional.mse_loss(found, true).item())


@pytest.mark.parametrize("loss", [l1, l2])
def test_a_pixel_of_weight_0_does_not_count(loss: Any) -> None:
    found, true, weights = values((1, 2, 5, 5)), values((1, 2, 5, 5), 1), torch.ones(1, 5, 5)
    weights[0, 2, 3] = 0
    other = found.clone()
    other[0, :, 2, 3] = 1e6
    assert loss(found, true, weights) == loss(other, true, weights)
    assert loss(found, true, 0 * weights).item() == 0


@pytest.mark.parametrize("shape", [(11, 11), (17, 23), (12, 13, 14)])
def test_similarity_is_that_of_scikit_image(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(3)
    true = generator.uniform(200, 900, (2, *shape))
    found = true + generator.normal(0, 80, true.shape)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, similarity = structural_similarity(
        true, found, data_range=1000, channel_axis=0, full=True, **window
    )
    expected = 1 - similarity[(slice(None), *[slice(5, -5)] * len(shape))].mean()
    # The same in another unit: less 400, over 250
    batch = (torch.from_numpy((part[None] - 400) / 250).float() for part in (found, true))
    loss = ssim(*batch, torch.ones(1, *shape), zero=[-1.6], data_range=[4])
    assert loss.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("ratio", [0, 1000, 30000])
def test_similarity_bears_a_mean_far_above_the_deviation(ratio: float) -> None:
    """Normalised, of true values all about `ratio` deviations above zero, as of CT numbers."""
    generator = np.random.default_rng(4)
    true, noise = generator.normal(size=(2, 1, 32, 32)).astype(np.float32)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for found in (noise, true + noise / 2):
        _, similarity = structural_similarity(
            *(of[0].astype(np.float64) + ratio for of in (true, found)),
            data_range=5,
            full=True,
            **window,
        )
        batch = (torch.from_numpy(of[None]) for of in (found, true))
        loss = ssim(*batch, torch.ones(1, 32, 32), zero=[-ratio], data_range=[5])
        expected = 1 - similarity[5:-5, 5:-5].mean()
        assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_similarity_needs_a_window() -> None:
    with pytest.raises(
        ValueError, match=r"train.loss ssim needs patches of 11 pixels .* \(10, 12\)"
    ):
        ssim(values((1, 1, 10, 12)), values((1, 1, 10, 12)), torch.ones(1, 10, 12))


@pytest.mark.parametrize("loss", [l1, l2])
def test_coarser_levels_see_the_values_in_the_middle_of_their_samples(loss: Any) -> None:
    true, weights = values((1, 2, 8, 8)), torch.ones(1, 8, 8)
    coarse = true[:, :, 1::2, 1::2]
    total = deeply_supervised(loss, [true, coarse], true, weights, [(2, 2)])
    assert total.item() == 0
    assert deeply_supervised(loss, [true, coarse + 1], true, weights, [(2, 2)]).item() > 0


# ------------------------------------------------------------------- targets and their unit


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two images with targets of two channels, and their histograms."""
    for seed, name in enumerate("ab"):
        generator = np.random.default_rng(seed)
        target = generator.uniform(50, 900, (2, 40, 44)) * [[[1]], [[3]]]
        pixels = (target + generator.normal(0, 30, target.shape)).astype(np.float32)
        path = stored(tmp_path / "images" / name, pixels, target)
        write_histograms(path, tmp_path / f"{name}.json")
    return tmp_path


def test_targets_are_normalised_by_all_training_images_and_come_back(pair: Path) -> None:
    paths = {name: pair / f"{name}.json" for name in "ab"}
    regression = learned_from(paths, ["a", "b"], ["one", "two"])
    targets = np.stack([open_image(pair / "images" / name).target().array[...] for name in "ab"])
    np.testing.assert_allclose(regression.normalise.offset, targets.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(regression.normalise.scale, targets.std(axis=(0, 2, 3)), rtol=1e-5)
    assert regression.data_range == pytest.approx(np.ptp(targets), rel=1e-3)
    there = regression.normalise.apply(targets[0])
    assert abs(there.mean()) < 0.1
    np.testing.assert_allclose(regression.values(there), targets[0], rtol=1e-4)
    assert regression_of({"target": regression.facts()}) == regression
    assert regression_of({}) is None


def test_a_target_of_one_value_cannot_be_learned(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (1, 20, 20)).astype(np.float32)
    write_histograms(stored(tmp_path / "a", noise, 0 * noise + 7), tmp_path / "a.json")
    with pytest.raises(
        ValueError, match="two values in each channel: all training ones of t are 7"
    ):
        learned_from({"a": tmp_path / "a.json"}, ["a"], ["t"])


@pytest.mark.parametrize("interpolation", ["spline", "convolution"])
def test_pixels_and_values_deform_alike(tmp_path: Path, interpolation: str) -> None:
    pixels = np.random.default_rng(0).normal(0, 1, (2, 60, 64)).astype(np.float32)
    path = stored(tmp_path / "same", pixels, pixels)
    geometry = UNetSettings(depth=1).geometry
    source = open_source(path, tmp_path, geometry, WeightsSettings())
    settings = PatchesSettings(tile=36, scaling=0.3, interpolation=interpolation)
    patch = cut_patch(source, settings, patch_seed(0, "same", 0))
    frame = geometry[0].frame
    core = patch.pixels[:, frame:-frame, frame:-frame]
    assert patch.truth["target"].shape == core.shape
    np.testing.assert_allclose(patch.truth["target"], core, atol=1e-5)
    assert patch.pixels.std() > 0.1


@pytest.mark.parametrize("dimensions", [2, 3])
def test_stacks_deform_as_planes_or_as_volumes(tmp_path: Path, dimensions: int) -> None:
    pixels = np.random.default_rng(0).normal(0, 1, (12, 40, 44)).astype(np.float32)
    path = tmp_path / "stack"
    create_image(path, "zyx", pixels.shape, np.float32, {})[...] = pixels
    create_image(path / "target", "czyx", (1, *pixels.shape), np.float32, {})[...] = -pixels[None]
    geometry = UNetSettings(dimensions=dimensions, depth=1, padding="zeros").geometry
    source = open_source(path, tmp_path, geometry, WeightsSettings())
    tile = (12, 20, 20)[-dimensions:]
    settings = PatchesSettings(tile=tile, elastic_sigma=1)
    patch = cut_patch(source, settings, patch_seed(0, "stack", 1))
    assert patch.truth["target"].shape == (1, *tile)
    np.testing.assert_allclose(patch.truth["target"], -patch.pixels, atol=1e-5)


def test_the_final_network_of_a_regression_has_no_threshold(tmp_path: Path) -> None:
    facts = [tmp_path / f"{step}.json" for step in (100, 300)]
    for path in facts:
        write_json(path, {"threshold": None, "training": {"best_step": int(path.stem)}})
    task = Task({}, {}, {}, facts, [], {}, {})
    assert after_folds(task, 7) == (200, None)


def test_batches_hold_normalised_values_turned_with_their_pixels(pair: Path) -> None:
    path = pair / "images/a"
    target = open_image(path).target().array[...]
    stored(path, target, target)
    geometry = UNetSettings(depth=1, padding="zeros").geometry
    source = open_source(path, pair, geometry, WeightsSettings())
    cut_patches(source, pair / "cache", PatchesSettings(tile=20, per_image=4, elastic_sigma=0))
    regression = learned_from({"a": pair / "a.json"}, ["a"], ["one", "two"])
    normalise = {"a": regression.normalise}
    patches = Patches({"a": pair / "cache"}, normalise, 0, regression=regression)
    settings = TrainSettings(batch=4, gain=0, offset=0)
    pixels, true, weights = patches.batch(0, settings)
    torch.testing.assert_close(pixels, true, atol=1e-4, rtol=1e-4)
    assert weights.unique().tolist() == [1]


# ------------------------------------------------------------------------------- baselines


def scene() -> tuple[np.ndarray, np.ndarray]:
    pixels, target = landscape((64, 64), 2)
    return pixels.astype(np.float64), target.astype(np.float64)


def test_brovey_keeps_the_spectral_angle_and_takes_the_detail_of_the_panchromatic_band() -> None:
    pixels, _ = scene()
    found = baseline("brovey", 4, [])(pixels)
    assert sam(pixels[:4], found) < 1e-3
    mean, pan = pixels[:4].mean(axis=0), pixels[4]
    expected = (pan - pan.mean()) / pan.std() * mean.std() + mean.mean()
    np.testing.assert_allclose(found.mean(axis=0), expected)


def test_principal_components_are_those_of_scikit_learn() -> None:
    pixels, _ = scene()
    found = baseline("pca", 4, [])(pixels)
    flat, pan = pixels[:4].reshape(4, -1).T, pixels[4].ravel()
    model = PCA(4).fit(flat)
    components = model.transform(flat)
    like = components[:, 0]
    sign = 1 if np.corrcoef(like, flat.sum(axis=1))[0, 1] > 0 else -1
    components[:, 0] = sign * (pan - pan.mean()) / pan.std() * like.std()
    expected = model.inverse_transform(components).T.reshape(4, 64, 64)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["brovey", "pca"])
def test_a_panchromatic_band_that_adds_nothing_changes_nothing(method: str) -> None:
    pixels, _ = scene()
    component = {"brovey": pixels[:4].mean(axis=0)}
    flat = pixels[:4].reshape(4, -1).T
    component["pca"] = PCA(1).fit_transform(flat)[:, 0].reshape(64, 64)
    if np.corrcoef(component["pca"].ravel(), flat.sum(axis=1))[0, 1] < 0:
        component["pca"] *= -1
    pixels[4] = 5 * component[method] + 100
    np.testing.assert_allclose(baseline(method, 4, [])(pixels), pixels[:4], atol=1e-6)


def test_the_gaussian_filter_is_the_best_on_the_training_images() -> None:
    noisy, clean = (part.astype(np.float64)[None] for part in fluorescence((48, 48), 0))
    width = best_width([(noisy, clean)], 1)
    errors = [
        ((ndimage.gaussian_filter(noisy[0], w, mode="mirror") - clean[0]) ** 2).sum()
        for w in WIDTHS
    ]
    assert width == WIDTHS[np.argmin(errors)] > 0
    assert best_width([(clean, clean)], 1) == 0
    np.testing.assert_array_equal(baseline("input", 1, [])(noisy), noisy)


def test_baselines_need_the_channels_of_the_target() -> None:
    with pytest.raises(ValueError, match="with the 2 channels of the target: got 1"):
        baseline("input", 2, [])(np.zeros((1, 8, 8)))
    with pytest.raises(
        ValueError, match=r"brovey and pca need .* got 4 channels and a target of 4"
    ):
        baseline("brovey", 4, [])(np.zeros((4, 8, 8)))


def test_scores_of_baselines_stand_beside_those_of_the_network(tmp_path: Path) -> None:
    pixels, target = landscape((32, 32), 0)
    path = stored(tmp_path / "scene", pixels, target)
    write_histograms(path, tmp_path / "scene.json")
    regression = learned_from({"scene": tmp_path / "scene.json"}, ["scene"], ["b", "g", "r", "i"])
    settings = ExperimentSettings(
        dataset="any",
        task="regression",
        evaluate={"baselines": {"bicubic": "input"}, "pixel_ratio": 4, "ignore_border": 2},
    ).evaluate
    model = {"training": {"images": ["scene"]}}
    of_values = ValueScores(regression, model, tmp_path, settings)
    stored(tmp_path / "found", target + 5, target)
    scores = of_values.of_image(open_image(path), open_image(tmp_path / "found"))
    core = (slice(None), slice(2, -2), slice(2, -2))
    assert scores["rmse"] == pytest.approx(5, rel=1e-4)
    assert scores["psnr"] == pytest.approx(20 * math.log10(regression.data_range / 5), rel=1e-4)
    assert scores["ergas_bicubic"] == pytest.approx(ergas(target[core], pixels[:4][core], 4))
    names = {name for name in scores if not name.endswith("_bicubic")}
    assert names == {"psnr", "rmse", "correlation", "sam", "ergas", "ssim", "q2n"}
    assert {f"{name}_bicubic" for name in names} == {*scores} - names


@pytest.mark.parametrize("plane_by_plane", [True, False])
def test_a_plane_that_has_no_score_does_not_take_it_from_its_stack(plane_by_plane: bool) -> None:
    generator = np.random.default_rng(0)
    truth = generator.uniform(10, 90, (1, 3, 16, 16))
    truth[:, 1] = 7  # in truth and output: no error to speak of, nothing to correlate
    found = truth + generator.normal(0, 5, truth.shape) * (truth != 7)
    regression = Regression(["signal"], Normalisation((0.0,), (1.0,)), 100.0)
    settings = EvaluateSettings(plane_by_plane=plane_by_plane)
    of_values = ValueScores(regression, {}, None, settings)
    scores = of_values.of_values(truth, found)
    if plane_by_plane:
        each = [of_values.of_values(truth[:, z], found[:, z]) for z in range(3)]
        assert each[1]["psnr"] == math.inf
        assert math.isnan(each[1]["correlation"])
        for metric, planes in {"psnr": (0, 2), "correlation": (0, 2), "rmse": (0, 1, 2)}.items():
            assert scores[metric] == pytest.approx(np.mean([each[z][metric] for z in planes]))
        constant = of_values.of_values(truth[:, [1, 1]], found[:, [1, 1]])
        assert constant["rmse"] == 0
        assert math.isnan(constant["psnr"])
    assert all(map(math.isfinite, scores.values()))


def test_the_best_of_network_and_baselines_is_marked() -> None:
    metrics = {
        "psnr": {"mean": 30.0, "low": None, "high": None, "n": 3},
        "psnr_noisy": {"mean": 31.0},
        "sam": {"mean": 2.0, "low": None, "high": None, "n": 3},
        "sam_noisy": {"mean": 3.0},
    }
    table = beside_baselines(metrics, ["noisy", "missing"])
    assert table["columns"] == [("PSNR", True), ("Spectral angle", False)]
    assert [row["name"] for row in table["rows"]] == ["the network", "noisy", "missing"]
    cells = [row["cells"] for row in table["rows"]]
    assert cells[0] == [(30, False), (2, True)]
    assert cells[1] == [(31, True), (3, False)]
    assert [value for value, _ in cells[2]] == [None, None]


def test_the_lowest_loss_is_marked() -> None:
    losses = pd.Series([0.5, 0.2, 0.3], [1, 2, 3])
    assert [point["best"] for point in points("fold0", losses, lowest=True)] == [False, True, False]
    assert [point["best"] for point in points("fold0", losses)] == [True, False, False]


def test_pictures_of_values_have_the_levels_of_the_target() -> None:
    values_of = np.stack([np.full((4, 6), level, np.float32) for level in (0, 5, 20)])
    levels = [(0.0, 10.0)] * 3
    colour = figures.shades(values_of, levels, [2, 1, 0], 1)
    assert colour.shape == (4, 6, 3)
    assert colour[0, 0].tolist() == [255, 128, 0]
    assert figures.shades(values_of, levels, [1], 2)[0, 0].tolist() == [128] * 3


# -------------------------------------------------------------------------- synthetic data


def test_the_camera_counts_electrons_with_poisson_and_read_noise() -> None:
    noisy, clean = fluorescence((4, 128, 128), 5)
    electrons = (clean.astype(np.float64) - OFFSET) * ELECTRONS_PER_COUNT
    error = (noisy - clean) * ELECTRONS_PER_COUNT
    rounding = ELECTRONS_PER_COUNT**2 / 12
    for low, high in ((0, 4), (4, 8), (8, 20), (20, 60)):
        chosen = (electrons >= low) & (electrons < high)
        assert chosen.sum() > 300
        expected = electrons[chosen].mean() + READ_NOISE**2 + rounding
        assert error[chosen].var() == pytest.approx(expected, rel=0.15)
        assert abs(error[chosen].mean()) < 4 * math.sqrt(expected / chosen.sum())


@pytest.mark.parametrize("gain", [0.15, 0.3])
def test_degradation_has_the_gain_of_the_sensor_at_the_new_nyquist_frequency(gain: float) -> None:
    # A wave of that frequency, extreme in the middle of the larger pixels, at 1.5, 5.5, ...
    wave = np.cos(2 * np.pi * (np.arange(512) - 1.5) / 8)
    found = degraded(np.broadcast_to(wave, (1, 32, 512)), gain)[0, 4, 8:-8]
    np.testing.assert_allclose(np.abs(found), gain, rtol=0.01)
    assert (found[1:] * found[:-1] < 0).all()
    assert degraded(np.full((2, 16, 16), 7.0), gain) == pytest.approx(7)


def test_degraded_and_interpolated_pixels_stay_in_place() -> None:
    y, x = np.mgrid[:64, :64].astype(np.float64)
    ramps = np.stack([y, x])
    back = interpolated(degraded(ramps, 0.3), (64, 64))
    np.testing.assert_allclose(back[:, 16:-16, 16:-16], ramps[:, 16:-16, 16:-16], atol=0.05)


def test_a_scene_is_the_same_each_time_and_its_bands_correlate() -> None:
    pixels, target = landscape((32, 48), 7)
    again = landscape((32, 48), 7)
    np.testing.assert_array_equal(pixels, again[0])
    assert pixels.shape == (5, 32, 48)
    assert target.shape == (4, 32, 48)
    table = np.corrcoef(landscape((96, 96), 1)[1].reshape(4, -1))
    assert table[:3, :3].min() > 0.7
    assert psnr(target, pixels[:4], 2047) < 45, "bands are coarser than the truth"


# ----------------------------------------------------------------------------------- files


def dataset(root: Path, **changes: Any) -> DatasetSettings:
    return DatasetSettings(name="own", folder=str(root), layout=LAYOUT | changes)


def prepared(root: Path, **changes: Any) -> Path:
    prepare(dataset(root, **changes), root, root / "images", root / "index.json", "key")
    return root / "images"


def write_tiffs(root: Path, pixels: np.ndarray, target: np.ndarray) -> None:
    for folder, values_of in (("in", pixels), ("out", target)):
        (root / folder).mkdir()
        axes = "YXS" if values_of.ndim == 3 else "YX"
        tifffile.imwrite(root / folder / "a.tif", values_of, metadata={"axes": axes})


def test_pairs_of_tiff_become_images_with_targets(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (20, 30, 5), np.uint16)
    target = np.random.default_rng(1).normal(0, 1, (20, 30, 2)).astype(np.float32)
    write_tiffs(tmp_path, pixels, target)
    image = open_image(prepared(tmp_path, channels=["p", "q"]) / "a")
    np.testing.assert_array_equal(image.array[...], np.moveaxis(pixels, -1, 0))
    found = image.target()
    assert found is not None
    assert (found.axes, found.array.dtype) == ("cyx", np.float32)
    np.testing.assert_array_equal(found.array[...], np.moveaxis(target, -1, 0))
    index = read_json(tmp_path / "index.json")
    assert (index["target_names"], index["class_names"]) == (["p", "q"], [])
    assert index["images"][0]["annotated"]


def test_pairs_of_ome_tiff_have_the_size_of_their_voxels(tmp_path: Path) -> None:
    """That of the file counts before that of the settings, which stands in where it says none."""
    pixels = np.random.default_rng(0).integers(0, 4096, (4, 20, 30), np.uint16)
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.ome.tif", pixels, metadata=metadata)
    settings = DatasetSettings(
        name="own",
        folder=str(tmp_path),
        layout=LAYOUT,
        voxel_size_um={"z": 3, "y": 9},
        resample_um={"x": 0.5},
    )
    prepare(settings, tmp_path, tmp_path / "images", tmp_path / "index.json", "key")
    (path,) = (tmp_path / "images").glob("a*")
    image = open_image(path)
    for part in (image, image.target()):
        assert part.voxel_size_um == {"z": 3, "y": 0.5, "x": 0.5}
        assert part.spatial_shape == (4, 20, 15)


def medical_pair(root: Path, code: str = "LPS", origin: float = 0.0) -> np.ndarray:
    """Write a volume and its true values, of which the latter go along other axes."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    pixels = np.random.default_rng(0).normal(0, 1, (4, 5, 6)).astype(np.float32)
    for folder, turned, begin in (("in", "LPS", 0.0), ("out", code, origin)):
        image = sitk.GetImageFromArray(pixels)
        image.SetSpacing((0.5, 1.0, 2.0))
        image.SetOrigin((0.0, begin, 0.0))
        (root / folder).mkdir()
        sitk.WriteImage(sitk.DICOMOrient(image, turned), str(root / folder / "a.nii.gz"))
    return pixels


def test_pairs_of_medical_volumes_keep_their_place_in_the_patient(tmp_path: Path) -> None:
    pixels = medical_pair(tmp_path, "AIR")
    patterns = {key: LAYOUT[key].replace(".*", ".nii.gz") for key in ("images", "targets")}
    image = open_image(prepared(tmp_path, **patterns) / "a")
    assert image.voxel_size_um == {"z": 2000, "y": 1000, "x": 500}
    np.testing.assert_array_equal(image.array[...], pixels)
    np.testing.assert_array_equal(image.target().array[...], pixels[None])
    facts = zarr.open_group(image.path, mode="r").attrs["placement"]
    assert facts["spacing_mm"] == [0.5, 1.0, 2.0]


def test_a_medical_target_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    medical_pair(tmp_path, origin=490)
    patterns = {key: LAYOUT[key].replace(".*", ".nii.gz") for key in ("images", "targets")}
    with pytest.raises(ValueError, match=r"out/a.nii.gz: volumes .* same place: 490 mm") as error:
        prepared(tmp_path, **patterns)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_pairs_of_matlab_files_are_read(tmp_path: Path, version: str) -> None:
    arrays = {
        "in": np.random.default_rng(0).integers(0, 2048, (12, 16, 5), np.uint16),
        "out": np.random.default_rng(1).uniform(0, 9, (12, 16, 4)),
    }
    for folder, array in arrays.items():
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "a.mat"
        if version == "5":
            savemat(path, {"bands": array})
            continue
        with h5py.File(path, "w", userblock_size=512) as file:
            file["bands"] = array.T
        with path.open("r+b") as raw:
            raw.write(b"MATLAB 7.3 MAT-file")
    image = open_image(prepared(tmp_path, channels=["b", "g", "r", "i"]) / "a")
    np.testing.assert_array_equal(image.array[...], np.moveaxis(arrays["in"], -1, 0))
    target = np.moveaxis(arrays["out"], -1, 0).astype(np.float32)
    np.testing.assert_array_equal(image.target().array[...], target)
    with pytest.raises(
        ValueError, match=r"layout.target_key must name one of its arrays, bands: got"
    ):
        prepared(tmp_path, channels=["b", "g", "r", "i"], target_key="pan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda target: target[:-1],
            r"a target must have the shape of its image: a has \(20, 30\)",
        ),
        (lambda target: target + np.nan, "a target must be finite: that of a has NaN"),
        (
            lambda target: np.dstack([target] * 2),
            "channels of the targets, target: that of a has 2",
        ),
    ],
)
def test_targets_that_cannot_be_used_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)
    write_tiffs(tmp_path, pixels, change(pixels.astype(np.float32)))
    with pytest.raises(ValueError, match=message) as error:
        prepared(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("folder", ["in", "out"])
@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [("i2", -9999, "-9999"), ("u2", 0, "0"), ("f4", -3.4028235e38, "-3.40282346638528860e+38")],
)
def test_pixels_that_a_geotiff_marks_as_missing_are_refused(
    tmp_path: Path, folder: str, dtype: str, value: float, text: str
) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (20, 30)).astype(dtype)
    write_tiffs(tmp_path, pixels, pixels)
    tag = [(42113, "s", 0, text, True)]
    path = tmp_path / folder / "a.tif"
    tifffile.imwrite(path, pixels, extratags=tag)
    prepared(tmp_path)  # none is missing
    pixels[3, 4:7] = value
    tifffile.imwrite(path, pixels, extratags=tag)
    with pytest.raises(ValueError, match="known everywhere: 3 of its 600 pixels") as error:
        prepared(tmp_path)
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert f"the value {text} that" in line
    assert "\n" not in line


def test_a_picture_without_target_is_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)
    write_tiffs(tmp_path, pixels, pixels.astype(np.float32))
    tifffile.imwrite(tmp_path / "in/b.tif", pixels)
    with pytest.raises(ValueError, match="an image must have a target that matches 'out/"):
        prepared(tmp_path)


# -------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"task": "regression", "train": {"loss": "dice"}},
            "train.loss must be l1, l2, ssim for the task regression: got dice",
        ),
        ({"train": {"loss": "l1"}}, "train.loss must be cross_entropy, .* got l1"),
        ({"task": "regression", "weights": {"w0": 3}}, "weights.w0 must be left out for the task"),
        ({"task": "regression", "segment": {"threshold": 0.5}}, "segment.threshold must be left"),
        ({"task": "regression", "track": {"enabled": True}}, "track.enabled must be left out"),
        ({"task": "regression", "patches": {"balanced": 0.5}}, "patches.balanced must be left out"),
        ({"task": "regression", "patches": {"weights": "recomputed"}}, "patches.weights must be"),
        ({"task": "regression", "train": {"gain": 0.1}}, "train.gain and train.offset must be 0"),
        ({"task": "regression", "predict": {"dtype": "uint8"}}, "predict.dtype must be float16 or"),
        (
            {"evaluate": {"data_range": 255}},
            "evaluate.data_range must be left out for the task seg",
        ),
        ({"predict": {"output": "values"}}, "predict.output values must be of the task regression"),
    ],
)
def test_settings_that_do_not_suit_the_task_are_refused(
    content: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse(ExperimentSettings, {"dataset": "any"} | content, "own.yaml")
    assert "\n" not in str(error.value)


def test_a_regression_has_a_loss_and_leaves_grey_values_as_they_are() -> None:
    settings = ExperimentSettings(dataset="any", task="regression", train={"recipe": "modern"})
    assert (settings.train.loss, settings.train.gain, settings.train.offset) == ("l1", 0, 0)
    assert settings.predict.dtype == "float32"
    assert ExperimentSettings(**settings.model_dump(mode="json")) == settings
    assert loss_of("dice", None).__name__ == "dice"


@pytest.mark.parametrize(
    ("texture", "task", "message"),
    [
        ("fluorescence", "segmentation", "task must be regression, since the dataset own has true"),
        ("cells", "regression", "task must be segmentation, since the dataset own has classes"),
    ],
)
def test_a_task_is_for_the_truth_of_its_dataset(texture: str, task: str, message: str) -> None:
    layout = {"kind": "synthetic", "texture": texture, "shape": [32, 32]}
    experiment = ExperimentSettings(dataset={"name": "own", "layout": layout}, task=task)
    with pytest.raises(ValueError, match=f"experiment mine: {message}"):
        datasets_of({"mine": experiment}, Path(), None)
