"""The description, packing and test of a bioimage.io model package, by bioimageio.core.

References
----------
.. [1] bioimage.io model description 0.5, https://bioimage-io.github.io/spec-bioimage-io
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bioimageio.core import create_prediction_pipeline, test_model
from bioimageio.core.common import SupportedWeightsFormat
from bioimageio.core.digest_spec import get_test_input_sample, get_test_output_sample
from bioimageio.spec import load_model_description, save_bioimageio_package
from bioimageio.spec.generic.v0_3 import LicenseId
from bioimageio.spec.model import v0_5
from loguru import logger

from unetflow import axes as axis_rules
from unetflow.exported_frame import Frame
from unetflow.inference import Model
from unetflow.model_card import UNET_DOI, Subject, doi_of
from unetflow.progress import one_line
from unetflow.regression import output_names, regression_of
from unetflow.settings.evaluation import ExportSettings

TAGS = {
    "semantic segmentation": ("segmentation", "semantic-segmentation"),
    "image restoration": ("image-restoration", "regression"),
}
FORMATS: tuple[SupportedWeightsFormat, ...] = ("pytorch_state_dict", "torchscript", "onnx")


def describe(
    folder: Path,
    model: Model,
    frame: Frame,
    architecture: Mapping[str, Any],
    opset: int,
    subject: Subject,
    settings: ExportSettings,
) -> v0_5.ModelDescr:
    """Return the description of a package whose files lie in a folder.

    Raises
    ------
    ValueError
        If the settings are not what the specification allows.
    """
    facts, dimensions = model.facts, len(model.geometry)
    task = "semantic segmentation" if regression_of(facts) is None else "image restoration"
    described = {
        "format_version": v0_5.ModelDescr.implemented_format_version,
        "type": "model",
        "name": settings.title or f"U-Net {subject.name}",
        "description": subject.description,
        "authors": [author.model_dump(exclude_none=True) for author in settings.authors],
        "license": licence(subject, settings),
        "cite": citations(subject),
        "documentation": {"source": folder / "README.md"},
        "covers": [{"source": folder / "cover.png"}],
        "attachments": [{"source": folder / "model.json"}],
        "tags": ["unet", "unetflow", f"{dimensions}d", *TAGS[task]],
        "inputs": [input_of(folder, facts, frame)],
        "outputs": [output_of(folder, facts, frame)],
        "weights": weights(folder, architecture, opset),
        "config": {
            "bioimageio": {
                "architecture_type": f"{dimensions}D U-Net",
                "task": task,
                "model_parameter_count": sum(
                    values.numel() for values in model.network.parameters()
                ),
            }
        },
    }
    try:
        return v0_5.ModelDescr.model_validate(described)
    except ValueError as error:
        raise ValueError(
            f"export must suit the specification of bioimage.io: {one_line(error)}; correct the "
            "section export of the experiment"
        ) from error


def licence(subject: Subject, settings: ExportSettings) -> str | None:
    """Licence of the model: the one that is set, else the dataset's if it has an SPDX identifier.

    Raises
    ------
    ValueError
        If the one that is set has none.
    """
    if settings.licence is None:
        return subject.licence if is_spdx(subject.licence) else None
    if not is_spdx(settings.licence):
        raise ValueError(
            f"export.licence must be an SPDX identifier, such as CC-BY-4.0: got "
            f"{settings.licence!r}; see https://spdx.org/licenses"
        )
    return settings.licence


def is_spdx(name: str) -> bool:
    """Whether a name is an identifier of the SPDX list that the specification carries."""
    try:
        LicenseId(name)
    except ValueError:
        return False
    return True


def citations(subject: Subject) -> list[dict[str, str]]:
    """What is to be cited: the U-Net, and the dataset."""
    found = [{"text": "U-Net", "doi": UNET_DOI}]
    of_dataset = [doi_of(reference) for reference in subject.citation]
    return found + [{"text": subject.title, "doi": doi} for doi in of_dataset if doi]


def input_of(folder: Path, facts: Mapping[str, Any], frame: Frame) -> dict[str, Any]:
    """Description of the input: grey values as they are."""
    size = {"min": frame.minimum, "step": frame.divisor}
    names = [f"channel{channel}" for channel in range(facts["channels"])]
    return {
        "id": "input",
        "description": "grey values as they are in the image",
        "axes": axes(facts, names, lambda _: size),
        "data": {"type": "float32"},
        "preprocessing": preprocessing(facts),
        # The image is mirrored at its border without repeating the edge (Ronneberger et al. 2015).
        "pad": {"mode": "reflect"},
        "test_tensor": {"source": folder / "test_input.npy"},
    }


def output_of(folder: Path, facts: Mapping[str, Any], frame: Frame) -> dict[str, Any]:
    """Description of the output: a probability for each class, or values in the targets' unit."""
    names = [identifier(name) for name in output_names(facts)]
    found = axes(facts, names, lambda axis: {"tensor_id": "input", "axis_id": axis})
    for axis in found:
        if axis["type"] == "space":
            axis["halo"] = frame.halo
    output = {
        "id": "output",
        "description": "probability of each class, background first",
        "axes": found,
        "data": {"type": "float32", "range": (0.0, 1.0)},
        "test_tensor": {"source": folder / "test_output.npy"},
    }
    regression = regression_of(facts)
    if regression is None:
        return output
    back = regression.normalise
    kwargs = {"axis": "channel", "gain": list(back.scale), "offset": list(back.offset)}
    return output | {
        "description": "values in the unit of the pictures that the network has learned to predict",
        "data": {"type": "float32"},
        "postprocessing": [{"id": "scale_linear", "kwargs": kwargs}],
    }


