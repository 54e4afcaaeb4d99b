"""Training: patches of the cache to a model, bounded by steps, resumable, the same bytes each time.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, section 3.
"""

from __future__ import annotations

import hashlib
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from unetflow.geometry import geometry_to_json
from unetflow.inference import Model, build, choose_device, load, sha256
from unetflow.intensity import Normalisation, normalisations
from unetflow.losses import LOSSES
from unetflow.monitoring import Events
from unetflow.progress import Bar, Waiting, log
from unetflow.provenance import code_digest
from unetflow.sampling import Batch, Patches
from unetflow.settings import ExperimentSettings, TrainSettings
from unetflow.store import read_json, remove, replacing, write_json, write_text
from unetflow.validation import Annotated, best_threshold, read_validation, validate

ACCELERATORS = {"cpu": "cpu", "gpu": "cuda", "auto": "auto"}
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed"}
TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Task:
    """What one training learns from; paths and values only.

    Attributes
    ----------
    patches : mapping of training image to its cache
    validation : mapping of validation image to its OME-Zarr
        Empty for the final model.
    histograms : mapping of each of these images to its intensity JSON
    folds : sequence of Path
        `model.json` of the folds; only for the final model, which takes its number of steps and its
        threshold from them.
    class_names : sequence of str
        Background first.
    start : Path or None
        Folder of the model to go on from.
    """

    patches: Mapping[str, Path]
    validation: Mapping[str, Path]
    histograms: Mapping[str, Path]
    folds: Sequence[Path]
    class_names: Sequence[str]
    start: Path | None = None


def task_of(
    name: str,
    images: str,
    index: str,
    split: str,
    patches: Sequence[str],
    histograms: Sequence[str],
    folds: Sequence[str],
    start: str | None = None,
) -> Task:
    """Return the task of a split's name and of files, some named after images: NAME.zarr."""
    parts = read_json(Path(split))[name]
    return Task(
        patches={Path(path).stem: Path(path) for path in patches},
        validation={image: Path(images) / image for image in parts if parts[image] == "validate"},
        histograms={Path(path).stem: Path(path) for path in histograms},
        folds=[Path(path) for path in folds],
        class_names=read_json(Path(index))["class_names"],
        start=None if start is None else Path(start),
    )


