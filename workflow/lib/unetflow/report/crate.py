"""A finished run described as a Workflow Run RO-Crate: what was made, from what, by which code.

References
----------
.. [1] Leo et al. 2024, DOI 10.1371/journal.pone.0309210: Workflow Run RO-Crate;
   https://w3id.org/ro/wfrun/workflow/0.5
"""

from __future__ import annotations

import json
import mimetypes
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unetflow.report.sources import attempt, last_record, of_stages
from unetflow.store import replacing, write_text

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
OF_EXPERIMENT = {
    "summary.json": "Scores, their mean and 95 % interval",
    "metrics.tsv": "Scores of each image",
    "split.json": "Which images train, validate and test",
}
OF_NETWORK = {
    "model.safetensors": "Weights of the final network",
    "model.json": "Architecture, intensity statistics and settings of the final network",
}
OF_VOLUME = {
    "prediction.ome.zarr": "Prediction",
    "segmentation.ome.zarr": "Instances",
    "objects.tsv": "Table of objects",
}


def write_crate(
    results: Path,
    experiments: Mapping[str, Any],
    datasets: Mapping[str, Any],
    archives: Mapping[str, Sequence[str]],
    code: Sequence[Path],
    outputs: Mapping[str, Path],
) -> None:
    """Write `ro-crate-metadata.json` of a results folder, and a copy of code and settings.

    Parameters
    ----------
    experiments, datasets : mapping
        Settings by name, as plain data.
    archives : mapping
        Volumes of each.
    code : sequence of Path
        The Snakefile, and the folders `workflow` and `config`.
    outputs : mapping
        Paths of `crate` (JSON) and `code` (a folder), both in the results folder.

    Raises
    ------
    ValueError
        If the extra for it is not installed.
    """
    try:
        from rocrate.rocrate import ROCrate
    except ImportError:
        raise ValueError(
            "an RO-Crate needs the package rocrate: found none; pip install '.[export]'"
        ) from None

    with replacing(outputs["code"]) as partial:
        copy_code(code, partial)
    crate = ROCrate(version="1.1")
    crate.name = "U-Net segmentation of microscopy: " + ", ".join([*experiments, *archives])
    crate.description = "Networks, predictions, instances and scores, made by unetflow."
    licences = {it["export"]["licence"] for it in experiments.values()} - {None}
    crate.license = " and ".join(sorted(licences)) or "Not stated: ask who made these results"
    describe_run(crate, results, outputs["code"], datasets)
    action = crate.get("#run")
    for path, name in made(results, experiments, archives):
        action.append_to("result", add_path(crate, results, path, name))
    text = json.dumps(crate.metadata.generate(), indent=1)
    write_text(outputs["crate"], text + "\n")


def copy_code(code: Sequence[Path], folder: Path) -> None:
    """Copy what makes a run what it is: some hundred small files."""
    folder.mkdir()
    for source in code:
        if source.is_dir():
            left_out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / source.name, ignore=left_out)
        else:
            shutil.copyfile(source, folder / source.name)


def describe_run(crate: Any, results: Path, code: Path, datasets: Mapping[str, Any]) -> None:
    """Add the workflow, what it started from, and the run of it, which has the id `#run`."""
    from rocrate.model.contextentity import ContextEntity

    profiles = [
        crate.add(ContextEntity(crate, uri, {"@type": "CreativeWork", "name": name}))
        for uri, name in PROFILES.items()
    ]
    crate.root_dataset["conformsTo"] = profiles
    snakefile = (code / "Snakefile").relative_to(results).as_posix()
    workflow = crate.add_workflow(dest_path=snakefile, main=True, lang="snakemake")
    workflow["name"], workflow["version"] = "unetflow", version("unetflow")
    workflow["encodingFormat"] = "text/plain"
    logs = [path for _, path in of_stages(results / "logs", ".log")]
    records = [record for path in logs if (record := attempt(last_record, path))]
    versions = {name: number for it in records for name, number in it.get("versions", {}).items()}
    workflow["softwareRequirements"] = [
        crate.add(ContextEntity(crate, f"#{name}-{number}", software(name, number)))
        for name, number in versions.items()
    ]
    run = {"@type": "CreateAction", "name": "Run of unetflow", "instrument": workflow}
    run["description"] = "Trained networks, and segmented images and volumes with them"
    action = crate.add(ContextEntity(crate, "#run", run | times(records)))
    action["object"] = [it for name in datasets for it in sources(crate, name, datasets[name])]
    crate.root_dataset["mentions"] = action


def software(name: str, number: str) -> dict[str, str]:
    """Properties of a package."""
    return {"@type": "SoftwareApplication", "name": name, "softwareVersion": number}


def times(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """When the first job that is on record began, and when the last one ended."""
    begun = [(datetime.fromisoformat(it["started"]), it["wall_seconds"]) for it in records]
    if not begun:
        return {}
    ended = max(start + timedelta(seconds=seconds) for start, seconds in begun)
    first = min(start for start, _ in begun)
    return {"startTime": first.isoformat(), "endTime": ended.isoformat(timespec="seconds")}


def sources(crate: Any, name: str, dataset: Mapping[str, Any]) -> Iterator[Any]:
    """Add the files that a dataset was downloaded from, or the dataset where they lay here."""
    from rocrate.model.contextentity import ContextEntity

    about = {"name": dataset.get("title") or name, "citation": dataset.get("citation")}
    about["license"] = dataset.get("licence")
    kept = {key: value for key, value in about.items() if value}
    downloads = dataset.get("downloads") or []
    for download in downloads:
        checksum = {"sha256": download["sha256"]} if download.get("sha256") else {}
        yield crate.add_file(download["url"], properties=kept | checksum)
    if not downloads:
        place = {"@type": "Dataset", **kept}
        yield crate.add(ContextEntity(crate, f"#dataset-{name}", place))


def made(
    results: Path, experiments: Mapping[str, Any], archives: Mapping[str, Sequence[str]]
) -> Iterator[tuple[Path, str]]:
    """Files and folders that a run has made and that are there, each with what it is."""
    yield from present(results / "report", {"index.html": "Report"}, "")
    for name, settings in experiments.items():
        folder = results / "experiments" / name
        yield from present(folder, OF_EXPERIMENT, name)
        for seed in settings["train"]["seeds"]:
            yield from present(folder / f"final/seed{seed}", OF_NETWORK, f"{name}, seed {seed}")
    for name, volumes in archives.items():
        folder = results / "archives" / name
        yield from present(folder, {"summary.tsv": "A row per volume"}, name)
        for volume in volumes:
            yield from present(folder / volume, OF_VOLUME, f"{name}/{volume}")


def present(folder: Path, names: Mapping[str, str], of: str) -> Iterator[tuple[Path, str]]:
    """Those of some names that a folder has."""
    for name, about in names.items():
        if (folder / name).exists():
            yield folder / name, f"{about}: {of}" if of else about


def add_path(crate: Any, results: Path, path: Path, name: str) -> Any:
    """Add a file or an OME-Zarr folder of the results."""
    place = path.relative_to(results).as_posix()
    if path.is_dir():
        properties = {"name": name, "encodingFormat": "application/vnd+zarr"}
        return crate.add_dataset(dest_path=place, properties=properties)
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    properties = {"name": name, "encodingFormat": kind, "contentSize": str(path.stat().st_size)}
    return crate.add_file(dest_path=place, properties=properties)
