"""What a network tells of a pixel where that is no class: the values that a dataset has of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow.intensity import Normalisation, merge, normalisation, read_histograms
from unetflow.settings.training import IntensitySettings


@dataclass(frozen=True)
class Regression:
    """The task regression, as far as anything but a segmentation is done for it.

    Attributes
    ----------
    names : sequence of str
        Of the target's channels, which are the network's outputs.
    normalise : Normalisation
        From the target's unit to that of the outputs.
    data_range : float
        Largest value of the training targets minus the least, in the target's unit.
    """

    names: Sequence[str]
    normalise: Normalisation
    data_range: float

    def values(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values (channels, ...) in the target's unit of what the network gives."""
        return self.normalise.undo(outputs)

    def facts(self) -> dict[str, Any]:
        """Return what `model.json` says of it."""
        return {
            "names": list(self.names),
            "offset": list(self.normalise.offset),
            "scale": list(self.normalise.scale),
            "data_range": self.data_range,
        }


def regression_of(facts: Mapping[str, Any]) -> Regression | None:
    """Return the regression that a `model.json` is of; None for a segmentation."""
    target = facts.get("target")
    if target is None:
        return None
    normalise = Normalisation(tuple(target["offset"]), tuple(target["scale"]))
    return Regression(target["names"], normalise, target["data_range"])


def output_names(facts: Mapping[str, Any]) -> list[str]:
    """Names of a network's outputs: classes, background first, or channels of the target."""
    regression = regression_of(facts)
    return list(facts["class_names"] if regression is None else regression.names)


def learned_from(
    histograms: Mapping[str, Path], training: Sequence[str], names: Sequence[str]
) -> Regression:
    """Return the regression of targets that are brought to mean 0 and standard deviation 1.

    Parameters
    ----------
    histograms : mapping of image name to its intensity JSON
    training : sequence of str
        The images whose targets count.

    Raises
    ------
    ValueError
        If a channel of the targets has one value.
    """
    parts = [read_histograms(histograms[name], "target") for name in training]
    merged = [merge(channels) for channels in zip(*parts, strict=True)]
    for name, channel in zip(names, merged, strict=True):
        if channel.variance == 0:
            raise ValueError(
                f"targets must have two values in each channel: all training ones of {name} are "
                f"{channel.values[0]:g}; leave the channel out, or train on more images"
            )
    least = min(channel.values[0] for channel in merged)
    largest = max(channel.values[-1] for channel in merged)
    # By mean and deviation, however the pictures are normalised: values come back unclipped.
    return Regression(names, normalisation(merged, IntensitySettings()), largest - least)
