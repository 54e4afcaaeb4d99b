"""Scores of a regression's images against their true values, and of what they are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unetflow.baselines import Baseline, Pair, Values, baselines
from unetflow.metrics.regression import SSIM_WINDOW, correlation, ergas, psnr, q2n, rmse, sam, ssim
from unetflow.orientations import Region
from unetflow.regression import Regression
from unetflow.settings.evaluation import EvaluateSettings
from unetflow.store import Image, open_image
from unetflow.truths import TrueValues, UnusableTruth
from unetflow.volumes import parse_region

SLAB = 2**24
"""Values that are scored at once, in whole planes of all channels."""


class ValueScores:
    """What scores the images of a regression.

    Parameters
    ----------
    model : mapping
        Its `model.json`, which names the training images.
    images : Path or None
        Folder of the dataset's images, those of the training among them; None without baselines.
    """

    def __init__(
        self,
        regression: Regression,
        model: Mapping[str, Any],
        images: Path | None,
        settings: EvaluateSettings,
    ) -> None:
        self.settings = settings
        self.data_range = settings.data_range or regression.data_range
        self.baselines: dict[str, Baseline] = {}
        if images is not None:
            self.baselines = baselines(
                settings.baselines,
                len(regression.names),
                lambda: [pair_of(open_image(images / of)) for of in model["training"]["images"]],
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
        means = self.of_planes(zip(truth.swapaxes(0, 1), values.swapaxes(0, 1), strict=True))
        if self.settings.plane_by_plane:
            return means
        # Windows and blocks lie in planes; what has none is of all voxels.
        return means | self.of_pixels(truth, values)

    def of_volume(self, truth: TrueValues, prediction: Image, region: Region) -> dict[str, float]:
        """Scores of a region of an archive's volume, which is larger than memory.

        It is read some planes at a time, unless the settings ask for scores of all planes together.
        """
        border, sides = self.settings.ignore_border, prediction.spatial_shape[-2:]
        inner = [
            slice(max(part.start, border), max(min(part.stop, extent - border), border))
            for part, extent in zip(region[-2:], sides, strict=True)
        ]
        region = (*region[:-2], *inner)

        def pair(region: Region) -> Pair:
            return truth.region(region), prediction.region(region).astype(np.float64)

        if len(region) == 2 or not self.settings.plane_by_plane:
            return self.of_values(*pair(region))
        # As many planes as chunks have: a chunk is decompressed as a whole.
        most = SLAB // math.prod((prediction.array.shape[0], *sides))
        depth = min(getattr(prediction.array, "chunks", (1, 1))[1], most) or 1
        first, last = region[0].start, region[0].stop
        slabs = (slice(at, min(at + depth, last)) for at in range(first, last, depth))
        pairs = (pair((slab, *inner)) for slab in slabs)
        return self.of_planes(
            planes for of in pairs for planes in zip(*(it.swapaxes(0, 1) for it in of), strict=True)
        )

    def of_planes(self, pairs: Iterable[Pair]) -> dict[str, float]:
        """Means of the scores of planes (channels, rows, columns), each over those that have it.

        An exact plane has no finite PSNR, one that is constant on both sides no correlation. NaN
        where no plane has one.
        """
        planes = pd.DataFrame([self.of_plane(*pair) for pair in pairs])
        means = planes.where(np.isfinite(planes)).mean()
        return {str(metric): float(value) for metric, value in means.items()}

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


def volume_scores(
    row: Mapping[str, Any],
    truth: Path | str,
    prediction: Image,
    regression: Regression,
    model: Mapping[str, Any],
    settings: EvaluateSettings,
) -> dict[str, float]:
    """Scores of an archive's volume, or of the region of it that its row names.

    Parameters
    ----------
    row : mapping
        Of the sheet.
    truth : Path or str
        A picture of the true values, or a dataset's image that has some.

    Raises
    ------
    UnusableTruth
        If that cannot be read, or is none of the volume's.
    """
    if row.get("mask"):
        raise UnusableTruth(
            "values are scored in a region of a volume: got a mask; name a "
            "region instead, or leave truth out"
        )
    region = parse_region(row.get("region", ""), prediction)
    whole = tuple(slice(0, extent) for extent in prediction.spatial_shape)
    true = TrueValues.open(truth, prediction.spatial_shape, regression.names)
    return ValueScores(regression, model, None, settings).of_volume(
        true, prediction, region or whole
    )


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
