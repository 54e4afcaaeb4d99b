"""The networks to choose from: each is a folder in `models/`.

Its `settings.py` says what can be chosen, and what that does to extents. Its `network.py`, which
builds it, stands apart, so that settings are read without torch, whose import takes as long as
reading a whole workflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from importlib import import_module
from operator import or_
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import Field, TypeAdapter

from unetflow import models
from unetflow.settings.network import NetworkSettings


def settings_of(name: str) -> type[NetworkSettings]:
    """Return the settings of the network in a folder of `models/`.

    Raises
    ------
    ValueError
        If its `settings.py` has none of that name.
    """
    module = import_module(f"{models.__name__}.{name}.settings")
    classes = [found for found in vars(module).values() if isinstance(found, type)]
    for found in classes:
        if issubclass(found, NetworkSettings) and named(found) == (name,):
            return found
    raise ValueError(
        f"models/{name}/settings.py must hold the settings of a network: found no class of "
        f'NetworkSettings with `network: Literal["{name}"]`; add it'
    )


def named(network: type[NetworkSettings]) -> tuple[str, ...]:
    """Names by which a network is chosen: one, or none for what several have in common."""
    return get_args(network.model_fields["network"].annotation)


def one_of(networks: Iterable[type[NetworkSettings]]) -> Any:
    """Return the type of the settings of some networks, told apart by name."""
    return Annotated[reduce(or_, networks), Field(discriminator="network")]


EACH = sorted(
    (settings_of(folder.name) for folder in iter_modules(models.__path__) if folder.ispkg),
    # By name, after the one that is meant where none is named.
    key=lambda network: (network.model_fields["network"].is_required(), network.__name__),
)

if TYPE_CHECKING:  # which cannot read folders
    Network = NetworkSettings
else:
    Network = one_of(network for network in EACH if network.nameable)

_NETWORK: TypeAdapter[NetworkSettings] = TypeAdapter(one_of(EACH))


def parse_network(facts: Mapping[str, Any]) -> NetworkSettings:
    """Return the settings of a network as they stand in `model.json`."""
    return _NETWORK.validate_python(facts)
