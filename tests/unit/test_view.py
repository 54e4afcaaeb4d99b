"""Volumes in neuroglancer: which are served, where, and that a browser gets their bytes."""

from __future__ import annotations

import io
import re
import shutil
import sys
import zlib
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import requests

from unetflow.report import view
from unetflow.store import create_image, open_image, write_json

CHROMIUM = shutil.which("chromium")
ARCHIVES = {"tissue": ["a", "b"], "empty": []}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An archive with one volume that is done and one that failed."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "results/archives/tissue"
    pixels = rng.integers(0, 4000, (5, 300, 350)).astype(np.uint16)
    sizes = {"z": 2.0, "y": 0.5, "x": 0.5}
    create_image(tmp_path / "a.ome.zarr", "zyx", pixels.shape, np.uint16, sizes)[...] = pixels
    labels = np.kron(rng.integers(0, 9, (5, 6, 7)), np.ones((1, 50, 50))).astype(np.uint32)
    image = folder / "a/segmentation.ome.zarr"
    create_image(image, "zyx", labels.shape, np.uint32, sizes)[...] = labels
    image = folder / "a/prediction.ome.zarr"
    foreground = rng.random((1, 5, 300, 350)).astype(np.float16)
    create_image(image, "czyx", foreground.shape, np.float16, sizes)[...] = foreground
    write_json(folder / "plan.json", {"volumes": {"a": {"path": str(tmp_path / "a.ome.zarr")}}})
    write_json(folder / "a/summary.json", {"state": "done"})
    write_json(folder / "b/summary.json", {"state": "failed"})
    return tmp_path / "results"


@pytest.mark.parametrize("wanted", ["", "tissue", "tissue/a"])
def test_volumes_that_are_done_are_viewed(results: Path, wanted: str) -> None:
    assert view.volumes_to_view(results, ARCHIVES, wanted) == [("tissue", "a")]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("other/a", "view must name an archive, or ARCHIVE/VOLUME: got 'other/a'; choose one of"),
        ("tissue/c", "view must name a volume of tissue: got 'c'; choose one of a, b$"),
        ("tissue/", "view must name a volume of tissue: got ''; choose one of a, b$"),
        ("tissue/b", "a volume must be segmented to be viewed: none of 1 is"),
        ("empty", "none of 0 is"),
    ],
)
def test_a_volume_that_is_not_there_is_told(results: Path, wanted: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        view.volumes_to_view(results, ARCHIVES, wanted)
    assert "\n" not in str(raised.value)


def test_many_volumes_are_not_opened_at_once(results: Path) -> None:
    many = [f"v{number}" for number in range(view.MOST + 1)]
    for name in many:
        write_json(results / "archives/tissue" / name / "summary.json", {"state": "done"})
    with pytest.raises(ValueError, match=f"at most {view.MOST} .* name one, as VOLUME=tissue/v0"):
        view.volumes_to_view(results, {"tissue": many}, "tissue")
    assert view.volumes_to_view(results, {"tissue": many}, "tissue/v3") == [("tissue", "v3")]


def test_without_neuroglancer_one_line_says_how_to_get_it(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "neuroglancer", None)
    with (
        pytest.raises(ValueError, match=r"view needs neuroglancer: .*unetflow\[view\]"),
        view.served(results, [("tissue", "a")], 0),
    ):
        pass


def test_files_are_served_to_those_who_know_the_address_until_the_end(results: Path) -> None:
    pytest.importorskip("neuroglancer", reason="neuroglancer is not installed")
    import neuroglancer

    with view.served(results, [("tissue", "a")], 0) as addresses:
        address = addresses["tissue", "a"]
        assert address.startswith("http://127.0.0.1:")
        assert "neuroglancer" in requests.get(address, timeout=10).text.lower()
        server = neuroglancer.server.global_server
        base = f"{server.server_url}/{server.token}/tissue/a/segmentation.ome.zarr"
        for file in (results / "archives/tissue/a/segmentation.ome.zarr").rglob("*"):
            if file.is_file():
                name = file.relative_to(results / "archives/tissue/a/segmentation.ome.zarr")
                assert requests.get(f"{base}/{name}", timeout=10).content == file.read_bytes()
        part = requests.get(f"{base}/zarr.json", headers={"Range": "bytes=-5"}, timeout=10)
        assert (part.status_code, len(part.content)) == (206, 5)
        wrong = base.replace(server.token, "0" * 40)
        assert requests.get(f"{wrong}/zarr.json", timeout=10).status_code == 404
        outside = f"{server.server_url}/{server.token}/%2e%2e/%2e%2e/a.ome.zarr/zarr.json"
        assert requests.get(outside, timeout=10).status_code in (403, 404)
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=10)


