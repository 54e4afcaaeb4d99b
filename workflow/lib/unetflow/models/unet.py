"""The U-Net of Ronneberger, Fischer and Brox (2015), in 2D and 3D.

References
----------
.. [1] O. Ronneberger, P. Fischer, T. Brox: U-Net: Convolutional Networks for Biomedical Image
       Segmentation. MICCAI 2015, DOI 10.1007/978-3-319-24574-4_28, arXiv:1505.04597, Fig. 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unetflow.settings import UNetSettings


class Block(nn.Sequential):
    """Two valid convolutions of extent 3, each with ReLU: loses 2 samples on each side."""

    def __init__(self, convolution: type[nn.Conv2d | nn.Conv3d], inputs: int, outputs: int) -> None:
        super().__init__(
            convolution(inputs, outputs, 3),
            nn.ReLU(inplace=True),
            convolution(outputs, outputs, 3),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """A U-Net of valid convolutions, from (N, channels, *inputs) to logits (N, classes, *outputs).

    What it does to the extents is stated by `UNetSettings.geometry`.
    """

    def __init__(self, settings: UNetSettings, channels: int, classes: int) -> None:
        super().__init__()
        flat = settings.dimensions == 2
        convolution: type[nn.Conv2d | nn.Conv3d] = nn.Conv2d if flat else nn.Conv3d
        transposed: type[nn.ConvTranspose2d | nn.ConvTranspose3d] = (
            nn.ConvTranspose2d if flat else nn.ConvTranspose3d
        )
        widths = [settings.width * 2**level for level in range(settings.depth + 1)]
        self.pool = nn.MaxPool2d(2) if flat else nn.MaxPool3d(2)
        self.dropout = nn.Dropout(settings.dropout)
        self.down = nn.ModuleList(
            Block(convolution, inputs, outputs)
            for inputs, outputs in zip([channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            transposed(width * 2, width, 2, stride=2) for width in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(
            Block(convolution, width * 2, width) for width in reversed(widths[:-1])
        )
        self.classify = convolution(widths[0], classes, 1)
        self.apply(initialise)

    @property
    def encoder(self) -> nn.Module:
        """The contracting path."""
        return self.down

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the output extents."""
        skips = []
        deepest = len(self.down) - 1
        for level, block in enumerate(self.down):
            x = block(x)
            if level >= deepest - 1:  # the end of the contracting path: its last two levels
                x = self.dropout(x)
            if level < deepest:
                skips.append(x)
                x = self.pool(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = up(x)
            x = merge(torch.cat([crop(skip, x), x], dim=1))
        return self.classify(x)  # type: ignore[no-any-return]


def crop(skip: Tensor, like: Tensor) -> Tensor:
    """Centre of `skip` with the spatial extents of `like`."""
    for axis in range(2, skip.ndim):
        extent = like.shape[axis]
        skip = skip.narrow(axis, (skip.shape[axis] - extent) // 2, extent)
    return skip


def initialise(module: nn.Module) -> None:
    """He initialisation: Gaussian of std sqrt(2 / N), N incoming nodes ([1], section 3)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        # An up-convolution of extent 2 and stride 2 reaches each output sample through one tap.
        taps = math.prod(module.kernel_size) if not module.transposed else 1
        nn.init.normal_(module.weight, std=math.sqrt(2 / (taps * module.in_channels)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def build(settings: UNetSettings, channels: int, classes: int) -> UNet:
    """Return an untrained U-Net for images of `channels` channels."""
    return UNet(settings, channels, classes)
