"""The plan of an archive: its volumes, their blocks, and what each block needs."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from unetflow import axes as axis_rules
from unetflow.geometry import reach
from unetflow.orientations import Region
from unetflow.reading import read_text
from unetflow.settings import ExperimentSettings
from unetflow.store import Image, full_shards, open_volume, read_json, write_json

REQUIRED = ("volume", "path", "experiment")
OPTIONAL = ("truth", "region", "mask")

# Settings of prediction that say how a volume is divided, not what is predicted.
FOR_THE_PLAN = ("tile", "block_megavoxels", "input_checksum")

# Measured once a process has imported torch, zarr and dask.
BASE_BYTES = 900 * 2**20


def read_sheet(path: Path) -> list[dict[str, str]]:
    """Rows of an archive's sheet, a TSV with a row for each volume.

    Its columns are volume, path and experiment, and maybe truth, region and mask.

    Raises
    ------
    ValueError
        One line, for a sheet that is missing, is no UTF-8, has no rows, lacks a column, has an
        unknown or a repeated one, or names a volume twice or with other characters than letters,
        digits, - and _.
    """
    if not path.is_file():
        known = sorted(sheet.stem for sheet in path.parent.glob("*.tsv"))
        close = difflib.get_close_matches(path.stem, known, n=1)
        hint = f"the nearest is {close[0]}" if close else f"known are {', '.join(known) or 'none'}"
        raise ValueError(f"archives: {path} must exist: found none; {hint}")
    # utf-8-sig: spreadsheets put a mark before the first column.
    lines = read_text(path, "utf-8-sig").splitlines()
    cells = [[cell.strip() for cell in line.split("\t")] for line in lines if line.strip("\t ")]
    head, *rows = [row for row in cells if not row[0].startswith("#")] or [[]]
    while head and not head[-1]:
        head.pop()
    repeated = sorted({column for column in head if head.count(column) > 1})
    if repeated:
        raise ValueError(f"{path}: columns must differ: got {repeated} more than once; remove one")
    longer = [row for row in rows if any(row[len(head) :])]
    if longer:
        raise ValueError(
            f"{path}: a row must have the cells of the head, {len(head)}: got {len(longer[0])} in "
            f"the row of {longer[0][0]!r}; remove the others"
        )
    full = [(row + [""] * len(head))[: len(head)] for row in rows]
    table = pd.DataFrame(full, columns=head, dtype=str)
    missing = [column for column in REQUIRED if column not in table]
    unknown = [column for column in table if column not in REQUIRED + OPTIONAL]
    if missing or unknown:
        raise ValueError(
            f"{path}: columns must be {', '.join(REQUIRED)} and maybe {', '.join(OPTIONAL)}, "
            f"separated by tabs: missing {missing}, unknown {unknown}"
        )
    bad = table["volume"][~table["volume"].str.fullmatch("[A-Za-z0-9_-]+")]
    twice = table["volume"][table["volume"].duplicated()]
    if len(bad) or len(twice):
        name = bad.iloc[0] if len(bad) else twice.iloc[0]
        raise ValueError(
            f"{path}: volumes must have different names of letters, digits, - and _: got {name!r}"
            f"{'' if len(bad) else ' twice'}; rename it"
        )
    for column in ("path", "experiment"):
        empty = table["volume"][table[column] == ""]
        if len(empty):
            raise ValueError(
                f"{path}: a volume must have its {column}: got none for {empty.iloc[0]!r}; add it"
            )
    if not rows:
        raise ValueError(
            f"{path}: must have a row for each volume: got none; add them below the head"
        )
    return [
        {str(key): str(value) for key, value in row.items()} for row in table.to_dict("records")
    ]


def read_sheets(
    folder: Path, names: Sequence[str], experiments: Mapping[str, ExperimentSettings]
) -> dict[str, list[dict[str, str]]]:
    """Sheets of the named archives, without those whose rows name an experiment that is not run.

    Leaving one out is told in a line on the terminal: its networks will not be trained.
    """
    sheets = {}
    for name in names:
        rows = read_sheet(folder / f"{name}.tsv")
        absent = sorted({row["experiment"] for row in rows} - set(experiments))
        if absent:
            print(
                f"archive {name} is left out: it needs the experiment {', '.join(absent)}, which "
                "is not among those to run",
                file=sys.stderr,
            )
        else:
            sheets[name] = rows
    return sheets


def read_present(folder: Path, results: Path) -> dict[str, list[dict[str, str]]]:
    """Sheets of the archives in a results folder, as far as `folder` still has them."""
    present = {}
    for name in sorted(path.name for path in (results / "archives").glob("*")):
        with suppress(ValueError):
            present[name] = read_sheet(folder / f"{name}.tsv")
    return present


def datasets_in(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of the datasets that the rows of a sheet take volumes from."""
    places = [row[column] for row in rows for column in ("path", "truth") if row.get(column)]
    return sorted({place[8:].split("/")[0] for place in places if place.startswith("dataset:")})


