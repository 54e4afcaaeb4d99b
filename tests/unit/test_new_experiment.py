"""A settings file for somebody's own pictures: it loads, finds every pair and suits them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from numpy.typing import NDArray

from unetflow import new_experiment
from unetflow.datasets.layouts import sources, unique
from unetflow.datasets.prepare import checked
from unetflow.datasets.synthetic import synthesize
from unetflow.experiments import parse
from unetflow.new_experiment import common_folder, describe
from unetflow.outlines import write_outlines
from unetflow.settings.datasets import DatasetSettings, PairsLayout
from unetflow.settings.experiment import ExperimentSettings
from unetflow.store import Image

IMAGES, MASKS = "data/images/*.tif", "data/masks/*.tif"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


def write(path: str, pixels: NDArray[Any]) -> None:
    """Write a TIFF file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, photometric="minisblack")


def add(name: str, extent: int = 128, classes: bool = False, folder: str = "data") -> None:
    """Write a picture of many cells and its mask."""
    pixels, mask = synthesize("membranes", (extent, extent), seed=0)
    write(f"{folder}/images/{name}.tif", pixels)
    write(f"{folder}/masks/{name}.tif", (mask > 0) * np.uint8(255) if classes else mask)


def loaded(name: str, images: str = IMAGES, masks: str = MASKS) -> ExperimentSettings:
    """Describe pictures and load what was written."""
    return parse(ExperimentSettings, yaml.safe_load(describe(name, images, masks)), name)


def pairs_in(settings: ExperimentSettings) -> list[str]:
    """Read every pair of an experiment's dataset; return the names."""
    assert isinstance(settings.dataset, DatasetSettings)
    assert settings.dataset.folder is not None
    found = unique(sources(settings.dataset, Path(settings.dataset.folder)))
    for source in found:
        checked(source, *source.read())
    return [source.name for source in found]


def layout(settings: ExperimentSettings) -> PairsLayout:
    """Return the layout of an experiment's dataset."""
    assert isinstance(settings.dataset, DatasetSettings)
    assert isinstance(settings.dataset.layout, PairsLayout)
    return settings.dataset.layout


def test_pictures_with_instance_masks_make_an_experiment_that_finds_them() -> None:
    for number in range(4):
        add(f"cell{number}")
    settings = loaded("mine")
    assert pairs_in(settings) == ["cell0", "cell1", "cell2", "cell3"]
    assert layout(settings).labels_are == "instances"
    assert (settings.split.unit, settings.split.folds) == ("image", 4)


def test_pictures_with_class_masks_make_an_experiment_with_those_classes() -> None:
    for number in range(3):
        add(f"cell{number}", classes=True)
    settings = loaded("mine")
    assert pairs_in(settings) == ["cell0", "cell1", "cell2"]
    assert layout(settings).labels_are == "classes"
    assert layout(settings).classes == {"background": 0, "foreground": 255}


def test_three_objects_an_image_are_objects_and_not_classes() -> None:
    for name in "abc":
        add(name)
        mask = np.zeros((128, 128), np.uint8)
        mask[5:30, 5:30], mask[5:30, 30:60], mask[70:90, 80:120] = 1, 2, 3
        write(f"data/masks/{name}.tif", mask)
    settings = loaded("mine")
    assert layout(settings).labels_are == "instances"
    assert settings.segment.seeds_are_chosen, "two of them touch"
    for name in "abc":
        mask[5:30, 30] = 0
        write(f"data/masks/{name}.tif", mask)
    assert loaded("mine").segment.method == "components"
    assert "seed" not in describe("mine", IMAGES, MASKS)


def test_masks_of_three_classes_name_all_of_them() -> None:
    for number in range(3):
        add(f"cell{number}")
        mask = np.zeros((128, 128), np.uint8)
        mask[20:60, 20:60], mask[70:90, 20:60] = 1, 2
        mask[20:60, 70:90], mask[70:90, 70:90], mask[100:110, 70:90] = 2, 1, 1
        write(f"data/masks/cell{number}.tif", mask)
    assert layout(loaded("mine")).classes == {"background": 0, "foreground": 1, "class2": 2}


