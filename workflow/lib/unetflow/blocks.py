"""Blocks of an archive's volume: jobs that write whole shards of one array, and can be killed."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import zarr

from unetflow import axes as axis_rules
from unetflow import predicted
from unetflow.cluster import predict_on_cluster
from unetflow.orientations import Region, bounds
from unetflow.packs import do_each
from unetflow.progress import log, one_line
from unetflow.regions import Job, load_for, open_job, predict_regions, with_smaller_tiles
from unetflow.settings.prediction import PredictSettings
from unetflow.states import digest, require_unchanged, state_of_files, write_receipt
from unetflow.store import (
    create_array,
    full_shards,
    read_json,
    remove,
    require_memory,
    require_space,
    shard_files,
    stored_bytes,
)

Needs = tuple[int, int]
"""MB of memory and of disk."""


def predict_block(
    model: Path,
    volume: str,
    prediction: Path,
    receipt: Path,
    block: Mapping[str, Any],
    code: str,
    repaired: str = "",
    histograms: Path | None = None,
    needs: Needs = (0, 0),
    attempt: int = 1,
) -> None:
    """Predict one block of an archive's volume and write its receipt last.

    Where a tile does not fit the memory, those after it are smaller. After each shard a line goes
    to a journal beside the receipt. A block that was killed and runs again leaves out what its
    journal names, unless model, settings, region, volume or code have changed. Two copies that run
    at once write the same bytes.

    Data that cannot be read, does not suit the model or has changed since it was planned is the
    block's result, state "failed" with the reason, so that other volumes go on; anything else, such
    as a full disk, is an error.

    Parameters
    ----------
    model : Path
        Folder of `model.json` and `model.safetensors`.
    prediction : Path
        Folder of the volume's prediction. Each block opens the array in it, or creates it.
    receipt : Path
        JSON: `state`, `reason`, `array` (its name in the folder), `seconds` (of all attempts),
        `waiting` (share of the time in which the device waited for data), and what it was made
        from.
    block : mapping
        The block's values in the plan, see `planning.plan_block`.
    code : str
        Digest of the code that predicts.
    repaired : str
        What `repaired` found before.
    histograms : Path, optional
        The volume's own, where the model normalises by them.
    needs : (int, int)
        MB of memory and of disk by the plan; a machine that has less is refused before it begins.
    attempt : int
        Of the same job, from 1. What ended the last one may have been the system, short of memory,
        so that each further one takes tiles of half the size.
    """
    prediction.mkdir(parents=True, exist_ok=True)
    require_memory(needs[0] * 10**6, "lower predict.memory_gb or predict.tile")
    require_space(prediction, needs[1] * 10**6, "set predict.dtype to uint8")
    settings = PredictSettings(**block["settings"])
    loaded = load_for(settings, model)
    started, earlier = time.monotonic(), 0.0
    facts: dict[str, Any] = {"state": "done", "reason": "", "array": "", "waiting": 0.0}
    try:
        job = open_job(loaded, volume, settings, block, histograms)
        job = with_smaller_tiles(job, attempt - 1)
        facts["array"] = array_name(job)
        array = open_or_create(prediction / facts["array"], job)
        journal = Journal(receipt, array, key_of(facts["array"], block, settings, code, repaired))
        earlier = journal.seconds
        shards = shards_of(array, block["region"])
        waiting = journal.missing(shards)
        about = f"tile {job.tile}, {len(waiting)} of {len(shards)} shards"
        log(f"device {loaded.device}, {loaded.backend}, {about}")
        if settings.scheduler is None:
            facts["waiting"] = round(predict_regions(job, array, waiting, journal.add), 4)
        else:
            opened = (model, volume, settings, {**block, "tile": list(job.tile)}, histograms)
            predict_on_cluster(opened, needs[0], array, waiting, journal.add)
        reads = tuple(slice(*part) for part in block["reads"])
        require_unchanged(job.image, reads, block["volume"])
        if job.mask is not None:
            require_unchanged(job.mask, reads, block["mask_known_by"])
        facts["shards"] = sorted(journal.line(shard) for shard in shards)
    except ValueError as error:
        facts |= {"state": "failed", "reason": one_line(error), "files": state_of_files(volume)}
        log(f"failed: {facts['reason']}")
    made_from = {
        "weights_sha256": loaded.facts["weights_sha256"],
        "block": block,
        "code": code,
        "repaired": repaired,
    }
    seconds = round(time.monotonic() - started + earlier, 2)
    write_receipt(receipt, facts | {"seconds": seconds, "made_from": made_from})


def key_of(
    array: str, block: Mapping[str, Any], settings: PredictSettings, code: str, repaired: str
) -> str:
    """Return what tells a block's shards from those that others of the same place would write."""
    work = {key: value for key, value in block.items() if key != "settings"}
    # Where it is computed, and with how many threads, makes no other result.
    elsewhere = {"device", "threads", "scheduler", "workers", "missing_chunks"}
    how = settings.model_dump(mode="json", exclude=elsewhere)
    return digest(array, work, how, code, repaired)


