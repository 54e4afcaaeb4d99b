"""The objects of an image as a table: size, place, probability and intensity."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow import predicted
from unetflow.joining import COMBINED
from unetflow.labelling import Region, Values
from unetflow.settings.prediction import SegmentSettings
from unetflow.store import Image, remove, replacing, write_text


def values_of(prediction: Image, pixels: Image | None) -> Values:
    """Return what is averaged over each object: foreground probability, and grey values.

    Parameters
    ----------
    pixels : Image, optional
        What was predicted, as the network read it: where a volume was resampled, interpolated
        between its voxels. Of several channels each is a value of its own.

    Raises
    ------
    ValueError
        If it has other extents than the prediction.
    """
    if pixels is None:
        return Values(("probability",), lambda region: [predicted.foreground(prediction, region)])
    if pixels.spatial_shape != prediction.spatial_shape:
        raise ValueError(
            f"{pixels.path}: an image must have the extents of its prediction, "
            f"{prediction.spatial_shape}: got {pixels.spatial_shape}; predict again with "
            "`snakemake --forcerun predict_block predict_pack predict_images`"
        )
    channels = pixels.array.shape[0] if "c" in pixels.axes else 1
    numbered = [f"intensity_{channel}" for channel in range(channels)]

    def read(region: Region) -> list[NDArray[Any]]:
        return [predicted.foreground(prediction, region), *pixels.region(region)]

    return Values(("probability", *(numbered if channels > 1 else ["intensity"])), read)


def object_table(objects: Mapping[str, NDArray[Any]], image: Image) -> pd.DataFrame:
    """Return a table with a row per object.

    Its columns: label; voxels, and the same in µm² or µm³ where the size of a voxel is known; the
    centroid and the box, from start to before stop, in voxels along each axis; means over all
    voxels of the object; touches_border, 1 where it reaches the border of the image.

    Parameters
    ----------
    objects : mapping
        See `joining.Joined`.
    image : Image
        Their instances.
    """
    axes, count = axis_rules.spatial(image.axes), len(objects["size"])
    table = pd.DataFrame({"label": np.arange(1, count + 1), "voxels": objects["size"]})
    size = axis_rules.voxel_size(axes, image.voxel_size_um)
    if size is not None:
        table[f"size_um{len(axes)}"] = table["voxels"] * float(np.prod(size))
    for name, values in (
        ("centroid", objects["sum"] / objects["size"][:, np.newaxis]),
        ("start", objects["start"]),
        ("stop", objects["stop"]),
    ):
        for axis, column in zip(axes, values.T, strict=True):
            table[f"{name}_{axis}"] = column
    for name in objects:
        if name not in COMBINED:
            table[f"mean_{name}"] = objects[name] / objects["size"]
    at_border = (objects["start"] == 0) | (objects["stop"] == np.array(image.spatial_shape))
    table["touches_border"] = at_border.any(axis=1).astype(np.uint8)
    return table


def require_parquet(settings: SegmentSettings) -> None:
    """Refuse to begin where Parquet is asked for and what writes it is missing.

    Raises
    ------
    ValueError
        If pyarrow is not installed.
    """
    if settings.objects == "parquet" and find_spec("pyarrow") is None:
        raise ValueError(
            "segment.objects: parquet must have pyarrow installed: found none; "
            "pip install 'unetflow[parquet]', or set tsv"
        )


def write_table(table: pd.DataFrame, path: Path, settings: SegmentSettings) -> None:
    """Write a table of objects as TSV, and as Parquet of the same name where that is set."""
    columns = path.with_suffix(".parquet")
    remove(columns)
    if settings.objects == "parquet":
        with replacing(columns) as partial:
            table.to_parquet(partial, engine="pyarrow", index=False)
    write_text(path, str(table.to_csv(sep="\t", index=False, float_format="%.6g")))