@pytest.mark.parametrize("extent", [40, 64, 128, 199, 200, 512, 700])
def test_the_tile_is_admissible_and_not_larger_than_needed(extent: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        mask = np.zeros((extent, extent), np.uint16)
        for label in range(6):
            mask[5 * label : 5 * label + 4, 3:30] = label + 1
        write(f"data/images/{number}.tif", rng.integers(0, 255, mask.shape).astype(np.uint8))
        write(f"data/masks/{number}.tif", mask)
    settings = loaded("mine")  # loading refuses a tile that is not admissible
    assert isinstance(settings.patches.tile, int)
    (axis, _) = settings.model.geometry
    assert settings.patches.tile <= max(new_experiment.LARGEST_TILE, axis.minimum)
    assert settings.patches.tile <= axis.input_for(extent)
    assert axis.step(settings.patches.tile) > 0


@pytest.mark.parametrize("name", ["cell 1", "day 2 (b)", "it's", "a+b", "ä", "#3"])
def test_file_names_with_odd_characters_are_found(name: str) -> None:
    for number in range(3):
        add(f"{name} {number}")
    assert len(pairs_in(loaded("mine"))) == 3


@pytest.mark.parametrize("folder", ["my data", "it's", "a: b", "a #b", "10%", "- a", "{a}"])
def test_folders_with_odd_characters_are_found(folder: str) -> None:
    for number in range(3):
        add(str(number), folder=folder)
    settings = loaded("mine", f"{folder}/images/*.tif", f"{folder}/masks/*.tif")
    assert len(pairs_in(settings)) == 3


@pytest.mark.parametrize("absolute", [(False, False), (True, True), (True, False)])
def test_patterns_can_be_absolute_or_relative(tmp_path: Path, absolute: tuple[bool, bool]) -> None:
    for number in range(3):
        add(str(number))
    images, masks = (
        str(tmp_path / pattern) if whole else pattern
        for pattern, whole in zip((IMAGES, MASKS), absolute, strict=True)
    )
    assert pairs_in(loaded("mine", images, masks)) == ["0", "1", "2"]


def test_pictures_and_masks_can_share_a_folder() -> None:
    for number in range(3):
        add(str(number), folder="elsewhere")
        Path("all").mkdir(exist_ok=True)
        Path(f"elsewhere/images/{number}.tif").rename(f"all/{number}_img.tif")
        Path(f"elsewhere/masks/{number}.tif").rename(f"all/{number}_mask.tif")
    assert pairs_in(loaded("mine", "all/*_img.tif", "all/*_mask.tif")) == ["0", "1", "2"]


def test_pictures_and_masks_can_lie_in_the_working_folder() -> None:
    for number in range(3):
        add(str(number))
        Path(f"data/images/{number}.tif").rename(f"{number}_img.tif")
        Path(f"data/masks/{number}.tif").rename(f"{number}_mask.tif")
    assert pairs_in(loaded("mine", "*_img.tif", "*_mask.tif")) == ["0", "1", "2"]


def test_patterns_with_a_folder_per_image_keep_their_names() -> None:
    for number in range(3):
        add("raw", folder=f"data/{number}")
    settings = loaded("mine", "data/{image}/images/raw.tif", "data/{image}/masks/raw.tif")
    assert pairs_in(settings) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("images", "masks", "shared"),
    [
        ("a/b/c/*.tif", "a/b/d/*.tif", "a/b"),
        ("a/b/*.tif", "a/b/*.png", "a/b"),
        ("a/*.tif", "b/*.tif", "."),
        ("a/one/x/*.tif", "a/two/x/*.tif", "a"),
        ("a/*/x/*.tif", "a/*/y/*.tif", "a"),
        ("*.tif", "masks/*.tif", "."),
    ],
)
def test_the_common_folder_holds_both(images: str, masks: str, shared: str) -> None:
    assert common_folder(images, masks) == Path(shared)


@pytest.mark.parametrize("name", ["2024", "null", "yes", "1e3", "cells-2", "A_b"])
def test_any_admissible_name_loads(name: str) -> None:
    for number in range(3):
        add(str(number))
    settings = loaded(name)
    assert isinstance(settings.dataset, DatasetSettings)
    assert settings.dataset.name == name


# -------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", "ä"])
def test_a_name_of_other_characters_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"NAME must be letters, digits, - and _: .*choose"):
        describe(name, IMAGES, MASKS)


