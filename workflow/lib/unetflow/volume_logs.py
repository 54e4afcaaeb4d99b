"""Logs of the jobs of an archive's volumes: which run, and which have ended with an error."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unetflow.progress import ending

STAGES = ("intensity", "predict", "segment", "evaluate")
OF_PACK = ("counted", "pack", "finished", "segmented", "measured", "scored")
"""Logs of the jobs that volumes share, of which the second predicts them."""
RUNNING_SECONDS = 600
"""A job whose log is older counts as killed: it says something after each shard or block."""


@dataclass(frozen=True)
class Log:
    """A log and when it was written last, in seconds since 1970."""

    path: Path
    modified: float

    @property
    def runs(self) -> bool:
        """Whether it was written in the last minutes, and says neither success nor an error."""
        return time.time() - self.modified < RUNNING_SECONDS and not ending(self.path)[0]


def logs_of(folder: Path, archive: str, volume: str, pack: str = "") -> list[Log]:
    """Logs of the jobs of a volume, oldest first.

    Parameters
    ----------
    folder : Path
        Of the logs of all stages.
    pack : str
        First of the volumes that share jobs with it.
    """
    found = []
    for stage in STAGES:
        place = folder / stage / "archives" / archive
        if pack:
            found += [place / pack / f"{name}.log" for name in OF_PACK]
        found.append(place / f"{volume}.log")
        with suppress(OSError), os.scandir(place / volume) as entries:
            found += [Path(it.path) for it in entries if it.name.endswith(".log")]
    logs = []
    for path in dict.fromkeys(found):
        with suppress(OSError):
            logs.append(Log(path, path.stat().st_mtime))
    return sorted(logs, key=lambda log: log.modified)


def error_of(logs: Sequence[Log]) -> str:
    """What the last of the jobs that have failed says, and its log; empty where none has."""
    for log in reversed(logs):
        state, error = ending(log.path)
        if state == "failed":
            return f"a job ended with an error: {error} ({log.path})"
    return ""
