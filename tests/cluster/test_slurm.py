"""The workflow on a Slurm that cancels a job, loses a node, and ends what takes too much."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which

import pandas as pd
import pytest
from project import EXPERIMENT, Project, copy_project
from slurm import PROGRAMS, Slurm, started, wait_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not all(map(which, PROGRAMS)), reason="Slurm is not there: apt install slurm-wlm munge"
    ),
]

CALL = (
    str(Path(__file__).with_name("hasty.py")),
    *("--workflow-profile", "profiles/slurm"),
    # There is no accounting that could be asked
    *("--slurm-status-command", "squeue"),
    "--set-resources",
    "train_model:gpu=1",
    # It will be stopped, on a node that stays, until a minute is over
    *("predict_images:runtime=attempt", "predict_images:slurm_partition=second"),
    # At first too little for Python and torch
    "predict_pack:mem_mb=300*attempt**2",
)
TIMES = ("seconds", "waiting", "predict_seconds", "states")
"""Keys of an archive's JSON files."""
LONGEST = 600
"""Seconds that anything may take, on a machine with other work too."""


@dataclass(frozen=True)
class Run:
    """A finished run on Slurm, and all jobs that it took."""

    project: Project
    jobs: list[dict[str, str]]
    cancelled: str

    def of(self, name: str) -> list[dict[str, str]]:
        """Jobs of a rule or group in the order in which they were sent."""
        return [job for job in self.jobs if job["Comment"].startswith(f"rule_{name}")]


def project_at(path: Path) -> Project:
    """Return a project whose training takes seconds, in which nothing has run."""
    project = copy_project(path)
    text = EXPERIMENT[: EXPERIMENT.index("variants:")].replace("steps: 6", "steps: 300")
    (path / "config/experiments/tiny.yaml").write_text(text)
    return project


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Return a Slurm of two nodes."""
    with started(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project that has run without a cluster."""
    project = project_at(tmp_path_factory.mktemp("local") / "project")
    project.snakemake()
    return project


