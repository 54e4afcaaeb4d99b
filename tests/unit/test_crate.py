"""A finished run as an RO-Crate, read back by the library for them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rocrate.rocrate import ROCrate

from unetflow.report.crate import write_crate
from unetflow.store import write_json, write_text

DATASETS = {
    "public": {
        "title": "Cells <of> somebody",
        "licence": "CC-BY-4.0",
        "citation": "10.1000/1",
        "downloads": [{"url": "https://example.org/cells.zip", "sha256": "ab" * 32}],
    },
    "own": {"title": "", "licence": "", "citation": "", "downloads": []},
}
RECORDS = [("2026-01-02T03:04:05+00:00", 60.0), ("2026-01-02T03:00:00+00:00", 30.0)]


def write(folder: Path, **experiment: Any) -> dict[str, Any]:
    """The crate of a small results folder, its entities by id."""
    (folder / "results/archives/a/v/segmentation.ome.zarr").mkdir(parents=True)
    for number, (started, seconds) in enumerate(RECORDS):
        versions = {"torch": "2.13.0"}
        record = {"started": started, "wall_seconds": seconds, "versions": versions}
        path = folder / f"results/logs/train/e/fold{number}/seed0.log"
        write_text(path, f"03:00:00 begun\n03:00:09 record {json.dumps(record)}\n")
    for name in ("experiments/e/summary.json", "experiments/e/final/seed3/model.json"):
        write_json(folder / "results" / name, {})
    (folder / "code").mkdir()
    (folder / "code/Snakefile").write_text("rule all:\n")
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text("experiments: [e]\n")
    settings = {"train": {"seeds": [3]}, "export": {"licence": None}} | experiment
    outputs = {
        "crate": folder / "results/ro-crate-metadata.json",
        "code": folder / "results/as_run",
    }
    code = [folder / "code/Snakefile", folder / "config"]
    write_crate(folder / "results", {"e": settings}, DATASETS, {"a": ["v"]}, code, outputs)
    graph = json.loads(outputs["crate"].read_text())["@graph"]
    return {entity["@id"]: entity for entity in graph}


def test_results_and_sources_are_named_and_what_is_named_is_there(tmp_path: Path) -> None:
    found = write(tmp_path)
    run = found["#run"]
    results = [it["@id"] for it in run["result"]]
    assert results == [
        "experiments/e/summary.json",
        "experiments/e/final/seed3/model.json",
        "archives/a/v/segmentation.ome.zarr/",
    ]
    assert [it["@id"] for it in run["object"]] == ["https://example.org/cells.zip", "#dataset-own"]
    download = found["https://example.org/cells.zip"]
    assert (download["sha256"], download["license"]) == ("ab" * 32, "CC-BY-4.0")
    assert run["instrument"] == {"@id": "as_run/Snakefile"}
    crate = ROCrate(tmp_path / "results")
    assert crate.mainEntity["name"] == "unetflow"
    for entity in crate.data_entities:
        if not entity.id.startswith("https://"):
            assert (tmp_path / "results" / entity.id).exists()
    assert (tmp_path / "results/as_run/config/config.yaml").read_text() == "experiments: [e]\n"


def test_it_took_from_the_first_job_to_the_end_of_the_last(tmp_path: Path) -> None:
    run = write(tmp_path)["#run"]
    assert run["startTime"] == "2026-01-02T03:00:00+00:00"
    assert run["endTime"] == "2026-01-02T03:05:05+00:00"


@pytest.mark.parametrize(
    ("licence", "told"), [("CC0-1.0", "CC0-1.0"), (None, "Not stated: ask who made these results")]
)
def test_the_licence_is_that_of_the_experiments_or_told_to_be_unknown(
    tmp_path: Path, licence: str | None, told: str
) -> None:
    assert write(tmp_path, export={"licence": licence})["./"]["license"] == told


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rocrate.rocrate", None)
    with pytest.raises(ValueError, match=r"needs the package rocrate: found none; pip install"):
        write(tmp_path)
    assert not (tmp_path / "results/as_run").exists()
