"""Downloads over a real server that misbehaves, and archives made to do harm."""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from unetflow.datasets.download import CHUNK_BYTES
from unetflow.datasets.fetch import fetch
from unetflow.settings.datasets import Download

CONTENT = bytes(range(256)) * 1000
KEPT = 2 * CHUNK_BYTES  # of what comes before a connection breaks, whole chunks are kept
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers the n-th request for a path with the path's n-th answer, the last one for ever."""

    server: Server

    def do_GET(self) -> None:
        """Answer and remember the request."""
        answers = self.server.answers[self.path]
        earlier = [path for path, _ in self.server.requests].count(self.path)
        self.server.requests.append((self.path, self.headers.get("Range")))
        with suppress(BrokenPipeError):  # some tests want the client to give up
            answers[min(earlier, len(answers) - 1)](self)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Keep the test output clean."""

    def head(self, status: int, **headers: Any) -> None:
        """Send the status line and headers; `Content_Length` stands for Content-Length."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class Server(ThreadingHTTPServer):
    """A server on a free port of this machine."""

    daemon_threads = False  # so that closing waits for them, and with them for their sockets

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, str | None]] = []

    def url(self, path: str, *answers: Answer) -> str:
        """URL of a path that gives these answers, one after the other."""
        self.answers[path] = list(answers)
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


