"""The U-Net in plain PyTorch: an exported package carries this file, so it imports nothing of ours.

References
----------
.. [1] O. Ronneberger, P. Fischer, T. Brox: U-Net: Convolutional Networks for Biomedical Image
       Segmentation. MICCAI 2015, DOI 10.1007/978-3-319-24574-4_28.
.. [2] O. Oktay et al.: Attention U-Net. MIDL 2018, arXiv:1804.03999.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class PortableUNet(nn.Module):
    """A U-Net from pixels (N, channels, *extents) to probabilities, or values, of these extents.

    Parameters
    ----------
    channels, classes : int
        Of the input and of the output.
    width : int
        Channels of the first level, doubled at each further one.
    kernel : list of int
        Extent of the convolutions along each axis.
    strides : list of list of int
        Of each pooling along each axis.
    padded : bool
        Whether convolutions pad with zeros.
    normalisation : "none", "stored" or "layer"
        Before each ReLU: by stored statistics, or by those of the channels of each pixel.
    residual : bool
        Whether the input of two convolutions is added to what they give.
    widened : bool
        Whether channels are doubled before a pooling, and not after it.
    upsampling : "transposed", "nearest" or "bilinear"
    attention : bool
        Whether gates stand on all skip connections but the finest ([2]).
    margin : int
        Of valid convolutions: voxels on each side of the input that have no prediction. They are 0
        and are to be cut off. The extents within are a multiple of the strides.
    lead, trail : int
        How many of these voxels the network leaves out at the start and at the end of each axis.
    probabilities : bool
        Whether the output are probabilities of classes; else values of any range.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int,
        kernel: list[int],
        strides: list[list[int]],
        padded: bool,
        normalisation: str,
        residual: bool,
        widened: bool,
        upsampling: str,
        attention: bool,
        margin: int,
        lead: int,
        trail: int,
        probabilities: bool,
    ) -> None:
        super().__init__()
        flat, depth = len(kernel) == 2, len(strides)
        convolution: Any = nn.Conv2d if flat else nn.Conv3d
        transposed: Any = nn.ConvTranspose2d if flat else nn.ConvTranspose3d
        pool = nn.MaxPool2d if flat else nn.MaxPool3d
        linear = "bilinear" if flat else "trilinear"

        def block(inputs: int, middle: int, outputs: int) -> nn.Module:
            first = convolutions(kernel, padded, normalisation, inputs, middle)
            layers = [*first, *convolutions(kernel, padded, normalisation, middle, outputs)]
            if not residual:
                return nn.Sequential(*layers)
            projection = convolutions([1] * len(kernel), padded, normalisation, inputs, outputs)
            return Residual(layers[:-1], projection[:-1] if inputs != outputs else [])

        widths = [width * 2**level for level in range(depth + 1)]
        outputs = [2 * of for of in widths] if widened else widths
        self.down = nn.ModuleList(
            block(*of) for of in zip([channels, *outputs], widths, outputs, strict=False)
        )
        self.pool = nn.ModuleList([*(pool(tuple(of), tuple(of)) for of in strides), nn.Identity()])
        self.up, self.wide, self.gates, self.merge = (nn.ModuleList() for _ in range(4))
        for level in range(depth - 1, -1, -1):
            below, of = outputs[level + 1], strides[level]
            raised = below if widened else outputs[level]
            if upsampling == "transposed":
                self.up.append(transposed(below, raised, tuple(of), stride=tuple(of)))
                self.wide.append(nn.Identity())
            else:
                self.up.append(convolution(below, raised, 1))
                mode = linear if upsampling == "bilinear" else "nearest"
                self.wide.append(Interpolation(of, mode, padded))
            if attention and level > 0:
                gate = convolution(outputs[level], outputs[level], tuple(of), tuple(of), bias=False)
                signal = convolution(below, outputs[level], 1)
                score = convolution(outputs[level], 1, 1)
                self.gates.append(Gate(gate, signal, score, Interpolation(of, linear, padded)))
            else:
                self.gates.append(Passage())
            self.merge.append(block(outputs[level] + raised, outputs[level], outputs[level]))
        self.classify = convolution(outputs[0], classes, 1)
        self.margin, self.lead, self.trail = margin, lead, trail
        self.probabilities = probabilities
        self.frame = [margin] * (2 * len(kernel))

    def forward(self, x: Tensor) -> Tensor:
        """Return values, or probabilities of the classes, which sum to 1; 0 on the margin."""
        inner = [extent - 2 * self.margin for extent in x.shape[2:]]
        for axis in range(2, x.dim()):
            x = x.narrow(axis, self.lead, x.size(axis) - self.lead - self.trail)
        skips: list[Tensor] = []
        for block, pool in zip(self.down, self.pool):  # noqa: B905 - TorchScript knows no strict
            x = block(x)
            skips.append(x)
            x = pool(x)
        x = skips.pop()
        for up, wide, gate, merge in zip(self.up, self.wide, self.gates, self.merge):  # noqa: B905
            skip, x = gate(skips.pop(), x, wide(up(x)))
            x = merge(torch.cat([skip, x], dim=1))
        x = self.classify(x)
        if self.probabilities:
            x = torch.softmax(x, dim=1)
        for axis, extent in enumerate(inner):
            x = x.narrow(axis + 2, 0, extent)
        return functional.pad(x, self.frame)


