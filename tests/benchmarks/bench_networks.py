"""Each network at its usual tile: a step of training, and a tile predicted, against the machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from harness import (
    ROUNDS,
    Prepared,
    Skip,
    compare,
    convolution,
    convolution_rates,
    read,
    synchronised,
    write,
)
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from unetflow.compiled import OpenVinoNetwork
from unetflow.inference import autocast, build, choose_precision
from unetflow.models.fcn.settings import FcnSettings
from unetflow.models.sliding_window.settings import SlidingWindowSettings
from unetflow.models.ternausnet.settings import TernausNetSettings
from unetflow.models.unet.settings import UNetSettings
from unetflow.optimisation import State
from unetflow.settings.network import NetworkSettings
from unetflow.settings.training import TrainSettings
from unetflow.training import PRECISIONS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CORES = os.cpu_count() or 1
CLASSES = 2
PASSES = 10
"""Of the convolution that is timed: one takes milliseconds."""


@dataclass(frozen=True)
class Case:
    """A network of published width, and the extents of its inputs.

    Attributes
    ----------
    patch, tile : tuple of int
        Of training and of prediction.
    """

    name: str
    settings: NetworkSettings
    patch: tuple[int, ...]
    tile: tuple[int, ...]


CASES = (
    Case("U-Net", UNetSettings(), (572, 572), (572, 572)),
    Case(
        "3D U-Net",
        UNetSettings(dimensions=3, width=32, depth=3, normalisation="batch", widening="before"),
        (116, 132, 132),
        (116, 132, 132),
    ),
    Case("FCN-8s", FcnSettings(network="fcn", padding="zeros"), (384, 384), (384, 384)),
    Case("TernausNet", TernausNetSettings(network="ternausnet"), (384, 384), (384, 384)),
    Case("sliding window", SlidingWindowSettings(network="sliding_window"), (222,) * 2, (606,) * 2),
)


def outputs(case: Case, extents: tuple[int, ...]) -> tuple[int, ...]:
    """Extents of what the network gives for an input."""
    pairs = zip(extents, case.settings.geometry, strict=True)
    return tuple(extent - 2 * axis.frame for extent, axis in pairs)


def batch(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, classes and weights of one patch."""
    generator, shape = torch.Generator().manual_seed(0), (1, *outputs(case, case.patch))
    pixels = torch.randn(1, 1, *case.patch, generator=generator)
    classes = torch.randint(CLASSES, shape, generator=generator)
    weights = 1 + torch.rand(shape, generator=generator)
    return pixels.to(DEVICE), classes.to(DEVICE), weights.to(DEVICE)


def step(case: Case, precision: str) -> Prepared:
    """`State.take_step`, as the rule train_model calls it."""
    chosen = {"precision": PRECISIONS[precision], "plugins": LightningEnvironment()}
    fabric = Fabric(accelerator=DEVICE.type, devices=1, **chosen)
    settings = TrainSettings(recipe="modern", steps=10**6, batch=1)
    network, parts = build(case.settings, 1, CLASSES).to(DEVICE), batch(case)
    state = State(fabric, network.train(), settings, 10**6)
    return Prepared(synchronised(lambda: state.take_step(parts), DEVICE.type))


def forward(case: Case, precision: str) -> Prepared:
    """A tile, as `inference.logits` predicts it."""
    network = build(case.settings, 1, CLASSES).to(DEVICE).eval()
    pixels = torch.randn(1, 1, *case.tile, device=DEVICE)
    if pixels.ndim == 4:
        pixels = pixels.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> None:
        with autocast(DEVICE, precision):
            network(pixels)

    return Prepared(synchronised(run, DEVICE.type))


def openvino(case: Case, precision: str) -> Prepared:
    """The same with `predict.backend: openvino`."""
    if DEVICE.type != "cpu":
        raise Skip("for CPUs")
    example = torch.zeros(1, 1, *(axis.smallest_tile for axis in case.settings.geometry))
    made = build(case.settings, 1, CLASSES).eval()
    run = partial(OpenVinoNetwork(made, example, precision, CORES), torch.randn(1, 1, *case.tile))
    run()  # compiles, for longer than a method may take to be run in rounds
    return Prepared(run)


