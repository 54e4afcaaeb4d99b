"""Interleaved timing of several methods for one job, and the tables that come of it."""

from __future__ import annotations

import gc
import os
import platform
import re
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

OUTPUT = Path("results/benchmarks")
COLUMNS = ["case", "method", "median_seconds", "ratio", "peak_mib", "note"]
ROUNDS = 7
LONG = 10.0
"""Seconds from which on a method is run once only."""

Method = Callable[[], object]


@dataclass(frozen=True)
class Prepared:
    """A method that is ready to run.

    Attributes
    ----------
    times : float
        How many times as long the whole job takes, where `run` does a part of it.
    """

    run: Method
    note: str = ""
    times: float = 1.0


class Skip(Exception):
    """Why a peer is not measured; stands in the table."""


def compare(case: str, methods: Mapping[str, Callable[[], Prepared]]) -> list[dict[str, object]]:
    """Time methods in turn, round by round, so that all meet the same state of the machine.

    Parameters
    ----------
    methods : mapping
        Ours first: ratios are against it, and it must run. Each value prepares a method, untimed; a
        peer that is not installed, or raises, is left out with the reason.
    """
    ready: dict[str, Prepared] = {}
    notes: dict[str, str] = {}
    times: dict[str, list[float]] = {}
    ours = next(iter(methods))
    for name, prepare in methods.items():
        try:
            prepared = prepare()
            prepared.run()  # compiles, allocates, warms
            ready[name], notes[name], times[name] = prepared, prepared.note, []
        except Exception as error:
            if name == ours:
                raise
            reason = " ".join(str(error).split())[:80]
            notes[name] = reason if isinstance(error, Skip) else f"skipped: {reason}"
    for _ in range(ROUNDS):
        for name, prepared in ready.items():
            if times[name] and times[name][0] > LONG:
                continue
            start = time.perf_counter()
            prepared.run()
            times[name].append(time.perf_counter() - start)
    rows: list[dict[str, object]] = []
    for name in methods:
        row: dict[str, object] = {"case": case, "method": name, "note": notes[name]}
        if name in ready:
            seconds = median(times[name]) * ready[name].times
            row |= {"median_seconds": seconds, "ratio": seconds / median(times[ours])}
            row["peak_mib"] = peak_mib(ready[name].run)
            if len(times[name]) < ROUNDS:
                row["note"] = f"{notes[name]}; run once".removeprefix("; ")
        rows.append(row)
        print(case, name, row.get("median_seconds"), row["note"], flush=True)
    return rows


def peak_mib(method: Method) -> float:
    """Most memory that a call holds at once, as far as NumPy allocates it."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    method()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (peak - before) / 2**20


def write(name: str, rows: list[dict[str, object]]) -> None:
    """Write `results/benchmarks/NAME.tsv` and put its table into the README."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.to_csv(OUTPUT / f"{name}.tsv", sep="\t", index=False, float_format="%.4g")
    lines = [
        "| case | method | median, ms | against ours | peak, MiB | |",
        "|---|---|---:|---:|---:|---|",
    ]
    for row in table.itertuples():
        measured = ["–"] * 3
        if np.isfinite(row.median_seconds):
            figures = (row.median_seconds * 1e3, row.ratio, row.peak_mib)
            measured = [short(figure) for figure in figures]
        lines.append(f"| {row.case} | {row.method} | {' | '.join(measured)} | {row.note} |")
    lines += ["", f"Measured on {machine()}."]
    readme = Path("README.md")
    text = readme.read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- benchmark {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    new, count = block.subn(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text)
    assert count == 1, f"README.md must have one place for the table {name}: found {count}"
    readme.write_text(new, encoding="utf-8")


def short(figure: float) -> str:
    """Return a figure in three digits."""
    if not np.isfinite(figure):
        return "–"
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def machine() -> str:
    """Processor, cores and versions, as a line below a table."""
    import numba
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8"))
        model = found[1] if found else model
    return (
        f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, "
        f"NumPy {np.__version__}, Numba {numba.__version__}, torch {torch.__version__}; "
        f"medians of {ROUNDS} interleaved rounds"
    )
