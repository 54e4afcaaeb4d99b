"""The U-Net of Ronneberger, Fischer and Brox (2015), in 2D and 3D, and what others made of it.

References
----------
.. [1] O. Ronneberger, P. Fischer, T. Brox: U-Net: Convolutional Networks for Biomedical Image
       Segmentation. MICCAI 2015, DOI 10.1007/978-3-319-24574-4_28, arXiv:1505.04597, Fig. 1.
.. [2] Ö. Çiçek et al.: 3D U-Net. MICCAI 2016, DOI 10.1007/978-3-319-46723-8_49: batch
       normalisation before each ReLU, channels doubled before each pooling.
.. [3] K. He et al.: Deep Residual Learning for Image Recognition. CVPR 2016,
       DOI 10.1109/CVPR.2016.90: residual blocks.
.. [4] O. Oktay et al.: Attention U-Net: Learning Where to Look for the Pancreas. MIDL 2018,
       arXiv:1804.03999, section 2: attention gates.
.. [5] F. Isensee et al.: nnU-Net. Nature Methods 2021, DOI 10.1038/s41592-020-01008-z: deep
       supervision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetflow.geometry import Border
from unetflow.models.blocks import (
    Convolution,
    convolve,
    crop,
    crop_to,
    initialise,
    interpolate,
    normalisation,
)
from unetflow.models.unet.settings import UNetSettings

CONVOLUTIONS: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
OPEN = 3.0
"""Bias of a new gate's scores, whose sigmoid is 0.95: at first all features pass ([4])."""


def convolutions(settings: UNetSettings, channels: Sequence[int], extent: Any) -> list[nn.Module]:
    """Return a convolution between each two numbers of channels, with normalisation and ReLU."""
    layers: list[nn.Module] = []
    kind, normalised = settings.normalisation, settings.normalisation != "none"
    for inputs, outputs in pairwise(channels):
        # What a bias would add, a normalisation takes away again or adds itself.
        of = CONVOLUTIONS[settings.dimensions]
        layers.append(of(inputs, outputs, extent, bias=not normalised))
        if normalised:
            layers.append(normalisation(kind, outputs, settings.dimensions))
        layers.append(nn.ReLU(inplace=True))
    return layers


def applied(
    layers: Iterable[nn.Module], x: Tensor, border: Sequence[Border], dropout: float
) -> Tensor:
    """Features after layers, of which the convolutions pad on the border of the image."""
    for layer in layers:
        x = convolve(layer, x, border) if isinstance(layer, Convolution) else layer(x)
        if isinstance(layer, nn.ReLU):
            x = dropped(x, dropout, layer.training)
    return x


def dropped(x: Tensor, share: float, training: bool) -> Tensor:
    """Features of which a share is left out in training."""
    return functional.dropout(x, share) if share and training else x


def dropout_of(settings: UNetSettings, place: str) -> float:
    """Share of features that is left out at a place, see `UNetSettings.dropout_at`."""
    return settings.dropout if settings.dropout_at == place else 0.0


class Block(nn.ModuleList):
    """Two convolutions, each with ReLU: of extent 3 they lose 2 samples on each unpadded side."""

    def __init__(self, settings: UNetSettings, *channels: int) -> None:
        super().__init__(convolutions(settings, channels, settings.kernel))
        self.dropout = dropout_of(settings, "convolutions")

    def forward(self, x: Tensor, border: Sequence[Border]) -> Tensor:
        """Return the features of the samples left."""
        return applied(self, x, border, self.dropout)


class ResidualBlock(nn.Module):
    """Two convolutions, to which their input is added before the last ReLU ([3])."""

    def __init__(self, settings: UNetSettings, *channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(convolutions(settings, channels, settings.kernel)[:-1])
        inputs, *_, outputs = channels
        same = inputs == outputs
        projection = [] if same else convolutions(settings, (inputs, outputs), 1)[:-1]
        self.shortcut = nn.Sequential(*projection)
        self.dropout = dropout_of(settings, "convolutions")

    def halve_variances(self) -> None:
        """Make of both terms what one of them alone would be, or they would double each time."""
        for module in [*self.layers[2:], *self.shortcut]:
            if isinstance(module, Convolution):
                module.weight.data *= 0.5**0.5

    def forward(self, x: Tensor, border: Sequence[Border]) -> Tensor:
        """Return the features of the samples left."""
        found = applied(self.layers, x, border, self.dropout)
        found = functional.relu(found + self.shortcut(crop(x, found, border)), inplace=True)
        return dropped(found, self.dropout, self.training)


class Gate(nn.Module):
    """An attention gate: the share of each sample of a skip connection that passes ([4]).

    It is computed on the grid of the gating signal, the features of the level below, and
    interpolated linearly.
    """

    def __init__(self, dimensions: int, inputs: int, gating: int, strides: Sequence[int]) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dimensions]
        self.strides = tuple(strides)
        self.skip = convolution(inputs, inputs, self.strides, stride=self.strides, bias=False)
        self.signal = convolution(gating, inputs, 1)
        self.score = convolution(inputs, 1, 1)

    def forward(self, skip: Tensor, signal: Tensor, border: Sequence[Border]) -> Tensor:
        """Return shares (N, 1, ...) of the samples that lie between two of the signal's."""
        shape = zip(signal.shape[2:], self.strides, strict=True)
        skip = crop_to(skip, [extent * stride for extent, stride in shape], border)
        scores = self.score(functional.relu(self.skip(skip) + self.signal(signal)))
        return interpolate(torch.sigmoid(scores), self.strides, border)