def optimiser(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return the optimiser that the settings name."""
    rate, decay = settings.learning_rate, settings.weight_decay
    learning = [values for values in network.parameters() if values.requires_grad]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(learning, rate, momentum=settings.momentum, weight_decay=decay)
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(learning, rate, weight_decay=decay)


def schedule(optimiser: torch.optim.Optimizer, settings: TrainSettings, steps: int) -> Any:
    """Return the learning-rate schedule that the settings name."""
    if settings.schedule == "one_cycle":
        # Adam's first beta follows the cycle; momentum is a setting and stays.
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            settings.learning_rate,
            total_steps=steps,
            cycle_momentum=settings.optimiser != "sgd",
        )
    if settings.schedule == "staircase":
        return torch.optim.lr_scheduler.StepLR(
            optimiser, settings.staircase_steps, settings.staircase_factor
        )
    return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


def train(task: Task, experiment: ExperimentSettings, output: Path, checkpoints: Path) -> None:
    """Train one network and write `model.safetensors`, `model.json` and `history.tsv` to a folder.

    Killed at any time and called again, it goes on from the checkpoint and ends with the same
    bytes: the order of patches, their augmentation and the dropout of a step depend on the seed and
    the number of the step alone.

    Parameters
    ----------
    output : Path
        Folder of the three files.
    checkpoints : Path
        Folder where the state is kept meanwhile, by the name of a digest of all that it depends on.

    Raises
    ------
    ValueError
        If there is nothing to learn from, or the loss is no longer finite.
    """
    settings = experiment.train
    if not task.patches:
        raise ValueError(
            "training must have patches: got none; annotate more images or use fewer folds"
        )
    torch.set_num_threads(settings.threads)
    seed = settings.seeds[0]
    torch.manual_seed(seed)
    choose_device(settings.device)  # refuses a GPU that is not there in one line
    fabric = Fabric(
        accelerator=ACCELERATORS[settings.device],
        devices=1,
        precision=PRECISIONS[settings.precision],
    )
    pooled, each = normalisations(task.histograms, list(task.patches), experiment.intensity)
    patches = Patches(task.patches, each, seed)
    log(f"device {fabric.device}, {settings.threads} threads, {len(patches.items)} patches")
    steps, threshold = settings.steps, None
    if task.folds:
        facts = [read_json(path) for path in task.folds]
        steps = max(1, int(median(fact["training"]["best_step"] for fact in facts)))
        threshold = float(np.mean([fact["threshold"] for fact in facts]))
    network = build(experiment.model, len(pooled.scale), len(task.class_names))
    if task.start is not None:
        take_over(network, task, experiment)
    state = State(fabric, network, settings, steps)
    checkpoint = checkpoints / task_digest(task, experiment)
    state.resume(checkpoint)
    images = [read_validation(path, each[name]) for name, path in task.validation.items()]
    run(state, patches, images, experiment, checkpoint, Events(output / "tensorboard", state.step))
    if images:
        network.load_state_dict(state.best)
        tile = experiment.per_axis(experiment.predict.tile)
        threshold = best_threshold(state.model(experiment), images, tile)
    write_model(output, state, task, experiment, pooled, threshold)
    remove(checkpoint)


def take_over(network: nn.Module, task: Task, experiment: ExperimentSettings) -> None:
    """Give a network the weights of another; its last layer only where the classes are as many.

    Raises
    ------
    ValueError
        If the other is another network, or has learned from images that this training holds out.
    """
    start = task.start
    assert start is not None
    model = load(start, "cpu", "32")
    seen = set(model.facts["training"]["images"]) - set(task.patches)
    if seen and model.facts.get("dataset") == experiment.dataset:
        raise ValueError(
            f"{start}: train.start_from must not know what a fold holds out: it has learned from "
            f"{len(seen)} of its images, such as {min(seen)}; start from a model of other images"
        )
    other = model.network.state_dict()
    mine = network.state_dict()
    last = [name for name in mine if name.startswith("classify.")]
    different = [
        name
        for name in {*mine, *other} - {*last}
        if name not in mine or name not in other or mine[name].shape != other[name].shape
    ]
    if different:
        raise ValueError(
            f"{start}: train.start_from must be the same network: {len(different)} layers differ, "
            f"such as {min(different)}; set model as its model.json says, and take as many channels"
        )
    new = [name for name in last if mine[name].shape != other[name].shape]
    network.load_state_dict({**other, **{name: mine[name] for name in new}})
    log(f"starts from {start}" + ("; the last layer is new" if new else ""))
    if experiment.train.freeze_encoder:
        network.encoder.requires_grad_(False)


def task_digest(task: Task, experiment: ExperimentSettings) -> str:
    """SHA-256 of all that a training starts from: settings, code, and every file that it reads."""
    network = f"models.{experiment.model.network}"
    code = code_digest(Path(__file__), also=[network])
    facts = [experiment.model_dump_json(), code, torch.__version__]
    facts += task.class_names
    files = [*task.folds, *task.histograms.values()]
    if task.start is not None:
        files.append(task.start / "model.safetensors")
    facts += [f"{path} {sha256(path)}" for path in files]
    for folder in [*task.patches.values(), *task.validation.values()]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        facts += [f"{path.relative_to(folder.parent)} {sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


class State:
    """All that a training is at one step; what a checkpoint holds."""

    def __init__(
        self, fabric: Fabric, network: nn.Module, settings: TrainSettings, steps: int
    ) -> None:
        self.fabric, self.network, self.steps = fabric, network, steps
        self.wrapped, self.optimiser = fabric.setup(network, optimiser(network, settings))
        self.schedule = schedule(self.optimiser, settings, steps)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best_score, self.best_step = -1.0, 0
        self.best: dict[str, Tensor] = {}

    def keep_best(self, score: float) -> None:
        """Remember the network if it validates better than any before."""
        if score > self.best_score:
            self.best_score, self.best_step = score, self.step
            self.best = {
                key: value.detach().clone() for key, value in self.network.state_dict().items()
            }

    def exhausted(self, settings: TrainSettings) -> bool:
        """Whether the last `patience` validations were no better than one before them."""
        if settings.patience is None or not self.best:
            return False
        return self.step - self.best_step >= settings.patience * settings.validate_every

    def save(self, path: Path) -> None:
        """Write a checkpoint that is complete or the previous one."""
        with replacing(path) as partial:
            parts = {
                name: getattr(self, name).state_dict()
                for name in ("network", "optimiser", "schedule")
            }
            values = {
                name: getattr(self, name)
                for name in ("step", "history", "best_score", "best_step", "best")
            }
            torch.save(parts | values, partial)

    def model(self, experiment: ExperimentSettings) -> Model:
        """Return the network as it is now, for inference."""
        network, precision = self.network.eval(), experiment.train.precision
        return Model(network, experiment.model.geometry, self.fabric.device, precision, {})

    def resume(self, path: Path) -> None:
        """Take up a checkpoint, where there is one."""
        if not path.is_file():
            return
        saved = torch.load(path, weights_only=True, map_location=self.fabric.device)
        for name in ("network", "optimiser", "schedule"):
            getattr(self, name).load_state_dict(saved[name])
        for name in ("step", "history", "best_score", "best_step", "best"):
            setattr(self, name, saved[name])
        log(f"resumed at step {self.step}")


def run(
    state: State,
    patches: Patches,
    validation: Sequence[Annotated],
    experiment: ExperimentSettings,
    checkpoint: Path,
    events: Events,
) -> None:
    """Take the optimiser's steps that are left."""
    settings, steps = experiment.train, state.steps
    tile = experiment.per_axis(experiment.predict.tile)
    terminated = Terminated()
    bar, saved = Bar("training", steps, state.step), time.monotonic()
    # A checkpoint may be that of the step at which patience ended.
    first = steps if state.exhausted(settings) else state.step
    batches = Waiting(patches.ahead(first, settings, steps))
    state.network.train()
    for batch in batches:
        # A seed per step makes dropout repeat after a resume without any stored random state.
        torch.manual_seed(patches.seed * 1_000_003 + state.step)
        rate = state.schedule.get_last_lr()[0]
        loss, norm = take_step(state, batch, settings)
        if not np.isfinite([loss, norm]).all():
            raise ValueError(
                f"loss must stay finite: got {loss}, gradient {norm} at step {state.step} of seed "
                f"{patches.seed}; lower train.learning_rate or set train.gradient_clip, or look at "
                f"its patches {patches.named(state.step, settings.batch)}"
            )
        state.step += 1
        row = {"step": state.step, "loss": loss, "learning_rate": rate, "gradient_norm": norm}
        if validation and (state.step % settings.validate_every == 0 or state.step == steps):
            model = state.model(experiment)
            row["validation_dice"] = validate(model, validation, tile)
            state.keep_best(row["validation_dice"])
            events.picture(state.step, model, *validation[0], tile)
            events.weights(state.step, state.network)
            state.network.train()
        state.history.append(row)
        events.figures(state.step, row)
        bar.step(loss=loss)
        if terminated.now or time.monotonic() - saved > 60 * settings.checkpoint_minutes:
            state.save(checkpoint)
            saved = time.monotonic()
        if terminated.now:
            log(f"terminated; saved step {state.step} to {checkpoint}")
            events.close()
            sys.exit(TERMINATED)
        if state.exhausted(settings):
            log(f"no better validation since step {state.best_step}: stopped at {state.step}")
            break
    log(f"waited for data {batches.share:.1%} of the time")
    bar.close()
    events.close()
    terminated.restore()


class Terminated:
    """Whether SIGTERM has come; the step under way is finished first."""

    def __init__(self) -> None:
        self.now = False
        self.before = signal.signal(signal.SIGTERM, self.note)

    def restore(self) -> None:
        """Give the signal its former meaning back."""
        signal.signal(signal.SIGTERM, self.before)

    def note(self, _number: int, _frame: FrameType | None) -> None:
        """Remember the signal."""
        self.now = True


def take_step(state: State, batch: Batch, settings: TrainSettings) -> tuple[float, float]:
    """Take one step of the optimiser; return its loss and the norm of its gradient."""
    pixels, classes, weights = (torch.from_numpy(part).to(state.fabric.device) for part in batch)
    if pixels.ndim == 4:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    loss = LOSSES[settings.loss](state.wrapped(pixels), classes, weights)
    state.optimiser.zero_grad()
    state.fabric.backward(loss)
    largest = math.inf if settings.gradient_clip is None else settings.gradient_clip
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), largest)
    if norm.isfinite():  # else the weights stay as they are, for whoever wants to look
        state.optimiser.step()
        state.schedule.step()
    return loss.item(), norm.item()


