"""Archives in a bad world: odd paths, crashes, two runs at once, full and read-only disks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from project import Project

pytestmark = pytest.mark.workflow

# Of the shell, of YAML, of patterns, and of what Snakemake takes for wildcards and path variables.
ODD = 'it\'s "5 days"; $HOME {volume} {x} <results> `a` *?[1] #&|\\ ä.tif'
STATUS = ("--nolock", "--quiet", "all", "--", "status")


def table(project: Project) -> pd.DataFrame:
    """Summary of the archive."""
    path = project.path / "results/archives/tiny/summary.tsv"
    return pd.read_csv(path, sep="\t", index_col="volume", keep_default_na=False)


def test_paths_of_any_characters_work(project: Project) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 72), np.uint8)
    for name, values in (("data", image), ("truth", image > 99), ("mask", image >= 0)):
        (project.path / name).mkdir()
        path = project.path / name / ODD
        tifffile.imwrite(path, values.astype(np.uint8), photometric="minisblack")
    sheet = project.path / "config/archives/tiny.tsv"
    head, *rows = sheet.read_text().splitlines()
    rows = [f"{row}\t" for row in rows]
    rows.append(f"odd\tdata/{ODD}\ttiny\ttruth/{ODD}\tmask/{ODD}")
    sheet.write_text("\n".join([f"{head}\tmask", *rows]) + "\n")
    project.snakemake()
    odd = table(project).loc["odd"]
    assert (odd["state"], odd["reason"], odd["path"]) == ("done", "", f"data/{ODD}")
    assert float(odd["dice_cell"]) >= 0
    assert (project.path / "results/archives/tiny/odd/thumbnail.webp").is_file()
    assert project.would_run() == set()


def test_a_crash_leaves_a_summary_and_what_is_removed_from_the_sheet_stays(
    project: Project,
) -> None:
    sheet = project.path / "config/archives/tiny.tsv"
    before = sheet.read_text()
    sheet.write_text(f"{before}third\tdataset:tiny/membranes0_002\ttiny\t\n")
    folder = project.path / "results/archives/tiny"
    (folder / "third").mkdir()
    (folder / "third/prediction.ome.zarr").write_text("in the way")
    done = project.snakemake("--retries", "0", check=False)
    assert done.returncode != 0
    assert "archive tiny, 3 volumes: 2 done, 0 failed, 1 missing" in done.stdout
    third = table(project).loc["third"]
    assert third["state"] == "missing"
    reason = "a job ended with an error: ValueError: 1 of 1 volumes failed: third: [Errno 17] "
    assert third["reason"].startswith(f"{reason}File exists: "), third["reason"]
    assert "tiny/third a job ended with an error" in project.snakemake(*STATUS).stdout
    (folder / "third/prediction.ome.zarr").unlink()
    project.snakemake()
    assert set(table(project)["state"]) == {"done"}
    assert project.would_run() == set()
    sheet.write_text(before)
    project.snakemake()
    assert list(table(project).index) == ["first", "second"]
    assert (folder / "third/summary.json").is_file()
    line = "no longer in the sheet, left for you to remove: third"
    log = project.path / "results/logs/evaluate/archives/tiny.log"
    assert log.read_text().count(line) == 1
    assert project.snakemake(*STATUS).stdout.count(line) == 1


def test_a_second_run_in_the_same_folder_is_refused_and_the_status_is_not(
    project: Project,
) -> None:
    running = project.start("--forcerun", "check_archive")
    try:
        locks = project.path / ".snakemake/locks"
        while not list(locks.glob("*")):
            assert running.poll() is None
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGSTOP)
        second = project.snakemake("--forcerun", "build_report", check=False)
        assert second.returncode != 0
        assert "Directory cannot be locked" in second.stdout
        assert "no other Snakemake process" in second.stdout
        assert re.search(r"^tiny +tiny +2 +2 ", project.snakemake(*STATUS).stdout, re.MULTILINE)
    finally:
        os.killpg(running.pid, signal.SIGCONT)
        output, _ = running.communicate()
    assert running.returncode == 0, output[-3000:]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("volume\tpath\texperiment\na\tx\ttiny\na\ty\ttiny\n", "got 'a' twice; rename it"),
        ("volume\tpath\na\tx\n", "separated by tabs: missing ['experiment'], unknown []"),
        ("volume\tpath\texperiment\n$x;\tx\ttiny\n", "got '$x;'; rename it"),
        ("volume\tpath\texperiment\na\tdataset:non/x\ttiny\n", "dataset non: "),
    ],
    ids=["twice", "column", "name", "dataset"],
)
def test_a_mistake_in_a_sheet_is_one_line_before_any_job(
    fresh: Project, text: str, line: str
) -> None:
    (fresh.path / "config/archives/tiny.tsv").write_text(text)
    done = fresh.snakemake(check=False)
    assert done.returncode != 0
    (told,) = [it for it in done.stdout.splitlines() if it.startswith("error: ")]
    assert line in told
    assert "Traceback" not in done.stdout
    assert not (fresh.path / "results").exists()


@pytest.fixture
def disk(fresh: Project) -> Iterator[Path]:
    """Return a folder that is a disk of its own, of 64 KiB."""
    folder = fresh.path / "disk"
    folder.mkdir()
    how = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    try:
        done = subprocess.run(how, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode != 0:
        pytest.skip(f"a disk cannot be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    """Change a mounted disk."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def test_a_full_and_a_read_only_disk_are_told_and_the_run_goes_on_later(
    fresh: Project, disk: Path
) -> None:
    wanted = ("--config", "results=disk", "--", "disk/experiments/tiny/weights.zarr/membranes0_000")
    full = fresh.snakemake(*wanted, check=False)
    assert full.returncode != 0
    assert "No space left on device" in full.stdout
    remount(disk, "size=64m")
    fresh.snakemake(*wanted[:2], "--", "disk/datasets/tiny/index.json")
    remount(disk, "ro")
    closed = fresh.snakemake(*wanted, check=False)
    assert closed.returncode != 0
    assert "Read-only file system" in closed.stdout
    remount(disk, "rw")
    fresh.snakemake(*wanted)
    assert (disk / "experiments/tiny/weights.zarr/membranes0_000/zarr.json").is_file()
