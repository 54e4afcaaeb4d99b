"""Values that a regression has predicted of an archive's volumes, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unetflow.outliers import unlike_training
from unetflow.packs import do_each
from unetflow.predicted import open_prediction, summary_of
from unetflow.regression import output_names
from unetflow.states import write_receipt
from unetflow.store import Image, read_json, remove, shard_regions, write_json
from unetflow.thumbnails import draw_thumbnail
from unetflow.volumes import choice_of, open_volume, parse_region
from unetflow.voxels import resampled

OF_A_SEGMENTATION = ("segmentation.ome.zarr", "objects.tsv", "merges.tsv", "seams.tsv")
"""Results of a volume that were left if its row named a segmentation before."""


def measure_values(
    volumes: Sequence[str],
    paths: Mapping[str, str],
    output: Path,
    model: Mapping[str, Any],
    restored: str = "",
) -> None:
    """Write the summary of a volume whose values are predicted, or of those that share its job.

    Parameters
    ----------
    paths : mapping
        Of each volume, patterns in which `{volume}` stands for its name: `facts` (how its
        prediction went, see `assembly.finish_prediction`), `prediction` and `summary`, JSON that
        says "state" and "reason". Beside the last comes `thumbnail.webp`.
    output : Path
        JSON, written last.
    model : mapping
        Its `model.json`.
    restored : str
        See `states.restored`.
    """

    def measure(volume: str) -> None:
        of = {name: Path(path.replace("{volume}", volume)) for name, path in paths.items()}
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

    do_each(measure, volumes, len(volumes))
    write_receipt(output, {"restored": restored})


def statistics(
    prediction: Image,
    names: Sequence[str],
    region: Sequence[slice] | None = None,
    mask: Image | None = None,
) -> dict[str, float]:
    """Return mean, standard deviation, least and largest value of each channel.

    The prediction is read shard by shard.

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
    counts, means, variances, least, largest = [], [], [], [], []
    for shard in shard_regions(array, len(whole)):
        pairs = list(zip(shard, whole, strict=True))
        part = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)
        if any(along.start >= along.stop for along in part):
            continue
        values = prediction.region(part).reshape(len(names), -1).astype(np.float64)
        if mask is not None:
            values = values[:, mask.region(part)[0].ravel() > 0]
        if values.shape[1]:
            counts.append(values.shape[1])
            means.append(values.mean(axis=1))
            variances.append(values.var(axis=1))
            least.append(values.min(axis=1))
            largest.append(values.max(axis=1))
    if not counts:
        return {}
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
