"""SEG, DET and TRA of tracked sequences."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from skimage.segmentation import expand_labels

from unetflow.lineage import check_lineage
from unetflow.metrics.contingency import Contingency, contingency
from unetflow.metrics.instances import mean_iou
from unetflow.metrics.tracking import WEIGHTS, tracking_scores

U373 = Path(__file__).parents[3] / "shared/data/PhC-C2DH-U373.zip"
COUNTS = ("ns", "fn", "fp", "ed", "ea", "ec")
NONE = np.zeros((0, 4), np.int64)
Tracked = tuple[np.ndarray, np.ndarray]

# A row is a frame. Cell 1 divides into 3 and 4, cell 2 is lost for a frame and comes back as 5.
TRUTH = np.array(
    [
        [1, 1, 1, 1, 0, 2, 2, 2, 0],
        [1, 1, 1, 1, 0, 2, 2, 2, 0],
        [3, 3, 3, 4, 4, 0, 0, 0, 0],
        [3, 3, 3, 4, 4, 5, 5, 5, 0],
    ]
)
LINEAGE = np.array([[1, 0, 1, 0], [2, 0, 1, 0], [3, 2, 3, 1], [4, 2, 3, 1], [5, 3, 3, 2]])


def tables(truth: np.ndarray, prediction: np.ndarray) -> Iterator[Contingency]:
    return (contingency(*frame) for frame in zip(truth, prediction, strict=True))


def scores(truth: Tracked, prediction: Tracked) -> dict[str, float]:
    return tracking_scores(tables(truth[0], prediction[0]), truth[1], prediction[1])


def runs(frames: np.ndarray, rng: np.random.Generator) -> Tracked:
    """Make every stay of a label a track, some torn, with parents by chance."""
    tracked, rows, latest = np.zeros_like(frames), [], {}
    for number, frame in enumerate(frames):
        labels = np.unique(frame[frame > 0]).tolist()
        stays = [one for one in labels if one in latest and rows[latest[one] - 1][2] == number - 1]
        stays = [one for one in stays if rng.random() > 0.1]
        for label in stays:
            rows[latest[label] - 1][2] = number
        ended = [row[0] for row in rows if row[2] < number]
        for label in labels:
            if label not in stays:
                before = [latest[label]] * (1 + len(ended)) if label in latest else []
                rows.append([len(rows) + 1, number, number, int(rng.choice([0, *ended, *before]))])
                latest[label] = len(rows)
            tracked[number][frame == label] = latest[label]
    return tracked, np.array(rows, np.int64).reshape(-1, 4)


def graph(lineage: np.ndarray) -> tuple[set[tuple[int, int]], dict[tuple, bool]]:
    """Objects as pairs of frame and label, and edges with whether they go to a child."""
    ends = {label: end for label, _, end, _ in lineage.tolist()}
    vertices, edges = set(), {}
    for label, begin, end, parent in lineage.tolist():
        vertices |= {(frame, label) for frame in range(begin, end + 1)}
        edges |= {((t, label), (t + 1, label)): False for t in range(begin, end)}
        if parent:
            edges[(ends[parent], parent), (begin, label)] = True
    return vertices, edges


def by_definition(truth: Tracked, prediction: Tracked) -> dict[str, int]:
    """Count as the paper describes it, one object and one edge at a time."""
    objects, edges = graph(truth[1])
    predicted, drawn = graph(prediction[1])
    found: dict[tuple, list] = {vertex: [] for vertex in predicted}
    for frame, label in objects:
        inside = prediction[0][frame][truth[0][frame] == label]
        for one in set(inside.tolist()) - {0}:
            if (inside == one).sum() > inside.size / 2:
                found[frame, one].append((frame, label))
    partner = {vertex: markers[0] for vertex, markers in found.items() if len(markers) == 1}
    kept = {
        (partner[a], partner[b]): child
        for (a, b), child in drawn.items()
        if a in partner and b in partner
    }
    return {
        "ns": sum(len(markers) - 1 for markers in found.values() if markers),
        "fn": len(objects) - sum(len(markers) for markers in found.values()),
        "fp": sum(not markers for markers in found.values()),
        "ed": len(kept.keys() - edges.keys()),
        "ea": len(edges.keys() - kept.keys()),
        "ec": sum(edges[edge] != child for edge, child in kept.items() if edge in edges),
        "vertices": len(objects),
        "edges": len(edges),
    }


def changed(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Delete, merge, swap and split labels in some frames, and add some."""
    frames = frames.copy()
    for frame in frames:
        for kind in np.flatnonzero(rng.random(5) < 0.3):
            labels = np.unique(frame[frame > 0])
            if len(labels) < 2:
                continue
            one, other = rng.choice(labels, 2, replace=False)
            first, second = frame == one, frame == other
            if kind == 0:
                frame[first] = 0
            elif kind == 1:
                frame[first] = other
            elif kind == 2:
                frame[first], frame[second] = other, one
            elif kind == 3:
                columns = np.nonzero(first)[-1]
                frame[first & (np.arange(frame.shape[-1]) > np.median(columns))] = 60
            else:
                empty = np.flatnonzero(frame == 0)[:7]
                frame.flat[empty] = 61
    return frames


