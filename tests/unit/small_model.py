"""A small network as it is on disk, images for it, and what it says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from unetflow import store
from unetflow.geometry import geometry_to_json
from unetflow.inference import Model, array_reader, build, logits, sha256, softmax
from unetflow.models.unet.settings import UNetSettings
from unetflow.settings.network import NetworkSettings
from unetflow.settings.prediction import PredictSettings
from unetflow.settings.training import IntensitySettings
from unetflow.store import write_json
from unetflow.training import write_weights

TILE = 26
OFFSET, SCALE = 100.0, 40.0


def write_model(
    folder: Path,
    dimensions: int = 2,
    channels: int = 1,
    classes: int = 2,
    network: dict[str, Any] | None = None,
    **intensity: Any,
) -> Path:
    torch.manual_seed(0)
    chosen = {"dimensions": dimensions, "width": 2, "depth": 1} | (network or {})
    architecture = UNetSettings(**chosen)
    built = build(architecture, channels, classes)
    for parameter in built.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.5)  # else dead units make ties
    tensors = {key: value.contiguous() for key, value in built.state_dict().items()}
    folder.mkdir()
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    statistics = {"offset": [OFFSET] * channels, "scale": [SCALE] * channels}
    write_json(
        folder / "model.json",
        {
            "network": architecture.model_dump(mode="json"),
            "geometry": geometry_to_json(architecture.geometry),
            "channels": channels,
            "class_names": ["background", "cell", "border"][:classes],
            "intensity": IntensitySettings(**intensity).model_dump(mode="json") | statistics,
            "tile": [TILE] * dimensions,
            "weights_sha256": sha256(folder / "model.safetensors"),
        },
    )
    return folder


def settings(**settings: Any) -> PredictSettings:
    return PredictSettings(**{"device": "cpu", "threads": 1, "dtype": "float32"} | settings)


def grey(shape: tuple[int, ...], dtype: str = "uint8") -> NDArray[np.generic]:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def whole(model: Model, image: NDArray[np.float64]) -> NDArray[np.float32]:
    """Foreground probabilities of a normalised image (channel, *spatial) in one tile."""
    extents = image.shape[1:]
    everything = tuple(slice(0, extent) for extent in extents)
    read = array_reader(image.astype(np.float32))
    return softmax(logits(model, read, extents, everything, None))[1:]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several shards of images of tens of pixels."""
    for name, extent in {"CHUNK": 16, "SHARD": 32, "CUBE": 8, "CUBES": 16}.items():
        monkeypatch.setattr(store, name, extent)


def write_trained(folder: Path, settings: NetworkSettings, network: nn.Module) -> Path:
    """Write a network as a folder of one that was trained on image a of the dataset cells."""
    folder.mkdir()
    write_weights(folder / "model.safetensors", network.float().state_dict())
    facts = {
        "network": settings.model_dump(mode="json"),
        "geometry": geometry_to_json(settings.geometry),
        "channels": 1,
        "class_names": ["background", "cell"],
        "weights_sha256": sha256(folder / "model.safetensors"),
        "dataset": "cells",
        "training": {"images": ["a"]},
    }
    write_json(folder / "model.json", facts)
    return folder
