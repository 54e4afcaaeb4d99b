"""What long steps show: a bar on a terminal, a line every few seconds in the log."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger("unetflow")
SECONDS_BETWEEN_LINES = 5.0
Item = TypeVar("Item")


@contextmanager
def log_to(path: str) -> Iterator[None]:
    """Send log lines and tracebacks to a file; on an error print one line and exit with 1.

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
    started = time.monotonic()
    try:
        yield
        cpu = sum(os.times()[:4])  # of this process and those that it has waited for
        took = f"took {time.monotonic() - started:.1f} s, with {cpu:.1f} s of CPU since its start"
        logger.info(f"{took}, on {socket.gethostname()} with unetflow {version('unetflow')}")
    except Exception as error:
        logger.error(traceback.format_exc())
        print(f"error: {one_line(error)} (traceback in {path})", file=sys.stderr)
        raise SystemExit(1) from error
    finally:
        logger.removeHandler(handler)
        handler.close()


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
