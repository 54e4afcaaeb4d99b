"""Models that a sheet names by their path: of ours, from anywhere, or bioimage.io packages.

Whatever they are, predictions read them as `model.json` and `model.safetensors`. Of a package that
`export` has made these are its `model.json` and its weights, so that it predicts the same bytes as
the experiment that it comes from. Another package is used through its TorchScript or ONNX, with the
halo and the extents that it states, see `package_description`; its own code never runs, and no
pickle is read but tensors.

References
----------
.. [1] bioimage.io model description 0.5, https://bioimage-io.github.io/spec-bioimage-io
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from unetflow.geometry import geometry_to_json
from unetflow.inference import Model, load, sha256
from unetflow.intensity import histogram
from unetflow.models.packaged.network import from_order
from unetflow.models.packaged.settings import PackagedSettings, Program
from unetflow.package_description import facts_of, network_of
from unetflow.progress import log, one_line
from unetflow.regions import own_normalisation
from unetflow.regression import regression_of
from unetflow.settings.experiment import ExperimentSettings
from unetflow.settings.networks import parse_network
from unetflow.settings.prediction import PredictSettings
from unetflow.settings.training import IntensitySettings
from unetflow.store import read_json, write_json

FACTS = ("network", "geometry", "channels", "class_names", "intensity", "tile", "weights_sha256")
"""What prediction reads of `model.json`."""
PROGRAMS: tuple[Program, ...] = ("torchscript", "onnx")
"""Formats of a package that are used, the first that it has."""
TOLERANCE = 1e-2
"""Of a package's test output: percentiles are grey values that occur here, and others interpolate;
what else differs are sums in another order, by some 1e-6."""


def adopt(place: str, facts: Path, weights: Path) -> None:
    """Write a model's `model.json` and `model.safetensors`; one that cannot be used is a result.

    Parameters
    ----------
    place : str
        Folder of `model.json` and `model.safetensors`, the first of them, or a package (.zip).
    facts : Path
        JSON as training writes it; of a model that cannot be used `reason`, one line.
    """
    path = Path(place)
    weights.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=weights.parent, prefix=".adopted-") as temporary:
        folder = Path(temporary)
        try:
            if not path.exists():
                raise ValueError("a model must exist: found none; correct the sheet")
            if path.is_dir() or path.name == "model.json":
                of_ours(path if path.is_dir() else path.parent, folder)
            else:
                of_package(path, folder)
            found = read_json(folder / "model.json")
        except (OSError, RuntimeError, ValueError) as error:
            found = {"reason": f"{place}: {one_line(error)}"}
            (folder / "model.safetensors").write_bytes(b"")
        (folder / "model.safetensors").replace(weights)
    write_json(facts, found)


def of_ours(given: Path, folder: Path) -> None:
    """Copy a model of ours, once its weights are those that it states."""
    for name in ("model.json", "model.safetensors"):
        if not (given / name).is_file():
            raise ValueError(f"a model must have {name}: found none in {given}; copy both files")
        shutil.copy(given / name, folder)
    facts = read_json(folder / "model.json")
    require_facts(facts)
    load(folder, "cpu", "32")


def require_facts(facts: Any) -> None:
    """Refuse a `model.json` that is not one."""
    missing = [name for name in FACTS if not isinstance(facts, dict) or name not in facts]
    if missing:
        raise ValueError(f"model.json must have {', '.join(missing)}: found none; copy it again")


def of_package(given: Path, folder: Path) -> None:
    """Write what prediction needs of a bioimage.io package.

    Raises
    ------
    ValueError
        If it is no package, has other files than it states, is of no use to us, or does not say of
        its test input what it states.
    """
    try:
        with ZipFile(given) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    except (BadZipFile, zlib.error) as error:
        raise ValueError(
            f"a model must be a folder with model.json or a bioimage.io package, a .zip: {error}; "
            "copy it again"
        ) from error
    model = described(given, files)
    own = json.loads(files["model.json"]) if "model.json" in files else {}
    state = model.weights.pytorch_state_dict
    if state is not None and {*FACTS} <= {*own}:
        write_model(folder, own, state_of(files[str(state.source)]))
        load(folder, "cpu", "32")
        return
    program = next((name for name in PROGRAMS if getattr(model.weights, name) is not None), None)
    if program is None or getattr(getattr(model.weights, program), "external_data", None):
        raise ValueError(
            "a package must hold its network as TorchScript or ONNX, in one file: found neither, "
            "and code of others is not run; ask its authors, or convert it by bioimageio.core"
        )
    content = files[str(getattr(model.weights, program).source)]
    network = network_of(model, program, len(content))
    tests = tensors_of(model, network, files)
    facts = facts_of(model, network, tests)
    facts["geometry"] = geometry_to_json(network.geometry)
    write_model(folder, facts, {"program": torch.frombuffer(bytearray(content), dtype=torch.uint8)})
    compare(load(folder, "cpu", "32"), tests)


def described(given: Path, files: Mapping[str, bytes]) -> Any:
    """Return the description of a package, once its files are those that it states.

    Nothing is downloaded: a file that it only refers to counts as missing.
    """
    try:
        from bioimageio.spec import load_model_description
        from loguru import logger
    except ImportError as error:
        # No error of the model, which would be its result, and stay so after the installation
        raise ImportError(
            f"a package needs bioimageio.core: {error}; pip install 'unetflow[export]'"
        ) from error
    known: Any = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    logger.disable("bioimageio")
    try:
        return load_model_description(
            given, format_version="latest", perform_io_checks=False, known_files=known
        )
    except Exception as error:  # of YAML, of pydantic, of files
        raise ValueError(
            f"a package must be as bioimage.io describes it: {one_line(error)}; ask its authors"
        ) from error
    finally:
        logger.enable("bioimageio")


def state_of(content: bytes) -> Any:
    """Tensors of a state dict; nothing else is read."""
    try:
        return torch.load(BytesIO(content), "cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            "a package's weights must be tensors: got others, which are not read; export it again"
        ) from error


def write_model(folder: Path, facts: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Write `model.json` and `model.safetensors`."""
    weights = folder / "model.safetensors"
    safetensors.torch.save_file({**tensors}, weights)
    write_json(folder / "model.json", {**facts, "weights_sha256": sha256(weights)})


