"""The shards of a block as tasks of a Dask cluster that is already running."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import zarr

from unetflow.inference import load
from unetflow.orientations import Region, bounds
from unetflow.progress import Bar
from unetflow.regions import Job, open_job
from unetflow.settings import PredictSettings
from unetflow.states import digest
from unetflow.store import read_json

Opened = tuple[Path, str, PredictSettings, Mapping[str, Any], Path | None]
"""Model, volume, settings, block and histograms, in paths that the workers see too."""


def predict_on_cluster(
    address: str,
    opened: Opened,
    array: zarr.Array[Any],
    regions: Sequence[Region],
    written: Callable[[Region], None],
) -> None:
    """Write predicted regions, whole shards, into an array that all workers see.

    Parameters
    ----------
    address : str
        Of the scheduler.
    written : callable
        Told each region once it is in the array, here and not on a worker.

    Raises
    ------
    ImportError
        If `distributed` is not installed.
    OSError
        If nothing answers at the address.
    ValueError
        If a region's data cannot be read.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise ImportError(
            "predict.scheduler: distributed must be installed: found none; "
            "pip install 'unetflow[cluster]'"
        ) from error
    model, volume, settings, block, histograms = opened
    # Plain values, by which a worker knows what it has opened before.
    weights = read_json(model / "model.json")["weights_sha256"]
    facts = (settings.model_dump_json(), json.dumps(block), str(histograms or ""))
    counted = digest(read_json(histograms)) if histograms else ""
    plain = (str(model), volume, *facts, weights, counted)
    folder = str(Path(array.store.root).resolve())  # type: ignore[attr-defined]
    try:
        client = Client(address)
    except OSError as error:
        raise OSError(
            f"predict.scheduler must answer: {' '.join(str(error).split())}; start it, or correct "
            f"the address {address}"
        ) from error
    bar = Bar(f"predicting {volume}", len(regions))
    try:
        tasks = {
            client.submit(predict_region, plain, folder, bounds(region), pure=False): region
            for region in regions
        }
        for task in as_completed(tasks):
            task.result()
            written(tasks[task])
            bar.step()
    finally:
        bar.close()
        client.close()


def predict_region(plain: tuple[Any, ...], folder: str, parts: list[list[int]]) -> None:
    """Write one region, on a worker."""
    job = opened_once(*plain)
    region = tuple(slice(*part) for part in parts)
    array = zarr.open_array(folder, mode="r+")
    array[:, *region] = job.predict(job.read(region), region)


@lru_cache(maxsize=1)
def opened_once(
    model: str, volume: str, settings: str, block: str, histograms: str, *_state: str
) -> Job:
    """Network and volume, opened for the first region that a worker predicts of them."""
    chosen = PredictSettings.model_validate_json(settings)
    place = (chosen.device, chosen.precision, chosen.backend, chosen.threads)
    loaded = load(Path(model), *place)
    return open_job(
        loaded, volume, chosen, json.loads(block), Path(histograms) if histograms else None
    )
