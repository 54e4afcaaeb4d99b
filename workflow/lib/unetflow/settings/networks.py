"""The networks to choose from: their settings, and what they do to extents.

Each is built by the module of its name in `models/`. Its settings stand here, and not there, so
that they are read without torch, whose import takes as long as reading a whole workflow.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Field, TypeAdapter, model_validator

from unetflow.geometry import AxisGeometry, Geometry, pyramid_geometry
from unetflow.settings.fields import OR_AUTO, Settings, setting


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
        """Whether what is learned depends on which images share a batch, but for the loss."""
        return False

    @property
    def stand_in(self) -> NetworkSettings:
        """Network that plans follow to know what this one takes: itself."""
        return self

    @property
    def coarser(self) -> tuple[tuple[int, ...], ...]:
        """Strides, per axis, of the coarser outputs that a training has beside the logits."""
        return ()


Extent = Annotated[int, Field(ge=1, le=15)]
Stride = Annotated[int, Field(ge=1, le=4)]


class UNetSettings(NetworkSettings):
    """The U-Net of Ronneberger et al. 2015, and what others have made of it."""

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
    normalisation: Literal["none", "batch", "instance", "group", "layer"] = setting(
        "none",
        "before each ReLU; batch (3D U-Net): by the statistics of a batch, at prediction by stored "
        "ones; instance and group: by those of each channel of a patch, or of 16 channels "
        "together, at prediction by stored ones, since a tile's own would not be those of the "
        "image; layer: by those of the channels of each pixel (ConvNeXt)",
    )
    blocks: Literal["plain", "residual"] = setting(
        "plain",
        "two convolutions a level; residual: to which their input is added, if need be by a "
        "convolution of extent 1 (He et al. 2016)",
    )
    widening: Literal["after", "before"] = setting(
        "after",
        "channels are doubled by the first convolution after a pooling; or before each pooling by "
        "the last, the first level too, and up-convolutions keep their number (3D U-Net)",
    )
    upsampling: Literal["transposed", "nearest", "bilinear"] = setting(
        "transposed",
        "up-convolution, of the extent of the pooling; or interpolation after a convolution of "
        "extent 1, in 3D trilinear",
    )
    attention: bool = setting(
        False, "gates on all skip connections but the finest one (Attention U-Net)"
    )
    deep_supervision: bool = setting(
        False,
        "in training coarser levels of the expanding path are classified too; the loss of each "
        "weighs half of that of the level above (nnU-Net)",
    )
    filter_size: Extent | tuple[Extent, ...] = setting(
        3, "extent of the convolutions, odd; one, or one per axis", "pixels"
    )
    pool_size: Stride | tuple[Stride, ...] | tuple[tuple[Stride, ...], ...] = setting(
        2,
        "extent and stride of the poolings; one, one per axis, such as [1, 2, 2] where planes are "
        "far apart, or a list of such lists, one per pooling",
        "pixels",
    )

    @model_validator(mode="after")
    def _extents_suit_the_axes(self) -> Self:
        poolings = self.strides
        for name, sizes in (("filter_size", self.kernel), *(("pool_size", of) for of in poolings)):
            if len(sizes) != self.dimensions:
                raise ValueError(
                    f"{name} must be one number or one per axis, {self.dimensions} of them: got "
                    f"{list(sizes)}"
                )
            if sizes[-1] != sizes[-2]:  # patches are turned in their plane
                raise ValueError(f"{name} must be alike along rows and columns: got {list(sizes)}")
        if any(extent % 2 == 0 for extent in self.kernel):
            raise ValueError(f"filter_size must be odd: got {self.filter_size}")
        if len(poolings) != self.depth or any(max(sizes) == 1 for sizes in poolings):
            raise ValueError(
                f"pool_size must pool along some axis in each of the {self.depth} poolings of "
                f"depth: got {self.pool_size}"
            )
        return self

    @model_validator(mode="after")
    def _levels_suit_the_options(self) -> Self:
        for name in ("attention", "deep_supervision"):
            if getattr(self, name) and self.depth < 2:
                raise ValueError(
                    f"{name} must have a level between the finest and the coarsest: got depth 1; "
                    "set depth to 2 or more"
                )
        interpolated = self.attention or self.upsampling == "bilinear"
        if interpolated and any(3 in sizes for sizes in self.strides):
            raise ValueError(
                "pool_size must be 1, 2 or 4 where attention or bilinear upsampling interpolates, "
                f"or places between samples would be rounded: got {self.pool_size}; set another"
            )
        return self

    @property
    def kernel(self) -> tuple[int, ...]:
        """Extent of the convolutions along each axis."""
        size = self.filter_size
        return (size,) * self.dimensions if isinstance(size, int) else size

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """Stride of each pooling along each axis, the finest first."""
        size = self.pool_size
        if isinstance(size, int):
            size = (size,) * self.dimensions
        each = size if self.pools_differently else (size,) * self.depth
        return cast(tuple[tuple[int, ...], ...], each)

    @property
    def pools_differently(self) -> bool:
        """Whether each pooling has a size of its own."""
        return not isinstance(self.pool_size, int) and not isinstance(self.pool_size[0], int)

    @property
    def coarser(self) -> tuple[tuple[int, ...], ...]:
        """Stride of each coarser level that is classified in training, the finest first."""
        scales = accumulate(self.strides[:-1], lambda *sizes: tuple(map(mul, *sizes)))
        return tuple(scales) if self.deep_supervision else ()

    @property
    def geometry(self) -> Geometry:
        """Geometry along each spatial axis."""
        found: Geometry = ()
        for kernel, strides in zip(self.kernel, zip(*self.strides, strict=True), strict=True):
            lost = kernel - 1  # half of it by each of two convolutions
            up = [
                # Interpolation by a stride takes half of it from the next sample on either side.
                lost + (stride // 2 if self.interpolates(level) else 0)
                for level, stride in enumerate(strides)
            ]
            down = [lost] * (self.depth + 1)
            found += pyramid_geometry(down, up, 1, self.padding == "zeros", strides)
        return found

    def interpolates(self, level: int) -> bool:
        """Whether features or gates are interpolated linearly on the way up to a level."""
        return self.upsampling == "bilinear" or (self.attention and level > 0)

    @property
    def mixes_batch(self) -> bool:
        """Whether statistics are stored, which are those of a whole batch."""
        return self.normalisation in ("batch", "instance", "group")


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
        "weights of this VGG network that a training starts from; imagenet: torchvision's, which "
        "are fetched; or a file of theirs; null: random ones. They take three channels: an image "
        "of one is taken as three equal ones",
    )

    @property
    def is_fetched(self) -> bool:
        """Whether the weights that a training starts from are downloaded."""
        return self.pretrained == "imagenet"

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


Program = Literal["torchscript", "onnx"]


class Step(Settings):
    """A step before or after another program's network, of each voxel by itself."""

    kind: Literal["scale", "clip", "sigmoid", "softmax"]
    gain: tuple[float, ...] = setting((1.0,), "of scale, one for all channels or one for each")
    offset: tuple[float, ...] = setting((0.0,), "which scale then adds, likewise")
    low: float | None = setting(None, "least value after clip")
    high: float | None = setting(None, "largest value after clip")


