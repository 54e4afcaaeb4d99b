"""Reruns follow the code that a step runs, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unetflow import provenance
from unetflow.provenance import code_digest, commit, recorded
from unetflow.store import read_json

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "workflow/lib/unetflow"
SCRIPTS = ROOT / "workflow/scripts"

TOP = '''"""Make a thing."""
from unetflow.first import make  # the step
from unetflow.settings.fields import Settings

with open("log") as log:
    make(Settings())
'''
FILES = {
    "settings/__init__.py": "",
    "settings/fields.py": "import unetflow.unrelated\nclass Settings: pass\n",
    "progress.py": "from unetflow.unrelated import show\n",
    "provenance.py": "from unetflow.unrelated import show\n",
    "first.py": (
        "from unetflow.second import part\nfrom unetflow.progress import log\n"
        "def make(settings):\n"
        "    from unetflow.inside import late\n"
        "    return part(late)\n"
    ),
    "second.py": "import unetflow.third as third\ndef part(x):\n    return third.add(x, 1)\n",
    "third.py": "from unetflow import sibling\ndef add(a, b):\n    return a + b\n",
    "sibling.py": "VALUE = 1\n",
    "inside.py": "late = 1\n",
    "unrelated.py": "show = 1\n",
    "report/__init__.py": "",
    "report/page.py": "from unetflow.first import make\n",
    "models/__init__.py": "",
    "models/unet/__init__.py": "",
    "models/unet/settings.py": "from unetflow.unrelated import show\n",
    "models/unet/network.py": (
        "from unetflow.models.unet.settings import show\n"
        "from unetflow.sibling import VALUE\nWIDTH = 1\n"
    ),
    "models/other/__init__.py": "",
    "models/other/network.py": "WIDTH = 2\n",
}


class Project:
    """An adaptor and a package of a few lines."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "unetflow"
        self.adaptor = folder / "make.py"
        self.adaptor.write_text(TOP)
        for name, text in FILES.items():
            path = self.package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def digest(self, *also: str) -> str:
        """Digest of what the adaptor runs."""
        return code_digest(self.adaptor, also)

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        """Change the text of a module, or of the adaptor."""
        path = self.adaptor if name == "make.py" else self.package / name
        path.write_text(change(path.read_text()))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path)
    monkeypatch.setattr(provenance, "PACKAGE", made.package)
    return made


def with_constant(text: str) -> str:
    """Code that does something else."""
    return text + "ADDED = 1\n"


def with_comment(text: str) -> str:
    """Code with a comment at its start and end."""
    return "# first\n" + text + "# last\n"


def with_docstring(text: str) -> str:
    """Code whose module has a docstring."""
    return '"""What it is."""\n' + text


def with_other_layout(text: str) -> str:
    """Code with empty lines and other spaces."""
    return (
        text.replace("\n", "\n\n").replace(" + ", "  +  ").replace("(a, b)", "(\n    a,\n    b\n)")
    )


@pytest.mark.parametrize("change", [with_comment, with_docstring, with_other_layout])
@pytest.mark.parametrize("name", ["make.py", "first.py", "third.py"])
def test_comments_docstrings_and_layout_do_not_count(
    project: Project, name: str, change: Callable[[str], str]
) -> None:
    before = project.digest()
    if not (name == "make.py" and change is with_docstring):  # the adaptor has one already
        project.edit(name, change)
    assert project.digest() == before


def test_docstrings_of_functions_and_classes_do_not_count(project: Project) -> None:
    project.edit("sibling.py", lambda _: "def f():\n    return 1\nclass C:\n    pass\n")
    before = project.digest()
    documented = 'def f():\n    """Say one."""\n    return 1\nclass C:\n    """Be a class."""\n'
    project.edit("sibling.py", lambda _: documented)
    assert project.digest() == before


def test_a_text_that_is_no_docstring_counts(project: Project) -> None:
    project.edit("sibling.py", lambda _: 'NAME = "a"\n')
    before = project.digest()
    project.edit("sibling.py", lambda _: 'NAME = "b"\n')
    assert project.digest() != before


@pytest.mark.parametrize(
    "name", ["make.py", "first.py", "second.py", "third.py", "sibling.py", "inside.py"]
)
def test_the_adaptor_and_what_it_imports_directly_or_not_count(project: Project, name: str) -> None:
    before = project.digest()
    project.edit(name, with_constant)
    assert project.digest() != before


@pytest.mark.parametrize(
    "name",
    [
        "settings/fields.py",
        "progress.py",
        "provenance.py",
        "unrelated.py",
        "report/page.py",
        "models/unet/network.py",
        "models/other/network.py",
    ],
)
def test_settings_progress_provenance_and_what_is_not_imported_do_not_count(
    project: Project, name: str
) -> None:
    before = project.digest()
    project.edit(name, with_constant)
    assert project.digest() == before


def test_of_the_networks_only_the_named_one_counts(project: Project) -> None:
    before = project.digest("models.unet.network")
    assert before != project.digest()
    for name in ("other/network", "unet/settings"):
        project.edit(f"models/{name}.py", with_constant)
    project.edit("unrelated.py", with_constant)
    assert project.digest("models.unet.network") == before
    project.edit("models/unet/network.py", with_constant)
    assert project.digest("models.unet.network") != before


