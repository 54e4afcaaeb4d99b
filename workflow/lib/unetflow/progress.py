"""What long steps show: a bar on a terminal, a line every few seconds in the log."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from unetflow.provenance import Run

logger = logging.getLogger("unetflow")
SECONDS_BETWEEN_LINES = 5.0
RECORD = "record "
"""How the line begins that tells where a step ran, with what, and at what cost."""
TAIL = 20_000
"""Bytes at the end of a log in which a traceback is looked for."""
Item = TypeVar("Item")


@contextmanager
def log_to(path: str) -> Iterator[None]:
    """Send log lines and tracebacks to a file; on an error print one line and exit with 1.

    The last line is `record` and what `provenance.Run` tells, in JSON: a file more for each of the
    many small jobs of an archive would be half of its results.

    Parameters
    ----------
    path : str
        The log, gone on with: a step of several processes has one.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    run = Run()
    try:
        yield
        logger.info("%s%s", RECORD, json.dumps(run.facts(), ensure_ascii=False))
    except Exception as error:
        logger.error(traceback.format_exc())
        print(f"error: {one_line(error)} (traceback in {path})", file=sys.stderr)
        raise SystemExit(1) from error
    finally:
        logger.removeHandler(handler)
        handler.close()


def ending(path: Path) -> tuple[str, str]:
    """How the step that wrote a log has ended, and its error where it failed.

    Returns
    -------
    state : str
        "done", "failed", or "" where the log says neither: the step runs, was killed, or has none.
    """
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(log.tell() - TAIL, 0))
            text = log.read().decode("utf-8", errors="replace").strip()
    except OSError:
        return "", ""
    last = text.rpartition("\n")[2]
    if re.match(rf"\d\d:\d\d:\d\d {RECORD}", last):
        return "done", ""
    return ("failed", last) if "Traceback (most recent call last)" in text else ("", "")


def one_line(error: BaseException) -> str:
    """Return what an error says, or is, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def silence() -> None:
    """Leave progress to another process; errors are still told."""
    logger.setLevel(logging.ERROR)


def log(message: str) -> None:
    """Write a line to the log."""
    logger.info(message)


class Bar:
    """Progress over a known number of steps, with figures such as the loss beside it."""

    def __init__(self, description: str, total: int, done: int = 0) -> None:
        self.description, self.total, self.done = description, total, done
        self.started, self.last_line, self.first = time.monotonic(), time.monotonic(), done
        # None shows the bar on terminals alone.
        disable = None if logger.isEnabledFor(logging.INFO) else True
        self.bar = tqdm(total=total, initial=done, desc=description, disable=disable, leave=False)

    def step(self, **figures: float) -> None:
        """Count one step."""
        self.done += 1
        self.bar.set_postfix(figures, refresh=False)
        self.bar.update()
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES or self.done == self.total:
            self.last_line = now
            left = (now - self.started) / (self.done - self.first) * (self.total - self.done)
            shown = "".join(f", {name} {value:.4g}" for name, value in figures.items())
            log(f"{self.description}: {self.done}/{self.total}{shown}, {left:.0f} s left")

    def close(self) -> None:
        """Take the bar off the terminal."""
        self.bar.close()


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield the items, counting each once it has been dealt with."""
    bar = Bar(description, total)
    try:
        for item in items:
            yield item
            bar.step()
    finally:
        bar.close()


class Waiting(Iterable[Item]):
    """Items of an iterator, and the seconds that their user has waited for them."""

    def __init__(self, items: Iterable[Item]) -> None:
        self.items, self.waited = items, 0.0

    def __iter__(self) -> Iterator[Item]:
        """Hand on each item as it comes."""
        iterator = iter(self.items)
        while True:
            asked = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.waited += time.monotonic() - asked
            yield item
