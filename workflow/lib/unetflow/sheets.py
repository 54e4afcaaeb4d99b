"""Sheets of archives: which volumes there are, and where they lie."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pandas as pd

from unetflow.formats.ome_zarr import images_in
from unetflow.patterns import of_pattern
from unetflow.reading import read_text
from unetflow.settings.experiment import ExperimentSettings
from unetflow.volumes import CHOICES, file_of, may_be_zarr

REQUIRED = ("volume", "path", "experiment")
OPTIONAL = ("truth", *CHOICES, "region", "mask", "model")

# Metadata of so many plates are fetched at once.
REQUESTS = 16


def read_sheet(path: Path) -> list[dict[str, str]]:
    """Rows of an archive's sheet, a TSV with the columns REQUIRED and maybe some of OPTIONAL.

    Empty cells are left out: a column that is added changes only the rows that fill it. A row whose
    path is a pattern is a row for each file or folder that it names, and one whose path is a plate
    or a well is a row for each of its images. Where a row names a model, it needs no experiment,
    which then is "".

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
    if "model" in table and "experiment" not in table:
        table["experiment"] = ""
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
    either = ["experiment", "model"] if "model" in table else ["experiment"]
    for what, columns in (("path", ["path"]), ("experiment or model", either)):
        empty = table["volume"][(table[columns] == "").all(axis=1)]
        if len(empty):
            raise ValueError(
                f"{path}: a volume must have its {what}: got none for {empty.iloc[0]!r}; add it"
            )
    if not rows:
        raise ValueError(
            f"{path}: must have a row for each volume: got none; add them below the head"
        )
    found = [
        {str(key): str(value) for key, value in row.items() if value or key == "experiment"}
        for row in table.to_dict("records")
    ]
    return expanded(found, path)


def expanded(rows: Sequence[dict[str, str]], sheet: Path) -> list[dict[str, str]]:
    """Rows in which a pattern is a row for each path that it names, and a plate for each image.

    The file data/a.tif is the volume `cells-a` of a row `cells` whose path is `data/*.tif`. The
    image A/1/0 of the plate `screen` is the volume `screen-A1-0`, the image 0 of the well `one` is
    `one-0`; a truth is a plate or well of the same images. Only small metadata files are read, each
    time that a sheet is.

    Raises
    ------
    ValueError
        If two would have the same name, or the truth or mask of a pattern is none.
    """
    rows = [row for one in rows for row in of_pattern(one, sheet)]
    places = [row["path"] if may_be_zarr(row["path"]) else "" for row in rows]
    with ThreadPoolExecutor(REQUESTS) as pool:
        found = list(pool.map(lambda place: images_in(place) if place else [], places))
    every = [
        row if not image else of_image(row, image)
        for row, images in zip(rows, found, strict=True)
        for image in images or [""]
    ]
    names = Counter(row["volume"] for row in every)
    name, count = names.most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"{sheet}: volumes must have different names, those of a pattern's files and of a "
            f"plate's images too: got {name!r} twice; rename it"
        )
    return every


def of_image(row: Mapping[str, str], image: str) -> dict[str, str]:
    """Row of one image of a plate or well."""
    *well, last = image.split("/")
    name = re.sub("[^A-Za-z0-9_]", "", "".join(well)), re.sub("[^A-Za-z0-9_-]", "-", last)
    below = {
        key: f"{row[key].rstrip('/')}/{image}" for key in ("path", "truth", "mask") if row.get(key)
    }
    return {**row, **below, "volume": "-".join(filter(None, (row["volume"], *name)))}


def read_sheets(
    folder: Path, names: Sequence[str], experiments: Mapping[str, ExperimentSettings]
) -> dict[str, list[dict[str, str]]]:
    """Sheets of the named archives, without those that need an experiment which is not run.

    Leaving one out is told in a line on the terminal: its networks will not be trained. A row that
    names a model needs none: an experiment beside it gives settings alone.

    Raises
    ------
    ValueError
        See `read_sheet`.
    """
    sheets = {}
    for name in names:
        rows = read_sheet(folder / f"{name}.tsv")
        absent = sorted(trained(rows) - set(experiments))
        if absent:
            print(
                f"archive {name} is left out: it needs the experiment {', '.join(absent)}, which "
                "is not among those to run",
                file=sys.stderr,
            )
        else:
            sheets[name] = rows
    return sheets


def trained(rows: Sequence[Mapping[str, str]]) -> set[str]:
    """Experiments whose networks the rows of a sheet need."""
    return {row["experiment"] for row in rows if "model" not in row}


def beside_models(rows: Sequence[Mapping[str, str]]) -> set[str]:
    """Experiments that the rows of a sheet take settings alone from."""
    return {row["experiment"] for row in rows if "model" in row} - {""}


def model_name(place: str) -> str:
    """Name of a model in the results folder: that of its file or folder, and digits of its path."""
    path = Path(place)
    stem = path.parent.name if path.name == "model.json" else path.stem
    digits = hashlib.sha256(place.encode()).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9_-]', '-', stem)}-{digits}"


def model_files(place: str) -> list[str]:
    """Files of a model, as far as they are there."""
    path = Path(place)
    folder = path.parent if path.name == "model.json" else path
    both = (folder / "model.json", folder / "model.safetensors")
    return [str(file) for file in dict.fromkeys((*both, path)) if os.path.isfile(file)]


def read_present(folder: Path, results: Path) -> dict[str, list[dict[str, str]]]:
    """Sheets of the archives in a results folder, as far as `folder` still has them."""
    present = {}
    for name in sorted(path.name for path in (results / "archives").glob("*")):
        with suppress(ValueError):
            present[name] = read_sheet(folder / f"{name}.tsv")
    return present


def datasets_in(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of the datasets that the rows of a sheet take volumes from."""
    places = [
        row[column] for row in rows for column in ("path", "truth", "mask") if row.get(column)
    ]
    return sorted({place[8:].split("/")[0] for place in places if place.startswith("dataset:")})


def located(place: str, results: Path) -> str:
    """Path of a volume: that of an image for `dataset:NAME/IMAGE`, else the place itself."""
    if not place.startswith("dataset:"):
        return place
    dataset, _, image = place[8:].partition("/")
    return str(results / "datasets" / dataset / "images.ome.zarr" / image)


def left_over(folder: Path, volumes: Collection[str]) -> list[str]:
    """Names of what an archive's results folder holds of volumes that its sheet no longer names."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(it.name for it in entries if it.name not in volumes and it.is_dir())


def files_of(place: str) -> list[str]:
    """File or folder here that a place names; none where it is missing, or is a URL."""
    path = file_of(place) if place else None
    # Not path.exists, which raises where a folder cannot be read or a name is too long.
    return [str(path)] if path is not None and os.path.exists(path) else []
