"""OpenVINO's network says what torch's says, and tiles of it are exact too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unetflow import inference
from unetflow.compiled import OpenVinoNetwork
from unetflow.inference import (
    Model,
    array_reader,
    build,
    choose_backend,
    choose_precision,
    logits,
)
from unetflow.models.fcn.settings import FcnSettings
from unetflow.models.sliding_window.settings import SlidingWindowSettings
from unetflow.models.ternausnet.settings import TernausNetSettings
from unetflow.models.unet.settings import UNetSettings
from unetflow.settings.network import NetworkSettings

torch.set_num_threads(1)

CASES = [(2, 3, (211, 187), [1, 5]), (3, 1, (40, 37, 33), [3])]


def pair(
    dimensions: int, depth: int, precision: str, padding: str = "valid"
) -> tuple[Model, Model]:
    """Return a model as torch runs it and as OpenVINO does."""
    torch.manual_seed(0)
    architecture = UNetSettings(dimensions=dimensions, width=4, depth=depth, padding=padding)
    network = build(architecture, 1, 2).eval()
    geometry = architecture.geometry
    plain = Model(network, geometry, torch.device("cpu"), precision, {})
    example = torch.zeros(1, 1, *[axis.smallest_tile for axis in geometry])
    return plain, replace(plain, network=OpenVinoNetwork(network, example, precision, 1))


def predict(model: Model, pixels: NDArray[np.float32], tile: tuple[int, ...] | None) -> NDArray:
    shape = pixels.shape[1:]
    region = tuple(slice(0, extent) for extent in shape)
    return logits(model, array_reader(pixels), shape, region, tile)


def compare(
    dimensions: int, depth: int, shape: tuple[int, ...], steps: list[int], *how: str
) -> tuple[float, float]:
    """Differences from torch, and of tiles from the whole, as shares of the logits' range."""
    torch.set_num_threads(1)
    plain, fast = pair(dimensions, depth, *how)
    pixels = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    expected, whole = predict(plain, pixels, None), predict(fast, pixels, None)
    worst = 0.0
    for step in steps:
        tile = tuple(axis.at_least(step * axis.divisor + 2 * axis.reach) for axis in plain.geometry)
        worst = max(worst, float(np.abs(predict(fast, pixels, tile) - whole).max()))
    spread = float(np.ptp(expected))
    return float(np.abs(whole - expected).max()) / spread, worst / spread


def other(architecture: NetworkSettings) -> float:
    """Largest difference from torch, as a share of the range, over tiles with and without border.

    The extents are not those that the network was converted with.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build(architecture, 1, 2).eval()
    for values in network.parameters():
        if not values.any():
            torch.nn.init.normal_(values, std=0.1)
    axis = architecture.geometry[0]
    example = torch.zeros(1, 1, axis.smallest_tile, axis.smallest_tile)
    fast = OpenVinoNetwork(network, example, "32", 1)
    pixels = torch.randn(1, 1, axis.at_least(axis.smallest_tile + 1), axis.smallest_tile)
    worst = 0.0
    for border in ([(False, False)] * 2, [(axis.padded, False), (False, axis.padded)]):
        with torch.inference_mode():
            expected, found = network(pixels, border), fast(pixels, border)
        worst = max(worst, float((found - expected).abs().max() / np.ptp(expected.numpy())))
    return worst


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """Return another process: after OpenVINO has computed in bf16, training in this one crashes."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize(("dimensions", "depth", "shape", "steps"), CASES)
@pytest.mark.parametrize("padding", ["valid", "zeros"])
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_openvino_equals_torch_and_tiles_equal_the_whole(
    process: ProcessPoolExecutor,
    dimensions: int,
    depth: int,
    shape: tuple[int, ...],
    steps: list[int],
    precision: str,
    padding: str,
) -> None:
    if choose_precision(torch.device("cpu"), "auto") != precision == "bf16":
        pytest.skip("this CPU does not compute in bf16")
    how = (dimensions, depth, shape, steps, precision, padding)
    from_torch, from_whole = process.submit(compare, *how).result()
    # bf16 has 8 binary digits; sums are taken in another order before each layer is rounded.
    assert from_torch <= (1e-5 if precision == "32" else 2**-7)
    assert from_whole <= 1e-6


def test_without_openvino_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"pip install 'unetflow\[openvino\]', or set torch"):
        OpenVinoNetwork(torch.nn.Identity(), torch.zeros(1, 1, 8, 8), "32", 1)


@pytest.mark.parametrize(
    ("installed", "device", "expected"),
    [(True, "cpu", "openvino"), (True, "cuda", "torch"), (False, "cpu", "torch")],
)
def test_auto_is_openvino_on_a_cpu_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, installed: bool, device: str, expected: str
) -> None:
    monkeypatch.setattr(inference, "find_spec", lambda name: installed or None)
    place = torch.device(device)
    assert choose_backend(place, "auto") == expected
    assert choose_backend(place, "torch") == "torch"


@pytest.mark.parametrize(
    "architecture",
    [
        TernausNetSettings(network="ternausnet", width=4),
        FcnSettings(network="fcn", width=2, padding="zeros"),
        SlidingWindowSettings(network="sliding_window", width=4, hidden=8),
        UNetSettings(width=4, depth=2, blocks="residual", attention=True, normalisation="instance"),
        UNetSettings(width=8, depth=2, upsampling="bilinear", normalisation="layer"),
        UNetSettings(
            width=4, depth=2, upsampling="bilinear", padding="zeros", attention=True, pool_size=4
        ),
        UNetSettings(
            width=4, depth=2, upsampling="nearest", padding="zeros", normalisation="batch"
        ),
    ],
    ids=lambda of: "-".join(
        str(getattr(of, name, "")) for name in ("network", "upsampling", "normalisation")
    ),
)
def test_every_network_is_converted(
    process: ProcessPoolExecutor, architecture: NetworkSettings
) -> None:
    assert process.submit(other, architecture).result() < 1e-5
