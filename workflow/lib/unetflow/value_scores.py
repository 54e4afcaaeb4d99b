"""Scores of a regression's images against their true values, and of what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unetflow.baselines import Baseline, Pair, Values, baselines
from unetflow.metrics.regression import SSIM_WINDOW, correlation, ergas, psnr, q2n, rmse, sam, ssim
from unetflow.regression import Regression
from unetflow.settings.evaluation import EvaluateSettings
from unetflow.store import Image, open_image


class ValueScores:
    """What scores the images of a regression.

    Parameters
    ----------
    model : mapping
        Its `model.json`, which names the training images.
    images : Path
        Folder of the dataset's images, those of the training among them.
    """

    def __init__(
        self,
        regression: Regression,
        model: Mapping[str, Any],
        images: Path,
        settings: EvaluateSettings,
    ) -> None:
        self.settings = settings
        self.data_range = settings.data_range or regression.data_range
        learned: Sequence[str] = model["training"]["images"]
        self.baselines: dict[str, Baseline] = baselines(
            settings.baselines,
            len(regression.names),
            lambda: [pair_of(open_image(images / name)) for name in learned],
        )

    def of_image(self, image: Image, prediction: Image) -> dict[str, float]:
        """Scores of the network; those of a baseline NAME follow as METRIC_NAME.

        Of a stack the mean over its planes, or of all of it together, as the settings say.
        """
        pixels, truth = pair_of(image)
        found = {"": np.asarray(prediction.array[...], np.float64)}
        found |= {f"_{name}": of(pixels) for name, of in self.baselines.items()}
        border = self.settings.ignore_border
        frame = (..., *[slice(border, -border or None)] * 2)
        return {
            f"{metric}{suffix}": value
            for suffix, values in found.items()
            for metric, value in self.of_values(truth[frame], values[frame]).items()
        }

    def of_values(self, truth: Values, values: Values) -> dict[str, float]:
        """Scores of arrays (channels, *spatial)."""
        if truth.ndim == 3:
            return self.of_plane(truth, values)
        planes = [
            self.of_plane(*pair)
            for pair in zip(truth.swapaxes(0, 1), values.swapaxes(0, 1), strict=True)
        ]
        means = {metric: float(np.mean([of[metric] for of in planes])) for metric in planes[0]}
        if self.settings.plane_by_plane:
            return means
        # Windows and blocks lie in planes; what has none is of all voxels.
        return means | self.of_pixels(truth, values)

    def of_plane(self, truth: Values, values: Values) -> dict[str, float]:
        """Scores of arrays (channels, rows, columns)."""
        found = self.of_pixels(truth, values)
        if min(truth.shape[1:]) >= SSIM_WINDOW:
            found["ssim"] = ssim(truth, values, self.data_range)
        if len(truth) > 1:
            found["q2n"] = q2n(truth, values)
        return found

    def of_pixels(self, truth: Values, values: Values) -> dict[str, float]:
        """Scores for which it does not matter where a pixel is."""
        found = {
            "psnr": psnr(truth, values, self.data_range),
            "rmse": rmse(truth, values),
            "correlation": correlation(truth, values),
        }
        if len(truth) > 1:
            found["sam"] = sam(truth, values)
        if self.settings.pixel_ratio is not None:
            found["ergas"] = ergas(truth, values, self.settings.pixel_ratio)
        return found


def pair_of(image: Image) -> Pair:
    """Pixels and true values of an image.

    Raises
    ------
    ValueError
        If it has no true values.
    """
    target = image.target()
    if target is None:
        raise ValueError(f"{image.path}: an image to be scored must have true values: it has none")
    everything = tuple(slice(0, extent) for extent in image.spatial_shape)
    pixels, values = (np.asarray(of.region(everything), np.float64) for of in (image, target))
    return pixels, values
