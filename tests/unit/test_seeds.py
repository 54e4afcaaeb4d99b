"""Seeds of watershed are those of the best objects, in worked examples and by brute force."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from unetflow import seeds
from unetflow.inference import Model
from unetflow.seeds import TRIED, choose_seeds
from unetflow.settings.prediction import PredictSettings, SegmentSettings
from unetflow.stitching import model_with_seeds
from unetflow.store import NOT_ANNOTATED, add_label, create_image, read_json, write_json

Picture = tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any]]
"""Foreground probability; true classes, None is those of the objects; true objects."""
SHOWN: dict[str, NDArray[Any]] = {}
"""Foreground probability of the images of a test by their names."""


@pytest.fixture(autouse=True)
def _shown_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predict what is shown."""

    def predict(model: Model, images: Sequence[Path], output: Path, _: PredictSettings) -> None:
        for path in images:
            shown = SHOWN[path.name]
            axes = "czyx" if shown.ndim == 3 else "cyx"
            create_image(output / path.name, axes, (1, *shown.shape), np.float32, {})[0] = shown

    monkeypatch.setattr(seeds, "predict_images", predict)


def chosen(
    folder: Path,
    pictures: Sequence[Picture],
    dimensions: int = 2,
    best: float = 0.11,
    planes: dict[str, Any] | None = None,
    drawn: bool = True,
    **segment: Any,
) -> float:
    """Threshold of seeds that pictures choose for a network whose threshold is best at a value."""
    paths = []
    for number, (foreground, classes, objects) in enumerate(pictures):
        paths.append(folder / f"images/{number}")
        SHOWN[paths[-1].name] = foreground.astype(np.float32)
        axes = "zyx" if objects.ndim == 3 else "yx"
        create_image(paths[-1], axes, objects.shape, np.uint8, {})[...] = 0
        known = objects > 0 if classes is None else classes
        add_label(paths[-1], "classes", axes, known.astype(np.uint8), {})
        if drawn:
            add_label(paths[-1], "instances", axes, objects.astype(np.uint16), {})
    facts = {"threshold": best, "network": {"dimensions": dimensions}}
    model = Model(torch.nn.Identity(), (), torch.device("cpu"), "32", facts)
    how = SegmentSettings(method="watershed", seed_threshold="auto", **segment)
    output = folder / "seeds.json"
    choose_seeds(model, paths, output, PredictSettings(), how, **(planes or {}))
    assert {path.name for path in folder.iterdir()} == {"images", "seeds.json"}
    found = read_json(output)
    quality = found["panoptic_quality"]
    assert quality[f"{found['seed_threshold']:g}"] == max(quality.values())
    return float(found["seed_threshold"])


def two_cells() -> Picture:
    """Cells of an undecided network, which at 0.9 finds none and at 0.6 one."""
    image = np.full((9, 20), 0.1)
    image[2:7, 2:18] = 0.62
    image[3:6, 3:9] = image[3:6, 11:17] = 0.78
    truth = np.zeros((9, 20), int)
    truth[2:7, 2:10], truth[2:7, 10:18] = 1, 2
    return image, None, truth


def test_seeds_are_above_what_joins_objects_and_below_what_they_reach(tmp_path: Path) -> None:
    image, _, truth = two_cells()
    # 0.65, 0.7 and 0.75 are as good
    assert chosen(tmp_path / "two", [(image, None, truth)]) == 0.7
    assert chosen(tmp_path / "one", [(image, None, np.minimum(truth, 1))]) < 0.62


def test_what_is_not_annotated_chooses_nothing(tmp_path: Path) -> None:
    image, _, truth = two_cells()
    sure = np.full((9, 40), 0.85)
    sure[2:7, 4::10] = 0.95
    cells = np.repeat([[3, 4, 5, 6]], 10, axis=1).repeat(9, axis=0)
    both, objects = np.hstack([image, sure]), np.hstack([truth, cells])
    known = np.hstack([np.minimum(truth, 1), np.full_like(cells, NOT_ANNOTATED)])
    assert chosen(tmp_path / "half", [(both, known, objects)]) == 0.7
    assert 0.85 <= chosen(tmp_path / "whole", [(both, None, objects)]) < 0.95


def test_objects_that_are_invented_in_empty_pictures_count(tmp_path: Path) -> None:
    image = np.full((12, 12), 0.35)
    image[4:8, 4:8] = 0.97
    empty = np.zeros((12, 12))
    empty[2:6, 2:6] = 0.6
    nothing = np.zeros((12, 12), int)
    pictures = [(image, None, nothing + 1), *[(empty, None, nothing)] * 3]
    assert 0.6 <= chosen(tmp_path, pictures) < 0.97


def test_seeds_are_chosen_for_how_objects_will_be_divided(tmp_path: Path) -> None:
    # A hole in the wall between two cells of several parts, which merging alone makes whole
    image = np.full((9, 18), 0.96)
    image[:, 2:8:2] = image[:, 11::2] = 0.94
    image[:, 8:10], image[4, 8:10] = 0.28, 0.93
    whole = [(image, None, np.repeat([[1] * 9 + [2] * 9], 9, axis=0))]
    assert chosen(tmp_path / "merged", whole, threshold=0, merge_below=0.5) == 0.95
    assert chosen(tmp_path / "parts", whole, threshold=0) != 0.95
    # Specks of one pixel, of which the network is surer than of half of the cells
    image = np.full((12, 40), 0.02)
    for number, certainty in enumerate([0.7, 0.7, 0.9, 0.9]):
        image[3:9, 10 * number + 2 : 10 * number + 8] = certainty
    truth, _ = ndimage.label(image > 0.5)
    image[1::3, 0::10] = 0.75
    cells = [(image, None, truth)]
    assert chosen(tmp_path / "dropped", cells, minimum_size=2) < 0.7
    assert 0.75 <= chosen(tmp_path / "kept", cells) < 0.9


