"""A trained network and its exact overlap-tile inference: tile by tile equals the whole image.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, Fig. 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from unetflow.compiled import OpenVinoNetwork
from unetflow.geometry import (
    Geometry,
    Span,
    geometry_from_json,
    mirrored,
    tiles,
)
from unetflow.orientations import Orientation, Region
from unetflow.orientations import orientations as orientations_of
from unetflow.regression import output_names, regression_of
from unetflow.settings.network import NetworkSettings
from unetflow.settings.networks import parse_network
from unetflow.store import read_json

Reader = Callable[[Region], NDArray[np.float32]]
"""From a spatial region inside the image to its normalised pixels (channel, *region)."""

Activation = Callable[[NDArray[np.float32]], NDArray[np.float32]]

FULL = ("DefaultCPUAllocator", "bad_alloc", "bad allocation", "Failed to allocate memory")
"""What errors without a class of their own say where memory is full: of torch on a CPU, of C++ and
of onnxruntime."""


@dataclass(frozen=True)
class Model:
    """A network with the facts of its `model.json`."""

    network: nn.Module
    geometry: Geometry
    device: torch.device
    precision: str
    facts: dict[str, Any]
    backend: str = "torch"

    @property
    def activation(self) -> Activation:
        """What makes predictions of outputs (outputs, ...): probabilities, or values.

        The network of a package of others gives probabilities already.
        """
        if self.facts.get("network", {}).get("network") == "packaged":
            return np.asarray
        regression = regression_of(self.facts)
        return softmax if regression is None else regression.values


def build(settings: NetworkSettings, channels: int, classes: int) -> nn.Module:
    """Return the untrained network that the settings name, by its folder in `models/`."""
    module = import_module(f"unetflow.models.{settings.network}.network")
    network: nn.Module = module.build(settings, channels, classes)
    if settings.dimensions == 2:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def load(
    folder: Path, device: str, precision: str, backend: str = "torch", threads: int = 1
) -> Model:
    """Load `model.json` and `model.safetensors` from a folder.

    Parameters
    ----------
    device, precision, backend, threads
        See `PredictSettings`.

    Raises
    ------
    ValueError
        If the weights are not those that `model.json` states, or device or backend are missing.
    """
    facts = read_json(folder / "model.json")
    weights = folder / "model.safetensors"
    found = sha256(weights)
    if found != facts["weights_sha256"]:
        raise ValueError(
            f"{weights}: weights must have the SHA-256 that model.json states: got {found}, "
            f"expected {facts['weights_sha256']}; copy both files again from the same training"
        )
    settings = parse_network(facts["network"])
    network = build(settings, facts["channels"], len(output_names(facts)))
    network.load_state_dict(safetensors.torch.load_file(weights))
    place = choose_device("cpu" if backend == "openvino" else device)
    backend = choose_backend(place, backend)
    precision = choose_precision(place, precision)
    geometry = geometry_from_json(facts["geometry"])
    network = network.to(place).eval()
    if backend == "openvino":
        extents = [axis.smallest_tile for axis in geometry]
        example = torch.zeros(1, facts["channels"], *extents)
        network = OpenVinoNetwork(network, example, precision, threads)
    return Model(network, geometry, place, precision, facts, backend)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory is full."""
    told = any(words in str(error) for words in FULL)
    return told or isinstance(error, MemoryError | torch.OutOfMemoryError)


def sha256(path: Path) -> str:
    """SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def choose_device(device: str, count: int = 1) -> torch.device:
    """Device for "cpu", "gpu" or "auto".

    Raises
    ------
    ValueError
        If "gpu" is asked for and there is none, or fewer than `count`.
    """
    if device == "gpu" and not torch.cuda.is_available():
        raise ValueError(
            "device must exist: got gpu, but torch sees none; set device to cpu or auto, "
            "or install a torch build for your GPU"
        )
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if count > torch.cuda.device_count():
        raise ValueError(
            f"devices must exist: got {count} GPUs, but torch sees {torch.cuda.device_count()}; "
            "lower train.devices"
        )
    return torch.device("cuda")


def choose_precision(device: torch.device, precision: str) -> str:
    """Precision "32" or "bf16"; for "auto" the one that the device computes fastest in."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities()
        native = able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    return "bf16" if native else "32"


