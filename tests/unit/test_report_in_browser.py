"""The archive part of the report as a browser shows it: tables, filters and slices."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from unetflow.report.page import build
from unetflow.store import create_image, write_json, write_text

TEMPLATE = Path(__file__).parents[2] / "workflow/report/index.html.j2"
CHROMIUM = shutil.which("chromium")
DEPTH = 7
FURTHER = [f"surface_dice_{level}" for level in range(30)]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
    ),
]


def write_archive(results: Path) -> None:
    """Write 30 volumes: 3 failed, 2 unlike the training data, 1 missing, the others done.

    Volumes v04 and v05 have pixels: planes of one grey value each, ever brighter, with one object
    in the upper left quarter.
    """
    folder = results / "archives/tissue"
    grey = np.linspace(0, 250, DEPTH).astype(np.uint8)
    pixels = np.broadcast_to(grey[:, None, None], (DEPTH, 60, 80))
    labels = np.zeros(pixels.shape, np.uint32)
    labels[:, :30, :40] = 5
    rows, planned = [], {}
    rng = np.random.default_rng(0)
    for number in range(30):
        volume, state = f"v{number:02d}", "done"
        if number in (3, 13, 23):
            state = "failed"
        elif number == 29:
            state = "missing"
        done = state == "done"
        planned[volume] = {"path": str(results / f"{volume}.ome.zarr")}
        rows.append(
            {
                "volume": volume,
                "state": state,
                "reason": "<broken> file" if state == "failed" else "",
                "outlier": "twice as bright" if number in (4, 5) else "",
                "objects": int(rng.integers(1, 3000)) if done else "",
                "median_size": 12.5 if done else "",
                "path": planned[volume]["path"],
                "v_rand": round(float(rng.random()), 6) if done else "",
                **{f"{name}_cell": 0.987654 if done else "" for name in FURTHER},
            }
        )
        write_json(folder / volume / "summary.json", {"state": state})
        if done:
            file = io.BytesIO()
            matplotlib.image.imsave(file, rng.random((20, 30)), format="webp")
            (folder / volume / "thumbnail.webp").write_bytes(file.getvalue())
    for volume in ("v04", "v05"):
        create_image(results / f"{volume}.ome.zarr", "zyx", pixels.shape, np.uint8, {})[...] = (
            pixels
        )
        path = folder / volume / "segmentation.ome.zarr"
        create_image(path, "zyx", labels.shape, np.uint32, {})[...] = labels
        path = folder / volume / "prediction.ome.zarr"
        likely = (labels > 0)[None].astype(np.float16)
        create_image(path, "czyx", likely.shape, np.float16, {})[...] = likely
    write_json(folder / "plan.json", {"volumes": planned})
    lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    write_text(folder / "summary.tsv", "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    results = tmp_path_factory.mktemp("results")
    write_archive(results)
    page = results / "report/index.html"
    build(results, {}, {}, {}, ["tissue"], TEMPLATE, page)
    return page.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    name = "playwright.sync_api"
    browsers = pytest.importorskip(name, reason="Playwright is not installed: pip install it")
    with browsers.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """Give the page in a window, of which nothing may have gone wrong in the end."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened, said = context.new_page(), []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(address)
    yield opened
    context.close()
    assert said == []


def until(page: Any, holds: str) -> None:
    """Wait up to five seconds; Playwright's own way needs `eval`, which the page forbids."""
    for _ in range(100):
        if page.evaluate(holds):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {holds}")


def shown(page: Any, column: str) -> list[str]:
    """Text of a column in the rows that are not hidden, as they stand."""
    heads = page.locator("table.volumes thead th").all_inner_texts()
    place = next(number for number, head in enumerate(heads, 1) if head.startswith(column))
    rows = page.locator("table.volumes tbody tr:not([hidden])")
    return [text.strip() for text in rows.locator(f":nth-child({place})").all_inner_texts()]


def values(texts: list[str]) -> list[float]:
    return [float(text.replace(",", "")) for text in texts if text != "–"]


def pixels_of(page: Any) -> Any:
    """Pixels of the first viewer's pane (rows, columns, RGB), from 0 to 1."""
    picture = page.locator(".stage").first.screenshot()
    return matplotlib.image.imread(io.BytesIO(picture))[..., :3]


