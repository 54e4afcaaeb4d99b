"""The sliding-window classifier of pixels, window by window and for all windows at once.

References
----------
.. [1] D. C. Ciresan, A. Giusti, L. M. Gambardella, J. Schmidhuber: Deep Neural Networks Segment
       Neuronal Membranes in Electron Microscopy Images. NIPS 2012, network N4.
.. [2] A. Giusti et al.: Fast Image Scanning with Deep Max-Pooling Convolutional Neural Networks.
       ICIP 2013, arXiv:1302.1700: what windows share is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetflow.geometry import Border
from unetflow.models.blocks import initialise
from unetflow.models.sliding_window.settings import SlidingWindowSettings

TOGETHER = 1024
"""Windows that are classified at a time, for the sake of memory."""


class SlidingWindow(nn.Module):
    """A classifier of windows, from (N, channels, *inputs) to logits (N, classes, *outputs).

    Each output is that of the window around it. What this does to the extents is stated by
    `SlidingWindowSettings.geometry`.
    """

    def __init__(self, settings: SlidingWindowSettings, channels: int, classes: int) -> None:
        super().__init__()
        self.dense, self.window = settings.dense, settings.window
        self.convolutions = nn.ModuleList()
        for extent in settings.kernels:
            self.convolutions.append(nn.Conv2d(channels, settings.width, extent))
            channels = settings.width
        # The fully connected layers, of the last 3 x 3 features and of one sample.
        self.connect = nn.Conv2d(channels, settings.hidden, settings.left)
        self.classify = nn.Conv2d(settings.hidden, classes, 1)
        self.apply(initialise)

    @property
    def encoder(self) -> nn.Module:
        """All convolutions with poolings."""
        return self.convolutions

    def forward(self, x: Tensor, border: Sequence[Border] | None = None) -> Tensor:
        """Return the logits of all windows; nothing is padded, so the border makes no difference.

        A window is pooled in steps of two from its own first sample, so neighbouring windows
        share nothing but the first convolution. Dilation keeps all those grids side by side ([2]).
        """
        return self.at_once(x) if self.dense else self.one_by_one(x)

    def at_once(self, x: Tensor) -> Tensor:
        """Logits by poolings of stride 1, after each of which all that follows is dilated."""
        dilation = 1
        for layer in self.convolutions:
            x = functional.relu(dilated(layer, x, dilation), inplace=True)
            x = functional.max_pool2d(x, 2, stride=1, dilation=dilation)
            dilation *= 2
        x = functional.relu(dilated(self.connect, x, dilation), inplace=True)
        return self.classify(x)  # type: ignore[no-any-return]

    def one_by_one(self, x: Tensor) -> Tensor:
        """Logits as published: every window is cut out and classified by itself."""
        windows = x.unfold(2, self.window, 1).unfold(3, self.window, 1)
        images, channels, rows, columns = windows.shape[:4]
        windows = windows.permute(0, 2, 3, 1, 4, 5)
        scores = [
            self.classified(some.reshape(-1, channels, self.window, self.window))
            for image in windows
            for some in image.flatten(0, 1).split(TOGETHER)
        ]
        return torch.cat(scores).reshape(images, rows, columns, -1).permute(0, 3, 1, 2)

    def classified(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of windows (N, channels, window, window)."""
        for layer in self.convolutions:
            x = functional.max_pool2d(functional.relu(layer(x), inplace=True), 2)
        x = functional.relu(self.connect(x), inplace=True)
        return self.classify(x).flatten(1)  # type: ignore[no-any-return]


def dilated(layer: nn.Module, x: Tensor, dilation: int) -> Tensor:
    """Apply a convolution to samples so far from each other."""
    assert isinstance(layer, nn.Conv2d)
    return functional.conv2d(x, layer.weight, layer.bias, dilation=dilation)


def build(settings: SlidingWindowSettings, channels: int, classes: int) -> SlidingWindow:
    """Return an untrained classifier for images of `channels` channels."""
    return SlidingWindow(settings, channels, classes)
