"""What networks are built of: layers that pad only where a tile lies on the border of the image.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28.
.. [2] D. Ulyanov, A. Vedaldi, V. Lempitsky: Instance Normalization. 2016, arXiv:1607.08022.
.. [3] Z. Liu et al.: A ConvNet for the 2020s. CVPR 2022, DOI 10.1109/CVPR52688.2022.01167: layer
       normalisation of the channels of each pixel.
.. [4] Y. Wu, K. He: Group Normalization. ECCV 2018, DOI 10.1007/978-3-030-01261-8_1: 16 channels
       a group do as well as 32 groups (Table 3), and suit thin networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetflow.geometry import Border

Convolution = nn.Conv2d | nn.Conv3d

GROUP = 16
"""Channels that are normalised together ([4]); of numbers that it does not divide, fewer."""


def convolve(layer: Convolution, x: Tensor, border: Sequence[Border]) -> Tensor:
    """Apply a convolution that pads with zeros on the sides that lie on the border."""
    widths = [extent // 2 for extent in layer.kernel_size]
    alone: list[int] = []
    for width, (start, stop) in zip(reversed(widths), reversed(border), strict=True):
        alone += [width * (start > stop), width * (stop > start)]
    if any(alone):
        x = functional.pad(x, alone)
    # Both sides alike need no copy.
    padding = [
        width * (start and stop) for width, (start, stop) in zip(widths, border, strict=True)
    ]
    apply = functional.conv2d if isinstance(layer, nn.Conv2d) else functional.conv3d
    return apply(x, layer.weight, layer.bias, padding=padding)


def upsample(layer: nn.ConvTranspose2d, x: Tensor, border: Sequence[Border]) -> Tensor:
    """Apply an up-convolution of stride times as many outputs; keep those that lack no input.

    Of a kernel larger than the stride the outermost outputs take part of their input from beyond
    `x`. They stay on the border of the image, where there is nothing beyond. On other sides
    `(kernel - stride + 1) // 2` are cut off, on both sides alike.
    """
    sizes = zip(layer.kernel_size, layer.stride, strict=True)
    return inner(layer(x), [(extent - stride + 1) // 2 for extent, stride in sizes], border)


def interpolate(
    x: Tensor, strides: Sequence[int], border: Sequence[Border], nearest: bool = False
) -> Tensor:
    """Repeat each sample `strides` times, or interpolate linearly; keep those that lack no input.

    Linear interpolation takes half a stride of samples on each side in part from beyond `x`. On the
    border of the image these are like the outermost sample; on other sides they are cut off.
    """
    factors = [float(stride) for stride in strides]
    if nearest:
        return functional.interpolate(x, scale_factor=factors, mode="nearest")
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    x = functional.interpolate(x, scale_factor=factors, mode=mode, align_corners=False)
    return inner(x, [stride // 2 for stride in strides], border)


def inner(x: Tensor, lost: Sequence[int], border: Sequence[Border]) -> Tensor:
    """Return `x` without `lost` samples on each side that is not on the border of the image."""
    parts = [slice(None)] * 2
    for width, (start, stop) in zip(lost, border, strict=True):
        parts.append(slice(0 if start else width, None if stop or not width else -width))
    return x[tuple(parts)]


def crop(skip: Tensor, like: Tensor, border: Sequence[Border]) -> Tensor:
    """Part of `skip` that lies where `like` does: nothing is cut off at the border of the image."""
    return crop_to(skip, like.shape[2:], border)


def crop_to(skip: Tensor, extents: Sequence[int], border: Sequence[Border]) -> Tensor:
    """Middle of `skip` of these extents: nothing is cut off at the border of the image."""
    for axis, (extent, (start, stop)) in enumerate(zip(extents, border, strict=True), start=2):
        excess = skip.shape[axis] - extent
        skip = skip.narrow(axis, 0 if start else excess if stop else excess // 2, extent)
    return skip


class _InstanceNorm(nn.Module):
    """Instance normalisation ([2]) in training; by the mean of its statistics at prediction.

    Statistics of a tile would differ from those of the whole image, and so would its prediction.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features."""
        of: Any = self
        if not self.training:
            return super().forward(x)  # type: ignore[no-any-return]
        return functional.instance_norm(
            x, of.running_mean, of.running_var, of.weight, of.bias, True, of.momentum, of.eps
        )


class InstanceNorm2d(_InstanceNorm, nn.BatchNorm2d):
    """Of planes."""


class InstanceNorm3d(_InstanceNorm, nn.BatchNorm3d):
    """Of volumes."""


class _GroupNorm(nn.Module):
    """Group normalisation ([4]) in training; by the mean of its statistics at prediction.

    Each channel stores those of its group, so that prediction is that of a batch normalisation.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features."""
        of: Any = self
        if not self.training:
            return super().forward(x)  # type: ignore[no-any-return]
        channels = x.shape[1]
        size = math.gcd(channels, GROUP)
        with torch.no_grad():
            places = tuple(range(2, x.ndim))
            variance, mean = torch.var_mean(x.float(), places, correction=0)
            means = mean.reshape(len(x), -1, size)
            spread, centre = torch.var_mean(means, 2, correction=0)
            spread = spread + variance.reshape(means.shape).mean(2)
            for stored, found in ((of.running_mean, centre), (of.running_var, spread)):
                stored.lerp_(found.mean(0).repeat_interleave(size).to(stored), of.momentum)
        return functional.group_norm(x, channels // size, of.weight, of.bias, of.eps)


class GroupNorm2d(_GroupNorm, nn.BatchNorm2d):
    """Of planes."""


class GroupNorm3d(_GroupNorm, nn.BatchNorm3d):
    """Of volumes."""


class LayerNorm(nn.LayerNorm):
    """Normalisation of the channels of each pixel by their own mean and deviation ([3])."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features (N, channels, ...)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def normalisation(kind: str, channels: int, dimensions: int) -> nn.Module:
    """Return the layer that `UNetSettings.normalisation` names."""
    if kind == "layer":
        return LayerNorm(channels)
    flat, deep = {
        "batch": (nn.BatchNorm2d, nn.BatchNorm3d),
        "instance": (InstanceNorm2d, InstanceNorm3d),
        "group": (GroupNorm2d, GroupNorm3d),
    }[kind]
    return flat(channels) if dimensions == 2 else deep(channels)


def initialise(module: nn.Module) -> None:
    """He initialisation: Gaussian of std sqrt(2 / N), N incoming nodes ([1], section 3)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        taps: float = math.prod(module.kernel_size)
        if module.transposed:  # which reaches an output sample through some of them
            taps /= math.prod(module.stride)
        nn.init.normal_(module.weight, std=math.sqrt(2 / (taps * module.in_channels)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
