"""Blocks of an archive's volume: jobs that write whole shards of one array, and can be killed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import zarr

from unetflow import axes as axis_rules
from unetflow import predicted
from unetflow.cluster import predict_on_cluster
from unetflow.orientations import Region
from unetflow.progress import log, one_line
from unetflow.pyramid import add_levels
from unetflow.regions import Job, load_for, open_job, predict_regions
from unetflow.settings import PredictSettings
from unetflow.states import digest, state_of_files
from unetflow.store import (
    create_array,
    describe_image,
    full_shards,
    read_json,
    remove,
    require_memory,
    require_space,
    shard_regions,
    write_json,
)
from unetflow.volumes import choice_of, open_volume
from unetflow.voxels import resampled

Needs = tuple[int, int]


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
) -> None:
    """Predict one block of an archive's volume and write its receipt last.

    After each shard a line goes to a journal beside the receipt. A block that was killed and runs
    again leaves out what its journal names, unless model, settings, region, volume or code have
    changed. Two copies that run at once write the same bytes.

    Data that cannot be read or does not suit the model is the block's result, state "failed" with
    the reason, so that other volumes go on; anything else, such as a full disk, is an error.

    Parameters
    ----------
    model : Path
        Folder of `model.json` and `model.safetensors`.
    prediction : Path
        Folder of the volume's prediction. Each block opens the array in it, or creates it.
    receipt : Path
        JSON: `state`, `reason`, `array` (its name in the folder), `seconds`, `waiting` (share of
        the time in which the device waited for data), and what it was made from.
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
    """
    prediction.mkdir(parents=True, exist_ok=True)
    require_memory(needs[0] * 10**6, "lower predict.memory_gb or predict.tile")
    require_space(prediction, needs[1] * 10**6, "set predict.dtype to uint8")
    settings = PredictSettings(**block["settings"])
    loaded = load_for(settings, model)
    started = time.monotonic()
    facts: dict[str, Any] = {"state": "done", "reason": "", "array": "", "waiting": 0.0}
    try:
        job = open_job(loaded, volume, settings, block, histograms)
        facts["array"] = array_name(job)
        array = open_or_create(prediction / facts["array"], job)
        work = {key: value for key, value in block.items() if key != "settings"}
        # Where it is computed, and with how many threads, makes no other result.
        how = settings.model_dump(mode="json", exclude={"device", "threads", "scheduler"})
        journal = Journal(receipt, array, digest(facts["array"], work, how, code))
        shards = shards_of(array, block["region"])
        waiting = [shard for shard in shards if not journal.has(shard)]
        log(f"device {loaded.device}, {len(waiting)} of {len(shards)} shards")
        for shard in waiting:
            journal.clear(shard)
        if settings.scheduler is None:
            facts["waiting"] = round(predict_regions(job, array, waiting, journal.add), 4)
        else:
            opened = (model, volume, settings, block, histograms)
            predict_on_cluster(settings.scheduler, opened, array, waiting, journal.add)
    except ValueError as error:
        facts |= {"state": "failed", "reason": one_line(error), "files": state_of_files(volume)}
        log(f"failed: {facts['reason']}")
    made_from = {
        "weights_sha256": loaded.facts["weights_sha256"],
        "block": block,
        "code": code,
        "repaired": repaired,
    }
    seconds = round(time.monotonic() - started, 2)
    write_json(receipt, facts | {"seconds": seconds, "made_from": made_from})


def predict_pack(
    model: Path,
    folder: Path,
    members: Mapping[str, Mapping[str, Any]],
    output: Path,
    code: str,
    needs: Needs = (0, 0),
) -> None:
    """Predict several small volumes of an archive, each of one block, and say how each went.

    Parameters
    ----------
    folder : Path
        Of the archive's results.
    members : mapping
        Of each volume `path`, `block` (its name), `job`, `repaired` and `histograms`, see
        `predict_block`.
    output : Path
        JSON: the state of each volume, written last.
    """
    states = {}
    output.parent.mkdir(parents=True, exist_ok=True)
    require_space(output.parent, needs[1] * 10**6, "set predict.dtype to uint8")
    for volume, of in members.items():
        receipt = folder / volume / "prediction_blocks" / f"{of['block']}.json"
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
        )
        states[volume] = read_json(receipt)["state"]
    write_json(output, states)


def array_name(job: Job) -> str:
    """Name of a volume's array: what another model or other settings predict has another."""
    stored = job.settings.model_dump(include={"orientations", "dtype", "output", "channels"})
    return digest(
        job.model.facts["weights_sha256"],
        job.model.facts["geometry"],
        [job.normalise.offset, job.normalise.scale],
        job.model.precision,
        stored,
        layout(job)[2:],
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
    mine = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    path.mkdir(parents=True, exist_ok=True)
    axes, shape, chunks, shards = layout(job)
    try:
        create_array(mine, axes, shape, predicted.stored_dtype(job.settings), chunks, shards)
        (mine / "zarr.json").replace(path / "zarr.json")
    finally:
        remove(mine)
    return zarr.open_array(path, mode="r+")


def shards_of(array: zarr.Array[Any], region: Sequence[Sequence[int]]) -> list[Region]:
    """Regions of the shards that begin in a block."""
    return [
        shard
        for shard in shard_regions(array, len(region))
        if all(
            start <= part.start < stop for part, (start, stop) in zip(shard, region, strict=True)
        )
    ]


class Journal:
    """The shards of a block that are written, line by line in a file that outlives its process.

    A line names a shard's first voxel and the bytes of its files, which must still be there: a
    shard of background alone has none.
    """

    def __init__(self, receipt: Path, array: zarr.Array[Any], digest: str) -> None:
        self.path = receipt.with_name(f".{receipt.stem}.{digest}")
        self.array = array
        for other in receipt.parent.glob(f".{receipt.stem}.*"):
            if other != self.path:
                remove(other)
        lines = self.path.read_text().splitlines(keepends=True) if self.path.is_file() else []
        # A line without its end was being written when the process was killed.
        self.done = {line.rstrip() for line in lines if line.endswith("\n")}

    def has(self, shard: Region) -> bool:
        """Whether a shard is written."""
        return self.line(shard) in self.done

    def add(self, shard: Region) -> None:
        """Note a shard, once it is on the disk."""
        for file in self.files(shard):
            with file.open("rb") as written:
                os.fsync(written.fileno())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as journal:
            journal.write(f"{self.line(shard)}\n")
            journal.flush()
            os.fsync(journal.fileno())

    def clear(self, shard: Region) -> None:
        """Remove a shard's files if torn: where the array ends inside, writing reads them."""
        try:
            self.array[:, *shard]
        except (RuntimeError, ValueError):  # what codecs raise
            for file in self.files(shard):
                remove(file)

    def line(self, shard: Region) -> str:
        """First voxel of a shard, and the bytes of its files."""
        size = sum(file.stat().st_size for file in self.files(shard))
        return f"{'_'.join(str(part.start) for part in shard)} {size}"

    def files(self, shard: Region) -> list[Path]:
        """Files of a shard, one per channel, but those of nothing but 0."""
        shards = (self.array.shards or self.array.chunks)[-len(shard) :]
        place = [str(part.start // step) for part, step in zip(shard, shards, strict=True)]
        folder = Path(self.array.store.root) / "c"  # type: ignore[attr-defined]
        files = (folder.joinpath(str(c), *place) for c in range(self.array.shape[0]))
        return [file for file in files if file.is_file()]


def finish_prediction(
    row: Mapping[str, Any],
    receipts: Iterable[Path],
    model: Mapping[str, Any],
    settings: PredictSettings,
    prediction: Path,
    output: Path,
) -> None:
    """Make one OME-Zarr image of a volume's blocks, with coarser levels, and say how they went.

    Parameters
    ----------
    row : mapping
        The volume in the plan; its `reason` tells if it could not be planned.
    model : mapping
        Its `model.json`.
    output : Path
        JSON: `state`, `reason`, `volume` (its row without its blocks), `blocks`, `seconds` of all
        of them, and `waiting`, the largest share of the time in which a device waited for data.
    """
    facts = [read_json(path) for path in receipts]
    reasons = [reason for reason in [row["reason"], *(f["reason"] for f in facts)] if reason]
    if not reasons:
        (first,) = {fact["array"] for fact in facts}
        keep_array(prediction, first)
        image = resampled(open_volume(row["path"], **choice_of(row)), settings.voxel_size_um)
        axes = "c" + axis_rules.spatial(image.axes)
        size, mean = image.voxel_size_um, settings.output != "classes"
        levels = add_levels(prediction, first, axes, size, mean)
        metadata = predicted.metadata(model["class_names"], settings)
        describe_image(prediction, axes, size, levels, **metadata)
    write_json(
        output,
        {
            "state": "failed" if reasons else "done",
            "reason": "; ".join(dict.fromkeys(reasons)),
            "volume": {key: value for key, value in row.items() if key != "blocks"},
            "blocks": len(facts),
            "seconds": round(sum(fact["seconds"] for fact in facts), 2),
            "waiting": max((fact["waiting"] for fact in facts), default=0.0),
        },
    )


def drop_prediction(prediction: Path, output: Path) -> None:
    """Remove a volume's prediction, which is segmented; what remains says so.

    The journals of its blocks name files that are gone, so a block that runs again is predicted.
    """
    remove(prediction)
    write_json(output, {"prediction": "removed, since predict.keep is false"})


def keep_array(prediction: Path, name: str) -> None:
    """Remove what models and settings of before have left in a volume's prediction."""
    for other in prediction.iterdir():
        if other.name not in (name, "zarr.json"):
            remove(other)
