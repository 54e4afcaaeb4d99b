"""What the results folder holds now; what is missing or half-written is None, never an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unetflow.predicted import probabilities
from unetflow.progress import RECORD, log
from unetflow.store import TARGET, Image, open_image, read_json
from unetflow.volumes import open_volume

Value = TypeVar("Value")

# Pictures show the middle of larger planes, so that a volume of terabytes costs a page no minutes.
WINDOW = 2048


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
    """Return a JSON object, empty where the file is missing, broken or holds something else."""
    found = attempt(read_json, path)
    return found if isinstance(found, dict) else {}


def existing(path: Path) -> Path | None:
    """Return a path where there is anything, else None."""
    return path if path.exists() else None


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


def values_plane(image: Image) -> NDArray[np.float32]:
    """Window of the middle plane of all channels of an image, (channels, rows, columns)."""
    shape = image.spatial_shape
    return image.region((*middle(shape), *window(shape))).astype(np.float32)


def has_truth(path: Path) -> bool:
    """Whether a dataset's image is annotated: it has classes, or true values."""
    return (path / "labels/classes").exists() or (path / TARGET).exists()


def parameter_count(weights: Path) -> int | None:
    """Count the values in a safetensors file, from its header alone."""

    def read(path: Path) -> int:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        return sum(int(np.prod(tensor["shape"])) for tensor in header.values())

    return attempt(read, weights)


def of_stages(folder: Path, suffix: str) -> Iterator[tuple[tuple[str, str], Path]]:
    """Files of a folder STAGE/NAME.tsv or STAGE/NAME/.../*.tsv, each with its stage and name."""
    for path in sorted(folder.rglob(f"*{suffix}")):
        stage, *rest = path.relative_to(folder).parts
        if rest:
            yield (stage, rest[0].removesuffix(suffix)), path


def last_record(log: Path) -> dict[str, Any]:
    """What the last run of a job has told of itself, see `provenance.Run`; empty if nothing."""
    text = log.read_text(encoding="utf-8", errors="replace")
    line = text[text.rfind("\n", 0, -1) + 1 :].partition(" ")[2]
    return json.loads(line.removeprefix(RECORD)) if line.startswith(RECORD) else {}
