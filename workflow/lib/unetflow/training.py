"""Training: patches of the cache to a model, bounded by steps, resumable, the same bytes each time.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, section 3.
"""

from __future__ import annotations

import hashlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor

from unetflow.geometry import geometry_to_json
from unetflow.inference import Model, build, choose_device, choose_precision, out_of_memory, sha256
from unetflow.intensity import Normalisation, normalisations, range_of_levels
from unetflow.losses import Loss, loss_of
from unetflow.monitoring import Events
from unetflow.optimisation import State
from unetflow.pretrained import take_pretrained
from unetflow.progress import Bar, Waiting, log, one_line, silence
from unetflow.provenance import code_digest
from unetflow.regression import Regression, learned_from
from unetflow.sampling import Patches
from unetflow.settings.experiment import ExperimentSettings
from unetflow.settings.network import NetworkSettings, VggSettings
from unetflow.settings.training import TrainSettings
from unetflow.splits import images_of
from unetflow.store import read_json, remove, replacing, write_json, write_text
from unetflow.training_plan import what_fits
from unetflow.transfer import take_over
from unetflow.validation import Judge, Losses, Validation, read_validation, read_values

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
    voxel_size_um : mapping
        Per axis that all training images agree on.
    plan : mapping
        Of the experiment's training; its reasons stay with the model.
    start : Path or None
        Folder of the model to go on from.
    target_names : sequence of str
        Channels of the true values that a regression learns, instead of classes.
    fetched : Path or None
        Folder of weights that were fetched for the network to begin with.
    """

    patches: Mapping[str, Path]
    validation: Mapping[str, Path]
    histograms: Mapping[str, Path]
    folds: Sequence[Path]
    class_names: Sequence[str]
    voxel_size_um: Mapping[str, float]
    plan: Mapping[str, Any]
    start: Path | None = None
    target_names: Sequence[str] = ()
    fetched: Path | None = None

    def pretrained(self, model: NetworkSettings) -> VggSettings | None:
        """Settings that name the file of weights of another to begin with, where there is one."""
        if not isinstance(model, VggSettings) or model.pretrained is None:
            return None
        if self.fetched is None:
            return model
        return model.model_copy(update={"pretrained": str(self.fetched / model.weights_name)})

    @property
    def regression(self) -> Regression | None:
        """The regression that is learned; None for a segmentation."""
        if not self.target_names:
            return None
        return learned_from(self.histograms, list(self.patches), self.target_names)


def task_of(
    name: str,
    plan: str,
    images: str,
    index: str,
    split: str,
    patches: Sequence[str],
    histograms: Sequence[str],
    folds: Sequence[str],
    stage: Sequence[str],
    fetched: Sequence[str],
    start: str | None = None,
) -> Task:
    """Return the task of a split's name and of files, some named after images: NAME.zarr.

    The files of an earlier stage, where there are any, tell the folder to start from, and so does
    the folder of fetched weights, of which there is one or none.
    """
    parts, described = read_json(Path(split))[name], read_json(Path(index))
    learned = {Path(path).stem: Path(path) for path in patches}
    sizes = [of["voxel_size_um"].items() for of in described["images"] if of["image"] in learned]
    return Task(
        patches=learned,
        validation={image: Path(images) / image for image in images_of(parts, "validate")},
        histograms={Path(path).stem: Path(path) for path in histograms},
        folds=[Path(path) for path in folds],
        class_names=described["class_names"],
        voxel_size_um=dict(set.intersection(*map(set, sizes))) if sizes else {},
        plan=read_json(Path(plan)),
        start=Path(stage[0]).parent if stage else Path(start) if start else None,
        target_names=described["target_names"],
        fetched=Path(fetched[0]) if fetched else None,
    )


def train(
    task: Task, experiment: ExperimentSettings, output: Path, checkpoints: Path
) -> dict[str, float]:
    """Train one network and write it to a folder, complete for prediction.

    Killed at any time and called again, it goes on from the checkpoint and ends with the same
    bytes: the order of patches, their augmentation and the dropout of a step depend on the seed and
    the number of the step alone.

    With several devices the calling script is run again for each further one; those copies leave
    their process here, having written nothing.

    Parameters
    ----------
    output : Path
        Folder of `model.safetensors` (the weights that validated best), `last.safetensors` (those
        of the last step), `model.json` and `history.tsv`.
    checkpoints : Path
        Folder where the state is kept meanwhile, by the name of a digest of all that it depends on.

    Returns
    -------
    dict
        What this call has done, see `run`.

    Raises
    ------
    ValueError
        If there is nothing to learn from, or the loss is no longer finite.
    """
    settings, seed = experiment.train, experiment.train.seeds[0]
    if not task.patches:
        raise ValueError(
            "training must have patches: got none; annotate more images or use fewer folds"
        )
    fabric, precision = launched(settings)
    pooled, each = normalisations(task.histograms, list(task.patches), experiment.intensity)
    regression, outputs = task.regression, len(task.class_names or task.target_names)
    ranks = fabric.global_rank, fabric.world_size
    patches = Patches(task.patches, each, seed, fabric.device, *ranks, regression)
    log(
        f"device {fabric.device}, {precision}, {fabric.world_size} process(es) of "
        f"{settings.threads} threads, {len(patches.items)} patches"
    )
    if regression is None:
        check_classes(patches, task.class_names)
    steps, threshold = after_folds(task, settings.steps)
    torch.manual_seed(seed)
    network = build(experiment.model, len(pooled.scale), outputs)
    if task.start is not None:
        of, images, dataset = experiment.model, list(task.patches), experiment.dataset_name
        take_over(network, of, task.start, images, dataset, settings.freeze_encoder)
    elif (pretrained := task.pretrained(experiment.model)) is not None:
        take_pretrained(network, pretrained, settings.freeze_encoder)
    example = patches.batch(0, settings)[0] if settings.compile else None
    loss = loss_of(settings.loss, regression)
    state = State(fabric, network, settings, steps, example, experiment.model.coarser, loss)
    checkpoint = checkpoints / task_digest(task, experiment)
    state.resume(checkpoint)
    validation = None
    if task.validation:
        model = Model(network, experiment.model.geometry, fabric.device, precision, {})
        # The first process validates for all.
        paths = task.validation if fabric.is_global_zero else {}
        validation = judge_of(model, paths, each, experiment, regression, loss, outputs)
    replay, channels = 0.0, len(pooled.scale)
    with memory_told(experiment, fabric, channels, outputs):
        if fabric.device.type == "cuda":
            replay = state.replay_difference(patches.batch(0, settings))
            log(f"two gradients of one batch differ by {replay:.1e} of their norm")
        taken = run(state, patches, validation, checkpoint, output)
        if not fabric.is_global_zero:
            sys.exit()
        write_weights(output / "last.safetensors", network.state_dict())
        if validation:
            network.load_state_dict(state.best)
            threshold = validation.threshold()
    write_weights(output / "model.safetensors", network.state_dict())
    how = {"device": fabric.device.type, "precision": precision, "replay_difference": replay}
    learned = range_of_levels(task.histograms, {name: each[name] for name in task.patches})
    intensity = {
        **experiment.intensity.model_dump(mode="json"),
        **asdict(pooled),
        "levels": learned,
    }
    write_facts(output, state, how, task, experiment, intensity, threshold, regression)
    remove(checkpoint)
    return taken


def judge_of(
    model: Model,
    paths: Mapping[str, Path],
    normalise: Mapping[str, Normalisation],
    experiment: ExperimentSettings,
    regression: Regression | None,
    loss: Loss,
    outputs: int,
) -> Judge:
    """Return what judges a network of so many outputs in training, on images read by name."""
    tile = experiment.per_axis(experiment.predict.tile)
    if regression is not None:
        return Losses(model, read_values(paths, normalise, regression.normalise), tile, loss)
    planes = experiment.weights.annotated_planes, experiment.split.tested_planes
    return Validation(model, read_validation(paths, normalise, *planes), tile, outputs)


def launched(settings: TrainSettings) -> tuple[Fabric, str]:
    """Return the devices that the settings name, a process for each, and the precision."""
    device = choose_device(settings.device, settings.devices)
    precision = choose_precision(device, settings.precision)
    fabric = Fabric(
        accelerator=device.type,
        devices=settings.devices,
        strategy="ddp" if settings.devices > 1 else "auto",
        precision=PRECISIONS[precision],
        # One job starts its processes itself, whatever scheduler has started the job.
        plugins=LightningEnvironment(),
    )
    fabric.launch()
    if not fabric.is_global_zero:
        silence()
    torch.set_num_threads(settings.threads)
    return fabric, precision


@contextmanager
def memory_told(
    experiment: ExperimentSettings, fabric: Fabric, channels: int, classes: int
) -> Iterator[None]:
    """Turn running out of memory into one line that says what fits."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        tile = list(experiment.per_axis(experiment.patches.tile))
        raise ValueError(
            f"training must fit the memory of {fabric.device}: batch {experiment.train.batch} of "
            f"tile {tile}, or a validation in tiles of "
            f"{list(experiment.per_axis(experiment.predict.tile))}, does not; "
            f"{what_fits(experiment, channels, classes)} ({one_line(error)[:200]})"
        ) from error