def axes(facts: Mapping[str, Any], channels: Sequence[str], size: Any) -> list[dict[str, Any]]:
    """Descriptions of the axes: batch, channel, and those in space with their size."""
    found: list[dict[str, Any]] = [{"type": "batch"}]
    found.append({"type": "channel", "id": "channel", "channel_names": list(channels)})
    voxels = facts.get("voxel_size_um", {})
    for axis in axis_rules.SPATIAL[-facts["network"]["dimensions"] :]:
        known = {"unit": "micrometer", "scale": voxels[axis]} if axis in voxels else {}
        found.append({"type": "space", "id": axis, "size": size(axis), **known})
    return found


def identifier(name: str) -> str:
    """Name of a class or a channel as the specification wants it: letters, digits and _."""
    name = re.sub(r"\W", "_", name)
    return f"class_{name}" if not name[:1].isalpha() else name


def preprocessing(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the normalisation as the specification says it.

    The statistics of the training images are a linear map. Those of each image are its own mean and
    standard deviation, which are the same here and there, or its percentiles, which we take as grey
    values that occur, and others interpolate. Statistics of an image's nonzero pixels are refused
    before, see `export.export`.
    """
    intensity, first = facts["intensity"], []
    if intensity.get("clip"):
        low, high = intensity["clip"]
        first = [{"id": "clip", "kwargs": {"min": low, "max": high}}]
    if intensity["source"] == "training":
        pairs = list(zip(intensity["offset"], intensity["scale"], strict=True))
        gains = [1 / scale for _, scale in pairs]
        shifts = [-offset / scale for offset, scale in pairs]
        kwargs = {"axis": "channel", "gain": gains, "offset": shifts}
        return [*first, {"id": "scale_linear", "kwargs": kwargs}]
    over = list(axis_rules.SPATIAL[-facts["network"]["dimensions"] :])
    if intensity["normalise"] == "zscore":
        return [*first, {"id": "zero_mean_unit_variance", "kwargs": {"axes": over}}]
    low, high = intensity["low_percentile"], intensity["high_percentile"]
    kwargs = {"axes": over, "min_percentile": low, "max_percentile": high}
    return [*first, {"id": "scale_range", "kwargs": kwargs}]


def weights(folder: Path, architecture: Mapping[str, Any], opset: int) -> dict[str, Any]:
    """Descriptions of the three formats."""
    version = torch.__version__.split("+")[0]
    source = {"source": folder / "unet.py", "callable": "PortableUNet", "kwargs": architecture}
    parent = {"parent": "pytorch_state_dict"}
    return {
        "pytorch_state_dict": {
            "source": folder / "weights.pt",
            "architecture": source,
            "pytorch_version": version,
        },
        "torchscript": {
            "source": folder / "weights_torchscript.pt",
            "pytorch_version": version,
            **parent,
        },
        "onnx": {"source": folder / "weights.onnx", "opset_version": opset, **parent},
    }


def save(description: v0_5.ModelDescr, path: Path) -> Path:
    """Write the package, a .zip."""
    with quiet():
        save_bioimageio_package(description, output_path=path)
    return path


def tested(package: Path, units: Sequence[float]) -> dict[str, float]:
    """Largest difference of the output of each format from the test output, once all tests passed.

    Parameters
    ----------
    units : sequence of float
        Of each channel of the output, what its differences are divided by.

    Raises
    ------
    ValueError
        If one fails.
    """
    with quiet():
        summary = test_model(package, devices=["cpu"])
        if summary.status != "passed":
            failed = [
                f"{detail.name}: {error.msg}"
                for detail in summary.details
                for error in detail.errors
            ]
            raise ValueError(
                "the package must pass the test of bioimageio.core: "
                f"{' '.join('; '.join(failed).split())}; report it, with the experiment's file"
            )
        model = load_model_description(package, format_version="latest")
        return {name: difference(model, name, units) for name in FORMATS}


def difference(
    model: v0_5.ModelDescr, weights_format: SupportedWeightsFormat, units: Sequence[float]
) -> float:
    """Largest difference of the output of one format from the test output, in these units."""
    expected = get_test_output_sample(model)
    with create_prediction_pipeline(
        model, weights_format=weights_format, devices=["cpu"]
    ) as pipeline:
        found = pipeline.predict_sample_without_blocking(
            get_test_input_sample(model), skip_input_padding=True, skip_output_cropping=True
        )
    output = v0_5.TensorId("output")
    pair = (np.asarray(sample.members[output].data) for sample in (found, expected))
    by_channel = np.moveaxis(np.abs(np.subtract(*pair)), 1, -1)
    return float((by_channel / units).max())


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what bioimageio tells of each step."""
    logger.disable("bioimageio")
    try:
        yield
    finally:
        logger.enable("bioimageio")
