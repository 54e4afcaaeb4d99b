"""Volumes whose grey values are unlike those that a network has learned from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow.intensity import PERCENTILES, count, levels, normalisation, stored_normalisation
from unetflow.settings.training import IntensitySettings
from unetflow.store import Image

PLANES, WINDOWS, SIDE = 4, 2, 128
"""A sample is at most so many planes, and of each so many windows of so many voxels along an axis:
a quarter of a million voxels of any volume."""
MARGIN = 0.25
"""Of the range of the training images' grey values, by which those of a volume may lie outside."""

Region = Sequence[slice]


def unlike_training(
    volume: Image,
    model: Mapping[str, Any],
    region: Region | None = None,
    mask: Image | None = None,
) -> str:
    """Phrase that says how the grey values of a volume differ from the training images'.

    The 1st, 50th and 99th percentile of a sample of voxels, normalised as the network sees them,
    are compared with the least and the greatest of the training images. They may lie outside by a
    quarter of the range from their least 1st to their greatest 99th percentile, so that a few
    training images, which differ little, do not make every volume an outlier. The farthest is told.

    Parameters
    ----------
    model : mapping
        Its `model.json`.
    region, mask : optional
        What of the volume is predicted; voxels elsewhere do not count.

    Returns
    -------
    str
        Empty where nothing differs so far, where the model does not state `levels`, and where no
        voxel of the sample lies in the mask.
    """
    intensity = model.get("intensity", {})
    if "levels" not in intensity:
        return ""
    pixels = sample(volume, region, mask)
    if not pixels.size:
        return ""
    channels = [count(channel, volume.name) for channel in pixels]
    normalise = stored_normalisation(intensity)
    if intensity["source"] == "image":
        fields = {
            name: intensity[name] for name in IntensitySettings.model_fields if name in intensity
        }
        own = normalisation(channels, IntensitySettings(**fields))
        # A sample of a nearly empty volume may be of one grey value.
        normalise = replace(own, scale=tuple(scale or 1.0 for scale in own.scale))
    found = np.array(levels(channels, normalise))
    learned = np.array(intensity["levels"])
    least, greatest = learned[..., 0], learned[..., 1]
    beyond = np.maximum(least - found, found - greatest)
    width = greatest[:, -1] - least[:, 0]
    beyond /= np.where(width > 0, width, 1)[:, np.newaxis]  # 0 of images of background but for 1 %
    channel, farthest = np.unravel_index(beyond.argmax(), beyond.shape)
    if beyond[channel, farthest] <= MARGIN:
        return ""
    what = "median" if PERCENTILES[farthest] == 50 else f"percentile {PERCENTILES[farthest]}"
    of = f" of channel {channel}" if len(channels) > 1 else ""
    place = channel, farthest
    return (
        f"{what} of the normalised grey values{of} is {found[place]:.3g}, of the training images "
        f"{least[place]:.3g} to {greatest[place]:.3g}"
    )


def sample(volume: Image, region: Region | None, mask: Image | None) -> NDArray[Any]:
    """Finite voxels (channel, voxels) of windows spread over a volume, all of a small one."""
    parts = region or [slice(0, extent) for extent in volume.spatial_shape]
    along = [
        *(pieces(part, PLANES, 1) for part in parts[:-2]),
        *(pieces(part, WINDOWS, SIDE) for part in parts[-2:]),
    ]
    found = []
    for window in itertools.product(*along):
        pixels = volume.region(window)
        inside = np.isfinite(pixels).all(axis=0)
        if mask is not None:
            inside &= mask.region(window)[0] > 0
        found.append(pixels[:, inside])
    return np.concatenate(found, axis=1)


def pieces(part: slice, count: int, side: int) -> list[slice]:
    """Pieces in the middles of equal parts of a span; the span where they would cover it."""
    extent = part.stop - part.start
    if extent <= count * side:
        return [part]
    middles = (part.start + extent * (2 * number + 1) // (2 * count) for number in range(count))
    return [slice(middle - side // 2, middle - side // 2 + side) for middle in middles]
