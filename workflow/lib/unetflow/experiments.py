"""Experiments, their variants and their datasets, from the files that describe them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from operator import attrgetter
from pathlib import Path
from typing import Any

from unetflow.datasets.registry import find_dataset
from unetflow.formats.dicom import is_series
from unetflow.reading import parse, read_yaml
from unetflow.settings.datasets import DatasetSettings, DecathlonLayout
from unetflow.settings.experiment import ExperimentSettings
from unetflow.settings.network import VggSettings
from unetflow.settings.networks import Network


def load_experiments(folder: Path, names: Sequence[str]) -> dict[str, ExperimentSettings]:
    """Return the settings of each named experiment; NAME alone takes its variants with it.

    Parameters
    ----------
    folder : Path
        Where NAME.yaml are.
    names : sequence of str
        NAME, or NAME-variant for one variant alone.

    Raises
    ------
    ValueError
        One line, also for an experiment that no file describes.
    """
    experiments: dict[str, ExperimentSettings] = {}
    for name in names:
        family = load_family(folder, name)
        chosen = family if (folder / f"{name}.yaml").is_file() else {name: family[name]}
        experiments |= chosen
    return experiments


def load_present(folder: Path, results: Path) -> dict[str, ExperimentSettings]:
    """Return the settings of the experiments in a results folder that `folder` still describes."""
    present = {}
    for name in sorted(path.name for path in (results / "experiments").glob("*")):
        with suppress(ValueError):
            present[name] = load_family(folder, name)[name]
    return present


def load_families(folder: Path, names: Iterable[str]) -> dict[str, dict[str, ExperimentSettings]]:
    """Return the family of each named experiment and of each of its variants, by name."""
    families = [load_family(folder, name) for name in names]
    return {member: family for family in families for member in family}


def load_family(folder: Path, name: str) -> dict[str, ExperimentSettings]:
    """Return the experiment that `name` belongs to, and its variants, by name."""
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    base = max(
        (stem for stem in files if name == stem or name.startswith(stem + "-")),
        key=len,
        default=None,
    )
    family: dict[str, ExperimentSettings] = {}
    if base is not None:
        path, content = files[base], read_yaml(files[base])
        family[base] = parse(ExperimentSettings, content, str(path))
        for variant, changes in family[base].variants.items():
            source = f"{path}: variants.{variant}"
            if (folder / f"{base}-{variant}.yaml").is_file():
                raise ValueError(
                    f"{source}: {base}-{variant} must be one experiment: there is a file "
                    f"{base}-{variant}.yaml too; rename one"
                )
            family[f"{base}-{variant}"] = parse(
                ExperimentSettings, changed(content, changes, source), source
            )
    if name not in family:
        known = [*files, *family]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"the nearest is {close[0]}" if close else f"known are {', '.join(known) or 'none'}"
        raise ValueError(f"experiments: {folder / name}.yaml must exist: found none; {hint}")
    return family


def changed(content: dict[str, Any], changes: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the content of a file with dotted keys set to other values and without variants."""
    result = deepcopy(content)
    result.pop("variants", None)
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"{source}: {dotted}: {parent} must hold keys: it is a value")
        place[last] = value
    return result


def settled(experiment: ExperimentSettings, values: Mapping[str, Any]) -> ExperimentSettings:
    """Return an experiment whose automatic settings have the values that a plan has chosen."""
    content = experiment.model_dump(mode="json", exclude={"automatic"})
    return parse(ExperimentSettings, changed(content, values, "plan"), "the plan of its training")


def stage_before(family: Mapping[str, ExperimentSettings], name: str) -> str | None:
    """Return the experiment of the same file that a training goes on from, if it does so."""
    start = family[name].train.start_from
    return start if start in family else None


def check_starts(
    experiments: Mapping[str, ExperimentSettings],
    results: Path,
    families: Mapping[str, Mapping[str, ExperimentSettings]],
) -> None:
    """Refuse an experiment that starts from itself, or from a model that is not there.

    Raises
    ------
    ValueError
        One line that names the experiment.
    """
    for name, experiment in experiments.items():
        check_pretrained(name, experiment.model)
        stages, stage = [name], stage_before(families[name], name)
        while stage is not None:
            if stage in stages:
                raise ValueError(
                    f"experiment {name}: train.start_from must lead to a first stage: got a circle "
                    f"of {', '.join(stages)}"
                )
            stages.append(stage)
            stage = stage_before(families[name], stage)
        if experiment.train.start_from is None or len(stages) > 1:
            continue
        folder = Path(experiment.train.start_from)
        own = (results / "experiments" / name).resolve()
        if folder.resolve().is_relative_to(own):
            raise ValueError(
                f"experiment {name}: train.start_from must be another model: got its own"
            )
        for file in ("model.json", "model.safetensors"):
            if not (folder / file).is_file():
                raise ValueError(
                    f"experiment {name}: train.start_from must hold {file}: found none in "
                    f"{folder}; train that model first"
                )