def predict_pack(
    model: Path,
    folder: Path,
    members: Mapping[str, Mapping[str, Any]],
    output: Path,
    code: str,
    needs: Needs = (0, 0),
    attempt: int = 1,
    restored: str = "",
) -> None:
    """Predict several small volumes of an archive, each of one block, that share a job.

    Parameters
    ----------
    folder : Path
        Of the archive's results.
    members : mapping
        Of each volume `path`, `block` (its name), `job`, `repaired` and `histograms`, see
        `predict_block`.
    output : Path
        JSON, written last: `made_from`, of each volume the digest of its receipt but for times.
    attempt : int
        See `predict_block`.
    restored : str
        See `states.restored`.
    """
    made_from: dict[str, str] = {}
    output.parent.mkdir(parents=True, exist_ok=True)
    require_space(output.parent, needs[1] * 10**6, "set predict.dtype to uint8")

    def predict(volume: str) -> None:
        of = members[volume]
        receipt = folder / volume / "prediction_blocks" / f"packed_{of['block']}.json"
        predict_block(
            model,
            of["path"],
            folder / volume / "prediction.ome.zarr",
            receipt,
            of["job"],
            code,
            of["repaired"],
            Path(of["histograms"]) if of["histograms"] else None,
            (needs[0], 0),
            attempt,
        )
        facts = read_json(receipt)
        made_from[volume] = digest(
            {key: facts[key] for key in facts if key not in ("seconds", "waiting")}
        )

    do_each(predict, list(members), len(members))
    write_receipt(output, {"made_from": made_from, "restored": restored})


def array_name(job: Job) -> str:
    """Name of a volume's array: what another model or other settings predict has another."""
    stored = job.settings.model_dump(include={"orientations", "dtype", "output", "channels"})
    return digest(
        job.model.facts["weights_sha256"],
        job.model.facts["geometry"],
        [job.normalise.offset, job.normalise.scale, *(job.normalise.clip or ())],
        job.model.precision,
        job.model.backend,
        stored,
        layout(job)[2:],
        bounds(job.within or ()),
        job.mask_known_by,
    )


def layout(job: Job) -> tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Axes, shape, chunks and shards of a volume's array."""
    axes = "c" + axis_rules.spatial(job.image.axes)
    shape = (len(job.channels), *job.image.spatial_shape)
    return axes, shape, *full_shards(axes, len(job.tile) == 3)


def open_or_create(path: Path, job: Job) -> zarr.Array[Any]:
    """Open a volume's array of axes c and its spatial ones.

    Blocks that come first at once write the same bytes of metadata, by rename; those of a volume
    that has grown write its new shape.
    """
    mine = path.with_name(f".{path.name}.{uuid4().hex}")
    path.mkdir(parents=True, exist_ok=True)
    axes, shape, chunks, shards = layout(job)
    try:
        create_array(mine, axes, shape, predicted.stored_dtype(job.settings), chunks, shards)
        (mine / "zarr.json").replace(path / "zarr.json")
    finally:
        remove(mine)
    return zarr.open_array(path, mode="r+")


def shards_of(array: zarr.Array[Any], region: Sequence[Sequence[int]]) -> list[Region]:
    """Regions of the shards of a block, which begins at one."""
    steps = (array.shards or array.chunks)[-len(region) :]
    extents = array.shape[-len(region) :]
    along = [
        [slice(i, min(i + step, extent)) for i in range(start, min(stop, extent), step)]
        for (start, stop), step, extent in zip(region, steps, extents, strict=True)
    ]
    return list(itertools.product(*along))


class Journal:
    """The shards of a block that are written, line by line in a file that outlives its process.

    A line names a shard's first voxel and the bytes of its files, which must still be there: a
    shard of background alone has none; and the seconds since the line before, so that the time of
    a process that was killed counts too.
    """

    def __init__(self, receipt: Path, array: zarr.Array[Any], digest: str) -> None:
        self.path = receipt.parent / ".journals" / receipt.stem / digest
        self.array = array
        for other in self.path.parent.glob("*"):
            if other != self.path:
                remove(other)
        lines = self.path.read_text().splitlines(keepends=True) if self.path.is_file() else []
        # A line without its end was being written when the process was killed.
        entries = [line.rstrip().rpartition(" ") for line in lines if line.endswith("\n")]
        self.done = {shard for shard, _, _ in entries}
        self.seconds = sum(float(seconds) for _, _, seconds in entries)
        self.last = time.monotonic()

    def missing(self, shards: Sequence[Region]) -> list[Region]:
        """Shards that are not written, without what a process that was killed has left of them."""
        found = [shard for shard in shards if self.line(shard) not in self.done]
        for shard in found:
            self.clear(shard)
        return found

    def add(self, shard: Region) -> None:
        """Note a shard, once it is on the disk."""
        for file in shard_files(self.array, [part.start for part in shard]):
            with file.open("rb") as written:
                os.fsync(written.fileno())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as journal:
            now = time.monotonic()
            journal.write(f"{self.line(shard)} {now - self.last:.4f}\n")
            self.last = now
            journal.flush()
            os.fsync(journal.fileno())

    def clear(self, shard: Region) -> None:
        """Remove a shard's files if torn: where the array ends inside, writing reads them."""
        files = shard_files(self.array, [part.start for part in shard])
        if not files:
            return
        try:
            self.array[:, *shard]
        except (RuntimeError, ValueError):  # what codecs raise
            for file in files:
                remove(file)

    def line(self, shard: Region) -> str:
        """First voxel of a shard, and the bytes of its files."""
        start = [part.start for part in shard]
        return f"{'_'.join(map(str, start))} {stored_bytes(self.array, start)}"
