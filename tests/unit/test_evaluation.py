"""Scores of images, their summary over images, and the table of an archive."""

from __future__ import annotations

import json
import re
import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import label
from skimage.metrics import adapted_rand_error

from unetflow.archive_summary import MISSING, check_archive, summarise_archive
from unetflow.evaluation import evaluate_image, evaluate_images, evaluate_volume
from unetflow.metrics.contingency import contingency, v_rand
from unetflow.metrics.instances import mean_iou
from unetflow.metrics.membranes import challenge_scores
from unetflow.metrics.surface import SECOND_RATER, sliver07_score, surface_scores
from unetflow.scoring import score_objects, score_plane, score_surfaces
from unetflow.settings.evaluation import EvaluateSettings
from unetflow.store import NOT_ANNOTATED, add_label, create_image, open_image, write_json
from unetflow.summaries import merge_curves, merge_metrics, summarise

NAMES = ("background", "cell")
MODEL = {"class_names": NAMES, "network": {"dimensions": 2}}
# What is best at 1, and what at 0; the parts of v_rand and v_info are among the first.
BEST_AT_1 = ("dice_background", "dice_cell", "iou_background", "iou_cell", "mean_iou", "f1")
BEST_AT_0 = (
    *("pixel_error", "adapted_rand_error", "over_segmented", "under_segmented"),
    *("variation_of_information_split", "variation_of_information_merge"),
    "calibration_error_cell",
)


def picture(seed: int = 0, extents: tuple[int, int] = (24, 30)) -> NDArray[np.uint32]:
    """Return a few apart rectangles."""
    generator = np.random.default_rng(seed)
    found = np.zeros(extents, bool)
    for _ in range(8):
        row, column = generator.integers(0, extents[0] - 5), generator.integers(0, extents[1] - 5)
        found[row : row + 4, column : column + 4] = True
    return label(found, connectivity=1).astype(np.uint32)


def scores_of(
    truth: NDArray[np.integer],
    predicted: NDArray[np.integer],
    unknown: NDArray[np.bool_] | None = None,
    known_instances: bool = True,
) -> dict[str, float]:
    classes = (truth > 0).astype(np.uint8)
    if unknown is not None:
        classes[unknown] = NOT_ANNOTATED
    foreground = (predicted > 0)[None].astype(np.float32)
    return score_plane(classes, truth if known_instances else None, foreground, predicted, NAMES)


@given(st.integers(0, 1000))
@examples(deadline=None, max_examples=25)
def test_a_perfect_prediction_has_perfect_scores(seed: int) -> None:
    truth = picture(seed)
    for known in (True, False):
        scores = scores_of(truth, truth * 7, known_instances=known)
        assert {name: scores[name] for name in BEST_AT_0} == dict.fromkeys(BEST_AT_0, 0)
        rest = {name: value for name, value in scores.items() if name not in BEST_AT_0}
        assert set(BEST_AT_1) <= set(rest)
        assert {"v_rand", "v_info"} <= set(rest)
        assert rest == pytest.approx(dict.fromkeys(rest, 1))


@given(st.integers(0, 1000), st.booleans())
@examples(deadline=None, max_examples=60)
def test_pixels_without_annotation_do_not_count_in_any_score(seed: int, known: bool) -> None:
    generator = np.random.default_rng(seed)
    truth, unknown = picture(seed), generator.random((24, 30)) < generator.uniform(0, 0.6)
    unknown[:, 20:] = True
    predicted = picture(seed + 1)
    other = np.where(unknown, generator.integers(0, 9, truth.shape), predicted).astype(np.uint32)
    assert scores_of(truth, predicted, unknown, known) == scores_of(truth, other, unknown, known)


def test_an_object_beyond_the_annotation_does_not_reach_into_it_when_borders_are_thinned() -> None:
    """The row has one true object, of which the prediction misses the right end."""
    truth = np.array([[0, 1, 1, 1, 1, 1, 1, 0, 0]])
    found = np.array([[0, 5, 5, 5, 0, 0, 0, 0, 0]])
    unknown = np.arange(9)[None] > 6
    beyond = np.where(unknown, 8, found)
    assert scores_of(truth, found, unknown) == scores_of(truth, beyond, unknown)


@given(st.integers(0, 1000))
@examples(deadline=None, max_examples=25)
def test_adapted_rand_error_equals_scikit_image_with_missed_pixels_standing_alone(
    seed: int,
) -> None:
    truth, predicted = picture(seed), picture(seed + 1)
    scores = scores_of(truth, predicted)
    alone = np.where(predicted > 0, predicted, 1000 + np.arange(truth.size).reshape(truth.shape))
    with np.errstate(invalid="ignore"):  # precision of a prediction without pairs
        expected = adapted_rand_error(truth, alone)[0]
    assert scores["adapted_rand_error"] == pytest.approx(expected)
    assert scores["pixel_error"] == pytest.approx(((truth > 0) != (predicted > 0)).mean())


def test_a_worked_row() -> None:
    truth = np.array([[1, 1, 1, 0, 0, 2, 2, 2, 2, 0]])
    found = np.array([[1, 1, 1, 0, 0, 0, 0, 2, 2, 2]])
    scores = scores_of(truth, found)
    assert scores["pixel_error"] == pytest.approx(3 / 10)
    assert scores["dice_cell"] == pytest.approx(2 * 5 / (7 + 6))
    assert scores["iou_background"] == pytest.approx(2 / 5)
    assert (scores["precision_cell"], scores["recall_cell"]) == pytest.approx((5 / 6, 5 / 7))
    # Exactly half of the second object is covered, which is no match.
    assert scores["mean_iou"] == pytest.approx(1 / 2)
    assert scores["f1"] == pytest.approx(1 / 2)


