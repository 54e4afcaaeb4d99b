"""Values that a regression has predicted of an archive's volumes, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow.outliers import unlike_training
from unetflow.outlines import WRITTEN
from unetflow.packs import Pack
from unetflow.predicted import open_prediction, summary_of
from unetflow.regression import output_names
from unetflow.states import state_of_file
from unetflow.store import Image, read_json, remove, shard_regions, write_json
from unetflow.thumbnails import draw_thumbnail
from unetflow.volumes import choice_of, open_volume, parse_region
from unetflow.voxels import resampled

OF_A_SEGMENTATION = (
    "segmentation.ome.zarr",
    "objects.tsv",
    "objects.parquet",
    "merges.tsv",
    "seams.tsv",
    *(f"outlines.{ending}" for ending in WRITTEN.values()),
)
"""Results of a volume that were left if its row named a segmentation before."""


def measure_values(pack: Pack, volumes: Sequence[str], model: Mapping[str, Any]) -> None:
    """Write the summary of a volume whose values are predicted, or of those that share its job.

    Parameters
    ----------
    pack : Pack
        With the paths `facts` (how a prediction went, see `assembly.finish_prediction`),
        `prediction` and `summary`, JSON that says "state" and "reason". Beside the last comes
        `thumbnail.webp`.
    model : mapping
        Its `model.json`.
    """

    def measure(_volume: str, of: Mapping[str, Path]) -> None:
        folder = of["summary"].parent
        for name in (*OF_A_SEGMENTATION, "thumbnail.webp"):
            remove(folder / name)
        facts, found = read_json(of["facts"]), dict[str, Any]()
        if not facts["reason"]:
            row, prediction = facts["volume"], open_prediction(of["prediction"])
            seen = resampled(open_volume(row["path"], **choice_of(row)), prediction.voxel_size_um)
            region = parse_region(row.get("region", ""), seen)
            mask = open_volume(row["mask"]) if row.get("mask") else None
            found["outlier"] = unlike_training(seen, model, region, mask)
            found |= statistics(prediction, output_names(model), region, mask)
            draw_thumbnail(row, of["prediction"], folder / "thumbnail.webp")
        write_json(of["summary"], summary_of(facts, found))

    # A prediction that is finished anew has new facts, whether its volume shares that job or not.
    finished = {volume: state_of_file(pack.paths_of(volume)["facts"]) for volume in volumes}
    pack.each(measure, finished, model, results=["summary"])


def statistics(
    prediction: Image,
    names: Sequence[str],
    region: Sequence[slice] | None = None,
    mask: Image | None = None,
) -> dict[str, float]:
    """Return mean, standard deviation, least and largest value of each channel.

    The prediction is read shard by shard, and of each a channel at a time.

    Parameters
    ----------
    prediction : Image
        Of axes (channel, *spatial).
    names : sequence of str
        Of its channels.
    region, mask : optional
        What of it is predicted; voxels elsewhere do not count.

    Returns
    -------
    dict
        `mean_NAME`, `deviation_NAME`, `least_NAME`, `largest_NAME`; nothing without voxels.
    """
    array: Any = prediction.array
    whole = region or [slice(0, extent) for extent in prediction.spatial_shape]
    counts, each = [], []
    for shard in shard_regions(array, len(whole)):
        pairs = list(zip(shard, whole, strict=True))
        part = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)
        if any(along.start >= along.stop for along in part):
            continue
        extents = [along.stop - along.start for along in part]
        inside = np.ones(extents, bool) if mask is None else mask.region(part)[0] > 0
        if inside.any():
            counts.append(np.count_nonzero(inside))
            each.append([moments(array[channel, *part][inside]) for channel in range(len(names))])
    if not counts:
        return {}
    means, variances, least, largest = np.moveaxis(np.array(each), -1, 0)
    mean = np.average(means, axis=0, weights=counts)
    # Law of total variance: within the shards plus between them.
    spread = np.average(variances + (means - mean) ** 2, axis=0, weights=counts)
    found = {"mean": mean, "deviation": np.sqrt(spread)}
    found |= {"least": np.min(least, axis=0), "largest": np.max(largest, axis=0)}
    return {
        f"{what}_{name}": float(value)
        for what, values in found.items()
        for name, value in zip(names, values, strict=True)
    }


def moments(values: NDArray[Any]) -> tuple[float, float, float, float]:
    """Mean, variance, least and largest value."""
    exact = values.astype(np.float64)
    return exact.mean(), exact.var(), exact.min(), exact.max()
