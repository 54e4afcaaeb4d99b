"""The networks to choose from: their settings, and what they do to extents.

Each is built by the module of its name in `models/`. Its settings stand here, and not there, so
that they are read without torch, whose import takes as long as reading a whole workflow.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from unetflow.fields import OR_AUTO, Settings, setting
from unetflow.geometry import AxisGeometry, Geometry, pyramid_geometry, unet_geometry


class NetworkSettings(Settings):
    """What the stages ask of any network."""

    network: str
    dimensions: Literal[2, 3]
    width: int

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """Geometry along each spatial axis."""

    @property
    def mixes_batch(self) -> bool:
        """Whether an output depends on the other images of a batch in training."""
        return False


class UNetSettings(NetworkSettings):
    """The U-Net of Ronneberger et al. 2015, two convolutions per level."""

    network: Literal["unet"] = setting("unet", "the module in models/ that builds it")
    dimensions: Literal[2, 3] = setting(2, "2: stacks are read plane by plane; 3: as volumes")
    width: Annotated[int, OR_AUTO] = setting(
        64, "channels of the first level, doubled at each further one", ge=1, le=512
    )
    depth: Annotated[int, OR_AUTO] = setting(4, "number of poolings", ge=1, le=7)
    dropout: float = setting(0.5, "at the end of the contracting path", ge=0, lt=1)
    padding: Literal["valid", "zeros"] = setting(
        "valid",
        "valid: convolutions do not pad, the image is mirrored at its border (the paper); zeros: "
        'every convolution pads with zeros there, as "same" U-Nets do, and outputs are as large as '
        "inputs",
    )
    normalisation: Literal["none", "batch"] = setting(
        "none",
        "batch: batch normalisation before each ReLU (3D U-Net), with stored statistics at "
        "prediction",
    )

    @property
    def geometry(self) -> Geometry:
        """Geometry along each spatial axis."""
        return unet_geometry(self.depth, self.dimensions, padded=self.padding == "zeros")

    @property
    def mixes_batch(self) -> bool:
        """Whether batch normalisation does so."""
        return self.normalisation == "batch"


class VggSettings(NetworkSettings):
    """A 2D network that begins as VGG does, and may begin with its weights."""

    convolutions: ClassVar[tuple[int, ...]]
    weights_name: ClassVar[str]

    dimensions: Literal[2] = setting(2, "stacks are read plane by plane")
    width: Annotated[int, OR_AUTO] = setting(
        64,
        "channels of the first level, doubled up to eight times as many (VGG: 64)",
        ge=2,
        le=128,
        multiple_of=2,
    )
    pretrained: str | None = setting(
        None,
        "file of torchvision's weights of this VGG network, of ImageNet, that a training starts "
        "from; null: random ones. It takes three channels: an image of one is taken as three equal "
        "ones",
    )

    @model_validator(mode="after")
    def _pretrained_is_as_wide(self) -> Self:
        if self.pretrained is not None and self.width != 64:
            raise ValueError(
                f"width must be 64 to be pretrained, as VGG's is: got {self.width}; leave out one"
            )
        return self


class TernausNetSettings(VggSettings):
    """TernausNet (Iglovikov and Shvets 2018), a U-Net whose contracting path is VGG11."""

    convolutions = (1, 1, 2, 2, 2)
    weights_name = "vgg11-8a719046.pth"

    network: Literal["ternausnet"] = setting(..., "the module in models/ that builds it")
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


class FcnSettings(VggSettings):
    """FCN-32s, FCN-16s and FCN-8s (Long, Shelhamer and Darrell 2015), on VGG16."""

    convolutions = (2, 2, 3, 3, 3)
    weights_name = "vgg16-397923af.pth"

    network: Literal["fcn"] = setting(..., "the module in models/ that builds it")
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


class SlidingWindowSettings(NetworkSettings):
    """The classifier of windows of Ciresan et al. 2012, its network N4."""

    kernels: ClassVar[tuple[int, ...]] = (4, 5, 4, 4)
    left: ClassVar[int] = 3

    network: Literal["sliding_window"] = setting(..., "the module in models/ that builds it")
    dimensions: Literal[2] = setting(2, "stacks are read plane by plane")
    width: Annotated[int, OR_AUTO] = setting(48, "channels of each convolution", ge=1, le=512)
    hidden: int = setting(200, "neurons of the fully connected layer", ge=1)
    dense: bool = setting(
        True,
        "compute what windows share once, by dilation; false: each window by itself, as published, "
        "with the same result, and 555 times the operations",
    )

    @property
    def window(self) -> int:
        """Extent of the window around a pixel: of N4 95."""
        extent = self.left
        for kernel in reversed(self.kernels):
            extent = 2 * extent + kernel - 1
        return extent

    @property
    def geometry(self) -> Geometry:
        """Geometry along each spatial axis: a window for each pixel, on no grid."""
        return (AxisGeometry(divisor=1, halo=self.window // 2, minimum=self.window),) * 2


Network = Annotated[
    UNetSettings | TernausNetSettings | FcnSettings | SlidingWindowSettings,
    Field(discriminator="network"),
]
_NETWORK: TypeAdapter[Network] = TypeAdapter(Network)


def parse_network(facts: Mapping[str, Any]) -> Network:
    """Return the settings of a network as they stand in `model.json`."""
    return _NETWORK.validate_python(facts)
