"""TernausNet: a U-Net whose contracting path is VGG11, so that it can begin with its weights.

References
----------
.. [1] V. Iglovikov, A. Shvets: TernausNet: U-Net with VGG11 Encoder Pre-Trained on ImageNet for
       Image Segmentation. arXiv:1801.05746, Fig. 1; https://github.com/ternaus/TernausNet, UNet11.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetflow.geometry import Border
from unetflow.models.blocks import convolve, crop, initialise, upsample
from unetflow.models.ternausnet.settings import TernausNetSettings
from unetflow.models.vgg import Vgg


class Expansion(nn.Module):
    """A convolution of extent 3 and an up-convolution of extent 3 and stride 2, each with ReLU."""

    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, middle, 3)
        self.up = nn.ConvTranspose2d(middle, outputs, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor, border: Sequence[Border]) -> Tensor:
        """Return the features of the level above."""
        x = functional.relu(convolve(self.convolution, x, border), inplace=True)
        return functional.relu(upsample(self.up, x, border))


class TernausNet(nn.Module):
    """A TernausNet, from (N, channels, *inputs) to logits (N, classes, *outputs).

    What it does to the extents is stated by `TernausNetSettings.geometry`. The published network
    pads everywhere, and has one logit; here each class has one.
    """

    def __init__(self, settings: TernausNetSettings, channels: int, classes: int) -> None:
        super().__init__()
        width = settings.width
        self.padded = settings.padding == "zeros"
        self.features = Vgg(channels, width, settings.convolutions)
        self.up = nn.ModuleList(
            [
                Expansion(8 * width, 8 * width, 4 * width),
                Expansion(12 * width, 8 * width, 4 * width),
                Expansion(12 * width, 8 * width, 2 * width),
                Expansion(6 * width, 4 * width, width),
                Expansion(3 * width, 2 * width, width // 2),
            ]
        )
        self.last = nn.Conv2d(width + width // 2, width // 2, 3)
        self.classify = nn.Conv2d(width // 2, classes, 1)
        self.apply(initialise)

    @property
    def encoder(self) -> nn.Module:
        """The contracting path."""
        return self.features

    def forward(self, x: Tensor, border: Sequence[Border] | None = None) -> Tensor:
        """Return the logits of the output extents.

        Parameters
        ----------
        border : sequence of (bool, bool), optional
            Per axis, whether the input begins and whether it ends at the border of the image; by
            default it is a whole image. See `UNet.forward`.
        """
        if border is None:
            border = [(self.padded, self.padded)] * 2
        skips = []
        for level in range(len(self.up)):
            skips.append(self.features.level(level, x, border))
            x = self.features.pool(level, skips[-1])
        for up in self.up:
            x = up(x, border)
            x = torch.cat([x, crop(skips.pop(), x, border)], dim=1)
        x = functional.relu(convolve(self.last, x, border), inplace=True)
        return self.classify(x)  # type: ignore[no-any-return]


def build(settings: TernausNetSettings, channels: int, classes: int) -> TernausNet:
    """Return an untrained TernausNet for images of `channels` channels."""
    return TernausNet(settings, channels, classes)
