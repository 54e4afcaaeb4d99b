"""Weights of ImageNet for networks that begin as VGG does, from torchvision's files.

References
----------
.. [1] torchvision, https://docs.pytorch.org/vision/stable/models/vgg.html; its files carry the
       first eight digits of their SHA-256 in their names.
"""

from __future__ import annotations

import pickle
import re
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
        If the file is not one like `settings.weights_name`, or the images have neither one channel
        nor three.
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
    if weights.ndim == 4 and (weights.shape[0], 1, *weights.shape[2:]) == shape:
        return weights.sum(dim=1, keepdim=True)
    return None


def read_weights(path: Path, name: str) -> Mapping[str, Tensor]:
    """Return the tensors of a file by name; nothing in it is run.

    Raises
    ------
    ValueError
        If its SHA-256 is not the one in its name, it is damaged, or holds other things.
    """
    digits = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    digest = sha256(path)
    if digits and not digest.startswith(digits[1]):
        raise ValueError(
            f"{path}: model.pretrained must have the SHA-256 that its name tells: got "
            f"{digest[:8]}, expected {digits[1]}; fetch "
            f"https://download.pytorch.org/models/{name} again"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
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
    if not isinstance(content, dict) or not all(isinstance(it, Tensor) for it in content.values()):
        raise ValueError(
            f"{path}: model.pretrained must hold tensors by name: got something else; "
            "save the network's state_dict()"
        )
    return content
