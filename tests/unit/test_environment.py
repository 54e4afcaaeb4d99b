"""One environment, described five times: pyproject, constraints, conda, make and images agree."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def project() -> dict[str, Any]:
    """Return the project table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def requirements() -> list[Requirement]:
    """Return the dependencies, core and optional, but the project's own groups."""
    optional = project()["optional-dependencies"].values()
    lines = [line for lines in (project()["dependencies"], *optional) for line in lines]
    return [Requirement(line) for line in lines if not line.startswith(project()["name"])]


def pins() -> list[Requirement]:
    """Return the lines of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def pinned() -> dict[str, Version]:
    """Return the version of each package in constraints.txt, by its canonical name."""
    return {
        canonicalize_name(pin.name): Version(next(iter(pin.specifier)).version) for pin in pins()
    }


def conda() -> Any:
    """Return what environment.yml says."""
    return yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_dependency_is_pinned_at_a_version_that_it_admits(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    assert name in pinned(), f"add {requirement.name} to constraints.txt"
    assert requirement.specifier.contains(pinned()[name])


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_dependency_states_the_oldest_version(requirement: Requirement) -> None:
    assert [bound.operator for bound in requirement.specifier] == [">="]


def test_every_line_of_the_constraints_pins_one_version_of_one_package() -> None:
    assert all([bound.operator for bound in pin.specifier] == ["=="] for pin in pins())
    names = [canonicalize_name(pin.name) for pin in pins()]
    assert sorted(names) == sorted(set(names))


def test_no_pin_names_the_build_of_one_machine() -> None:
    assert all(version.local is None for version in pinned().values())
    assert pinned()["torch"] == Version("2.13.0")


def test_conda_brings_python_and_pip_alone() -> None:
    *packages, by_pip = conda()["dependencies"]
    names = [package.split("=")[0] for package in packages]
    assert names == ["python", "pip"]
    assert list(by_pip) == ["pip"]


def test_conda_asks_no_channel_of_the_defaults() -> None:
    assert conda()["channels"] == ["conda-forge", "nodefaults"]


def test_pip_inside_conda_installs_this_project_with_its_constraints() -> None:
    lines = conda()["dependencies"][-1]["pip"]
    assert sorted(lines) == ["--constraint constraints.txt", "--editable .[dev]"]
    assert (ROOT / "constraints.txt").is_file()
    assert "dev" in project()["optional-dependencies"]


def test_the_python_of_conda_is_one_that_the_project_admits() -> None:
    version = conda()["dependencies"][0].split("=")[1]
    assert SpecifierSet(project()["requires-python"]).contains(Version(version))


def test_make_installs_with_the_constraints_and_tests_what_conda_installs() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    installing = [line for line in makefile.splitlines() if "pip install" in line]
    assert "--constraint constraints.txt" in installing[0]
    assert all(line.startswith("INSTALL := ") or "$(PEERS)" in line for line in installing)
    extras = makefile[makefile.index("$(addprefix $(VENV)/,dev") :].splitlines()
    assert extras[1].strip() == "$(INSTALL) --editable '.[$*]'"
    assert "\ntest: $(VENV)/dev\n" in makefile


CONTAINERS = ROOT / "resources/containers"


@pytest.mark.parametrize("recipe", ["Dockerfile", "unetflow.def"])
def test_images_install_this_project_with_its_constraints(recipe: str) -> None:
    text = (CONTAINERS / recipe).read_text("utf-8")
    version = conda()["dependencies"][0].split("=")[1]
    assert f"rom python:{version}-slim" in text.replace(": ", " ").replace("FROM", "From")
    install = next(line for line in text.splitlines() if "pip install" in line)
    assert "--constraint /opt/unetflow/constraints.txt" in install
    extras = set(install.split("[")[1].split("]")[0].split(","))
    assert extras <= set(project()["optional-dependencies"])
    for path in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "workflow/lib"):
        assert path in text
        assert (ROOT / path).exists()
    assert "PYTHONPATH=workflow/lib" in text


def test_the_workflow_names_the_image_of_this_version() -> None:
    image = f"unetflow:{project()['version']}"
    assert f'container: "docker://{image}"' in (ROOT / "Snakefile").read_text("utf-8")
    assert f"-t {image} ." in (CONTAINERS / "Dockerfile").read_text("utf-8")
