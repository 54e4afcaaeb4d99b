"""How far the prediction of tiles is from that of the whole, measured on an image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unetflow.inference import Model, array_reader, logits
from unetflow.models.sliding_window.settings import SlidingWindowSettings
from unetflow.orientations import Region
from unetflow.prediction import tile_of
from unetflow.progress import log
from unetflow.regions import normalisation_of
from unetflow.settings.networks import parse_network
from unetflow.settings.prediction import PredictSettings
from unetflow.store import open_image, write_json

RELATIVE = 1e-5
"""Of the range of the logits, in single precision: what reordered sums of it come to."""
TIMED = 16
"""Extent of the region that is predicted window by window, within a second or some."""


def verify_tiling(
    model: Model, image: Path, tile: Sequence[int], settings: PredictSettings, output: Path
) -> dict[str, float]:
    """Predict a part of an image whole, tile by tile, and on a shifted grid; write the differences.

    The part is half as large again as a tile's step along each axis, so that tiles meet inside it;
    it counts as an image of its own. The shifted grid begins at an odd voxel.

    Parameters
    ----------
    image : Path
        OME-Zarr; of a stack for a 2D network its first plane is taken.
    tile : sequence of int
        Empty: the one that is chosen for the image.
    output : Path
        JSON: `tiled` and `shifted`, the largest differences of the logits from those of the whole;
        `tolerance`; `logit_range`; `extents`, `tile` and `precision`.

    Returns
    -------
    dict
        Of a network of windows that computes all at once, see `time_windows`; else empty.

    Raises
    ------
    ValueError
        If a difference is above the tolerance: 1e-5 of the range of the logits in single precision,
        in bf16 a unit in the last place of the largest logit.
    """
    torch.set_num_threads(settings.threads)
    tile = tile or tile_of(model, open_image(image), settings)
    pixels = part_of(model, image, tile)
    shape, read = pixels.shape[1:], array_reader(pixels)
    whole = tuple(slice(0, extent) for extent in shape)
    exact = logits(model, read, shape, whole, None)
    tiled = logits(model, read, shape, whole, tile)
    shifted = np.empty_like(exact)
    for region in shifted_grid(shape):
        shifted[:, *region] = logits(model, read, shape, region, tile)
    spread = float(exact.max() - exact.min())
    largest = float(np.abs(exact).max())
    unit = 2.0 ** (np.floor(np.log2(largest)) - 7) if largest else 0.0
    tolerance = unit if model.precision == "bf16" else RELATIVE * spread
    found = {
        "tiled": float(np.abs(tiled - exact).max()),
        "shifted": float(np.abs(shifted - exact).max()),
    }
    log(", ".join(f"{way} logits differ by at most {by:.3g}" for way, by in found.items()))
    for way, difference in found.items():
        if difference > tolerance:
            raise ValueError(
                f"{image}: {way} logits must equal those of the whole within {tolerance:.3g}: they "
                f"differ by {difference:.3g}; another predict.tile or predict.precision may do, "
                "and the cause is a fault of ours or of the convolution library: report it"
            )
    about = {
        "tolerance": tolerance,
        "logit_range": spread,
        "extents": list(shape),
        "tile": list(tile),
        "precision": model.precision,
    }
    write_json(output, found | about)
    network = parse_network(model.facts["network"])
    by_windows = isinstance(network, SlidingWindowSettings) and network.dense
    return time_windows(model, pixels) if by_windows else {}


def time_windows(model: Model, pixels: NDArray[np.float32]) -> dict[str, float]:
    """Count and seconds of `windows` that are classified one by one, as published, by torch.

    Parameters
    ----------
    pixels : float32 array (channel, rows, columns)
        Normalised; windows are those around its first rows and columns.
    """
    dense: Any = model.network.network if model.backend == "openvino" else model.network
    network = copy(dense)  # with the same weights
    network.dense = False
    published, shape = replace(model, network=network), pixels.shape[1:]
    region = tuple(slice(0, min(extent, TIMED)) for extent in shape)
    for part in ((slice(0, 1),) * 2, region):  # the first warms up
        began = time.monotonic()
        found = logits(published, array_reader(pixels), shape, part, None)
        seconds = time.monotonic() - began
    return {"windows": found[0].size, "window_seconds": seconds}


def part_of(model: Model, path: Path, tile: Sequence[int]) -> NDArray[np.float32]:
    """Normalised pixels (channel, *spatial) of the part that is predicted."""
    image = open_image(path)
    lead = (slice(0, 1),) * (len(image.spatial_shape) - len(tile))
    steps = (axis.step(extent) for axis, extent in zip(model.geometry, tile, strict=True))
    shape = image.spatial_shape[-len(tile) :]
    part = (slice(0, min(extent, step * 3 // 2)) for extent, step in zip(shape, steps, strict=True))
    pixels = normalisation_of(model, image).apply(image.region((*lead, *part)))
    return pixels.reshape(len(pixels), *pixels.shape[1 + len(lead) :])


def shifted_grid(shape: Sequence[int]) -> list[Region]:
    """Regions that cover an image once, cut at an odd place of each axis."""
    cuts = [sorted({0, min(extent // 3 | 1, extent), extent}) for extent in shape]
    parts = [[slice(start, stop) for start, stop in pairwise(cut)] for cut in cuts]
    return list(product(*parts))