def test_the_class_is_the_one_of_largest_probability() -> None:
    foreground = np.array([[[0.4, 0.3, 0.1, 0.8]], [[0.1, 0.4, 0.5, 0.1]]], np.float16)
    # What is left for background: 0.5, 0.3, 0.4, 0.1.
    classes = np.array([[0, 2, 2, 1]], np.uint8)
    scores = score_plane(classes, None, foreground, np.zeros((1, 4), int), ("a", "b", "c"))
    assert scores["pixel_error"] == 0
    assert [scores[f"dice_{name}"] for name in "abc"] == [1, 1, 1]


def test_scores_that_are_not_defined_are_left_out() -> None:
    empty = np.zeros((4, 5), np.uint32)
    scores = scores_of(empty, empty)
    assert scores["pixel_error"] == 0
    assert scores["dice_background"] == 1
    assert not {"dice_cell", "iou_cell", "mean_iou", "f1"} & set(scores)
    assert np.isfinite(list(scores.values())).all()
    assert scores_of(empty, empty, np.ones((4, 5), bool)) == {}


def test_objects_are_counted_at_each_overlap_and_in_pieces() -> None:
    truth, predicted = np.zeros((2, 8, 30), np.uint32)
    truth[:, :10], truth[:, 11:21], truth[:, 22:] = 1, 2, 3
    predicted[:, :8] = 1  # IoU 0.8
    predicted[:, 11:16], predicted[:, 16:21] = 2, 3  # two pieces, one of IoU 0.5
    scores = scores_of(truth, predicted)
    assert scores["f1"] == scores["precision"] == scores["recall"] == pytest.approx(2 / 3)
    precisions = [scores[f"average_precision_{percent}"] for percent in range(50, 100, 5)]
    assert precisions == pytest.approx([2 / 4, *[1 / 5] * 6, 0, 0, 0])
    assert scores["average_precision"] == pytest.approx(np.mean(precisions))
    assert scores["panoptic_quality"] == pytest.approx((0.8 + 0.5) / 3)
    assert scores["over_segmented"] == pytest.approx(1 / 3)
    assert scores["under_segmented"] == 0


OF_OBJECTS = ("f1", "precision", "recall", "panoptic_quality", "average_precision")
OF_PAIRS = ("adapted_rand_error", "mean_iou", "v_rand", "v_info", "v_rand_split", "v_info_merge")


def test_missing_and_inventing_everything_have_stated_scores() -> None:
    objects, nothing = picture(), np.zeros((24, 30), np.uint32)
    missed, invented = scores_of(objects, nothing), scores_of(nothing, objects)
    for scores in (missed, invented):
        assert [scores[name] for name in OF_OBJECTS] == [0] * 5
        for name in ("dice", "iou", "precision", "recall"):
            assert scores[f"{name}_cell"] == 0
        errors = [scores["pixel_error"], scores["calibration_error_cell"]]
        assert errors == pytest.approx([(objects > 0).mean()] * 2)
    assert (missed["adapted_rand_error"], missed["mean_iou"], missed["v_rand_merge"]) == (1, 0, 1)
    assert missed["pixel_average_precision_cell"] == pytest.approx((objects > 0).mean())
    # Without a true object there is nothing to find, and no pixel to be the object of.
    assert not {*OF_PAIRS, "pixel_average_precision_cell", "over_segmented"} & set(invented)
    assert "under_segmented" not in missed
    assert (missed["over_segmented"], invented["under_segmented"]) == (0, 0)


@pytest.mark.parametrize("shape", [(24, 30), (6, 8, 9)])
def test_an_object_that_fills_the_image_is_an_object(shape: tuple[int, ...]) -> None:
    giant, halves = np.ones(shape, np.uint32), np.ones(shape, np.uint32)
    halves[: shape[0] // 2] = 2
    perfect = scores_of(giant, giant * 9)
    assert perfect["f1"] == perfect["v_rand"] == perfect["v_info"] == perfect["mean_iou"] == 1
    assert "dice_background" not in perfect
    split = scores_of(giant, halves)
    # Exactly half of the object is no match of SEG, and one of an IoU of 0.5.
    assert (split["mean_iou"], split["v_rand_split"], split["v_rand_merge"]) == (0, 0.5, 1)
    assert (split["recall"], split["precision"]) == (1, 0.5)
    assert split["over_segmented"] == 1
    assert scores_of(halves, giant)["under_segmented"] == 1


@given(st.integers(0, 1000), st.sampled_from([1, 2**16 + 1, 2**32 + 1, 2**55 + 3]))
@examples(deadline=None, max_examples=25)
def test_scores_do_not_depend_on_the_ids(seed: int, factor: int) -> None:
    truth, predicted = picture(seed), picture(seed + 1)
    unknown = np.random.default_rng(seed).random(truth.shape) < 0.1
    ids = np.random.default_rng(seed).permutation(100).astype(np.uint64) + np.uint64(1)
    ids = np.append(np.uint64(0), ids * np.uint64(factor))
    expected = scores_of(truth, predicted, unknown)
    # Which of two objects at one distance thinning takes is a matter of ids.
    tied = {name for name in expected if name.startswith("v_")}
    relabelled = scores_of(ids[truth], ids[predicted], unknown)
    for name in expected.keys() - tied:
        assert relabelled[name] == pytest.approx(expected[name])
    same_order = scores_of(ids[truth], predicted * np.uint64(factor), unknown)
    assert same_order == pytest.approx(expected)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (1, r"truth_instances must have the shape of the true classes: got \(4, 1\) and \(4, 5\)"),
        (2, r"truth and prediction must have the same shape: got \(4, 5\) and \(4, 1\); crop"),
        (3, r"instances must have the shape of the true classes: got \(4, 1\) and \(4, 5\); crop"),
    ],
)
@pytest.mark.parametrize("annotated", [True, False])
def test_arrays_of_other_shapes_are_refused(index: int, message: str, annotated: bool) -> None:
    arrays = [np.full((4, 5), 1 if annotated else 255, np.uint8), np.ones((4, 5), np.uint32)]
    arrays += [np.ones((1, 4, 5), np.float32), np.ones((4, 5), np.uint32)]
    arrays[index] = arrays[index][..., :1]
    with pytest.raises(ValueError, match=message):
        score_plane(*arrays, NAMES)