def located(place: str, results: Path) -> str:
    """Path of a volume: that of an image for `dataset:NAME/IMAGE`, else the place itself."""
    if not place.startswith("dataset:"):
        return place
    dataset, _, image = place[8:].partition("/")
    return str(results / "datasets" / dataset / "images.ome.zarr" / image)


def state_of_file(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of change in ns of a volume; None where there is none.

    Of an OME-Zarr image those of its metadata: a folder's time says nothing of its files.
    """
    for place in (path / "zarr.json", path):
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
    volumes : mapping of volume to its row, whose `path` is a file or folder here
    experiments : mapping of the experiments that the rows name
    key : str
        Says what the plan was made from.
    """
    planned = {}
    for volume, row in volumes.items():
        try:
            image = open_volume(Path(row["path"]))
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
    """Return the plan of one volume: its shape and its blocks, with what each needs.

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
    within, mask = parse_region(row.get("region", ""), image), row.get("mask", "")
    wanted = {
        "within": bounds(within or ()),
        "mask": mask,
        "mask_known_by": known_by(open_volume(Path(mask))) if mask else [],
    }
    blocks = {
        "_".join(str(number) for number in index): plan_block(image, region, wanted, experiment)
        for index, region in block_grid(image, experiment).items()
        if within is None or meet(region, within)
    }
    return {
        **row,
        "state": "planned",
        "reason": "",
        "axes": image.axes,
        "shape": list(image.array.shape),
        "voxels": math.prod(image.spatial_shape),
        "known_by": known_by(image),
        "blocks": blocks,
    }


def block_grid(image: Image, experiment: ExperimentSettings) -> dict[tuple[int, ...], Region]:
    """Regions of a volume's blocks by their place in the grid, each of whole shards.

    A block doubles along each axis in turn, x first, while it has no more voxels than the setting
    allows. It does so along axes of more than a shard alone, and their extents do not matter, so
    that blocks stay where they are when a volume grows.
    """
    shape = image.spatial_shape
    _, shards = full_shards("c" + axis_rules.spatial(image.axes), experiment.model.dimensions == 3)
    block = list(shards[1:])
    long = [axis for axis, extent in enumerate(shape) if extent > block[axis]]
    voxels = math.prod(map(min, block, shape))
    most = experiment.predict.block_megavoxels * 1e6
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


def parse_region(text: str, image: Image) -> Region | None:
    """Region of a volume that a sheet's cell names, such as `0:20, 100:900, :`; None for all.

    Raises
    ------
    ValueError
        If it is no such region, or not within the volume.
    """
    if not text:
        return None
    shape, region = image.spatial_shape, []
    parts = [part.strip() for part in text.split(",")]
    for part, extent in zip(parts, shape, strict=False):
        found = re.fullmatch(r"(\d*):(\d*)", part)
        start, stop = (int(found[1] or 0), int(found[2] or extent)) if found else (0, 0)
        region.append(slice(start, stop))
        if not 0 <= start < stop <= extent:
            parts = []
    if len(parts) != len(shape):
        raise ValueError(
            f"{image.path}: region must be start:stop along each of {', '.join(map(str, shape))} "
            f"voxels: got {text!r}; correct it in the sheet"
        )
    return tuple(region)


def bounds(region: Region) -> list[list[int]]:
    """Start and stop along each axis."""
    return [[part.start, part.stop] for part in region]


def meet(one: Region, other: Region) -> bool:
    """Whether two regions have voxels in common."""
    return all(max(a.start, b.start) < min(a.stop, b.stop) for a, b in zip(one, other, strict=True))


def plan_block(
    image: Image, region: Region, wanted: Mapping[str, Any], experiment: ExperimentSettings
) -> dict[str, Any]:
    """Return a block's values, all that its result depends on, and what it needs.

    The extents of the volume count as far as the block reads: one that grows changes its last
    blocks alone.

    Returns
    -------
    dict
        `job` with `tile`, `settings`, `region` and `reads` (start and stop along each spatial
        axis), `within` and `mask` (what of the volume is wanted, or nothing), `volume` and
        `mask_known_by` (what tells their data from other data); and `mem_mb`.
    """
    settings, dimensions = experiment.predict, experiment.model.dimensions
    tile = experiment.per_axis(settings.tile)
    reads = reach(
        experiment.model.geometry,
        image.spatial_shape[-dimensions:],
        region[-dimensions:],
        tile,
        settings.orientations,
    )
    reads = (*region[:-dimensions], *reads)
    job = {
        "tile": list(tile),
        "settings": settings.model_dump(mode="json", exclude=set(FOR_THE_PLAN)),
        "region": bounds(region),
        "reads": bounds(reads),
        **wanted,
        "volume": data_of(image, reads) if settings.input_checksum == "data" else known_by(image),
    }
    return {"job": job, "mem_mb": math.ceil(block_bytes(image, region, experiment) / 1e6)}


def known_by(image: Image) -> list[Any]:
    """What tells a volume's data from other data, which its predictions would not belong to.

    Of a file size and time of change, of an array of many files its data type and chunks.
    """
    if image.path.is_file():
        return list(state_of_file(image.path) or ())
    return [str(image.array.dtype), list(image.array.chunks)]


def data_of(image: Image, reads: Region) -> list[str]:
    """SHA-256 of the voxels of a region, in a list."""
    voxels = hashlib.sha256()
    for first in range(reads[0].start, reads[0].stop):
        voxels.update(image.region((slice(first, first + 1), *reads[1:])).tobytes())
    return [voxels.hexdigest()]


def block_bytes(image: Image, region: Region, experiment: ExperimentSettings) -> int:
    """Memory of a job: torch and its like, a tile's features, and two regions of a shard each."""
    settings, dimensions = experiment.predict, experiment.model.dimensions
    tile = experiment.per_axis(settings.tile)
    # All features of the first level at once, before and after the merge, in float32.
    activations = math.prod(tile) * experiment.model.width * 4 * 4
    _, shards = full_shards("c" + axis_rules.spatial(image.axes), dimensions == 3)
    halos = [axis.halo + axis.divisor for axis in experiment.model.geometry]
    halos = [0] * (len(region) - dimensions) + halos
    extents = [
        min(part.stop - part.start, shard) for part, shard in zip(region, shards[1:], strict=True)
    ]
    read = math.prod(extent + 2 * halo for extent, halo in zip(extents, halos, strict=True))
    channels = image.array.shape[image.axes.index("c")] if "c" in image.axes else 1
    # As stored, in float32, and the next ones; of each class what is predicted, twice while it is
    # averaged, and what is written.
    pixels = 2 * read * channels * (4 + image.array.dtype.itemsize)
    return int(BASE_BYTES + activations + pixels + math.prod(extents) * 4 * 4 * 2)


def current_plan(path: Path, key: str) -> dict[str, Any] | None:
    """Return a plan, or None where there is none or it was made from something else."""
    if not path.is_file():
        return None
    plan: dict[str, Any] = read_json(path)
    return plan if plan.get("key") == key else None


def digest(*facts: Any) -> str:
    """Sixteen digits of the SHA-256 of plain values."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def state_of_files(place: Path) -> str:
    """Digest of the names, sizes and times of a volume's files."""
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    states = [(str(file), file.stat()) for file in files if file.is_file()]
    return digest([(name, state.st_size, state.st_mtime_ns) for name, state in states])


def repaired(receipt: Path, volume: Path) -> str:
    """What tells a repaired volume from the one that a block has failed on; else what was told.

    Files of a volume that is read without fault are not looked at: there may be millions.
    """
    if not receipt.is_file():
        return ""
    facts = read_json(receipt)
    told: str = facts["made_from"]["repaired"]
    if facts["state"] == "done":
        return told
    found = state_of_files(volume)
    return told if found == facts["files"] else found
