"""Settings of TernausNet, and what it does to extents."""

from __future__ import annotations

from typing import Literal

from unetflow.geometry import Geometry, pyramid_geometry
from unetflow.settings.fields import setting
from unetflow.settings.network import VggSettings


class TernausNetSettings(VggSettings):
    """TernausNet (Iglovikov and Shvets 2018), a U-Net whose contracting path is VGG11."""

    convolutions = (1, 1, 2, 2, 2)
    weights_name = "vgg11-8a719046.pth"

    network: Literal["ternausnet"] = setting(..., "the folder in models/ that builds it")
    padding: Literal["valid", "zeros"] = setting(
        "zeros",
        "zeros: every convolution pads with zeros at the border of the image, as published; valid: "
        "none does, the image is mirrored there",
    )

    @property
    def geometry(self) -> Geometry:
        """Geometry along each spatial axis."""
        # On the way up each level loses one sample to its up-convolution, one to its convolution.
        up = [2] * len(self.convolutions)
        return pyramid_geometry([*self.convolutions, 1], up, 2, self.padding == "zeros")
