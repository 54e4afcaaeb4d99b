"""Predictions that run out of memory go on with smaller tiles, to the same result."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_model import TILE, grey, settings, small_shards, write_model

from unetflow.blocks import predict_block
from unetflow.geometry import AxisGeometry, Geometry, smaller_tile, unet_geometry
from unetflow.inference import load
from unetflow.models.unet.network import UNet
from unetflow.planning import plan_archive
from unetflow.prediction import predict_image
from unetflow.settings.experiment import ExperimentSettings
from unetflow.store import create_image, open_image, read_json

__all__ = ["small_shards"]

torch.set_num_threads(1)

FULL = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
]
LARGE = 46
"""Tile of a shard of 32 x 32 as a whole, and of half of it on each side."""

Seen = list[tuple[int, ...]]


def limited(
    monkeypatch: pytest.MonkeyPatch, most: float, error: BaseException, passes: float = math.inf
) -> Seen:
    """Let tiles of more than `most` pixels fail, and any after some; return those that did not."""
    seen: Seen = []
    forward = UNet.forward

    def guarded(self: UNet, x: torch.Tensor, *border: Any) -> torch.Tensor:
        if math.prod(x.shape[2:]) > most or len(seen) >= passes:
            raise error
        seen.append(tuple(x.shape[2:]))
        return forward(self, x, *border)

    monkeypatch.setattr(UNet, "forward", guarded)
    return seen


def image(path: Path, shape: tuple[int, ...]) -> Path:
    """Write an image of grey noise."""
    create_image(path, "zyx"[-len(shape) :], shape, "u1", {})[...] = grey(shape)
    return path


def predicted(folder: Path, shape: tuple[int, ...], name: str, **how: Any) -> NDArray[Any]:
    """What is stored of an image."""
    if not (folder / "image").exists():
        image(folder / "image", shape)
        write_model(folder / "model", len(shape), network=how.pop("network", None))
    model = load(folder / "model", "cpu", "32")
    tile = (LARGE,) * len(shape) if len(shape) == 2 else (TILE,) * 3
    predict_image(model, open_image(folder / "image"), folder / name, tile, settings(**how))
    return np.asarray(open_image(folder / name).array[...])


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_smaller_tiles_that_fit_say_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    small_shards: None,
) -> None:
    expected = predicted(tmp_path, (90, 70), "whole")
    seen = limited(monkeypatch, 800, error)
    with caplog.at_level("INFO"):
        found = predicted(tmp_path, (90, 70), "parts")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert max(map(math.prod, seen)) <= 800
    told = [line for line in caplog.messages if "does not fit the memory, going on with" in line]
    assert len(told) == 3, "once for each tile that was too large, however many regions there are"


@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((90, 70), {"network": {"padding": "zeros"}}),
        ((90, 70), {"orientations": 8}),
        ((20, 34, 21), {}),
    ],
    ids=["padded", "orientations", "3D"],
)
def test_smaller_tiles_of_other_networks_say_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    how: dict[str, Any],
    small_shards: None,
) -> None:
    expected = predicted(tmp_path, shape, "whole", **how)
    how.pop("network", None)
    most = 800 if len(shape) == 2 else 9000
    seen = limited(monkeypatch, most, MemoryError())
    np.testing.assert_allclose(predicted(tmp_path, shape, "parts", **how), expected, atol=1e-5)
    assert max(map(math.prod, seen)) <= most


def test_a_memory_too_small_for_any_tile_is_one_line_and_other_errors_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, 0, MemoryError())
    with pytest.raises(MemoryError, match=r"the smallest, \(18, 18\), does not; use a larger"):
        predicted(tmp_path, (90, 70), "none")
    limited(monkeypatch, 0, RuntimeError("another"))
    with pytest.raises(RuntimeError, match="another"):
        predicted(tmp_path, (90, 70), "other")


def test_a_further_attempt_goes_on_with_smaller_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    of = ExperimentSettings(
        dataset="none",
        model={"width": 2, "depth": 1},
        patches={"tile": TILE},
        predict=settings(tile=LARGE).model_dump(mode="json"),
    )
    image(tmp_path / "image", (90, 70))
    write_model(tmp_path / "model")
    row = {"path": str(tmp_path / "image"), "experiment": "one"}
    plan_archive({"v": row}, {"one": of}, tmp_path / "plan.json", "key")
    (block,) = read_json(tmp_path / "plan.json")["volumes"]["v"]["blocks"].values()

    def run(folder: Path, attempt: int) -> NDArray[Any]:
        place, receipt = folder / "prediction", folder / "blocks/0_0.json"
        given = (tmp_path / "model", row["path"], place, receipt, block["job"], "code")
        predict_block(*given, attempt=attempt)
        return np.asarray(zarr.open_array(place / read_json(receipt)["array"], mode="r")[...])

    expected = run(tmp_path / "undisturbed", 1)
    kept = UNet.forward
    first = limited(monkeypatch, math.inf, KeyboardInterrupt(), passes=3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", 1)
    monkeypatch.setattr(UNet, "forward", kept)
    again = limited(monkeypatch, math.inf, MemoryError())
    np.testing.assert_allclose(run(tmp_path / "killed", 2), expected, atol=1e-5)
    assert max(map(math.prod, again)) < max(map(math.prod, first))
    journal = (tmp_path / "killed/blocks/.journals/0_0").glob("*")
    lines = [line for path in journal for line in path.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 9, "no shard is predicted again"


GEOMETRIES: list[Callable[[], Geometry]] = [
    lambda: unet_geometry(4, 2),
    lambda: unet_geometry(3, 3, padded=True),
    lambda: (AxisGeometry(1, 47, 95),) * 2,
    lambda: (AxisGeometry(16, 32, 256), AxisGeometry(192, 32, 256)),
]


@given(st.sampled_from(GEOMETRIES), st.data())
def test_smaller_tiles_are_admissible_down_to_the_smallest(
    make: Callable[[], Geometry], data: st.DataObject
) -> None:
    geometry = make()
    tile: tuple[int, ...] | None = tuple(
        axis.smallest_tile + axis.divisor * data.draw(st.integers(0, 40)) for axis in geometry
    )
    while tile is not None:
        last, tile = tile, smaller_tile(tile, geometry)
        if tile is not None:
            assert all(axis.step(extent) > 0 for axis, extent in zip(geometry, tile, strict=True))
            (axis,) = (number for number, extent in enumerate(tile) if extent != last[number])
            assert tile[axis] < last[axis]
    assert last == tuple(axis.smallest_tile for axis in geometry)
