"""What a regression is compared with: methods that learn nothing, or one number.

References
----------
.. [1] Vivone et al. 2015, DOI 10.1109/TGRS.2014.2361734, section II-B: component substitution, of
       which the Brovey transform and principal components are two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Values = NDArray[np.float64]
Pair = tuple[Values, Values]
"""Pixels (channel, *spatial) and their true values (channels, *spatial)."""
Baseline = Callable[[Values], Values]
"""From pixels to values."""

WIDTHS = np.arange(0, 3.01, 0.25)
"""Standard deviations of Gaussian filters that are tried, pixels."""


def baseline(method: str, channels: int, training: Sequence[Pair]) -> Baseline:
    """Return a baseline by its method, see `EvaluateSettings.baselines`.

    Parameters
    ----------
    channels : int
        Of the target.
    training : sequence of Pair
        From which `gaussian` takes its width.
    """
    if method == "input":
        return partial(unchanged, channels=channels)
    if method == "gaussian":
        return partial(filtered, channels=channels, width=best_width(training, channels))
    return partial({"brovey": brovey, "pca": pca}[method], channels=channels)


def unchanged(pixels: Values, channels: int) -> Values:
    """Return the first channels as they are.

    Raises
    ------
    ValueError
        If there are fewer.
    """
    if len(pixels) < channels:
        raise ValueError(
            f"evaluate.baselines need pictures with the {channels} channels of the target: got "
            f"{len(pixels)}; leave them out"
        )
    return pixels[:channels]


def filtered(pixels: Values, channels: int, width: float) -> Values:
    """Return the first channels after a Gaussian filter in the plane, of this deviation."""
    planes = unchanged(pixels, channels)
    sigma = (0,) * (planes.ndim - 2) + (width, width)
    return np.asarray(ndimage.gaussian_filter(planes, sigma, mode="mirror"))


def best_width(training: Sequence[Pair], channels: int) -> float:
    """Return the width of the filter whose squared error on all training images is least."""
    errors = [
        sum(
            float(((filtered(pixels, channels, width) - true) ** 2).sum())
            for pixels, true in training
        )
        for width in WIDTHS
    ]
    return float(WIDTHS[int(np.argmin(errors))])


def brovey(pixels: Values, channels: int) -> Values:
    """Return bands times the ratio of the panchromatic channel after them to their mean ([1])."""
    bands, pan = bands_and_pan(pixels, channels)
    mean = bands.mean(axis=0)
    ratio = np.divide(matched(pan, mean), mean, out=np.ones_like(mean), where=mean != 0)
    return np.asarray(bands * ratio)


def pca(pixels: Values, channels: int) -> Values:
    """Return bands whose first principal component is the panchromatic channel instead ([1])."""
    bands, pan = bands_and_pan(pixels, channels)
    flat = bands.reshape(channels, -1)
    _, vectors = np.linalg.eigh(np.cov(flat))
    first = vectors[:, -1]
    if first @ np.cov(flat) @ np.ones(channels) < 0:  # else what is bright would become dark
        first = -first
    component = np.tensordot(first, bands - flat.mean(axis=1).reshape(-1, *[1] * pan.ndim), 1)
    detail = matched(pan, component) - component
    return np.asarray(bands + np.multiply.outer(first, detail))


def bands_and_pan(pixels: Values, channels: int) -> Pair:
    """Return the bands, and the panchromatic channel that follows them.

    Raises
    ------
    ValueError
        If there is none, or one band.
    """
    if channels < 2 or len(pixels) <= channels:
        raise ValueError(
            "evaluate.baselines brovey and pca need pictures of two bands or more and then a "
            f"panchromatic channel: got {len(pixels)} channels and a target of {channels}; leave "
            "them out"
        )
    return pixels[:channels], pixels[channels]


def matched(pan: Values, like: Values) -> Values:
    """Return a channel with the mean and the standard deviation of another ([1])."""
    deviation = pan.std()
    scale = like.std() / deviation if deviation > 0 else 0.0
    return np.asarray((pan - pan.mean()) * scale + like.mean())


def baselines(
    methods: Mapping[str, str], channels: int, training: Callable[[], Sequence[Pair]]
) -> dict[str, Baseline]:
    """Return baselines by the names that the settings give them; training images as needed."""
    pairs = training() if "gaussian" in methods.values() else []
    return {name: baseline(method, channels, pairs) for name, method in methods.items()}