def grey_of(page: Any) -> float:
    """Mean of the lower right part of the pane, where no object is."""
    pixels = pixels_of(page)
    rows, columns = pixels.shape[:2]
    return float(
        pixels[rows * 3 // 5 : rows * 9 // 10, columns * 3 // 5 : columns * 9 // 10].mean()
    )


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (390, "dark")])
def test_the_page_fits_its_width_and_asks_for_nothing(
    browser: Any, address: str, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    excess = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(excess) == 0
    picture = matplotlib.image.imread(io.BytesIO(page.screenshot(full_page=True)))[..., :3]
    context.close()
    assert picture.shape[1] == width
    assert picture.std() > 0.05
    assert (np.median(picture) > 0.5) == (scheme == "light")
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {address}


def test_a_printed_table_is_whole_on_the_paper_and_covers_nothing(
    browser: Any, address: str
) -> None:
    context = browser.new_context(viewport={"width": 717, "height": 1000})  # A4, usual margins
    page = context.new_page()
    page.goto(address)
    page.emulate_media(media="print")
    box = page.locator(".box.tall")
    assert box.evaluate("box => box.scrollHeight - box.clientHeight") <= 1
    assert box.evaluate("box => box.scrollWidth - box.clientWidth") <= 1
    heads = page.locator("table.volumes thead th").all()
    assert sum(head.is_visible() for head in heads) == len(heads) - len(FURTHER) - 1, "path too"
    assert page.get_by_text("Further columns are left out").is_visible()
    page.emulate_media(media="screen")
    assert all(head.is_visible() for head in heads)
    assert not page.get_by_text("Further columns are left out").is_visible()
    context.close()


def test_every_volume_is_there_with_its_picture_failures_first(page: Any) -> None:
    assert len(shown(page, "volume")) == 30
    assert shown(page, "volume")[:5] == ["v03", "v13", "v23", "v04", "v05"]
    assert shown(page, "remark")[:4] == [*["<broken> file"] * 3, "twice as bright"]
    drawn = page.locator("td.thumbnail img").evaluate_all(
        "found => found.map(it => it.naturalWidth)"
    )
    assert drawn == [30] * 26


def test_heads_of_columns_sort_by_number_with_the_empty_last(page: Any) -> None:
    before = values(shown(page, "objects"))
    head = page.locator("table.volumes thead th", has_text="objects")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert values(shown(page, "objects")) == sorted(before) != before
    assert shown(page, "objects")[-4:] == ["–"] * 4
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert values(shown(page, "objects")) == sorted(before, reverse=True)
    assert shown(page, "objects")[-4:] == ["–"] * 4
    page.locator("table.volumes thead th", has_text="volume").get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert shown(page, "volume") == [f"v{number:02d}" for number in range(30)]


def test_rows_are_filtered_by_text_and_by_what_became_of_them(page: Any) -> None:
    form = page.locator("form.filter")
    form.get_by_role("searchbox").fill("BROKEN v2")
    assert shown(page, "volume") == ["v23"]
    assert form.locator("output").inner_text() == "1 of 30"
    form.get_by_role("searchbox").fill("")
    for kind, count in (("failed", 3), ("outlier", 2), ("done", 26), ("missing", 1), ("", 30)):
        form.locator(f"input[value='{kind}']").check(force=True)
        assert len(shown(page, "volume")) == count
    form.get_by_role("searchbox").fill("v1")
    page.locator("table.volumes thead th", has_text="objects").get_by_role("button").click()
    assert len(shown(page, "volume")) == 10, "sorting keeps what is filtered"


def test_without_javascript_the_table_is_plain_and_the_middle_plane_is_shown(
    browser: Any, address: str
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("table.volumes tbody tr").count() == 30
    assert not page.locator("form.filter").is_visible()
    assert not page.locator(".tools").first.is_visible()
    assert grey_of(page) == pytest.approx(DEPTH // 2 / (DEPTH - 1), abs=0.05)
    context.close()


@pytest.mark.parametrize("how", ["keys", "slider", "wheel"])
def test_every_plane_can_be_reached(page: Any, how: str) -> None:
    viewer, stage = page.locator(".viewer").first, page.locator(".stage").first
    stage.click(position={"x": 5, "y": 5})
    slider = viewer.locator("input[type=range]")
    slider.evaluate("it => { it.value = 0; it.dispatchEvent(new Event('input')) }")
    found = [grey_of(page)]
    for plane in range(1, DEPTH):
        if how == "keys":
            stage.press("ArrowDown")
        elif how == "slider":
            slider.press("ArrowRight")
        else:
            stage.hover()
            page.mouse.wheel(0, 100)
            until(page, f"document.querySelector('.tools input').value == {plane}")
        assert viewer.locator("output").inner_text() == f"{plane + 1} of {DEPTH}"
        found.append(grey_of(page))
    # Each plane is brighter than the one before by the same amount.
    np.testing.assert_allclose(found, np.arange(DEPTH) / (DEPTH - 1), atol=0.03)


def test_the_page_scrolls_over_a_viewer_that_is_not_chosen(page: Any) -> None:
    page.locator(".stage").first.hover()
    before = page.evaluate("scrollY"), grey_of(page)
    page.mouse.wheel(0, -300)
    until(page, f"scrollY < {before[0]}")
    assert grey_of(page) == pytest.approx(before[1], abs=0.01)


def test_layers_are_shown_and_hidden(page: Any) -> None:
    viewer = page.locator(".viewer").first

    def colour() -> float:
        """How far the middle of the object is from grey."""
        pixels = pixels_of(page)
        rows, columns = pixels.shape[:2]
        return float(np.ptp(pixels[rows // 4, columns // 4]))

    both = colour()
    assert both > 0.1
    viewer.get_by_label("instances").uncheck()
    assert colour() < 0.02
    viewer.get_by_label("prediction").check()
    assert colour() > 0.3
    assert grey_of(page) == pytest.approx(DEPTH // 2 / (DEPTH - 1), abs=0.05)
    viewer.get_by_label("image").uncheck()
    assert grey_of(page) == pytest.approx(0, abs=0.01)


def test_zooming_enlarges_what_lies_under_the_pointer_and_dragging_moves_it(page: Any) -> None:
    stage, viewer = page.locator(".stage").first, page.locator(".viewer").first
    viewer.get_by_label("image").uncheck()
    share = float((pixels_of(page).max(axis=-1) > 0.05).mean())
    assert share == pytest.approx(0.25, abs=0.03)
    box = stage.bounding_box()
    stage.dblclick(position={"x": 5, "y": 5})  # inside the object: it fills the pane
    assert (pixels_of(page).max(axis=-1) > 0.05).mean() > 0.95
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert (pixels_of(page).max(axis=-1) > 0.05).mean() < 0.1
    viewer.get_by_role("button", name="fit").click()
    assert (pixels_of(page).max(axis=-1) > 0.05).mean() == pytest.approx(share, abs=0.01)
