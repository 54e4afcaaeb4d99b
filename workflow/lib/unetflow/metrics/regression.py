"""Scores of predicted values against true ones: restored images, sharpened bands.

Arrays are (bands, ...), such as (bands, y, x), of real numbers in one unit; sums are float64.
`ignore` is a bool array of the shape of one band, True where a pixel counts in no band; only there
may values be NaN or infinite. A score is NaN where no pixel counts. All raise ValueError if shapes
do not fit or a value that counts is not finite, and TypeError if `ignore` is not bool.

References
----------
.. [1] Wang et al. 2004, DOI 10.1109/TIP.2003.819861: SSIM.
.. [2] Kruse et al. 1993, DOI 10.1016/0034-4257(93)90013-N: the spectral angle mapper.
.. [3] Alparone et al. 2007, DOI 10.1109/TGRS.2007.904923: SAM and ERGAS (Wald 2000) of sharpening.
.. [4] Garzelli, Nencini 2009, DOI 10.1109/LGRS.2009.2022650: Q2n.
.. [5] Wang, Bovik 2002, DOI 10.1109/97.995823: UQI, the universal quality index.
.. [6] Vivone et al. 2015, DOI 10.1109/TGRS.2014.2361734: the toolbox of pansharpening.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity

Values: TypeAlias = NDArray[np.number[Any]]
Mask: TypeAlias = NDArray[np.bool_] | None
Floats: TypeAlias = NDArray[np.float64]
Pair: TypeAlias = tuple[Floats, Floats]
SSIM_WINDOW = 11


def rmse(truth: Values, prediction: Values, ignore: Mask = None) -> float:
    """Root of the mean squared error over all bands, in the unit of the values; 0 is best."""
    t, p = _pixels(truth, prediction, ignore)
    return math.sqrt(np.mean((p - t) ** 2)) if t.size else math.nan


def psnr(truth: Values, prediction: Values, data_range: float, ignore: Mask = None) -> float:
    """Peak signal-to-noise ratio in decibels, 20 log10(data_range / rmse); infinite without error.

    `data_range` is the largest possible value minus the least, such as 255 or 1. That of the image
    itself would make the scores of two images incomparable. ValueError if it is not positive.
    """
    t, p, counted = _checked(truth, prediction, ignore, data_range)
    error = rmse(t, p, ~counted)
    return 20 * math.log10(data_range / error) if error else math.inf


def ssim(truth: Values, prediction: Values, data_range: float, ignore: Mask = None) -> float:
    """Structural similarity of [1], in [-1, 1], 1 is best: mean over bands and pixels.

    By scikit-image, with the constants of [1]: a Gaussian window of standard deviation 1.5, 11
    pixels wide along every axis but the first, variances over n, C1 = (0.01 data_range)² and
    C2 = (0.03 data_range)², so that constant images are compared too. Only pixels count whose whole
    window lies in the image and is not ignored. ValueError if an axis is shorter than the window.
    """
    t, p, counted = _checked(truth, prediction, ignore, data_range)
    if min(counted.shape, default=0) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs {SSIM_WINDOW} pixels along every axis but the first: got {t.shape}; pad it"
        )
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    options = {"data_range": data_range, "channel_axis": 0, "full": True}
    similarity = structural_similarity(t, p, **options, **window)[1]
    whole = ndimage.minimum_filter(counted, SSIM_WINDOW, mode="constant", cval=0)
    return float(similarity[:, whole].mean()) if whole.any() else math.nan


def correlation(truth: Values, prediction: Values, ignore: Mask = None) -> float:
    """Pearson's correlation coefficient, in [-1, 1], 1 is best: mean over bands.

    0 for a band that is constant on one side; those that are on both are left out, NaN if all are.
    """
    scores = []
    for bands in zip(*_pixels(truth, prediction, ignore), strict=True):
        constant = [not band.size or band.min() == band.max() for band in bands]
        if not all(constant):
            scores.append(0.0 if any(constant) else float(np.corrcoef(*bands)[0, 1]))
    return float(np.mean(scores)) if scores else math.nan


def sam(truth: Values, prediction: Values, ignore: Mask = None) -> float:
    """Spectral angle in degrees, 0 to 180, 0 is best: mean over pixels.

    The angle between the spectra t and p of a pixel, arccos(t·p / (|t| |p|)) ([2]); it does not see
    their brightness. A true spectrum of zeros has no angle: the pixel is left out. A predicted one
    of zeros counts 90 otherwise, lest predicting zeros leaves pixels out.
    """
    t, p = _pixels(truth, prediction, ignore)
    known = t.any(axis=0)
    t, p = (v / np.maximum(np.linalg.norm(v, axis=0), 1e-300) for v in (t[:, known], p[:, known]))
    # Not by arccos, which makes 1e-6 degrees of the last bit of a cosine near 1.
    angle = 2 * np.arctan2(np.linalg.norm(t - p, axis=0), np.linalg.norm(t + p, axis=0))
    return math.degrees(np.mean(angle)) if angle.size else math.nan


def ergas(truth: Values, prediction: Values, ratio: float, ignore: Mask = None) -> float:
    """Relative global error of synthesis (ERGAS) in percent, 0 is best.

    100 / ratio · sqrt(mean over bands of (rmse / mean of the true band)²) ([3]). `ratio` is a
    pixel's size before sharpening over that after, such as 4; formulae have its inverse h / l, and
    below 1 it is a ValueError. A band of mean 0 makes the score infinite, unless it has no error.
    """
    if not 1 <= ratio < math.inf:
        raise ValueError(f"ratio of pixel sizes must be at least 1: got {ratio}; give its inverse")
    t, p = _pixels(truth, prediction, ignore)
    if not t.size:
        return math.nan
    error, mean = np.sqrt(np.mean((p - t) ** 2, axis=1)), np.abs(t.mean(axis=1))
    relative = np.divide(error, mean, out=np.where(error > 0, np.inf, 0.0), where=mean > 0)
    return 100 / ratio * math.sqrt(np.mean(relative**2))


def q2n(
    truth: Values, prediction: Values, ignore: Mask = None, block: int = 32, normalise: bool = False
) -> float:
    """Hypercomplex quality index of [4], in [0, 1], 1 is best: mean over blocks of block × block.

    The bands of a pixel, filled up with zeros to 2^n, are the components of a number. With t and p
    those of truth and prediction in a block, * the conjugate, and the product of Cayley and Dickson
    (a, b)(c, d) = (ac - d*b, da + bc*),

        Q2n = 2 |E[(t - Et)(p - Ep)*]| / (var t + var p) × 2 |Et| |Ep| / (|Et|² + |Ep|²).

    With one band it is |UQI| of [5] (a modulus: a reversed contrast scores as a right one), with
    four Q4 of quaternions. A factor is 1 where its denominator is 0: of constant blocks the means
    decide, and of blocks whose means are 0 the rest. ValueError unless arrays are (bands, y, x) and
    `block` is 2 pixels or more; the image is mirrored to whole blocks, scored by what counts.

    `normalise` first brings each band of a block to mean and standard deviation (over n - 1) 1 of
    the truth, a constant one to the mean only, as [6] does, whose figures are often quoted.
    """
    t, p, counted = _checked(truth, prediction, ignore)
    if block < 2 or t.ndim != 3:
        raise ValueError(
            f"Q2n needs (bands, y, x) and blocks of 2 pixels or more: got {t.shape} and {block}; "
            "score volumes plane by plane"
        )
    if not counted.any():
        return math.nan
    fill = np.zeros(((1 << (len(t) - 1).bit_length()) - len(t), *counted.shape))
    counted = _blocks(counted[None], block)[0]
    both = (_blocks(np.concatenate([bands, fill]), block) for bands in (t, p))
    (mean_t, t), (mean_p, p) = (_centred(bands, counted) for bands in both)
    if normalise:
        scale = np.sqrt((t**2).sum(axis=2) / np.maximum(counted.sum(axis=1) - 1, 1))
        scale[scale == 0] = 1
        mean_t, mean_p = np.ones_like(mean_t), (mean_p - mean_t) / scale + 1
        t, p = t / scale[..., None], p / scale[..., None]
    numbers = (mean_t, mean_p, _product(t, _conjugate(p)).sum(axis=2))
    size_t, size_p, covariance = (np.linalg.norm(number, axis=0) for number in numbers)
    scores = _or_one(2 * covariance, (t**2 + p**2).sum(axis=(0, 2)))
    scores *= _or_one(2 * size_t * size_p, size_t**2 + size_p**2)
    return float(scores[counted.any(axis=1)].mean())


def _blocks(bands: NDArray[Any], block: int) -> NDArray[Any]:
    """(bands, y, x), mirrored to whole blocks, as (bands, blocks, pixels)."""
    bands = np.pad(bands, [(0, 0), *((0, -size % block) for size in bands.shape[1:])], "symmetric")
    split = bands.reshape(len(bands), bands.shape[1] // block, block, -1, block)
    return split.swapaxes(2, 3).reshape(len(bands), -1, block**2)


def _centred(values: Floats, counted: NDArray[np.bool_]) -> Pair:
    """Mean of each block, and what pixels differ from it by: exactly 0 if it is constant."""
    # From a pixel's value, since the mean of equal values need not be their value.
    origin = np.take_along_axis(values, np.argmax(counted, axis=1)[None, :, None], axis=2)
    rest = np.where(counted, values - origin, 0)
    shift = rest.sum(axis=2, keepdims=True) / np.maximum(counted.sum(axis=1), 1)[:, None]
    return (origin + shift)[..., 0], np.where(counted, rest - shift, 0)


def _product(one: Floats, other: Floats) -> Floats:
    """Cayley-Dickson product of numbers with 2^n components along the first axis."""
    half = len(one) // 2
    if not half:
        return one * other
    a, b, c, d = one[:half], one[half:], other[:half], other[half:]
    first = _product(a, c) - _product(_conjugate(d), b)
    return np.concatenate([first, _product(d, a) + _product(b, _conjugate(c))])


def _conjugate(number: Floats) -> Floats:
    """Number whose components but the first are of the other sign."""
    return np.concatenate([number[:1], -number[1:]])


def _or_one(numerator: Floats, denominator: Floats) -> Floats:
    """Quotients, 1 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.ones_like(numerator), where=denominator > 0)