def tensors_of(
    model: Any, network: PackagedSettings, files: Mapping[str, bytes]
) -> list[NDArray[np.float32]]:
    """Test input and test output (1, channels, *extents) of a package."""
    found = []
    for tensor, axes in (
        (model.inputs[0], network.input_axes),
        (model.outputs[0], network.output_axes),
    ):
        if tensor.test_tensor is None:
            raise ValueError("a package must have test tensors: found none; ask its authors")
        stored = np.load(BytesIO(files[str(tensor.test_tensor.source)]), allow_pickle=False)
        ordered = from_order(torch.from_numpy(stored.astype(np.float32)), axes, network.dimensions)
        found.append(ordered[:1].numpy())
    return found


@torch.inference_mode()
def compare(model: Model, tests: Sequence[NDArray[np.float32]]) -> None:
    """Refuse a package that does not say here what it states, and tell how exact its tiles are.

    Tiles join exactly if a network sees no further than its halo. So it is run on the test input,
    and on the same without a step of it at one end, and what both say is compared.
    """
    network: Any = model.network
    given = tests[0][0]
    if model.facts["intensity"]["source"] == "image":
        own = [histogram(channel, "the test input") for channel in given]
        given = own_normalisation(model.facts["intensity"], own).apply(given)
    pixels = torch.from_numpy(given)[None]
    whole = network(pixels)
    difference = float((whole - network.classes(torch.from_numpy(tests[1]))).abs().max())
    log(f"the test output differs by at most {difference:.1e}")
    if not difference <= TOLERANCE:
        raise ValueError(
            f"a package must say of its test input what it states, within {TOLERANCE}: it differs "
            f"by {difference:.3g}; ask its authors"
        )
    steps = [axis.divisor for axis in model.geometry]
    extents = [extent - step for extent, step in zip(pixels.shape[2:], steps, strict=True)]
    pairs = zip(model.geometry, extents, strict=True)
    if not all(axis.is_admissible(extent) for axis, extent in pairs):
        return
    part = network(pixels[:, :, *(slice(step, None) for step in steps)])
    seam = float((whole[:, :, *(slice(step, None) for step in steps)] - part).abs().max())
    log(f"tiles differ from the whole by at most {seam:.1e} in its test input")


