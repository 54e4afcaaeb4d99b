"""The state of a training and its single step, on one device or divided among several.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from unetflow.inference import out_of_memory
from unetflow.losses import LOSSES, Loss, deeply_supervised, outputs_of
from unetflow.progress import log, one_line
from unetflow.sampling import Batch
from unetflow.settings.training import TrainSettings
from unetflow.store import replacing

PARTS = ("network", "optimiser", "schedule")
VALUES = ("step", "history", "best_score", "best_step", "best")


def optimiser(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return the optimiser that the settings name."""
    rate, decay = settings.learning_rate, settings.weight_decay
    learning = [values for values in network.parameters() if values.requires_grad]
    # All of an update in one pass over the weights: 8 % of a step at width 64 on a CPU.
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            learning, rate, momentum=settings.momentum, weight_decay=decay, fused=True
        )
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(learning, rate, weight_decay=decay, fused=True)


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


def gathered(fabric: Fabric, part: Tensor) -> Tensor:
    """Parts (N, ...) of all processes, one after the other; gradients find their way back."""
    parts = fabric.all_gather(part, sync_grads=True)
    assert isinstance(parts, Tensor)
    return parts.flatten(0, 1)


def as_stored(pixels: Tensor) -> Tensor:
    """Planes with their channels last in memory, which convolutions are faster on."""
    return pixels.contiguous(memory_format=torch.channels_last) if pixels.ndim == 4 else pixels


@contextmanager
def same_buffers(network: nn.Module) -> Iterator[None]:
    """Leave the statistics of a network as they are, whatever passes through it meanwhile."""
    before = [values.clone() for values in network.buffers()]
    try:
        yield
    finally:
        for values, those in zip(network.buffers(), before, strict=True):
            values.copy_(those)


class State:
    """All that a training is at one step; what a checkpoint holds."""

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        settings: TrainSettings,
        steps: int,
        example: Tensor | None = None,
        coarser: Sequence[Sequence[int]] = (),
        loss: Loss | None = None,
    ) -> None:
        """Take a network to its device, compiled for pixels like the example where there is one.

        `coarser` are the strides of its further outputs in training; `loss` is by default the one
        of a segmentation that the settings name.
        """
        self.fabric, self.network, self.settings, self.steps = fabric, network, settings, steps
        self.coarser, self.loss = coarser, loss or LOSSES[settings.loss]
        if example is None or not self.compile(example):
            self.wrapped, self.optimiser = fabric.setup(network, optimiser(network, settings))
        self.schedule = schedule(self.optimiser, settings, steps)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best_score, self.best_step = -math.inf, 0
        self.best: dict[str, Tensor] = {}
        self.saved_step = 0

    def compile(self, example: Tensor) -> bool:
        """Compile the network as it will run; say in the log why, where that is not possible."""
        faster: Any = torch.compile(self.network)
        try:
            self.wrapped, self.optimiser = self.fabric.setup(
                faster, optimiser(self.network, self.settings)
            )
            with same_buffers(self.network):
                outputs = outputs_of(self.wrapped(as_stored(example)))
                self.fabric.backward(torch.stack([of.float().sum() for of in outputs]).sum())
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            torch._dynamo.reset()
            log(f"warning: not compiled, which is slower: {one_line(error)[:200]}")
            return False
        finally:
            self.network.zero_grad(set_to_none=True)
        return True

    def keep_best(self, score: float) -> None:
        """Remember the network if it validates better than any before."""
        if score > self.best_score:
            self.best_score, self.best_step = score, self.step
            self.best = {
                key: value.detach().clone() for key, value in self.network.state_dict().items()
            }

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` validations were no better than one before them."""
        if self.settings.patience is None or not self.best_step:
            return False
        waited = self.step - self.best_step
        return waited >= self.settings.patience * self.settings.validate_every

    def save(self, path: Path) -> None:
        """Write a checkpoint; where that fails the previous one stays."""
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        with replacing(path) as partial:
            torch.save(parts | {name: getattr(self, name) for name in VALUES}, partial)
        self.saved_step = self.step

    def resume(self, path: Path) -> None:
        """Take up a checkpoint, where there is one.

        Raises
        ------
        ValueError
            If it cannot be read, as after a failure of the disk.
        """
        if not path.is_file():
            return
        try:
            saved = torch.load(path, weights_only=True, map_location=self.fabric.device)
        except (RuntimeError, EOFError, UnpicklingError) as error:
            raise ValueError(
                f"{path}: a checkpoint must be whole: {one_line(error)}; remove it to "
                "begin this training anew"
            ) from error
        for name in PARTS:
            getattr(self, name).load_state_dict(saved[name])
        for name in VALUES:
            setattr(self, name, saved[name])
        self.saved_step = self.step
        log(f"resumed at step {self.step}")

    def gradient(self, batch: Batch) -> float:
        """Compute the gradient of a batch and return its loss.

        Several processes gather their logits first: the loss is that of the whole batch, as one
        process would have it, also where it is no mean over patches.
        """
        pixels, target, weights = batch
        parts = [*outputs_of(self.wrapped(as_stored(pixels))), target, weights]
        if self.fabric.world_size > 1:
            parts = [gathered(self.fabric, part) for part in parts]
        *outputs, target, weights = parts
        loss = deeply_supervised(self.loss, outputs, target, weights, self.coarser)
        self.optimiser.zero_grad()
        self.fabric.backward(loss)
        return loss.item()

    def replay_difference(self, batch: Batch) -> float:
        """Norm of the difference of two gradients of one batch, relative to that of the gradient.

        0 on a CPU. A GPU adds up in an order of its own each time.
        """
        gradients = []
        for _ in range(2):
            torch.manual_seed(0)
            with same_buffers(self.network):
                self.gradient(batch)
            found = [of.grad.flatten() for of in self.network.parameters() if of.grad is not None]
            gradients.append(torch.cat(found).clone())
        norm = gradients[0].norm()
        # A batch without weights has no gradient.
        return float((gradients[0] - gradients[1]).norm() / norm) if norm > 0 else 0.0

    def take_step(self, batch: Batch) -> tuple[float, float]:
        """Take one step of the optimiser; return its loss and the norm of its gradient."""
        loss = self.gradient(batch)
        clip = self.settings.gradient_clip
        largest = math.inf if clip is None else clip
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), largest)
        if norm.isfinite():  # else the weights stay as they are, for whoever wants to look
            self.optimiser.step()
            self.schedule.step()
        return loss, norm.item()
