"""A copy of the project with a tiny experiment, run once; tests look at it or at copies of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from project import Project, copy_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project whose workflow has run; not to be changed."""
    own = tmp_path_factory.getbasetemp()
    # Processes that share a suite run it once, and each works on a copy.
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    path = shared / "finished"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            copy_project(shared / "running").snakemake()
            (shared / "running").rename(path)
    return copied(Project(path), own / "project")


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """Return a copy of the finished project, to be changed at will."""
    return copied(finished, tmp_path / "project")


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """Return a project in which nothing has run."""
    return copy_project(tmp_path / "project")


def copied(project: Project, to: Path) -> Project:
    """Return a copy with its results."""
    return Project(Path(shutil.copytree(project.path, to, symlinks=True)))
