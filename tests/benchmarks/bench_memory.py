"""Memory of predicting a volume and one of 64 times its voxels: it must not grow with them."""

from __future__ import annotations

import os
import tempfile
import time
from itertools import product
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import torch
from harness import in_fresh_process, process_peak_mib, write

from unetflow.inference import Model, build
from unetflow.models.unet.settings import UNetSettings
from unetflow.settings.prediction import PredictSettings
from unetflow.store import create_image, open_image

PREDICT = "unetflow.prediction:predict_image"
"""What is measured: takes a model, an image, the path to write to, a tile and settings."""

TIMES = 64
CASES = {
    UNetSettings(dimensions=2, width=4, depth=2): ((192, 256, 512), 556),
    UNetSettings(dimensions=3, width=4, depth=1): ((2048, 64, 64), 124),
}
"""Networks, small since memory is then that of the data; the smaller volume, and the tile. It has
some shards more than are in flight at once, of the extents that the larger one's have."""


def network(settings: UNetSettings) -> Model:
    """A network of random weights, with the facts that prediction reads."""
    torch.manual_seed(0)
    facts = {
        "channels": 1,
        "class_names": ["background", "cells"],
        "intensity": {"source": "training", "offset": [128.0], "scale": [74.0]},
    }
    made = build(settings, 1, 2).eval()
    return Model(made, settings.geometry, torch.device("cpu"), "32", facts)


def write_volume(path: Path, shape: tuple[int, ...]) -> None:
    """Write a volume of noise whose shards are all one file on the disk."""
    array = create_image(path, "zyx", shape, np.uint8, {})
    assert array.shards is not None
    counts = [-(-extent // step) for extent, step in zip(shape, array.shards, strict=True)]
    noise = np.random.default_rng(0).integers(0, 256, array.shards, np.uint8)
    array[tuple(slice(0, step) for step in array.shards)] = noise[tuple(map(slice, shape))]
    first = path / "0" / "c" / "0" / "0" / "0"
    for index in product(*map(range, counts)):
        place = (path / "0" / "c").joinpath(*map(str, index))
        if place != first:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(first, place)


def predict(
    settings: UNetSettings, volume: Path, output: Path, function: str
) -> tuple[float, float, float]:
    """Seconds of a prediction, its share of waiting for data, and peak of this process in MiB."""
    made, image, tile = network(settings), open_image(volume), CASES[settings][1]
    how = PredictSettings(threads=os.cpu_count() or 1, device="cpu", dtype="uint8")
    start = time.perf_counter()
    waited = resolve_name(function)(made, image, output, (tile,) * settings.dimensions, how)
    return time.perf_counter() - start, waited, process_peak_mib()


def main() -> None:
    """Predict both volumes with both networks, each in a process of its own."""
    rows: list[dict[str, object]] = []
    for settings, times in product(CASES, (1, TIMES)):
        (planes, *plane), _ = CASES[settings]
        shape = (planes * times, *plane)
        with tempfile.TemporaryDirectory() as folder:
            volume = Path(folder) / "volume"
            write_volume(volume, shape)
            seconds, waited, peak_mib = in_fresh_process(
                predict, settings, volume, Path(folder) / "prediction", PREDICT
            )
        note = f"{np.prod(shape) / seconds / 1e6:.3g} Mvoxel/s, idle {waited:.1%} of the time"
        if times > 1:
            growth = peak_mib / float(str(rows[-1]["peak_mib"]))
            note = f"{times} times the voxels, {growth:.2f} times the memory; {note}"
        case = f"{'×'.join(map(str, shape))}, {settings.dimensions}D network"
        rows.append(
            {
                "case": case,
                "method": "unetflow",
                "median_seconds": seconds,
                "ratio": 1.0,
                "peak_mib": peak_mib,
                "note": note,
            }
        )
        print(rows[-1], flush=True)
    write("memory", rows, rounds=1)


if __name__ == "__main__":
    main()
