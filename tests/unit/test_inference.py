"""Overlap-tile inference: tile by tile equals the whole image."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetflow.geometry import geometry_to_json, mirrored, reach
from unetflow.inference import (
    Model,
    array_reader,
    build,
    choose_device,
    choose_precision,
    load,
    logits,
    probabilities,
    sha256,
    softmax,
)
from unetflow.models.unet.settings import UNetSettings
from unetflow.store import write_json

torch.set_num_threads(1)
CPU = torch.device("cpu")

Case = tuple[tuple[int, ...], tuple[int, ...] | None, tuple[slice, ...]]


@cache
def network(
    dimensions: int = 2,
    width: int = 3,
    depth: int = 2,
    channels: int = 1,
    precision: str = "32",
    whole_numbers: bool = False,
    padding: str = "valid",
    normalisation: str = "none",
    seed: int = 1,
) -> Model:
    """Return an untrained model, with statistics as after a training where it normalises.

    Weights of -1, 0 and 1 on whole grey values make every sum exact in float32, whatever the order
    of its terms, so that results can be compared bit for bit on any processor.
    """
    torch.manual_seed(seed)
    chosen = UNetSettings(
        dimensions=dimensions,
        width=width,
        depth=depth,
        padding=padding,
        normalisation=normalisation,
    )
    made = build(chosen, channels, 2).eval()
    for name, values in made.named_buffers():
        if name.endswith("mean"):
            values.normal_(std=0.5)
        elif name.endswith("var"):
            values.uniform_(0.3, 3)
    for parameter in made.parameters():
        if whole_numbers:
            kept = torch.rand(parameter.shape) < 0.4
            parameter.data = kept * torch.randn(parameter.shape).sign()
        elif parameter.ndim == 1:
            parameter.data.normal_(std=0.1)
    return Model(made, chosen.geometry, CPU, precision, {})


def grey(
    shape: Sequence[int], channels: int = 1, whole_numbers: bool = False
) -> NDArray[np.float32]:
    generator = np.random.default_rng(len(shape))
    pixels = generator.normal(0, 1, (channels, *shape))
    return (np.rint(3 * pixels) if whole_numbers else pixels).astype(np.float32)


def everything(shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(0, extent) for extent in shape)


@st.composite
def cases(draw: st.DrawFn, model: Model, largest: int) -> Case:
    """Extents of an image, a tile for it, and a region of it."""
    shape, tile, region = [], [], []
    for axis in model.geometry:
        extent = draw(st.integers(1, largest))
        start = draw(st.integers(0, extent - 1))
        region.append(slice(start, draw(st.integers(start + 1, extent))))
        shape.append(extent)
        tile.append(axis.smallest_tile + axis.divisor * draw(st.integers(0, 11)))
    return tuple(shape), draw(st.none() | st.just(tuple(tile))), tuple(region)


EXACT = network(whole_numbers=True)
SMALL_VOLUMES = network(3, 1, 1, whole_numbers=True)


@pytest.mark.parametrize(
    ("model", "largest"),
    [
        (EXACT, 120),
        (network(whole_numbers=True, padding="zeros"), 120),
        (network(3, 1, 1, whole_numbers=True, seed=7), 30),
        (network(3, 2, 1, whole_numbers=True, padding="zeros", seed=2), 30),
        (network(3, 1, 2, whole_numbers=True, padding="zeros", seed=2), 40),
    ],
    ids=["2D", "2D padded", "3D", "3D padded", "3D padded depth 2"],
)
def test_tiles_of_any_region_equal_the_whole_image_bit_for_bit(model: Model, largest: int) -> None:
    shape = (largest,) * len(model.geometry)
    read = array_reader(grey(shape, whole_numbers=True))
    # With these weights many a network has a dead layer, and would give the same everywhere.
    assert len(np.unique(logits(model, read, shape, everything(shape), None))) > 200

    @given(cases(model, largest))
    @settings(deadline=None, max_examples=100)
    def check(case: Case) -> None:
        shape, tile, region = case
        read = array_reader(grey(shape, whole_numbers=True))
        whole = logits(model, read, shape, everything(shape), None)
        assert np.abs(whole).max() < 2**24  # else sums would not be exact
        part = logits(model, read, shape, region, tile)
        assert part.tobytes() == whole[:, *region].tobytes()

    check()


# What was measured: 5e-6 of the range of the logits in 2D float32, where torch takes another kernel
# for convolutions of up to 20,480 input values, 1e-7 in 3D, and 0 in bfloat16.
@pytest.mark.parametrize("padding", ["valid", "zeros"])
@pytest.mark.parametrize("normalisation", ["none", "batch"])
@pytest.mark.parametrize(
    ("settled", "largest", "bound"),
    [
        ({"depth": 1, "width": 4, "channels": 2}, 120, 1e-5),
        ({}, 120, 1e-5),
        ({"depth": 3}, 120, 1e-5),
        ({"precision": "bf16"}, 120, 0),
        ({"dimensions": 3, "width": 2, "depth": 1}, 30, 1e-5),
        ({"dimensions": 3, "width": 1, "depth": 2}, 45, 1e-5),
        ({"dimensions": 3, "width": 2, "depth": 1, "precision": "bf16"}, 30, 1e-3),
    ],
    ids=["2D two channels", "2D", "2D depth 3", "2D bf16", "3D", "3D depth 2", "3D bf16"],
)
def test_tiles_equal_the_whole_with_ordinary_weights(
    settled: dict[str, Any], largest: int, bound: float, padding: str, normalisation: str
) -> None:
    if settled.get("precision") == "bf16" and choose_precision(CPU, "auto") != "bf16":
        bound = max(bound, 1e-3)  # emulated
    model = network(**settled, padding=padding, normalisation=normalisation)

    @given(cases(model, largest))
    @settings(deadline=None, max_examples=25)
    def check(case: Case) -> None:
        shape, tile, region = case
        channels = settled.get("channels", 1)
        read = array_reader(grey(shape, channels))
        whole = logits(model, read, shape, everything(shape), None)
        part = logits(model, read, shape, region, tile)
        difference = np.abs(part - whole[:, *region]).max()
        assert difference <= bound * max(np.ptp(whole), np.abs(whole).max())

    check()


def test_tiles_equal_the_whole_bit_for_bit_where_torch_keeps_its_kernel() -> None:
    """Every convolution here, as in the paper's network, has more than 20,480 input values."""
    model = network(width=64, depth=1, channels=64)
    pixels = grey((61, 67), channels=64)
    whole = logits(model, array_reader(pixels), (61, 67), everything((61, 67)), None)
    part = logits(model, array_reader(pixels), (61, 67), everything((61, 67)), (52, 58))
    assert part.tobytes() == whole.tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (37, 2), (53, 41)])
