"""Scores of a network in training on whole validation images, and the threshold they suggest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetflow.inference import Model, array_reader, logits, softmax
from unetflow.intensity import Normalisation
from unetflow.store import NOT_ANNOTATED, open_image

THRESHOLDS = np.linspace(0, 1, 101)

Annotated = tuple[NDArray[np.float32], NDArray[np.uint8]]
"""Normalised pixels (channel, *spatial) and classes (*spatial) of an image."""


def read_validation(path: Path, normalise: Normalisation) -> Annotated:
    """Normalised pixels (channel, *spatial) and classes of a validation image."""
    image = open_image(path)
    classes = image.label("classes")
    if classes is None:
        raise ValueError(f"{path}: a validation image must be annotated: it has no labels/classes")
    everything = tuple(slice(0, extent) for extent in image.spatial_shape)
    return normalise.apply(image.region(everything)), np.asarray(classes)


def foreground_histograms(
    model: Model,
    images: Sequence[Annotated],
    tile: Sequence[int],
) -> NDArray[np.int64]:
    """Count (2, bins) of the foreground probability where the truth is background, foreground."""
    counts = np.zeros((2, len(THRESHOLDS) - 1), np.int64)
    for pixels, classes in images:
        for plane in np.ndindex(classes.shape[: -len(tile)]):
            image = pixels[:, *plane]
            whole = tuple(slice(0, extent) for extent in image.shape[1:])
            predicted = softmax(logits(model, array_reader(image), image.shape[1:], whole, tile))
            truth = classes[plane]
            for is_foreground in (0, 1):
                chosen = (truth != NOT_ANNOTATED) & ((truth > 0) == is_foreground)
                counts[is_foreground] += np.histogram(1 - predicted[0][chosen], THRESHOLDS)[0]
    return counts


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


def validate(
    model: Model,
    images: Sequence[Annotated],
    tile: Sequence[int],
) -> float:
    """Mean Dice of foreground and background at the threshold where it is best."""
    return float(
        np.mean(dice_at_thresholds(foreground_histograms(model, images, tile)), axis=0).max()
    )


def best_threshold(
    model: Model,
    images: Sequence[Annotated],
    tile: Sequence[int],
) -> float:
    """Foreground probability above which the foreground's Dice is best on the validation images."""
    foreground, _ = dice_at_thresholds(foreground_histograms(model, images, tile))
    return float(THRESHOLDS[int(np.argmax(foreground))])
