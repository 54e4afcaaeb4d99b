"""The plan of prediction tiles: their memory, their time, and the fastest that fits a budget.

A larger tile computes less of its neighbours again, but needs more memory. What a forward pass
needs is counted on tensors without data, so that the plan is the same wherever it is made.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from unetflow.geometry import AxisGeometry, axis_tiles
from unetflow.inference import build
from unetflow.settings.network import NetworkSettings

HOLES = 1.12
"""Memory of a CPU process over that of its tensors: glibc reuses what is freed below 32 MiB, but
not all of it. Measured between 0.98 and 1.36; without holes, every tensor mapped by itself
(MALLOC_MMAP_THRESHOLD_), between 0.99 and 1.03 in 2D."""
RATES = {"32": 320e9, "bf16": 550e9}
"""Operations a second, by precision: one core with AVX-512 (of an AMD EPYC 9005), as the next two.
Fitted to times of widths 16 and 64 in 2D and 16 in 3D; only their proportions reach the choice."""
MAKING_RATE = 3.8e9
"""Bytes a second of tensors made: thin networks wait for memory."""
MAPPED_BYTES = 32 * 2**20
"""Larger tensors glibc maps anew each time (DEFAULT_MMAP_THRESHOLD_MAX), which is why thin networks
slow down beyond some tile."""
MAPPING_RATE = 1.8e9
"""Bytes a second of tensors mapped, which cost a page fault each 4 KiB."""
ALIKE = 1.05
"""Times that differ less are not told apart; the tile of least memory is taken."""


@dataclass(frozen=True)
class TilePlan:
    """The tile of an image, and what predicting the image with it takes.

    Attributes
    ----------
    tile : tuple of int
        Largest input extent per axis, as `geometry.axis_tiles` takes it.
    count : int
        Tiles of the image.
    operations : int
        Floating-point operations of all of them; a multiplication and an addition are two.
    waste : float
        Operations over those of the whole image as one tile, which are the fewest.
    peak_bytes : int
        Of the largest tile.
    seconds : float or None
        On one core of the CPU that `RATES` tells of; None on a GPU.
    """

    tile: tuple[int, ...]
    count: int
    operations: int
    waste: float
    peak_bytes: int
    seconds: float | None


class Lifetimes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows tensors from their making to their end.

    Attributes
    ----------
    sizes : list of int
        Bytes of each tensor that was made, and of the copies that convolutions make inside.
    moments : list of list of int
        Which of them exist at once, after each operation.
    """

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.sizes: list[int] = []
        self.moments: list[list[int]] = []
        self.alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and note what exists after it."""
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.alive:
                self.alive[storage._cdata] = self.add(storage.nbytes())
                weakref.finalize(storage, self.alive.pop, storage._cdata)
        inside = []
        if operation is torch.ops.aten.convolution.default:
            inside = [self.add(size) for size in copies(args[0], args[1], result, self.device)]
        self.moments.append([*self.alive.values(), *inside])
        return result

    def add(self, size: int) -> int:
        """Number of a further tensor."""
        self.sizes.append(size)
        return len(self.sizes) - 1


def copies(inputs: Tensor, weight: Tensor, outputs: Tensor, device: str) -> Iterator[int]:
    """Bytes of each copy that a convolution makes for itself, and drops at its end."""
    if weight.dtype == torch.bfloat16:
        yield weight.nbytes  # autocast keeps none of its casts in inference mode
    if device == "cpu":
        yield weight.nbytes  # in oneDNN's order
    if inputs.ndim != 5:
        return  # planes are channels-last, as convolutions want them; volumes are not
    if device == "cpu" and weight.dtype == torch.float32 and inputs.shape[1] < 4:
        # PyTorch unfolds volumes of few channels instead of calling oneDNN, unless they are large;
        # there the features of all but the thinnest networks need more than this.
        yield math.prod(weight.shape[1:]) * math.prod(outputs.shape[2:]) * weight.itemsize
        return
    yield inputs.nbytes
    if device == "cpu":
        channels = outputs.shape[1]  # which oneDNN fills up to sixteen
        yield outputs.nbytes // channels * (-channels % 16)


@dataclass(frozen=True)
class Trace:
    """What forward passes do, for any tile.

    The extents of every tensor are linear in those of the tile, so bytes and operations are linear
    in each of them: exact between and beyond the tiles that were followed, which are the smallest
    and, along each axis, the next.

    Attributes
    ----------
    geometry : tuple of AxisGeometry
    sizes : array (2, ..., tensor) of int64, bytes
    moments : array (moment, tensor) of bool
    operations : array (2, ...) of object, Python's integers
    weight_bytes : int
    device, precision : str
    """

    geometry: tuple[AxisGeometry, ...]
    sizes: NDArray[np.int64]
    moments: NDArray[np.bool_]
    operations: NDArray[np.object_]
    weight_bytes: int
    device: str
    precision: str

    def at(self, corners: NDArray[Any], tile: Sequence[int]) -> Any:
        """Values for a tile, from those of the tiles that were followed."""
        for extent, axis in zip(tile, self.geometry, strict=True):
            steps = (extent - axis.minimum) // axis.divisor
            corners = corners[0] * (1 - steps) + corners[1] * steps
        return corners

    def peak_bytes(self, tile: Sequence[int]) -> int:
        """Largest memory that exists at once."""
        alive = int((self.moments @ self.at(self.sizes, tile)).max())
        return self.weight_bytes + (round(HOLES * alive) if self.device == "cpu" else alive)

    def cost(self, tile: Sequence[int]) -> float:
        """Time of one pass: seconds of a CPU core, operations of a GPU."""
        operations = self.at(self.operations, tile)
        if self.device == "gpu":
            return float(operations)
        sizes = self.at(self.sizes, tile)
        computing = operations / RATES[self.precision]
        mapped = sizes[sizes > MAPPED_BYTES].sum()
        return float(computing + sizes.sum() / MAKING_RATE + mapped / MAPPING_RATE)


@cache
def trace(
    model: NetworkSettings, channels: int, classes: int, precision: str, device: str
) -> Trace:
    """Follow forward passes of the smallest tiles of a network, on tensors without data."""
    axes, stand_in = model.geometry, model.stand_in
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.device("meta"):
        network = build(stand_in, channels, classes).eval()
    weights = sum(values.nbytes for values in network.parameters())
    network.to(dtype)  # by hand: autocast leaves tensors without data alone
    shape = (2,) * len(axes)
    operations = np.empty(shape, object)
    sizes: dict[tuple[int, ...], list[int]] = {}
    for corner in np.ndindex(shape):
        tile = [
            its.at_least(axis.minimum + i * axis.divisor)
            for i, axis, its in zip(corner, axes, stand_in.geometry, strict=True)
        ]
        lifetimes = followed(network, (1, channels, *tile), dtype, device)
        sizes[corner], operations[corner] = lifetimes[0].sizes, lifetimes[1]
    last = lifetimes[0]
    moments = np.zeros((len(last.moments), len(last.sizes)), bool)
    for row, numbers in zip(moments, last.moments, strict=True):
        row[numbers] = True
    table = np.array([sizes[corner] for corner in np.ndindex(shape)]).reshape(*shape, -1)
    return Trace(axes, table, moments, operations, weights, device, precision)


def followed(
    network: nn.Module, shape: Sequence[int], dtype: torch.dtype, device: str
) -> tuple[Lifetimes, int]:
    """Lifetimes and operations of one forward pass, from its float32 input to float32 logits."""
    with (
        torch.no_grad(),
        FlopCounterMode(display=False) as counter,
        Lifetimes(device) as lifetimes,
    ):
        pixels = torch.empty(*shape, device="meta")
        network(pixels.to(dtype)).float()
    return lifetimes, counter.get_total_flops()


def peak_bytes(
    model: NetworkSettings,
    channels: int,
    classes: int,
    tile: Sequence[int],
    precision: str,
    device: str = "cpu",
) -> int:
    """Memory of one forward pass in inference mode: weights, input, features, and logits.

    Processes on a CPU, measured in 2D and 3D, took between 0.88 and 1.21 of it. On a GPU the
    allocator's rounding and cuDNN's workspaces come on top, and in bf16 on a CPU without AVX-512,
    which oneDNN does not compute in, unfolded images: up to four times as much in all.

    Parameters
    ----------
    tile : sequence of int
        Admissible input extent per axis.
    precision : "32" or "bf16"
    device : "cpu" or "gpu"
    """
    return trace(model, channels, classes, precision, device).peak_bytes(tile)


def fitted(extent: int, axis: AxisGeometry) -> list[int]:
    """Tiles of an axis, of which each is the smallest that gives its number of tiles."""
    steps = -(-extent // axis.divisor)
    written = {-(-steps // n) * axis.divisor for n in range(1, steps + 1)}
    # A padded network reads less of an image that is one tile.
    return sorted({axis.at_least(n + 2 * axis.reach) for n in written} | {axis.input_for(extent)})


@cache
def extents_read(extent: int, axis: AxisGeometry, largest: int) -> dict[int, int]:
    """How many tiles of an axis read how many samples."""
    return Counter(
        span.read_stop - span.read_start for span in axis_tiles(0, extent, extent, axis, largest)
    )


def plan_of(traced: Trace, extents: Sequence[int], tile: Sequence[int]) -> tuple[float, TilePlan]:
    """Cost and plan of predicting an image with tiles of at most `tile`."""
    read = [
        extents_read(extent, axis, largest)
        for extent, axis, largest in zip(extents, traced.geometry, tile, strict=True)
    ]
    whole = [axis.input_for(extent) for extent, axis in zip(extents, traced.geometry, strict=True)]
    count = operations = 0
    cost = 0.0
    for kind in product(*(along.items() for along in read)):
        shape, times = [n for n, _ in kind], math.prod(times for _, times in kind)
        count += times
        operations += times * traced.at(traced.operations, shape)
        cost += times * traced.cost(shape)
    return cost, TilePlan(
        tile=tuple(tile),
        count=count,
        operations=operations,
        waste=operations / traced.at(traced.operations, whole),
        peak_bytes=traced.peak_bytes([max(along) for along in read]),
        seconds=cost if traced.device == "cpu" else None,
    )


def choose_tile(
    model: NetworkSettings,
    channels: int,
    classes: int,
    extents: Sequence[int],
    memory_bytes: float,
    precision: str,
    device: str = "cpu",
) -> TilePlan:
    """Return a tile with which an image is predicted soonest within a budget of memory.

    Parameters
    ----------
    extents : sequence of int
        Of the image, along the network's axes: those of a plane where a 2D network goes through a
        stack.
    memory_bytes : float
        Of weights and one forward pass; buffers of the image are not in it.
    precision : "32" or "bf16"
    device : "cpu" or "gpu"

    Raises
    ------
    ValueError
        If not even the smallest tile fits.
    """
    traced = trace(model, channels, classes, precision, device)
    along = [fitted(extent, axis) for extent, axis in zip(extents, model.geometry, strict=True)]
    plans = [plan_of(traced, extents, tile) for tile in product(*along)]
    within = [(cost, plan) for cost, plan in plans if plan.peak_bytes <= memory_bytes]
    if not within:
        least = min((plan for _, plan in plans), key=lambda plan: (plan.peak_bytes, plan.tile))
        raise ValueError(
            f"prediction must fit predict.memory_gb: got {memory_bytes / 1e9:g} GB, but the "
            f"smallest tile, {' x '.join(map(str, least.tile))}, needs "
            f"{least.peak_bytes / 1e9:.2f} GB; raise it, or lower model.width"
        )
    least_cost = min(cost for cost, _ in within)
    alike = [
        (plan.peak_bytes, cost, plan.tile, plan)
        for cost, plan in within
        if cost <= ALIKE * least_cost
    ]
    return min(alike)[-1]