def test_too_few_images_are_refused() -> None:
    for number in range(2):
        add(str(number))
    with pytest.raises(ValueError, match=r"three images are the least .*: found 2\Z"):
        describe("mine", IMAGES, MASKS)


def test_a_missing_mask_is_refused() -> None:
    for number in range(3):
        add(str(number))
    Path("data/masks/1.tif").unlink()
    with pytest.raises(ValueError, match=r"images/1\.tif: an image must have a mask"):
        describe("mine", IMAGES, MASKS)


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_no_images_or_masks_at_all_are_refused(folder: str) -> None:
    for number in range(3):
        add(str(number))
        Path(f"data/{folder}/{number}.tif").unlink()
    with pytest.raises(ValueError, match=rf"files must match '{folder}/.*': found none"):
        describe("mine", IMAGES, MASKS)


def test_masks_without_any_object_are_refused() -> None:
    for number in range(3):
        add(str(number))
        write(f"data/masks/{number}.tif", np.zeros((128, 128), np.uint8))
    with pytest.raises(ValueError, match=r"masks must have objects: .* empty"):
        describe("mine", IMAGES, MASKS)


def test_masks_of_another_shape_are_refused() -> None:
    for number in range(3):
        add(str(number))
        write(f"data/masks/{number}.tif", np.eye(64, dtype=np.uint8))
    with pytest.raises(ValueError, match="must have the shape of its image"):
        describe("mine", IMAGES, MASKS)


def test_masks_of_whole_numbers_stored_as_floats_are_looked_at() -> None:
    for number in range(3):
        add(str(number))
        _, mask = synthesize("membranes", (128, 128), seed=0)
        write(f"data/masks/{number}.tif", mask.astype(np.float32))
    assert len(pairs_in(loaded("mine"))) == 3


def test_pictures_that_are_volumes_make_an_experiment_that_loads() -> None:
    for number in range(3):
        pixels, mask = synthesize("cells", (4, 64, 64), seed=number)
        write(f"data/images/{number}.tif", pixels)
        write(f"data/masks/{number}.tif", mask)
    assert len(pairs_in(loaded("mine"))) == 3


# --------------------------------------------------------------------------- command line


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run the command in this process."""
    monkeypatch.setattr(sys, "argv", ["new-experiment", *arguments])
    new_experiment.main()


def test_the_command_writes_a_file_and_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        add(str(number))
    command(monkeypatch, "mine", "--images", IMAGES, "--masks", MASKS)
    told = capsys.readouterr().out
    assert "wrote config/experiments/mine.yaml" in told
    assert "snakemake --cores all --config 'experiments=[mine]'" in told
    path = Path("config/experiments/mine.yaml")
    parse(ExperimentSettings, yaml.safe_load(path.read_text(encoding="utf-8")), str(path))


def test_a_name_that_exists_is_refused_and_the_file_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(3):
        add(str(number))
    path = Path("config/experiments/mine.yaml")
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(SystemExit, match=r"error: .*mine\.yaml: must be new: it exists; choose"):
        command(monkeypatch, "mine", "--images", IMAGES, "--masks", MASKS)
    assert path.read_text() == "mine"


def test_a_refusal_is_one_line_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    add("0")
    with pytest.raises(SystemExit, match=r"\Aerror: .*: found 1\Z"):
        command(monkeypatch, "mine", "--images", IMAGES, "--masks", MASKS)
    assert not Path("config").exists()


def test_the_module_can_be_run() -> None:
    asked = [sys.executable, "-m", "unetflow.new_experiment", "--help"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert "--images" in done.stdout


@pytest.mark.parametrize("count", [1, 3])
def test_pictures_with_roi_sets_make_an_experiment_of_instances(count: int) -> None:
    labels = np.zeros((128, 128), np.uint32)
    for number in range(count):
        labels[10:30, 40 * number + 2 : 40 * number + 30] = number + 1
    for name in "abc":
        add(name)
        Path("data/sets").mkdir(exist_ok=True)
        write_outlines(Image("", labels, "yx", {}), Path("data/sets") / name, "fiji")
    settings = loaded("mine", masks="data/sets/*.zip")
    assert pairs_in(settings) == ["a", "b", "c"]
    assert layout(settings).labels_are == "instances"
