"""Extents and tiles of a network, as exact arithmetic on one axis and its product over axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from unetflow.orientations import Region
from unetflow.orientations import orientations as symmetries


@dataclass(frozen=True)
class AxisGeometry:
    """What a network with valid convolutions does to one axis.

    An input extent is admissible when every pooling sees an even extent: `minimum + k * divisor`
    for k >= 0. The output is `2 * halo` shorter, and its first sample lies at input index `halo`.

    Attributes
    ----------
    divisor : int
        Product of the strides. Tiles whose starts differ by a multiple of it see the same pooling
        grid, which is why only they agree with the prediction of the whole image.
    halo : int
        Samples lost on each side.
    minimum : int
        Smallest admissible input extent.
    """

    divisor: int
    halo: int
    minimum: int

    def is_admissible(self, extent: int) -> bool:
        """Whether the network accepts this input extent."""
        return extent >= self.minimum and (extent - self.minimum) % self.divisor == 0

    def input_for(self, output: int) -> int:
        """Smallest admissible input extent whose output has at least `output` samples."""
        excess = max(output + 2 * self.halo - self.minimum, 0)
        return self.minimum + -(-excess // self.divisor) * self.divisor

    def nearest(self, extent: int) -> tuple[int, int]:
        """Nearest admissible input extents at or below (but at least the minimum) and above."""
        steps = max(extent - self.minimum, 0) // self.divisor
        below = self.minimum + steps * self.divisor
        return below, below + self.divisor

    def step(self, tile: int) -> int:
        """Largest distance between tile starts that is a multiple of the divisor.

        Raises
        ------
        ValueError
            If the input extent `tile` is inadmissible, or leaves no whole step.
        """
        if not self.is_admissible(tile):
            below, above = self.nearest(tile)
            raise ValueError(
                f"tile must be {self.minimum} plus a multiple of {self.divisor}: "
                f"got {tile}; nearest are {below} and {above}"
            )
        step = (tile - 2 * self.halo) // self.divisor * self.divisor
        if step == 0:
            raise ValueError(
                f"tile must leave an output of at least {self.divisor}: got {tile}, which leaves "
                f"{tile - 2 * self.halo}; the smallest is {self.input_for(self.divisor)}"
            )
        return step


Geometry = tuple[AxisGeometry, ...]


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


def unet_geometry(depth: int, dimensions: int, kernel: int = 3, convolutions: int = 2) -> Geometry:
    """Geometry of a U-Net of valid convolutions with 2x pooling, alike on each axis.

    Each level loses `c = convolutions * (kernel - 1)` samples on its way down and again on its way
    up, and one sample of a level is two of the level above: `loss(d) = 2 loss(d-1) + 2 c`.

    Examples
    --------
    >>> axis = unet_geometry(depth=4, dimensions=2)[0]
    >>> axis.divisor, axis.halo, axis.is_admissible(572), 572 - 2 * axis.halo
    (16, 92, True, 388)
    """
    lost_per_level = convolutions * (kernel - 1)
    loss = lost_per_level
    offset = 0
    for _ in range(depth):
        loss = 2 * loss + 2 * lost_per_level
        offset = 2 * offset + lost_per_level
    divisor = 2**depth
    minimum = offset + -(-(loss + 1 - offset) // divisor) * divisor
    return (AxisGeometry(divisor, loss // 2, minimum),) * dimensions


def geometry_to_json(geometry: Geometry) -> list[dict[str, int]]:
    """Return the geometry as it stands in `model.json`."""
    return [asdict(axis) for axis in geometry]


def geometry_from_json(facts: Sequence[dict[str, int]]) -> Geometry:
    """Return the geometry that `model.json` states."""
    return tuple(AxisGeometry(**axis) for axis in facts)


def axis_tiles(start: int, stop: int, axis: AxisGeometry, tile: int | None) -> list[Span]:
    """Tiles of at most `tile` input samples that write `start..stop-1` of an axis exactly once.

    All tiles start at multiples of the divisor, counted from the start of the image, whatever the
    region. The number of tiles is the least that `tile` allows; their steps are then made equal, so
    that no last sliver costs a whole tile. Where the image ends at an extent that is not
    admissible it is extended past its end, by mirroring, to the next one that is.

    Parameters
    ----------
    tile : int or None
        None takes one tile for all of it.
    """
    if start >= stop:
        return []
    first = start // axis.divisor * axis.divisor
    count = 1 if tile is None else -(-(stop - first) // axis.step(tile))
    step = -(-(stop - first) // (count * axis.divisor)) * axis.divisor
    spans = []
    for tile_start in range(first, stop, step):
        tile_stop = min(tile_start + step, stop)
        read_start = tile_start - axis.halo
        read_stop = read_start + axis.input_for(tile_stop - tile_start)
        written = max(tile_start, start)
        spans.append(Span(written, tile_stop, read_start, read_stop, written - tile_start))
    return spans


def tiles(
    region: Sequence[slice], geometry: Geometry, tile: Sequence[int] | None
) -> list[tuple[Span, ...]]:
    """Tiles that write every pixel of a region of an image exactly once, in C order."""
    extents = tile or (None,) * len(region)
    spans = [
        axis_tiles(part.start, part.stop, axis, extent)
        for part, axis, extent in zip(region, geometry, extents, strict=True)
    ]
    return list(product(*spans))


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
            axis_tiles(part.start, part.stop, axis, extent)
            for part, axis, extent in zip(
                turned,
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
