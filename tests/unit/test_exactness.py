"""The check of tiles against the whole passes where they agree, and fails where they do not."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_model import TILE, grey, settings, write_model
from torch import Tensor, nn

from unetflow.exactness import TIMED, shifted_grid, verify_tiling
from unetflow.inference import Model, build, load
from unetflow.models.sliding_window.settings import SlidingWindowSettings
from unetflow.settings.training import IntensitySettings
from unetflow.store import create_image, read_json

torch.set_num_threads(1)


def image_and_model(tmp_path: Path, shape: tuple[int, ...], dimensions: int) -> Model:
    create_image(tmp_path / "image", "zyx"[-len(shape) :], shape, np.uint8, {})[...] = grey(shape)
    return load(write_model(tmp_path / "model", dimensions), "cpu", "32")


@pytest.mark.parametrize(
    ("shape", "dimensions"), [((70, 45), 2), ((3, 40, 35), 2), ((5, 3), 2), ((30, 34, 21), 3)]
)
def test_tiles_of_an_exact_network_pass(
    tmp_path: Path, shape: tuple[int, ...], dimensions: int
) -> None:
    model = image_and_model(tmp_path, shape, dimensions)
    told = verify_tiling(
        model, tmp_path / "image", [TILE] * dimensions, settings(), tmp_path / "facts.json"
    )
    assert told == {}, "no windows"
    facts = read_json(tmp_path / "facts.json")
    assert max(facts["tiled"], facts["shifted"]) <= facts["tolerance"]
    assert 0 < facts["tolerance"] < 1e-4 * facts["logit_range"]
    step = TILE - 2 * model.geometry[0].halo
    assert facts["extents"] == [min(extent, step * 3 // 2) for extent in shape[-dimensions:]]


@pytest.mark.parametrize(("shape", "windows"), [((100, 110), TIMED**2), ((100, 9), TIMED * 9)])
def test_windows_are_timed_one_by_one(
    tmp_path: Path, shape: tuple[int, int], windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = SlidingWindowSettings(network="sliding_window", width=2, hidden=3)
    network: Any = build(chosen, 1, 2).eval()
    classified, classify = [], network.classified
    monkeypatch.setattr(network, "classified", lambda x: classified.append(len(x)) or classify(x))
    facts = {
        "network": chosen.model_dump(mode="json"),
        "channels": 1,
        "class_names": ["a", "b"],
        "intensity": IntensitySettings(source="image").model_dump(mode="json"),
    }
    model = Model(network, chosen.geometry, torch.device("cpu"), "32", facts)
    create_image(tmp_path / "image", "yx", shape, np.uint8, {})[...] = grey(shape)
    where = tmp_path / "image", [158, 158], settings(), tmp_path / "facts.json"
    told = verify_tiling(model, *where)
    assert told["windows"] == windows == sum(classified) - 1, "one to warm up"
    assert told["window_seconds"] > 0
    assert network.dense, "the model is as it was"
    facts["network"]["dense"] = network.dense = False
    assert verify_tiling(model, *where) == {}, "nothing is at once"


class Centred(nn.Module):
    """A network that looks at all it sees at once, as one with instance normalisation does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, *border: Any) -> Tensor:
        found: Tensor = self.network(pixels, *border)
        return found - found.mean()


def test_a_network_that_sees_beyond_its_halo_fails_with_both_figures(tmp_path: Path) -> None:
    model = image_and_model(tmp_path, (70, 45), 2)
    wrong = replace(model, network=Centred(model.network))
    message = re.escape("tiled logits must equal those of the whole within ") + ".* differ by "
    with pytest.raises(ValueError, match=message):
        verify_tiling(wrong, tmp_path / "image", [TILE] * 2, settings(), tmp_path / "facts.json")
    assert not (tmp_path / "facts.json").exists()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (40, 41), (7, 30, 31)])
def test_the_shifted_grid_covers_an_image_once_and_begins_at_odd_places(
    shape: tuple[int, ...],
) -> None:
    covered = np.zeros(shape, int)
    for region in shifted_grid(shape):
        covered[region] += 1
        assert all(part.start % 2 == 1 or part.start == 0 for part in region)
    assert (covered == 1).all()
