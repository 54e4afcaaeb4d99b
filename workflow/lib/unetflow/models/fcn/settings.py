"""Settings of FCNs, and what they do to extents."""

from __future__ import annotations

from typing import Literal

from unetflow.geometry import Geometry, pyramid_geometry
from unetflow.settings.fields import setting
from unetflow.settings.network import VggSettings


class FcnSettings(VggSettings):
    """FCN-32s, FCN-16s and FCN-8s (Long, Shelhamer and Darrell 2015), on VGG16."""

    convolutions = (2, 2, 3, 3, 3)
    weights_name = "vgg16-397923af.pth"
    may_differ = frozenset({"pretrained", "stride", "dropout"})

    network: Literal["fcn"] = setting(..., "the folder in models/ that builds it")
    stride: Literal[32, 16, 8] = setting(
        8,
        "of the finest scores, which are then interpolated; finer ones go on from coarser ones by "
        "train.start_from",
        "pixels",
    )
    dropout: float = setting(0.5, "after each of the two fully connected layers", ge=0, lt=1)
    padding: Literal["valid", "zeros"] = setting(
        "valid",
        "valid: no convolution pads, the image is mirrored at its border; zeros: every one does "
        "there. The published 100 zeros around an image are not to be had: its poolings would "
        "begin 99 pixels before it, and tiles begin with it",
    )

    @property
    def geometry(self) -> Geometry:
        """Geometry along each spatial axis."""
        # Interpolation by a stride takes half of it from the next sample on either side.
        up = {32: [16, 0, 0, 0, 0], 16: [8, 0, 0, 0, 1], 8: [4, 0, 0, 1, 1]}[self.stride]
        return pyramid_geometry([*self.convolutions, 3], up, 2, self.padding == "zeros")
