"""Generates the JSON schemas and config/README.md from the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from unetflow.reading import nested_models
from unetflow.settings.datasets import DatasetSettings
from unetflow.settings.experiment import ExperimentSettings, RunSettings

ROOT = Path(__file__).parents[3]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
MODELS: dict[str, type[BaseModel]] = {
    "config": RunSettings,
    "experiment": ExperimentSettings,
    "dataset": DatasetSettings,
}
INTRODUCTION = {
    "config": "`config/config.yaml`, or `--config` on the command line",
    "experiment": "`config/experiments/NAME.yaml`, one experiment a file",
    "dataset": "`resources/datasets/NAME.yaml`, or `dataset:` written out in an experiment",
}
SHEET = """
## Sheets of archives: `config/archives/NAME.tsv`

A row per volume, columns separated by tabs.

| column | meaning |
| --- | --- |
| `volume` | its name: letters, digits, - and _ |
| `path` | a file, a Zarr folder or a URL; `dataset:NAME/IMAGE`; or a pattern such as `data/*.tif` |
| `experiment` | whose final network segments it |
| `truth` | optional: what to score it against, OME-Zarr with labels or a label image |
"""


def generated() -> dict[Path, str]:
    """Return the text of every generated file, by its path in the project."""
    files = {}
    for name, model in MODELS.items():
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **model.model_json_schema(),
        }
        path = Path(f"workflow/schemas/{name}.schema.json")
        files[path] = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
    files[Path("config/README.md")] = reference()
    return files


def reference() -> str:
    """Return the Markdown reference of every key."""
    lines = [
        "# Settings",
        "",
        "Generated from `workflow/lib/unetflow/settings/` by `make reference`. "
        "Unknown keys are errors.",
    ]
    for name, model in MODELS.items():
        lines += ["", f"## {INTRODUCTION[name]}"]
        lines += tables(model, "")
    return "\n".join(lines) + "\n" + SHEET


def tables(model: type[BaseModel], prefix: str) -> list[str]:
    """Return a table of a model's own keys, then the tables of the models below it."""
    rows, below = [], []
    for name, field in model.model_fields.items():
        key = prefix + name
        nested = [] if name == "dataset" else nested_models(field.annotation)
        if nested:
            for member in nested:
                told = str(field.discriminator)
                of = member.model_json_schema()["properties"].get(told, {}).get("const")
                title = f"`{key}`" + (f" with `{told}: {of}`" if of else "")
                below += ["", f"### {title}", "", (member.__doc__ or "").split("\n")[0]]
                below += tables(member, f"{key}.")
        else:
            rows.append(row(key, model, name))
    head = ["", "| key | meaning | unit | default | allowed |", "| --- | --- | --- | --- | --- |"]
    return (head + rows if rows else []) + below


def row(key: str, model: type[BaseModel], name: str) -> str:
    """Return the table row of one key."""
    field = model.model_fields[name]
    schema = model.model_json_schema()["properties"][name]
    default = "required" if field.default is PydanticUndefined else shown(field.default)
    text = (field.description or "").replace("|", "\\|")
    return f"| `{key}` | {text} | {schema.get('unit', '')} | {default} | {allowed(schema)} |"


def shown(value: Any) -> str:
    """Return a default as it would be written in YAML."""
    if isinstance(value, tuple):
        value = list(value)
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def allowed(schema: dict[str, Any]) -> str:
    """Return what values a JSON schema admits, in words."""
    if "anyOf" in schema:
        return " or ".join(filter(None, (allowed(member) for member in schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    limits = (
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("exclusiveMaximum", "<"),
    )
    bounds = [f"{sign} {schema[key]:g}" for key, sign in limits if key in schema]
    return " ".join([str(schema.get("type", "")), ", ".join(bounds)]).strip()


def main() -> None:
    """Write every generated file."""
    for path, text in generated().items():
        (ROOT / path).write_text(text, encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
