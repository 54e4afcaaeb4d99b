"""One file over HTTP, continued where an earlier try broke off; pooch does the transfer."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

import pooch
from requests import Response
from requests import exceptions as requests_errors
from tqdm import tqdm

from unetflow.datasets.extract import require_space
from unetflow.progress import SECONDS_BETWEEN_LINES, log

# What a connection that breaks may lose: urllib3 hands out whole chunks or nothing.
CHUNK_BYTES = 2**16
BY_HAND = "or get the file by hand and name the copy as `url` in a registry override"
WORTH_ANOTHER_TRY = (
    ConnectionError,
    requests_errors.ConnectionError,
    requests_errors.Timeout,
    requests_errors.ChunkedEncodingError,
)
# Request timeout, part no longer there, too many requests; all 5xx beside them.
PASSING_STATUS = {408, 416, 429}


def download_file(
    url: str,
    part: Path,
    attempts: int,
    pause_seconds: float,
    timeout_seconds: tuple[float, float],
) -> None:
    """Bring the file `part` to its full length.

    `part` and its `.json`, which says of which version of the file it is, may be there from an
    earlier call: of an unchanged file only the rest is asked for, of a complete one nothing.

    Parameters
    ----------
    url : str
        http: or https:.
    part : Path
        In an existing folder.
    attempts : int
        Tries in all; broken connections and overloaded servers are worth another one.
    pause_seconds : float
        Before the second try; doubled before each further one.
    timeout_seconds : (float, float)
        How long to wait for a connection, and for the next bytes.

    Raises
    ------
    ConnectionError
        If no try succeeds, or the server says that none will. What came is kept.
    ValueError
        If the server redirects from https: to http:, or to anything else.
    OSError
        If the disk is too small.
    """
    log(f"fetching {url}")
    for attempt in range(1, attempts + 1):
        try:
            _transfer(url, part, timeout_seconds)
            return
        except (ConnectionError, requests_errors.RequestException) as error:
            if not _is_worth_another_try(error):
                raise ConnectionError(
                    f"cannot fetch {url}: {error}; correct `url` in the registry, {BY_HAND}"
                ) from error
            if attempt == attempts:
                kept_bytes = part.stat().st_size if part.exists() else 0
                raise ConnectionError(
                    f"cannot fetch {url} (tries: {attempts}): {error}; run the same command again "
                    f"to continue after {kept_bytes} bytes, {BY_HAND}"
                ) from error
            pause = pause_seconds * 2 ** (attempt - 1)
            log(f"{error}; try {attempt + 1} of {attempts} in {pause:g} s")
            time.sleep(pause)


def delete_part(part: Path) -> None:
    """Delete what a download has brought, complete or not."""
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def _is_worth_another_try(error: Exception) -> bool:
    answer = getattr(error, "response", None)
    if answer is not None:  # not its truth value: that of an answer with an error status is False
        return bool(answer.status_code >= 500 or answer.status_code in PASSING_STATUS)
    return isinstance(error, WORTH_ANOTHER_TRY)


# pooch 1.9 starts every download from nothing and, in `pooch.retrieve`, deletes what came before
# an error. Its HTTPDownloader does stream into an open file and hands keyword arguments to
# requests, so the two headers and the hook below are all that continuing needs.
def _transfer(url: str, part: Path, timeout_seconds: tuple[float, float]) -> None:
    """Make one request and append what it brings."""
    state = _read_state(part, url)
    kept_bytes = part.stat().st_size if part.exists() else 0
    if kept_bytes and state.get("total_bytes") == kept_bytes:
        return
    headers = {"Accept-Encoding": "identity"}  # parts are counted in bytes of the file as it is
    validator = state.get("validator") if kept_bytes else None
    if validator:
        headers |= {"Range": f"bytes={kept_bytes}-", "If-Range": validator}
    answers: list[Response] = []
    with part.open("ab") as file:

        def begin(answer: Response, **_: Any) -> None:
            answers.append(answer)
            if answer.is_redirect:
                _require_safe_redirect(answer)
            elif answer.ok:
                # Some servers call a .tar.gz a compressed .tar; requests would unpack that.
                answer.raw.headers.pop("Content-Encoding", None)
                total_bytes = _begin(answer, file, kept_bytes, validator)
                _write_state(part, url, _validator(answer), total_bytes)
                missing_bytes = (total_bytes or 0) - part.stat().st_size
                require_space(part.parent, missing_bytes, f"fetch {url}")

        meter = _Meter(part.stem)
        transfer = pooch.HTTPDownloader(
            progressbar=meter,
            chunk_size=CHUNK_BYTES,
            timeout=timeout_seconds,
            headers=headers,
            hooks={"response": begin},
        )
        try:
            transfer(url, file, None)
        finally:
            meter.close()
            for answer in answers:  # pooch leaves them open when a transfer breaks off
                answer.close()
    came_bytes = part.stat().st_size
    total_bytes = _read_state(part, url).get("total_bytes")
    if total_bytes is None:  # only now known: the server did not say
        _write_state(part, url, _validator(answers[-1]), came_bytes)
    elif came_bytes != total_bytes:
        raise ConnectionError(f"{came_bytes} of {total_bytes} bytes came")


def _begin(answer: Response, file: IO[bytes], kept_bytes: int, validator: str | None) -> int | None:
    """Place the file for what an answer brings; return the file's full length, if it is known."""
    if answer.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        same = _validator(answer) in (None, validator)
        if found and int(found[1]) == kept_bytes and same:
            log(f"continuing after {kept_bytes} bytes")
            return int(found[2])
        file.truncate(0)
        raise ConnectionError("the server sent another part than was asked for")
    file.truncate(0)
    length = answer.headers.get("Content-Length")
    return int(length) if length else None


def _require_safe_redirect(answer: Response) -> None:
    target = urljoin(answer.url, answer.headers["Location"])
    allowed = {"https"} if urlsplit(answer.url).scheme == "https" else {"http", "https"}
    if urlsplit(target).scheme not in allowed:
        raise ValueError(
            f"{answer.url} redirects to {target}, which is not {' or '.join(sorted(allowed))}; "
            f"correct `url` in the registry, {BY_HAND}"
        )


def _validator(answer: Response) -> str | None:
    """Return what tells this version of the file from others: a strong ETag, or else the date."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified")


def _state_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path, url: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(_state_path(part).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return state if state["url"] == url else {}


def _write_state(part: Path, url: str, validator: str | None, total_bytes: int | None) -> None:
    state = {"url": url, "validator": validator, "total_bytes": total_bytes}
    _state_path(part).write_text(json.dumps(state))


class _Meter:
    """What pooch reports to: a bar on terminals, a line every few seconds in the log."""

    def __init__(self, name: str) -> None:
        self.name, self.total, self.done, self.last_line = name, 0, 0, time.monotonic()
        # `disable=None` shows the bar on terminals alone.
        self.bar = tqdm(desc=name, unit="B", unit_scale=True, disable=None, leave=False)

    def update(self, size_bytes: int) -> None:
        """Count bytes; of the last chunk pooch reports more than came."""
        self.done = min(self.done + size_bytes, self.total or self.done + size_bytes)
        self.bar.total = self.total
        self.bar.update(size_bytes)
        if time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            log(f"{self.name}: {self.done / 1e6:.1f} of {self.total / 1e6:.1f} MB")

    def reset(self) -> None:
        """Start anew, as pooch does before it reports the whole."""
        self.done = 0
        self.bar.reset()

    def close(self) -> None:
        """Take the bar off the terminal."""
        self.bar.close()
