"""What networks are built of: layers that pad only where a tile lies on the border of the image.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from unetflow.geometry import Border

Convolution = nn.Conv2d | nn.Conv3d


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
    parts = [slice(None)] * 2
    for extent, stride, (start, stop) in zip(layer.kernel_size, layer.stride, border, strict=True):
        lost = (extent - stride + 1) // 2
        parts.append(slice(0 if start else lost, None if stop else -lost))
    kept: Tensor = layer(x)[tuple(parts)]
    return kept


def crop(skip: Tensor, like: Tensor, border: Sequence[Border]) -> Tensor:
    """Part of `skip` that lies where `like` does: nothing is cut off at the border of the image."""
    for axis, (start, stop) in enumerate(border, start=2):
        extent = like.shape[axis]
        excess = skip.shape[axis] - extent
        skip = skip.narrow(axis, 0 if start else excess if stop else excess // 2, extent)
    return skip


def initialise(module: nn.Module) -> None:
    """He initialisation: Gaussian of std sqrt(2 / N), N incoming nodes ([1], section 3)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        taps: float = math.prod(module.kernel_size)
        if module.transposed:  # which reaches an output sample through some of them
            taps /= math.prod(module.stride)
        nn.init.normal_(module.weight, std=math.sqrt(2 / (taps * module.in_channels)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
