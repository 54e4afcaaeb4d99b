"""A trained network as a bioimage.io model package, which Fiji, ilastik, napari and others read.

The network is written in plain PyTorch, as TorchScript and as ONNX, with a test input whose output
comes from our own prediction, so that whoever runs the package can see that it says the same.

References
----------
.. [1] bioimage.io model description 0.5, https://bioimage-io.github.io/spec-bioimage-io
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unetflow import portable_unet
from unetflow.exported_frame import Frame, frame_of
from unetflow.geometry import Span
from unetflow.inference import Model, array_reader, load, probabilities, read_tile
from unetflow.intensity import Normalisation, stored_normalisation
from unetflow.model_card import Subject, draw_cover, write_readme
from unetflow.models.unet.settings import UNetSettings
from unetflow.portable_unet import PortableUNet
from unetflow.progress import log
from unetflow.regression import output_names, regression_of
from unetflow.settings.evaluation import ExportSettings
from unetflow.store import Image, open_image, read_json, replacing, write_json

SHOWN = {2: 256, 3: 32}
"""Largest extent of the test output by dimensions: enough to see something, small to carry."""
OPSET = 17
"""Of ONNX: ONNX Runtime 1.12 (2022) and later read it."""
TOLERANCE = 1e-4
"""Of probabilities, or values over the deviation of a channel's targets, between formats on one
CPU: sums in another order differ by some 1e-6."""


def export(
    folder: Path,
    image: Path,
    summary: Path,
    outputs: Mapping[str, Path],
    subject: Subject,
    settings: ExportSettings,
) -> None:
    """Write a model as a package that has been tested with bioimageio.core in every format.

    Parameters
    ----------
    folder : Path
        Of `model.json` and `model.safetensors`.
    image : Path
        OME-Zarr; its middle is the test input and the cover picture.
    summary : Path
        Scores of the experiment, for the documentation.
    outputs : mapping of str to Path
        `package`: the .zip. `agreement`: JSON, the largest difference of the probabilities of each
        format from ours; of a regression's values, over the deviation of the channel's targets.

    Raises
    ------
    ValueError
        If bioimageio.core is not installed, the network is no U-Net, differs between axes or takes
        statistics of each image's nonzero pixels, the package fails its test, or a format differs
        from our prediction by more than 1e-4.
    """
    try:
        import onnx  # noqa: F401 - torch writes ONNX with it
        import onnxruntime  # noqa: F401 - bioimageio.core runs it

        from unetflow import model_package
    except ImportError as error:
        raise ValueError(
            f"export needs bioimageio.core and onnxruntime: {error}; pip install 'unetflow[export]'"
        ) from error
    facts = read_json(folder / "model.json")
    kind, intensity = facts["network"]["network"], facts["intensity"]
    if kind != "unet":
        raise ValueError(
            f"export must be of a network that is written in plain PyTorch too, which is unet: got "
            f"{kind}; leave the experiment out"
        )
    # Part of the network, it would see a tile and mirrored voxels, not the image: every tile of
    # another program would be normalised in its own way.
    if intensity["source"] == "image" and intensity.get("pixels") == "nonzero":
        raise ValueError(
            "export must be of a network that is normalised as bioimage.io can say: got "
            "intensity.source image of pixels nonzero, whose mean and deviation no step of it "
            "takes; train with intensity.source: training, or predict with unetflow"
        )
    model = load(folder, "cpu", "32")
    if len(set(model.geometry)) > 1:
        raise ValueError(
            "export must be of a network that does the same along every axis: got one whose "
            "filter_size or pool_size differ; leave the experiment out"
        )
    frame = frame_of(model.geometry[0])
    with TemporaryDirectory(prefix="unetflow-export-") as temporary:
        place = Path(temporary)
        tensors = tensors_of_test(model, open_image(image), frame)
        for name, tensor in zip(("input", "output"), tensors, strict=True):
            np.save(place / f"test_{name}.npy", tensor)
        write_weights(portable(model, frame), tensors[0].shape, place)
        shutil.copy(portable_unet.__file__, place / "unet.py")
        shutil.copy(folder / "model.json", place)
        regression = regression_of(facts)
        draw_cover(*tensors, frame.halo, place / "cover.png", regression is not None)
        write_readme(place / "README.md", subject, model.facts, frame.halo, read_json(summary))
        kwargs = architecture(model.facts, frame)
        description = model_package.describe(place, model, frame, kwargs, OPSET, subject, settings)
        package = model_package.save(description, place / "package.zip")
        units = [1.0] if regression is None else regression.normalise.scale
        differences = model_package.tested(package, units)
        for name, difference in differences.items():
            log(f"{name}: outputs differ from ours by at most {difference:.1e}")
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"{outputs['package']}: {name} must say what we say within {TOLERANCE}: it "
                    f"differs by {difference:.3g}; another version of torch or onnxruntime may do, "
                    "and the cause is a fault of ours or of theirs: report it"
                )
        with replacing(outputs["package"]) as partial:
            shutil.copy(package, partial)
    write_json(outputs["agreement"], differences)


def architecture(facts: Mapping[str, Any], frame: Frame) -> dict[str, Any]:
    """Arguments of the portable network."""
    network = UNetSettings(**facts["network"])
    stored = dict.fromkeys(("batch", "instance", "group"), "stored")
    return {
        "channels": facts["channels"],
        "classes": len(output_names(facts)),
        "width": network.width,
        "kernel": list(network.kernel),
        "strides": [list(of) for of in network.strides],
        "padded": network.padding == "zeros",
        "normalisation": stored.get(network.normalisation, network.normalisation),
        "residual": network.blocks == "residual",
        "widened": network.widening == "before",
        "upsampling": network.upsampling,
        "attention": network.attention,
        "margin": frame.margin,
        "lead": frame.lead,
        "trail": frame.trail,
        "probabilities": regression_of(facts) is None,
    }


def portable(model: Model, frame: Frame) -> PortableUNet:
    """Return the same network in plain PyTorch, to probabilities or normalised values."""
    network = PortableUNet(**architecture(model.facts, frame))
    weights = model.network.state_dict()
    # Heads of coarser levels are of training alone.
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network.eval()


def write_weights(network: PortableUNet, shape: Sequence[int], folder: Path) -> None:
    """Write a state dict, TorchScript and ONNX; batch and extents are free in each.

    ONNX is traced: what torch.export does instead, symbolic arithmetic on the extents, takes up to
    a minute for the same operations.
    """
    torch.save(network.state_dict(), folder / "weights.pt")
    free = {0: "batch"} | {axis: f"extent{axis}" for axis in range(2, len(shape))}
    with warnings.catch_warnings():
        # torch would rather have others, but TorchScript is what programs without Python read.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        scripted = torch.jit.script(network)
        scripted.save(str(folder / "weights_torchscript.pt"))  # type: ignore[no-untyped-call]
        torch.onnx.export(
            network,
            (torch.zeros(*shape),),
            str(folder / "weights.onnx"),
            dynamo=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": free, "output": free},
        )


def tensors_of_test(
    model: Model, image: Image, frame: Frame
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Test input (1, channels, *extents), grey values, and what we predict from it.

    The input is the middle of the image with a halo, mirrored where that reaches beyond the image;
    of a stack for a 2D network the middle plane. It counts as an image of its own.
    """
    dimensions = len(model.geometry)
    planes = tuple(extent // 2 for extent in image.spatial_shape[:-dimensions])
    shape = image.spatial_shape[-dimensions:]
    spans = []
    for extent in shape:
        steps = max(min(extent, SHOWN[dimensions]) // frame.divisor, 1)
        start, inner = max(extent - steps * frame.divisor, 0) // 2, steps * frame.divisor
        around = start - frame.halo, start + inner + frame.halo
        spans.append(Span(start, start + inner, *around, frame.halo))
    pixels = read_tile(
        lambda region: image.region((*planes, *region)).astype(np.float32), shape, spans
    )
    extents = pixels.shape[1:]
    region = tuple(slice(frame.margin, extent - frame.margin) for extent in extents)
    read = array_reader(normalised(pixels, model.facts["intensity"]))
    found = probabilities(model, read, extents, region, None)
    # The network says 0 of the margin, of which a regression makes the mean of its targets.
    framed, regression = np.zeros((len(found), *extents), np.float32), regression_of(model.facts)
    if regression is not None:
        framed = regression.values(framed)
    framed[:, *region] = found
    return pixels[np.newaxis], framed[np.newaxis]


def normalised(pixels: NDArray[np.float32], facts: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return the pixels (channel, ...) normalised as `model_package.preprocessing` says."""
    if facts["source"] == "training":
        return stored_normalisation(facts).apply(pixels)
    if facts.get("clip"):
        pixels = np.clip(pixels, *facts["clip"])
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    if facts["normalise"] == "zscore":
        offset, scale = flat.mean(axis=1), flat.std(axis=1)
    else:
        percents = [facts["low_percentile"], facts["high_percentile"]]
        offset, high = np.percentile(flat, percents, axis=1)
        scale = high - offset
    return Normalisation(tuple(offset), tuple(scale)).apply(pixels)