def write_model(
    output: Path,
    state: State,
    task: Task,
    experiment: ExperimentSettings,
    pooled: Normalisation,
    threshold: float | None,
) -> None:
    """Write all that prediction needs, the facts last."""
    weights = output / "model.safetensors"
    with replacing(weights) as partial:
        tensors = {
            key: value.contiguous().cpu() for key, value in state.network.state_dict().items()
        }
        safetensors.torch.save_file(tensors, partial)
    history = pd.DataFrame(state.history)
    write_text(output / "history.tsv", str(history.to_csv(sep="\t", index=False)))
    write_json(
        output / "model.json",
        {
            "format": 1,
            "network": experiment.model.model_dump(mode="json"),
            "geometry": geometry_to_json(experiment.model.geometry),
            "channels": len(pooled.scale),
            "class_names": list(task.class_names),
            "dataset": experiment.dataset if isinstance(experiment.dataset, str) else None,
            "intensity": {**experiment.intensity.model_dump(mode="json"), **asdict(pooled)},
            "tile": list(experiment.per_axis(experiment.predict.tile)),
            "threshold": threshold,
            "weights_sha256": sha256(weights),
            "training": {
                "steps": state.step,
                "best_step": state.best_step or state.step,
                "validation_dice": state.best_score if state.best else None,
                "seed": experiment.train.seeds[0],
                "images": list(task.patches),
                "settings": experiment.train.model_dump(mode="json"),
            },
        },
    )
