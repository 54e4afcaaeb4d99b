"""The plan of an archive: its volumes, their blocks, and what each block needs."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unetflow import axes as axis_rules
from unetflow.geometry import reach
from unetflow.orientations import Region, bounds
from unetflow.packages import suited
from unetflow.predicted import stored_dtype
from unetflow.settings.experiment import ExperimentSettings
from unetflow.sharing import minutes_to_predict, packs, remove_receipts
from unetflow.states import data_of, known_by
from unetflow.store import Image, full_shards, read_json, write_json
from unetflow.tile_plan import TilePlan, choose_tile, plan_of, trace
from unetflow.volumes import choice_of, open_volume, parse_region
from unetflow.voxels import Resampled, resampled

# Settings of prediction that say how an archive is dealt with, not what of it is predicted.
FOR_THE_PLAN = ("tile", "memory_gb", "block_minutes", "input_checksum", "keep", "rotations")

# Measured once a process has imported torch, zarr and dask.
BASE_BYTES = 900 * 2**20
GPU_RATE = 20e12
"""Operations a second that a GPU is taken to do: half of what a small one does in bf16."""
CLASSES = 2
"""For the plan of a tile: how many there are hardly matters, and no network may be trained yet."""
HOURS_LEFT = 4
"""Times as long as estimated that a job may take before a cluster ends it."""


def plan_archive(
    volumes: Mapping[str, Mapping[str, str]],
    experiments: Mapping[str, ExperimentSettings],
    output: Path,
    key: str,
    models: Mapping[str, Path] = {},
) -> None:
    """Write an archive's `plan.json`.

    Parameters
    ----------
    volumes : mapping of volume to its row, whose `path` is a file, folder or URL
    experiments : mapping of the experiments that the rows name, "" where they name a model alone
    key : str
        Says what the plan was made from.
    models : mapping of the models that the rows name to their `model.json`, see `packages.adopt`
    """
    planned = {}
    for volume, row in volumes.items():
        experiment = experiments[row["experiment"]]
        try:
            if "model" in row:
                experiment = suited(experiment, read_json(models[row["model"]]))
            image = open_volume(row["path"], **choice_of(row))
            image = resampled(image, experiment.predict.voxel_size_um)
            planned[volume] = plan_volume(image, row, experiment)
        except (OSError, RuntimeError, ValueError) as error:  # also what codecs raise
            # A bad volume is a result: the others go on, and the summary says why this one cannot.
            planned[volume] = {
                **row,
                "state": "failed",
                "reason": " ".join(str(error).split()),
                "regression": experiment.task == "regression",
                "blocks": {},
            }
    made = output.with_name("packs.json")  # outlives the plan
    before = read_json(made) if made.is_file() else {}
    together = packs(planned, experiments, before)
    minutes: defaultdict[str, float] = defaultdict(float)
    for volume, first in together.items():
        planned[volume]["pack"] = first
        minutes[first] += minutes_to_predict(planned[volume])
    for first, work in minutes.items():
        threads = experiments[planned[first]["experiment"]].predict.threads
        planned[first]["pack_runtime"] = wall_minutes(work / threads)
    for volume in [name for name in planned if (name in before) != (name in together)]:
        remove_receipts(output.parent / volume)
    write_json(made, together)
    write_json(output, {"key": key, "volumes": planned})


def described(plan: Path) -> str:
    """Return a table for people of what the volumes of an archive need, and those that fail."""
    rows: list[dict[str, Any]] = []
    for volume, of in read_json(plan)["volumes"].items():
        if of["state"] == "failed":
            rows.append({"volume": volume, "shape": "failed", "tile": of["reason"]})
            continue
        blocks = of["blocks"].values()
        rows.append(
            {
                "volume": volume,
                "shape": " x ".join(map(str, of["shape"])),
                "tile": " x ".join(map(str, of["tile"])),
                "waste": of["waste"],
                "blocks": len(blocks),
                "files": of["files"],
                "disk, GB": of["disk_bytes"] / 1e9,
                "memory, GB": max((block["mem_mb"] for block in blocks), default=0) / 1e3,
                "hours": of["minutes"] / 60,
            }
        )
    table = pd.DataFrame(rows)
    sums = table.reindex(columns=["blocks", "files", "disk, GB", "hours"]).sum()
    table = pd.concat([table, pd.DataFrame([{"volume": "in all", **sums}])])
    return str(table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:,.4g}"))


def plan_volume(
    image: Image, row: Mapping[str, str], experiment: ExperimentSettings
) -> dict[str, Any]:
    """Return the plan of one volume: its shape and its blocks, with what each needs.

    Raises
    ------
    ValueError
        If the network cannot be used on the volume, or a tile does not fit the memory.
    """
    dimensions = experiment.model.dimensions
    axis_rules.check_dimensions(image.axes, dimensions, str(image.path))
    within, mask = parse_region(row.get("region", ""), image), row.get("mask", "")
    if isinstance(image.array, Resampled) and (mask or within):
        raise ValueError(
            f"{image.path}: a region or mask must be of a volume that is not resampled: got "
            "predict.voxel_size_um; leave one of them out"
        )
    wanted = {
        "choice": choice_of(row),
        "within": bounds(within or ()),
        "mask": mask,
        "mask_known_by": known_by(open_volume(mask)) if mask else [],
    }
    tile = tile_of(image, experiment)
    rate = voxels_a_minute(tile, image, experiment)
    blocks = {
        "_".join(str(number) for number in index): plan_block(
            image, region, wanted, tile, rate, experiment
        )
        for index, region in block_grid(image, experiment, rate).items()
        if within is None or meet(region, within)
    }
    # Each may take as long as the largest, so that all ask for the same and can be a job array.
    longest = max((block["runtime"] for block in blocks.values()), default=0)
    for block in blocks.values():
        block["runtime"] = longest
    shards = sum(math.prod(block["shards"]) for block in blocks.values())
    voxels = sum(block["voxels"] for block in blocks.values())
    return {
        **row,
        "state": "planned",
        "reason": "",
        "axes": image.axes,
        "shape": list(image.array.shape),
        "voxels": math.prod(image.spatial_shape),
        "network": experiment.model.network,
        "regression": experiment.task == "regression",
        "own_intensity": experiment.intensity.source == "image",
        "tile": list(tile.tile),
        "waste": round(tile.waste, 3),
        "files": shards * channels_of(image, experiment),
        "disk_bytes": voxels * channels_of(image, experiment) * bytes_of(experiment),
        "minutes": round(voxels / rate, 2),
        "blocks": blocks,
    }


def shard_extents(image: Image, dimensions: int) -> tuple[int, ...]:
    """Extents of a region that is predicted at once: a shard, as far as the volume goes."""
    _, shards = full_shards("c" + axis_rules.spatial(image.axes), dimensions == 3)
    return tuple(map(min, shards[1:], image.spatial_shape))


def tile_of(image: Image, experiment: ExperimentSettings) -> TilePlan:
    """Tile of a volume: the one that is set, or the fastest for a shard within the memory.

    It depends on the extents of a volume as far as they are below those of a shard, so that a
    volume that grows keeps it. Neither GPU nor precision are asked of the machine that plans.

    Raises
    ------
    ValueError
        If no tile fits the memory.
    """
    settings, dimensions = experiment.predict, experiment.model.dimensions
    precision = "32" if settings.precision == "auto" else settings.precision
    device = "gpu" if settings.device == "gpu" else "cpu"
    extents = shard_extents(image, dimensions)[-dimensions:]
    channels = image.array.shape[image.axes.index("c")] if "c" in image.axes else 1
    network = (experiment.model, channels, CLASSES)
    if settings.tile == "auto":
        return choose_tile(*network, extents, settings.memory_gb * 1e9, precision, device)
    traced = trace(*network, precision, device)
    return plan_of(traced, extents, experiment.per_axis(settings.tile))[1]


def voxels_a_minute(tile: TilePlan, image: Image, experiment: ExperimentSettings) -> float:
    """Voxels that a core, or a GPU, is taken to predict in a minute."""
    settings, dimensions = experiment.predict, experiment.model.dimensions
    seconds = tile.operations / GPU_RATE if tile.seconds is None else tile.seconds
    voxels = math.prod(shard_extents(image, dimensions)[-dimensions:])
    return 60 * voxels / seconds / settings.orientations


def block_grid(
    image: Image, experiment: ExperimentSettings, rate: float
) -> dict[tuple[int, ...], Region]:
    """Regions of a volume's blocks by their place in the grid, each of whole shards.

    A block doubles along each axis in turn, x first, while it takes no longer than the setting
    allows. It does so along axes of more than a shard alone, and their extents do not matter, so
    that blocks stay where they are when a volume grows.

    Parameters
    ----------
    rate : float
        Voxels a minute.
    """
    shape = image.spatial_shape
    _, shards = full_shards("c" + axis_rules.spatial(image.axes), experiment.model.dimensions == 3)
    block = list(shards[1:])
    # A stack is taken to grow: its planes count as a shard of them, however many there are.
    planes = [extent > 1 for extent in shape[:-2]]
    long = [axis for axis, grows in enumerate(planes) if grows]
    long += [axis for axis in range(len(planes), len(shape)) if shape[axis] > block[axis]]
    voxels = math.prod(map(min, block[-2:], shape[-2:]))
    voxels *= math.prod(step for step, grows in zip(block, planes, strict=False) if grows)
    most = experiment.predict.block_minutes * rate
    doubled = 0
    while long and voxels * 2 ** (doubled + 1) <= most:
        block[long[-1 - doubled % len(long)]] *= 2
        doubled += 1
    counts = [range(-(-extent // step)) for extent, step in zip(shape, block, strict=True)]
    return {
        index: tuple(
            slice(i * step, min((i + 1) * step, extent))
            for i, step, extent in zip(index, block, shape, strict=True)
        )
        for index in itertools.product(*counts)
    }


def meet(one: Region, other: Region) -> bool:
    """Whether two regions have voxels in common."""
    return all(max(a.start, b.start) < min(a.stop, b.stop) for a, b in zip(one, other, strict=True))


def plan_block(
    image: Image,
    region: Region,
    wanted: Mapping[str, Any],
    tile: TilePlan,
    rate: float,
    experiment: ExperimentSettings,
) -> dict[str, Any]:
    """Return a block's values, all that its result depends on, and what it needs.

    The extents of the volume count as far as the block reads: one that grows changes its last
    blocks alone.

    Returns
    -------
    dict
        `job` with `tile`, `settings`, `region` and `reads` (start and stop along each spatial
        axis), `choice` (scene, time, channel and level), `within` and `mask` (what of the volume
        is wanted, or nothing), `volume` and `mask_known_by` (what tells their data from other
        data), `phase`; and beside it `voxels`, `shards` along each axis, `mem_mb`, `disk_mb` and
        `runtime` in minutes.
    """
    settings, dimensions = experiment.predict, experiment.model.dimensions
    reads = reach(
        experiment.model.geometry,
        image.spatial_shape[-dimensions:],
        region[-dimensions:],
        tile.tile,
        settings.orientations,
    )
    reads = (*region[:-dimensions], *reads)
    job = {
        "tile": list(tile.tile),
        "settings": settings.model_dump(mode="json", exclude=set(FOR_THE_PLAN)),
        "region": bounds(region),
        "reads": bounds(reads),
        **wanted,
        "phase": phase(image, experiment),
        "volume": data_of(image, reads) if settings.input_checksum == "data" else known_by(image),
    }
    extents = [part.stop - part.start for part in region]
    voxels = math.prod(extents)
    _, shards = full_shards("c" + axis_rules.spatial(image.axes), dimensions == 3)
    disk = voxels * channels_of(image, experiment) * bytes_of(experiment)
    return {
        "job": job,
        "voxels": voxels,
        "shards": [-(-extent // shard) for extent, shard in zip(extents, shards[1:], strict=True)],
        "mem_mb": math.ceil((BASE_BYTES + job_bytes(image, tile, experiment)) / 1e6),
        "disk_mb": math.ceil(disk / 1e6),
        "runtime": wall_minutes(voxels / rate / settings.threads),
    }


def wall_minutes(estimated: float) -> int:
    """Minutes after which a cluster ends a job, with ten to start and to load libraries."""
    return math.ceil(10 + HOURS_LEFT * estimated)


def phase(image: Image, experiment: ExperimentSettings) -> list[int]:
    """Where the tiles of reversed orientations begin, which count from a volume's end."""
    if experiment.predict.orientations == 1:
        return []
    geometry = experiment.model.geometry
    shape = image.spatial_shape[-len(geometry) :]
    return [extent % axis.divisor for extent, axis in zip(shape, geometry, strict=True)]


