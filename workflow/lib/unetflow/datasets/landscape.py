"""A synthetic landscape as a satellite sees it, at reduced resolution: Wald's protocol.

References
----------
.. [1] Wald, Ranchin, Mangolini 1997, Photogrammetric Engineering and Remote Sensing 63, 691-699:
       what was observed is degraded by the ratio of resolutions, and is the truth of what is made
       from that.
.. [2] Vivone et al. 2015, DOI 10.1109/TGRS.2014.2361734: degradation by a Gaussian that matches the
       sensor's modulation transfer function (MTF); gains of usual sensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from unetflow.settings.datasets import SCENE_RATIO

Bands = NDArray[np.float32]

# Reflectance in blue, green, red and infrared, per cent, typical of each cover.
COVERS = np.array(
    [
        [4, 8, 5, 42],  # meadow
        [3, 5, 3, 28],  # forest
        [9, 12, 15, 24],  # bare soil
        [12, 13, 14, 17],  # concrete
        [14, 18, 25, 28],  # tiled roofs
        [5, 4, 3, 1],  # water
    ],
    np.float64,
)
SHARES = np.array([0.25, 0.2, 0.2, 0.15, 0.12, 0.08])
PAN = np.array([0.1, 0.3, 0.35, 0.25])
"""Part of the panchromatic band that each band makes up."""
GAIN, GAIN_PAN = 0.3, 0.15
"""MTF at the Nyquist frequency of bands, and of the panchromatic band ([2])."""
LEVELS = 20.0
"""Grey levels a per cent of reflectance, of eleven bits."""
NOISE = 3.0
"""Standard deviation of a sensor's noise, grey levels."""


def landscape(shape: tuple[int, int], seed: int) -> tuple[Bands, Bands]:
    """Return what a network sharpens, and the truth of it, in grey levels.

    A scene is observed in bands of `shape` and in a panchromatic band of pixels a quarter as large
    ([1]). Both are degraded by 4: the bands are then interpolated to the grid of the panchromatic
    one, which is that of the observed bands, the truth.

    Parameters
    ----------
    shape : (rows, columns)
        Multiples of 4.

    Returns
    -------
    pixels : float32 (5, rows, columns)
        Blue, green, red and infrared, interpolated by cubic convolution; panchromatic.
    target : float32 (4, rows, columns)
    """
    rng = np.random.default_rng(seed)
    fine = (shape[0] * SCENE_RATIO, shape[1] * SCENE_RATIO)
    scene = LEVELS * reflectance(fine, rng)
    pan = np.tensordot(PAN, scene, 1)[np.newaxis]
    observed = sensed(degraded(scene, GAIN), rng)
    coarse = interpolated(degraded(observed, GAIN), shape)
    seen = degraded(sensed(pan, rng), GAIN_PAN)
    return np.concatenate([coarse, seen]).astype(np.float32), observed.astype(np.float32)


def reflectance(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Reflectance (4, rows, columns), per cent: parcels, roads and houses, with texture and relief.

    Texture has the spectrum of nature, an amplitude that falls with the frequency; the bands share
    most of it, more or less by cover, so that they correlate as those of satellites do.
    """
    cover = parcels(shape, rng)
    bands = COVERS[cover].transpose(2, 0, 1)
    relief = 1 + 0.12 * textured(shape, 1.5, rng)
    common = textured(shape, 1.0, rng)
    own = np.stack([textured(shape, 1.0, rng) for _ in bands])
    strength = np.array([0.18, 0.25, 0.12, 0.06, 0.12, 0.03])[cover]
    found = bands * relief * (1 + strength * (common + 0.35 * own))
    return np.asarray(np.clip(found, 0.2, 95))


def parcels(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.intp]:
    """Cover (rows, columns) of fields of all sizes, crossed by roads and dotted with houses."""
    rows, columns = shape
    count = max(8, rows * columns // 6000)
    seeds = rng.uniform(0, 1, (count, 2)) ** 1.3 * shape
    y, x = np.mgrid[:rows, :columns]
    place = np.column_stack([y.ravel(), x.ravel()]).astype(float)
    place += 2 * rng.standard_normal(place.shape)  # no border is a straight line
    nearest = cKDTree(seeds).query(place)[1]
    cover = rng.choice(len(COVERS), count, p=SHARES)[nearest].reshape(shape)
    for _ in range(max(2, min(shape) // 100)):
        angle, at = rng.uniform(0, np.pi), rng.uniform(0, 1, 2) * shape
        across = (y - at[0]) * np.cos(angle) - (x - at[1]) * np.sin(angle)
        cover[np.abs(across) < rng.uniform(2, 6)] = 3
    for _ in range(rows * columns // 2500):
        top, left = (int(rng.integers(extent)) for extent in shape)
        high, wide = rng.integers(5, 18, 2)
        cover[top : top + high, left : left + wide] = rng.choice([3, 4])
    return np.asarray(cover)


def textured(shape: tuple[int, int], slope: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian field of deviation 1 whose amplitude falls with the frequency to a power."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) / frequency**slope
    field = np.fft.irfft2(spectrum, shape)
    return np.asarray(field / field.std())


def sensed(bands: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float64]:
    """Grey levels of eleven bits, with the sensor's noise."""
    noisy = bands + NOISE * rng.standard_normal(bands.shape)
    return np.asarray(np.clip(np.rint(noisy), 0, 2047))


def degraded(bands: NDArray[np.floating], gain: float, ratio: int = SCENE_RATIO) -> Bands:
    """Bands (n, rows, columns) at pixels `ratio` times as large, each in the middle of its own.

    Blurred by the Gaussian whose transfer function is `gain` at the Nyquist frequency of the
    larger pixels ([2]): exp(-2 π² σ² f²) with f = 1 / (2 ratio).
    """
    sigma = ratio / math.pi * math.sqrt(-2 * math.log(gain))
    rows, columns = (averages(extent, ratio, sigma) for extent in bands.shape[1:])
    return np.asarray(rows @ bands @ columns.T, np.float32)


def averages(extent: int, ratio: int, sigma: float) -> NDArray[np.float64]:
    """Matrix (extent / ratio, extent) of Gaussian means around the middle of each larger pixel."""
    middle = (np.arange(extent // ratio) + 0.5) * ratio - 0.5
    weights = np.exp(-((np.arange(extent) - middle[:, None]) ** 2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def interpolated(bands: Bands, shape: Sequence[int]) -> Bands:
    """Bands (n, rows, columns) on the grid of smaller pixels, by cubic convolution."""
    rows, columns = shape
    fine = (
        Image.fromarray(np.ascontiguousarray(band, np.float32)).resize(
            (columns, rows), Image.Resampling.BICUBIC
        )
        for band in bands
    )
    return np.stack([np.asarray(band, np.float32) for band in fine])
