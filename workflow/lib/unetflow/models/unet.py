"""The U-Net of Ronneberger, Fischer and Brox (2015), in 2D and 3D, valid or padded.

References
----------
.. [1] O. Ronneberger, P. Fischer, T. Brox: U-Net: Convolutional Networks for Biomedical Image
       Segmentation. MICCAI 2015, DOI 10.1007/978-3-319-24574-4_28, arXiv:1505.04597, Fig. 1.
.. [2] Ö. Çiçek et al.: 3D U-Net. MICCAI 2016, DOI 10.1007/978-3-319-46723-8_49: batch
       normalisation before each ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from unetflow.geometry import Border
from unetflow.models.blocks import Convolution, convolve, crop, initialise
from unetflow.networks import UNetSettings


class Block(nn.ModuleList):
    """Two convolutions of extent 3, each with ReLU: loses 2 samples on each unpadded side."""

    def __init__(
        self, convolution: type[Convolution], inputs: int, outputs: int, normalised: bool
    ) -> None:
        normalisation = nn.BatchNorm2d if convolution is nn.Conv2d else nn.BatchNorm3d
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            # What a bias would add, a normalisation takes away again.
            layers.append(convolution(channels, outputs, 3, bias=not normalised))
            if normalised:
                layers.append(normalisation(outputs))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(layers)

    def forward(self, x: Tensor, border: Sequence[Border]) -> Tensor:
        """Return the features of the samples left."""
        for layer in self:
            x = convolve(layer, x, border) if isinstance(layer, Convolution) else layer(x)
        return x


class UNet(nn.Module):
    """A U-Net, from (N, channels, *inputs) to logits (N, classes, *outputs).

    What it does to the extents is stated by `UNetSettings.geometry`.
    """

    def __init__(self, settings: UNetSettings, channels: int, classes: int) -> None:
        super().__init__()
        flat, normalised = settings.dimensions == 2, settings.normalisation == "batch"
        convolution: type[Convolution] = nn.Conv2d if flat else nn.Conv3d
        transposed: type[nn.ConvTranspose2d | nn.ConvTranspose3d] = (
            nn.ConvTranspose2d if flat else nn.ConvTranspose3d
        )
        widths = [settings.width * 2**level for level in range(settings.depth + 1)]
        self.padded = settings.padding == "zeros"
        self.pool = nn.MaxPool2d(2) if flat else nn.MaxPool3d(2)
        self.dropout = nn.Dropout(settings.dropout)
        self.down = nn.ModuleList(
            Block(convolution, inputs, outputs, normalised)
            for inputs, outputs in zip([channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            transposed(width * 2, width, 2, stride=2) for width in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(
            Block(convolution, width * 2, width, normalised) for width in reversed(widths[:-1])
        )
        self.classify = convolution(widths[0], classes, 1)
        self.apply(initialise)

    @property
    def encoder(self) -> nn.Module:
        """The contracting path."""
        return self.down

    def train(self, mode: bool = True) -> Self:
        """Change to training or back; a frozen contracting path keeps its stored statistics."""
        super().train(mode)
        if not any(values.requires_grad for values in self.down.parameters()):
            self.down.eval()
        return self

    def forward(self, x: Tensor, border: Sequence[Border] | None = None) -> Tensor:
        """Return the logits of the output extents.

        Parameters
        ----------
        border : sequence of (bool, bool), optional
            Per axis, whether the input begins and whether it ends at the border of the image: there
            every convolution pads with zeros, on the other sides none does. By default the input is
            a whole image: a padded network pads on all sides, one of valid convolutions on none.
        """
        if border is None:
            border = [(self.padded, self.padded)] * (x.ndim - 2)
        skips = []
        deepest = len(self.down) - 1
        for level, block in enumerate(self.down):
            x = block(x, border)
            if level >= deepest - 1:  # the end of the contracting path: its last two levels
                x = self.dropout(x)
            if level < deepest:
                skips.append(x)
                x = self.pool(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            # Taken off the list, a level's features are let go as soon as they are merged.
            x = torch.cat([crop(skips.pop(), x, border), x], dim=1)
            x = merge(x, border)
        return self.classify(x)  # type: ignore[no-any-return]


def build(settings: UNetSettings, channels: int, classes: int) -> UNet:
    """Return an untrained U-Net for images of `channels` channels."""
    return UNet(settings, channels, classes)
