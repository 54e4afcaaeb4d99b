"""Scores of regression: restored images, sharpened bands."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import (
    mean_squared_error,
    normalized_root_mse,
    peak_signal_noise_ratio,
    structural_similarity,
)

from unetflow.metrics.regression import correlation, ergas, psnr, q2n, rmse, sam, ssim

Score = Callable[..., float]

# Every score, as a function of two arrays and a mask, and its value for a perfect prediction.
SCORES: dict[str, tuple[Score, float]] = {
    "rmse": (rmse, 0),
    "psnr": (lambda t, p, ignore=None: psnr(t, p, 10, ignore), math.inf),
    "ssim": (lambda t, p, ignore=None: ssim(t, p, 10, ignore), 1),
    "correlation": (correlation, 1),
    "sam": (sam, 0),
    "ergas": (lambda t, p, ignore=None: ergas(t, p, 4, ignore), 0),
    "q2n": (lambda t, p, ignore=None: q2n(t, p, ignore, block=8), 1),
}
every_score = pytest.mark.parametrize(("score", "perfect"), SCORES.values(), ids=SCORES)


def images(bands: int = 3, size: tuple[int, ...] = (24, 32), seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    truth = random.uniform(1, 9, (bands, *size))
    return truth, np.clip(truth + random.normal(0, 1, truth.shape), 0.1, 10)


@every_score
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_a_perfect_prediction_is_best(score: Score, perfect: float, dtype: type) -> None:
    truth = images()[0].astype(dtype)
    assert score(truth, truth) == pytest.approx(perfect, abs=1e-12)


@every_score
def test_a_worse_prediction_scores_worse(score: Score, perfect: float) -> None:
    truth, prediction = images()
    near, far = score(truth, prediction), score(truth, truth + 2 * (prediction - truth))
    assert abs(perfect - near) < abs(perfect - far) or far < near < perfect


@every_score
def test_scores_do_not_depend_on_the_dtype_nor_change_their_input(
    score: Score, perfect: float
) -> None:
    truth, prediction = (np.round(10 * image).astype(np.uint8) for image in images())
    before = truth.copy(), prediction.copy()
    expected = score(truth.astype(np.float64), prediction.astype(np.float64))
    assert score(truth, prediction) == expected
    assert np.array_equal(truth, before[0])
    assert np.array_equal(prediction, before[1])


@every_score
def test_what_lies_under_ignored_pixels_does_not_matter(score: Score, perfect: float) -> None:
    truth, prediction = images()
    ignore = np.zeros(truth.shape[1:], bool)
    ignore[:5, 20:] = True
    expected = score(truth, prediction, ignore)
    truth[:, ignore], prediction[:, ignore] = np.nan, np.inf
    assert score(truth, prediction, ignore) == expected


@every_score
def test_ignoring_a_margin_equals_cutting_it_off(score: Score, perfect: float) -> None:
    truth, prediction = images()
    ignore = np.ones(truth.shape[1:], bool)
    ignore[:16, 8:] = False
    cut = score(truth[:, :16, 8:], prediction[:, :16, 8:])
    assert score(truth, prediction, ignore) == pytest.approx(cut, rel=1e-12)


@every_score
def test_without_a_pixel_a_score_is_nan(score: Score, perfect: float) -> None:
    truth, prediction = images()
    assert math.isnan(score(truth, prediction, np.ones(truth.shape[1:], bool)))


@every_score
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_value_that_is_not_finite_is_refused(
    score: Score, perfect: float, value: float, side: int
) -> None:
    both = images()
    both[side][1, 2, 3] = value
    with pytest.raises(ValueError, match=r"(truth|prediction) must be finite: got NaN or infinity"):
        score(*both)


@every_score
def test_shapes_that_do_not_fit_are_refused(score: Score, perfect: float) -> None:
    truth, prediction = images()
    for wrong in (prediction[:2], prediction[:, :, :-1], prediction[0]):
        with pytest.raises(ValueError, match=r"must have one shape \(bands, ...\), .* got \(3, 24"):
            score(truth, wrong)
    with pytest.raises(ValueError, match="must have one shape"):
        score(truth[:0], prediction[:0])
    with pytest.raises(ValueError, match=r"ignore that of a band: .* and \(3, 24, 32\)"):
        score(truth, prediction, np.zeros(truth.shape, bool))
    with pytest.raises(TypeError, match="ignore must be bool: got uint8"):
        score(truth, prediction, np.zeros(truth.shape[1:], np.uint8))


def test_rmse_and_psnr_equal_those_of_scikit_image() -> None:
    truth, prediction = images()
    assert rmse(truth, prediction) == pytest.approx(
        math.sqrt(mean_squared_error(truth, prediction))
    )
    relative = normalized_root_mse(truth, prediction, normalization="min-max")
    assert rmse(truth, prediction) == pytest.approx(relative * np.ptp(truth))
    expected = peak_signal_noise_ratio(truth, prediction, data_range=10)
    assert psnr(truth, prediction, 10) == pytest.approx(expected, rel=1e-12)


def test_a_worked_rmse_and_psnr() -> None:
    truth, prediction = np.array([[[1, 2], [3, 250]]], np.uint8), np.array([[[1, 5], [3, 254]]])
    assert rmse(truth, prediction) == 2.5
    assert psnr(truth, prediction, 255) == pytest.approx(20 * math.log10(255 / 2.5))


@pytest.mark.parametrize("data_range", [0, -1, math.inf, math.nan])
def test_a_range_that_is_none_is_refused(data_range: float) -> None:
    for score in (psnr, ssim):
        with pytest.raises(ValueError, match=r"data_range must be positive: got .*; for 8 bits"):
            score(*images(), data_range)


def test_ssim_is_the_mean_over_bands_of_published_windows() -> None:
    truth, prediction = images()
    expected = [
        structural_similarity(
            *bands, data_range=10, gaussian_weights=True, use_sample_covariance=False, win_size=11
        )
        for bands in zip(truth, prediction, strict=True)
    ]
    assert ssim(truth, prediction, 10) == pytest.approx(np.mean(expected), rel=1e-12)


def test_ssim_of_one_window_follows_the_published_formula() -> None:
    truth, prediction = images(1, (11, 11))
    along = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weight = np.outer(along, along) / along.sum() ** 2
    mean_t, mean_p = (weight * truth[0]).sum(), (weight * prediction[0]).sum()
    t, p = truth[0] - mean_t, prediction[0] - mean_p
    var_t, var_p, covariance = ((weight * one).sum() for one in (t * t, p * p, t * p))
    c1, c2 = (0.01 * 10) ** 2, (0.03 * 10) ** 2
    means = (2 * mean_t * mean_p + c1) / (mean_t**2 + mean_p**2 + c1)
    expected = means * (2 * covariance + c2) / (var_t + var_p + c2)
    assert ssim(truth, prediction, 10) == pytest.approx(expected, rel=1e-9)


def test_ssim_of_constant_images_compares_their_means() -> None:
    truth, prediction = np.full((1, 12, 12), 3.0), np.full((1, 12, 12), 4.0)
    expected = (2 * 3 * 4 + 0.01) / (3**2 + 4**2 + 0.01)
    assert ssim(truth, prediction, 10) == pytest.approx(expected, rel=1e-9)


def test_ssim_counts_only_windows_without_ignored_pixels() -> None:
    truth, prediction = images()
    ignore = np.zeros(truth.shape[1:], bool)
    ignore[11:13] = True  # 11 rows above it, 11 below: one row of windows each
    halves = [ssim(truth[:, rows], prediction[:, rows], 10) for rows in (slice(11), slice(13, 24))]
    assert ssim(truth, prediction, 10, ignore) == pytest.approx(np.mean(halves), rel=1e-9)
    ignore[5] = ignore[18] = True
    assert math.isnan(ssim(truth, prediction, 10, ignore))


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match=r"SSIM needs 11 pixels .* got \(3, 24, 10\)"):
        ssim(*images(size=(24, 10)), 10)
    with pytest.raises(ValueError, match="SSIM needs 11 pixels"):
        ssim(np.ones(3), np.ones(3), 10)


def test_ssim_scores_volumes_too() -> None:
    truth, prediction = images(1, (12, 13, 14))
    assert 0 < ssim(truth, prediction, 10) < 1 == ssim(truth, truth, 10)


def test_correlation_is_the_mean_over_bands() -> None:
    truth, prediction = images()
    bands = zip(truth, prediction, strict=True)
    expected = [np.corrcoef(t.ravel(), p.ravel())[0, 1] for t, p in bands]
    assert correlation(truth, prediction) == pytest.approx(np.mean(expected))
    assert correlation(truth, 5 - 3 * truth) == pytest.approx(-1)


def test_constant_bands_have_no_correlation() -> None:
    truth, prediction = images(2)
    flat = np.full_like(truth, 0.1)
    assert correlation(truth, flat) == correlation(flat, prediction) == 0
    assert math.isnan(correlation(flat, flat + 1))
    truth[0] = prediction[0] = 0.1
    assert correlation(truth, prediction) == correlation(truth[1:], prediction[1:])


def test_worked_spectral_angles() -> None:
    truth = np.array([[1, 1, 1, 2], [0, 0, 0, 2]])[:, None]
    prediction = np.array([[7, 0, 1, -1], [0, 3, 1, -1]])[:, None]
    assert sam(truth, prediction) == pytest.approx((0 + 90 + 45 + 180) / 4)


@settings(max_examples=30)
@given(st.floats(1e-6, 1e6))
def test_the_spectral_angle_does_not_see_brightness(factor: float) -> None:
    truth, prediction = images(size=(3, 4))
    assert sam(truth, factor * truth) == pytest.approx(0, abs=1e-12)
    assert sam(truth, factor * prediction) == pytest.approx(sam(truth, prediction))


def test_spectra_of_zeros_are_left_out_of_the_truth_alone() -> None:
    truth = np.array([[0.0, 3.0, 1.0], [0.0, 4.0, 1.0]])[:, None]
    prediction = np.array([[1.0, 0.0, 1.0], [2.0, 0.0, 1.0]])[:, None]
    assert sam(truth, prediction) == pytest.approx((90 + 0) / 2)
    assert math.isnan(sam(0 * truth, prediction))


def test_a_worked_ergas() -> None:
    truth = np.array([[10.0, 10.0, 10.0, 10.0], [2.0, 6.0, 2.0, 6.0]])[:, None]
    prediction = truth + np.array([[1.0, -1.0, 1.0, -1.0], [2.0, -2.0, -2.0, 2.0]])[:, None]
    expected = 100 / 4 * math.sqrt(((1 / 10) ** 2 + (2 / 4) ** 2) / 2)
    assert ergas(truth, prediction, 4) == pytest.approx(expected)
    assert ergas(3 * truth, 3 * prediction, 4) == pytest.approx(expected)
    assert ergas(truth, prediction, 2) == pytest.approx(2 * expected)


def test_a_band_of_mean_zero_makes_ergas_infinite_unless_it_is_right() -> None:
    truth = np.array([[0.0, 0.0], [1.0, 3.0]])[:, None]
    assert ergas(truth, truth, 4) == 0
    assert ergas(truth, truth + np.array([[[0.0]], [[1.0]]]), 4) == pytest.approx(
        25 * math.sqrt(0.25 / 2)
    )
    assert ergas(truth, truth + 1e-3, 4) == math.inf


@pytest.mark.parametrize("ratio", [0.25, 0, -4, math.inf, math.nan])
def test_an_inverse_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"ratio of pixel sizes must be at least 1: got .*inverse"):
        ergas(*images(), ratio)


def test_sam_ergas_and_ssim_equal_those_of_torchmetrics() -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    import torch
    from torchmetrics.functional import image as reference

    truth, prediction = images(5)
    t, p = (torch.from_numpy(image)[None] for image in (truth, prediction))
    expected = float(reference.spectral_angle_mapper(p, t))
    assert sam(truth, prediction) == pytest.approx(math.degrees(expected), rel=1e-12)
    expected = float(reference.error_relative_global_dimensionless_synthesis(p, t, ratio=4))
    assert ergas(truth, prediction, 4) == pytest.approx(expected, rel=1e-12)
    _, each = reference.structural_similarity_index_measure(
        p, t, data_range=10.0, return_full_image=True
    )
    # It counts pixels at the rim too, whose windows it fills by reflection.
    expected = float(each[0, :, 5:-5, 5:-5].mean())
    assert ssim(truth, prediction, 10) == pytest.approx(expected, rel=1e-9)


def uqi(t: np.ndarray, p: np.ndarray) -> float:
    """Wang, Bovik 2002, equation 1, with their sample variances."""
    covariance = np.cov(t.ravel(), p.ravel())
    luminance = 2 * t.mean() * p.mean() / (t.mean() ** 2 + p.mean() ** 2)
    return float(luminance * 2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1]))


def cut(image: np.ndarray, block: int) -> list[np.ndarray]:
    corners = itertools.product(*(range(0, size, block) for size in image.shape[1:]))
    return [image[:, y : y + block, x : x + block] for y, x in corners]


def test_q2n_of_one_band_is_the_size_of_the_universal_quality_index() -> None:
    truth, prediction = images(1)
    blocks = zip(cut(truth, 8), cut(prediction, 8), strict=True)
    assert q2n(truth, prediction, block=8) == pytest.approx(
        np.mean([abs(uqi(*block)) for block in blocks]), rel=1e-12
    )
    assert q2n(truth[:, :8, :8], 10 - truth[:, :8, :8], block=8) > 0.9  # uqi is below -0.9


def test_q2n_of_two_bands_is_that_of_complex_numbers() -> None:
    truth, prediction = images(2)
    expected = []
    for t, p in zip(cut(truth, 8), cut(prediction, 8), strict=True):
        z1, z2 = t[0] + 1j * t[1], p[0] + 1j * p[1]
        covariance = abs(np.mean((z1 - z1.mean()) * np.conj(z2 - z2.mean())))
        means = 2 * abs(z1.mean()) * abs(z2.mean()) / (abs(z1.mean()) ** 2 + abs(z2.mean()) ** 2)
        expected.append(2 * covariance / (z1.var() + z2.var()) * means)
    assert q2n(truth, prediction, block=8) == pytest.approx(np.mean(expected), rel=1e-12)


def hamilton(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of quaternions: i² = j² = k² = ijk = -1."""
    return np.array(
        [
            a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
            a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
            a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1],
            a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0],
        ]
    )


