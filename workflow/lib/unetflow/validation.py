"""Scores of a network in training on whole validation images, and the threshold they suggest.

A regression validates by its loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow.annotation import Every, untaught
from unetflow.inference import Model, array_reader, logits, softmax
from unetflow.intensity import Normalisation
from unetflow.losses import Loss
from unetflow.store import NOT_ANNOTATED, open_image

THRESHOLDS = np.linspace(0, 1, 101)

Annotated = tuple[NDArray[np.float32], NDArray[Any]]
"""Normalised pixels (channel, *spatial) of an image; its classes (*spatial), or its normalised true
values (channel, *spatial)."""


def read_validation(
    paths: Mapping[str, Path],
    normalise: Mapping[str, Normalisation],
    annotated_planes: Every | None = None,
    tested_planes: int | None = None,
) -> list[Annotated]:
    """Read validation images by name, each with its own normalisation.

    They validate where they could teach, see `annotation.untaught`.

    Raises
    ------
    ValueError
        If one is not annotated, or none of them shows foreground.
    """
    images = []
    for name, path in paths.items():
        image = open_image(path)
        classes = image.label("classes")
        if classes is None:
            raise ValueError(
                f"{path}: a validation image must be annotated: it has no labels/classes"
            )
        everything = tuple(slice(0, extent) for extent in image.spatial_shape)
        known, spatial = np.asarray(classes), axis_rules.spatial(image.axes)
        skipped = untaught(everything, spatial, annotated_planes, tested_planes)
        np.copyto(known, NOT_ANNOTATED, where=skipped)
        images.append((normalise[name].apply(image.region(everything)), known))
    if images and not any(((of > 0) & (of != NOT_ANNOTATED)).any() for _, of in images):
        raise ValueError(
            "validation images must show foreground, which chooses step and threshold: got "
            f"background alone in {', '.join(paths)}; annotate objects in them, or use fewer folds"
        )
    return images


def read_values(
    paths: Mapping[str, Path], normalise: Mapping[str, Normalisation], target: Normalisation
) -> list[Annotated]:
    """Read validation images of a regression by name, with their true values.

    Raises
    ------
    ValueError
        If one has no true values.
    """
    found = []
    for name, path in paths.items():
        image = open_image(path)
        values = image.target()
        if values is None:
            raise ValueError(f"{path}: a validation image must have true values: it has no target")
        everything = tuple(slice(0, extent) for extent in image.spatial_shape)
        pixels = normalise[name].apply(image.region(everything))
        found.append((pixels, target.apply(values.region(everything))))
    return found


@dataclass(frozen=True)
class Judge(ABC):
    """A network in training, with the images that it is judged by.

    Attributes
    ----------
    measure : str
        What the history calls its judgement.
    sign : int
        1 where that is better the higher it is, else -1.
    """

    model: Model
    images: Sequence[Annotated]
    tile: Sequence[int]
    measure: ClassVar[str]
    sign: ClassVar[int] = 1

    @abstractmethod
    def score(self) -> float:
        """Judgement, which is kept where it is best."""

    def threshold(self) -> float | None:
        """Foreground probability above which a pixel is taken for one; None without classes."""
        return None

    @abstractmethod
    def panels(
        self, truth: NDArray[Any], outputs: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Truth and prediction (*part) of a part of an image, grey from 0 to 1."""

    def outputs(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network gives (outputs, *spatial) for pixels (channel, *spatial)."""
        shape = pixels.shape[1:]
        whole = tuple(slice(0, extent) for extent in shape)
        return logits(self.model, array_reader(pixels), shape, whole, self.tile)


@dataclass(frozen=True)
class Losses(Judge):
    """A regression, judged by the loss that it learns by."""

    loss: Loss
    measure = "validation_loss"
    sign = -1

    def score(self) -> float:
        """Mean loss of planes, or of volumes by a 3D network, each as a whole."""
        self.model.network.eval()
        losses = []
        for pixels, values in self.images:
            for plane in np.ndindex(values.shape[1 : -len(self.tile)]):
                pair = self.outputs(pixels[:, *plane]), values[:, *plane]
                found, true = (torch.from_numpy(np.ascontiguousarray(of))[None] for of in pair)
                losses.append(self.loss(found, true, torch.ones_like(true[:, 0])).item())
        return float(np.mean(losses))

    def panels(
        self, truth: NDArray[Any], outputs: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the first channel of both, black and white where the truth is so."""
        low, extent = truth[0].min(), max(float(np.ptp(truth[0])), 1e-6)
        true, found = (np.clip((of[0] - low) / extent, 0, 1) for of in (truth, outputs))
        return true, found


@dataclass(frozen=True)
class Validation(Judge):
    """A segmentation, judged by the Dice of its classes, so many with the background."""

    classes: int
    measure = "validation_dice"

    def score(self) -> float:
        """Mean Dice."""
        return self.dice()

    def dice(self) -> float:
        """Mean Dice of foreground and background at the threshold where it is best.

        With more than two classes that of the most probable class, mean over the classes that the
        images show, background left out but where they show nothing else: a foreground that merged
        classes would hide which is which.
        """
        if self.classes == 2:
            return float(np.mean(dice_at_thresholds(self.histograms()), axis=0).max())
        shared, predicted, true = self.overlaps()
        shown = true > 0
        shown[0] = not shown[1:].any()
        return float(np.mean(2 * shared[shown] / (predicted + true)[shown].clip(1)))

    def threshold(self) -> float | None:
        """Foreground probability above which the foreground's Dice is best."""
        foreground, _ = dice_at_thresholds(self.histograms())
        return float(THRESHOLDS[int(np.argmax(foreground))])

    def histograms(self) -> NDArray[np.int64]:
        """Count (2, bins) of the foreground probability where truth is background, foreground."""
        counts = np.zeros((2, len(THRESHOLDS) - 1), np.int64)
        for pixels, truth in self.parts():
            found = self.foreground(pixels)
            for is_foreground in (0, 1):
                chosen = (truth != NOT_ANNOTATED) & ((truth > 0) == is_foreground)
                counts[is_foreground] += np.histogram(found[chosen], THRESHOLDS)[0]
        return counts

    def overlaps(self) -> NDArray[np.int64]:
        """Count (3, classes) of pixels of both, of the most probable class, and of the truth."""
        counts = np.zeros((3, self.classes), np.int64)
        for pixels, truth in self.parts():
            known = truth != NOT_ANNOTATED
            found, true = self.outputs(pixels).argmax(axis=0)[known], truth[known]
            for count, labels in zip(counts, (true[found == true], found, true), strict=True):
                count += np.bincount(labels, minlength=self.classes)
        return counts

    def parts(self) -> Iterator[Annotated]:
        """Yield the images, or the planes of stacks, as the network takes them, for its scores."""
        self.model.network.eval()
        for pixels, classes in self.images:
            for plane in np.ndindex(classes.shape[: -len(self.tile)]):
                yield pixels[:, *plane], classes[plane]

    def foreground(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predicted probability of foreground (*spatial) of pixels (channel, *spatial)."""
        return np.asarray(1 - softmax(self.outputs(pixels))[0])

    def panels(
        self, truth: NDArray[Any], outputs: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return foreground and its probability; grey is what is not annotated."""
        true = np.where(truth == NOT_ANNOTATED, 0.5, truth > 0)
        return true.astype(np.float32), np.asarray(1 - softmax(outputs)[0])


def dice_at_thresholds(
    counts: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dice of foreground and of background for each threshold between the bins."""
    above = counts[:, ::-1].cumsum(axis=1)[
        :, ::-1
    ]  # of each truth, at or above the bin's lower edge
    below = counts.sum(axis=1, keepdims=True) - above
    foreground = 2 * above[1] / np.maximum(above[0] + above[1] + counts[1].sum(), 1)
    background = 2 * below[0] / np.maximum(below[0] + below[1] + counts[0].sum(), 1)
    return foreground, background
