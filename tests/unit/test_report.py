"""The report and the status: what they say of a full, a half-finished and an empty folder."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from unetflow.datasets.synthetic import synthesize
from unetflow.report import figures, scores
from unetflow.report.archive import archive_section
from unetflow.report.comparison import comparisons
from unetflow.report.page import build
from unetflow.report.status import show
from unetflow.settings import DatasetSettings, ExperimentSettings
from unetflow.store import (
    add_label,
    create_array,
    create_image,
    read_json,
    remove,
    write_json,
    write_text,
)

TEMPLATE = Path(__file__).parents[2] / "workflow/report/index.html.j2"
CHROMIUM = shutil.which("chromium")
SCRIPT = "<script>alert(1)</script>"
# Markup, an override of the writing direction that is never ended, and a character beyond 16 bits.
TITLE = "<b>Cells</b> \u202eabc \U0001f52c"
IMAGES = [f"plane{number}" for number in range(6)]
MAKERS = {"weights": "demo", "patches": "demo"}
ARCHIVES = {"tissue": ["good", "bad", "late"]}


def settings(**changes: Any) -> dict[str, Any]:
    experiment = ExperimentSettings(
        description=changes.pop("description", "Membranes"),
        dataset="sections",
        split={"unit": "block", "folds": 3},
        model={"width": 4, "depth": 2},
        patches={"tile": 76},
        **changes,
    )
    return experiment.model_dump(mode="json")


def dataset(title: str = "Sections") -> dict[str, Any]:
    downloads = [{"url": "https://example.org/sections.zip", "sha256": "0123456789abcdef"}]
    classes = {"membrane": 0, "cell": 255}
    layout = {"kind": "stack", "images": "a.tif", "labels": "b.tif", "classes": classes}
    return DatasetSettings(
        title=title,
        licence="CC0",
        citation=["10.1000/xyz", "arXiv:1505.04597", "a book"],
        downloads=downloads,
        layout=layout,
    ).model_dump(mode="json")


class Results:
    """A small results folder, written with the project's own functions."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images, self.classes, self.instances = {}, {}, {}
        pixels, labels = synthesize("membranes", (len(IMAGES), 64, 64), seed=1)
        for number, name in enumerate(IMAGES):
            self.images[name] = pixels[number]
            self.instances[name] = labels[number].astype(np.uint32)
            self.classes[name] = (labels[number] > 0).astype(np.uint8)

    def prepare(self) -> None:
        folder = self.root / "datasets/sections"
        for name, pixels in self.images.items():
            path = folder / "images.ome.zarr" / name
            create_image(path, "yx", pixels.shape, pixels.dtype, {})[...] = pixels
            add_label(path, "classes", "yx", self.classes[name], {})
            add_label(path, "instances", "yx", self.instances[name], {})
        entries = [
            {"image": name, "group": "a", "shape": [64, 64], "voxel_size_um": {}, "annotated": True}
            for name in IMAGES
        ]
        write_json(folder / "index.json", {"class_names": ["membrane", "cell"], "images": entries})

    def cache(self, experiment: str) -> None:
        folder = self.root / "experiments" / experiment
        name = IMAGES[0]
        target, parts = self.classes[name], folder / "patches" / f"{name}.zarr"
        weights = 1 + 9 * (target == 0).astype(np.float32)
        for part, values in (("target", target), ("weights", weights)):
            path = folder / "weights.zarr" / name / part
            create_array(path, "yx", (64, 64), values.dtype, (64, 64), (64, 64))[...] = values
        for part, values, axes in (
            ("image", self.images[name][None, None], "ncyx"),
            ("classes", target[None, 12:52, 12:52], "nyx"),
            ("weights", weights[None, 12:52, 12:52], "nyx"),
        ):
            shape = values.shape
            create_array(parts / part, axes, shape, values.dtype, shape, shape)[...] = values

    def train(self, experiment: str, split: str) -> None:
        folder = self.root / "experiments" / experiment / split / "seed0"
        steps = range(1, 101)
        lines = [
            f"{step}\t{1 / step}\t{step / 100 if step % 20 == 0 and split != 'final' else ''}"
            for step in steps
        ]
        write_text(
            folder / "history.tsv", "\n".join(["step\tloss\tvalidation_dice", *lines]) + "\n"
        )
        facts = {
            "network": {"network": "unet", "dimensions": 2},
            "geometry": [{"divisor": 4, "halo": 20, "minimum": 44}] * 2,
            "threshold": 0.5,
            "training": {"steps": 100, "best_step": 80, "validation_dice": 0.9, "images": IMAGES},
        }
        write_json(folder / "model.json", facts)
        record = {"host": "bench", "platform": "Linux", "cpus": 2, "python": "3.11", "versions": {}}
        write_json(folder / "train.run.json", {**record, "versions": {"torch": "2.13.0"}})

    def score(self, experiment: str, split: str, images: list[str]) -> None:
        folder = self.root / "experiments" / experiment / split / "seed0"
        rows = ["experiment\tsplit\tseed\timage\tmetric\tvalue"]
        for name in images:
            truth = self.classes[name]
            foreground = np.clip(0.9 * truth + 0.05, 0, 1)[None].astype(np.float16)
            path = folder / "prediction.ome.zarr" / name
            create_image(path, "cyx", foreground.shape, np.float16, {})[...] = foreground
            path = folder / "segmentation.ome.zarr" / name
            create_image(path, "yx", truth.shape, np.uint32, {})[...] = self.instances[name]
            values = {"pixel_error": 0.0125, "v_rand": 0.875, "f1": float("nan")}
            values |= {"dice_membrane": 0.9, "dice_cell": 0.95 - IMAGES.index(name) / 100}
            rows += [f"{experiment}\t{split}\t0\t{name}\t{key}\t{of}" for key, of in values.items()]
        write_text(folder / "metrics.tsv", "\n".join(rows) + "\n")

    def summarise(self, experiment: str) -> None:
        folder = self.root / "experiments" / experiment
        tables = [
            path.read_text().splitlines() for path in sorted(folder.glob("fold*/seed0/metrics.tsv"))
        ]
        rows = [tables[0][0], *(line for table in tables for line in table[1:])]
        write_text(folder / "metrics.tsv", "\n".join(rows) + "\n")
        lines = [
            f"{of}\t{level}\t{255 - level}\t{level}"
            for of in ("membrane", "cell")
            for level in range(256)
        ]
        write_text(
            folder / "curves.tsv", "\n".join(["class\tlevel\tnegatives\tpositives", *lines]) + "\n"
        )
        metrics = {
            "dice_cell": {"mean": 0.9321, "low": 0.9123, "high": 0.9456, "n": 6},
            "v_rand": {"mean": 0.875, "low": None, "high": None, "n": 1},
            "f1": {"mean": None, "low": None, "high": None, "n": 0},
        }
        write_json(folder / "summary.json", {"metrics": metrics})

    def segment(self) -> None:
        folder = self.root / "archives/tissue"
        pixels = np.stack([self.images[name] for name in IMAGES[:3]])
        labels = np.stack([self.instances[name] for name in IMAGES[:3]])
        path = self.root / "volume.ome.zarr"
        create_image(path, "zyx", pixels.shape, pixels.dtype, {})[...] = pixels
        create_image(folder / "good/segmentation.ome.zarr", "zyx", labels.shape, np.uint32, {})[
            ...
        ] = labels
        facts = {"objects": 7, "predict_seconds": 2.5, "experiment": "demo", "shape": [3, 64, 64]}
        planned = {"path": str(path), "experiment": "demo", "shape": [3, 64, 64]}
        volumes = dict.fromkeys(ARCHIVES["tissue"], planned)
        write_json(folder / "plan.json", {"volumes": volumes})
        done = {"state": "done", "reason": "", "path": str(path), **facts}
        write_json(folder / "good/summary.json", done)
        failed = {**done, "state": "failed", "reason": "broken <file> & more", "shape": None}
        write_json(folder / "bad/summary.json", failed)

    def cost(self) -> None:
        for path, seconds, mib in (
            ("train/demo/fold0_seed0", 100, "812.5"),
            ("split/demo", 0.2, "NA"),
        ):
            text = f"s\th:m:s\tmax_rss\n{seconds}\t0:01:40\t{mib}\n"
            write_text(self.root / "costs" / f"{path}.tsv", text)