def test_ten_million_objects_are_scored_in_memory_in_proportion_to_them() -> None:
    """Each true object of 2 pixels is found in halves: every match is contested."""
    objects = 10_000_000
    pieces = np.arange(1, objects + 1, dtype=np.uint32).reshape(2500, 4000)
    tracemalloc.start()
    table = contingency((pieces + np.uint32(1)) // np.uint32(2), pieces * np.uint64(2**32))
    scores = score_objects(table) | v_rand(table) | {"mean_iou": mean_iou(table)}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (scores["recall"], scores["precision"], scores["f1"]) == (1, 0.5, pytest.approx(2 / 3))
    assert (scores["over_segmented"], scores["mean_iou"], scores["split"]) == (1, 0, 0.5)
    assert peak < 400 * objects


# ---------------------------------------------------------------------------------- images


def write_images(
    root: Path,
    truth: NDArray[np.integer],
    predicted: NDArray[np.integer],
    axes: str,
    size: dict[str, float] | None = None,
) -> list[Path]:
    paths = [root / name for name in ("truth", "prediction", "segmentation")]
    create_image(paths[0], axes, truth.shape, np.uint8, {})[...] = 1
    add_label(paths[0], "classes", axes, (truth > 0).astype(np.uint8), {})
    add_label(paths[0], "instances", axes, truth, {})
    foreground = (predicted > 0)[None].astype(np.float16)
    create_image(paths[1], "c" + axes, foreground.shape, np.float16, size or {})[...] = foreground
    create_image(paths[2], axes, predicted.shape, np.uint32, size or {})[...] = predicted
    return paths


def evaluated(paths: Sequence[Path], dimensions: int = 2, **settings: Any) -> dict[str, float]:
    model = {**MODEL, "network": {"dimensions": dimensions}}
    return evaluate_image(*map(open_image, paths), model, EvaluateSettings(**settings))[0]


def test_a_stack_scores_the_mean_over_its_planes(tmp_path: Path) -> None:
    truth, predicted = (np.stack([picture(s + k) for k in range(3)]) for s in (0, 10))
    truth[1] = 0  # scores of this plane that are not defined do not lower the mean
    predicted[1] = 0
    paths = write_images(tmp_path, truth, predicted, "zyx")
    planes = [scores_of(*pair) for pair in zip(truth, predicted, strict=True)]
    expected = {
        name: np.mean([plane[name] for plane in planes if name in plane]) for name in planes[0]
    }
    assert "f1" not in planes[1]
    assert evaluated(paths) == pytest.approx(expected)


@pytest.mark.parametrize("settings", [{"dimensions": 3}, {"plane_by_plane": False}])
def test_a_volume_is_scored_as_one_where_planes_do_not_stand_alone(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    truth, predicted = (np.stack([picture(s + k) for k in range(3)]) for s in (0, 10))
    paths = write_images(tmp_path, truth, predicted, "zyx")
    assert evaluated(paths, **settings) == pytest.approx(scores_of(truth, predicted))


@pytest.mark.parametrize("axes", ["yx", "zyx"])
@pytest.mark.parametrize("border", [0, 1, 5])
def test_the_frame_that_is_left_out_does_not_count(tmp_path: Path, axes: str, border: int) -> None:
    truth, predicted = (np.stack([picture(s + k) for k in range(2)]) for s in (0, 10))
    if axes == "yx":
        truth, predicted = truth[0], predicted[0]
    paths = write_images(tmp_path / "whole", truth, predicted, axes)
    inside = (..., slice(border, 24 - border), slice(border, 30 - border))
    cropped = write_images(tmp_path / "cropped", truth[inside], predicted[inside], axes)
    assert evaluated(paths, ignore_border=border) == pytest.approx(evaluated(cropped))


def test_planes_that_are_not_tested_count_in_no_score(tmp_path: Path) -> None:
    truth, predicted = (np.stack([picture(s + k) for k in range(5)]) for s in (0, 10))
    others = np.array([0, 2, 3])
    results = []
    for name, there in (("one", predicted[others]), ("another", predicted[others][::-1])):
        predicted[others] = there
        paths = write_images(tmp_path / name, truth, predicted, "zyx")
        images = [open_image(path) for path in paths]
        for by_plane in (True, False):
            settings = EvaluateSettings(plane_by_plane=by_plane)
            results.append(evaluate_image(*images, MODEL, settings, tested_planes=3)[0])
    assert results[0] == results[2]
    assert results[1] == results[3]
    tested = truth[1::3] > 0, predicted[1::3] > 0
    iou = (tested[0] & tested[1]).sum() / (tested[0] | tested[1]).sum()
    assert results[1]["iou_cell"] == pytest.approx(iou)
    planes = [
        scores_of(truth[plane], predicted[plane])["dice_cell"] for plane in range(1, len(truth), 3)
    ]
    assert results[0]["dice_cell"] == pytest.approx(np.mean(planes))


def test_fractions_are_no_truth(tmp_path: Path) -> None:
    paths = write_images(tmp_path, picture(), picture(), "yx")
    with pytest.raises(ValueError, match="truth must have labels/classes, or be a label image"):
        evaluated([paths[1], *paths[1:]])


def test_labels_are_the_numbers_of_classes_to_a_network_of_three(tmp_path: Path) -> None:
    classes = np.where(picture() > 0, 1 + (picture() % 2), 0).astype(np.uint8)
    paths = write_images(tmp_path, classes, classes, "yx")
    foreground = np.stack([classes == 1, classes == 2]).astype(np.float16)
    create_image(paths[1], "cyx", foreground.shape, np.float16, {})[...] = foreground
    model = {"class_names": ["background", "nucleus", "cell"], "network": {"dimensions": 2}}
    facts = {"state": "done", "volume": {"path": "a.tif"}}
    places = dict(zip(("prediction", "segmentation"), paths[1:], strict=True))
    for value, metric, expected in ((2, "dice_cell", 1), (7, "reason", "classes from 0 to 2")):
        tifffile.imwrite(
            tmp_path / "t.tif", np.where(classes == 2, value, classes).astype(np.uint8)
        )
        known = places | {"truth": tmp_path / "t.tif"}
        evaluate_volume(facts, known, tmp_path / "m.tsv", model, EvaluateSettings())
        table = pd.read_csv(tmp_path / "m.tsv", sep="\t")
        if metric == "reason":
            assert expected in table["reason"].item()
        else:
            assert table.set_index("metric")["value"][metric] == expected


def test_a_truth_of_another_shape_is_refused(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "a", picture(), picture(), "yx")
    other = write_images(tmp_path / "b", picture()[:-1], picture()[:-1], "yx")
    with pytest.raises(ValueError, match=r"extents \(24, 30\) of the volume, .* it has \(23, 30\)"):
        evaluated([other[0], *paths[1:]])


def test_a_table_has_a_row_per_image_and_metric(tmp_path: Path) -> None:
    images = {
        name: write_images(tmp_path / name, picture(seed), picture(seed + 1), "yx")
        for seed, name in enumerate(["one", "two"])
    }
    labels = {"experiment": "demo", "split": "fold0", "seed": "0"}
    outputs = tmp_path / "metrics.tsv", tmp_path / "curves.tsv"
    evaluate_images(images, labels, *outputs, MODEL, EvaluateSettings())
    table = pd.read_csv(tmp_path / "metrics.tsv", sep="\t")
    assert table.columns.tolist() == ["experiment", "split", "seed", "image", "metric", "value"]
    for name, paths in images.items():
        rows = table[table["image"] == name]
        found = dict(zip(rows["metric"], rows["value"], strict=True))
        assert found == pytest.approx(evaluated(paths), rel=1e-5)


def test_scores_of_sequences_are_rows_beside_those_of_images(tmp_path: Path) -> None:
    labels = {"experiment": "demo", "split": "fold0", "seed": "0"}
    output, tracked = tmp_path / "metrics.tsv", {"02 frames 3-9": {"det": 0.5, "tra": 0.25}}
    curves = tmp_path / "curves.tsv"
    evaluate_images({}, labels, output, curves, MODEL, EvaluateSettings(), tracked)
    table = pd.read_csv(output, sep="\t", dtype=str)
    assert table.to_dict("records") == [
        {**labels, "image": "02 frames 3-9", "metric": metric, "value": value}
        for metric, value in (("det", "0.5"), ("tra", "0.25"))
    ]


def test_curves_hold_the_pixels_of_all_images_by_probability_and_are_merged(
    tmp_path: Path,
) -> None:
    tables, truths, predictions = [], [], []
    for fold in range(2):
        images = {}
        for name in ("one", "two"):
            truth, predicted = picture(len(truths)), picture(len(truths) + 1)
            images[name] = write_images(tmp_path / f"{name}{fold}", truth, predicted, "yx")
            truths.append(truth > 0)
            predictions.append(predicted > 0)
        tables.append(tmp_path / f"curves{fold}.tsv")
        labels = {"experiment": "demo", "split": f"fold{fold}", "seed": "0"}
        evaluate_images(images, labels, tmp_path / "m.tsv", tables[-1], MODEL, EvaluateSettings())
        table = pd.read_csv(tables[-1], sep="\t")
        columns = ["experiment", "split", "seed", "class", "level", "negatives", "positives"]
        assert table.columns.tolist() == columns
        assert table["level"].tolist() == list(range(256))
    merge_curves(tables, tmp_path / "curves.tsv")
    merged = pd.read_csv(tmp_path / "curves.tsv", sep="\t").set_index(["class", "level"])
    truth, predicted = np.stack(truths), np.stack(predictions)
    for level, there in ((0, ~predicted), (255, predicted)):
        row = merged.loc[("cell", level)]
        assert row["positives"] == (truth & there).sum()
        assert row["negatives"] == (~truth & there).sum()
    assert merged.sum().sum() == truth.size


def volume_table(root: Path, truth: Path, state: str = "done") -> pd.DataFrame:
    """Scores of a volume as they were written."""
    paths = {name: root / name for name in ("prediction", "segmentation")} | {"truth": truth}
    facts = {"state": state, "volume": {"path": "a.tif"}}
    evaluate_volume(facts, paths, root / "metrics.tsv", MODEL, EvaluateSettings())
    return pd.read_csv(root / "metrics.tsv", sep="\t")


def test_a_volume_is_scored_by_labels_or_by_a_label_image(tmp_path: Path) -> None:
    truth = picture()
    paths = write_images(tmp_path, truth, picture(1), "yx")
    tifffile.imwrite(tmp_path / "truth.tif", truth.astype(np.uint16))
    create_image(tmp_path / "ids", "yx", truth.shape, np.uint32, {})[...] = truth
    for place in (tmp_path / "truth", tmp_path / "truth.tif", tmp_path / "ids"):
        table = volume_table(tmp_path, place)
        assert table.columns.tolist() == ["metric", "value", "reason"]
        found = dict(zip(table["metric"], table["value"], strict=True))
        assert found == pytest.approx(evaluated(paths), rel=1e-5), place


def test_a_volume_is_scored_on_the_grid_of_a_truth_that_covers_it(tmp_path: Path) -> None:
    coarse = picture(1, (12, 15))
    fine = np.kron(coarse, np.ones((2, 2), np.uint32))
    write_images(tmp_path, coarse, coarse, "yx", {"y": 1.0, "x": 1.0})
    create_image(tmp_path / "ids", "yx", fine.shape, np.uint32, {"y": 0.5, "x": 0.5})[...] = fine
    found = volume_table(tmp_path, tmp_path / "ids").set_index("metric")["value"]
    # Rectangles come back to the voxel: their corners are 9 / 16 of what is interpolated there.
    assert (found["mean_iou"], found["dice_cell"], found["pixel_error"]) == (1, 1, 0)
    shifted = np.roll(fine, 1, axis=1)
    create_image(tmp_path / "ids", "yx", fine.shape, np.uint32, {"y": 0.5, "x": 0.5})[...] = shifted
    found = volume_table(tmp_path, tmp_path / "ids").set_index("metric")["value"]
    assert found["pixel_error"] == pytest.approx(((fine > 0) != (shifted > 0)).mean(), rel=1e-5)
    create_image(tmp_path / "ids", "yx", fine.shape, np.uint32, {"y": 0.7, "x": 0.5})[...] = fine
    reason = volume_table(tmp_path, tmp_path / "ids")["reason"].item()
    assert "extents (12, 15) of the volume, or state voxels that cover it" in reason


@pytest.mark.parametrize("value", [1, 255])
def test_a_truth_of_one_value_has_its_components_as_objects(tmp_path: Path, value: int) -> None:
    truth = picture()
    one_value = (truth > 0).astype(np.uint8)
    write_images(tmp_path, label(one_value, connectivity=1), picture(1), "yx")
    tifffile.imwrite(tmp_path / "mask.tif", one_value * np.uint8(value))
    tables = [volume_table(tmp_path, tmp_path / name) for name in ("mask.tif", "truth")]
    assert tables[0].equals(tables[1])


def test_a_broken_compressed_truth_is_told(tmp_path: Path) -> None:
    write_images(tmp_path, picture(), picture(1), "yx")
    tifffile.imwrite(tmp_path / "truth.tif", picture().astype(np.uint16), compression="zlib")
    with tifffile.TiffFile(tmp_path / "truth.tif") as file:
        start, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    content = bytearray((tmp_path / "truth.tif").read_bytes())
    content[start : start + count] = b"\x07" * count
    (tmp_path / "truth.tif").write_bytes(content)
    (row,) = volume_table(tmp_path, tmp_path / "truth.tif").to_dict("records")
    assert row["reason"].startswith("no scores: ")


def test_a_volume_that_failed_has_no_scores(tmp_path: Path) -> None:
    write_images(tmp_path, picture(), picture(1), "yx")
    assert volume_table(tmp_path, tmp_path / "truth", "failed").empty


def test_a_truth_that_cannot_be_used_is_told_and_stops_nothing(tmp_path: Path) -> None:
    write_images(tmp_path, picture(), picture(1), "yx")
    tifffile.imwrite(tmp_path / "truth.tif", np.zeros((7, 7), np.uint8))
    for name, words in (
        ("truth.tif", "truth must have the extents (24, 30)"),
        ("missing.tif", "a volume must exist: found nothing"),
        ("prediction", "truth must have labels/classes"),
    ):
        (row,) = volume_table(tmp_path, tmp_path / name).to_dict("records")
        assert row["reason"].startswith("no scores: ")
        assert words in row["reason"]
        write_summaries(tmp_path)
        shutil.copy(tmp_path / "metrics.tsv", tmp_path / "good")
        summarise_archive(tmp_path, BOTH, {"good"}, tmp_path / "s.tsv")
        good = pd.read_csv(tmp_path / "s.tsv", sep="\t").iloc[0]
        assert (good["state"], good["reason"]) == ("done", row["reason"])
        assert "f1" not in good


# --------------------------------------------------------------------------------- summary


def table_of(values: dict[str, list[float]], metric: str = "f1") -> pd.DataFrame:
    return pd.DataFrame(
        [
            ("fold0", seed, name, metric, value)
            for name, row in values.items()
            for seed, value in enumerate(row)
        ],
        columns=["split", "seed", "image", "metric", "value"],
    )


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
@examples(deadline=None, max_examples=30)
def test_the_interval_contains_the_mean_and_lies_within_the_values(values: list[float]) -> None:
    table = table_of({str(number): [value] for number, value in enumerate(values)})
    found = summarise(table)["f1"]
    assert found["n"] == len(values)
    assert found["mean"] == pytest.approx(np.mean(values))
    assert min(values) - 1e-9 <= found["low"] <= found["mean"] + 1e-9
    assert found["mean"] - 1e-9 <= found["high"] <= max(values) + 1e-9


def test_the_interval_of_many_values_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    found = summarise(table_of({str(k): [value] for k, value in enumerate(values)}))["f1"]
    error = values.std() / 20
    assert found["high"] - found["mean"] == pytest.approx(1.96 * error, rel=0.1)
    assert found["mean"] - found["low"] == pytest.approx(1.96 * error, rel=0.1)
    assert summarise(table_of({str(k): [value] for k, value in enumerate(values)}))["f1"] == found


def test_one_image_has_no_interval_however_many_seeds() -> None:
    found = summarise(table_of({"a": [0.25, 0.75]}))["f1"]
    expected = {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert {key: found[key] for key in expected} == expected
    json.dumps(found, allow_nan=False)


def test_an_image_counts_once_however_many_seeds_predicted_it() -> None:
    found = summarise(table_of({"a": [0.0, 0.0, 0.0], "b": [1.0]}))["f1"]
    assert (found["mean"], found["n"]) == (0.5, 2)


def test_every_metric_counts_the_images_that_have_it() -> None:
    tables = [table_of({"a": [0.5], "b": [1.0]}), table_of({"b": [0.25]}, "mean_iou")]
    found = summarise(pd.concat(tables))
    assert {name: row["n"] for name, row in found.items()} == {"f1": 2, "mean_iou": 1}


@pytest.mark.parametrize("names", [("a", "b"), ("NA", "null"), ("nan", "007")])
def test_scores_of_all_splits_are_merged_whatever_images_are_called(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    tables, folds = [], []
    for fold, name in enumerate(names):
        tables.append(tmp_path / f"{fold}.tsv")
        folds.append(tmp_path / f"{fold}.json")
        table = table_of({name: [0.5 * fold]}).assign(split=f"fold{fold}")
        table.to_csv(tables[-1], sep="\t", index=False)
        write_json(folds[-1], {"threshold": 0.1 * fold, "training": {"best_step": 10 + fold}})
    merge_metrics(tables, folds, tmp_path / "metrics.tsv", tmp_path / "summary.json")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["thresholds"] == [0, 0.1]
    assert summary["best_steps"] == [10, 11]
    assert (summary["metrics"]["f1"]["mean"], summary["metrics"]["f1"]["n"]) == (0.25, 2)
    merged = pd.read_csv(tmp_path / "metrics.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert merged["image"].tolist() == list(names)


# --------------------------------------------------------------------------------- archive


BOTH = ("good", "bad")


def write_summaries(root: Path, objects: int = 7, voxels: int = 126) -> None:
    facts = {"path": "p.tif", "experiment": "demo", "predict_seconds": 1.5, "outlier": ""}
    facts |= {"median_size": None, "foreground": None}
    done = {"state": "done", "reason": "", "objects": objects, "voxels": voxels}
    failed = {"state": "failed", "reason": "no such file", "objects": None, "voxels": None}
    write_json(root / "good/summary.json", {**facts, **done, "shape": [3, 6, 7]})
    write_json(root / "bad/summary.json", {**facts, **failed, "shape": None})


def test_an_archives_summary_has_a_row_per_volume_with_its_scores(tmp_path: Path) -> None:
    write_summaries(tmp_path)
    scores = "metric\tvalue\treason\nf1\t0.5\t\nmean_iou\t0.25\t\n"
    (tmp_path / "good/metrics.tsv").write_text(scores)
    output = tmp_path / "summary.tsv"
    summarise_archive(tmp_path, BOTH, {"good"}, output)
    table = pd.read_csv(output, sep="\t", dtype=str, keep_default_na=False)
    assert table["volume"].tolist() == ["good", "bad"]
    good, bad = table.to_dict("records")
    assert (good["state"], good["shape"], good["objects"]) == ("done", "3x6x7", "7")
    assert (good["f1"], good["mean_iou"]) == ("0.5", "0.25")
    assert (bad["state"], bad["reason"], bad["shape"]) == ("failed", "no such file", "")
    assert (bad["objects"], bad["f1"]) == ("", "")


def test_counts_of_objects_and_voxels_are_exact_beside_a_volume_that_failed(
    tmp_path: Path,
) -> None:
    write_summaries(tmp_path, objects=1_234_567, voxels=2_147_483_649)
    summarise_archive(tmp_path, BOTH, (), tmp_path / "summary.tsv")
    table = pd.read_csv(tmp_path / "summary.tsv", sep="\t", dtype=str)
    assert table["objects"][0] == "1234567"
    assert table["voxels"][0] == "2147483649"


def test_an_archive_with_failed_volumes_is_refused_with_their_reasons(tmp_path: Path) -> None:
    output = tmp_path / "liver/summary.tsv"
    write_summaries(tmp_path)
    summarise_archive(tmp_path, BOTH, (), output)
    message = re.escape("liver: 1 of 2 volumes failed: bad: no such file")
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_archive(output)
    summarise_archive(tmp_path, ["good"], (), output)
    check_archive(output)


@pytest.mark.parametrize("size", [0.5, None])
def test_surfaces_are_scored_in_micrometres_where_they_are_known(
    tmp_path: Path, size: float | None
) -> None:
    truth, predicted = np.zeros((2, 20, 20), np.uint32)
    truth[5:15, 5:15], predicted[5:15, 5:17] = 1, 1
    paths = write_images(
        tmp_path, truth, predicted, "yx", {} if size is None else {"y": size, "x": size}
    )
    scores, unit = evaluated(paths, surface_tolerance=0.4), size or 1
    assert scores["hausdorff_cell"] == pytest.approx(2 * unit)
    assert scores["volumetric_overlap_error_cell"] == pytest.approx(1 / 6)
    assert scores["relative_volume_difference_cell"] == pytest.approx(0.2)
    assert 0.5 < scores["surface_dice_cell"] < 1
    assert not any(name.startswith(("surface", "hausdorff")) for name in evaluated(paths))


def test_the_surface_of_an_object_that_is_missed_is_as_far_as_the_image_is_long(
    tmp_path: Path,
) -> None:
    truth, nothing = np.zeros((2, 30, 40), np.uint32)
    truth[5:15, 5:15] = 1
    scores = evaluated(write_images(tmp_path, truth, nothing, "yx"), surface_tolerance=1)
    assert scores["hausdorff_cell"] == scores["average_surface_distance_cell"] == 50
    assert scores["surface_dice_cell"] == 0


def test_a_volume_invented_where_none_is_differs_by_all_its_pixels() -> None:
    """Infinitely, were it in proportion to the true one."""
    truth, predicted = np.zeros((2, 20, 30), np.uint8)
    predicted[5:15, 5:15] = 1
    truth[5:10, 5:15] = NOT_ANNOTATED
    name = "relative_volume_difference_cell"
    assert score_surfaces(truth, predicted, NAMES, (1, 1), 1)[name] == 50
    truth[12, 7] = 1  # as if there were one pixel
    assert score_surfaces(truth, predicted, NAMES, (1, 1), 1)[name] == 49
    nothing = np.zeros_like(truth)
    assert score_surfaces(truth, nothing, NAMES, (1, 1), 1)[name] == -1
    assert np.isnan(list(score_surfaces(nothing, nothing, NAMES, (1, 1), 1).values())).all()


TUMOUR = ("background", "necrosis", "oedema", "enhancing")
BRATS = {
    "WT": ("necrosis", "oedema", "enhancing"),
    "TC": ("necrosis", "enhancing"),
    "ET": ("enhancing",),
}


def tumours(shape: tuple[int, ...] = (10, 20, 24)) -> list[NDArray[np.uint8]]:
    """Return two volumes of nested classes that resemble each other."""
    place = np.indices(shape) - (np.array(shape) / 2).reshape(-1, 1, 1, 1)
    found = []
    for shift, scale in ((0.0, 1.0), (1.5, 0.9)):
        radius = np.sqrt(((place - shift) ** 2 * np.array([4, 1, 1]).reshape(-1, 1, 1, 1)).sum(0))
        found.append(np.digitize(-radius, [-9 * scale, -6 * scale, -3 * scale]).astype(np.uint8))
    # From the rim inwards: oedema, enhancing, necrosis
    return [np.array([0, 2, 3, 1], np.uint8)[volume] for volume in found]


def evaluated_tumours(tmp_path: Path, size: dict[str, float], **settings: Any) -> dict[str, float]:
    truth, predicted = tumours()
    paths = write_images(
        tmp_path, truth.astype(np.uint32), predicted.astype(np.uint32), "zyx", size
    )
    add_label(paths[0], "tumour", "zyx", truth, {})
    (paths[0] / "labels/classes").rename(paths[0] / "labels/foreground")
    (paths[0] / "labels/tumour").rename(paths[0] / "labels/classes")
    one_hot = np.stack([predicted == value for value in (1, 2, 3)]).astype(np.float16)
    create_image(paths[1], "czyx", one_hot.shape, np.float16, {})[...] = one_hot
    model = {"class_names": TUMOUR, "network": {"dimensions": 3}}
    chosen = EvaluateSettings(regions=BRATS, surface_tolerance=1, **settings)
    return evaluate_image(*map(open_image, paths), model, chosen)[0]


def test_nested_regions_are_scored_as_one_class_each(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    size = {"z": 3000.0, "y": 1000.0, "x": 500.0}
    scores = evaluated_tumours(tmp_path, size, surface_unit="mm")
    truth, predicted = tumours()
    for name, classes in BRATS.items():
        numbers = [TUMOUR.index(of) for of in classes]
        images = [
            sitk.GetImageFromArray(np.isin(it, numbers).astype("u1")) for it in (predicted, truth)
        ]
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*images)
        assert scores[f"dice_{name}"] == pytest.approx(overlap.GetDiceCoefficient())
        jaccard = overlap.GetJaccardCoefficient()
        assert scores[f"volumetric_overlap_error_{name}"] == pytest.approx(1 - jaccard)
        masks = [np.isin(it, numbers) for it in (truth, predicted)]
        expected = surface_scores(*masks, (3.0, 1.0, 0.5), 1)
        assert {of: scores[f"{of}_{name}"] for of in expected} == pytest.approx(expected)
        # SimpleITK measures between contours, which are up to a voxel's diagonal away.
        for image in images:
            image.SetSpacing((0.5, 1.0, 3.0))
        contours = [sitk.LabelContour(image, fullyConnected=True) for image in images]
        far = sitk.HausdorffDistanceImageFilter()
        far.Execute(*contours)
        diagonal = float(np.linalg.norm([0.5, 1, 3]))
        found = scores[f"hausdorff_{name}"]
        assert found == pytest.approx(far.GetHausdorffDistance(), abs=diagonal)
    assert scores["dice_ET"] == scores["dice_enhancing"]
    assert scores["hausdorff_95_ET"] == scores["hausdorff_95_enhancing"]


SLIVER07: dict[str, Any] = {
    "challenge": "sliver07", "surface_unit": "mm", "plane_by_plane": False
}  # fmt: skip


def test_points_of_sliver07_are_those_of_the_five_errors_of_a_class(tmp_path: Path) -> None:
    size = {"z": 3000.0, "y": 1000.0, "x": 500.0}
    scores = evaluated_tumours(tmp_path, size, **SLIVER07)
    for name in (*TUMOUR[1:], *BRATS):
        errors = {error: scores[f"{error}_{name}"] for error in SECOND_RATER}
        assert 0 < scores[f"sliver07_{name}"] == sliver07_score(errors) < 100


@pytest.mark.parametrize(
    "other", [{"surface_tolerance": None}, {"surface_unit": "um"}, {"plane_by_plane": True}]
)
def test_points_of_sliver07_need_surfaces_of_volumes_in_mm(other: dict[str, Any]) -> None:
    settings = {"surface_tolerance": 1, **SLIVER07}
    EvaluateSettings(**settings)
    with pytest.raises(ValueError, match="for the challenge sliver07: got"):
        EvaluateSettings(**(settings | other))


def test_points_of_sliver07_are_not_told_of_voxels_of_unknown_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sliver07 must know the size of voxels"):
        evaluated_tumours(tmp_path, {}, **SLIVER07)


def test_surface_distances_in_mm_are_thousandths_of_those_in_um(tmp_path: Path) -> None:
    size = {"z": 3000.0, "y": 1000.0, "x": 500.0}
    for folder in ("um", "mm"):
        (tmp_path / folder).mkdir()
    um, mm = (evaluated_tumours(tmp_path / it, size, surface_unit=it) for it in ("um", "mm"))
    for name in ("hausdorff_95_WT", "rms_surface_distance_TC", "average_surface_distance_oedema"):
        assert um[name] == pytest.approx(1000 * mm[name])


def test_surface_distances_of_unknown_size_are_pixels_whatever_the_unit(tmp_path: Path) -> None:
    scores = evaluated_tumours(tmp_path, {}, surface_unit="mm")
    expected = surface_scores(*(volume > 0 for volume in tumours()), (1, 1, 1), 1)
    assert scores["hausdorff_95_WT"] == pytest.approx(expected["hausdorff_95"])


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (
            {"WT": ["tumour"]},
            r"regions\.WT must be of the classes background, necrosis.*got tumour;",
        ),
        ({"WT": []}, r"regions\.WT must be of the classes .* got none; correct it"),
        ({"oedema": ["necrosis"]}, r"regions\.oedema must have a name that no class has"),
    ],
)
def test_regions_of_unknown_classes_are_refused(regions: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        EvaluateSettings(regions=regions).numbered_regions(TUMOUR)
    assert "\n" not in str(caught.value)


def test_sections_are_scored_together_as_the_challenge_did(tmp_path: Path) -> None:
    images, stacks = {}, []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        truth, predicted = picture(ord(name)), picture(7)
        images[name] = write_images(tmp_path / name, truth, predicted, "yx")
        stacks.append((truth > 0, predicted > 0))
    output, labels = tmp_path / "metrics.tsv", {"experiment": "e", "split": "fold1", "seed": "0"}
    settings = EvaluateSettings(challenge="isbi2012")
    evaluate_images(images, labels, output, tmp_path / "curves.tsv", MODEL, settings)
    table = pd.read_csv(output, sep="\t")
    together = table[table["image"] == "all of fold1"].set_index("metric")["value"]
    truth, predicted = (np.stack(each) for each in zip(*stacks, strict=True))
    expected = challenge_scores(truth, predicted.astype(float))
    assert len(together) == len(expected) > 5
    for name, best in expected.items():
        assert together[f"isbi2012_{name}"] == pytest.approx(best.score, rel=1e-5)
    hits = 2 * (truth & predicted).sum() / (truth.sum() + predicted.sum())
    assert together["isbi2012_pixel_error"] == pytest.approx(1 - hits, rel=1e-5)
    (tmp_path / "c").mkdir()
    images["c"] = write_images(tmp_path / "c", truth[0, :20] + 0, predicted[0, :20] + 0, "yx")
    with pytest.raises(ValueError, match="must be 2D sections of one size"):
        evaluate_images(images, labels, output, tmp_path / "curves.tsv", MODEL, settings)


def test_scores_that_are_not_defined_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nothing, labels = np.zeros((20, 30), np.uint32), {"split": "fold0"}
    images = {"empty": write_images(tmp_path, nothing, nothing, "yx")}
    with caplog.at_level("INFO", "unetflow"):
        outputs = tmp_path / "images.tsv", tmp_path / "curves.tsv"
        evaluate_images(images, labels, *outputs, MODEL, EvaluateSettings())
    assert "empty: not defined, since there is nothing to judge: dice_cell, iou_cell" in caplog.text
    found = pd.read_csv(tmp_path / "images.tsv", sep="\t")
    assert "f1" not in set(found["metric"])
    assert found["value"].notna().all()
    table = volume_table(tmp_path, tmp_path / "truth")
    *scores, last = table.to_dict("records")
    assert last["reason"].startswith("not defined, since there is nothing to judge: dice_cell")
    assert all(np.isfinite(row["value"]) for row in scores)
    told = {"state": "done", "objects": 0, "voxels": 600, "shape": [20, 30], "experiment": "e"}
    write_json(tmp_path / "v/summary.json", {**MISSING, **told})
    shutil.copy(tmp_path / "metrics.tsv", tmp_path / "v")
    summarise_archive(tmp_path, ["v"], {"v"}, tmp_path / "s.tsv")
    row = pd.read_csv(tmp_path / "s.tsv", sep="\t").iloc[0]
    assert (row["pixel_error"], row["reason"]) == (0, last["reason"])