def whole(content: bytes = CONTENT, etag: str = '"one"', ranges: bool = True) -> Answer:
    """Answer as a good server does, from a file that may be another version than before."""

    def answer(handler: Handler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if ranges and asked and handler.headers.get("If-Range", etag) == etag:
            start, end = int(asked[1]), len(content)
            handler.head(
                206,
                Content_Range=f"bytes {start}-{end - 1}/{end}",
                Content_Length=end - start,
                ETag=etag,
            )
            handler.wfile.write(content[start:])
            return
        handler.head(200, Content_Length=len(content), ETag=etag)
        handler.wfile.write(content)

    return answer


def broken_off(after: int, content: bytes = CONTENT, etag: str = '"one"') -> Answer:
    """Promise the whole file and close the connection in the middle."""

    def answer(handler: Handler) -> None:
        handler.head(200, Content_Length=len(content), ETag=etag)
        handler.wfile.write(content[:after])

    return answer


def stalled(after: int) -> Answer:
    """Promise the whole file, send some of it, and then nothing for longer than anyone waits."""

    def answer(handler: Handler) -> None:
        handler.head(200, Content_Length=len(CONTENT), ETag='"one"')
        handler.wfile.write(CONTENT[:after])
        handler.wfile.flush()
        time.sleep(0.6)

    return answer


def status(number: int, **headers: Any) -> Answer:
    """Answer with a status and no content."""
    return lambda handler: handler.head(number, Content_Length=0, **headers)


def page(handler: Handler) -> None:
    """Answer as a portal that wants a login does: a web page, and all is well."""
    text = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
    handler.head(200, Content_Length=len(text), Content_Type="text/html")
    handler.wfile.write(text)


def sha256(content: bytes) -> str:
    """Give the digest as the registry writes it."""
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve on a free port; a proxy of the environment is not asked."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Place:
    """Where a test fetches to, as the workflow lays it out."""

    def __init__(self, tmp_path: Path) -> None:
        self.dataset = tmp_path / "results" / "datasets" / "one"
        self.archive = self.dataset / "archive"
        self.record = tmp_path / "results" / "record.json"

    def fetch(self, *downloads: Download, attempts: int = 1, **settings: Any) -> None:
        """Fetch without patience."""
        hasty: dict[str, Any] = {"pause_seconds": 0.01, "timeout_seconds": (1.0, 0.2)}
        hasty |= settings
        fetch(downloads, self.archive, self.record, attempts=attempts, **hasty)

    def files(self) -> list[str]:
        """Every file below the dataset's folder."""
        found = self.dataset.rglob("*")
        return sorted(str(path.relative_to(self.dataset)) for path in found if path.is_file())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Give an empty results folder."""
    return Place(tmp_path)


def make_zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Download:
    """Write a zip and return its download."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return Download(url=str(path), sha256=sha256(path.read_bytes()))


def make_tar(
    path: Path, *members: tarfile.TarInfo | tuple[str, bytes], mode: Any = "w"
) -> Download:
    """Write a tar and return its download."""
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return Download(url=str(path), sha256=sha256(path.read_bytes()))


def tar_entry(kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Make an entry that is no file."""
    info = tarfile.TarInfo("entry")
    info.type, info.linkname = kind, target
    return info


# ------------------------------------------------------------------------ what should work


def test_a_plain_file_is_put_into_the_folder_as_it_is(server: Server, place: Place) -> None:
    url = server.url("/sample.hdf?version=2", whole())
    place.fetch(Download(url=url, sha256=sha256(CONTENT), size_bytes=len(CONTENT)))
    assert place.files() == ["archive/sample.hdf"]
    assert (place.archive / "sample.hdf").read_bytes() == CONTENT


def test_a_zip_is_unpacked_and_the_zip_itself_is_gone(
    server: Server, place: Place, tmp_path: Path
) -> None:
    zipped = make_zip(tmp_path / "a.zip", ("x/", b""), ("x/y.tif", b"1"), ("./z.tif", b"2"))
    url = server.url("/download", whole((tmp_path / "a.zip").read_bytes()))
    place.fetch(Download(url=url, sha256=zipped.sha256, file="a.zip"))
    assert place.files() == ["archive/x/y.tif", "archive/z.tif"]


@pytest.mark.parametrize(
    ("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tbz2", "w:bz2"), ("tar.xz", "w:xz")]
)
def test_a_tar_of_any_compression_is_unpacked(
    place: Place, tmp_path: Path, suffix: str, mode: str
) -> None:
    place.fetch(make_tar(tmp_path / f"a.{suffix}", ("x/y.tif", CONTENT), mode=mode))
    assert place.files() == ["archive/x/y.tif"]
    assert (place.archive / "x" / "y.tif").read_bytes() == CONTENT


def test_a_tar_that_the_server_calls_compressed_arrives_as_it_is(
    server: Server, place: Place, tmp_path: Path
) -> None:
    tarred = make_tar(tmp_path / "a.tar.gz", ("x.tif", CONTENT), mode="w:gz")
    content = (tmp_path / "a.tar.gz").read_bytes()

    def answer(handler: Handler) -> None:
        handler.head(200, Content_Length=len(content), Content_Encoding="gzip")
        handler.wfile.write(content)

    place.fetch(Download(url=server.url("/a.tar.gz", answer), sha256=tarred.sha256))
    assert place.files() == ["archive/x.tif"]


def test_a_local_file_is_unpacked_in_place_and_stays(place: Place, tmp_path: Path) -> None:
    zipped = make_zip(tmp_path / "with space.zip", ("x.tif", b"1"))
    place.fetch(Download(url=(tmp_path / "with space.zip").as_uri(), sha256=zipped.sha256))
    assert place.files() == ["archive/x.tif"]
    assert (tmp_path / "with space.zip").exists()


def test_a_local_plain_file_is_copied(place: Place, tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(CONTENT)
    place.fetch(Download(url=str(tmp_path / "a.h5")))
    assert place.files() == ["archive/a.h5"]
    assert (tmp_path / "a.h5").read_bytes() == CONTENT


def test_several_downloads_share_the_folder(place: Place, tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_bytes(b"text")
    place.fetch(
        Download(url=str(tmp_path / "readme.txt")),
        make_zip(tmp_path / "images.zip", ("images/", b""), ("images/1.tif", b"1")),
        make_zip(tmp_path / "masks.zip", ("masks/1.png", b"1"), ("images/2.tif", b"2")),
    )
    assert place.files() == [
        "archive/images/1.tif",
        "archive/images/2.tif",
        "archive/masks/1.png",
        "archive/readme.txt",
    ]


def test_modes_of_an_archive_are_not_kept(place: Place, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("run.sh")
    info.external_attr = (stat.S_IFREG | 0o4777) << 16
    place.fetch(make_zip(tmp_path / "a.zip", (info, b"#!/bin/sh")))
    assert (place.archive / "run.sh").stat().st_mode & 0o7111 == 0


def test_resource_forks_of_macos_are_left_out(place: Place, tmp_path: Path) -> None:
    forks = ("__MACOSX/masks/._1.png", b"fork"), ("masks/._1.png", b"fork")
    place.fetch(make_zip(tmp_path / "a.zip", ("masks/1.png", b"1"), *forks))
    assert place.files() == ["archive/masks/1.png"]


# ----------------------------------------------------------------------- bad connections


def test_a_busy_server_is_asked_again(server: Server, place: Place) -> None:
    url = server.url("/a.tif", status(503), status(503), whole())
    place.fetch(Download(url=url, sha256=sha256(CONTENT)), attempts=3)
    assert len(server.requests) == 3
    assert place.files() == ["archive/a.tif"]


def test_pauses_between_tries_double(
    server: Server, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("unetflow.datasets.download.time.sleep", pauses.append)
    url = server.url("/a.tif", status(503))
    with pytest.raises(ConnectionError, match=r"tries: 4.: 503 .* run the same command again"):
        place.fetch(Download(url=url), attempts=4, pause_seconds=3.0)
    assert pauses == [3.0, 6.0, 12.0]
    assert place.files() == ["a.tif.part"]


def test_a_broken_download_continues_and_no_byte_comes_twice(server: Server, place: Place) -> None:
    url = server.url("/a.tif", broken_off(KEPT + 1000), whole())
    download = Download(url=url, sha256=sha256(CONTENT))
    with pytest.raises(ConnectionError, match=f"to continue after {KEPT} bytes"):
        place.fetch(download)
    assert place.files() == ["a.tif.part", "a.tif.part.json"]
    place.fetch(download)
    assert server.requests == [("/a.tif", None), ("/a.tif", f"bytes={KEPT}-")]
    assert (place.archive / "a.tif").read_bytes() == CONTENT
    assert place.files() == ["archive/a.tif"]


def test_a_stalled_server_is_given_up_and_continued_after(server: Server, place: Place) -> None:
    url = server.url("/a.tif", stalled(KEPT), whole())
    place.fetch(Download(url=url, sha256=sha256(CONTENT)), attempts=2)
    assert [asked for _, asked in server.requests] == [None, f"bytes={KEPT}-"]
    assert (place.archive / "a.tif").read_bytes() == CONTENT


def test_a_server_that_always_stalls_ends_in_an_error(server: Server, place: Place) -> None:
    url = server.url("/a.tif", lambda handler: time.sleep(0.5))
    with pytest.raises(ConnectionError, match=r"tries: 2.: .*[Tt]imed out"):
        place.fetch(Download(url=url), attempts=2)


def test_a_server_without_ranges_sends_the_whole_again(server: Server, place: Place) -> None:
    url = server.url("/a.tif", broken_off(KEPT), whole(ranges=False))
    place.fetch(Download(url=url, sha256=sha256(CONTENT)), attempts=2)
    assert [asked for _, asked in server.requests] == [None, f"bytes={KEPT}-"]
    assert (place.archive / "a.tif").read_bytes() == CONTENT


def test_a_file_that_changed_between_tries_is_fetched_whole(server: Server, place: Place) -> None:
    later = CONTENT[::-1]
    url = server.url("/a.tif", broken_off(KEPT), whole(later, '"two"'))
    place.fetch(Download(url=url, sha256=sha256(later)), attempts=2)
    assert (place.archive / "a.tif").read_bytes() == later


def test_parts_of_two_versions_are_never_joined(server: Server, place: Place) -> None:
    later = CONTENT[::-1]

    def part_regardless(handler: Handler) -> None:
        handler.headers.replace_header("If-Range", '"two"')
        whole(later, '"two"')(handler)

    url = server.url("/a.tif", broken_off(KEPT), part_regardless, whole(later, '"two"'))
    place.fetch(Download(url=url), attempts=3)
    assert [asked for _, asked in server.requests] == [None, f"bytes={KEPT}-", None]
    assert (place.archive / "a.tif").read_bytes() == later


def test_a_file_without_version_is_not_continued(server: Server, place: Place) -> None:
    # A weak ETag does not promise the same bytes.
    url = server.url("/a.tif", broken_off(KEPT, etag='W/"one"'), whole())
    place.fetch(Download(url=url, sha256=sha256(CONTENT)), attempts=2)
    assert [asked for _, asked in server.requests] == [None, None]


def test_the_rest_of_another_url_is_not_continued(server: Server, place: Place) -> None:
    with pytest.raises(ConnectionError, match="to continue"):
        place.fetch(Download(url=server.url("/old/a.tif", broken_off(KEPT))))
    place.fetch(Download(url=server.url("/new/a.tif", whole())))
    assert server.requests[-1] == ("/new/a.tif", None)


def test_a_complete_download_is_not_asked_for_again(server: Server, place: Place) -> None:
    first = Download(url=server.url("/a.tif", whole()), sha256=sha256(CONTENT))
    second = Download(url=server.url("/b.tif", status(404), whole()))
    with pytest.raises(ConnectionError, match="404"):
        place.fetch(first, second)
    place.fetch(first, second)
    assert [path for path, _ in server.requests] == ["/a.tif", "/b.tif", "/b.tif"]
    assert place.files() == ["archive/a.tif", "archive/b.tif"]


def test_a_file_of_unknown_length_ends_with_the_connection(server: Server, place: Place) -> None:
    def answer(handler: Handler) -> None:
        handler.head(200)
        handler.wfile.write(CONTENT)

    place.fetch(Download(url=server.url("/a.tif", answer), sha256=sha256(CONTENT)))
    assert place.files() == ["archive/a.tif"]


def test_a_missing_file_is_an_error_at_once(server: Server, place: Place) -> None:
    url = server.url("/a.tif", status(404))
    with pytest.raises(ConnectionError, match=r"404 .*; correct `url` in the registry"):
        place.fetch(Download(url=url), attempts=5)
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_an_error(place: Place) -> None:
    with socket.socket() as taken:  # bound, so that nobody else gets the port, but not listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.tif"
        with pytest.raises(ConnectionError, match=r"tries: 2.: .*refused.* get the file by hand"):
            place.fetch(Download(url=url), attempts=2)


def test_redirects_are_followed(server: Server, place: Place) -> None:
    url = server.url("/a.tif", status(302, Location="/b"))
    server.url("/b", whole())
    place.fetch(Download(url=url, sha256=sha256(CONTENT)))
    assert place.files() == ["archive/a.tif"]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.tif"])
def test_redirects_to_another_scheme_are_refused(server: Server, place: Place, target: str) -> None:
    url = server.url("/a.tif", status(302, Location=target))
    with pytest.raises(ValueError, match=f"redirects to {target}, which is not http or https"):
        place.fetch(Download(url=url), attempts=5)
    assert len(server.requests) == 1
    assert not place.archive.exists()


def test_redirects_from_https_to_http_are_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A certificate that requests trusts cannot be made here, so its answer is.
    import requests

    answer = requests.Response()
    answer.raw = io.BytesIO()
    answer.status_code, answer.url = 302, "https://host/a.tif"
    answer.headers["Location"] = "http://host/a.tif"

    def get(url: str, hooks: dict[str, Callable[..., None]], **_: Any) -> requests.Response:
        hooks["response"](answer)
        return answer

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(ValueError, match=r"redirects to http://host/a\.tif, which is not https;"):
        place.fetch(Download(url="https://host/a.tif"))


def test_endless_redirects_are_an_error(server: Server, place: Place) -> None:
    url = server.url("/a.tif", status(302, Location="/a.tif"))
    with pytest.raises(ConnectionError, match="Exceeded 30 redirects"):
        place.fetch(Download(url=url))


def test_other_schemes_are_refused(place: Place) -> None:
    with pytest.raises(ValueError, match="only http:, https:, file: and paths can be"):
        place.fetch(Download(url="ftp://host/a.zip"))


# --------------------------------------------------------------------------- wrong content


def test_a_wrong_hash_is_an_error_and_the_file_is_deleted(server: Server, place: Place) -> None:
    url, wanted = server.url("/a.tif", whole()), sha256(b"other")
    with pytest.raises(ValueError, match=f"SHA-256 {sha256(CONTENT)} and should have {wanted}"):
        place.fetch(Download(url=url, sha256=wanted))
    assert place.files() == []


def test_the_beginning_of_a_hash_is_enough(server: Server, place: Place) -> None:
    url = server.url("/a.tif", whole())
    place.fetch(Download(url=url, sha256=sha256(CONTENT)[:8]))
    assert place.files() == ["archive/a.tif"]
    assert not place.record.exists()


def test_a_wrong_beginning_of_a_hash_is_an_error(server: Server, place: Place) -> None:
    with pytest.raises(ValueError, match="should have 00000000;"):
        place.fetch(Download(url=server.url("/a.tif", whole()), sha256="0" * 8))
    assert place.files() == []


def test_a_web_page_instead_of_a_file_with_hash_is_a_wrong_hash(
    server: Server, place: Place
) -> None:
    with pytest.raises(ValueError, match=r"has SHA-256 \w+ \(it is a web page\) and should have"):
        place.fetch(Download(url=server.url("/a.zip", page), sha256=sha256(CONTENT)))
    assert place.files() == []


@pytest.mark.parametrize(
    ("name", "kind"), [("a.zip", "a zip or tar archive"), ("a.hdf", "the file")]
)
def test_a_web_page_instead_of_a_file_without_hash_is_recognised(
    server: Server, place: Place, name: str, kind: str
) -> None:
    with pytest.raises(ValueError, match=f"sent a web page, not {kind}; open it in a browser"):
        place.fetch(Download(url=server.url(f"/{name}", page)))
    assert place.files() == []
    assert not place.record.exists()


def test_anything_else_instead_of_a_zip_without_hash_is_no_zip(
    server: Server, place: Place
) -> None:
    with pytest.raises(ValueError, match=r"a\.zip is truncated, corrupt or not .* not a zip file"):
        place.fetch(Download(url=server.url("/a.zip", whole())))
    assert place.files() == []
    assert not place.record.exists()


def test_a_wrong_size_is_an_error(server: Server, place: Place) -> None:
    with pytest.raises(ValueError, match="has 256000 bytes and should have 256001;"):
        place.fetch(Download(url=server.url("/a.tif", whole()), size_bytes=256_001))
    assert place.files() == []


def test_fewer_bytes_than_promised_are_an_error(server: Server, place: Place) -> None:
    url = server.url("/a.tif", broken_off(len(CONTENT) - 1))
    with pytest.raises(ConnectionError, match=r"255999"):
        place.fetch(Download(url=url))


def test_more_bytes_than_promised_are_cut_off_and_found_by_hash(
    server: Server, place: Place
) -> None:
    def answer(handler: Handler) -> None:
        handler.head(200, Content_Length=100)
        handler.wfile.write(CONTENT)

    with pytest.raises(ValueError, match=f"{sha256(CONTENT[:100])} and should have"):
        place.fetch(Download(url=server.url("/a.tif", answer), sha256=sha256(CONTENT)))
    assert place.files() == []


def test_a_file_without_published_hash_must_stay_the_same(server: Server, place: Place) -> None:
    url = server.url("/a.tif", whole(), whole(), whole(b"other"))
    place.fetch(Download(url=url))
    recorded = json.loads(place.record.read_text())
    assert recorded[url]["sha256"] == sha256(CONTENT)
    assert recorded[url]["size_bytes"] == len(CONTENT)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", recorded[url]["date"])

    (place.archive / "a.tif").unlink()
    place.fetch(Download(url=url))
    assert json.loads(place.record.read_text()) == recorded

    (place.archive / "a.tif").unlink()
    change = f"SHA-256 {sha256(b'other')} and had {sha256(CONTENT)} on .* delete the entry of"
    with pytest.raises(ValueError, match=change):
        place.fetch(Download(url=url))
    assert place.files() == []
    assert json.loads(place.record.read_text()) == recorded


def test_the_record_keeps_what_it_has(place: Place, tmp_path: Path) -> None:
    place.record.parent.mkdir()
    place.record.write_text('{"https://host/b": {"sha256": "1"}}')
    (tmp_path / "a.h5").write_bytes(CONTENT)
    place.fetch(Download(url=str(tmp_path / "a.h5")))
    assert list(json.loads(place.record.read_text())) == [str(tmp_path / "a.h5"), "https://host/b"]


def test_a_wrong_local_file_is_not_deleted(place: Place, tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(CONTENT)
    with pytest.raises(ValueError, match="should have"):
        place.fetch(Download(url=str(tmp_path / "a.h5"), sha256="0" * 64))
    assert (tmp_path / "a.h5").exists()
    assert place.files() == []


# ------------------------------------------------------------------------------- refusals


def test_a_missing_local_file_is_an_error(place: Place, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.zip; correct `url`"):
        place.fetch(Download(url=str(tmp_path / "a.zip")))


def test_nothing_to_fetch_is_an_error(place: Place) -> None:
    with pytest.raises(ValueError, match="the dataset has no `downloads`"):
        place.fetch()


def test_a_folder_that_is_not_empty_is_left_alone(place: Place, tmp_path: Path) -> None:
    place.archive.mkdir(parents=True)
    (place.archive / "mine.tif").write_bytes(b"1")
    with pytest.raises(FileExistsError, match="is not empty; delete it"):
        place.fetch(make_zip(tmp_path / "a.zip", ("x.tif", b"1")))
    assert place.files() == ["archive/mine.tif"]


def test_two_downloads_of_one_name_are_an_error(place: Place, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    downloads = [make_zip(path / "a.zip", ("x", b"1")) for path in (tmp_path, tmp_path / "b")]
    with pytest.raises(ValueError, match=r"under one name: a\.zip, a\.zip; set `file`"):
        place.fetch(*downloads)


@pytest.mark.parametrize("name", ["../a.zip", "/a.zip", "x/a.zip", "x\\a.zip", ".."])
def test_a_download_is_stored_under_a_plain_name(place: Place, name: str) -> None:
    with pytest.raises(ValueError, match="is no file name; set `file`"):
        place.fetch(Download(url="http://127.0.0.1/a.zip", file=name))


def test_a_download_larger_than_the_disk_is_not_begun(server: Server, place: Place) -> None:
    url = server.url("/a.zip", whole())
    with pytest.raises(OSError, match=r"fetch a\.zip: it needs 1000000\.000 GB and .* are free in"):
        place.fetch(Download(url=url, size_bytes=10**15))
    assert server.requests == []


def test_a_download_that_turns_out_larger_than_the_disk_is_not_continued(
    server: Server, place: Place
) -> None:
    url = server.url("/a.zip", lambda handler: handler.head(200, Content_Length=10**15))
    with pytest.raises(OSError, match="not enough disk to fetch http"):
        place.fetch(Download(url=url), attempts=5)
    assert len(server.requests) == 1


def test_an_archive_that_unpacks_to_more_than_the_disk_is_not_unpacked(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 100})
    monkeypatch.setattr("unetflow.datasets.extract.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"not enough disk to unpack a\.tar\.gz: it needs 0\.000 GB"):
        place.fetch(make_tar(tmp_path / "a.tar.gz", ("x.tif", CONTENT), mode="w:gz"))
    assert place.files() == []


# ---------------------------------------------------------------------- malicious archives


@pytest.mark.parametrize(
    "name", ["../x.tif", "a/../../x.tif", "/x.tif", "C:/x.tif", "c:x.tif", "..\\x.tif", "a\\x.tif"]
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_no_path_leads_out_of_the_folder(
    place: Place, tmp_path: Path, make: Callable[..., Download], name: str
) -> None:
    path = tmp_path / ("a.zip" if make is make_zip else "a.tar")
    message = f"{path.name} is not safe to unpack: {name!r} leads out of the folder"
    with pytest.raises(ValueError, match=re.escape(message)):
        place.fetch(make(path, ("good.tif", b"1"), (name, b"2")))
    assert place.files() == []
    assert not list(tmp_path.rglob("x.tif"))
    assert path.exists()


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (tar_entry(tarfile.SYMTYPE, "/etc/passwd"), "a symbolic link"),
        (tar_entry(tarfile.LNKTYPE, "good.tif"), "a hard link"),
        (tar_entry(tarfile.CHRTYPE), "a device or pipe"),
        (tar_entry(tarfile.BLKTYPE), "a device or pipe"),
        (tar_entry(tarfile.FIFOTYPE), "a device or pipe"),
    ],
)
def test_only_plain_files_are_unpacked_from_a_tar(
    place: Place, tmp_path: Path, entry: tarfile.TarInfo, kind: str
) -> None:
    with pytest.raises(
        ValueError, match=f"not safe to unpack: 'entry' is {kind}, not a plain file"
    ):
        place.fetch(make_tar(tmp_path / "a.tar", ("good.tif", b"1"), entry))
    assert place.files() == []


@pytest.mark.parametrize(
    ("mode", "kind"), [(stat.S_IFLNK, "a symbolic link"), (stat.S_IFIFO, "a device or pipe")]
)
def test_only_plain_files_are_unpacked_from_a_zip(
    place: Place, tmp_path: Path, mode: int, kind: str
) -> None:
    info = zipfile.ZipInfo("entry")
    info.external_attr = (mode | 0o777) << 16
    with pytest.raises(ValueError, match=f"not safe to unpack: 'entry' is {kind}"):
        place.fetch(make_zip(tmp_path / "a.zip", (info, b"/etc/passwd")))
    assert place.files() == []


def test_an_encrypted_zip_is_refused(place: Place, tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", ("x.tif", b"1"))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag, in the central directory
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"'x\.tif' is an encrypted file"):
        place.fetch(Download(url=str(tmp_path / "a.zip")))


@pytest.mark.parametrize(("name", "mode"), [("a.zip", ""), ("a.tar.gz", "w:gz")])
def test_a_bomb_is_refused_before_it_goes_off(
    place: Place, tmp_path: Path, name: str, mode: str
) -> None:
    member, path = ("x.tif", bytes(10**6)), tmp_path / name
    bomb = make_tar(path, member, member, mode=mode) if mode else make_zip(path, member)
    with pytest.raises(ValueError, match="it unpacks to more than 999999 bytes"):
        place.fetch(bomb, max_bytes=999_999)
    assert place.files() == []


def test_too_many_entries_are_refused(place: Place, tmp_path: Path) -> None:
    entries = [(f"{number}.tif", b"") for number in range(11)]
    with pytest.raises(ValueError, match="it holds more than 10 entries"):
        place.fetch(make_zip(tmp_path / "a.zip", *entries), max_members=10)
    assert place.files() == []


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("x.tif", "x.tif", "'x.tif' is there twice"),
        ("x.tif", "./x.tif", "'x.tif' is there twice"),
        ("x.tif", "X.tif", "'X.tif' clashes with 'x.tif'"),
        ("a/x.tif", "A/y.tif", "'A' clashes with 'a'"),
        ("a", "a/x.tif", "'a' clashes with 'a'"),
        ("a/x.tif", "a", "'a' clashes with 'a'"),
    ],
)
def test_entries_that_clash_are_refused(
    place: Place, tmp_path: Path, first: str, second: str, message: str
) -> None:
    with pytest.raises(ValueError, match=f"not safe to unpack: {message}"):
        place.fetch(make_tar(tmp_path / "a.tar", (first, b"1"), (second, b"2")))
    assert place.files() == []


def test_entries_of_two_downloads_that_clash_are_refused(place: Place, tmp_path: Path) -> None:
    one = make_zip(tmp_path / "1.zip", ("x.tif", b"1"))
    two = make_zip(tmp_path / "2.zip", ("x.tif", b"2"))
    with pytest.raises(ValueError, match=r"2\.zip is not safe to unpack: 'x\.tif' is there twice"):
        place.fetch(one, two)
    assert place.files() == []


def test_a_plain_file_that_clashes_with_an_entry_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(b"2")
    zipped = make_zip(tmp_path / "1.zip", ("x.tif", b"1"))
    with pytest.raises(ValueError, match=r"'x\.tif' is there twice"):
        place.fetch(Download(url=str(tmp_path / "x.tif")), zipped)
    assert place.files() == []


@pytest.mark.parametrize("keep", [0, 10, 700, 0.5, 0.8])
@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_truncated_archive_is_one_line_that_names_it(
    server: Server, place: Place, tmp_path: Path, suffix: str, keep: float
) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(256))
    members = [(f"{number}.tif", noise) for number in range(3)]
    kind = suffix.partition(".")[2]
    if suffix == "zip":
        make_zip(path, *members)
    else:
        make_tar(path, *members, mode=f"w:{kind}")
    content = path.read_bytes()
    cut = content[: keep if isinstance(keep, int) else int(len(content) * keep)]
    with pytest.raises(
        ValueError, match=r"\Aa\.[a-z0-9.]+ is truncated, corrupt or .*\Z"
    ) as caught:
        place.fetch(Download(url=server.url(f"/{path.name}", whole(cut))))
    assert "\n" not in str(caught.value)
    assert place.files() == []
    assert not place.record.exists()


def test_a_tar_cut_between_two_entries_is_truncated(place: Place, tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", ("1.tif", bytes(512)), ("2.tif", bytes(512)))
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:1024])
    with pytest.raises(ValueError, match="no valid header at byte 1024"):
        place.fetch(Download(url=str(tmp_path / "a.tar")))
    assert place.files() == []


def test_a_zip_with_a_flipped_bit_is_corrupt(place: Place, tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", ("x.tif", CONTENT), ("y.tif", b"y"))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[200] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.zip is truncated, corrupt or not"):
        place.fetch(Download(url=str(tmp_path / "a.zip")))
    assert place.files() == []


def test_what_a_killed_run_left_half_unpacked_is_replaced(place: Place, tmp_path: Path) -> None:
    half = place.dataset / "archive.partial"
    half.mkdir(parents=True)
    (half / "half.tif").write_bytes(b"1")
    place.fetch(make_zip(tmp_path / "a.zip", ("x.tif", b"1")))
    assert place.files() == ["archive/x.tif"]
