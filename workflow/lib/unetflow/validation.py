"""Scores of a network in training on whole validation images, and the threshold they suggest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetflow.inference import Model, array_reader, logits, softmax
from unetflow.intensity import Normalisation
from unetflow.store import NOT_ANNOTATED, open_image

THRESHOLDS = np.linspace(0, 1, 101)

Annotated = tuple[NDArray[np.float32], NDArray[np.uint8]]
"""Normalised pixels (channel, *spatial) and classes (*spatial) of an image."""


def read_validation(
    paths: Mapping[str, Path], normalise: Mapping[str, Normalisation]
) -> list[Annotated]:
    """Read validation images by name, each with its own normalisation.

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
        images.append((normalise[name].apply(image.region(everything)), np.asarray(classes)))
    if images and not any(((of > 0) & (of != NOT_ANNOTATED)).any() for _, of in images):
        raise ValueError(
            "validation images must show foreground, which chooses step and threshold: got "
            f"background alone in {', '.join(paths)}; annotate objects in them, or use fewer folds"
        )
    return images


@dataclass(frozen=True)
class Validation:
    """A network in training, with the images that it is judged by."""

    model: Model
    images: Sequence[Annotated]
    tile: Sequence[int]

    def dice(self) -> float:
        """Mean Dice of foreground and background at the threshold where it is best."""
        return float(np.mean(dice_at_thresholds(self.histograms()), axis=0).max())

    def threshold(self) -> float:
        """Foreground probability above which the foreground's Dice is best."""
        foreground, _ = dice_at_thresholds(self.histograms())
        return float(THRESHOLDS[int(np.argmax(foreground))])

    def histograms(self) -> NDArray[np.int64]:
        """Count (2, bins) of the foreground probability where truth is background, foreground."""
        self.model.network.eval()
        counts = np.zeros((2, len(THRESHOLDS) - 1), np.int64)
        for pixels, classes in self.images:
            for plane in np.ndindex(classes.shape[: -len(self.tile)]):
                found = self.foreground(pixels[:, *plane])
                truth = classes[plane]
                for is_foreground in (0, 1):
                    chosen = (truth != NOT_ANNOTATED) & ((truth > 0) == is_foreground)
                    counts[is_foreground] += np.histogram(found[chosen], THRESHOLDS)[0]
        return counts

    def foreground(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predicted probability of foreground (*spatial) of pixels (channel, *spatial)."""
        shape = pixels.shape[1:]
        whole = tuple(slice(0, extent) for extent in shape)
        predicted = softmax(logits(self.model, array_reader(pixels), shape, whole, self.tile))
        return np.asarray(1 - predicted[0])


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