@pytest.fixture
def half(tmp_path: Path) -> Results:
    """One fold scored, one in training, the other not begun; an archive under way."""
    results = Results(tmp_path / "results")
    results.prepare()
    results.cache("demo")
    results.train("demo", "fold0")
    results.score("demo", "fold0", IMAGES[:2])
    log = results.root / "logs/train/demo/fold1/seed0.log"
    write_text(log, "10:00:00 device cpu\n10:00:05 training: 120/300, loss 0.3, 45 s left\n")
    results.segment()
    return results


@pytest.fixture
def full(half: Results) -> Results:
    for number in (1, 2):
        half.train("demo", f"fold{number}")
        half.score("demo", f"fold{number}", IMAGES[2 * number : 2 * number + 2])
    half.train("demo", "final")
    half.summarise("demo")
    folder = half.root / "archives/tissue"
    header = (
        "volume\tstate\treason\tobjects\tpredict_seconds\tpath\texperiment\tshape\tvoxels\tv_rand\n"
    )
    row = f"2.5\t{half.root / 'volume.ome.zarr'}\tdemo\t3x64x64\t12288"
    rows = f"good\tdone\t\t7\t{row}\t0.91\nbad\tfailed\tbroken <file> & more\t\t{row}\t\n"
    write_text(folder / "summary.tsv", f"{header}{rows}late\tdone\t\t3\t{row}\t\n")
    half.cost()
    return half