def suited(experiment: ExperimentSettings, facts: Mapping[str, Any]) -> ExperimentSettings:
    """Return an experiment's settings with the network of another model, to predict with it.

    Network, intensity, task, and the tile unless `predict.tile` gives one, are the model's.

    Raises
    ------
    ValueError
        If the model cannot be used, or not with these settings.
    """
    if "reason" in facts:
        raise ValueError(facts["reason"])
    network, predict = parse_network(facts["network"]), experiment.predict
    changes: dict[str, Any] = {}
    task = "segmentation" if regression_of(facts) is None else "regression"
    if task != experiment.task:
        changes |= of_another_task(predict, task)
    if task == "segmentation" and experiment.segment.seeds_are_chosen:
        raise ValueError(
            "segment.seed_threshold must be a number beside a model, for which no images choose "
            "it: got auto; set one, or name another experiment"
        )
    if predict.tile is None:
        changes["tile"] = tuple(facts["tile"])
    if isinstance(network, PackagedSettings):
        changes |= only_possible(network, experiment, facts)
    intensity = {name: facts["intensity"][name] for name in IntensitySettings.model_fields}
    return experiment.model_copy(
        update={
            "task": task,
            "model": network,
            "intensity": IntensitySettings(**intensity),
            "predict": predict.model_copy(update=changes),
        }
    )


def of_another_task(predict: PredictSettings, task: str) -> dict[str, Any]:
    """Settings of prediction that a model asks for whose task is not that of the experiment.

    An experiment of a segmentation stands beside a model of values where none is named, too.
    """
    if task == "segmentation":
        raise ValueError(
            "experiment must be of the model's task, segmentation: got one of the task regression; "
            "name another"
        )
    for name in ("output", "channels", "keep"):
        value, default = getattr(predict, name), PredictSettings.model_fields[name].default
        if value != default:
            raise ValueError(
                f"predict.{name} must be {default} beside a model of the task regression, whose "
                f"values are the result: got {value}; leave it out, or name another experiment"
            )
    # Half floats are the default of classes, which cannot be told from a choice of them here.
    return {"output": "values", "dtype": "float32"}


def only_possible(
    network: PackagedSettings, experiment: ExperimentSettings, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings of prediction that a package of another program leaves no choice of."""
    predict, changes = experiment.predict, {"precision": "32", "backend": "torch"}
    for name, value in changes.items():
        if getattr(predict, name) not in (value, "auto"):
            raise ValueError(
                f"predict.{name} must be {value} for a package of another program: got "
                f"{getattr(predict, name)}; leave it out"
            )
    if predict.output == "logits":
        raise ValueError(
            "predict.output must be probabilities or classes for a package of another program: got "
            "logits, which it does not give; set it"
        )
    if not network.fixed:
        return changes
    wanted = predict.fixed_tile
    extents = [wanted] * network.dimensions if isinstance(wanted, int) else wanted
    if extents is not None and list(extents) != facts["tile"]:
        raise ValueError(
            f"predict.tile must be {facts['tile']} for this package: got {list(extents)}; leave it "
            "out"
        )
    return changes | {"tile": tuple(facts["tile"])}