def test_a_perfect_result_has_1_in_all() -> None:
    result = tracking_scores(tables(TRUTH, TRUTH), LINEAGE, LINEAGE, tables(TRUTH, TRUTH))
    assert (result["seg"], result["det"], result["tra"]) == (1, 1, 1)
    assert [result[name] for name in COUNTS] == [0] * 6
    assert (result["vertices"], result["edges"]) == (9, 7)


def test_names_of_labels_do_not_matter() -> None:
    names = np.array([0, 900, 7, 31, 2, 65_535])
    renamed = np.column_stack([names[LINEAGE[:, 0]], LINEAGE[:, 1:3], names[LINEAGE[:, 3]]])
    result = scores((TRUTH, LINEAGE), (names[TRUTH], renamed[::-1]))
    assert (result["det"], result["tra"]) == (1, 1)


@pytest.mark.parametrize(
    ("frames", "lineage", "expected"),
    [
        # The last object is missed, with its edge.
        ([[1, 1, 1], [1, 1, 1], [0, 0, 0]], [[1, 0, 1, 0]], {"fn": 1, "ea": 1}),
        # It is found, and a part of the second one apart.
        ([[1, 1, 1], [1, 1, 2], [1, 1, 1]], [[1, 0, 2, 0], [2, 1, 1, 0]], {"fp": 1}),
        # The track is torn.
        ([[1, 1, 1], [1, 1, 1], [2, 2, 2]], [[1, 0, 1, 0], [2, 2, 2, 0]], {"ea": 1}),
        # It is torn and mended as parent and child.
        ([[1, 1, 1], [1, 1, 1], [2, 2, 2]], [[1, 0, 1, 0], [2, 2, 2, 1]], {"ec": 1}),
        # The middle is missed and bridged: an edge that is not there, and two that are missing.
        (
            [[1, 1, 1], [0, 0, 0], [2, 2, 2]],
            [[1, 0, 0, 0], [2, 2, 2, 1]],
            {"fn": 1, "ed": 1, "ea": 2},
        ),
    ],
)
def test_every_operation_has_its_cost(
    frames: list[list[int]], lineage: list[list[int]], expected: dict[str, int]
) -> None:
    truth = np.ones((3, 3), int), np.array([[1, 0, 2, 0]])
    result = scores(truth, (np.array(frames), np.array(lineage)))
    assert {name: result[name] for name in COUNTS if result[name]} == expected
    cost = sum(WEIGHTS[name] * count for name, count in expected.items())
    assert result["tra"] == pytest.approx(1 - cost / (3 * 10 + 2 * 1.5))
    vertices = sum(WEIGHTS[name] * expected.get(name, 0) for name in ("ns", "fn", "fp"))
    assert result["det"] == pytest.approx(1 - vertices / 30)