def test_a_new_file_beside_counts_once_it_is_imported(project: Project) -> None:
    before = project.digest()
    (project.package / "fourth.py").write_text("x = 1\n")
    assert project.digest() == before
    project.edit("inside.py", lambda text: "from unetflow.fourth import x\n" + text)
    after = project.digest()
    assert after != before
    project.edit("fourth.py", with_constant)
    assert project.digest() != after


def test_touching_a_file_changes_nothing(project: Project) -> None:
    before = project.digest()
    for path in project.package.rglob("*.py"):
        path.touch()
    assert project.digest() == before


def test_modules_that_import_each_other_are_read_once(project: Project) -> None:
    project.edit("sibling.py", lambda text: "from unetflow import first\n" + text)
    assert project.digest() == project.digest()


# --------------------------------------------------------------------- the package itself


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the package, so that it can be edited."""
    package = tmp_path / "unetflow"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", package)
    return package


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_every_adaptor_has_a_digest_and_keeps_it_where_the_package_lies(
    path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = code_digest(path)
    monkeypatch.setattr(provenance, "PACKAGE", PACKAGE)
    assert code_digest(path) == elsewhere


def edited(copy: Path, name: str, adaptor: str) -> bool:
    """Whether an edit of a module changes the digest of an adaptor."""
    before = code_digest(SCRIPTS / adaptor, ("models.unet.network",))
    path = copy / name
    path.write_text(with_constant(path.read_text(encoding="utf-8")), encoding="utf-8")
    return code_digest(SCRIPTS / adaptor, ("models.unet.network",)) != before


@pytest.mark.parametrize(
    "name",
    [
        "training.py",
        "losses.py",
        "geometry.py",
        "store.py",
        "models/blocks.py",
        "models/unet/network.py",
    ],
)
def test_what_training_runs_retrains(copy: Path, name: str) -> None:
    assert edited(copy, name, "train_model.py")


@pytest.mark.parametrize(
    "name",
    [
        "settings/training.py",
        "settings/networks.py",
        "models/unet/settings.py",
        "progress.py",
        "provenance.py",
        "reference.py",
        "planning.py",
        "segmentation.py",
        "report/page.py",
        "report/figures.py",
        "datasets/layouts.py",
    ],
)
def test_what_training_does_not_run_never_retrains(copy: Path, name: str) -> None:
    assert not edited(copy, name, "train_model.py")


def test_another_network_never_retrains(copy: Path) -> None:
    assert not edited(copy, "models/fcn/network.py", "train_model.py")


# --------------------------------------------------------------------------------- records


def test_a_record_tells_host_time_versions_and_cost(tmp_path: Path) -> None:
    with recorded(tmp_path / "run.json"):
        time.sleep(0.02)
        subprocess.run([sys.executable, "-c", "sum(range(3 * 10**7))"], check=True)
    facts = read_json(tmp_path / "run.json")
    assert facts["wall_seconds"] >= 0.02
    assert facts["cpu_seconds"] > 0.1  # that of the other process
    assert (facts["gpus"], facts["gpu_seconds"]) == ([], 0)
    assert facts["peak_memory_bytes"] > 2**20
    assert facts["cpus"] >= 1
    assert {"host", "platform", "processor", "python", "started", "commit"} <= set(facts)
    assert facts["started"].endswith("+00:00")
    assert set(facts["versions"]) == set(provenance.VERSIONED)
    assert all(facts["versions"].values())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_the_memory_of_a_step_is_not_that_of_the_process_which_began_it() -> None:
    begins = bytearray(b"1") * (400 * 2**20)
    code = "from unetflow.provenance import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 2**20 < int(done.stdout) < len(begins)


@pytest.mark.skipif(shutil.which("git") is None, reason="Git is not installed")
def test_the_commit_is_told_of_files_that_a_checkout_has(tmp_path: Path) -> None:
    def git(*command: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        line = ["git", "-C", str(tmp_path), *who, *command]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()

    file, other = tmp_path / "code.py", tmp_path / "other.py"
    file.write_text("a = 1\n")
    assert commit(file) is None
    git("init")
    git("add", "code.py")
    git("commit", "--message", "first")
    assert commit(file) == git("rev-parse", "HEAD")[:12]
    file.write_text("a = 2\n")
    assert commit(file) == git("rev-parse", "HEAD")[:12] + "-dirty"
    other.write_text("b = 1\n")
    assert commit(other) is None


def test_a_step_adds_what_it_has_counted_to_its_record(tmp_path: Path) -> None:
    with recorded(tmp_path / "run.json") as own:
        own |= {"steps": 7}
    facts = read_json(tmp_path / "run.json")
    assert facts["steps"] == 7
    assert {"wall_seconds", "commit"} <= set(facts)


def test_a_step_that_fails_leaves_no_record(tmp_path: Path) -> None:
    def failing() -> None:
        with recorded(tmp_path / "run.json"):
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        failing()
    assert list(tmp_path.iterdir()) == []