class UNet(nn.Module):
    """A U-Net, from (N, channels, *inputs) to logits (N, classes, *outputs).

    What it does to the extents is stated by `UNetSettings.geometry`. With deep supervision it gives
    in training also the logits of coarser levels, of strides `UNetSettings.coarser`, whose middle
    is that of the outputs.
    """

    def __init__(self, settings: UNetSettings, channels: int, classes: int) -> None:
        super().__init__()
        dimensions, convolution = settings.dimensions, CONVOLUTIONS[settings.dimensions]
        block = ResidualBlock if settings.blocks == "residual" else Block
        widths = [settings.width * 2**level for level in range(settings.depth + 1)]
        before = settings.widening == "before"
        outputs = [2 * width for width in widths] if before else widths
        upward = range(settings.depth - 1, -1, -1)  # levels
        raised = [outputs[level + before] for level in upward]
        self.padded = settings.padding == "zeros"
        self.strides, self.upsampling = settings.strides, settings.upsampling
        self.dropout = nn.Dropout(dropout_of(settings, "contracted"))
        self.down = nn.ModuleList(
            block(settings, *numbers)
            for numbers in zip([channels, *outputs], widths, outputs, strict=False)
        )
        self.up = nn.ModuleList(
            up_convolution(settings, outputs[level + 1], number, settings.strides[level])
            for level, number in zip(upward, raised, strict=True)
        )
        self.merge = nn.ModuleList(
            block(settings, outputs[level] + number, outputs[level], outputs[level])
            for level, number in zip(upward, raised, strict=True)
        )
        self.classify = convolution(outputs[0], classes, 1)
        self.gates = nn.ModuleList(
            Gate(dimensions, outputs[level], outputs[level + 1], settings.strides[level])
            for level in upward[:-1]
            if settings.attention
        )
        self.heads = nn.ModuleList(
            convolution(outputs[level], classes, 1)
            for level in upward[:-1]
            if settings.deep_supervision
        )
        self.apply(initialise)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.halve_variances()
        for gate in self.gates:
            nn.init.constant_(gate.score.bias, OPEN)  # type: ignore[arg-type, union-attr]

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

    def forward(
        self, x: Tensor, border: Sequence[Border] | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Return the logits of the output extents; those of coarser levels after them, if any.

        Parameters
        ----------
        border : sequence of (bool, bool), optional
            Per axis, whether the input begins and whether it ends at the border of the image: there
            every convolution pads with zeros, on the other sides none does. By default the input is
            a whole image: a padded network pads on all sides, one of valid convolutions on none.
        """
        if border is None:
            border = [(self.padded, self.padded)] * (x.ndim - 2)
        skips, coarser = [], []
        deepest = len(self.strides)
        for level, block in enumerate(self.down):
            x = block(x, border)
            if level >= deepest - 1:  # the end of the contracting path: its last two levels
                x = self.dropout(x)
            if level < deepest:
                skips.append(x)
                x = pool(x, self.strides[level])
        for step, (up, merge) in enumerate(zip(self.up, self.merge, strict=True)):
            skip, shares = skips.pop(), None
            if step < len(self.gates):
                shares = self.gates[step](skip, x, border)
            x = up(x)
            if self.upsampling != "transposed":
                x = interpolate(x, self.strides[len(skips)], border, self.upsampling == "nearest")
            if shares is not None:
                x = crop(x, shares, border)
                skip = crop(skip, x, border) * shares
            x = torch.cat([crop(skip, x, border), x], dim=1)
            del skip, shares  # a level's features are let go as soon as they are merged
            x = merge(x, border)
            if self.training and step < len(self.heads):
                coarser.append(self.heads[step](x))
        logits = self.classify(x)
        return (logits, *reversed(coarser)) if coarser else logits


def up_convolution(
    settings: UNetSettings, inputs: int, outputs: int, strides: Sequence[int]
) -> nn.Module:
    """Return what changes the number of channels on the way up, and with it, or not, the grid.

    A convolution of extent 1 is the same before an interpolation as after it, and cheaper.
    """
    if settings.upsampling != "transposed":
        interpolated: nn.Module = CONVOLUTIONS[settings.dimensions](inputs, outputs, 1)
        return interpolated
    up: nn.Module = TRANSPOSED[settings.dimensions](inputs, outputs, strides, stride=strides)
    return up


def pool(x: Tensor, strides: Sequence[int]) -> Tensor:
    """Return the largest of the samples of each step."""
    size = list(strides)
    return functional.max_pool2d(x, size) if x.ndim == 4 else functional.max_pool3d(x, size)


def build(settings: UNetSettings, channels: int, classes: int) -> UNet:
    """Return an untrained U-Net for images of `channels` channels."""
    return UNet(settings, channels, classes)
