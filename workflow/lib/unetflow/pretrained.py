"""Weights of ImageNet for networks that begin as VGG does, from torchvision's files.

References
----------
.. [1] torchvision, https://docs.pytorch.org/vision/stable/models/vgg.html; its files carry the
       first eight digits of their SHA-256 in their names.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from unetflow.inference import sha256
from unetflow.progress import log
from unetflow.settings.network import VggSettings

SHARED = ("features.", "classifier.")
"""Names of layers in torchvision's file and in the networks, where they have them."""


def take_pretrained(network: nn.Module, settings: VggSettings, freeze: bool) -> None:
    """Give a network the weights of all layers that it shares with VGG, by their names.

    The first convolution of a network of one channel gets the sum over the file's three: the same
    as if each image were given three times. Fully connected layers become convolutions of the same
    weights.

    Parameters
    ----------
    freeze : bool
        Leave the contracting path as it is from now on.

    Raises
    ------
    ValueError
        If the file is not one like `settings.weights_name`, its weights are no finite numbers, or
        the images have neither one channel nor three.
    """
    path = Path(str(settings.pretrained))
    found = read_weights(path, settings.weights_name)
    mine = network.state_dict()
    shared = {name: values for name, values in mine.items() if name.startswith(SHARED)}
    channels = shared["features.0.weight"].shape[1]
    if channels not in (1, 3):
        raise ValueError(
            f"images must have 1 or 3 channels for model.pretrained: got {channels}; choose them "
            "by the dataset's layout, or leave out model.pretrained"
        )
    unknown = {name for name in found if name.startswith("features.")} - {*shared}
    for name in [*shared, *sorted(unknown)]:
        there = found.get(name)
        if there is not None and name in shared:
            check_numbers(there, f"{path}: {name}")
        weights = None if there is None or name not in shared else fitted(there, shared[name].shape)
        if weights is None:
            expected, got = (
                "none" if values is None else "x".join(map(str, values.shape))
                for values in (shared.get(name), there)
            )
            raise ValueError(
                f"{path}: model.pretrained must be {settings.weights_name}, or hold the same "
                f"layers: got {got} for {name}, expected {expected}"
            )
        shared[name] = weights
    network.load_state_dict({**mine, **shared})
    log(f"starts from {len(shared)} tensors of {path}")
    if freeze:
        network.encoder.requires_grad_(False)


def fitted(weights: Tensor, shape: torch.Size) -> Tensor | None:
    """Return weights in the shape of a layer that computes the same; None where none does."""
    if weights.shape == shape:
        return weights
    if weights.ndim == 2 and weights.shape[0] == shape[0] and weights.numel() == shape.numel():
        return weights.reshape(shape)  # its inputs are in the order channel, row, column
    if weights.ndim == 4 and (len(weights), 3, *shape[2:]) == weights.shape and shape[1] == 1:
        return weights.sum(dim=1, keepdim=True)
    return None


def check_numbers(weights: Tensor, name: str) -> None:
    """Refuse a tensor that no convolution can take for its weights.

    Raises
    ------
    ValueError
        If it is sparse, of integers, or not finite in single precision.
    """
    got = ""
    if weights.layout != torch.strided:
        got = str(weights.layout)
    elif not weights.is_floating_point():
        got = str(weights.dtype)
    elif not weights.float().isfinite().all():
        got = "NaN or infinity"
    if got:
        raise ValueError(
            f"{name}: model.pretrained must hold dense and finite floating-point weights: got "
            f"{got}; save the state_dict() of a network that computes"
        )


def read_weights(path: Path, name: str) -> Mapping[str, Tensor]:
    """Return the tensors of a file by name; nothing in it is run.

    Raises
    ------
    ValueError
        If its SHA-256 is not the one in its name, it is damaged, or holds other things.
    """
    digits = re.search(r"-([0-9a-f]{8})(?![0-9a-z])", path.name, re.IGNORECASE)
    digest = sha256(path)
    if digits and not digest.startswith(digits[1].lower()):
        raise ValueError(
            f"{path}: model.pretrained must have the SHA-256 that its name tells: got "
            f"{digest[:8]}, expected {digits[1]}; fetch "
            f"https://download.pytorch.org/models/{name} again, or rename a file of yours"
        )
    try:
        other = other_format(path)
        content = None if other else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle raise anything
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            raise ValueError(
                f"{path}: model.pretrained must hold tensors alone: got other objects, which could "
                "run code; save the network's state_dict()"
            ) from error
        raise ValueError(
            f"{path}: model.pretrained must be a whole file of torch.save: got one that is cut "
            f"short or damaged; fetch https://download.pytorch.org/models/{name} again"
        ) from error
    if other:
        raise ValueError(
            f"{path}: model.pretrained must be a file of torch.save: got {other}, another format; "
            "save the network's state_dict() by torch.save"
        )
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise ValueError(
            f"{path}: model.pretrained must hold tensors by name: got something else; "
            "save the network's state_dict()"
        )
    return content


def other_format(path: Path) -> str | None:
    """Return the other format of weights that a file is in, if it is in one.

    Raises
    ------
    BadZipFile
        If a member is damaged, which torch does not look for.
    """
    with path.open("rb") as file:
        length, brace = int.from_bytes(file.read(8), "little"), file.read(1)
    if brace == b"{" and length < path.stat().st_size:
        return "safetensors"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as members:
            if any(name.endswith("/constants.pkl") for name in members.namelist()):
                return "TorchScript"
            if damaged := members.testzip():
                raise zipfile.BadZipFile(damaged)
    return None
