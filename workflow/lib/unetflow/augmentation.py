"""Other grey values and orientations for a batch of patches, computed where the network is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unetflow.settings.training import TrainSettings


def oriented(
    parts: Sequence[Tensor], settings: TrainSettings, generators: Sequence[np.random.Generator]
) -> list[Tensor]:
    """Each patch of several tensors (N, ..., rows, columns) flipped and turned alike, by 90°.

    Patches that are not square are turned by 180° alone, which keeps their shape.
    """
    if not settings.orientations:
        return list(parts)
    draws = [(int(draw.integers(4)), bool(draw.integers(2))) for draw in generators]
    square = parts[0].shape[-1] == parts[0].shape[-2]
    return [
        torch.stack(
            [
                turned(patch, turns if square else turns // 2 * 2, mirrored)
                for patch, (turns, mirrored) in zip(part, draws, strict=True)
            ]
        )
        for part in parts
    ]


def turned(patch: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Quarter turns of the last two axes, then a flip of the last."""
    patch = torch.rot90(patch, turns, (-2, -1))
    return patch.flip(-1) if mirrored else patch


def changed_grey(
    pixels: Tensor, settings: TrainSettings, generators: Sequence[np.random.Generator]
) -> Tensor:
    """Normalised pixels with other grey values: blurred, bent, scaled, noisy.

    In the order of the microscope: optics before the detector's curve, its noise last.

    Parameters
    ----------
    pixels : float32 (N, channels, *spatial)
    generators : sequence of Generator
        One a patch, so that a patch changes alike whatever batch it is in.
    """

    def drawn(low: float, high: float) -> Tensor:
        values = [draw.uniform(low, high) for draw in generators]
        return torch.tensor(values, dtype=pixels.dtype, device=pixels.device).reshape(
            -1, *[1] * (pixels.ndim - 1)
        )

    gain = drawn(1 - settings.gain, 1 + settings.gain)
    offset = drawn(-settings.offset, settings.offset)
    if settings.blur > 0:
        pixels = blurred(pixels, drawn(0, settings.blur), settings.blur)
    if settings.gamma > 0:
        limit = math.log1p(settings.gamma)
        pixels = bent(pixels, drawn(-limit, limit).exp())
    pixels = pixels * gain + offset
    if settings.noise > 0:
        deviation = drawn(0, settings.noise)
        pixels = pixels + deviation * torch.stack([white(pixels[0], draw) for draw in generators])
    return pixels


def blurred(pixels: Tensor, deviations: Tensor, largest: float) -> Tensor:
    """Gaussian blur of each patch by a deviation (N, 1, ...) of its own, mirrored at its border."""
    for axis in range(2, pixels.ndim):
        extent = pixels.shape[axis]
        radius = min(math.ceil(4 * largest), extent - 1)
        places = torch.arange(-radius, extent + radius, device=pixels.device).abs()
        outer = pixels.index_select(axis, extent - 1 - (extent - 1 - places).abs())
        # The tiny value stands for no blur, where the quotient would not be defined.
        taps = {
            shift: torch.exp(-0.5 * (shift / deviations.clamp_min(1e-3)) ** 2)
            for shift in range(-radius, radius + 1)
        }
        total = torch.zeros_like(pixels)
        for shift, tap in taps.items():
            total += tap * outer.narrow(axis, radius + shift, extent)
        pixels = total / torch.stack(list(taps.values())).sum(dim=0)
    return pixels


def bent(pixels: Tensor, exponents: Tensor) -> Tensor:
    """Grey values between each patch's lowest and highest raised to a power (N, 1, ...)."""
    inside = tuple(range(1, pixels.ndim))
    low, high = pixels.amin(inside, keepdim=True), pixels.amax(inside, keepdim=True)
    extent = high - low
    # Rounding may lead below the lowest value, of which there is no power.
    share = ((pixels - low) / extent.clamp_min(torch.finfo(pixels.dtype).tiny)).clamp(0, 1)
    return low + extent * share**exponents


def white(like: Tensor, draw: np.random.Generator) -> Tensor:
    """Gaussian noise of deviation 1."""
    source = torch.Generator(like.device).manual_seed(int(draw.integers(2**62)))
    return torch.randn(like.shape, generator=source, dtype=like.dtype, device=like.device)