@pytest.mark.parametrize("bands", [3, 4])
def test_q2n_of_four_bands_is_that_of_quaternions(bands: int) -> None:
    truth, prediction = images(bands)
    expected = []
    for t, p in zip(cut(truth, 8), cut(prediction, 8), strict=True):
        t, p = (np.concatenate([z, np.zeros((4 - bands, 8, 8))]) for z in (t, p))
        mean_t, mean_p = t.mean(axis=(1, 2)), p.mean(axis=(1, 2))
        conjugate = (p - mean_p[:, None, None]) * np.array([1, -1, -1, -1])[:, None, None]
        covariance = hamilton(t - mean_t[:, None, None], conjugate).mean(axis=(1, 2))
        sizes = np.linalg.norm(mean_t), np.linalg.norm(mean_p)
        means = 2 * sizes[0] * sizes[1] / (sizes[0] ** 2 + sizes[1] ** 2)
        variances = t.var(axis=(1, 2)).sum() + p.var(axis=(1, 2)).sum()
        expected.append(2 * np.linalg.norm(covariance) / variances * means)
    assert q2n(truth, prediction, block=8) == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("size", [(24, 32), (19, 29)])
def test_normalised_q2n_equals_that_of_sewar(bands: int, size: tuple[int, int]) -> None:
    reference = pytest.importorskip("sewar.full_ref", reason="sewar is not installed")
    truth, prediction = images(bands, size)
    expected = reference.q2n(np.moveaxis(truth, 0, -1), np.moveaxis(prediction, 0, -1), ws=8)
    assert q2n(truth, prediction, block=8, normalise=True) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(0, 99), st.booleans())
