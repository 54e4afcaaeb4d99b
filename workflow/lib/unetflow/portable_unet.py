"""The U-Net in plain PyTorch: an exported package carries this file, so it imports nothing of ours.

References
----------
.. [1] O. Ronneberger, P. Fischer, T. Brox: U-Net: Convolutional Networks for Biomedical Image
       Segmentation. MICCAI 2015, DOI 10.1007/978-3-319-24574-4_28.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class PortableUNet(nn.Module):
    """A U-Net from pixels (N, channels, *extents) to class probabilities of the same extents.

    Parameters
    ----------
    dimensions : 2 or 3
    channels, classes : int
    width : int
        Channels of the first level, doubled at each further one.
    depth : int
        Number of poolings.
    padded : bool
        Whether convolutions pad with zeros.
    normalised : bool
        Whether batch normalisation stands before each ReLU.
    margin : int
        Of valid convolutions: voxels on each side of the input that have no prediction. Their
        probabilities are 0 and are to be cut off. The extents within are a multiple of the strides.
    lead : int
        How many of these voxels the network leaves out at the start of each axis.
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        classes: int,
        width: int,
        depth: int,
        padded: bool,
        normalised: bool,
        margin: int,
        lead: int,
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        transposed = nn.ConvTranspose2d if dimensions == 2 else nn.ConvTranspose3d
        normalisation = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm3d

        padding = 1 if padded else 0

        def block(inputs: int, outputs: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for before in (inputs, outputs):
                layers.append(convolution(before, outputs, 3, padding=padding, bias=not normalised))
                if normalised:
                    layers.append(normalisation(outputs))
                layers.append(nn.ReLU(inplace=True))
            return nn.Sequential(*layers)

        widths = [width * 2**level for level in range(depth + 1)]
        self.pool = nn.MaxPool2d(2) if dimensions == 2 else nn.MaxPool3d(2)
        self.down = nn.ModuleList(
            block(inputs, outputs)
            for inputs, outputs in zip([channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            transposed(width * 2, width, 2, stride=2) for width in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(block(width * 2, width) for width in reversed(widths[:-1]))
        self.classify = convolution(widths[0], classes, 1)
        self.depth, self.margin, self.lead = depth, margin, lead
        self.frame = [margin] * (2 * dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Return the probabilities of the classes, which sum to 1 but on the margin."""
        inner = [extent - 2 * self.margin for extent in x.shape[2:]]
        for axis in range(2, x.dim()):
            x = x.narrow(axis, self.lead, x.size(axis) - self.lead)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x)
            if level < self.depth:
                skips.append(x)
                x = self.pool(x)
        for up, merge in zip(self.up, self.merge):  # noqa: B905 - TorchScript knows no strict
            x = up(x)
            x = merge(torch.cat([centre(skips.pop(), x), x], dim=1))
        x = torch.softmax(self.classify(x), dim=1)
        for axis, extent in enumerate(inner):
            x = x.narrow(axis + 2, 0, extent)
        return functional.pad(x, self.frame)


def centre(skip: Tensor, like: Tensor) -> Tensor:
    """Part of `skip` that lies where `like` does."""
    for axis in range(2, like.dim()):
        excess = skip.size(axis) - like.size(axis)
        skip = skip.narrow(axis, excess // 2, like.size(axis))
    return skip