def test_objects_that_fill_the_picture_are_judged_within_true_ones(tmp_path: Path) -> None:
    """Narrow cells far from one another, of which objects that fill the picture are the double."""
    image = np.full((9, 24), 0.8)
    image[:, 12] = 0.28
    truth = np.zeros((9, 24), int)
    truth[:, 2:6], truth[:, 18:22] = 1, 2
    filled = chosen(tmp_path, [(image, None, truth)], threshold=0)
    assert 0.3 <= filled < 0.8
    assert read_json(tmp_path / "seeds.json")["panoptic_quality"][f"{filled:g}"] == 1


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    ("planes", "known"),
    [({"annotated_planes": {"z": 3}}, [1, 4]), ({"tested_planes": 2}, [0, 2, 4])],
    ids=["annotated", "tested"],
)
def test_planes_that_teach_nothing_choose_nothing(
    tmp_path: Path, dimensions: int, planes: dict[str, Any], known: list[int]
) -> None:
    image, _, truth = two_cells()
    objects = np.stack([np.minimum(truth, 1)] * 6)
    objects[known] = truth
    pictures = [(np.stack([image] * 6), None, objects)]
    assert chosen(tmp_path / "known", pictures, dimensions, planes=planes) == 0.7


def reference_quality(truth: NDArray[Any], found: NDArray[Any]) -> float:
    """Panoptic quality by its definition; NaN without objects."""
    names, others = set(np.unique(truth)) - {0}, set(np.unique(found)) - {0}
    count, total = len(names) + len(others), 0.0
    for one, other in itertools.product(sorted(names), sorted(others)):
        iou = np.sum((truth == one) & (found == other)) / np.sum((truth == one) | (found == other))
        # With IoU 1/2 one object may have two, of which one counts
        if iou >= 0.5 and one in names and other in others:
            names.remove(one)
            others.remove(other)
            total += 2 * iou
    return float(total / count) if count else math.nan


@pytest.mark.parametrize(
    ("shape", "dimensions"), [((40, 50), 2), ((4, 30, 30), 2), ((9, 20, 22), 3)]
)
def test_quality_is_that_of_skimages_watershed_where_objects_are_annotated(
    tmp_path: Path, shape: tuple[int, ...], dimensions: int
) -> None:
    generator = np.random.default_rng(5)
    pictures = []
    for _ in range(2):
        smooth = ndimage.gaussian_filter(generator.normal(size=shape), 1.2)
        image = ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
        true = watershed(-image, ndimage.label(image > 0.68)[0], mask=image > 0.45)
        if dimensions < len(shape):
            true[0] = 0
        known = np.where(generator.random(shape[-2:]) > 0.2, true > 0, NOT_ANNOTATED)
        pictures.append((image, known, true))
    best = chosen(tmp_path, pictures, dimensions, best=0.5)
    expected = {}
    for seed in (0.5, *(each for each in TRIED if each > 0.5)):
        found = []
        for image, classes, true in pictures:
            for plane in np.ndindex(shape[:-dimensions]):
                label, _ = ndimage.label(image[plane] > seed)
                grown = watershed(-image[plane], label, mask=image[plane] > 0.5)
                where = classes[plane] != NOT_ANNOTATED
                found.append(reference_quality(true[plane][where], grown[where]))
        expected[f"{seed:g}"] = np.nanmean(found)
    assert read_json(tmp_path / "seeds.json")["panoptic_quality"] == pytest.approx(
        expected, abs=1e-6
    )
    assert len({round(value, 6) for value in expected.values()}) > 4
    assert 0.5 < best < 0.9


def test_classes_alone_choose_seeds_where_they_tell_objects(tmp_path: Path) -> None:
    image, _, truth = two_cells()
    apart = np.where(np.arange(20) == 9, 0, truth)
    assert chosen(tmp_path / "plane", [(image, None, apart)], drawn=False) == 0.7
    volume = [(np.stack([image] * 6), None, np.stack([apart] * 6))]
    assert chosen(tmp_path / "volume", volume, dimensions=3, drawn=False) == 0.7
    planes = {"annotated_planes": {"z": 3}}
    assert chosen(tmp_path / "flat", volume, planes=planes, drawn=False) == 0.7
    message = "segment.seed_threshold auto must have labels/instances where only a part of a volum"
    with pytest.raises(ValueError, match=re.escape(message)):
        chosen(tmp_path / "pieces", volume, dimensions=3, planes=planes, drawn=False)
    assert {path.name for path in (tmp_path / "pieces").iterdir()} == {"images"}


def test_a_final_network_has_the_mean_of_the_folds_seeds(tmp_path: Path) -> None:
    paths = [tmp_path / f"fold{number}.json" for number in range(3)]
    for path, seed in zip(paths, (0.5, 0.7, 0.9), strict=True):
        write_json(path, {"seed_threshold": seed, "panoptic_quality": {}})
    write_json(tmp_path / "model.json", {"threshold": 0.4})
    found = model_with_seeds(tmp_path / "model.json", [str(path) for path in paths])
    assert found == {"threshold": 0.4, "seed_threshold": pytest.approx(0.7)}
    assert model_with_seeds(tmp_path / "model.json", []) == {"threshold": 0.4}