def floor(channels: int, precision: str, work: int) -> Prepared:
    """As many operations, all of one wide convolution: "against ours" is our share of its speed."""
    run, operations = convolution(channels, precision, DEVICE.type)

    def several() -> None:
        for _ in range(PASSES):
            run()

    return Prepared(several, times=work / operations / PASSES)


def operations(case: Case, training: bool) -> int:
    """Floating-point operations of a step, forward and backward, or of a tile."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build(case.settings, 1, CLASSES)
        if training:
            classes = torch.zeros(1, *outputs(case, case.patch), dtype=torch.long)
            functional.cross_entropy(network(torch.empty(1, 1, *case.patch)), classes).backward()
        else:
            network.eval()(torch.empty(1, 1, *case.tile))
    return int(counter.get_total_flops())


TRAINING: Mapping[str, Callable[[Case, str], Prepared]] = {"unetflow": step}
PREDICTION: Mapping[str, Callable[[Case, str], Prepared]] = {
    "unetflow": forward,
    "unetflow, OpenVINO": openvino,
}
FLOOR = "the same work as one wide convolution"


def compare_case(
    case: Case, training: bool, precision: str, channels: int, rounds: int = ROUNDS
) -> list[dict[str, object]]:
    """Rows of a step of training or of a tile predicted; the convolution takes turns with them."""
    work, extents = operations(case, training), case.patch if training else case.tile
    methods = {
        name: partial(make, case, precision)
        for name, make in (TRAINING if training else PREDICTION).items()
    }
    methods[FLOOR] = partial(floor, channels, precision, work)
    torch.manual_seed(0)
    rows = compare(title(case, training, precision), methods, rounds, traced=False)
    times = {row["method"]: row.get("median_seconds") for row in rows}
    fastest, size = float(str(times[FLOOR])), torch.Size(outputs(case, extents)).numel()
    for row in rows:
        if "median_seconds" not in row:
            continue
        seconds = float(str(row["median_seconds"]))
        told = [f"{work / seconds / 1e12:.3g} TFLOP/s"]
        if row["method"] == FLOOR:
            told.append(f"{channels} channels")
        else:
            told.append(f"{fastest / seconds:.2f} of the convolution")
            told.append(f"{size / seconds / 1e6:.3g} Mvoxel/s")
        row["note"] = "; ".join([*told, *filter(None, [str(row["note"])])])
    return rows


def title(case: Case, training: bool, precision: str) -> str:
    """What stands in the table."""
    extents = "×".join(map(str, case.patch if training else case.tile))
    what = "step of training" if training else "prediction"
    return f"{case.name}, {what}, {extents}, {precision}, {DEVICE.type}"


def main(chosen: list[str]) -> None:
    """Time all networks, or only the cases whose names hold a chosen word.

    The rows of other cases stay as they were measured before.
    """
    torch.set_num_threads(CORES)
    # In bf16 only where the machine computes in it.
    precisions = dict.fromkeys((choose_precision(DEVICE, "auto"), "32"))
    every = [
        (case, training, precision)
        for case in CASES
        for training in (True, False)
        for precision in precisions
    ]
    before, rates = read("networks"), {of: convolution_rates(of, DEVICE.type) for of in precisions}
    rows = {title(*each): before.get(title(*each), []) for each in every if chosen}
    for case, training, precision in every:
        name = title(case, training, precision)
        if chosen and not any(word in name for word in chosen):
            continue
        channels = max(rates[precision], key=rates[precision].__getitem__)
        rows[name] = compare_case(case, training, precision, channels)
        write("networks", [*chain(*rows.values())])  # the next case can take long


if __name__ == "__main__":
    main(sys.argv[1:])
