"""The extents of an exported network, for programs that tile by halo and step alone."""

from __future__ import annotations

from dataclasses import dataclass

from unetflow.geometry import AxisGeometry


@dataclass(frozen=True)
class Frame:
    """What a tile of the exported network needs around its core, alike on each axis.

    An input extent is `2 * halo` plus a multiple of the divisor, and so is the output. Whatever
    tiles the image cuts `halo` off each side and steps by the rest, a multiple of the divisor: all
    tiles then see the same pooling grid, that of `geometry.axis_tiles`, and join without a seam.
    The specification can say instead that valid convolutions make the output smaller, but then
    bioimageio.core does not tile. So they are given their margin back, and it counts as halo.

    Attributes
    ----------
    divisor : int
        Product of the strides.
    halo : int
        A multiple of the divisor, so that tiles lie on its grid.
    margin, lead, trail : int
        See `portable_unet.PortableUNet`.
    """

    divisor: int
    halo: int
    margin: int
    lead: int
    trail: int = 0

    @property
    def minimum(self) -> int:
        """Smallest input extent."""
        return self.divisor + 2 * self.halo


def frame_of(axis: AxisGeometry) -> Frame:
    """Frame of a network's geometry.

    Examples
    --------
    >>> from unetflow.geometry import unet_geometry
    >>> frame_of(unet_geometry(depth=4, dimensions=2)[0])
    Frame(divisor=16, halo=96, margin=96, lead=4, trail=0)
    >>> frame_of(unet_geometry(depth=4, dimensions=2, padded=True)[0])
    Frame(divisor=16, halo=96, margin=0, lead=0, trail=0)
    """
    if axis.padded:
        return Frame(axis.divisor, -(-axis.reach // axis.divisor) * axis.divisor, 0, 0)
    # What is left out at the start makes of the halo a multiple of the divisor, what is left out at
    # the end an admissible extent. Outputs beyond the core are cut off at their end.
    trail = (axis.halo - axis.minimum) % axis.divisor
    halo = -(-(axis.halo + trail) // axis.divisor) * axis.divisor
    return Frame(axis.divisor, halo, halo, halo - axis.halo, trail)
