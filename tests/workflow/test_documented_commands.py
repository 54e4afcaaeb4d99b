"""Commands of the documentation: they plan, and those that are quick run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import tifffile
import yaml
from pages import blocks, commands
from project import ROOT, Project, copy_project

from unetflow.datasets.synthetic import synthesize
from unetflow.store import create_image, write_text

pytestmark = pytest.mark.workflow

PLAN = "snakemake --cores all plan --config 'experiments=[cells]' 'archives=[screen]'"
NEW = "make new-experiment NAME="
QUICK = ("make status", "make report", "make reference")
WITHOUT_CORES = {"--dry-run", "--report", "--unlock", "--workflow-profile"}
ELSEWHERE = {"conda", "source", "docker", "apptainer", "tensorboard", "pip"}
"""Programs that are not run here; the files that they are given must be there."""
MADE = {".venv/bin/activate", "unetflow.sif", "report.zip"}


def of(*programs: str) -> list[str]:
    """Commands of some programs."""
    return [command for command in commands() if command.split()[0] in programs]


def run(project: Project, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the documentation in a project, in place of its environment this one."""
    program, *words = shlex.split(command)
    if program == "snakemake":
        return project.snakemake(*words, check=False)
    environment = os.environ | {
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project.path / "workflow/lib"),
    }
    return subprocess.run(
        [program, *words],
        cwd=project.path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project with the images, experiment, sheet and registry of the documentation."""
    project = copy_project(tmp_path_factory.mktemp("told") / "project")
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tests/benchmarks/peers.txt"):
        write_text(project.path / name, (ROOT / name).read_text(encoding="utf-8"))
    for stamp in ("installed", "dev"):  # the second newer than what it is made from
        write_text(project.path / ".venv" / stamp, "")
    pictures = dict(zip(("images", "masks"), synthesize("cells", (96, 96), seed=0), strict=True))
    data = project.path / "data"
    for folder, pixels in pictures.items():
        (data / folder).mkdir(parents=True)
        for name in "abc":
            tifffile.imwrite(data / folder / f"{name}.tif", pixels, photometric="minisblack")
    stack = np.stack([pictures["images"]] * 2)
    for volume in ("brain1", "brain2_truth"):
        create_image(data / f"{volume}.ome.zarr", "zyx", stack.shape, stack.dtype, {})[...] = stack
    tifffile.imwrite(data / "brain2.tif", stack, photometric="minisblack")
    head, *rows = blocks("tsv")[0].text.replace("/data/", f"{data}/").splitlines()
    rows += [rows[0].replace("brain1\t", f"further{number}\t") for number in range(8)]  # a tenth
    write_text(project.path / "config/archives/screen.tsv", "\n".join([head, *rows]))
    for block in blocks("yaml"):
        if block.title == "mirror.yaml":
            write_text(project.path / "mirror.yaml", block.text)
    new_experiment, plan = (
        next(command for command in commands() if command.startswith(beginning))
        for beginning in (NEW, PLAN)
    )
    assert run(project, new_experiment).returncode == 0
    # Volumes with jobs of their own, which --batch divides
    experiment = project.path / "config/experiments/cells.yaml"
    text = experiment.read_text(encoding="utf-8")
    assert text.count("\npredict:\n") == 1
    own = "\npredict:\n  block_minutes: 1.0e-6\n"
    write_text(experiment, text.replace("\npredict:\n", own))
    assert run(project, plan).returncode == 0
    return project


@pytest.fixture(scope="module")
def outcomes(told: Project) -> dict[str, subprocess.CompletedProcess[str]]:
    """Return what came of every command of snakemake and make as it is tried, two at a time."""
    trials = list({tried(command): None for command in of("snakemake", "make")})
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda command: run(told, command), trials)
        return dict(zip(trials, done, strict=True))


def tried(command: str) -> str:
    """How a command is tried: as it is where that is quick, else as a dry run."""
    program, rest = command.split(maxsplit=1)
    if command in QUICK:
        return command
    if program == "make":
        return f"make --dry-run {rest}"
    rest = re.sub("--(report|unlock).*", "", rest)
    return f"snakemake --quiet rules --dry-run {without_missing_plugin(rest)}"


def without_missing_plugin(words: str) -> str:
    """Words of a command without a profile whose executor is not installed; it must be there."""
    found = re.search(r"--workflow-profile (\S+)", words)
    if found is None:
        return words
    profile = yaml.safe_load((ROOT / found[1] / "config.yaml").read_text(encoding="utf-8"))
    plugin = f"snakemake_executor_plugin_{profile['executor'].replace('-', '_')}"
    return words if find_spec(plugin) else words.replace(found[0], "")


@pytest.mark.parametrize("command", of("snakemake", "make"))
def test_a_command_does_what_it_says(
    command: str, outcomes: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    done = outcomes[tried(command)]
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("command", of("snakemake"))
def test_a_command_can_be_typed_as_it_stands(command: str) -> None:
    options = {word for word in shlex.split(command) if word.startswith("--")}
    assert options & {"--cores", *WITHOUT_CORES}, "Snakemake asks for --cores where jobs run"


def test_every_program_is_run_or_known() -> None:
    programs = {command.split()[0] for command in commands()}
    assert programs == {"snakemake", "make"} | ELSEWHERE


@pytest.mark.parametrize("command", of(*ELSEWHERE))
def test_the_files_of_a_command_are_there(command: str) -> None:
    words = set(shlex.split(command)[1:]) - MADE
    files = [word for word in words if re.fullmatch(r"[\w./-]+\.\w+|[\w.-]+/[\w./-]+", word)]
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_extras_that_are_named_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pages = {*(ROOT / "docs").glob("*.md"), ROOT / "README.md"}
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"'\.\[(\w+)\]'", text))
    assert named
    assert named <= project["optional-dependencies"].keys()