@pytest.fixture(scope="module")
def disturbed(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a project that has run on Slurm in spite of everything."""
    folder = tmp_path_factory.mktemp("disturbed")
    project = replace(project_at(folder / "project"), call=CALL, environment=slurm.environment)
    with (folder / "output").open("w") as output:
        running = project.start(output=output)
        try:
            cancelled = disturb(slurm, project.path / "results/experiments/tiny", running)
            running.wait(LONGEST)
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()
    assert running.returncode == 0, (folder / "output").read_text()[-5000:]
    return Run(project, slurm.jobs(), cancelled)


def disturb(slurm: Slurm, folder: Path, running: subprocess.Popen[str]) -> str:
    """Cancel a training, stop a prediction, kill the node of the next training; return the first.

    Parameters
    ----------
    folder : Path
        Results of the experiment.
    """

    def until(what: str, happened: Callable[[], bool]) -> None:
        wait_for(what, lambda: running.poll() is not None or happened(), LONGEST)
        assert running.poll() is None, f"the run was over before this: {what}"

    def trains(split: str) -> bool:
        return any((folder / split).glob("seed0/tensorboard/*"))

    until("a network is trained", lambda: trains("fold0"))
    (training,) = (job for job in slurm.jobs() if "rule_train_model" in job["Comment"])
    slurm.ask("scancel", training["JobId"])
    until("the training has left a checkpoint", lambda: any(folder.glob(".checkpoint/*")))
    until("images are predicted", lambda: stopped(slurm, "predict_images.py"))
    until("the next network is trained", lambda: trains("final"))
    slurm.kill("n1")
    return training["JobId"]


def stopped(slurm: Slurm, script: str) -> bool:
    """Whether a process that runs a script has been found and stopped."""
    for process in slurm.processes("n2"):
        command = Path(f"/proc/{process}/cmdline").read_text().split("\0")
        if len(command) > 1 and command[1].endswith(script):
            os.kill(process, signal.SIGSTOP)
            return True
    return False


def contents(results: Path) -> dict[str, bytes]:
    """Files of a results folder, but those that tell when, where and how long."""
    found = {}
    for path in sorted(results.rglob("*")):
        name = str(path.relative_to(results))
        told = name.split("/")[0] in ("logs", "costs", "report")
        told = told or "tensorboard" in name or ".journals" in name
        if path.is_dir() or told or name.endswith(".run.json"):
            continue
        found[name] = path.read_bytes()
        if name.startswith("archives/") and path.suffix == ".json":
            facts = json.loads(found[name])
            known = {key: value for key, value in facts.items() if key not in TIMES}
            found[name] = json.dumps(known).encode()
        elif path.name == "summary.tsv":
            table = pd.read_csv(path, sep="\t", dtype=str)
            found[name] = table.drop(columns="predict_seconds").to_csv().encode()
    return found


def test_results_are_those_of_a_local_run_byte_for_byte(disturbed: Run, local: Project) -> None:
    found, expected = (contents(run.path / "results") for run in (disturbed.project, local))
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert (disturbed.project.path / "results/report/index.html").is_file()


def test_a_cancelled_job_is_sent_again(disturbed: Run) -> None:
    first, second = (job for job in disturbed.of("train_model") if "fold0" in job["Comment"])
    assert first["JobId"] == disturbed.cancelled
    assert first["JobState"] == "CANCELLED"
    assert second["JobState"] == "COMPLETED"


def test_a_job_of_a_node_that_dies_runs_on_the_other(disturbed: Run, slurm: Slurm) -> None:
    assert slurm.states() == {"n1": "down*", "n2": "idle"}
    *_, job = (job for job in disturbed.of("train_model") if "final" in job["Comment"])
    assert (job["JobState"], job["NodeList"]) == ("COMPLETED", "n2")
    assert int(job["Restarts"]) > 0


def test_a_job_out_of_time_gets_more(disturbed: Run) -> None:
    jobs = disturbed.of("predict_images")
    assert [job["JobState"] for job in jobs] == ["TIMEOUT", "COMPLETED"]
    assert [job["TimeLimit"] for job in jobs] == ["00:01:00", "00:02:00"]


def test_a_job_out_of_memory_gets_more(disturbed: Run) -> None:
    first, second = disturbed.of("predict_pack")
    assert first["JobState"] == "FAILED"
    assert "exceeded memory limit" in Path(first["StdOut"]).read_text()
    assert second["JobState"] == "COMPLETED"
    assert (first["MinMemoryNode"], second["MinMemoryNode"]) == ("300M", "1200M")


def test_only_training_takes_a_gpu(disturbed: Run) -> None:
    taken = {job["Comment"].split("_wildcards")[0]: job.get("TresPerJob") for job in disturbed.jobs}
    assert {rule: gpu for rule, gpu in taken.items() if gpu} == {"rule_train_model": "gres:gpu:1"}


def test_small_jobs_share_one_and_tiny_ones_need_none(disturbed: Run) -> None:
    for shared in ("finish_pack", "segment_pack"):
        assert len({job["JobId"] for job in disturbed.of(shared)}) == 1
    assert disturbed.of("image")
    assert not any(disturbed.of(rule) for rule in ("compute_weights", "cut_patches"))
    tiny = ("split_images", "summarise", "check_archive")
    assert not any(disturbed.of(rule) for rule in tiny)


def test_jobs_of_dask_predict_the_same(local: Project, slurm: Slurm, tmp_path: Path) -> None:
    path = Path(shutil.copytree(local.path, tmp_path / "project"))
    file = path / "config/experiments/tiny.yaml"
    chosen = "predict: {scheduler: slurm, workers: 1, "
    file.write_text(file.read_text().replace("predict: {", chosen))
    volume, before = "results/archives/tiny/first", len(slurm.jobs())
    shutil.rmtree(path / volume)
    project = replace(local, path=path, environment=slurm.environment)
    project.snakemake(f"{volume}/prediction.json")
    assert len(slurm.jobs()) > before
    predicted = f"{volume}/prediction.ome.zarr"
    found, expected = (contents(root / predicted) for root in (path, local.path))
    assert found == expected
