"""A network is a folder in `models/`: nothing else of the library knows of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "workflow/lib/unetflow"

SETTINGS = '''
"""Settings of a network that looks at half the resolution."""

from typing import Literal

from unetflow.geometry import AxisGeometry, Geometry
from unetflow.settings.fields import setting
from unetflow.settings.network import NetworkSettings


class HalvedSettings(NetworkSettings):
    """One convolution between a pooling and a repetition."""

    network: Literal["halved"] = setting(..., "the folder in models/ that builds it")
    dimensions: Literal[2] = setting(2, "stacks are read plane by plane")
    width: int = setting(4, "channels of the convolution", ge=1)

    @property
    def geometry(self) -> Geometry:
        """Geometry along each spatial axis."""
        return (AxisGeometry(divisor=2, halo=2, minimum=6),) * 2
'''
NETWORK = '''
"""A network that looks at half the resolution."""

from torch import nn


class Halved(nn.Sequential):
    """One convolution between a pooling and a repetition."""

    def forward(self, x, border=None):
        """Return the logits."""
        return super().forward(x)


def build(settings, channels, classes):
    """Return an untrained network."""
    return Halved(
        nn.MaxPool2d(2),
        nn.Conv2d(channels, settings.width, 3),
        nn.ReLU(),
        nn.Conv2d(settings.width, classes, 1),
        nn.Upsample(scale_factor=2),
    )
'''
EXPERIMENT = "dataset: isbi2012\nmodel: {network: halved, width: 3}\n"

CHOSEN = """
import json
import sys
from pathlib import Path

import jsonschema
import yaml

from unetflow.experiments import load_experiments
from unetflow.reference import generated

model = load_experiments(Path(), ["new"])["new"].model
assert (type(model).__name__, model.width) == ("HalvedSettings", 3)
texts = {path.name: text for path, text in generated().items()}
schema = json.loads(texts["experiment.schema.json"])
content = yaml.safe_load(Path("new.yaml").read_text())
jsonschema.validate(content, schema)
content["model"]["width"] = 0
assert not jsonschema.Draft202012Validator(schema).is_valid(content)
assert "`model` with `network: halved`" in texts["README.md"]
assert "torch" not in sys.modules
"""
PREDICTED = """
from pathlib import Path

import numpy as np
import torch

from unetflow.experiments import load_experiments
from unetflow.inference import Model, array_reader, build, logits
from unetflow.settings.networks import parse_network

torch.manual_seed(0)
settings = load_experiments(Path(), ["new"])["new"].model
assert parse_network(settings.model_dump(mode="json")) == settings
model = Model(build(settings, 1, 2), settings.geometry, torch.device("cpu"), "32", {})
assert type(model.network).__module__ == "unetflow.models.halved.network"
pixels = np.random.default_rng(0).normal(size=(1, 35, 22)).astype(np.float32)
asked = array_reader(pixels), (35, 22), (slice(0, 35), slice(0, 22))
whole, tiled = (logits(model, *asked, tile) for tile in (None, (8, 10)))
assert whole.shape == (2, 35, 22)
assert whole.std() > 0.01
np.testing.assert_allclose(tiled, whole, atol=1e-6)
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Copy the library, with a folder more and with an experiment beside."""
    left_out = shutil.ignore_patterns("__pycache__")
    library = shutil.copytree(PACKAGE, tmp_path / "unetflow", ignore=left_out)
    folder = library / "models/halved"
    folder.mkdir()
    for name, text in {"__init__": "", "settings": SETTINGS, "network": NETWORK}.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "new.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return library


def said(library: Path, code: str) -> str:
    """Return the last line that code says of itself, none if it runs to its end."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=library.parent,
        env={**os.environ, "PYTHONPATH": str(library.parent)},
        capture_output=True,
        text=True,
    )
    return done.stderr.strip().rpartition("\n")[2]


def test_an_experiment_names_it_and_the_reference_tells_of_it_without_torch(library: Path) -> None:
    assert said(library, CHOSEN) == ""


def test_it_predicts_tile_by_tile_what_it_does_whole(library: Path) -> None:
    assert said(library, PREDICTED) == ""


@pytest.mark.parametrize("code", [CHOSEN, PREDICTED], ids=["chosen", "predicted"])
def test_without_the_folder_there_is_no_such_network(library: Path, code: str) -> None:
    shutil.rmtree(library / "models/halved")
    assert "model.network must be one of 'unet', 'fcn'" in said(library, code)


def test_a_network_of_another_name_than_its_folder_is_refused(library: Path) -> None:
    (library / "models/halved").rename(library / "models/half")
    message = said(library, "import unetflow.settings.networks")
    assert message.startswith("ValueError: models/half/settings.py must hold the settings")
    assert 'network: Literal["half"]' in message
