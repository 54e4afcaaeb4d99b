"""Settings of the U-Net, and what it does to extents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import Annotated, Literal, Self, cast

from pydantic import Field, model_validator

from unetflow.geometry import Geometry, pyramid_geometry
from unetflow.settings.fields import OR_AUTO, setting
from unetflow.settings.network import NetworkSettings

Extent = Annotated[int, Field(ge=1, le=15)]
Stride = Annotated[int, Field(ge=1, le=4)]


class UNetSettings(NetworkSettings):
    """The U-Net of Ronneberger et al. 2015, and what others have made of it."""

    may_differ = frozenset({"dropout", "dropout_at", "deep_supervision"})

    network: Literal["unet"] = setting("unet", "the folder in models/ that builds it")
    dimensions: Literal[2, 3] = setting(2, "2: stacks are read plane by plane; 3: as volumes")
    width: Annotated[int, OR_AUTO] = setting(
        64, "channels of the first level, doubled at each further one", ge=1, le=512
    )
    depth: Annotated[int, OR_AUTO] = setting(4, "number of poolings", ge=1, le=7)
    dropout: float = setting(0.5, "share of features left out in training", ge=0, lt=1)
    dropout_at: Literal["contracted", "convolutions"] = setting(
        "contracted",
        "the end of the contracting path, its last two levels (the paper); or every convolution of "
        "the blocks (tf_unet)",
    )
    padding: Literal["valid", "zeros"] = setting(
        "valid",
        "valid: convolutions do not pad, the image is mirrored at its border (the paper); zeros: "
        'every convolution pads with zeros there, as "same" U-Nets do, and outputs are as large as '
        "inputs",
    )
    normalisation: Literal["none", "batch", "instance", "group", "layer"] = setting(
        "none",
        "before each ReLU; batch (as in the 3D U-Net): by the statistics of a batch; instance and "
        "group: by those of each channel of a patch, or of 16 channels together, with "
        "intensity.source image; at prediction these three by the mean of training's, since a "
        "tile's own would not be those of the image; layer: by those of the channels of each pixel "
        "(ConvNeXt)",
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
        if self.normalisation == "group" and self.width % 2:
            raise ValueError(
                "width must be even for normalisation group, best a multiple of 16, since groups "
                f"are of as many channels as divide it and 16: got {self.width}, which leaves each "
                "channel by itself; set another, or normalisation instance, which means that"
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

    def check_patch(self, tile: Sequence[int]) -> None:
        """Refuse the extents of a patch that the network cannot learn from.

        Raises
        ------
        ValueError
            Naming those that are possible.
        """
        super().check_patch(tile)
        divisors = [axis.divisor for axis in self.geometry]
        # Convolutions that lose samples at the border need more than this in any case.
        if self.normalisation in ("batch", "instance") and list(tile) == divisors:
            raise ValueError(
                "tile must leave several samples of the deepest level for normalisation "
                f"{self.normalisation}, which takes their mean and deviation: got {list(tile)}, "
                f"which leaves one; set {2 * divisors[-1]} or more along some axis"
            )

    def interpolates(self, level: int) -> bool:
        """Whether features or gates are interpolated linearly on the way up to a level."""
        return self.upsampling == "bilinear" or (self.attention and level > 0)

    @property
    def mixes_batch(self) -> bool:
        """Whether statistics are stored, which are those of a whole batch."""
        return self.normalisation in ("batch", "instance", "group")