def test_an_object_on_two_markers_is_split_and_has_no_edges() -> None:
    truth = np.array([[1, 1, 2, 2]] * 2), np.array([[1, 0, 1, 0], [2, 0, 1, 0]])
    merged = np.array([[1, 1, 2, 2], [1, 1, 1, 1]]), np.array([[1, 0, 1, 0], [2, 0, 0, 0]])
    result = scores(truth, merged)
    assert [result[name] for name in COUNTS] == [1, 0, 0, 0, 2, 0]
    assert result["det"] == pytest.approx(1 - 5 / 40)
    assert result["tra"] == pytest.approx(1 - (5 + 2 * 1.5) / (40 + 2 * 1.5))


def test_half_of_a_marker_is_not_enough_to_find_it() -> None:
    truth = np.array([[1, 1, 1, 1]]), np.array([[1, 0, 0, 0]])
    half = np.array([[5, 5, 0, 0]]), np.array([[5, 0, 0, 0]])
    assert [scores(truth, half)[name] for name in ("fn", "fp")] == [1, 1]


def test_a_worked_sequence_has_the_scores_of_py_ctcmetrics() -> None:
    prediction = np.array(
        [
            [1, 1, 1, 1, 0, 2, 2, 2, 0],
            [2, 2, 2, 2, 0, 1, 1, 0, 0],  # swapped
            [3, 3, 3, 3, 3, 0, 0, 0, 0],  # the daughters are one
            [3, 3, 3, 4, 4, 6, 6, 6, 0],  # one daughter is new, the lost cell no child
        ]
    )
    lineage = np.array([[1, 0, 1, 0], [2, 0, 1, 0], [3, 2, 3, 2], [4, 3, 3, 0], [6, 3, 3, 0]])
    result = tracking_scores(
        tables(TRUTH, prediction), LINEAGE, lineage, tables(TRUTH[1:], prediction[1:])
    )
    # Those of py-ctcmetrics 1.3.3 for a folder of these frames.
    assert [result[name] for name in COUNTS] == [1, 0, 0, 2, 7, 0]
    assert result["seg"] == pytest.approx(0.8095238095238094, abs=1e-12)
    assert result["det"] == pytest.approx(0.9444444444444444, abs=1e-12)
    assert result["tra"] == pytest.approx(0.8258706467661692, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 9))
def test_operations_equal_those_counted_by_definition(seed: int, frames: int, pixels: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(0, 4, (1, pixels)), frames, axis=0)
    truth[rng.random(truth.shape) < 0.1] = 0
    prediction = np.where(rng.random(truth.shape) < 0.25, rng.integers(0, 5, truth.shape), truth)
    pair = runs(truth, rng), runs(prediction, rng)
    result = scores(*pair)
    counts = by_definition(*pair)
    assert {name: result[name] for name in counts} == counts
    if counts["vertices"]:
        cost = {name: WEIGHTS[name] * counts[name] for name in COUNTS}
        worst = 10 * counts["vertices"], 10 * counts["vertices"] + 1.5 * counts["edges"]
        assert result["det"] == pytest.approx(max(0, 1 - sum(list(cost.values())[:3]) / worst[0]))
        assert result["tra"] == pytest.approx(max(0, 1 - sum(cost.values()) / worst[1]))


def test_seg_is_the_mean_over_objects_of_the_frames_that_have_outlines() -> None:
    truth = np.array([[1, 1, 2, 2], [3, 3, 3, 3]])
    prediction = np.array([[1, 1, 2, 2], [1, 1, 1, 0]])
    lineage = np.array([[1, 0, 1, 0], [2, 0, 0, 0]])
    outlines = list(tables(truth, prediction))
    for frames, expected in (([0], 1), ([1], 0.75), ([0, 1], (1 + 1 + 0.75) / 3)):
        result = tracking_scores(
            tables(prediction, prediction), lineage, lineage, (outlines[frame] for frame in frames)
        )
        assert result["seg"] == pytest.approx(expected)
    assert mean_iou(outlines[1]) == 0.75


