"""Which code makes a result, and on what machine and at what cost it was made."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unetflow.store import write_json

PACKAGE = Path(__file__).parent

# Their effect reaches a step as values (its settings) or not at all.
WITHOUT_EFFECT = {"settings", "progress", "monitoring", "provenance"}

VERSIONED = ("unetflow", "torch", "numpy", "scipy", "scikit-image", "zarr", "dask", "snakemake")

DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_digest(adaptor: Path, also: Sequence[str] = ()) -> str:
    """SHA-256 over an adaptor and the modules of this package that it imports, directly or not.

    Comments, docstrings and layout do not count. Imports inside functions do.

    Parameters
    ----------
    adaptor : Path
        The script of a rule.
    also : sequence of str
        Modules that are imported by a computed name, such as "models.unet.network".
    """
    found: dict[str, str] = {}
    digest, names = read_source(adaptor, adaptor.stat().st_mtime_ns)
    waiting = [*names, *also]
    while waiting:
        name = waiting.pop()
        if name in found or not WITHOUT_EFFECT.isdisjoint(name.split(".")):
            continue
        path = module_path(name)
        found[name], names = read_source(path, path.stat().st_mtime_ns)
        waiting += names
    parts = [digest]
    parts += [f"{name} {digest}" for name, digest in sorted(found.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def module_path(name: str) -> Path:
    """File of a module, named without the package."""
    path = PACKAGE.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def read_source(path: Path, _modified_ns: int) -> tuple[str, list[str]]:
    """SHA-256 of a file's code without comments, docstrings and layout; modules that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, DEFINITIONS) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest(), names


def imported(tree: ast.Module) -> list[str]:
    """Modules of this package that a file imports, named without the package."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "unetflow":
            base = (node.module or "").removeprefix("unetflow").removeprefix(".")
            modules = [f"{base}.{alias.name}".removeprefix(".") for alias in node.names]
            names += [base, *(module for module in modules if module_path(module).is_file())]
        elif isinstance(node, ast.Import):
            imports = [alias.name for alias in node.names]
            names += [
                name.removeprefix("unetflow.") for name in imports if name.startswith("unetflow.")
            ]
    return [name for name in names if name]


class Run:
    """What runs from now on: when and where, with which versions, and at what cost."""

    def __init__(self) -> None:
        self.date = datetime.now(UTC).isoformat(timespec="seconds")
        self.started = time.monotonic()

    def facts(self) -> dict[str, Any]:
        """Date, machine and versions; seconds of wall time, of all cores and of all GPUs.

        Those of the cores are since the process began, since many small jobs import for longer than
        they compute. All differ from run to run, so they stand beside results and never in them.
        """
        seconds = time.monotonic() - self.started
        gpus = gpus_in_use()
        return {
            "started": self.date,
            "wall_seconds": round(seconds, 2),
            "cpu_seconds": round(cpu_seconds(), 2),
            "gpus": gpus,
            "gpu_seconds": round(len(gpus) * seconds, 2),
            "peak_memory_bytes": peak_bytes(),
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "processor": processor(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "versions": {package: version(package) for package in VERSIONED},
        }


@contextmanager
def recorded(path: Path) -> Iterator[dict[str, Any]]:
    """Write a `*.run.json` with the facts of what runs inside, and the commit of its code.

    What runs inside may add facts of its own to those yielded, such as what it has counted and
    timed.
    """
    run, own = Run(), dict[str, Any]()
    yield own
    # Git is asked here alone: the records in logs are of small jobs too.
    write_json(path, {**run.facts(), **own, "commit": commit(Path(__file__))})


def processor() -> str:
    """Name of the processor, which Linux alone tells in a file."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit(file: Path) -> str | None:
    """Commit of the checkout that has a file, with "-dirty" if changed; None without one or Git."""

    def said(*command: str) -> str:
        line = ["git", "-C", str(file.parent), *command]
        return subprocess.run(line, capture_output=True, text=True).stdout.strip()

    # A copy inside the user's own checkout is not tracked there.
    if shutil.which("git") is None or not said("ls-files", file.name):
        return None
    return said("describe", "--always", "--dirty", "--abbrev=12") or None


def cpu_seconds() -> float:
    """Time that this process, and those that it has waited for, have had of all cores."""
    return sum(os.times()[:4])


def peak_bytes() -> int:
    """Most memory that this process has held at once.

    Linux tells it in a file; what `getrusage` tells counts the process which began this one too.
    """
    with suppress(OSError), Path("/proc/self/status").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def gpus_in_use() -> list[str]:
    """Names of the GPUs that this process, and those that train with it, have computed on."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return [torch.cuda.get_device_name()] * (torch.distributed.get_world_size() if together else 1)
