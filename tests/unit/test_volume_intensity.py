"""Histograms of volumes that share a job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from unetflow.packs import Pack
from unetflow.store import read_json
from unetflow.volume_intensity import measure_pack


def test_each_volume_of_a_pack_is_measured_and_one_that_has_no_histogram_is_told(
    tmp_path: Path,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 9, (8, 7), np.uint8)
    for name, image in {"a": pixels, "b": pixels + 1, "flat": pixels * 0}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", image, photometric="minisblack")
    volumes = ("a", "b", "flat", "nowhere")
    rows = {name: {"path": str(tmp_path / f"{name}.tif"), "choice": {}} for name in volumes}
    paths = {"histogram": f"{tmp_path}/{{volume}}/intensity.json"}
    measure_pack(Pack(None, tmp_path / "a/counted.json", paths, "code"), rows)
    found = {name: read_json(tmp_path / name / "intensity.json") for name in volumes}
    for name, image in {"a": pixels, "b": pixels + 1}.items():
        (channel,) = found[name]["channels"]
        counts = np.bincount(image.ravel())
        assert channel["values"] == np.flatnonzero(counts).tolist()
        assert channel["counts"] == counts[counts > 0].tolist()
    assert "at least two grey values" in found["flat"]["reason"]
    assert "must exist" in found["nowhere"]["reason"]
