"""The data path of training: cached patches to augmented batches on the device, read ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from unetflow.augmentation import changed_grey, oriented
from unetflow.intensity import Normalisation
from unetflow.regression import Regression
from unetflow.settings.training import TrainSettings
from unetflow.store import NOT_ANNOTATED

READERS = 4
BATCHES_AHEAD = 2 * READERS

Batch = tuple[Tensor, Tensor, Tensor]
"""Pixels float32 (N, C, ...), classes int64 (N, ...) and weights float32 (N, ...); of a regression
normalised values float32 (N, channels, ...) instead of classes, and weights of 1."""


class Patches:
    """The patches of several caches, read on demand, in an order that depends on the seed alone.

    Parameters
    ----------
    device : torch.device
        Where batches are augmented and handed over.
    rank, ranks : int
        Of several processes that divide each batch, this one takes a part, and the whole is what
        one process would have taken.
    regression : Regression, optional
        Whose true values the caches then hold instead of classes and weights.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        normalise: Mapping[str, Normalisation],
        seed: int,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (a value, never changed)
        rank: int = 0,
        ranks: int = 1,
        regression: Regression | None = None,
    ) -> None:
        self.normalise, self.regression = [normalise[name] for name in paths], regression
        parts = ("classes", "weights") if regression is None else ("target",)
        self.arrays: list[tuple[zarr.Array[Any], ...]] = [
            tuple(zarr.open_array(path / part, mode="r") for part in ("image", *parts))
            for path in paths.values()
        ]
        self.names, self.paths = list(paths), list(paths.values())
        counts = [pixels.shape[0] for pixels, *_ in self.arrays]
        self.items = [(i, k) for i, count in enumerate(counts) for k in range(count)]
        self.seed, self.device, self.rank, self.ranks = seed, device, rank, ranks

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Pixels of each class, from 0 to 254, that the patches show."""
        counts = [zarr.open_group(path, mode="r").attrs["class_counts"] for path in self.paths]
        total: NDArray[np.int64] = np.array(counts, np.int64).sum(axis=0)
        return total

    def position(self, number: int) -> tuple[int, int]:
        """Image and patch that stand at a place in the endless shuffled sequence."""
        epoch, place = divmod(number, len(self.items))
        order = np.random.default_rng([self.seed, 2, epoch]).permutation(len(self.items))
        return self.items[int(order[place])]

    def named(self, step: int, batch: int) -> str:
        """Patches of a step, by image and number."""
        places = [self.position(number) for number in range(step * batch, (step + 1) * batch)]
        return ", ".join(f"{self.names[image]} {patch}" for image, patch in places)

    def batch(self, step: int, settings: TrainSettings) -> Batch:
        """What this process takes of a step, normalised and augmented, on the device."""
        share = settings.batch // self.ranks
        first = step * settings.batch + self.rank * share
        numbers = range(first, first + share)
        places = [self.position(number) for number in numbers]
        raw, *truth = (
            self.moved(np.stack([self.arrays[image][part][index] for image, index in places]))
            for part in range(len(self.arrays[0]))
        )
        offset, scale = (
            self.moved(np.array([getattr(self.normalise[image], name) for image, _ in places]))
            .float()
            .reshape(raw.shape[:2] + (1,) * (raw.ndim - 2))
            for name in ("offset", "scale")
        )
        generators = [np.random.default_rng([self.seed, 3, number]) for number in numbers]
        clip = self.normalise[0].clip  # a setting, alike for all images
        grey = raw.float() if clip is None else raw.float().clamp(*clip)
        pixels = changed_grey((grey - offset) / scale, settings, generators)
        parts = [pixels, *self.target_and_weights(truth)]
        pixels, target, weights = oriented(parts, settings, generators)
        return pixels, target if self.regression else target.long(), weights

    def target_and_weights(self, truth: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What is learned of patches, see `Batch`, and how much each pixel of it counts."""
        if self.regression is None:
            classes, weights = truth
            unknown = classes == NOT_ANNOTATED
            return classes.masked_fill(unknown, 0), weights.masked_fill(unknown, 0)
        (values,) = truth
        like = (1, -1, *[1] * (values.ndim - 2))
        of = self.regression.normalise
        offset, scale = (
            self.moved(np.array(part, np.float32)).view(like) for part in (of.offset, of.scale)
        )
        return (values - offset) / scale, torch.ones_like(values[:, 0])

    def moved(self, values: NDArray[Any]) -> Tensor:
        """Values on the device; a GPU fetches them from pinned memory, in its turn."""
        tensor = torch.from_numpy(values)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def ahead(self, first: int, settings: TrainSettings, stop: int) -> Iterator[Batch]:
        """Batches of steps `first..stop-1`, read by threads while the network computes."""
        with ThreadPoolExecutor(READERS) as pool:
            waiting: deque[Future[Batch]] = deque()
            for step in range(first, stop):
                waiting.append(pool.submit(self.batch, step, settings))
                if len(waiting) > BATCHES_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