def convolutions(
    kernel: list[int], padded: bool, normalisation: str, inputs: int, outputs: int
) -> list[nn.Module]:
    """Return a convolution with normalisation and ReLU."""
    padding = tuple(extent // 2 if padded else 0 for extent in kernel)
    bias = normalisation == "none"
    convolution: Any = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
    stored = nn.BatchNorm2d if len(kernel) == 2 else nn.BatchNorm3d
    layers: list[nn.Module] = [
        convolution(inputs, outputs, tuple(kernel), padding=padding, bias=bias)
    ]
    if normalisation != "none":
        layers.append(stored(outputs) if normalisation == "stored" else ChannelNorm(outputs))
    return [*layers, nn.ReLU(inplace=True)]


class ChannelNorm(nn.LayerNorm):
    """Normalisation of the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features."""
        last = x.dim() - 1  # of which ONNX knows no -1
        x = functional.layer_norm(
            x.movedim(1, last), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return x.movedim(last, 1)


class Residual(nn.Module):
    """Layers whose input is added to their output, before a last ReLU."""

    def __init__(self, layers: list[nn.Module], shortcut: list[nn.Module]) -> None:
        super().__init__()
        self.layers, self.shortcut = nn.Sequential(*layers), nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the samples left."""
        found = self.layers(x)
        return functional.relu(found + self.shortcut(centre(x, found)))


class Interpolation(nn.Module):
    """Interpolation of samples that, unless padded, lie between two."""

    def __init__(self, strides: list[int], mode: str, padded: bool) -> None:
        super().__init__()
        self.factors, self.mode = [float(stride) for stride in strides], mode
        inside = padded or mode == "nearest"
        self.lost = [0 if inside else stride // 2 for stride in strides]

    def forward(self, x: Tensor) -> Tensor:
        """Return samples on the finer grid."""
        if self.mode == "nearest":
            return functional.interpolate(x, scale_factor=self.factors, mode="nearest")
        x = functional.interpolate(
            x, scale_factor=self.factors, mode=self.mode, align_corners=False
        )
        for axis, lost in enumerate(self.lost):
            x = x.narrow(axis + 2, lost, x.size(axis + 2) - 2 * lost)
        return x


class Passage(nn.Module):
    """What a skip connection without a gate does: its middle passes."""

    def forward(self, skip: Tensor, signal: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features to merge."""
        return centre(skip, x), x


class Gate(nn.Module):
    """An attention gate ([2]): of each sample of a skip connection the share passes that it says.

    The share is computed on the grid of the signal, the features of the level below.
    """

    def __init__(
        self, skip: nn.Module, signal: nn.Module, score: nn.Module, wide: Interpolation
    ) -> None:
        super().__init__()
        self.skip, self.signal, self.score, self.wide = skip, signal, score, wide
        self.strides = [int(factor) for factor in wide.factors]

    def forward(self, skip: Tensor, signal: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features to merge."""
        on_grid = skip
        for axis, stride in enumerate(self.strides):
            on_grid = middle(on_grid, axis + 2, signal.size(axis + 2) * stride)
        scores = self.score(functional.relu(self.skip(on_grid) + self.signal(signal)))
        shares = self.wide(torch.sigmoid(scores))
        x = centre(x, shares)
        return centre(skip, x) * shares, x


def centre(skip: Tensor, like: Tensor) -> Tensor:
    """Part of `skip` that lies where `like` does."""
    for axis in range(2, like.dim()):
        skip = middle(skip, axis, like.size(axis))
    return skip


def middle(x: Tensor, axis: int, extent: int) -> Tensor:
    """Samples in the middle of an axis."""
    return x.narrow(axis, (x.size(axis) - extent) // 2, extent)