def check_classes(patches: Patches, class_names: Sequence[str]) -> None:
    """Refuse patches without foreground; tell of classes that none of them shows."""
    counts = patches.class_counts
    if not counts[1 : len(class_names)].any():
        raise ValueError(
            f"training patches must show foreground: got background alone in the patches of "
            f"{len(patches.names)} images, such as {patches.names[0]}; annotate objects in them, "
            "raise patches.per_image, or use fewer folds"
        )
    for name, count in zip(class_names, counts, strict=False):
        if not count:
            log(f"warning: no training patch shows class {name}: it cannot be learned from them")


def after_folds(task: Task, steps: int) -> tuple[int, float | None]:
    """Return the steps and the threshold of a training: of the final one, what the folds found."""
    if not task.folds:
        return steps, None
    facts = [read_json(path) for path in task.folds]
    best = median(fact["training"]["best_step"] for fact in facts)
    thresholds = [fact["threshold"] for fact in facts if fact["threshold"] is not None]
    return max(1, int(best)), float(np.mean(thresholds)) if thresholds else None


def task_digest(task: Task, experiment: ExperimentSettings) -> str:
    """SHA-256 of all that a training starts from: settings, code, and every file that it reads."""
    network = f"models.{experiment.model.network}.network"
    code = code_digest(Path(__file__), also=[network])
    # How often a checkpoint is written changes no weight.
    settings = experiment.model_dump_json(exclude={"train": {"checkpoint_minutes"}})
    facts = [settings, code, torch.__version__]
    facts += [*task.class_names, *task.target_names]
    files = [*task.folds, *task.histograms.values()]
    if task.start is not None:
        files.append(task.start / "model.safetensors")
    if (pretrained := task.pretrained(experiment.model)) is not None:
        files.append(Path(str(pretrained.pretrained)))
    facts += [f"{path} {sha256(path)}" for path in files]
    for folder in [*task.patches.values(), *task.validation.values()]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        facts += [f"{path.relative_to(folder.parent)} {sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def run(
    state: State,
    patches: Patches,
    validation: Judge | None,
    checkpoint: Path,
    output: Path,
) -> dict[str, float]:
    """Take the optimiser's steps that are left; validate where there is something to.

    Returns
    -------
    dict
        `steps` that were taken now, `step_seconds` of them alone, without data and validation, and
        `step_pixels`, which they had outputs for.
    """
    settings, steps, first, pixels = state.settings, state.steps, state.step, 0
    events = Events(output / "tensorboard", state.step) if state.fabric.is_global_zero else None
    terminated, saved, stepped = Terminated(), time.monotonic(), 0.0
    bar = Bar("training", steps, state.step)
    # A checkpoint may be that of the step at which patience ended.
    batches = Waiting(patches.ahead(steps if state.exhausted else state.step, settings, steps))
    state.network.train()
    for batch in batches:
        # A seed per step makes dropout repeat after a resume without any stored random state.
        torch.manual_seed((patches.seed * 1_000_003 + state.step) * patches.ranks + patches.rank)
        rate = state.schedule.get_last_lr()[0]
        began = time.monotonic()
        loss, norm = state.take_step(batch)
        stepped += time.monotonic() - began
        pixels += batch[1].numel() * patches.ranks
        if not np.isfinite([loss, norm]).all():
            raise ValueError(
                f"loss must stay finite: got {loss}, gradient {norm} at step {state.step} of seed "
                f"{patches.seed}; lower train.learning_rate or set train.gradient_clip, or look at "
                f"its patches {patches.named(state.step, settings.batch)}"
            )
        state.step += 1
        row = {"step": state.step, "loss": loss, "learning_rate": rate, "gradient_norm": norm}
        if validation and (state.step % settings.validate_every == 0 or state.step == steps):
            row[validation.measure] = validated(state, validation, events)
        state.history.append(row)
        if events:
            events.figures(state.step, row)
        bar.step(loss=loss)
        stop = anywhere(state.fabric, terminated.now)
        if stop or time.monotonic() - saved > 60 * settings.checkpoint_minutes:
            save(state, checkpoint)
            saved = time.monotonic()
        if stop:
            leave(state, events)
        if state.exhausted:
            log(f"no better validation since step {state.best_step}: stopped at {state.step}")
            break
    share = batches.waited / max(batches.waited + stepped, 1e-9)
    log(f"waited for data {share:.1%} of the time of steps")
    bar.close()
    if events:
        events.close()
    terminated.restore()
    return {"steps": state.step - first, "step_seconds": stepped, "step_pixels": pixels}


