"""What a package of another program says of its network."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from unetflow.geometry import AxisGeometry, Geometry
from unetflow.models.unet.settings import UNetSettings
from unetflow.settings.fields import Settings, setting
from unetflow.settings.network import NetworkSettings

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

    nameable: ClassVar[bool] = False

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