def test_a_whole_image_is_the_network_on_the_mirrored_image(shape: tuple[int, int]) -> None:
    """The reference pads with numpy: the halo before, and after up to an admissible extent."""
    model, pixels = network(), grey(shape)
    pads = []
    for axis, extent in zip(model.geometry, shape, strict=True):
        pads.append((axis.halo, axis.input_for(extent) - axis.halo - extent))
    padded = np.pad(pixels, [(0, 0), *pads], mode="reflect")
    if shape[1] == 1:
        padded = np.broadcast_to(pixels, padded.shape).copy()
    with torch.inference_mode():
        expected = model.network(torch.from_numpy(padded)[None])[0].numpy()
    found = logits(model, array_reader(pixels), shape, everything(shape), None)
    np.testing.assert_allclose(
        found, expected[:, : shape[0], : shape[1]], atol=5e-6 * np.ptp(expected)
    )


@pytest.mark.parametrize("normalisation", ["none", "batch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (37, 2), (53, 41), (44, 40)])
def test_a_whole_image_is_a_padded_network_on_the_image_mirrored_past_its_end_alone(
    shape: tuple[int, int], normalisation: str
) -> None:
    """The reference mirrors with numpy, and pads because it is told of no border."""
    model, pixels = network(padding="zeros", normalisation=normalisation), grey(shape)
    pads = [(0, -extent % 4) for extent in shape]
    extended = np.pad(pixels, [(0, 0), *pads], mode="reflect")
    with torch.inference_mode():
        expected = model.network(torch.from_numpy(extended)[None])[0].numpy()
    found = logits(model, array_reader(pixels), shape, everything(shape), None)
    np.testing.assert_allclose(
        found, expected[:, : shape[0], : shape[1]], atol=5e-6 * np.ptp(expected)
    )


@pytest.mark.parametrize("padding", ["valid", "zeros"])
def test_nothing_is_read_outside_of_the_image(padding: str) -> None:
    shape, asked = (23, 45), []

    def read(region: tuple[slice, ...]) -> NDArray[np.float32]:
        asked.append(region)
        return grey(shape)[:, *region]

    logits(network(padding=padding), read, shape, (slice(3, 20), slice(40, 45)), (48, 52))
    for region in asked:
        for part, extent in zip(region, shape, strict=True):
            assert 0 <= part.start < part.stop <= extent


@pytest.mark.parametrize("start", [0, 2, 4])
@pytest.mark.parametrize("tile", [None, (44, 44)])
def test_an_empty_region_is_refused(start: int, tile: tuple[int, int] | None) -> None:
    region = (slice(start, start), slice(0, 9))
    with pytest.raises(ValueError, match="region must hold at least one pixel"):
        logits(network(), array_reader(grey((9, 9))), (9, 9), region, tile)


# --------------------------------------------------------------------------- orientations

TURNS = [
    *((f"{90 * turns}°", turns, False) for turns in range(4)),
    *((f"{90 * turns}° mirrored", turns, True) for turns in range(4)),
]


def turned(pixels: NDArray[np.float32], turns: int, mirror: bool) -> NDArray[np.float32]:
    pixels = pixels[..., ::-1] if mirror else pixels
    return np.ascontiguousarray(np.rot90(pixels, turns, axes=(-2, -1)))


def turned_back(pixels: NDArray[np.float32], turns: int, mirror: bool) -> NDArray[np.float32]:
    pixels = np.rot90(pixels, -turns, axes=(-2, -1))
    return pixels[..., ::-1] if mirror else pixels


@pytest.mark.parametrize("count", [1, 4, 8])
@pytest.mark.parametrize(("dimensions", "shape"), [(2, (31, 46)), (3, (5, 9, 14))])
def test_the_mean_over_orientations_equals_turning_the_whole_image(
    count: int, dimensions: int, shape: tuple[int, ...]
) -> None:
    model = network(dimensions, 2, 1)
    pixels = grey(shape)
    expected = np.zeros((2, *shape))
    for _, turns, mirror in TURNS[:count]:
        image = turned(pixels, turns, mirror)
        extents = image.shape[1:]
        found = logits(model, array_reader(image), extents, everything(extents), None)
        likelihood = np.exp(found.astype(np.float64))
        expected += turned_back(likelihood / likelihood.sum(axis=0), turns, mirror) / count
    read = array_reader(pixels)
    mean = probabilities(model, read, shape, everything(shape), None, orientations=count)
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    np.testing.assert_allclose(mean.sum(axis=0), 1, atol=1e-6)


@given(cases(EXACT, 70), st.sampled_from([4, 8]))
@settings(deadline=None, max_examples=40)
def test_the_mean_over_orientations_is_the_same_for_any_tile_and_region(
    case: Case, count: int
) -> None:
    shape, tile, region = case
    read = array_reader(grey(shape, whole_numbers=True))
    whole = probabilities(EXACT, read, shape, everything(shape), None, count)
    part = probabilities(EXACT, read, shape, region, tile, count)
    assert part.tobytes() == np.ascontiguousarray(whole[:, *region]).tobytes()


def test_a_turned_image_gets_the_turned_mean() -> None:
    pixels = grey((30, 21), whole_numbers=True)
    straight = probabilities(EXACT, array_reader(pixels), (30, 21), everything((30, 21)), None, 8)
    for _, turns, mirror in TURNS:
        image = turned(pixels, turns, mirror)
        extents = image.shape[1:]
        found = probabilities(EXACT, array_reader(image), extents, everything(extents), None, 8)
        np.testing.assert_allclose(turned_back(found, turns, mirror), straight, atol=1e-6)


@given(cases(SMALL_VOLUMES, 24), st.sampled_from([16, 48]))
@settings(deadline=None, max_examples=10)
def test_the_mean_over_a_volumes_symmetries_is_the_same_for_any_tile_and_region(
    case: Case, count: int
) -> None:
    shape, tile, region = case
    read = array_reader(grey(shape, whole_numbers=True))
    whole = probabilities(SMALL_VOLUMES, read, shape, everything(shape), None, count)
    part = probabilities(SMALL_VOLUMES, read, shape, region, tile, count)
    assert part.tobytes() == np.ascontiguousarray(whole[:, *region]).tobytes()


@given(cases(EXACT, 70), st.sampled_from([1, 4, 8]))
@settings(deadline=None, max_examples=40)
def test_a_region_reads_what_it_says_and_all_of_it(case: Case, count: int) -> None:
    shape, tile, region = case
    pixels = grey(shape)
    asked = [np.zeros(extent, bool) for extent in shape]

    def read(part: tuple[slice, ...]) -> NDArray[np.float32]:
        for axis, along in enumerate(part):
            asked[axis][along] = True
        return pixels[:, *part]

    probabilities(EXACT, read, shape, region, tile, count)
    for along, part in zip(asked, reach(EXACT.geometry, shape, region, tile, count), strict=True):
        assert (np.flatnonzero(along)[[0, -1]] == (part.start, part.stop - 1)).all()


@given(st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, 2**32))))
def test_softmax_is_stable_and_sums_to_one(case: tuple[int, int]) -> None:
    classes, seed = case
    values = np.random.default_rng(seed).normal(0, 100, (classes, 5)).astype(np.float32)
    likelihood = softmax(values)
    assert np.isfinite(likelihood).all()
    np.testing.assert_allclose(likelihood.sum(axis=0), 1, rtol=1e-6)
    np.testing.assert_array_equal(softmax(values + 0), likelihood)


