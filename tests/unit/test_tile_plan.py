"""Tiles of prediction: measured memory, operations counted by hand, choices against brute force."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from unetflow.geometry import tiles
from unetflow.inference import build
from unetflow.models.unet.settings import UNetSettings
from unetflow.tile_plan import ALIKE, HOLES, choose_tile, followed, peak_bytes, plan_of, trace

MEASURE = """
import re, torch
from pathlib import Path
from unetflow.inference import autocast, build
from unetflow.models.unet.settings import UNetSettings
torch.set_num_threads(2)
model, tile = UNetSettings(**{model!r}), {tile!r}
status = Path("/proc/self/status")
def read(name):
    return 1024 * int(re.search(name + r":\\s*(\\d+)", status.read_text())[1])
def predict(model, tile):
    network = build(model, 1, 2).eval()
    pixels = torch.randn(1, 1, *tile)
    with torch.inference_mode(), autocast(torch.device("cpu"), {precision!r}):
        network(pixels)[0].float().numpy()
# Loads the convolution library, which is not the tile's.
predict(model.model_copy(update=dict(width=16, depth=1)), [160] * 2 if len(tile) == 2 else [40] * 3)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = read("VmRSS")
predict(model, tile)
print(read("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("model", "tile", "precision", "within"),
    [
        ({"width": 16}, (828, 828), "32", 0.05),
        ({"width": 16}, (828, 828), "bf16", 0.05),
        ({"width": 64}, (572, 572), "32", 0.15),
        ({"width": 64}, (396, 396), "bf16", 0.15),
        ({"width": 16, "depth": 2, "dimensions": 3}, (100, 100, 100), "32", 0.15),
    ],
)
def test_the_memory_of_a_tile_is_that_of_a_process_that_predicts_it(
    model: dict[str, Any], tile: tuple[int, ...], precision: str, within: float
) -> None:
    """But for holes of its heap, which change from run to run: each tensor is mapped by itself."""
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN does not compute in bf16 on this CPU: PyTorch unfolds images instead")
    traced = trace(UNetSettings(**model), 1, 2, precision, "cpu")
    tensors = (traced.peak_bytes(tile) - traced.weight_bytes) / HOLES
    found = measured(model, tile, precision, MALLOC_MMAP_THRESHOLD_="65536")
    assert traced.weight_bytes + tensors == pytest.approx(found, rel=within)


def measured(
    model: dict[str, Any], tile: tuple[int, ...], precision: str, **environment: str
) -> int:
    """Bytes by which a process grows that predicts one tile."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(model=model, tile=tile, precision=precision)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return int(done.stdout)


def test_the_memory_of_a_tiny_network_is_what_one_counts_by_hand() -> None:
    """The peak is the second convolution: input 20², its own input 2 x 18², its output 2 x 16²."""
    model = UNetSettings(width=2, depth=1)
    kernels = (9, 1, 2), (9, 2, 2), (9, 2, 4), (9, 4, 4), (4, 4, 2), (9, 4, 2), (9, 2, 2), (1, 2, 2)
    weights = sum(taps * inputs * outputs + outputs for taps, inputs, outputs in kernels)
    alive = 20**2 + 2 * 18**2 + 2 * 16**2
    assert peak_bytes(model, 1, 2, (20, 20), "32", "gpu") == 4 * (weights + alive)
    rearranged = 9 * 2 * 2
    on_cpu = 4 * weights + round(HOLES * 4 * (alive + rearranged))
    assert peak_bytes(model, 1, 2, (20, 20), "32", "cpu") == on_cpu
    # In bf16 the input exists twice, and a copy of the kernel is cast.
    halves = 4 * 20**2 + 2 * (alive + rearranged)
    assert peak_bytes(model, 1, 2, (20, 20), "bf16", "gpu") == 4 * weights + halves


@pytest.mark.parametrize("dimensions", [2, 3])
def test_memory_grows_with_tile_and_width_and_halves_in_bf16(dimensions: int) -> None:
    model = UNetSettings(width=16, depth=2, dimensions=dimensions)
    wider = model.model_copy(update={"width": 32})
    axis = model.geometry[0]
    sizes = [(axis.minimum + 8 * n * axis.divisor,) * dimensions for n in range(1, 6)]
    needs = [peak_bytes(model, 1, 2, tile, "32") for tile in sizes]
    assert needs == sorted(set(needs))
    for tile, need in zip(sizes, needs, strict=True):
        assert peak_bytes(wider, 1, 2, tile, "32") > 1.5 * need
        assert peak_bytes(model, 1, 2, tile, "bf16") < 0.8 * need


@given(st.data())
@examples(max_examples=20)
def test_what_is_traced_on_the_smallest_tiles_holds_for_any(data: st.DataObject) -> None:
    dimensions = data.draw(st.sampled_from([2, 3]))
    precision, device = data.draw(st.sampled_from([("32", "cpu"), ("bf16", "gpu")]))
    model = UNetSettings(width=4, depth=2, dimensions=dimensions)
    traced = trace(model, 3, 2, precision, device)
    tile = [axis.minimum + data.draw(st.integers(0, 40)) * axis.divisor for axis in model.geometry]
    with torch.device("meta"):
        network = build(model, 3, 2).eval()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    lifetimes, operations = followed(network.to(dtype), (1, 3, *tile), dtype, device)
    assert traced.at(traced.sizes, tile).tolist() == lifetimes.sizes
    assert traced.at(traced.operations, tile) == operations == walked(model, 3, 2, tile)


def walked(model: UNetSettings, channels: int, classes: int, tile: list[int]) -> int:
    """Operations of a U-Net, counted layer by layer: two for each tap, channel and sample."""
    d, extents, total = model.dimensions, list(tile), 0
    widths = [model.width * 2**level for level in range(model.depth + 1)]

    def block(inputs: int, outputs: int) -> int:
        extents[:] = [n - 2 for n in extents]
        first = 2 * 3**d * inputs * outputs * math.prod(extents)
        extents[:] = [n - 2 for n in extents]
        return first + 2 * 3**d * outputs * outputs * math.prod(extents)

    for level, (inputs, width) in enumerate(zip([channels, *widths[:-1]], widths, strict=True)):
        extents = [n // 2 for n in extents] if level else extents
        total += block(inputs, width)
    for width in reversed(widths[:-1]):
        total += 2 * 2**d * 2 * width * width * math.prod(extents)
        extents = [2 * n for n in extents]
        total += block(2 * width, width)
    return total + 2 * model.width * classes * math.prod(extents)


def test_the_papers_tile_computes_two_fifths_too_much() -> None:
    """Steps of 384, of an image so large that its own border is nothing."""
    traced = trace(UNetSettings(), 1, 2, "32", "cpu")
    _, plan = plan_of(traced, (384 * 400, 384 * 400), (572, 572))
    assert plan.count == 400**2
    assert plan.waste == pytest.approx(1.39, abs=0.005)


cases = st.tuples(
    st.sampled_from([("cpu", "32"), ("cpu", "bf16"), ("gpu", "32")]),
    st.sampled_from([1.5e6, 4e6, 1e8]),
    st.tuples(st.integers(1, 60), st.integers(1, 120)),
)


@given(cases)
@examples(max_examples=20, deadline=None)
def test_a_chosen_tile_fits_and_no_admissible_one_that_fits_is_faster(
    case: tuple[tuple[str, str], float, tuple[int, int]],
) -> None:
    (device, precision), memory_bytes, extents = case
    model = UNetSettings(width=8, depth=2)
    traced = trace(model, 1, 2, precision, device)
    region = [slice(0, extent) for extent in extents]

    def predicted(tile: tuple[int, ...]) -> tuple[float, int, int, int]:
        """Cost, memory, operations and number of the tiles that write the image."""
        shapes = Counter(
            tuple(span.read_stop - span.read_start for span in spans)
            for spans in tiles(region, extents, model.geometry, tile)
        )
        cost = sum(n * traced.cost(shape) for shape, n in shapes.items())
        operations = sum(n * walked(model, 1, 2, list(shape)) for shape, n in shapes.items())
        memory = max(peak_bytes(model, 1, 2, shape, precision, device) for shape in shapes)
        return cost, memory, operations, shapes.total()

    plan = choose_tile(model, 1, 2, extents, memory_bytes, precision, device)
    assert all(axis.is_admissible(n) for axis, n in zip(model.geometry, plan.tile, strict=True))
    cost, memory, operations, count = predicted(plan.tile)
    assert (plan.peak_bytes, plan.operations, plan.count) == (memory, operations, count)
    assert plan.peak_bytes <= memory_bytes
    assert plan.waste >= 1
    assert (plan.waste == 1) == (count == 1)
    assert plan.seconds == (pytest.approx(cost) if device == "cpu" else None)
    choices = [
        [axis.input_for(step) for step in range(axis.divisor, extent + axis.divisor, axis.divisor)]
        for axis, extent in zip(model.geometry, extents, strict=True)
    ]
    for tile in product(*choices):
        other_cost, other_memory, other_operations, other_count = predicted(tile)
        if other_memory <= memory_bytes:
            assert cost <= ALIKE * other_cost * (1 + 1e-9)
        if other_count == count and all(a <= b for a, b in zip(tile, plan.tile, strict=True)):
            assert operations <= other_operations


def test_an_image_that_fits_is_one_tile_where_nothing_speaks_against_it() -> None:
    plan = choose_tile(UNetSettings(), 1, 2, (388, 388), 4e9, "32", "gpu")
    assert (plan.count, plan.waste) == (1, 1.0)


def test_a_thin_stack_is_never_divided_along_its_planes() -> None:
    model = UNetSettings(width=16, depth=3, dimensions=3)
    plan = choose_tile(model, 1, 2, (30, 512, 512), 2e9, "32")
    planes, rows, columns = (
        axis.step(extent) for axis, extent in zip(model.geometry, plan.tile, strict=True)
    )
    assert planes == 32
    assert min(rows, columns) > 32


def test_a_wide_image_of_a_thin_network_is_divided_on_a_cpu_and_left_whole_on_a_gpu() -> None:
    """Features of more than 32 MiB cost a CPU page faults."""
    model = UNetSettings(width=16)
    assert choose_tile(model, 1, 2, (1024, 1024), 4e9, "32", "cpu").count > 1
    assert choose_tile(model, 1, 2, (1024, 1024), 4e9, "32", "gpu").count <= 2


def test_a_budget_below_the_smallest_tile_says_what_is_needed() -> None:
    smallest = peak_bytes(UNetSettings(), 1, 2, (204, 204), "32")
    message = (
        "prediction must fit predict.memory_gb: got 0.1 GB, but the smallest tile, 204 x 204, "
        f"needs {smallest / 1e9:.2f} GB; raise it, or lower model.width"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        choose_tile(UNetSettings(), 1, 2, (2048, 2048), 0.1e9, "32")