def validated(state: State, validation: Judge, events: Events | None) -> float:
    """Score the network, by the first process for all, and remember it if it is the best."""
    score = validation.score() if state.fabric.is_global_zero else 0.0
    score = state.fabric.broadcast(score)
    state.keep_best(validation.sign * score)
    if events:
        events.picture(state.step, validation)
        events.weights(state.step, state.network)
    state.network.train()
    return score


def anywhere(fabric: Fabric, here: bool) -> bool:
    """Whether something holds in any of the processes."""
    if fabric.world_size == 1:
        return here
    holds = torch.tensor(float(here), device=fabric.device)
    fabric.all_reduce(holds, reduce_op="sum")  # in place
    return bool(holds)


def save(state: State, checkpoint: Path) -> None:
    """Write a checkpoint; training goes on without where that fails, as on a full disk."""
    if not state.fabric.is_global_zero:
        return
    try:
        state.save(checkpoint)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by the latter
        reason = one_line(error)
        log(f"warning: no checkpoint of step {state.step}, the one before stays: {reason}")


def leave(state: State, events: Events | None) -> None:
    """End the process after SIGTERM with the status that says so, the first process last."""
    log(f"terminated at step {state.step}; the same command goes on from step {state.saved_step}")
    state.fabric.barrier()
    if events:
        events.close()
    sys.exit(TERMINATED if state.fabric.is_global_zero else 0)


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


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the tensors of a network, without pickle."""
    with replacing(path) as partial:
        tensors = {key: value.contiguous().cpu() for key, value in weights.items()}
        safetensors.torch.save_file(tensors, partial)


def write_facts(
    output: Path,
    state: State,
    how: Mapping[str, Any],
    task: Task,
    experiment: ExperimentSettings,
    intensity: Mapping[str, Any],
    threshold: float | None,
    regression: Regression | None,
) -> None:
    """Write the history, and last all that prediction needs beside the weights."""
    history = pd.DataFrame(state.history)
    write_text(output / "history.tsv", str(history.to_csv(sep="\t", index=False)))
    judge = Validation if regression is None else Losses
    write_json(
        output / "model.json",
        {
            "format": 1,
            "network": experiment.model.model_dump(mode="json"),
            "geometry": geometry_to_json(experiment.model.geometry),
            "channels": len(intensity["scale"]),
            "class_names": list(task.class_names),
            **({} if regression is None else {"target": regression.facts()}),
            "voxel_size_um": dict(task.voxel_size_um),
            "dataset": experiment.dataset_name,
            "intensity": intensity,
            "tile": list(experiment.per_axis(experiment.predict.tile)),
            "threshold": threshold,
            "weights_sha256": sha256(output / "model.safetensors"),
            "training": {
                "steps": state.step,
                "best_step": state.best_step or state.step,
                judge.measure: judge.sign * state.best_score if state.best else None,
                "seed": experiment.train.seeds[0],
                **how,
                "images": list(task.patches),
                "planned": task.plan["reasons"],
                "settings": experiment.train.model_dump(mode="json"),
            },
        },
    )
