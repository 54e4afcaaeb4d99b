"""Histograms of an archive's volumes, for models that normalise by the volume's own grey values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unetflow.intensity import write_histograms
from unetflow.packs import Pack
from unetflow.progress import one_line
from unetflow.states import require_chunks
from unetflow.store import write_json
from unetflow.volumes import open_volume


def write_volume_histograms(row: Mapping[str, Any], output: Path) -> None:
    """Write the histograms of a volume; one that has none is a result, with its reason.

    Parameters
    ----------
    row : mapping
        `path`, `choice` (scene, time, channel and level of the volume) and `missing_chunks`
        ("error" or "fill").
    """
    place, choice = row["path"], row["choice"]
    try:
        if row["missing_chunks"] == "error":
            image = open_volume(place, **choice)
            require_chunks(image, tuple(slice(0, extent) for extent in image.spatial_shape))
        write_histograms(place, output, choice)
    except (OSError, RuntimeError, ValueError) as error:  # also what codecs raise
        write_json(output, {"image": place, "channels": [], "reason": one_line(error)})


def measure_pack(pack: Pack, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the histograms of small volumes that share a job.

    Parameters
    ----------
    pack : Pack
        With the path `histogram`.
    rows : mapping of volume to what `write_volume_histograms` takes, and what tells its data from
        other data
    """

    def measure(volume: str, paths: Mapping[str, Path]) -> None:
        write_volume_histograms(rows[volume], paths["histogram"])

    pack.each(measure, rows, made_from=None, results=["histogram"])
