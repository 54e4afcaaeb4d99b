"""The report and the status: what they say of a full, a half-finished and an empty folder."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from unetflow.datasets.synthetic import synthesize
from unetflow.report import archive, costs, examples, figures, scores
from unetflow.report.archive import archive_section
from unetflow.report.comparison import comparisons
from unetflow.report.experiment import probability_curves
from unetflow.report.page import build
from unetflow.report.planes import plane_charts
from unetflow.report.status import show
from unetflow.settings.datasets import DatasetSettings
from unetflow.settings.experiment import ExperimentSettings
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
ARCHIVES = {"tissue": dict.fromkeys(("good", "bad", "late"), "demo")}


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
            {
                "image": name,
                "group": "a",
                "axes": "yx",
                "shape": [64, 64],
                "voxel_size_um": {},
                "annotated": True,
            }
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
        header = "step\tloss\n" if split == "final" else "step\tloss\tvalidation_dice\n"
        lines = [f"{step}\t{1 / step}" for step in steps]
        if split != "final":
            dices = [step / 100 if step % 20 == 0 else "" for step in steps]
            lines = [f"{line}\t{dice}" for line, dice in zip(lines, dices, strict=True)]
        write_text(folder / "history.tsv", header + "\n".join(lines) + "\n")
        facts = {
            "network": {"network": "unet", "dimensions": 2},
            "geometry": [{"divisor": 4, "halo": 20, "minimum": 44}] * 2,
            "threshold": 0.5,
            "training": {"steps": 100, "best_step": 80, "validation_dice": 0.9, "images": IMAGES},
        }
        write_json(folder / "model.json", facts)
        record = {
            "commit": "0a1b2c3d4e5f",
            "host": "bench",
            "platform": "Linux",
            "cpus": 2,
            "python": "3.11",
            "versions": {},
        }
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

    VOID = frozenset({"meta", "link", "br", "image", "use", "path", "circle", "input", "img"})

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
    for shown in (
        "CC0",
        "0123456789abcdef",
        "broken <file> & more",
        "812.5",
        "torch",
        "0a1b2c3d4e5f",
    ):
        assert shown in page.text
    assert "Not finished" not in page.text
    charts = {
        f"demo-{name}" for name in ("scores", "precision-recall", "calibration", "loss", "dice")
    }
    files = {path.name for path in (full.root / "report/figures").iterdir()}
    names = charts | {"cost-time", "cost-memory"}
    assert files == {f"{name}.{kind}" for name in names for kind in ("svg", "pdf")}
    assert text.count('class="still"') == len(names)
    assert "final seed 0" in (full.root / "report/figures/demo-loss.svg").read_text()
    titles = [attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg"]
    for panel in ("Picture", "Truth", "Probability", "Instances", "Errors"):
        assert titles.count(panel) >= 3
    assert len(text) < 2_000_000


def test_the_cost_of_a_stage_adds_up_what_the_last_run_of_each_job_has_told(full: Results) -> None:
    def line(cpu: float, gpu: float) -> str:
        return f"10:00:00 record {json.dumps({'cpu_seconds': cpu, 'gpu_seconds': gpu})}\n"

    logs = full.root / "logs/train/demo"
    write_text(logs / "fold0/seed0.log", f"begun\n{line(1, 1)}again\n{line(7000, 150.0)}")
    write_text(logs / "fold1/seed0.log", line(320, 50.0))
    write_text(logs / "final/seed0.log", f"{line(5, 5)}10:00:01 Traceback\n")  # failed at last
    write_text(full.root / "logs/report/now.log", line(9, 9))  # of no job that has costs
    split, train = costs.rows_of(full.root)
    assert (train["stage"], train["cpu"], train["gpu"]) == ("train", 7320, 200)
    assert (split["stage"], split["cpu"], split["gpu"]) == ("split", None, None)
    page, _ = built(full.root)
    assert "2 h 2 min" in page.text
    assert "3 min 20 s" in page.text


def test_the_page_requests_nothing(full: Results) -> None:
    page, text = built(full.root)
    for tag, attributes in page.elements:
        for name in ("srcset", "data", "poster", "action"):
            assert name not in attributes
        assert (attributes.get("src") or "data:").startswith("data:")
        if tag in ("image", "use", "link"):
            assert (attributes["href"] or "").startswith(("data:", "#"))
    assert page.count("iframe") == 0
    styles = " ".join(re.findall("<style>.*?</style>", text, re.DOTALL))
    assert "@import" not in styles
    assert "url(" not in styles
    assert "default-src 'none'" in text
    assert "unsafe-eval" not in text


def test_every_number_names_a_file_that_is_there(full: Results) -> None:
    page, _ = built(full.root)
    links = [
        attributes["href"]
        for tag, attributes in page.elements
        if attributes.get("class") == "source"
    ]
    assert "../experiments/demo/summary.json" in links
    assert "../experiments/demo/metrics.tsv" in links
    assert "../costs/train/demo" in links
    assert "figures/demo-scores.svg" in links
    for link in links:
        assert (full.root / "report" / unquote(str(link))).exists(), link


def test_where_the_data_come_from_and_who_tests_them_names_its_files(full: Results) -> None:
    shown, page = dataset(), full.root / "report/index.html"
    shown["downloads"][0]["sha256"] = None

    def text() -> str:
        datasets = {"sections": shown}
        build(full.root, {"demo": settings()}, {"demo": MAKERS}, datasets, [], TEMPLATE, page)
        return page.read_text(encoding="utf-8")

    assert "recorded at the first download" in text()
    found = {"sha256": "5ec0de", "size_bytes": 7, "date": "2026-01-31"}
    record = full.root / "datasets/sections.downloads.json"
    write_json(record, {shown["downloads"][0]["url"]: found})
    write_json(full.root / "experiments/demo/split.json", {})
    assert "<code>5ec0de</code>, first downloaded on 2026-01-31" in text()
    assert 'href="../datasets/sections.downloads.json"' in text()
    assert 'href="../experiments/demo/split.json"' in text()


def test_ids_are_unique_and_every_reference_has_one(full: Results) -> None:
    variant = settings(train={"steps": 5})  # MAKERS says that demo made both
    shutil.copytree(full.root / "experiments/demo", full.root / "experiments/demo-short")
    page, text = built(full.root, {"demo": settings(), "demo-short": variant})
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    pictures = " ".join(re.findall("<svg.*?</svg>", text, re.DOTALL))
    assert set(re.findall(r"url\(#([^)]+)\)", pictures)) <= set(ids)


def test_text_of_users_is_escaped(full: Results) -> None:
    page, text = built(full.root, {"demo": settings(description=SCRIPT)}, title=TITLE)
    assert SCRIPT not in text
    assert SCRIPT in page.text
    assert TITLE in page.text
    # The page's own, that of the charts, and what each of them shows.
    assert page.count("script") == 2 + text.count('class="still"')
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
        "No test image is ranked: none has a Dice yet",
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


def test_facts_that_are_no_object_count_as_missing(full: Results) -> None:
    for path in full.root.rglob("*.json"):
        if "zarr" not in str(path):
            path.write_text("[1]")
    page, _ = built(full.root)
    assert "not prepared yet" in page.text


def test_the_area_below_precision_over_recall_is_the_one_that_is_told(full: Results) -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 99, (2, 256))
    counts[1, 255] += 5000  # most of the class is sure, so recall begins far from 0
    lines = [f"cell\t{level}\t{no}\t{yes}" for level, (no, yes) in enumerate(counts.T)]
    path = full.root / "curves.tsv"
    write_text(path, "class\tlevel\tnegatives\tpositives\n" + "\n".join(lines) + "\n")
    chart = probability_curves("demo", path)["precision"]
    [points] = chart.specification["datasets"].values()
    over, value = (np.array([row[key] for row in points]) for key in ("over", "value"))
    told = float(re.search(r"area ([\d.]+)", points[0]["line"])[1])
    # Steps hold back to the point before, from recall 0 on.
    assert over[0] == 0
    assert np.sum(np.diff(over) * value[1:]) == pytest.approx(told, abs=1e-3)


def test_what_is_not_a_number_is_left_out_of_the_charts(full: Results) -> None:
    folder = full.root / "experiments/demo"
    history = "step\tloss\tvalidation_dice\n1\t0.5\t\n2\tnan\tnan\n3\tinf\t\nx\t0.5\t\n"
    for split in ("fold0", "fold1", "fold2", "final"):
        (folder / split / "seed0/history.tsv").write_text(history)
    (folder / "curves.tsv").write_text("class\tlevel\tnegatives\tpositives\ncell\t0\tmany\t1\n")
    (full.root / "costs/split/demo.tsv").write_text("s\tmax_rss\n-\tNA\n")
    page, _ = built(full.root)
    assert "No validation Dice is recorded yet" in page.text
    assert "Precision, recall and calibration are not recorded" in page.text
    names = {path.stem for path in (full.root / "report/figures").iterdir()}
    assert names == {"demo-scores", "demo-loss", "cost-time", "cost-memory"}


def test_an_experiment_without_dice_or_archive_has_a_page_too(full: Results) -> None:
    folder = full.root / "experiments/demo"
    for path in (folder / "metrics.tsv", *folder.glob("fold*/seed0/metrics.tsv")):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line for line in lines if "dice" not in line) + "\n")
    write_json(folder / "summary.json", {"metrics": {"v_rand": {"mean": 0.875}}})
    shutil.rmtree(full.root / "archives")
    page, _ = built(full.root)
    assert "0.8750" in page.text
    assert "no interval" in page.text
    assert "No test image is ranked: none has a Dice yet" in page.text
    assert "V-Rand" in (full.root / "report/figures/demo-scores.svg").read_text()


def test_names_of_classes_are_only_text(full: Results) -> None:
    odd = "../" + SCRIPT + TITLE
    folder = full.root / "experiments/demo"
    for name in ("metrics.tsv", "curves.tsv"):
        (folder / name).write_text((folder / name).read_text().replace("cell", odd))
    shutil.copytree(folder, full.root / "experiments/demo-short")
    page, text = built(full.root, {"demo": settings(), "demo-short": settings()})
    assert SCRIPT not in text
    assert f"Dice, {odd}" in page.text
    drawn = {path.name for path in (full.root / "report/figures").iterdir()}
    assert f"comparison-sections-dice_{quote(odd, safe='')}.svg" in drawn


def test_figures_of_an_earlier_page_are_gone(full: Results) -> None:
    built(full.root)
    built(full.root, {})
    assert not list((full.root / "report/figures").glob("demo-*"))


def test_rows_of_an_archive_cope_with_all_that_may_be_missing(
    half: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "PICTURE_BYTES", 8)
    folder = half.root / "archives/tissue"
    rows = archive_section(half.root, "tissue")["rows"]
    assert [row["volume"] for row in rows] == ["bad", "good", "late"], "failures first"
    good = read_json(folder / "good/summary.json")
    write_json(folder / "good/summary.json", {**good, "outlier": "too <dark>", "median_size": 2.5})
    (folder / "good/thumbnail.webp").write_bytes(b"RIFF")
    shown = archive_section(half.root, "tissue", share=0.5)
    good = {row["volume"]: row for row in shown["rows"]}["good"]
    assert good["kinds"] == ["done", "outlier"]
    assert good["picture"] == "data:image/webp;base64,UklGRg=="
    assert "median_size" in [key for key, *_ in shown["columns"]]
    assert shown["counts"] == {"failed": 1, "outlier": 1, "done": 1, "missing": 1}
    assert archive_section(half.root, "tissue", share=0.4)["pictures"] == 0
    page, text = built(half.root)
    assert "too <dark>" in page.text
    assert "1 of those done is an outlier" in page.text
    for volume in ("good", "bad"):
        assert f'href="../archives/tissue/{volume}/"' in text


def test_slices_of_a_volume_are_of_what_its_row_chose(half: Results) -> None:
    path, folder = half.root / "volume.ome.zarr", half.root / "archives/tissue"
    remove(path)
    create_image(path, "tzyx", (2, 3, 64, 64), np.uint8, {})[...] = 1
    assert archive_section(half.root, "tissue")["stacks"] == []
    plan = read_json(folder / "plan.json")
    plan["volumes"]["good"]["time"] = "1"
    write_json(folder / "plan.json", plan)
    (entry,) = archive_section(half.root, "tissue")["stacks"]
    assert entry["stack"].frame.planes == (0, 1, 2)


def test_experiments_of_one_dataset_are_compared_with_the_first(full: Results) -> None:
    metrics = full.root / "experiments/demo/metrics.tsv"
    table = pd.read_csv(metrics, sep="\t")
    known = table.copy()
    table.loc[table["metric"] == "dice_cell", "value"] -= 0.1
    table.loc[table["metric"] == "v_rand", "value"] += [0.1, -0.1] * 3
    (full.root / "experiments/worse").mkdir()
    together = {"image": "all of fold0", "metric": "isbi2012_v_rand", "value": 0.5}
    row = pd.DataFrame([table.iloc[0].to_dict() | together])
    for scored, place in ((table, full.root / "experiments/worse/metrics.tsv"), (known, metrics)):
        pd.concat([scored, row]).to_csv(place, sep="\t", index=False)
    chosen = settings() | {"dataset": "cells"}
    names = dict.fromkeys(("demo", "worse", "without_scores"), chosen)
    (entry,) = comparisons(full.root, names)
    assert (entry["dataset"], entry["base"]) == ("cells", "demo")
    base, worse = entry["rows"]
    columns = [metric for metric, _, _ in entry["metrics"]]
    cells = dict(zip(columns, worse["cells"], strict=True))
    assert (base["name"], worse["name"], worse["images"]) == ("demo", "worse", 6)
    assert cells["dice_cell"]["difference"] == pytest.approx(-0.1)
    assert cells["dice_cell"]["better"] == "worse"
    assert cells["v_rand"]["better"] == ""
    unknown = {"step": None, "learned": None, "predicted": None, "windows": None}
    assert entry["speed"]["worse"].items() >= {"parameters": None, **unknown}.items()
    drawn = {chart.name: chart.specification for chart in entry["charts"]}
    assert set(drawn) == {f"comparison-cells-{metric}" for metric in columns if metric != "f1"}
    assert '"verdict": "worse"' in json.dumps(drawn["comparison-cells-dice_cell"])
    assert '"verdict": "undecided"' in json.dumps(drawn["comparison-cells-v_rand"])
    assert entry["planes"] == []
    others = chosen | {"split": chosen["split"] | {"tested_planes": 3}}
    assert comparisons(full.root, {"demo": chosen, "worse": others}) == []
    shutil.rmtree(full.root / "experiments/worse")
    assert comparisons(full.root, names) == []


def test_accuracy_and_speed_stand_side_by_side(full: Results) -> None:
    folder = full.root / "experiments/demo"
    other = shutil.copytree(folder, full.root / "experiments/demo-windows")
    for seed, (steps, seconds) in enumerate(((10, 5.0), (30, 5.0))):
        run = {"gpus": ["H1"], "steps": steps, "step_seconds": seconds, "step_pixels": 10**6}
        write_json(folder / f"fold{seed}/seed0/train.run.json", run)
    predicted = {"processor": "C <1>", "gpus": [], "predict_seconds": 3, "pixels": 500_000}
    write_json(folder / "fold0/seed0/predict.run.json", predicted)
    write_json(folder / "final/seed0/train.run.json", {"steps": 1, "step_seconds": 1e9})
    safetensors.numpy.save_file(
        {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)},
        folder / "fold0/seed0/model.safetensors",
    )
    write_json(other / "fold0/seed0/tiling.run.json", {"windows": 200, "window_seconds": 0.5})
    (other / "fold1/seed0/tiling.run.json").write_text("[")
    names = ("demo", "demo-windows")
    cells = settings() | {"dataset": "cells"}
    (entry,) = comparisons(full.root, dict.fromkeys(names, cells))
    found, windows = entry["speed"].values()
    assert found["parameters"] == 17
    assert (found["step"], found["learned"], found["predicted"]) == (0.25, 5.0, 6.0)
    assert found["machines"] == "H1, C <1>"
    assert (found["windows"], windows["windows"]) == (None, 2500.0)
    _, text = built(full.root, {name: settings() for name in names})
    (table,) = re.findall(r"Accuracy and speed</h3>.*?</table>.*?</p>", text, re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    cells = [re.findall(r'data-value="([^"]*)"', row) for row in rows[1:]]
    scored = len(entry["metrics"])
    assert [row[scored:-1] for row in cells] == [
        ["17", "0.25", "5.0", "6.0", ""],
        ["", "", "", "", "2500.0"],
    ]
    means = [str(cell["mean"]) for cell in entry["rows"][0]["cells"][:2]]
    assert cells[0][:2] == cells[1][:2] == means
    assert "window by window" in table
    assert "C &lt;1&gt;" in table
    assert "fold0/seed0/predict.run.json" in table
    for path in full.root.glob("experiments/*/*/*/tiling.run.json"):
        path.unlink()
    _, text = built(full.root, {name: settings() for name in names})
    assert "window by window" not in text


def scores_of_volumes(*values: float) -> pd.DataFrame:
    rows = [
        {"split": f"fold{number}", "seed": 0, "image": f"v{number}", "metric": metric, "value": of}
        for number, of in enumerate(values)
        for metric in ("iou_cell", "iou_background", "dice_cell")
    ]
    return pd.DataFrame(rows)


def test_scores_are_drawn_over_the_planes_that_experiments_differ_in_alone(tmp_path: Path) -> None:
    entry = {"axes": "czyx", "shape": [2, 20, 30, 40], "annotated": True}
    index = {
        "class_names": ["background", "cell"],
        "images": [entry, {**entry, "annotated": False}],
    }
    write_json(tmp_path / "datasets/sections/index.json", index)
    few, more = ({"annotated_planes": {"z": z, "x": 20}} for z in (20, 5))
    flat = settings()["model"]
    experiments = {
        "all": settings(),
        "few": settings(weights=few, description="another"),
        "more": settings(weights=more),
        "other": settings(weights=more) | {"model": {**flat, "width": 8}},
        "unscored": settings(weights={"annotated_planes": {"y": 30}}),
    }
    tables = {
        "all": scores_of_volumes(0.8, 0.9, np.nan),
        "few": scores_of_volumes(0.25, 0.75),
        "more": scores_of_volumes(0.5, 0.7),
        "other": scores_of_volumes(0.1, 0.2),
    }
    (chart,) = plane_charts(tmp_path, "sections", experiments, tables)
    assert chart.name == "planes-all-iou_cell"
    (rows,) = chart.specification["datasets"].values()
    drawn = [(row["series"], row["over"], row["mean"], row["n"]) for row in rows]
    # 1 + 2 and 4 + 2 planes; all are the 20 across the first axis.
    assert drawn == [("all (2D)", 3, 0.5, 2), ("all (2D)", 6, 0.6, 2), ("all (2D)", 20, 0.85, 2)]
    assert all(row["low"] < row["mean"] < row["high"] for row in rows)
    del tables["few"], tables["all"]
    assert plane_charts(tmp_path, "sections", experiments, tables) == []


def test_objects_at_seams_are_told_of_all_volumes_together(tmp_path: Path) -> None:
    results = Results(tmp_path)
    folder = results.root / "archives/cut"
    counted = {"distance": range(65), "voxels": 100, "planes": 10, "centres": 2, "ends": 1}
    table = pd.DataFrame(counted)
    for volume in "ab":
        write_json(folder / volume / "summary.json", {"state": "done"})
        table.to_csv(folder / volume / "seams.tsv", sep="\t", index=False)
    write_json(folder / "plan.json", {"volumes": {"a": {"path": "a"}, "b": {"path": "b"}}})
    shown = archive_section(results.root, "cut")
    assert "voxels from the nearest seam" in str(shown["seams"])
    assert shown["seam_paths"] == [folder / volume / "seams.tsv" for volume in "ab"]
    page = results.root / "report/index.html"
    build(results.root, {}, {}, {}, ["cut"], TEMPLATE, page)
    assert 'href="../archives/cut/b/seams.tsv"' in page.read_text()
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
    assert "tissue   demo        3        0     0        0       3" in lines
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
    assert "tissue   demo        3        1     0        1       1" in text
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


def test_objects_in_pieces_and_objects_joined_are_outlined() -> None:
    truth, labels = np.zeros((2, 12, 40), np.uint32)
    truth[1:11, 1:19] = 7  # found in two pieces
    labels[1:11, 1:10], labels[1:11, 10:19] = 1, 2
    truth[1:11, 21:30], truth[1:11, 30:39] = 8, 9  # found as one
    labels[1:11, 21:39] = 3
    overlay = examples.divided_and_joined(truth, labels, by=1)
    shown = overlay[..., 3] > 0
    assert shown[1:11, 1].all()
    assert not shown[5:7, 5:15].any()
    assert {tuple(pixel) for pixel in overlay[:, :20][shown[:, :20]][:, :3]} == {figures.DIVIDED}
    assert {tuple(pixel) for pixel in overlay[:, 20:][shown[:, 20:]][:, :3]} == {figures.JOINED}
    assert not shown[truth == 0].any()
    assert not examples.divided_and_joined(truth, truth, by=1).any()


def test_many_images_are_shown_by_some_that_are_spread_over_their_ranks() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    images = [f"image{number}" for number in range(1000)]
    columns = {"split": "fold0", "seed": 0, "metric": "dice_cell"}
    table = pd.DataFrame({**columns, "image": images, "value": values})
    shown = scores.distribution(table)
    assert scores.DOTS <= len(shown) <= scores.DOTS + 3
    assert set(shown["place"]) == {"best", "median", "worst", ""}
    assert dict(zip(shown["place"], shown["value"], strict=True))["best"] == values.max()
    assert abs(shown["value"].median() - np.median(values)) < 0.02
    assert {values.min(), values.max()} <= set(shown["value"])


def test_the_largest_memory_and_the_longest_job_are_told(tmp_path: Path) -> None:
    for name, line in {
        "train/demo/fold0": "100\t812.5",
        "train/demo/fold1": "50\t900",
        "split/demo": "0.2\tNA",
    }.items():
        write_text(tmp_path / f"costs/{name}.tsv", f"s\tmax_rss\n{line}\n")
    split, train = costs.rows_of(tmp_path)
    assert (split["stage"], split["jobs"], split["mib"]) == ("split", 1, None)
    assert (train["jobs"], train["seconds"], train["longest"]) == (2, 150, 100)
    assert train["mib"] == 900
    assert split["paths"] == [tmp_path / "costs/split/demo.tsv"]
    assert train["paths"] == [tmp_path / "costs/train/demo"]


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
    # Every chart is pointed at, which brings it to life, and then a mark of each.
    probe = f"""<script type="module">
    const charts = [...document.querySelectorAll(".chart")];
    charts.forEach(chart => chart.dispatchEvent(new Event("pointerenter")));
    const alive = () => charts.filter(chart => chart.matches(".alive:has(svg.marks)")).length;
    while (alive() < charts.length) await new Promise(resolve => setTimeout(resolve, 20));
    const told = charts.map(chart => {{
      const mark = [...chart.querySelectorAll(".live .role-mark path")].pop();
      mark.dispatchEvent(new MouseEvent("pointermove", {{bubbles: true, view: window}}));
      const tooltip = document.querySelector("#vg-tooltip-element.visible");
      tooltip?.classList.remove("visible");
      return Boolean(tooltip?.querySelector("td.value"));
    }});
    console.log("width", innerWidth, "excess", {excess}, "told", told.join());
    </script></body>"""
    write_text(page, probe.join(page.read_text().rsplit("</body>", 1)))
    said = opened(page, tmp_path, width)
    console = [line for line in said.splitlines() if "CONSOLE" in line]
    assert len(console) == 1, console
    assert f"width {width} excess 0 told {','.join(7 * ['true'])}" in console[0]
    pixels = matplotlib.image.imread(tmp_path / f"{width}.png")[..., :3]
    assert pixels.shape[1] == width
    assert pixels.std() > 0.05
