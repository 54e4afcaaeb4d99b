"""Settings of the classifier of windows, and what it does to extents."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from unetflow.geometry import AxisGeometry, Geometry
from unetflow.settings.fields import OR_AUTO, setting
from unetflow.settings.network import NetworkSettings


class SlidingWindowSettings(NetworkSettings):
    """The classifier of windows of Ciresan et al. 2012, its network N4."""

    kernels: ClassVar[tuple[int, ...]] = (4, 5, 4, 4)
    left: ClassVar[int] = 3
    may_differ = frozenset({"dense"})

    network: Literal["sliding_window"] = setting(..., "the folder in models/ that builds it")
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