def channels_of(image: Image, experiment: ExperimentSettings) -> int:
    """Channels that are stored, as far as they are known before a network is trained.

    Of values as many as the volume has: a restored picture has those of the picture.
    """
    if experiment.task == "regression":
        return image.array.shape[image.axes.index("c")] if "c" in image.axes else 1
    chosen = experiment.predict.channels
    return len(chosen) if chosen else CLASSES - (experiment.predict.output != "logits")


def bytes_of(experiment: ExperimentSettings) -> int:
    """Bytes of a stored value, before compression."""
    return int(np.dtype(stored_dtype(experiment.predict)).itemsize)


def job_bytes(image: Image, tile: TilePlan, experiment: ExperimentSettings) -> int:
    """Memory of a job beside its libraries: a tile's features, and two regions of a shard each."""
    dimensions = experiment.model.dimensions
    extents = shard_extents(image, dimensions)
    halos = [axis.reach + axis.divisor for axis in experiment.model.geometry]
    halos = [0] * (len(extents) - dimensions) + halos
    read = math.prod(extent + 2 * halo for extent, halo in zip(extents, halos, strict=True))
    channels = image.array.shape[image.axes.index("c")] if "c" in image.axes else 1
    # What is read, as stored and in float32, of the region in work and of the next one.
    pixels = 2 * read * channels * (4 + image.array.dtype.itemsize)
    if isinstance(image.array, Resampled):  # the voxels below, and two that each is between
        source = read * math.prod(max(step, 1.0) for step in image.array.steps)
        pixels += round(source * channels * 4 * 4)
    # Of each class what is predicted of a plane or a volume, while its mean is taken; and what is
    # stored, twice.
    plane = math.prod(extents[-dimensions:]) * CLASSES * 4
    kept = 2 * math.prod(extents) * channels_of(image, experiment) * bytes_of(experiment)
    return int(tile.peak_bytes + pixels + 4 * plane + kept)
