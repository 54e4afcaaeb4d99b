"""What the results folder holds now; what is missing or half-written is None, never an error."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unetflow.predicted import probabilities
from unetflow.progress import log
from unetflow.store import open_image, read_json
from unetflow.volumes import open_volume

Value = TypeVar("Value")

# Pictures show the middle of larger planes, so that a volume of terabytes costs a page no minutes.
WINDOW = 2048

STAGES = (
    *("fetch", "prepare", "split", "intensity", "weights", "patches"),
    *("train", "plan", "predict", "segment", "evaluate", "report"),
)


def attempt(read: Callable[[Path], Value], path: Path) -> Value | None:
    """Return what `read` finds at a path, or None where it is missing or cannot be read.

    The page is built beside a running workflow: a file may vanish or be half-written at any time,
    and decoders raise whatever they like for one that is broken. The log says what was left out.
    """
    if not path.exists():
        return None
    try:
        return read(path)
    except Exception as error:
        log(f"left out {path}: {type(error).__name__}: {error}")
        return None


def facts(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where the file is missing or broken."""
    return attempt(read_json, path) or {}


def table(path: Path, columns: Sequence[str]) -> pd.DataFrame | None:
    """Return a TSV, or None where it is missing, broken or lacks one of the columns."""

    def read(path: Path) -> pd.DataFrame:
        names = {"image": str, "volume": str, "reason": str, "state": str, "shape": str}
        # Images may be called NA or null, which pandas would take for missing.
        found = pd.read_csv(path, sep="\t", dtype=names, keep_default_na=False, na_values=[""])
        missing = set(columns) - set(found)
        if missing:
            raise ValueError(f"columns {sorted(missing)} are missing")
        return found

    return attempt(read, path)


@dataclass(frozen=True)
class Run:
    """One training of an experiment: a split and a seed, and what exists of it.

    Attributes
    ----------
    log : Path
        Where its training writes its progress.
    """

    split: str
    seed: int
    folder: Path
    log: Path

    @property
    def name(self) -> str:
        """What to call it."""
        return f"{self.split} seed {self.seed}"

    @property
    def trained(self) -> bool:
        """Whether its network is complete; `model.json` is written last."""
        return (self.folder / "model.json").is_file()

    @property
    def predicted(self) -> bool:
        """Whether its test images are predicted; the folder is complete or absent."""
        return (self.folder / "prediction.ome.zarr").is_dir()

    @property
    def scored(self) -> bool:
        """Whether its test images are scored."""
        return (self.folder / "metrics.tsv").is_file()


def runs_of(results: Path, name: str, settings: Mapping[str, Any]) -> list[Run]:
    """Return the trainings that an experiment consists of, those of the final network last."""
    split = settings["split"]
    folds = split["run"] if split["run"] is not None else range(split["folds"])
    folder, logs = results / "experiments" / name, results / "logs" / "train" / name
    return [
        Run(part, seed, folder / part / f"seed{seed}", logs / part / f"seed{seed}.log")
        for part in [*(f"fold{fold}" for fold in folds), "final"]
        for seed in settings["train"]["seeds"]
    ]


@dataclass(frozen=True)
class Progress:
    """How far a training has come, by the last line of its log."""

    line: str
    step: int | None
    steps: int | None
    modified: float


def training_progress(run: Run) -> Progress | None:
    """Return how far a training has come, or None where it has not begun or is complete."""
    if run.trained:
        return None
    text = attempt(lambda path: path.read_text(encoding="utf-8", errors="replace"), run.log)
    if text is None:
        return None
    lines = text.strip().splitlines()
    line = re.sub(r"^\d\d:\d\d:\d\d ", "", lines[-1]) if lines else ""
    found = re.match(r"training: (\d+)/(\d+)", line)
    step, steps = (int(found[1]), int(found[2])) if found else (None, None)
    modified = attempt(lambda path: path.stat().st_mtime, run.log)
    return Progress(line, step, steps, modified or 0.0)


def middle(extents: Sequence[int]) -> tuple[int, ...]:
    """Index of the middle plane along the axes before the last two."""
    return tuple(extent // 2 for extent in extents[:-2])


def window(extents: Sequence[int]) -> tuple[slice, slice]:
    """Return the middle of a plane, all of it where it is no larger than the window."""
    starts = [max(0, (extent - WINDOW) // 2) for extent in extents[-2:]]
    rows, columns = (slice(start, start + WINDOW) for start in starts)
    return rows, columns


def plane_of(array: Any) -> NDArray[Any]:
    """Window of the middle plane (rows, columns) of an Zarr or NumPy array (..., rows, columns)."""
    return np.asarray(array[(*middle(array.shape), *window(array.shape))])


def volume_plane(place: Path | str, **choice: str) -> NDArray[Any]:
    """Window of the middle plane of the first channel of a volume, or of those chosen."""
    image = open_volume(place, **choice)
    shape = image.spatial_shape
    lead = (0,) * (len(image.axes) - len(shape))
    return np.asarray(image.array[(*lead, *middle(shape), *window(shape))])


def labels_plane(path: Path) -> NDArray[Any]:
    """Window of the middle plane of a segmentation."""
    return plane_of(open_image(path).array)


def probabilities_plane(path: Path) -> NDArray[np.float32]:
    """Probability of each class but background, (classes - 1, rows, columns), in the window."""
    image = open_image(path)
    return probabilities(image, (*middle(image.spatial_shape), *window(image.spatial_shape)))


def truth_planes(path: Path) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Return classes and instances in the window, each None where the image has none."""
    image = open_image(path)
    classes, instances = image.label("classes"), image.label("instances")
    return (
        None if classes is None else plane_of(classes),
        None if instances is None else plane_of(instances),
    )


def parameter_count(weights: Path) -> int | None:
    """Count the values in a safetensors file, from its header alone."""

    def read(path: Path) -> int:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        return sum(int(np.prod(tensor["shape"])) for tensor in header.values())

    return attempt(read, weights)


def costs(results: Path) -> list[dict[str, Any]]:
    """Jobs, wall seconds and memory of each stage of each experiment, archive and dataset.

    From Snakemake's benchmark files `costs/STAGE/NAME.tsv` and `costs/STAGE/NAME/*.tsv`.
    """
    folder = results / "costs"
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        stage, *rest = path.relative_to(folder).parts
        found = attempt(benchmark, path)
        if not found or not rest:
            continue
        key = (stage, rest[0].removesuffix(".tsv"))
        row = rows.setdefault(key, {"jobs": 0, "seconds": 0.0, "longest": 0.0, "mib": None})
        seconds, mib = found
        row["jobs"] += 1
        row["seconds"] += seconds
        row["longest"] = max(row["longest"], seconds)
        row["mib"] = mib if row["mib"] is None else max(row["mib"], mib or 0.0)
    order = {stage: position for position, stage in enumerate(STAGES)}
    known = sorted(rows, key=lambda key: (order.get(key[0], len(order)), key[1]))
    return [{"stage": stage, "name": name, **rows[stage, name]} for stage, name in known]


def benchmark(path: Path) -> tuple[float, float | None] | None:
    """Return the wall seconds and the peak memory in MiB of a job; short jobs have no memory."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    if not lines:
        return None
    try:
        mib = float(lines[-1]["max_rss"])
    except ValueError:  # "NA" or "-": the job ended before its first measurement
        mib = None
    return float(lines[-1]["s"]), mib
