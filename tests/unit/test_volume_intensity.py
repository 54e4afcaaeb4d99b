"""Histograms of volumes that share a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from unetflow.packs import Pack
from unetflow.store import read_json
from unetflow.volume_intensity import measure_pack, write_volume_histograms


def row_of(path: Path, missing_chunks: str = "error") -> dict[str, Any]:
    """Row of a volume."""
    return {"path": str(path), "choice": {}, "missing_chunks": missing_chunks}


def test_each_volume_of_a_pack_is_measured_and_one_that_has_no_histogram_is_told(
    tmp_path: Path,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 9, (8, 7), np.uint8)
    for name, image in {"a": pixels, "b": pixels + 1, "flat": pixels * 0}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", image, photometric="minisblack")
    volumes = ("a", "b", "flat", "nowhere")
    rows = {name: row_of(tmp_path / f"{name}.tif") for name in volumes}
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


def test_a_volume_that_lacks_a_chunk_has_no_histogram_unless_it_leaves_out_empty_ones(
    tmp_path: Path,
) -> None:
    volume = zarr.create_array(tmp_path / "v.zarr", shape=(8, 6), chunks=(4, 6), dtype="uint8")
    volume[...] = np.arange(1, 49).reshape(8, 6)
    (tmp_path / "v.zarr/c/1/0").unlink()
    write_volume_histograms(row_of(tmp_path / "v.zarr"), tmp_path / "error.json")
    assert "c/1/0" in read_json(tmp_path / "error.json")["reason"]
    write_volume_histograms(row_of(tmp_path / "v.zarr", "fill"), tmp_path / "fill.json")
    (channel,) = read_json(tmp_path / "fill.json")["channels"]
    assert (channel["values"], channel["counts"]) == ([0, *range(1, 25)], [24] + 24 * [1])
