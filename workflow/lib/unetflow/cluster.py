"""The shards of a block as tasks of a Dask cluster, running or made of a batch system's jobs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import zarr

from unetflow.inference import load
from unetflow.orientations import Region, bounds
from unetflow.progress import Bar
from unetflow.regions import Job, open_job, predict_in_memory
from unetflow.settings.prediction import PredictSettings
from unetflow.states import digest
from unetflow.store import read_json

if TYPE_CHECKING:
    from distributed import Client

BATCH_SYSTEMS = {
    "htcondor": "HTCondorCluster",
    "lsf": "LSFCluster",
    "moab": "MoabCluster",
    "oar": "OARCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "slurm": "SLURMCluster",
}
"""Classes of dask-jobqueue, by the name of their section in Dask's `jobqueue.yaml`."""

Opened = tuple[Path, str, PredictSettings, Mapping[str, Any], Path | None]
"""Model, volume, settings, block and histograms, in paths that the workers see too."""


def predict_on_cluster(
    opened: Opened,
    memory_mb: int,
    array: zarr.Array[Any],
    regions: Sequence[Region],
    written: Callable[[Region], None],
) -> None:
    """Write predicted regions, whole shards, into an array that all workers see.

    Parameters
    ----------
    memory_mb : int
        What a worker needs; asked of a batch system unless `jobqueue.yaml` says otherwise. 0: that.
    written : callable
        Told each region once it is in the array, here and not on a worker.

    Raises
    ------
    ImportError
        If `distributed` or dask-jobqueue is not installed.
    OSError
        If nothing answers at the address, or the batch system takes no job.
    ValueError
        If a region's data cannot be read.
    """
    model, volume, settings, block, histograms = opened
    # Plain values, by which a worker knows what it has opened before.
    weights = read_json(model / "model.json")["weights_sha256"]
    facts = (settings.model_dump_json(), json.dumps(block), str(histograms or ""))
    counted = digest(read_json(histograms)) if histograms else ""
    plain = (str(model), volume, *facts, weights, counted)
    folder = str(Path(array.store.root).resolve())  # type: ignore[attr-defined]
    with (
        connected(settings, memory_mb) as client,
        closing(Bar(f"predicting {volume}", len(regions))) as bar,
    ):
        from distributed import as_completed

        tasks = {
            client.submit(predict_region, plain, folder, bounds(region), pure=False): region
            for region in regions
        }
        for task in as_completed(tasks):
            task.result()
            written(tasks[task])
            bar.step()


@contextmanager
def connected(settings: PredictSettings, memory_mb: int) -> Iterator[Client]:
    """Client of `settings.scheduler`; what was started for it ends with it."""
    name = str(settings.scheduler)
    try:
        from distributed import Client

        if name in BATCH_SYSTEMS:
            import dask_jobqueue
    except ImportError as error:
        raise ImportError(
            f"predict.scheduler: {error.name} must be installed: found none; "
            "pip install 'unetflow[cluster]'"
        ) from error
    with ExitStack() as opened:
        place: Any = name
        try:
            if name in BATCH_SYSTEMS:
                kind = getattr(dask_jobqueue, BATCH_SYSTEMS[name])
                place = opened.enter_context(kind(**workers_of(settings, name, memory_mb)))
                submit(place, settings.workers)
            client = opened.enter_context(Client(place))
        except (OSError, RuntimeError, ValueError) as error:
            raise OSError(
                f"predict.scheduler must answer: {' '.join(str(error).split())}; start or correct "
                f"{name}, or Dask's jobqueue.yaml"
            ) from error
        yield client


def submit(cluster: Any, jobs: int) -> None:
    """Ask a batch system for workers, and anew for those whose time is over."""
    from distributed import Status

    cluster.scale(jobs=jobs)
    while not cluster.workers:  # until it has answered, which may be a refusal
        time.sleep(0.05)
    refused = [job for job in cluster.workers.values() if not job.job_id]
    for job in refused:
        job.status = Status.failed  # else the cluster does not close
    if refused:
        raise RuntimeError(f"{cluster.job_cls.submit_command} took no job, as the log says")
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)


def workers_of(settings: PredictSettings, name: str, memory_mb: int) -> dict[str, Any]:
    """A job with one worker, which predicts one region at a time; queue and account are Dask's."""
    chosen = dask.config.get(f"jobqueue.{name}", {})
    # The batch system limits the memory; Dask would pause a worker below that, for ever.
    limits = ["--nthreads", "1", "--memory-limit", "0"]
    return {
        "cores": chosen.get("cores") or settings.threads,
        "memory": chosen.get("memory") or f"{memory_mb} MB",
        "processes": 1,
        "worker_extra_args": [*(chosen.get("worker-extra-args") or ()), *limits],
        "scheduler_options": {"dashboard_address": ":0", **(chosen.get("scheduler-options") or {})},
    }


def predict_region(plain: tuple[Any, ...], folder: str, parts: list[list[int]]) -> None:
    """Write one region, on a worker."""
    job = opened_once(*plain)
    region = tuple(slice(*part) for part in parts)
    array = zarr.open_array(folder, mode="r+")
    array[:, *region] = predict_in_memory(job, job.read(region), region)[1]


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
