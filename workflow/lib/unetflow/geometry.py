"""Extents and tiles of a network, as exact arithmetic on one axis and its product over axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise, product
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow.orientations import Region
from unetflow.orientations import orientations as symmetries


@dataclass(frozen=True)
class AxisGeometry:
    """What a network does to one axis.

    An input extent is admissible when every pooling sees a multiple of its stride: `minimum + k *
    divisor` for k >= 0. Of valid convolutions the output is `2 * halo` shorter, and its first
    sample lies at input index `halo`. A padded network's output is as large as its input. A tile of
    it is padded only where it lies on the border of the image; on its other sides it loses `halo`
    samples too.

    Attributes
    ----------
    divisor : int
        Product of the strides. Tiles whose starts differ by a multiple of it see the same pooling
        grid, which is why only they agree with the prediction of the whole image.
    halo : int
        Samples lost on each side that is not padded.
    minimum : int
        Smallest admissible input extent.
    padded : bool
        Whether every convolution pads at the border of the image.
    lead : int
        Further samples that a tile of a padded network reads on each side inside the image, so that
        its poolings see the grid of the whole image. Valid convolutions have a grid of their own.
    """

    divisor: int
    halo: int
    minimum: int
    padded: bool = False
    lead: int = 0

    @property
    def frame(self) -> int:
        """Samples on each side of a patch, or of a whole image, that have no output."""
        return 0 if self.padded else self.halo

    @property
    def reach(self) -> int:
        """Samples that a tile inside the image reads on each side of what it writes."""
        return self.halo + self.lead

    @property
    def smallest_tile(self) -> int:
        """Smallest admissible extent of tiles that images of any size can be divided into."""
        return self.at_least(self.divisor + 2 * self.reach)

    def is_admissible(self, extent: int) -> bool:
        """Whether the network accepts this input extent."""
        return extent >= self.minimum and (extent - self.minimum) % self.divisor == 0

    def at_least(self, extent: int) -> int:
        """Smallest admissible input extent that is not below this one."""
        return self.minimum + -(-max(extent - self.minimum, 0) // self.divisor) * self.divisor

    def input_for(self, output: int) -> int:
        """Smallest admissible input extent whose output has at least `output` samples."""
        return self.at_least(output + 2 * self.frame)

    def nearest(self, extent: int) -> tuple[int, int]:
        """Nearest admissible input extents at or below (but at least the minimum) and above."""
        steps = max(extent - self.minimum, 0) // self.divisor
        below = self.minimum + steps * self.divisor
        return below, below + self.divisor

    def check(self, extent: int) -> None:
        """Refuse an input extent that is not admissible.

        Raises
        ------
        ValueError
            Naming the nearest that are.
        """
        if not self.is_admissible(extent):
            below, above = self.nearest(extent)
            raise ValueError(
                f"tile must be {self.minimum} plus a multiple of {self.divisor}: "
                f"got {extent}; nearest are {below} and {above}"
            )

    def step(self, tile: int) -> int:
        """Largest distance between the starts of tiles inside an image, a multiple of the divisor.

        Raises
        ------
        ValueError
            If the input extent `tile` is inadmissible, or leaves no whole step.
        """
        self.check(tile)
        step = (tile - 2 * self.reach) // self.divisor * self.divisor
        if step <= 0:
            raise ValueError(
                f"tile must leave an output of at least {self.divisor}: got {tile}, which leaves "
                f"{max(tile - 2 * self.reach, 0)}; the smallest is {self.smallest_tile}"
            )
        return step

    def check_patch(self, extent: int) -> None:
        """Refuse an input extent of patches: inadmissible, or, unless padded, with no whole step.

        Raises
        ------
        ValueError
            Naming those that are possible.
        """
        if self.padded:
            self.check(extent)
        else:
            self.step(extent)


Geometry = tuple[AxisGeometry, ...]
Border = tuple[bool, bool]
"""Whether a tile is padded along an axis: at its start, at its stop."""


@dataclass(frozen=True)
class Span:
    """One tile on one axis, in the frame of the image: what is written and what is read.

    `read_start` may be negative and `read_stop` beyond the image: mirrored there. The first sample
    written is sample `offset` of the network's output.
    """

    start: int
    stop: int
    read_start: int
    read_stop: int
    offset: int
    border: Border = (False, False)


def unet_geometry(
    depth: int, dimensions: int, kernel: int = 3, convolutions: int = 2, padded: bool = False
) -> Geometry:
    """Geometry of a U-Net with 2x pooling, alike on each axis.

    Each level loses `convolutions * (kernel - 1) / 2` samples on its way down and again on its way
    up.

    Examples
    --------
    >>> axis = unet_geometry(depth=4, dimensions=2)[0]
    >>> axis.divisor, axis.halo, axis.is_admissible(572), 572 - 2 * axis.halo
    (16, 92, True, 388)
    >>> axis = unet_geometry(depth=4, dimensions=2, padded=True)[0]
    >>> axis.minimum, axis.reach, axis.step(576)
    (16, 94, 384)
    """
    lost_per_level = convolutions * (kernel - 1) // 2
    lost = [lost_per_level] * depth
    return pyramid_geometry([*lost, lost_per_level], lost, dimensions, padded)


def pyramid_geometry(
    down: Sequence[int],
    up: Sequence[int],
    dimensions: int,
    padded: bool = False,
    strides: Sequence[int] = (),
) -> Geometry:
    """Geometry of a network that goes down by pooling and up again, alike on each axis.

    One sample of a level is `strides[level]` of the level above, so `scale` of the image. On a side
    that is not padded the network loses `entry`, the sum of `down[level] * scale[level]`, before
    the last pooling, and `halo`, with the last level and the sum of `up[level] * scale[level]`, in
    all.

    The poolings of a padded image begin at its first sample. A tile sees the same if what is left
    of it before each pooling begins at a sample of its level that a pooling begins at: if it begins
    `entry` before a multiple of the divisor. Its output then begins `halo - entry` after one, which
    is `lead` before the next. At its stop the same holds, mirrored. A padded side needs nothing: it
    lies on the grid.

    Parameters
    ----------
    down : sequence of int
        Samples that each level loses on a side, on the way down, the last level included.
    up : sequence of int
        The same on the way up, without the last level; a level's upsampling counts as its own.
    strides : sequence of int
        Of each pooling; by default 2.
    """
    *scale, divisor = accumulate(strides or [2] * len(up), mul, initial=1)
    entry = sum(map(mul, down, scale))
    halo = entry + down[-1] * divisor + sum(map(mul, up, scale))
    if padded:
        axis = AxisGeometry(divisor, halo, divisor, padded=True, lead=(entry - halo) % divisor)
    else:
        minimum = 2 * entry + -(-(2 * halo + 1 - 2 * entry) // divisor) * divisor
        axis = AxisGeometry(divisor, halo, minimum)
    return (axis,) * dimensions


def geometry_to_json(geometry: Geometry) -> list[dict[str, Any]]:
    """Return the geometry as it stands in `model.json`."""
    return [asdict(axis) for axis in geometry]


def geometry_from_json(facts: Sequence[dict[str, Any]]) -> Geometry:
    """Return the geometry that `model.json` states."""
    return tuple(AxisGeometry(**axis) for axis in facts)


def span(start: int, stop: int, extent: int, axis: AxisGeometry) -> Span:
    """Tile that writes `start..stop-1` of an axis of `extent` samples; starts at a whole step."""
    read_start = start - axis.reach
    if not axis.padded:
        return Span(start, stop, read_start, read_start + axis.input_for(stop - start), 0)
    # The first sample not before `stop` at which an output on the image's grid can end.
    read_stop = stop + (axis.lead - stop) % axis.divisor + axis.halo
    end = axis.at_least(extent)
    border = read_start < 0, read_stop > end
    offset = start if border[0] else axis.lead
    return Span(start, stop, max(read_start, 0), min(read_stop, end), offset, border)


def starts(start: int, stop: int, extent: int, axis: AxisGeometry, tile: int | None) -> list[int]:
    """Starts of the fewest tiles of at most `tile` input samples, each as long as it may be.

    Raises
    ------
    ValueError
        If there must be several and `tile` leaves no whole step.
    """
    found = [start]
    while tile is not None:
        last = span(found[-1], stop, extent, axis)
        if last.read_stop - last.read_start <= tile:
            break
        axis.step(tile)
        furthest = last.read_start + tile - axis.reach
        found.append(furthest // axis.divisor * axis.divisor)
    return found


def axis_tiles(
    start: int, stop: int, extent: int, axis: AxisGeometry, tile: int | None
) -> list[Span]:
    """Tiles of at most `tile` input samples that write `start..stop-1` of an axis exactly once.

    All tiles start at multiples of the divisor, counted from the start of the image, whatever the
    region. The number of tiles is the least that `tile` allows; then they are made as small as that
    number allows, so that no last sliver costs a whole tile. Where the image ends at an extent that
    is not admissible it is extended past its end, by mirroring, to the next one that is.

    Valid convolutions read `halo` samples beyond the image on both sides, mirrored. A padded
    network reads nothing beyond the extended image: a tile that would is cut off there and padded
    on that side, at the end therefore beyond the extended extent.

    Parameters
    ----------
    extent : int
        Of the image, `stop` or more.
    tile : int or None
        None takes one tile for all of it.

    Raises
    ------
    ValueError
        If `tile` is inadmissible, or is too small for a region that needs several.
    """
    if start >= stop:
        return []
    first = start // axis.divisor * axis.divisor
    if tile is not None:
        axis.check(tile)
    found = starts(first, stop, extent, axis, tile)
    while tile is not None and len(found) > 1 and tile > axis.smallest_tile:
        tile -= axis.divisor
        smaller = starts(first, stop, extent, axis, tile)
        if len(smaller) > len(found):
            break
        found = smaller
    spans = [span(*part, extent, axis) for part in pairwise([*found, stop])]
    ahead = start - first
    return [replace(spans[0], start=start, offset=spans[0].offset + ahead), *spans[1:]]


def tiles(
    region: Sequence[slice], shape: Sequence[int], geometry: Geometry, tile: Sequence[int] | None
) -> list[tuple[Span, ...]]:
    """Tiles that write every pixel of a region of an image exactly once, in C order."""
    extents = tile or (None,) * len(region)
    spans = [
        axis_tiles(part.start, part.stop, whole, axis, extent)
        for part, whole, axis, extent in zip(region, shape, geometry, extents, strict=True)
    ]
    return list(product(*spans))


def smaller_tile(tile: Sequence[int], geometry: Geometry) -> tuple[int, ...] | None:
    """Tile of half the step along the axis of the longest; None if there is none smaller.

    Examples
    --------
    >>> smaller_tile((572, 572), unet_geometry(depth=4, dimensions=2))
    (380, 572)
    """
    found = []
    for number, axis in enumerate(geometry):
        step = axis.step(tile[number])
        half = max(step // 2 // axis.divisor, 1) * axis.divisor
        extent = axis.at_least(half + 2 * axis.reach)
        if extent < tile[number]:
            found.append((-step, number, extent))
    if not found:
        return None
    _, longest, extent = min(found)
    return (*tile[:longest], extent, *tile[longest + 1 :])


def mirrored(start: int, stop: int, extent: int) -> NDArray[np.intp]:
    """Indices in `[0, extent)` of the samples `start..stop-1` of an axis mirrored at both ends.

    The edge sample is not repeated (as in the paper, Ronneberger et al. 2015, Fig. 2), and the
    reflection goes on periodically where the axis is shorter than what is asked for.

    Examples
    --------
    >>> mirrored(-2, 5, 3).tolist()
    [2, 1, 0, 1, 2, 1, 0]
    """
    if extent == 1:
        return np.zeros(stop - start, dtype=np.intp)
    period = 2 * (extent - 1)
    index = np.arange(start, stop) % period
    return np.where(index < extent, index, period - index)


def reach(
    geometry: Geometry,
    shape: Sequence[int],
    region: Region,
    tile: Sequence[int] | None,
    orientations: int = 1,
) -> Region:
    """Part of an image that the prediction of a region reads, in all its orientations."""
    starts, stops = list(shape), [0] * len(shape)
    for orientation in symmetries(orientations, len(shape)):
        turned, turned_shape = orientation.region(region, shape), orientation.permuted(shape)
        spans = [
            axis_tiles(part.start, part.stop, whole, axis, extent)
            for part, whole, axis, extent in zip(
                turned,
                turned_shape,
                geometry,
                orientation.permuted(tile) if tile else (None,) * len(shape),
                strict=True,
            )
        ]
        read = tuple(
            within(min(span.read_start for span in on), max(span.read_stop for span in on), extent)
            for on, extent in zip(spans, turned_shape, strict=True)
        )
        for axis, part in enumerate(orientation.region_back(read, shape)):
            starts[axis] = min(starts[axis], part.start)
            stops[axis] = max(stops[axis], part.stop)
    return tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))


def within(start: int, stop: int, extent: int) -> slice:
    """Part of an axis that samples `start..stop-1` come from, those beyond its ends mirrored."""
    index = mirrored(start, stop, extent)
    return slice(int(index.min()), int(index.max()) + 1)
