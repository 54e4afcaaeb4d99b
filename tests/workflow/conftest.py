"""A copy of the project with a tiny experiment, run once; tests look at it or at copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from project import Project, copy_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project whose workflow has run; not to be changed."""
    project = copy_project(tmp_path_factory.mktemp("finished") / "project")
    project.snakemake()
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """Return a copy of the finished project, to be changed at will."""
    return Project(Path(shutil.copytree(finished.path, tmp_path / "project", symlinks=True)))


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """Return a project in which nothing has run."""
    return copy_project(tmp_path / "project")