def test_pixels_are_handed_on_in_types_that_browsers_draw() -> None:
    for dtype, drawn in (("bool", "uint8"), ("float64", "float32"), ("uint16", "uint16")):
        pixels = view.Drawn(np.arange(12).reshape(3, 4).astype(dtype))
        assert pixels.dtype == drawn
        assert pixels[1:, 2].dtype == drawn
        np.testing.assert_array_equal(pixels[1:, 2], pixels.pixels[1:, 2])


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_a_browser_draws_every_layer_and_asks_nobody_else(results: Path) -> None:
    pytest.importorskip("neuroglancer", reason="neuroglancer is not installed")
    browsers = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    options = "--no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader"
    with (
        view.served(results, [("tissue", "a")], 0) as addresses,
        browsers.sync_playwright() as running,
    ):
        browser = running.chromium.launch(executable_path=CHROMIUM, args=options.split())
        page = browser.new_page(viewport={"width": 700, "height": 500})
        answers, errors = {}, []
        page.on("response", lambda answer: answers.setdefault(answer.url, answer.status))
        page.on("pageerror", lambda error: errors.append(str(error)))
        whole = re.compile(r"/neuroglancer/npz/.*/1,1,1/")
        with (
            page.expect_response(whole) as image,
            page.expect_response(re.compile("segmentation.ome.zarr/0/c/0/0/0")) as labels,
        ):
            page.goto(addresses["tissue", "a"])
        assert image.value.ok
        assert labels.value.ok
        # What a worker has read is hidden from here, so it is asked for again.
        url = image.value.url
        served = requests.get(url, timeout=10).content
        coloured = 0.0
        for _ in range(100):
            picture = page.locator("canvas").first.screenshot()
            drawn = matplotlib.image.imread(io.BytesIO(picture))[..., :3]
            # Instances have colours, the image alone has none.
            coloured = max(coloured, float((np.ptp(drawn, axis=-1) > 0.1).mean()))
            if coloured > 0.1:
                break
            page.wait_for_timeout(100)
        browser.close()
    assert coloured > 0.1
    start, end = (map(int, corner.split(",")) for corner in url.split("/")[-2:])
    region = tuple(map(slice, start, end))
    pixels = np.asarray(open_image(results.parent / "a.ome.zarr").array)[region]
    np.testing.assert_array_equal(np.load(io.BytesIO(zlib.decompress(served))), pixels)
    asked = {it for it in answers if not it.startswith(("blob:", "data:"))}
    assert all(it.startswith("http://127.0.0.1:") for it in asked)
    assert errors == []


def test_probabilities_are_served_whatever_is_stored(results: Path) -> None:
    prediction = open_image(results / "archives/tissue/a/prediction.ome.zarr")
    served = view.Foreground(prediction)
    assert served.shape == (5, 300, 350)
    region = (slice(1, 3), slice(10, 20), slice(0, 350))
    expected = np.asarray(prediction.array[0, 1:3, 10:20]).astype(np.float32)
    np.testing.assert_array_equal(served[region], expected)


def test_values_are_a_layer_of_grey_values_and_there_are_no_instances(results: Path) -> None:
    neuroglancer = pytest.importorskip("neuroglancer")
    folder = results / "archives/tissue/a"
    for name in ("segmentation.ome.zarr", "prediction.ome.zarr"):
        shutil.rmtree(folder / name)
    values = np.random.default_rng(1).normal(500, 100, (1, 5, 300, 350)).astype(np.float16)
    about = {"unetflow": {"output": "values", "channels": ["target"]}}
    path = folder / "prediction.ome.zarr"
    create_image(path, "czyx", values.shape, np.float16, {}, attributes=about)[...] = values
    viewer = neuroglancer.UnsynchronizedViewer()
    row = {"path": str(results.parent / "a.ome.zarr")}
    view.add_layers(viewer, row, folder, "http://nowhere")
    assert [layer.name for layer in viewer.state.layers] == ["image", "values"]
    low, high = viewer.state.layers["values"].shader_controls["normalized"].range
    assert 200 < low < 500 < high < 800
