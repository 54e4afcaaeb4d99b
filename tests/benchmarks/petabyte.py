"""What archives up to a petabyte take, by calculation: prints a table in Markdown.

Blocks, files, memory and hours are the planner's, of a volume whose metadata alone exists; time and
memory of the graph and the rate of labelling are those that were measured (`results/benchmarks`).
"""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path
from typing import Any

from harness import read

from unetflow.planning import plan_volume
from unetflow.settings.experiment import ExperimentSettings
from unetflow.store import create_image, open_image

SHAPE = (1900, 16384, 16384)
"""Of a volume of uint16 that takes 1.02 TB."""
VOLUMES = (1, 100, 1000)
DEVICES = 100
"""GPUs, or cores, that work at once."""
LABEL_MINUTES = 30
"""Work of a job that labels, as that of one which predicts by default."""
NETWORKS: dict[str, dict[str, Any]] = {
    "2D, width 64, GPUs": {"model": {"width": 64}, "predict": {"device": "gpu"}},
    "2D, width 16, cores": {"model": {"width": 16}, "predict": {"device": "cpu"}},
    "3D, width 16, GPUs": {
        "model": {"width": 16, "depth": 3, "dimensions": 3},
        "patches": {"tile": "auto"},
        "predict": {"device": "gpu"},
    },
}
HEAD = (
    *("archive", "network", "hours of devices", "of cores, labelling", f"on {DEVICES} of each"),
    *("jobs", "a minute", "GB a job", "files", "TB of them", "graph, minutes", "GB"),
)


def plan(**settings: Any) -> dict[str, Any]:
    """Plan of a volume of which nothing is stored but its metadata."""
    experiment = ExperimentSettings(dataset="any", **settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume"
        create_image(path, "zyx", SHAPE, "uint16", {})
        return plan_volume(open_image(path), {"path": str(path)}, experiment)


def slope(column: str) -> tuple[float, float]:
    """Measured value of a graph of no jobs, and what each job adds."""
    found = [
        (int(jobs[1].replace(",", "")), float(str(row[column])))
        for rows in read("scale").values()
        for row in rows
        if row["method"] == "dry run" and (jobs := re.search(r"([\d,]+) jobs", str(row["note"])))
    ]
    (few, low), (many, high) = min(found), max(found)
    each = (high - low) / (many - few)
    return low - few * each, each


def labelling_rate() -> float:
    """Voxels a second that one job labels, from disk to disk."""
    first, *_ = read("segmentation")["512³, from disk to disk"]
    return 512**3 / float(str(first["median_seconds"]))


def main() -> None:
    """Print the table."""
    print(f"| {' | '.join(HEAD)} |\n|---|---|{'---:|' * (len(HEAD) - 2)}")
    (time, more_time), (mib, more_mib) = slope("median_seconds"), slope("peak_mib")
    rate, size = labelling_rate(), math.prod(SHAPE) * 2 / 1e12
    for name, settings in NETWORKS.items():
        volume = plan(**settings)
        blocks = volume["blocks"]
        label_hours = volume["voxels"] / rate / 3600
        labels = math.ceil(label_hours * 60 / LABEL_MINUTES)
        for count in VOLUMES:
            hours, jobs = volume["minutes"] / 60, count * (len(blocks) + labels + 2)
            together = count * (hours + label_hours) / DEVICES
            figures = (
                *(count * hours, count * label_hours, together, jobs, jobs / together / 60),
                max(block["mem_mb"] for block in blocks.values()) / 1e3,
                *(count * volume["files"], count * volume["disk_bytes"] / 1e12),
                *((time + jobs * more_time) / 60, (mib + jobs * more_mib) * 2**20 / 1e9),
            )
            cells = " | ".join(map(rounded, figures))
            print(f"| {rounded(count * size)} TB | {name} | {cells} |", flush=True)


def rounded(figure: float) -> str:
    """Two digits of a figure, without an exponent."""
    digits = max(1 - math.floor(math.log10(figure)), 0)
    return f"{round(figure, 1 - math.floor(math.log10(figure))):,.{digits}f}"


if __name__ == "__main__":
    main()