class PackagedSettings(NetworkSettings):
    """A network of another program, from a bioimage.io package: no experiment can name it."""

    network: Literal["packaged"]
    width: int = setting(..., "of the U-Net that stands for it in plans, see `stand_in`", ge=1)
    program: Program
    program_bytes: int
    input_axes: str = setting(..., "in the network's order, of b, c, z, y and x")
    output_axes: str = setting(..., "likewise")
    divisor: tuple[int, ...] = setting(..., "step of the admissible extents, along each axis")
    halo: tuple[int, ...] = setting(..., "cut off each side in all, see `AxisGeometry`")
    minimum: tuple[int, ...] = setting(..., "smallest admissible extents")
    crop: tuple[int, ...] = setting(..., "part of the halo that the network leaves to be cut off")
    fixed: bool = setting(..., "no other extents are admissible")
    before: tuple[Step, ...]
    after: tuple[Step, ...]
    background: int | None = setting(
        ..., "the channel of background; null: none, it is what no channel takes"
    )

    @property
    def geometry(self) -> Geometry:
        """Geometry along each spatial axis: outputs count without their halo."""
        axes = zip(self.divisor, self.halo, self.minimum, strict=True)
        return tuple(AxisGeometry(*of) for of in axes)

    @property
    def stand_in(self) -> UNetSettings:
        """U-Net of as many parameters: plans take its memory and time."""
        common = math.gcd(*self.divisor)
        depth = min(max((common & -common).bit_length() - 1, 1), 4)
        return UNetSettings(
            dimensions=self.dimensions, width=self.width, depth=depth, padding="zeros"
        )


_NETWORK: TypeAdapter[Network | PackagedSettings] = TypeAdapter(
    Annotated[Network | PackagedSettings, Field(discriminator="network")]
)


def parse_network(facts: Mapping[str, Any]) -> Network | PackagedSettings:
    """Return the settings of a network as they stand in `model.json`."""
    return _NETWORK.validate_python(facts)