class Parsed(HTMLParser):
    """Elements, their attributes and the text of a page; nesting must be sound."""

    VOID = frozenset({"meta", "link", "br", "image", "use", "path", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.elements)


def built(
    results: Path, experiments: dict[str, Any] | None = None, title: str = "Sections"
) -> tuple[Parsed, str]:
    page = results / "report/index.html"
    experiments = {"demo": settings()} if experiments is None else experiments
    build(
        results,
        experiments=experiments,
        makers=dict.fromkeys(experiments, MAKERS),
        datasets={"sections": dataset(title)},
        archives=list(ARCHIVES),
        template=TEMPLATE,
        page=page,
    )
    text = page.read_text(encoding="utf-8")
    return Parsed(text), text


def test_the_full_page_shows_scores_data_curves_pictures_archive_and_cost(full: Results) -> None:
    page, text = built(full.root)
    for shown in ("0.9321", "0.9123 to 0.9456", "n = 6", "block: neighbouring planes or frames"):
        assert shown in page.text
    for shown in ("CC0", "0123456789abcdef", "recorded", "broken <file> & more", "812.5", "torch"):
        assert (shown in page.text) == (shown != "recorded")
    assert "Not finished" not in page.text
    assert text.count('class="curve"') == 4
    titles = [attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg"]
    for panel in ("Picture", "Truth", "Probability", "Instances", "Errors"):
        assert titles.count(panel) >= 3
    assert len(text) < 1_000_000


def test_the_page_requests_nothing(full: Results) -> None:
    page, text = built(full.root)
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "data", "poster", "action"):
            assert name not in attributes
        if tag in ("image", "use", "link"):
            assert (attributes["href"] or "").startswith(("data:", "#"))
    assert page.count("iframe") == 0
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_number_names_a_file_that_is_there(full: Results) -> None:
    page, _ = built(full.root)
    links = [
        attributes["href"]
        for tag, attributes in page.elements
        if attributes.get("class") == "source"
    ]
    assert "../experiments/demo/summary.json" in links
    assert "../experiments/demo/metrics.tsv" in links
    for link in links:
        assert (full.root / "report" / str(link)).exists(), link


def test_ids_are_unique_and_every_reference_has_one(full: Results) -> None:
    variant = settings(train={"steps": 5})  # MAKERS says that demo made both
    shutil.copytree(full.root / "experiments/demo", full.root / "experiments/demo-short")
    page, text = built(full.root, {"demo": settings(), "demo-short": variant})
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_text_of_users_is_escaped(full: Results) -> None:
    page, text = built(full.root, {"demo": settings(description=SCRIPT)}, title=TITLE)
    assert SCRIPT not in text
    assert SCRIPT in page.text
    assert TITLE in page.text
    assert page.count("script") == 1
    assert "<b>Cells" not in text
    bdi = re.search("<bdi>([^<]*)</bdi> <span", text)
    assert bdi is not None
    assert "\u202e" in bdi[1]


def test_only_web_addresses_become_links(full: Results) -> None:
    shown = dataset()
    shown["downloads"][0]["url"] = "javascript:alert(1)"
    page = full.root / "report/index.html"
    build(
        full.root, {"demo": settings()}, {"demo": MAKERS}, {"sections": shown}, [], TEMPLATE, page
    )
    links = [attributes.get("href") for _, attributes in Parsed(page.read_text()).elements]
    assert not any((link or "").startswith("javascript") for link in links)
    assert "https://doi.org/10.1000/xyz" in links
    assert "https://arxiv.org/abs/1505.04597" in links


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    page, _ = built(tmp_path / "results")
    for said in (
        "0 of 3 trainings of folds are scored",
        "no learning curve yet",
        "No test image is scored yet",
        "Not planned yet",
        "No job has recorded its cost yet",
        "not prepared yet",
    ):
        assert said in page.text


def test_nothing_to_run_is_said(tmp_path: Path) -> None:
    page = tmp_path / "report/index.html"
    build(tmp_path, {}, {}, {}, [], TEMPLATE, page)
    assert "names no experiment and no archive" in Parsed(page.read_text()).text


def test_a_half_finished_experiment_shows_what_is_there(half: Results) -> None:
    page, _ = built(half.root)
    assert "1 of 3 trainings of folds are scored" in page.text
    assert "preliminary means over the images scored so far" in page.text
    assert "0.9450" in page.text  # Dice of the cells: mean of 0.95 and 0.94
    assert "step 120 of 300" in page.text
    assert "bad failed:" in page.text
    assert "1 done, 1 failed, 1 missing" in page.text


def test_a_score_that_is_not_defined_is_said_to_be(half: Results, full: Results) -> None:
    page, _ = built(full.root)
    assert "not defined on these images" in page.text
    assert "nan" not in page.text.lower().split()
    (full.root / "experiments/demo/summary.json").unlink()
    page, _ = built(full.root)
    assert "not defined on these images" in page.text


def test_broken_and_partial_files_are_left_out(full: Results) -> None:
    folder = full.root / "experiments/demo"
    (folder / "summary.json").write_text('{"metrics": {"dice_ce')
    (folder / "fold0/seed0/history.tsv").write_text("")
    (folder / "fold1/seed0/model.json").write_bytes(b"\xff\xfe")
    (full.root / "archives/tissue/summary.tsv").write_text("volu")
    (full.root / "costs/split/demo.tsv").write_text("s\n")
    shutil.rmtree(full.root / "datasets/sections/images.ome.zarr" / IMAGES[0])
    (folder / f"weights.zarr/{IMAGES[0]}").rename(folder / f"weights.zarr/{IMAGES[1]}.partial")
    page, _ = built(full.root)
    assert "The picture cannot be read at the moment" in page.text
    assert "Border weights" not in page.text
    assert "1 done, 1 failed, 1 missing" in page.text


def test_the_picture_of_a_volume_is_of_what_its_row_chose(half: Results) -> None:
    path, folder = half.root / "volume.ome.zarr", half.root / "archives/tissue"
    remove(path)
    create_image(path, "tzyx", (2, 3, 64, 64), np.uint8, {})[...] = 1
    assert archive_section(half.root, "tissue")["thumbnails"][0]["strip"] is None
    plan = read_json(folder / "plan.json")
    plan["volumes"]["good"]["time"] = "1"
    write_json(folder / "plan.json", plan)
    assert archive_section(half.root, "tissue")["thumbnails"][0]["strip"] is not None


def test_experiments_of_one_dataset_are_compared_with_the_first(full: Results) -> None:
    metrics = full.root / "experiments/demo/metrics.tsv"
    table = pd.read_csv(metrics, sep="\t")
    table.loc[table["metric"] == "dice_cell", "value"] -= 0.1
    table.loc[table["metric"] == "v_rand", "value"] += [0.1, -0.1] * 3
    (full.root / "experiments/worse").mkdir()
    table.to_csv(full.root / "experiments/worse/metrics.tsv", sep="\t", index=False)
    names = {name: {"dataset": "cells"} for name in ("demo", "worse", "without_scores")}
    (entry,) = comparisons(full.root, names)
    assert (entry["dataset"], entry["base"]) == ("cells", "demo")
    base, worse = entry["rows"]
    columns = [metric for metric, _, _ in entry["metrics"]]
    cells = dict(zip(columns, worse["cells"], strict=True))
    assert (base["name"], worse["name"], worse["images"]) == ("demo", "worse", 6)
    assert cells["dice_cell"]["difference"] == pytest.approx(-0.1)
    assert cells["dice_cell"]["better"] == "worse"
    assert cells["v_rand"]["better"] == ""
    shutil.rmtree(full.root / "experiments/worse")
    assert comparisons(full.root, names) == []


def test_objects_at_seams_are_told_of_all_volumes_together(tmp_path: Path) -> None:
    results = Results(tmp_path)
    folder = results.root / "archives/cut"
    counted = {"distance": range(65), "voxels": 100, "planes": 10, "centres": 2, "ends": 1}
    table = pd.DataFrame(counted)
    for volume in "ab":
        write_json(folder / volume / "summary.json", {"state": "done"})
        table.to_csv(folder / volume / "seams.tsv", sep="\t", index=False)
    write_json(folder / "plan.json", {"volumes": {"a": {"path": "a"}, "b": {"path": "b"}}})
    assert "voxels from the nearest seam" in str(archive_section(results.root, "cut")["seams"])
    table[["centres", "ends"]] = 0
    for volume in "ab":
        table.to_csv(folder / volume / "seams.tsv", sep="\t", index=False)
    assert archive_section(results.root, "cut")["seams"] is None


def test_variants_show_the_weights_that_another_of_the_family_made(full: Results) -> None:
    variant = settings(train={"steps": 5})  # MAKERS says that demo made both
    _, text = built(full.root, {"demo": settings(), "demo-short": variant})
    assert 'id="demo-short-weights"' in text
    assert "../experiments/demo/weights.zarr" in text


def test_status_of_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(tmp_path / "results", {"demo": settings()}, ARCHIVES)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("results (nothing yet)")
    assert "demo        0/3      0/3        0/3     no       no" in lines
    assert "tissue   3        0     0       3" in lines
    assert lines[-1].startswith("report: not built yet")


def test_status_of_a_half_finished_folder(
    half: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    show(half.root, {"demo": settings()}, ARCHIVES)
    text = capsys.readouterr().out
    assert "demo        1/3      1/3        1/3     no       no" in text
    assert re.search(
        r"demo fold1 seed 0: step 120 of 300 \(40%\), 45 s left; last line \d+ s ago", text
    )
    assert "tissue   3        1     1       1" in text
    assert "tissue/bad failed: broken <file> & more" in text


def test_status_of_a_full_folder(full: Results, capsys: pytest.CaptureFixture[str]) -> None:
    built(full.root)
    show(full.root, {"demo": settings()}, {})
    lines = capsys.readouterr().out.splitlines()
    assert "demo        3/3      3/3        3/3     yes      yes" in lines
    assert not any("step" in line for line in lines)
    assert lines[-1].startswith(f"report: {full.root}/report/index.html of ")


@pytest.mark.parametrize(
    ("images", "chosen"),
    [
        ([], []),
        ([0.5], [("Best", 0)]),
        ([0.5, 0.6], [("Best", 1), ("Worst", 0)]),
        ([0.1, 0.2, 0.3, 0.4, 0.5], [("Best", 4), ("Median", 2), ("Worst", 0)]),
    ],
)
def test_best_median_and_worst_are_different_images(
    images: list[float], chosen: list[tuple[str, int]]
) -> None:
    ranking = [{"image": number, "score": score} for number, score in enumerate(images)]
    found = [(title, entry["image"]) for title, entry in scores.extremes(ranking)]
    assert found == chosen


def test_errors_are_coloured_by_their_kind() -> None:
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    foreground = np.array([[[0.1, 0.9, 0.1, 0.9, 0.9]]], np.float32)
    overlay = figures.errors(truth, foreground, by=1)[0]
    assert overlay[:, 3].tolist() == [0, 230, 230, 0, 150]
    assert tuple(overlay[1, :3]) == figures.PREDICTED
    assert tuple(overlay[2, :3]) == figures.TRUE


def test_pictures_are_made_smaller_by_means_over_squares() -> None:
    plane = np.arange(15, dtype=np.uint16).reshape(3, 5)
    expected = [[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]
    np.testing.assert_allclose(figures.smaller(plane, 2), expected)
    assert figures.factor(np.zeros((700, 10))) == 1
    assert figures.factor(np.zeros((10, 1500))) == 3


def opened(page: Path, folder: Path, width: int) -> str:
    """Return what Chromium says while it takes a screenshot of a page."""
    # Windows are at least 500 pixels wide; a frame can be as narrow as a phone.
    frame = f'<iframe src="{page.as_uri()}" width="{width}" height="2400" style="border: 0">'
    outer = folder / f"{width}.html"
    write_text(outer, f'<link rel="icon" href="data:,"><body style="margin: 0">{frame}</iframe>')
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    options += "--disable-background-networking --disable-component-update --disable-sync "
    options += "--virtual-time-budget=4000 --enable-logging=stderr --hide-scrollbars"
    place = [f"--user-data-dir={folder / f'profile{width}'}", f"--window-size={width},2400"]
    shot = f"--screenshot={folder / f'{width}.png'}"
    command = [str(CHROMIUM), *options.split(), *place, shot, outer.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stderr


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
@pytest.mark.parametrize("width", [1200, 400, 360])
def test_the_page_opens_in_a_browser_without_errors_and_fits_its_width(
    full: Results, tmp_path: Path, width: int
) -> None:
    built(full.root)
    page = full.root / "report/index.html"
    excess = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    probe = f"<script>console.log('width', innerWidth, 'excess', {excess})</script></body>"
    write_text(page, page.read_text().replace("</body>", probe))
    said = opened(page, tmp_path, width)
    console = [line for line in said.splitlines() if "CONSOLE" in line]
    assert len(console) == 1, console
    assert f"width {width} excess 0" in console[0]
    pixels = matplotlib.image.imread(tmp_path / f"{width}.png")[..., :3]
    assert pixels.shape[1] == width
    assert pixels.std() > 0.05
