"""The plan of an archive: its volumes, their blocks, and what each block needs."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unetflow.reading import read_text
from unetflow.settings import ExperimentSettings
from unetflow.store import Image, open_volume, read_json, write_json

REQUIRED = ("volume", "path", "experiment")
OPTIONAL = ("truth",)

# Measured once a process has imported torch, zarr and dask.
BASE_BYTES = 900 * 2**20


def read_sheet(path: Path) -> list[dict[str, str]]:
    """Rows of an archive's sheet, a TSV with the columns volume, path, experiment and maybe truth.

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
        "job": {"tile": list(tile), "settings": experiment.predict.model_dump(mode="json")},
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
