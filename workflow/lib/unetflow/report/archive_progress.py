"""How far an archive's volumes and blocks have come, by its plan, receipts, journals and logs."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unetflow.report.sources import facts
from unetflow.volume_logs import OF_PACK, error_of, logs_of

STATES = ("done", "running", "failed", "missing")


@dataclass
class Progress:
    """How far the volumes of an archive that share an experiment have come.

    Attributes
    ----------
    volumes, blocks : Counter
        How many are in each of STATES. Blocks are known once the archive is planned.
    left : float
        Voxels that are not predicted yet.
    voxels, seconds : float
        What is predicted, and the time that the jobs have taken for it together.
    jobs : int
        Jobs that predict now.
    told : dict
        What is to be said of volumes that have failed, or whose job has ended with an error.
    """

    volumes: Counter[str] = field(default_factory=Counter)
    blocks: Counter[str] = field(default_factory=Counter)
    left: float = 0.0
    voxels: float = 0.0
    seconds: float = 0.0
    jobs: int = 0
    told: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float | None:
        """Voxels a second of one job, as far as it is known."""
        return self.voxels / self.seconds if self.seconds else None

    @property
    def remaining(self) -> float | None:
        """Seconds until all is predicted, by as many jobs as run now, or one where none does."""
        return None if self.rate is None else self.left / self.rate / max(self.jobs, 1)


def archive_progress(
    results: Path, archive: str, volumes: Mapping[str, str]
) -> dict[str, Progress]:
    """Return how far the volumes of each experiment have come.

    A volume is done, or failed, once its `summary.json` says so, whatever may have to be made again
    since; a block by its receipt, if that is of the job that is planned. What runs is told by logs
    that were written in the last minutes, so a job that was killed just now counts among them.

    Parameters
    ----------
    volumes : mapping of volume to its experiment
    """
    folder, logs = results / "archives" / archive, results / "logs"
    planned = facts(folder / "plan.json").get("volumes", {})
    busy_packs: set[str] = set()
    found: dict[str, Progress] = {}
    for volume, experiment in volumes.items():
        of, plan = found.setdefault(experiment, Progress()), planned.get(volume, {})
        summary = facts(folder / volume / "summary.json")
        state = str(summary.get("state", "missing"))
        if state == "done":
            count_done(of, plan, summary)
        else:
            its = logs_of(logs, archive, volume, plan.get("pack", ""))
            running = {log.path.stem for log in its if log.runs}
            if plan.get("pack") in busy_packs:
                running -= {*OF_PACK}  # such a job deals with one volume after the other
            place = folder / volume / "prediction_blocks"
            receipts = receipts_of(place, plan)
            states = [count_block(of, name, plan, receipts, running, place) for name in receipts]
            runs = bool("running" in states or running - {"pack"})
            if runs and "pack" in plan and not running.isdisjoint(OF_PACK):
                busy_packs.add(plan["pack"])
            if state == "failed":
                of.told[volume] = f"failed: {summary.get('reason', '')}"
            elif runs:
                state = "running"
            elif error := error_of(its):
                of.told[volume] = error
        of.volumes[state if state in STATES else "missing"] += 1
    return found


def count_done(of: Progress, plan: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Count the blocks of a volume that is done."""
    blocks = plan.get("blocks", {})
    of.blocks["done"] += len(blocks)
    of.voxels += sum(block["voxels"] for block in blocks.values())
    of.seconds += (summary.get("predict_seconds") or 0.0) if blocks else 0.0


def receipts_of(folder: Path, plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Receipts of a volume's blocks; empty ones of those that have none of the planned job."""
    blocks, prefix = plan.get("blocks", {}), "packed_" if "pack" in plan else ""
    here: Collection[str] = ()
    with suppress(OSError), os.scandir(folder) as entries:
        here = {entry.name for entry in entries}
    found = {}
    for name, block in blocks.items():
        file = f"{prefix}{name}.json"
        receipt = facts(folder / file) if file in here else {}
        of_plan = receipt.get("made_from", {}).get("block") == block["job"]
        found[name] = receipt if of_plan else {}
    return found


def count_block(
    of: Progress,
    name: str,
    plan: Mapping[str, Any],
    receipts: Mapping[str, Mapping[str, Any]],
    running: Collection[str],
    folder: Path,
) -> str:
    """Count a block of a volume that is not done; return its state."""
    block, state = plan["blocks"][name], str(receipts[name].get("state", "missing"))
    voxels = block["voxels"]
    if state == "missing" and ("pack" if "pack" in plan else name) in running:
        state = "running"
        of.jobs += 1
        journals = folder / ".journals" / (f"packed_{name}" if "pack" in plan else name)
        voxels *= 1 - written_shards(journals) / math.prod(block["shards"])
    if state == "done":
        of.voxels += voxels
        of.seconds += receipts[name]["seconds"]
    elif state != "failed":
        of.left += voxels
    of.blocks[state] += 1
    return state


def written_shards(journals: Path) -> int:
    """How many shards of a block are written, by the journal of its job."""
    lines = [0]
    with suppress(OSError), os.scandir(journals) as entries:
        lines += [Path(entry.path).read_bytes().count(b"\n") for entry in entries]
    return max(lines)


def duration(seconds: float | None) -> str:
    """Return a time for people; empty where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
