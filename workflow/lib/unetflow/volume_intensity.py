"""Histograms of an archive's volumes, for models that normalise by the volume's own grey values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unetflow.intensity import write_histograms
from unetflow.packs import Pack
from unetflow.progress import one_line
from unetflow.store import write_json


def write_volume_histograms(place: str, output: Path, choice: Mapping[str, str]) -> None:
    """Write the histograms of a volume; one that has none is a result, with its reason.

    Parameters
    ----------
    choice : mapping
        Scene, time, channel and level of the volume.
    """
    try:
        write_histograms(place, output, choice)
    except (OSError, RuntimeError, ValueError) as error:  # also what codecs raise
        write_json(output, {"image": place, "channels": [], "reason": one_line(error)})


def measure_pack(pack: Pack, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the histograms of small volumes that share a job.

    Parameters
    ----------
    pack : Pack
        With the path `histogram`.
    rows : mapping of volume to its `path`, its `choice`, and what tells its data from other data
    """

    def measure(volume: str, paths: Mapping[str, Path]) -> None:
        row = rows[volume]
        write_volume_histograms(row["path"], paths["histogram"], row["choice"])

    pack.each(measure, rows, made_from=None, results=["histogram"])
