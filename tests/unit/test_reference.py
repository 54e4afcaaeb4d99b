"""The generated schemas and reference are current, complete and fit the committed settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from unetflow.experiments import changed
from unetflow.reading import dotted_keys
from unetflow.reference import MODELS, generated
from unetflow.settings.datasets import DatasetSettings
from unetflow.settings.experiment import ExperimentSettings

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "config/experiments").glob("*.yaml"))
DATASETS = sorted((ROOT / "resources/datasets").glob("*.yaml"))


def schema(name: str) -> Any:
    """Return a committed schema."""
    path = ROOT / f"workflow/schemas/{name}.schema.json"
    return json.loads(path.read_text(encoding="utf-8"))


def content(path: Path) -> Any:
    """Return what a YAML file holds."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", list(generated()), ids=lambda path: path.name)
def test_the_committed_file_is_what_the_settings_generate(path: Path) -> None:
    committed = (ROOT / path).read_text(encoding="utf-8")
    assert committed == generated()[path], f"{path} is stale: run `make reference`"


def test_there_is_a_schema_of_each_model_and_no_other() -> None:
    committed = {path.name for path in (ROOT / "workflow/schemas").iterdir()}
    assert committed == {f"{name}.schema.json" for name in MODELS}, "run `make reference`"


def test_make_reference_runs_what_generates_the_files() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\nreference:")[1].split("\n\n")[0]
    assert "python -m unetflow.reference" in recipe


@pytest.mark.parametrize("name", MODELS)
def test_every_key_is_in_the_reference(name: str) -> None:
    text = (ROOT / "config/README.md").read_text(encoding="utf-8")
    # A written-out dataset has the keys of the registry, which stand in a table of their own.
    keys = {key.removeprefix("dataset.") for key in dotted_keys(MODELS[name])}
    missing = sorted(key for key in keys if f"`{key}`" not in text)
    assert not missing, "not in config/README.md: run `make reference`"


@pytest.mark.parametrize("name", MODELS)
def test_every_key_has_a_meaning(name: str) -> None:
    definitions = schema(name).get("$defs", {})
    for model in [schema(name), *definitions.values()]:
        for key, field in model.get("properties", {}).items():
            refers = "$ref" in field or key in ("kind", "layout")
            assert refers or field.get("description"), f"{model['title']}.{key} says nothing"


@pytest.mark.parametrize("name", MODELS)
def test_a_schema_is_valid_in_its_dialect(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))
    assert schema(name)["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


def mistakes(content: Any, schema: dict[str, Any]) -> list[str]:
    """What a schema says of a file."""
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(content)]


def test_the_schema_accepts_the_committed_config() -> None:
    assert mistakes(content(ROOT / "config/config.yaml"), schema("config")) == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_schema_accepts_a_committed_experiment(path: Path) -> None:
    assert mistakes(content(path), schema("experiment")) == []


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_the_schema_accepts_a_committed_dataset(path: Path) -> None:
    assert mistakes(content(path), schema("dataset")) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"trainn": {}},
        {"train.stepps": 3},
        {"train.steps": 0},
        {"train.optimiser": "adm"},
        {"dataset.layout.shapee": [4, 64, 64]},
        {"dataset.layout.kind": "synthetc"},
    ],
)
def test_the_schema_refuses_what_the_settings_refuse(changes: dict[str, Any]) -> None:
    wrong = changed(content(ROOT / "config/experiments/demo.yaml"), changes, "demo.yaml")
    with pytest.raises(ValueError, match="validation error"):
        ExperimentSettings(**wrong)
    with pytest.raises(jsonschema.ValidationError, match=r"."):
        jsonschema.validate(wrong, schema("experiment"))


def test_the_schema_accepts_what_the_settings_write() -> None:
    experiment = ExperimentSettings(**content(ROOT / "config/experiments/demo.yaml"))
    assert isinstance(experiment.dataset, DatasetSettings)
    jsonschema.validate(experiment.model_dump(mode="json"), schema("experiment"))
    jsonschema.validate(experiment.dataset.model_dump(mode="json"), schema("dataset"))
