"""Fine-tuning: a training that goes on from an existing model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from unetflow.inference import load
from unetflow.progress import log
from unetflow.settings.network import NetworkSettings
from unetflow.settings.networks import parse_network


def take_over(
    network: nn.Module,
    settings: NetworkSettings,
    start: Path,
    images: Sequence[str],
    dataset: str,
    freeze_encoder: bool,
) -> None:
    """Give a network the weights of another; of the layers that classify, those of the same shape.

    So the last layer is new where the classes are others, and what a finer stage adds is.

    Parameters
    ----------
    settings : NetworkSettings
        What the network was built from.
    start : Path
        Folder of the other's `model.json` and `model.safetensors`.
    images : sequence of str
        What the network is about to learn from, of a dataset.
    freeze_encoder : bool
        Leave the contracting path as it is from now on.

    Raises
    ------
    ValueError
        If the other is another network, or has learned from images that this training holds out.
    """
    model = load(start, "cpu", "32")
    seen = set(model.facts["training"]["images"]) - set(images)
    if seen and model.facts.get("dataset") == dataset:
        raise ValueError(
            f"{start}: train.start_from must not know what a fold holds out: it has learned from "
            f"{len(seen)} of its images, such as {min(seen)}; start from a model of other images"
        )
    check_alike(settings, parse_network(model.facts["network"]), start)
    other = model.network.state_dict()
    mine = network.state_dict()
    last = [name for name in mine if name.startswith("classify.")]
    heads = [name for name in {*mine, *other} if name.startswith("heads.")]  # of training alone
    different = [
        name
        for name in {*mine, *other} - {*last, *heads}
        if name not in mine or name not in other or mine[name].shape != other[name].shape
    ]
    if different:
        raise ValueError(
            f"{start}: train.start_from must be the same network: {len(different)} layers differ, "
            f"such as {min(different)}; take images of as many channels; of FCNs a coarser one"
        )
    new = [
        name
        for name in mine
        if name in {*last, *heads} and (name not in other or mine[name].shape != other[name].shape)
    ]
    network.load_state_dict({name: (mine if name in new else other)[name] for name in mine})
    log(f"starts from {start}" + (f"; new: {', '.join(new)}" if new else ""))
    if freeze_encoder:
        network.encoder.requires_grad_(False)


def check_alike(settings: NetworkSettings, start: NetworkSettings, folder: Path) -> None:
    """Refuse settings by which the weights of another network would compute something else."""
    mine, other = settings.model_dump(mode="json"), start.model_dump(mode="json")
    different = [
        f"model.{name} {mine.get(name)} instead of {other[name]}"
        for name in other
        if name not in settings.may_differ and mine.get(name) != other[name]
    ]
    if different:
        named = different if settings.network == start.network else different[:1]
        raise ValueError(
            f"{folder}: train.start_from must be the same network: got {', '.join(named)}; "
            "set model as its model.json says"
        )
