"""A bioimage.io package as others make it: a small U-Net that pads, in TorchScript or ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from bioimageio.core import create_prediction_pipeline
from bioimageio.core.digest_spec import create_sample_for_model, get_test_input_sample
from bioimageio.spec import load_model_description, save_bioimageio_package
from bioimageio.spec.model import v0_5
from numpy.typing import NDArray
from torch import Tensor, nn

HALO, STEP = 16, 4
GAIN = 0.01
SCALED = ({"id": "scale_linear", "kwargs": {"gain": GAIN}},)


class Foreign(nn.Module):
    """Three levels with zeros around each convolution; sees 14 pixels far."""

    def __init__(self, dimensions: int, channels: int, classes: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.pool = nn.AvgPool2d(2) if dimensions == 2 else nn.AvgPool3d(2)
        self.grow = nn.Upsample(scale_factor=2)
        self.first = convolution(channels, 4, 3, padding=1)
        self.second = convolution(4, 8, 3, padding=1)
        self.third = convolution(8, 8, 3, padding=1)
        self.merge = convolution(16, 4, 3, padding=1)
        self.last = convolution(8, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        first = torch.relu(self.first(x))
        second = torch.relu(self.second(self.pool(first)))
        third = torch.relu(self.third(self.pool(second)))
        merged = torch.relu(self.merge(torch.cat([second, self.grow(third)], 1)))
        return self.last(torch.cat([first, self.grow(merged)], 1))


def write_package(
    path: Path,
    kind: str = "torchscript",
    dimensions: int = 2,
    channels: int = 1,
    names: tuple[str, ...] = ("cell",),
    before: tuple[dict[str, Any], ...] = SCALED,
    after: tuple[dict[str, Any], ...] = ({"id": "sigmoid"},),
    **changes: Any,
) -> nn.Module:
    """Write a package and return its network, from what preprocessing gives to logits."""
    torch.manual_seed(1)
    network = Foreign(dimensions, channels, len(names)).eval()
    for values in network.parameters():
        nn.init.normal_(values, std=0.3 if dimensions == 2 else 0.12)
    folder = path.parent / f"{path.stem}-files"
    folder.mkdir(parents=True)
    shape = (1, channels, *[3 * HALO] * dimensions)
    pixels = np.random.default_rng(2).integers(0, 250, shape).astype(np.float32)
    free = {0: "batch"} | {axis: f"extent{axis}" for axis in range(2, len(shape))}
    torch.jit.script(network).save(str(folder / "network.pt"))
    torch.onnx.export(
        network,
        (torch.zeros(shape),),
        str(folder / "network.onnx"),
        dynamo=False,
        input_names=["raw"],
        output_names=["made"],
        dynamic_axes={"raw": free, "made": free},
    )
    (folder / "README.md").write_text("# Foreign\n\n## Validation\n\nnone\n")
    spatial = "zyx"[-dimensions:]
    size = changes.get("size", {"min": 2 * HALO + STEP, "step": STEP})
    axes = [{"type": "space", "id": axis, "size": size} for axis in spatial]
    made = [
        {
            "type": "space",
            "id": axis,
            "size": {"tensor_id": "raw", "axis_id": axis},
            "halo": changes.get("halo", HALO),
        }
        for axis in spatial
    ]
    np.save(folder / "input.npy", pixels)
    noise = np.random.default_rng(3).uniform(size=(1, len(names), *shape[2:])).astype(np.float32)
    np.save(folder / "output.npy", noise)
    sources = {"torchscript": "network.pt", "onnx": "network.onnx"}
    versions = {"torchscript": {"pytorch_version": "2.0"}, "onnx": {"opset_version": 17}}
    described = {
        "format_version": "0.5.0",
        "type": "model",
        "name": "Foreign",
        "description": "of another program",
        "authors": [{"name": "Someone"}],
        "license": "MIT",
        "cite": [{"text": "U-Net", "doi": "10.1007/978-3-319-24574-4_28"}],
        "documentation": {"source": folder / "README.md"},
        "inputs": [
            {
                "id": "raw",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": [f"c{i}" for i in range(channels)]},
                    *axes,
                ],
                "preprocessing": list(before),
                "test_tensor": {"source": folder / "input.npy"},
                **({"pad": {"mode": changes["pad"]}} if "pad" in changes else {}),
            }
        ],
        "outputs": [
            {
                "id": "made",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": list(names)},
                    *made,
                ],
                "postprocessing": list(after),
                "test_tensor": {"source": folder / "output.npy"},
            }
        ],
        "weights": {kind: {"source": folder / sources[kind], **versions[kind]}},
    }
    if not changes.get("untrue"):
        np.save(folder / "output.npy", said(v0_5.ModelDescr.model_validate(described)))
    save_bioimageio_package(v0_5.ModelDescr.model_validate(described), output_path=path)
    return network


def said(model: v0_5.ModelDescr) -> NDArray[np.float32]:
    """What bioimageio.core makes of the test input."""
    with create_prediction_pipeline(model, devices=["cpu"]) as pipeline:
        sample = pipeline.predict_sample_without_blocking(
            get_test_input_sample(model), skip_input_padding=True, skip_output_cropping=True
        )
    return np.asarray(sample.members["made"].data, np.float32)


def tiled(package: Path, pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return what bioimageio.core predicts of an image (channels, *spatial), tile by tile."""
    model = load_model_description(package, format_version="latest")
    with create_prediction_pipeline(model, devices=["cpu"]) as pipeline:
        sample = create_sample_for_model(model, inputs=pixels[np.newaxis].astype(np.float32))
        found = pipeline.predict_sample_with_blocking(sample, ns=3).members["made"].data
    return np.asarray(found)[0]
