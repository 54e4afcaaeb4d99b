"""The convolutional part of VGG networks, in which others begin; module names are torchvision's.

References
----------
.. [1] K. Simonyan, A. Zisserman: Very Deep Convolutional Networks for Large-Scale Image
       Recognition. ICLR 2015, arXiv:1409.1556, Table 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unetflow.geometry import Border
from unetflow.models.blocks import convolve


class Vgg(nn.Sequential):
    """Levels of convolutions of extent 3, each with ReLU, and a pooling after each level.

    Its layers have the numbers that they have in `features` of torchvision's networks, so that
    weights are found by name.

    Parameters
    ----------
    width : int
        Channels of the first level, doubled up to eight times as many ([1]: 64).
    convolutions : sequence of int
        Of each level.
    """

    def __init__(self, channels: int, width: int, convolutions: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        levels = []
        for level, count in enumerate(convolutions):
            outputs = width * min(2**level, 8)
            levels.append(range(len(layers), len(layers) + 2 * count))
            for _ in range(count):
                layers += [nn.Conv2d(channels, outputs, 3), nn.ReLU(inplace=True)]
                channels = outputs
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers)
        self.levels = levels

    def level(self, number: int, x: Tensor, border: Sequence[Border]) -> Tensor:
        """Return the features of a level before its pooling."""
        for place in self.levels[number]:
            layer = self[place]
            x = convolve(layer, x, border) if isinstance(layer, nn.Conv2d) else layer(x)
        return x

    def pool(self, number: int, x: Tensor) -> Tensor:
        """Return what the next level sees of a level's features."""
        pooled: Tensor = self[self.levels[number].stop](x)
        return pooled