def _pixels(truth: Values, prediction: Values, ignore: Mask) -> Pair:
    """Values that count, (bands, pixels)."""
    t, p, counted = _checked(truth, prediction, ignore)
    return t[:, counted], p[:, counted]


def _checked(
    truth: Values, prediction: Values, ignore: Mask, data_range: float = 1
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Both in float64, 0 where they are ignored, and where they count."""
    if not 0 < data_range < math.inf:
        raise ValueError(f"data_range must be positive: got {data_range}; for 8 bits give 255")
    counted = np.ones(truth.shape[1:], bool) if ignore is None else ~ignore
    if counted.dtype != np.bool_:
        raise TypeError(f"ignore must be bool: got {counted.dtype}; compare it, as in `mask == 0`")
    if not truth.shape == prediction.shape == (len(truth), *counted.shape) or not truth.shape[0]:
        raise ValueError(
            "truth and prediction must have one shape (bands, ...), ignore that of a band: got "
            f"{truth.shape}, {prediction.shape} and {counted.shape}; resample the prediction"
        )
    t, p = (np.where(counted, values, 0).astype(np.float64) for values in (truth, prediction))
    for name, values in (("truth", t), ("prediction", p)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite: got NaN or infinity; mark it in `ignore`")
    return t, p, counted