def test_q2n_lies_between_0_and_1(bands: int, seed: int, normalise: bool) -> None:
    truth, prediction = images(bands, (7, 9), seed)
    assert 0 <= q2n(truth, prediction, block=4, normalise=normalise) <= 1 + 1e-12
    assert q2n(truth, -prediction, block=4) == pytest.approx(q2n(truth, prediction, block=4))


def test_q2n_of_constant_blocks_compares_their_means() -> None:
    truth, prediction = np.full((1, 8, 8), 0.1), np.full((1, 8, 8), 0.3)
    assert q2n(truth, prediction) == pytest.approx(2 * 0.1 * 0.3 / (0.1**2 + 0.3**2))
    assert q2n(0 * truth, 0 * prediction) == 1
    assert q2n(0 * truth, prediction) == 0
    prediction[0, 0, 0] = 0
    assert q2n(truth, prediction) == 0
    assert q2n(truth, prediction, normalise=True) == 0


def test_q2n_of_blocks_of_mean_zero_compares_what_varies() -> None:
    truth = np.array([[[1.0, -1.0], [2.0, -2.0]]])
    assert q2n(truth, 3 * truth, block=2) == pytest.approx(2 * 3 / (1 + 9))


def test_q2n_mirrors_an_image_to_whole_blocks() -> None:
    truth, prediction = images(3, (5, 6))
    mirrored = [
        np.pad(image, ((0, 0), (0, 3), (0, 2)), "symmetric") for image in (truth, prediction)
    ]
    assert q2n(truth, prediction, block=8) == pytest.approx(q2n(*mirrored, block=8), rel=1e-12)


def test_q2n_leaves_out_blocks_without_pixels() -> None:
    truth, prediction = images(3, (8, 16))
    ignore = np.zeros((8, 16), bool)
    ignore[:, :8] = True
    assert q2n(truth, prediction, ignore, block=8) == pytest.approx(
        q2n(truth[:, :, 8:], prediction[:, :, 8:], block=8), rel=1e-12
    )


def test_q2n_refuses_other_axes_and_blocks_of_one_pixel() -> None:
    for wrong in (np.ones((3, 8)), np.ones((1, 2, 8, 8))):
        with pytest.raises(ValueError, match=r"Q2n needs \(bands, y, x\) .* plane by plane"):
            q2n(wrong, wrong)
    with pytest.raises(ValueError, match=r"blocks of 2 pixels or more: got \(3, 24, 32\) and 1"):
        q2n(*images(), block=1)
