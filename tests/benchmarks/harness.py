"""Interleaved timing of several methods for one job, and the tables that come of it."""

from __future__ import annotations

import gc
import os
import platform
import re
import time
import tracemalloc
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import ParamSpec, TypeVar

import numpy as np
import pandas as pd

OUTPUT = Path("results/benchmarks")
PAGE = Path("docs/comparison.md")
COLUMNS = ["case", "method", "median_seconds", "ratio", "peak_mib", "note"]
ROUNDS = 7
LONG = 10.0
"""Seconds from which on a method is run once only."""

PEAK_CHANNELS = (64, 128, 256, 512)

Method = Callable[[], object]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


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


def compare(
    case: str,
    methods: Mapping[str, Callable[[], Prepared]],
    rounds: int = ROUNDS,
    traced: bool = True,
) -> list[dict[str, object]]:
    """Time methods in turn, round by round, so that all meet the same state of the machine.

    Parameters
    ----------
    methods : mapping
        Ours first: ratios are against it, and it must run. Each value prepares a method, untimed; a
        peer that is not installed, or raises, is left out with the reason.
    traced : bool
        Whether the peak of memory is what NumPy allocates; false leaves it to the caller.
    """
    ready: dict[str, Prepared] = {}
    notes: dict[str, str] = {}
    times: dict[str, list[float]] = {}
    ours = next(iter(methods))
    for name, prepare in methods.items():
        try:
            prepared = prepare()
            first = timed(prepared)  # compiles, allocates, warms
            ready[name], notes[name] = prepared, prepared.note
            times[name] = [first] if first > LONG else []
        except Exception as error:
            if name == ours:
                raise
            reason = " ".join(str(error).split())[:80]
            notes[name] = reason if isinstance(error, Skip) else f"skipped: {reason}"
    for _ in range(rounds):
        for name, prepared in ready.items():
            if times[name] and times[name][0] > LONG:
                continue
            times[name].append(timed(prepared))
    rows: list[dict[str, object]] = []
    for name in methods:
        row: dict[str, object] = {"case": case, "method": name, "note": notes[name]}
        if name in ready:
            seconds = median(times[name]) * ready[name].times
            row |= {"median_seconds": seconds, "ratio": seconds / median(times[ours])}
            if traced:
                row["peak_mib"] = peak_mib(ready[name].run)
            if len(times[name]) < rounds:
                row["note"] = f"{notes[name]}; run once".removeprefix("; ")
        rows.append(row)
        print(case, name, row.get("median_seconds"), row["note"], flush=True)
    return rows


def timed(prepared: Prepared) -> float:
    """Run once and tell the seconds."""
    start = time.perf_counter()
    prepared.run()
    return time.perf_counter() - start


def peak_mib(method: Method) -> float:
    """Most memory that a call holds at once, as far as NumPy allocates it."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    method()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (peak - before) / 2**20


def in_fresh_process(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call a function of a module in a new process, which inherits neither memory nor its peak."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def process_peak_mib() -> float:
    """Most memory that this process has held at once; NaN where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
    return int(found[1]) / 1024 if found else float("nan")


def synchronised(step: Method, device: str) -> Method:
    """Wait for the device, which works on while the host goes ahead."""
    import torch

    def run() -> None:
        step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def convolution_peak(precision: str, device: str) -> float:
    """Most operations a second of this machine in a convolution of a plane, over channels."""
    return max(convolution_rates(precision, device).values())


def convolution_rates(precision: str, device: str) -> dict[int, float]:
    """Operations a second of this machine in a convolution of a plane, by channels."""
    rates = {}
    for channels in PEAK_CHANNELS:
        run, operations = convolution(channels, precision, device)
        run()
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        rates[channels] = operations / median(times)
    return rates


def convolution(channels: int, precision: str, device: str) -> tuple[Method, int]:
    """Return a convolution of a plane of so many channels, and its operations."""
    import torch

    place = {"device": device, "dtype": torch.bfloat16 if precision == "bf16" else torch.float32}
    extent = 12800 // channels
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False, **place)
    layer = layer.requires_grad_(False).to(memory_format=torch.channels_last)
    pixels = torch.randn(1, channels, extent, extent, **place)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    run = synchronised(partial(layer, pixels), device)
    return run, 2 * 9 * channels**2 * extent**2


def write(name: str, rows: list[dict[str, object]], rounds: int = ROUNDS) -> None:
    """Write `results/benchmarks/NAME.tsv` and put its table into docs/comparison.md."""
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
    lines += ["", f"Measured on {machine()}; medians of {rounds} interleaved rounds."]
    text = PAGE.read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- benchmark {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    new, count = block.subn(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text)
    assert count == 1, f"{PAGE} must have one place for the table {name}: found {count}"
    PAGE.write_text(new, encoding="utf-8")


def read(name: str) -> dict[str, list[dict[str, object]]]:
    """Rows of `results/benchmarks/NAME.tsv` by case; none where it is not there."""
    path = OUTPUT / f"{name}.tsv"
    if not path.is_file():
        return {}
    table = pd.read_csv(
        path, sep="\t", keep_default_na=False, na_values=dict.fromkeys(COLUMNS[2:5], "")
    )
    return {str(case): rows.to_dict("records") for case, rows in table.groupby("case", sort=False)}


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
        f"NumPy {np.__version__}, Numba {numba.__version__}, torch {torch.__version__}"
    )
