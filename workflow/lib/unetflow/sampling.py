"""The data path of training: cached patches to augmented batches, read ahead by a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from unetflow.intensity import Normalisation
from unetflow.settings import TrainSettings
from unetflow.store import NOT_ANNOTATED

BATCHES_AHEAD = 4

Batch = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]


class Patches:
    """The patches of several caches, read on demand, in an order that depends on the seed alone."""

    def __init__(
        self, paths: Mapping[str, Path], normalise: Mapping[str, Normalisation], seed: int
    ) -> None:
        self.normalise = [normalise[name] for name in paths]
        self.arrays: list[tuple[zarr.Array[Any], ...]] = [
            tuple(
                zarr.open_array(path / part, mode="r") for part in ("image", "classes", "weights")
            )
            for path in paths.values()
        ]
        self.names = list(paths)
        counts = [pixels.shape[0] for pixels, _, _ in self.arrays]
        self.items = [(i, k) for i, count in enumerate(counts) for k in range(count)]
        self.seed = seed

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
        """Pixels (N, C, ...), classes (N, ...) and weights (N, ...) of a step, augmented."""
        generator = np.random.default_rng([self.seed, 3, step])
        first = step * settings.batch
        drawn = [
            self.patch(number, settings, generator)
            for number in range(first, first + settings.batch)
        ]
        pixels, classes, weights = zip(*drawn, strict=True)
        return np.stack(pixels), np.stack(classes), np.stack(weights)

    def patch(self, number: int, settings: TrainSettings, generator: np.random.Generator) -> Batch:
        """One patch with its orientation and grey values changed."""
        image, index = self.position(number)
        raw, classes, weights = (np.asarray(array[index]) for array in self.arrays[image])
        pixels = self.normalise[image].apply(raw)
        weights = np.where(classes == NOT_ANNOTATED, 0, weights)
        classes = np.where(classes == NOT_ANNOTATED, 0, classes)
        turns, mirror = int(generator.integers(4)), bool(generator.integers(2))
        if raw.shape[-2] != raw.shape[-1]:
            turns = turns // 2 * 2  # a quarter turn would change the shape
        pixels = changed_grey(pixels, settings, generator)
        if settings.orientations:
            pixels, classes, weights = (
                np.rot90(part, turns, axes=(-2, -1))[..., :: -1 if mirror else 1]
                for part in (pixels, classes, weights)
            )
        return pixels, classes.astype(np.int64), weights

    def ahead(self, first: int, settings: TrainSettings, stop: int) -> Iterator[Batch]:
        """Batches of steps `first..stop-1`, read by a thread while the network computes."""
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[Future[Batch]] = deque()
            for step in range(first, stop):
                waiting.append(pool.submit(self.batch, step, settings))
                if len(waiting) > BATCHES_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def changed_grey(
    pixels: NDArray[np.float32], settings: TrainSettings, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Normalised pixels (channel, *spatial) with other grey values: blurred, bent, scaled, noisy.

    In the order of the microscope: optics before the detector's curve, its noise last.
    """
    gain = generator.uniform(1 - settings.gain, 1 + settings.gain)
    offset = generator.uniform(-settings.offset, settings.offset)
    if settings.blur > 0:
        width = generator.uniform(0, settings.blur)
        axes = tuple(range(1, pixels.ndim))
        pixels = gaussian_filter(pixels, width, mode="mirror", axes=axes)
    if settings.gamma > 0:
        limit = np.log1p(settings.gamma)
        low, high = pixels.min(), pixels.max()
        # Rounding may lead below the lowest value, of which there is no power.
        share = np.clip((pixels - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
        pixels = low + (high - low) * share ** np.exp(generator.uniform(-limit, limit))
    pixels = (pixels * gain + offset).astype(np.float32)
    if settings.noise > 0:
        deviation = generator.uniform(0, settings.noise)
        pixels += generator.normal(0, deviation, pixels.shape)
    return pixels
