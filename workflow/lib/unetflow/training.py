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
from unetflow.inference import Model, build, choose_device, choose_precision, sha256
from unetflow.intensity import Normalisation, normalisations
from unetflow.monitoring import Events
from unetflow.networks import VggSettings
from unetflow.optimisation import State, out_of_memory
from unetflow.pretrained import take_pretrained
from unetflow.progress import Bar, Waiting, log, one_line, silence
from unetflow.provenance import code_digest
from unetflow.sampling import Patches
from unetflow.settings import ExperimentSettings, TrainSettings
from unetflow.store import read_json, remove, replacing, write_json, write_text
from unetflow.training_plan import what_fits
from unetflow.transfer import take_over
from unetflow.validation import Validation, read_validation

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
    """

    patches: Mapping[str, Path]
    validation: Mapping[str, Path]
    histograms: Mapping[str, Path]
    folds: Sequence[Path]
    class_names: Sequence[str]
    voxel_size_um: Mapping[str, float]
    plan: Mapping[str, Any]
    start: Path | None = None


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
    start: str | None = None,
) -> Task:
    """Return the task of a split's name and of files, some named after images: NAME.zarr.

    The files of an earlier stage, where there are any, tell the folder to start from.
    """
    parts, described = read_json(Path(split))[name], read_json(Path(index))
    learned = {Path(path).stem: Path(path) for path in patches}
    sizes = [of["voxel_size_um"].items() for of in described["images"] if of["image"] in learned]
    return Task(
        patches=learned,
        validation={image: Path(images) / image for image in parts if parts[image] == "validate"},
        histograms={Path(path).stem: Path(path) for path in histograms},
        folds=[Path(path) for path in folds],
        class_names=described["class_names"],
        voxel_size_um=dict(set.intersection(*map(set, sizes))) if sizes else {},
        plan=read_json(Path(plan)),
        start=Path(stage[0]).parent if stage else Path(start) if start else None,
    )


def train(task: Task, experiment: ExperimentSettings, output: Path, checkpoints: Path) -> None:
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
    ranks = fabric.global_rank, fabric.world_size
    patches = Patches(task.patches, each, seed, fabric.device, *ranks)
    log(
        f"device {fabric.device}, {precision}, {fabric.world_size} process(es) of "
        f"{settings.threads} threads, {len(patches.items)} patches"
    )
    check_classes(patches, task.class_names)
    steps, threshold = after_folds(task, settings.steps)
    torch.manual_seed(seed)
    network = build(experiment.model, len(pooled.scale), len(task.class_names))
    if task.start is not None:
        images, dataset = list(task.patches), str(experiment.dataset)
        take_over(network, task.start, images, dataset, settings.freeze_encoder)
    elif isinstance(experiment.model, VggSettings) and experiment.model.pretrained:
        take_pretrained(network, experiment.model, settings.freeze_encoder)
    example = patches.batch(0, settings)[0] if settings.compile else None
    state = State(fabric, network, settings, steps, example)
    checkpoint = checkpoints / task_digest(task, experiment)
    state.resume(checkpoint)
    validation = None
    if task.validation:
        model = Model(network, experiment.model.geometry, fabric.device, precision, {})
        # The first process validates for all.
        annotated = read_validation(task.validation, each) if fabric.is_global_zero else []
        tile = experiment.per_axis(experiment.predict.tile)
        validation = Validation(model, annotated, tile)
    replay, channels = 0.0, len(pooled.scale)
    with memory_told(experiment, fabric, channels, len(task.class_names)):
        if fabric.device.type == "cuda":
            replay = state.replay_difference(patches.batch(0, settings))
            log(f"two gradients of one batch differ by {replay:.1e} of their norm")
        run(state, patches, validation, checkpoint, output)
        if not fabric.is_global_zero:
            sys.exit()
        write_weights(output / "last.safetensors", network.state_dict())
        if validation:
            network.load_state_dict(state.best)
            threshold = validation.threshold()
    write_weights(output / "model.safetensors", network.state_dict())
    how = {"device": fabric.device.type, "precision": precision, "replay_difference": replay}
    write_facts(output, state, how, task, experiment, pooled, threshold)
    remove(checkpoint)


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
    return max(1, int(best)), float(np.mean([fact["threshold"] for fact in facts]))


def task_digest(task: Task, experiment: ExperimentSettings) -> str:
    """SHA-256 of all that a training starts from: settings, code, and every file that it reads."""
    network = f"models.{experiment.model.network}"
    code = code_digest(Path(__file__), also=[network])
    # How often a checkpoint is written changes no weight.
    settings = experiment.model_dump_json(exclude={"train": {"checkpoint_minutes"}})
    facts = [settings, code, torch.__version__]
    facts += task.class_names
    files = [*task.folds, *task.histograms.values()]
    if task.start is not None:
        files.append(task.start / "model.safetensors")
    if isinstance(experiment.model, VggSettings) and experiment.model.pretrained:
        files.append(Path(experiment.model.pretrained))
    facts += [f"{path} {sha256(path)}" for path in files]
    for folder in [*task.patches.values(), *task.validation.values()]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        facts += [f"{path.relative_to(folder.parent)} {sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def run(
    state: State,
    patches: Patches,
    validation: Validation | None,
    checkpoint: Path,
    output: Path,
) -> None:
    """Take the optimiser's steps that are left; validate where there is something to."""
    settings, steps = state.settings, state.steps
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
        if not np.isfinite([loss, norm]).all():
            raise ValueError(
                f"loss must stay finite: got {loss}, gradient {norm} at step {state.step} of seed "
                f"{patches.seed}; lower train.learning_rate or set train.gradient_clip, or look at "
                f"its patches {patches.named(state.step, settings.batch)}"
            )
        state.step += 1
        row = {"step": state.step, "loss": loss, "learning_rate": rate, "gradient_norm": norm}
        if validation and (state.step % settings.validate_every == 0 or state.step == steps):
            row["validation_dice"] = validated(state, validation, events)
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


def validated(state: State, validation: Validation, events: Events | None) -> float:
    """Score the network, by the first process for all, and remember it if it is the best."""
    score = validation.dice() if state.fabric.is_global_zero else 0.0
    score = state.fabric.broadcast(score)
    state.keep_best(score)
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
    pooled: Normalisation,
    threshold: float | None,
) -> None:
    """Write the history, and last all that prediction needs beside the weights."""
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
            "voxel_size_um": dict(task.voxel_size_um),
            "dataset": experiment.dataset if isinstance(experiment.dataset, str) else None,
            "intensity": {**experiment.intensity.model_dump(mode="json"), **asdict(pooled)},
            "tile": list(experiment.per_axis(experiment.predict.tile)),
            "threshold": threshold,
            "weights_sha256": sha256(output / "model.safetensors"),
            "training": {
                "steps": state.step,
                "best_step": state.best_step or state.step,
                "validation_dice": state.best_score if state.best else None,
                "seed": experiment.train.seeds[0],
                **how,
                "images": list(task.patches),
                "planned": task.plan["reasons"],
                "settings": experiment.train.model_dump(mode="json"),
            },
        },
    )
