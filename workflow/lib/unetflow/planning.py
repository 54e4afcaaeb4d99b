"""The plan of an archive: its volumes, their blocks, and what each block needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from unetflow.settings import ExperimentSettings
from unetflow.store import Image, read_json, write_json
from unetflow.volumes import choice_of, open_volume

# Measured once a process has imported torch, zarr and dask.
BASE_BYTES = 900 * 2**20


def state_of_file(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of change in ns of a volume; None where there is none.

    Of a Zarr folder those of its metadata: a folder's time says nothing of its files.
    """
    for place in (*(path / name for name in ("zarr.json", ".zattrs", ".zarray")), path):
        with suppress(OSError):
            status = place.stat()
            return status.st_size, status.st_mtime_ns
    return None


def plan_archive(
    volumes: Mapping[str, Mapping[str, str]],
    experiments: Mapping[str, ExperimentSettings],
    output: Path,
    key: str,
) -> None:
    """Write an archive's `plan.json`.

    Parameters
    ----------
    volumes : mapping of volume to its row, whose `path` is a file, folder or URL
    experiments : mapping of the experiments that the rows name
    key : str
        Says what the plan was made from.
    """
    planned = {}
    for volume, row in volumes.items():
        try:
            image = open_volume(row["path"], **choice_of(row))
            planned[volume] = plan_volume(image, row, experiments[row["experiment"]])
        except (OSError, ValueError) as error:
            # A bad volume is a result: the others go on, and the summary says why this one cannot.
            planned[volume] = {
                **row,
                "state": "failed",
                "reason": " ".join(str(error).split()),
                "blocks": {},
            }
    write_json(output, {"key": key, "volumes": planned})


def plan_volume(
    image: Image, row: Mapping[str, str], experiment: ExperimentSettings
) -> dict[str, Any]:
    """Return the plan of one volume: its shape and its only block, with what that needs.

    Raises
    ------
    ValueError
        If the network cannot be used on the volume.
    """
    dimensions = experiment.model.dimensions
    if len(image.spatial_shape) < dimensions:
        raise ValueError(
            f"{image.path}: a {dimensions}D network needs {dimensions} spatial axes: the volume "
            f"has {len(image.spatial_shape)}; use another experiment"
        )
    tile = experiment.per_axis(experiment.predict.tile)
    # All features of the first level at once, before and after the merge, in float32.
    activations = math.prod(tile) * experiment.model.width * 4 * 4
    # A region is a shard: its pixels, its probabilities, and their sum over orientations.
    region = math.prod(min(extent, 2048) for extent in image.spatial_shape[-dimensions:]) * 16 * 4
    memory_bytes = BASE_BYTES + activations + 4 * region
    block = {
        "job": {
            "tile": list(tile),
            "settings": experiment.predict.model_dump(mode="json"),
            "choice": choice_of(row),
        },
        "mem_mb": math.ceil(memory_bytes / 1e6),
    }
    return {
        **row,
        "state": "planned",
        "reason": "",
        "axes": image.axes,
        "shape": list(image.array.shape),
        "voxels": int(np.prod(image.spatial_shape)),
        "blocks": {"_".join("0" * len(image.spatial_shape)): block},
    }


def current_plan(path: Path, key: str) -> dict[str, Any] | None:
    """Return a plan, or None where there is none or it was made from something else."""
    if not path.is_file():
        return None
    plan: dict[str, Any] = read_json(path)
    return plan if plan.get("key") == key else None