def choose_backend(device: torch.device, backend: str) -> str:
    """Backend "torch" or "openvino"; for "auto" OpenVINO on a CPU, where it is installed."""
    if backend != "auto":
        return backend
    return "openvino" if device.type == "cpu" and find_spec("openvino") else "torch"


def array_reader(image: NDArray[np.float32]) -> Reader:
    """Reader of an image (channel, *spatial) in memory."""
    return lambda region: image[:, *region]


def read_tile(read: Reader, shape: Sequence[int], tile: Sequence[Span]) -> NDArray[np.float32]:
    """Input of a tile, (channel, *input extents), mirrored where it reaches beyond the image."""
    index = [
        mirrored(span.read_start, span.read_stop, extent)
        for span, extent in zip(tile, shape, strict=True)
    ]
    pixels = read(tuple(slice(int(along.min()), int(along.max()) + 1) for along in index))
    local = [along - along.min() for along in index]
    return np.ascontiguousarray(pixels[np.ix_(np.arange(len(pixels)), *local)])


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Context in which convolutions have the precision "32" or "bf16"."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@torch.inference_mode()
def logits(
    model: Model, read: Reader, shape: Sequence[int], region: Region, tile: Sequence[int] | None
) -> NDArray[np.float32]:
    """Logits (classes, *region) of a region of an image, tile by tile.

    Parameters
    ----------
    read : Reader
        Gives the image's pixels.
    shape : sequence of int
        Spatial extents of the whole image, of any size, also smaller than a tile. For valid
        convolutions the image is mirrored at its border without repeating the edge pixel, and
        extended past its end to the next admissible extent. For a padded network it is mirrored
        past its end alone, to the next multiple of the divisor; each convolution pads with zeros
        around this extended image, and what was added is cut off. That defines the prediction of
        the whole image, which every region and every tiling reproduce.
    tile : sequence of int or None
        Largest input extent per axis; None takes one tile for the region.
    """
    result: NDArray[np.float32] | None = None
    for spans in tiles(region, shape, model.geometry, tile):
        inputs = torch.from_numpy(read_tile(read, shape, spans))[None].to(model.device)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with autocast(model.device, model.precision):
            output = model.network(inputs, [span.border for span in spans])[0]
        output = output.float().cpu().numpy()
        if result is None:
            extents = [part.stop - part.start for part in region]
            result = np.empty((len(output), *extents), np.float32)
        target = tuple(
            slice(span.start - part.start, span.stop - part.start)
            for span, part in zip(spans, region, strict=True)
        )
        source = tuple(slice(span.offset, span.offset + span.stop - span.start) for span in spans)
        result[:, *target] = output[:, *source]
    if result is None:
        raise ValueError(f"region must hold at least one pixel: got {region}")
    return result


def softmax(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (classes, ...) of logits (classes, ...)."""
    shifted = np.exp(values - values.max(axis=0))
    return np.asarray(shifted / shifted.sum(axis=0))


def probabilities(
    model: Model,
    read: Reader,
    shape: Sequence[int],
    region: Region,
    tile: Sequence[int] | None,
    orientations: int = 1,
    activation: Activation | None = None,
) -> NDArray[np.float32]:
    """Class probabilities, or values, (outputs, *region), averaged over axis-aligned orientations.

    Each orientation is tiled in its own frame, counted from the turned image's origin, so the mean
    is as independent of tile and region as a single prediction.

    Parameters
    ----------
    orientations : 1, 4, 8, 16 or 48
        See `orientations.orientations`.
    activation : callable, optional
        The model's; what else to take the mean of, from logits (outputs, *region) to the same
        shape.
    """
    activate = activation or model.activation
    predicted = (
        activate(turned_logits(model, read, shape, region, tile, orientation))
        for orientation in orientations_of(orientations, len(shape))
    )
    total = next(predicted)
    for one in predicted:
        total += one
    return total / np.float32(orientations)


def turned_logits(
    model: Model,
    read: Reader,
    shape: Sequence[int],
    region: Region,
    tile: Sequence[int] | None,
    orientation: Orientation,
) -> NDArray[np.float32]:
    """Logits (classes, *region), in the frame of the image, of what the network sees turned."""

    def turned_read(part: Region) -> NDArray[np.float32]:
        return orientation.turn(read(orientation.region_back(part, shape)))

    found = logits(
        model,
        turned_read,
        orientation.permuted(shape),
        orientation.region(region, shape),
        tile and orientation.permuted(tile),
    )
    return orientation.turn_back(found)