@pytest.mark.parametrize(
    ("truth", "prediction", "score"),
    [([0, 0], [0, 0], math.nan), ([0, 0], [1, 1], 0.0), ([1, 1], [0, 0], 0.0), ([1, 1], [1, 1], 1)],
)
def test_empty_sides_have_stated_scores(
    truth: list[int], prediction: list[int], score: float
) -> None:
    one = np.array([[1, 0, 2, 0]])
    images = np.array([truth] * 3), np.array([prediction] * 3)
    lineages = [one if image.any() else NONE for image in images]
    result = tracking_scores(tables(*images), *lineages, tables(*images))
    assert result["det"] == pytest.approx(score, nan_ok=True)
    assert result["tra"] == pytest.approx(score, nan_ok=True)
    assert result["seg"] == pytest.approx(score if any(truth) else math.nan, nan_ok=True)


def test_a_sequence_without_frames_or_outlines_has_no_scores() -> None:
    result = tracking_scores([], NONE, NONE)
    assert all(math.isnan(result[name]) for name in ("seg", "det", "tra"))


def test_more_errors_than_work_are_a_score_of_0() -> None:
    truth = np.array([[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    prediction = np.arange(13)[np.newaxis]
    many = np.array([[label, 0, 0, 0] for label in range(1, 13)])
    result = scores((truth, np.array([[1, 0, 0, 0]])), (prediction, many))
    assert (result["fn"], result["fp"], result["det"], result["tra"]) == (1, 12, 0, 0)


@pytest.mark.parametrize(
    ("lineage", "match"),
    [
        ([[1, 0, 2, 0], [9, 1, 2, 0]], r"prediction, frame 1: .*got \[\] in the image .* \[9\]"),
        ([[1, 0, 1, 0]], r"prediction, frame 2: .*got \[1\] in the image alone and \[\] in"),
        ([[1, 1, 2, 0]], r"prediction, frame 0: .*got \[1\] in .*; correct where they begin"),
        ([[1, 0, 3, 0]], r"prediction: .*got an end in frame 3 and 3 images; give the table"),
        ([[1, 0, 2]], r"prediction: .*integers of shape \(tracks, 4\): got int64 of shape \(1, 3"),
        ([[1.0, 0, 2, 0]], r"prediction: .*got float64 of shape \(1, 4\); give a row"),
        ([[0, 0, 2, 0]], r"prediction: every track .*got label 0, begin 0.*; correct this row"),
        ([[1, 0, 2, 0], [1, 0, 2, 0]], r"a label above 0 of its own.*got label 1"),
        ([[1, 2, 0, 0]], r"0 <= begin <= end.*got label 1, begin 2, end 0"),
        ([[1, -1, 2, 0]], r"0 <= begin <= end.*begin -1"),
        ([[1, 0, 2, 5]], r"parent 0 or a track that ends before: got .*parent 5"),
        ([[1, 0, 2, 2], [2, 0, 0, 0]], r"a track that ends before: got label 1, .*parent 2"),
        ([[1, 0, 2, 1]], r"a track that ends before: got label 1, .*parent 1"),
        ([[1, 0, 2, -3]], r"a track that ends before: got label 1, .*parent -3"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(lineage: Sequence, match: str) -> None:
    truth = np.ones((3, 4), int), np.array([[1, 0, 2, 0]])
    with pytest.raises(ValueError, match=match) as error:
        scores(truth, (truth[0], np.array(lineage)))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=match.replace("prediction", "truth")):
        scores((truth[0], np.array(lineage)), truth)


def test_tracks_may_come_in_any_order_of_their_birth() -> None:
    mixed = LINEAGE[[4, 2, 0, 3, 1]]
    check_lineage(mixed, "truth")
    without_5 = np.where(TRUTH == 5, 0, TRUTH)
    expected = scores((TRUTH, LINEAGE), (without_5, LINEAGE[:4]))
    assert 0 < expected["tra"] < 1
    assert scores((TRUTH, mixed), (without_5, LINEAGE[3::-1])) == expected


def theirs(folder: Path, truth: Tracked, prediction: Tracked, outlines: dict) -> dict[str, float]:
    """Scores of py-ctcmetrics of sequences of 2D frames."""
    evaluate = pytest.importorskip("ctc_metrics", reason="py-ctcmetrics is not installed")
    for place, (frames, lineage), name in (
        ("GT/TRA/man_track", truth, "GT/TRA/man_track.txt"),
        ("RES/mask", prediction, "RES/res_track.txt"),
    ):
        (folder / name).parent.mkdir(parents=True)
        np.savetxt(folder / name, lineage, fmt="%d")
        for number, frame in enumerate(frames):
            tifffile.imwrite(folder / f"{place}{number:03d}.tif", frame.astype(np.uint16))
    (folder / "GT/SEG").mkdir()
    for number, frame in outlines.items():
        tifffile.imwrite(folder / f"GT/SEG/man_seg{number:03d}.tif", frame.astype(np.uint16))
    wanted = ["Valid", "SEG", "DET", "TRA"]
    result = evaluate.evaluate_sequence(folder / "RES", folder / "GT", wanted, threads=1)
    assert result["Valid"] == 1
    return {name.removeprefix("AOGM_").lower(): value for name, value in result.items()}


def compare(folder: Path, truth: Tracked, prediction: Tracked, outlines: dict) -> dict[str, float]:
    expected = theirs(folder, truth, prediction, outlines)
    ours = tracking_scores(
        tables(truth[0], prediction[0]),
        truth[1],
        prediction[1],
        (contingency(outline, prediction[0][frame]) for frame, outline in outlines.items()),
    )
    for name in ("seg", "det", "tra", *COUNTS):
        assert ours[name] == pytest.approx(expected[name], abs=1e-9), name
    return ours


@pytest.mark.parametrize("seed", range(8))
def test_changed_sequences_have_the_scores_of_py_ctcmetrics(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = np.kron(np.arange(1, 13).reshape(3, 4), np.pad(np.ones((4, 4), int), 1))
    truth = runs(changed(np.stack([grid] * 10), rng), rng)
    prediction = runs(changed(truth[0], rng), rng)
    ours = compare(tmp_path, truth, prediction, {2: grid, 7: truth[0][7]})
    assert ours["ec"] > 0


@pytest.mark.data
@pytest.mark.skipif(not U373.is_file(), reason="no real images beside the project: shared/data")
def test_a_result_on_u373_has_the_scores_of_py_ctcmetrics(tmp_path: Path) -> None:
    pytest.importorskip("ctc_metrics", reason="py-ctcmetrics is not installed")
    rng = np.random.default_rng(0)
    first, last = 17, 26  # of 115 frames, since a frame takes py-ctcmetrics about a second
    folder = "PhC-C2DH-U373/02_GT/"
    with zipfile.ZipFile(U373) as archive:
        names = {name.removeprefix(folder) for name in archive.namelist()}
        lineage = np.loadtxt(io.BytesIO(archive.read(f"{folder}TRA/man_track.txt")), np.int64)
        image = {
            name: tifffile.imread(io.BytesIO(archive.read(folder + name)))
            for frame in range(first, last + 1)
            for name in (f"TRA/man_track{frame:03d}.tif", f"SEG/man_seg{frame:03d}.tif")
            if name in names
        }
    markers = np.stack([pixels for name, pixels in image.items() if "TRA" in name])
    outlines = {int(name[-7:-4]) - first: image[name] for name in image if "SEG" in name}
    lineage = lineage[(lineage[:, 1] <= last) & (lineage[:, 2] >= first)]
    lineage[:, 1:3] = lineage[:, 1:3].clip(first, last) - first
    lineage[~np.isin(lineage[:, 3], lineage[:, 0]), 3] = 0
    grown = np.stack([expand_labels(frame, 25) for frame in markers])
    ours = compare(tmp_path, (markers, lineage), runs(changed(grown, rng), rng), outlines)
    assert len(outlines) == 5
    assert ours["seg"] > 0.2
    assert ours["tra"] < ours["det"] < 1
