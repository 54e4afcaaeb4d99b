"""Fully convolutional networks: FCN-32s, FCN-16s and FCN-8s, on VGG16.

References
----------
.. [1] J. Long, E. Shelhamer, T. Darrell: Fully Convolutional Networks for Semantic Segmentation.
       CVPR 2015, DOI 10.1109/CVPR.2015.7298965, arXiv:1411.4038, sections 3.3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unetflow.geometry import Border
from unetflow.models.blocks import convolve, crop, initialise, upsample
from unetflow.models.fcn.settings import FcnSettings
from unetflow.models.vgg import Vgg


class Fcn(nn.Module):
    """An FCN, from (N, channels, *inputs) to logits (N, classes, *outputs).

    What it does to the extents is stated by `FcnSettings.geometry`. All layers that give scores are
    in `classify`, by names that a coarser network shares with a finer one, which therefore takes
    them over.
    """

    def __init__(self, settings: FcnSettings, channels: int, classes: int) -> None:
        super().__init__()
        width, stride = settings.width, settings.stride
        self.padded = settings.padding == "zeros"
        self.features = Vgg(channels, width, settings.convolutions)
        # VGG's fully connected layers, by torchvision's numbers, as convolutions ([1], 3.1).
        self.classifier = nn.Sequential(
            nn.Conv2d(8 * width, 64 * width, 7),
            nn.ReLU(inplace=True),
            nn.Dropout(settings.dropout),
            nn.Conv2d(64 * width, 64 * width, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(settings.dropout),
        )
        self.apply(initialise)
        # Poolings whose output is scored too; they are counted from 1.
        self.skips = {32: [], 16: [4], 8: [4, 3]}[stride]
        self.classify = nn.ModuleDict({"score": nn.Conv2d(64 * width, classes, 1)})
        for pool in self.skips:
            self.classify[f"up{pool}"] = bilinear(classes, 2)
            self.classify[f"score{pool}"] = nn.Conv2d(2 ** (pool - 1) * width, classes, 1)
        # Fixed ([1], 3.3): of stride 32 its weights are far too many to learn from few images.
        self.classify["final"] = bilinear(classes, stride).requires_grad_(False)
        for name in ("score", *(f"score{pool}" for pool in self.skips)):
            # A finer network begins as the coarser one that it goes on from ([1], 4.2).
            for values in self.classify[name].parameters():
                nn.init.zeros_(values)

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
        pooled = {}
        for pool in range(1, 6):
            x = self.features.pool(pool - 1, self.features.level(pool - 1, x, border))
            if pool in self.skips:
                pooled[pool] = x
        for layer in self.classifier:
            x = convolve(layer, x, border) if isinstance(layer, nn.Conv2d) else layer(x)
        layers: Any = self.classify
        x = layers["score"](x)
        for pool in self.skips:
            x = upsample(layers[f"up{pool}"], x, border)
            x = x + crop(layers[f"score{pool}"](pooled.pop(pool)), x, border)
        return upsample(layers["final"], x, border)


def bilinear(classes: int, stride: int) -> nn.ConvTranspose2d:
    """Return an up-convolution that interpolates each class's scores linearly between samples."""
    layer = nn.ConvTranspose2d(
        classes, classes, 2 * stride, stride=stride, padding=stride // 2, bias=False
    )
    ramp = 1 - (torch.arange(2 * stride) - (stride - 0.5)).abs() / stride
    with torch.no_grad():
        layer.weight.zero_()
        for number in range(classes):
            layer.weight[number, number] = torch.outer(ramp, ramp)
    return layer


def build(settings: FcnSettings, channels: int, classes: int) -> Fcn:
    """Return an untrained FCN for images of `channels` channels."""
    return Fcn(settings, channels, classes)