# -------------------------------------------------------------------------------- loading


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model's two files."""
    model = network()
    tensors = {key: value.contiguous() for key, value in model.network.state_dict().items()}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    write_json(
        tmp_path / "model.json",
        {
            "network": UNetSettings(width=3, depth=2).model_dump(mode="json"),
            "geometry": geometry_to_json(model.geometry),
            "channels": 1,
            "class_names": ["background", "cell"],
            "weights_sha256": sha256(tmp_path / "model.safetensors"),
        },
    )
    return tmp_path


def test_a_loaded_model_predicts_as_the_one_that_was_saved(folder: Path) -> None:
    loaded, read = load(folder, "cpu", "32"), array_reader(grey((40, 30)))
    assert not loaded.network.training
    assert loaded.geometry == network().geometry
    results = [
        logits(model, read, (40, 30), everything((40, 30)), None) for model in (network(), loaded)
    ]
    np.testing.assert_array_equal(*results)


def test_weights_of_another_training_are_refused(folder: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    stated = "0" * 64
    write_json(folder / "model.json", {**facts, "weights_sha256": stated})
    message = (
        f"weights must have the SHA-256 that model.json states: got {facts['weights_sha256']}, "
        f"expected {stated}; copy both files again from the same training"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load(folder, "cpu", "32")


def test_weights_cut_short_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model\.safetensors: weights must have the"):
        load(folder, "cpu", "32")


def test_a_gpu_that_is_not_there_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device must exist: got gpu, but torch sees none; set"):
        load(folder, "gpu", "32")
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")


def test_mirroring_of_a_tile_is_that_of_its_axes() -> None:
    """The reference in the other tests, on a corner: rows and columns before the image's first."""
    pixels = np.arange(12).reshape(3, 4)
    index = np.ix_(mirrored(-2, 1, 3), mirrored(-1, 2, 4))
    assert pixels[index].tolist() == [[9, 8, 9], [5, 4, 5], [1, 0, 1]]