def check_pretrained(name: str, model: Network) -> None:
    """Refuse weights that are not there, where a network starts from a file of them."""
    if not isinstance(model, VggSettings) or model.pretrained is None or model.is_fetched:
        return
    if not Path(model.pretrained).is_file():
        raise ValueError(
            f"experiment {name}: model.pretrained must be a file: found none at "
            f"{model.pretrained}; correct it, or set imagenet to have {model.weights_name} fetched"
        )


def fetched_weights(model: Network) -> str | None:
    """Name of the file that a network's first weights are fetched as; None if they are not."""
    return model.weights_name if isinstance(model, VggSettings) and model.is_fetched else None


def start_of(family: Mapping[str, ExperimentSettings], name: str) -> list[str | int] | None:
    """What a training starts from, unless that is made or fetched: file, size, time of change."""
    model, start = family[name].model, family[name].train.start_from
    if fetched_weights(model) is not None:
        return None
    if isinstance(model, VggSettings) and model.pretrained is not None:
        weights = Path(model.pretrained)
    elif start is not None and start not in family:
        weights = Path(start) / "model.safetensors"
    else:
        return None
    status = weights.stat()
    return [str(weights), status.st_size, status.st_mtime_ns]


def datasets_of(
    experiments: Mapping[str, ExperimentSettings], registry: Path, override: Path | None
) -> dict[str, DatasetSettings]:
    """Return the datasets of the experiments, from the registry or written out, by name.

    Raises
    ------
    ValueError
        If the registry does not know one, two experiments write out different ones by one name, or
        the truth of one is not for its experiment's task.
    """
    found: dict[str, DatasetSettings] = {}
    for label, experiment in experiments.items():
        name, dataset = experiment.dataset_name, experiment.dataset
        if isinstance(dataset, str):
            dataset = find_dataset(dataset, registry, override)
        check_task(label, experiment, name, dataset)
        if found.setdefault(name, dataset) != dataset:
            raise ValueError(
                f"dataset {name}: must mean one dataset: two experiments describe it differently; "
                "rename one of them"
            )
    return found


def check_regions(
    experiments: Mapping[str, ExperimentSettings], datasets: Mapping[str, DatasetSettings]
) -> None:
    """Refuse regions of classes that an experiment's dataset does not have.

    A task of the Decathlon names its classes in a file, which may not be here yet: its regions are
    for who reads that file to refuse.

    Raises
    ------
    ValueError
        One line that names the experiment.
    """
    for name, experiment in experiments.items():
        dataset = datasets[experiment.dataset_name]
        if isinstance(dataset.layout, DecathlonLayout):
            continue
        try:
            experiment.evaluate.numbered_regions(dataset.class_names)
        except ValueError as error:
            raise ValueError(f"experiment {name}: {error}") from None


def check_task(
    label: str, experiment: ExperimentSettings, name: str, dataset: DatasetSettings
) -> None:
    """Refuse a task that the truth of an experiment's dataset is not for."""
    task, truth = "segmentation", "classes"
    if dataset.target_names:
        task, truth = "regression", "true values"
    if experiment.task != task:
        raise ValueError(
            f"experiment {label}: task must be {task}, since the dataset {name} has {truth}: got "
            f"{experiment.task}; set task, or another dataset"
        )


def first_alike(
    family: Mapping[str, ExperimentSettings], name: str, settings: Sequence[str]
) -> str:
    """Return the first of a family that agrees with `name` in all of these dotted settings.

    Patches whose tile a plan chooses are known too late to be shared.
    """
    if "patches_are_planned" in settings and family[name].patches_are_planned:
        return name
    alike = attrgetter(*settings)
    return next(other for other, its in family.items() if alike(its) == alike(family[name]))


def files_of(dataset: DatasetSettings) -> list[str]:
    """Files of a dataset that is read in place, with the layout's patterns; else none.

    Of a series of DICOM slices, which is a folder, these are the slices.
    """
    if dataset.folder is None:
        return []
    patterns = [
        value
        for key, value in dataset.layout.model_dump().items()
        if key in ("images", "masks", "targets", "labels", "files", "unannotated") and value
    ]
    root = Path(dataset.folder)
    globs = {re.sub(r"\{(image|group|channel)\}", "*", pattern) for pattern in patterns} or {
        "**/*.tif",
        "**/man_track.txt",
        "**/dataset.json",
        "**/*.nii.gz",
    }
    found = {path for glob in globs for path in root.glob(glob)}
    found |= {path for folder in found if is_series(folder) for path in folder.iterdir()}
    return sorted(str(path) for path in found if path.is_file())
