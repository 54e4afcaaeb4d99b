"""YAML to validated settings, with one clear line for each mistake."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from unetflow.settings.fields import Settings

AnySettings = TypeVar("AnySettings", bound=Settings)

OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}


def read_yaml(path: Path, may_be_empty: bool = False) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises
    ------
    ValueError
        If the file is no YAML, no UTF-8, or not a mapping.
    """
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: must be YAML: {' '.join(str(error).split())}") from error
    if content is None and may_be_empty:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold keys and values: got {type(content).__name__}")
    return content


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text of a file.

    Raises
    ------
    ValueError
        If it has another encoding.
    """
    try:
        return path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: must be a text in UTF-8: got the byte {error.object[error.start]:#04x} at "
            f"position {error.start}; save it as UTF-8"
        ) from error


def parse(model: type[AnySettings], content: Mapping[str, Any], source: str) -> AnySettings:
    """Return validated settings.

    Raises
    ------
    ValueError
        One line: source, key, rule, what was found, and the nearest valid key or value.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{source}: {first_mistake(error, model, content)}") from error


def first_mistake(
    error: ValidationError, model: type[BaseModel], content: Mapping[str, Any]
) -> str:
    """Say the first mistake in one line; unknown keys come before their consequences."""
    # Of the members of a union the one that got furthest into the file is what was meant.
    mistakes = sorted(
        ((key_of(item, content), item) for item in error.errors()),
        key=lambda pair: (pair[1]["type"] != "extra_forbidden", -pair[0].count(".")),
    )
    key, mistake = mistakes[0]
    message = said(mistake)
    if mistake["type"] == "extra_forbidden":
        known = list(dotted_keys(model))
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"the nearest is {close[0]}" if close else "see config/README.md"
        if key in known:  # of another member of a union
            hint = "it belongs to another kind or network; see config/README.md"
        return f"unknown key {key}; {hint}"
    if mistake["type"] in ("missing", "union_tag_not_found"):
        return f"{key} is required: add it"
    if mistake["type"] == "value_error":
        return f"{key}: {message}" if key else message
    found = mistake["ctx"]["tag"] if mistake["type"] == "union_tag_invalid" else mistake["input"]
    alike = [item for other, item in mistakes if other == key]
    # A number out of its range is what was meant, and not another type that would do too.
    ranged = [item for item in alike if item["type"] in OUT_OF_RANGE]
    rules = dict.fromkeys(said(item) for item in ranged or alike)
    rule = " or ".join(rules)
    choices = [
        word
        for item in rules
        if item.startswith("must be")
        for word in re.findall("'([^']*)'", item)
    ]
    close = difflib.get_close_matches(str(found), choices, n=1, cutoff=0.5)
    nearest = f"; the nearest is {close[0]}" if close else ""
    return f"{key} {rule}: got {found!r}{nearest}"


def said(mistake: ErrorDetails) -> str:
    """Rule that a value breaks, in words that follow its key."""
    if mistake["type"] == "union_tag_invalid":
        return f"must be one of {mistake['ctx']['expected_tags']}"
    message = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "value_error":
        return message
    message = message.replace("Input should be", "must be")
    return message[0].lower() + message[1:]


def key_of(mistake: ErrorDetails, content: Any) -> str:
    """Dotted key of a mistake: its place, without what is no key of the file.

    pydantic puts the chosen members of unions into the place, and positions in lists.
    """
    keys, place = [], content
    for part in mistake["loc"]:
        if isinstance(place, Mapping) and part in place:
            keys.append(str(part))
            place = place[part]
        elif isinstance(place, Sequence) and isinstance(part, int):
            place = place[part]
    if mistake["type"] == "missing":
        keys.append(str(mistake["loc"][-1]))
    if mistake["type"] in ("union_tag_invalid", "union_tag_not_found"):
        keys.append(mistake["ctx"]["discriminator"].strip("'"))
    return ".".join(keys)


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a settings model, nested ones with dots."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for nested in nested_models(field.annotation):
            yield from dotted_keys(nested, f"{prefix}{name}.")


def nested_models(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings models among the members of an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple):
        return [model for member in get_args(annotation) for model in nested_models(member)]
    return []
