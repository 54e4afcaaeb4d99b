"""Instances of frames linked to tracks, and the challenge's files of them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter

from unetflow.lineage import read_lineage
from unetflow.metrics.contingency import contingency
from unetflow.metrics.tracking import tracking_scores
from unetflow.tracking import Tracks, write_result

U373 = Path(__file__).parents[3] / "shared/data/PhC-C2DH-U373.zip"


def linked(frames: Iterable, **rules: Any) -> tuple[list, list]:
    """Labels of 1D frames, drawn as rows, and the lineage."""
    tracks = Tracks((np.array([frame]) for frame in frames), **rules)
    return [frame[0].tolist() for frame in tracks], tracks.lineage.tolist()


def renamed(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give the labels of a frame other names by chance."""
    return np.append(0, rng.permutation(frame.max()) + 1)[frame]


def disks(shape: tuple[int, ...], frames: int, rng: np.random.Generator) -> np.ndarray:
    """Disks or balls of radius 3 that go a pixel in a frame at most; some come and go."""
    grid = np.meshgrid(*[np.arange(6, extent, 14) for extent in shape], indexing="ij")
    places = np.stack([axis.ravel() for axis in grid], axis=1)
    begin, end = rng.integers(0, 3, len(places)), frames - rng.integers(0, 3, len(places))
    coordinates = np.stack(np.indices(shape), axis=-1)
    movie = np.zeros((frames, *shape), np.int32)
    for number in range(frames):
        places = places + rng.integers(-1, 2, places.shape) * (rng.random((len(places), 1)) < 0.5)
        for label in np.flatnonzero((begin <= number) & (number < end)):
            near = ((coordinates - places[label]) ** 2).sum(axis=-1) <= 9
            movie[number][near & (movie[number] == 0)] = label + 1
    return movie


def lineage_of(movie: np.ndarray) -> np.ndarray:
    """Lineage of labels that are in successive frames each, without parents."""
    rows = []
    for label in np.unique(movie[movie > 0]):
        frames = np.flatnonzero((movie == label).reshape(len(movie), -1).any(axis=1))
        assert (np.diff(frames) == 1).all()
        rows.append((label, frames[0], frames[-1], 0))
    return np.array(rows)


def tra(truth: Iterable, lineage: np.ndarray, tracks: Tracks) -> float:
    frames = list(tracks)
    tables = (
        contingency(true, frame, ignore=(true == 0) & (frame == 0))
        for true, frame in zip(truth, frames, strict=True)
    )
    return tracking_scores(tables, lineage, tracks.lineage)["tra"]


@pytest.mark.parametrize(("shape", "seed"), [((60, 76), 0), ((60, 76), 1), ((20, 34, 34), 2)])
def test_slow_disks_keep_their_track_whatever_their_labels(
    shape: tuple[int, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    movie = disks(shape, 12, rng)
    tracks = Tracks([renamed(frame, rng) for frame in movie])
    assert tra(movie, lineage_of(movie), tracks) == 1
    assert len(tracks.lineage) == movie.max()
    for frame, true in zip(tracks, movie, strict=True):
        assert (frame.dtype, frame.shape) == (np.uint32, shape)
        assert ((frame > 0) == (true > 0)).all()


@given(st.integers(0, 2**32 - 1))
def test_tracks_do_not_depend_on_the_names_of_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 5, (4, 1, 9))
    orders = np.array([np.append(0, np.sort(rng.choice(9, 4, replace=False)) + 1) for _ in frames])
    others = [order[frame] for order, frame in zip(orders, frames, strict=True)]
    rules = {"max_distance": 3.5, "gap": 1}
    one, other = Tracks(frames, **rules), Tracks(others, **rules)
    assert np.array_equal(list(one), list(other))
    assert np.array_equal(one.lineage, other.lineage)


@given(st.integers(0, 2**32 - 1))
def test_links_have_the_largest_total_overlap_of_all_assignments(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(1, 5, (2, 12))
    labels, others = np.unique(first), np.unique(second)
    iou = np.array([[iou_of(first == a, second == b) for b in others] for a in labels])
    wide = iou if len(labels) <= len(others) else iou.T
    rows = range(len(wide))
    best = max(
        sum(wide[row, column] for row, column in zip(rows, columns, strict=True))
        for columns in permutations(range(wide.shape[1]), len(wide))
    )
    before, after = map(np.array, linked([first, second], division=1)[0])
    found = [iou_of(before == label, after == label) for label in np.unique(before)]
    assert sum(found) == pytest.approx(best)


def iou_of(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_the_largest_overlap_yields_to_two_that_add_up_to_more() -> None:
    frames, lineage = linked(
        [
            [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2],
            # 2 and 8 share 3 pixels of 8, the most; 1 and 8 share 3 of 9, 2 and 9 share 1 of 5
            [0, 0, 0, 8, 8, 8, 8, 8, 8, 9, 0],
        ]
    )
    assert frames[1] == [0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 0]
    assert lineage == [[1, 0, 1, 0], [2, 0, 1, 0]]


def test_objects_that_lie_mostly_in_one_are_its_children() -> None:
    frames, lineage = linked(
        [
            [3, 3, 3, 3, 3, 3, 0, 7, 7],
            [4, 4, 4, 0, 5, 5, 5, 6, 6],  # of 5, two pixels of three were 3
            [5, 5, 5, 0, 4, 4, 4, 6, 6],
        ]
    )
    assert frames[1:] == [[3, 3, 3, 0, 4, 4, 4, 2, 2]] * 2
    assert lineage == [[1, 0, 0, 0], [2, 0, 2, 0], [3, 1, 2, 1], [4, 1, 2, 1]]


@pytest.mark.parametrize(
    ("after", "division", "children"),
    [
        ([5, 5, 5, 5, 5, 5, 5, 6, 0, 0], 0.25, 0),  # 6 covers an eighth of its mother
        ([5, 5, 5, 5, 5, 5, 5, 6, 0, 0], 0.125, 2),
        ([5, 5, 5, 5, 0, 0, 6, 6, 6, 6], 0.25, 0),  # half of 6 was elsewhere
        ([5, 5, 5, 5, 0, 0, 6, 6, 6, 0], 0.25, 2),
        ([5, 5, 5, 6, 6, 6, 7, 7, 0, 0], 0.25, 3),
        ([5, 5, 5, 5, 6, 6, 6, 6, 0, 0], 0.5, 2),
        ([5, 5, 5, 5, 6, 6, 6, 6, 0, 0], 0.51, 0),
    ],
)
def test_fragments_are_no_children(after: list[int], division: float, children: int) -> None:
    frames, lineage = linked([[1, 1, 1, 1, 1, 1, 1, 1, 0, 0], after], division=division)
    assert sum(parent == 1 for *_, parent in lineage) == children
    assert (1 in frames[1]) == (children == 0)


@pytest.mark.parametrize(("max_distance", "tracks"), [(0, 2), (4, 2), (4.01, 1)])
def test_what_does_not_overlap_is_linked_where_it_is_nearer(
    max_distance: float, tracks: int
) -> None:
    frames = [[0, 7, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 9, 0]]
    assert len(linked(frames, max_distance=max_distance)[1]) == tracks


def test_distances_are_assigned_at_once() -> None:
    frames, _ = linked(
        [
            [0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0],
            [0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4],  # 2 and 3 are nearest, but 1 and 4 are far apart
        ],
        max_distance=8,
    )
    assert frames[1] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2]


def test_overlap_goes_before_distance() -> None:
    frames, _ = linked([[1, 1, 1, 1, 0, 0], [0, 0, 0, 2, 3, 0]], max_distance=9)
    assert frames[1] == [0, 0, 0, 1, 2, 0]


def test_distances_are_in_units_of_spacing() -> None:
    stack = np.zeros((2, 3, 4, 4), np.uint8)
    stack[0, 0, 1, 1] = stack[1, 1, 2, 2] = 1  # a plane, a row and a column away
    rules = (((1,), 1.7, 2), ((1,), 1.8, 1), ((5, 1, 1), 5.1, 2), ((5, 1, 1), 5.2, 1), ((2,), 3, 2))
    for spacing, reach, count in rules:
        tracks = Tracks(stack, max_distance=reach, spacing=spacing)
        list(tracks)
        assert len(tracks.lineage) == count, spacing


@pytest.mark.parametrize(("gap", "missed", "parent"), [(0, 1, 0), (1, 1, 1), (1, 2, 0), (2, 2, 1)])
def test_what_is_found_after_a_gap_is_a_child(gap: int, missed: int, parent: int) -> None:
    movie = [[0, 5, 5, 0], *[[0, 0, 0, 0]] * missed, [0, 0, 5, 5]]
    frames, lineage = linked(movie, max_distance=2, gap=gap)
    assert frames[-1] == [0, 0, 2, 2]
    assert lineage == [[1, 0, 0, 0], [2, missed + 1, missed + 1, parent]]


def test_a_lost_track_is_found_once() -> None:
    movie = [[0, 5, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 6, 0, 0], [0, 0, 6, 0, 7]]
    lineage = linked(movie, max_distance=4, gap=3)[1]
    assert lineage == [[1, 0, 0, 0], [2, 2, 3, 1], [3, 3, 3, 0]]


def test_frames_without_objects_have_no_tracks() -> None:
    for frames in ([], [np.zeros((2, 3), np.uint16)] * 2):
        tracks = Tracks(frames, max_distance=5, gap=2)
        assert len(list(tracks)) == len(frames)
        assert tracks.lineage.shape == (0, 4)
    frames, lineage = linked([[0, 0], [0, 3], [0, 0], [2, 0]])
    assert frames == [[0, 0], [0, 1], [0, 0], [2, 0]]
    assert lineage == [[1, 1, 1, 0], [2, 3, 3, 0]]


def test_ids_of_64_bits_are_linked() -> None:
    frame = np.array([[2**40, 0, 2**63 + 1, 2**63 + 3]], np.uint64)
    assert [one.tolist() for one in Tracks([frame, frame])] == [[[1, 0, 2, 3]]] * 2


def test_frames_are_read_as_tracks_are_asked_for() -> None:
    read = []

    def frames() -> Iterable[np.ndarray]:
        for number in range(5):
            read.append(number)
            yield np.ones((2, 2), np.uint8)

    tracks = Tracks(frames())
    for number, frame in enumerate(tracks):
        assert read == list(range(number + 1))
        assert tracks.lineage.tolist() == [[1, 0, number, 0]]
        with pytest.raises(ValueError, match="read-only"):
            frame[0, 0] = 3


def test_tracks_of_a_list_may_be_had_again() -> None:
    tracks = Tracks([np.array([[1, 2]])] * 2)
    assert np.array_equal(list(tracks), list(tracks))
    assert len(tracks.lineage) == 2


@pytest.mark.parametrize(
    "rules", [{"division": 0}, {"max_distance": -1}, {"gap": 1}, {"gap": -1, "max_distance": 2}]
)
def test_rules_out_of_range_are_refused(rules: dict) -> None:
    with pytest.raises(ValueError, match=r"division must be above 0, .*: got .*; set max_distance"):
        Tracks([], **rules)


@pytest.mark.parametrize(
    ("frames", "rules", "match"),
    [
        ([np.zeros((2, 3), int), np.zeros((3, 2), int)], {}, r"frame 1: .*\(3, 2\) after \(2, 3\)"),
        ([np.zeros(3, int)], {}, r"frame 0: frames must be 2D or 3D.*got \(3,\)"),
        ([np.zeros((2, 3), int)], {"spacing": (1, 2, 3)}, r"frame 0: .*spacing \[1, 2, 3\]; crop"),
        ([np.full((2, 3), -1)], {}, r"labels must not be negative: got -1"),
    ],
)
def test_frames_that_do_not_fit_are_refused(frames: list, rules: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        list(Tracks(frames, **rules))
    with pytest.raises(TypeError, match="labels must be integers: got bool"):
        list(Tracks([np.ones((2, 3), bool)]))


@pytest.mark.parametrize("shape", [(40, 48), (1, 9, 8), (8, 20, 3), (4, 3, 2)])
def test_a_result_is_read_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    tracks = Tracks(list(rng.integers(0, 9, (4, *shape))))
    folder = write_result(tracks, tmp_path / "results", "02")
    assert folder == tmp_path / "results/02_RES"
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"mask00{number}.tif" for number in range(4)),
        "res_track.txt",
    ]
    for number, frame in enumerate(tracks):
        mask = tifffile.imread(folder / f"mask{number:03d}.tif")
        assert mask.dtype == np.uint16
        np.testing.assert_array_equal(mask, frame)
    with tifffile.TiffFile(folder / "mask000.tif") as file:
        assert len(file.pages) == (1 if len(shape) == 2 else shape[0])
    np.testing.assert_array_equal(read_lineage(folder / "res_track.txt"), tracks.lineage)
    assert len(tracks.lineage) >= 8


def test_more_than_1000_frames_are_named_with_4_digits(tmp_path: Path) -> None:
    folder = write_result(Tracks([np.zeros((1, 1), int)] * 1001), tmp_path, "01")
    names = sorted(path.name for path in folder.glob("*.tif"))
    assert names == [f"mask{number:04d}.tif" for number in range(1001)]
    assert read_lineage(folder / "res_track.txt").shape == (0, 4)


def test_more_tracks_than_16_bits_hold_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    write_result(Tracks([np.array([[5]])]), tmp_path, "01")
    many = np.arange(1, 2**16 + 1).reshape(256, 256)
    for frames in ([many], [many % 2**16, 0 * many, np.ones_like(many)]):
        with pytest.raises(ValueError, match=r"01_RES: masks .* 65,535 tracks: got 65,536 up to"):
            write_result(Tracks(frames), tmp_path, "01")
        assert [path.name for path in tmp_path.iterdir()] == ["01_RES"]
        assert (tmp_path / "01_RES/res_track.txt").read_text() == "1 0 0 0\n"
    write_result(Tracks([many % 2**16]), tmp_path, "01")
    assert tifffile.imread(tmp_path / "01_RES/mask000.tif").max() == 65_535


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1 0 5 0\n2 6 9\n", r"man_track.txt, line 2: .*parent: got '2 6 9'; correct the line"),
        ("1 0 5 0 7\n", r"line 1: a track must be four integers"),
        ("1 0 5.0 0\n", r"line 1: a track must be four integers"),
        ("1 0 5 0\n\n2 6 9 1\n", r"line 2: .*got ''"),
        ("1 0 5 0\n2 5 9 1\n", r"man_track.txt: every track must have .*got label 2"),
    ],
)
def test_a_text_that_is_no_lineage_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "man_track.txt").write_text(text)
    with pytest.raises(ValueError, match=match):
        read_lineage(tmp_path / "man_track.txt")


def test_a_text_may_have_tabs_and_carriage_returns(tmp_path: Path) -> None:
    (tmp_path / "man_track.txt").write_bytes(b"1\t0 5  0\r\n2 6 9 1")
    assert read_lineage(tmp_path / "man_track.txt").tolist() == [[1, 0, 5, 0], [2, 6, 9, 1]]


def test_a_written_result_is_valid_for_py_ctcmetrics(tmp_path: Path) -> None:
    reference = pytest.importorskip("ctc_metrics", reason="py-ctcmetrics is not installed")
    rng = np.random.default_rng(3)
    movie = disks((48, 48), 6, rng)
    mother = movie == movie.max()
    halves = mother & (np.arange(48) > np.median(np.nonzero(mother)[-1]))
    movie[3:][halves[3:]] = movie.max() + 1
    movie[4, :16] = 0
    tracks = Tracks([renamed(frame, rng) for frame in movie], max_distance=9, gap=2)
    folder = write_result(tracks, tmp_path, "01")
    (tmp_path / "01_GT/TRA").mkdir(parents=True)
    for number, frame in enumerate(tracks):
        tifffile.imwrite(tmp_path / f"01_GT/TRA/man_track{number:03d}.tif", frame.astype(np.uint16))
    np.savetxt(tmp_path / "01_GT/TRA/man_track.txt", tracks.lineage, fmt="%d")
    assert np.bincount(tracks.lineage[:, 3])[1:].max() == 2
    wanted = ["Valid", "DET", "TRA"]
    result = reference.evaluate_sequence(folder, tmp_path / "01_GT", wanted, threads=1)
    assert [result[name] for name in wanted] == [1, 1, 1]


@pytest.fixture(scope="module")
def u373(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the true tracks and outlines."""
    if not U373.is_file():
        pytest.skip("no real images: there is no folder shared/data beside the project")
    folder = tmp_path_factory.mktemp("u373")
    with zipfile.ZipFile(U373) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if "_GT/" in name])
    return folder / "PhC-C2DH-U373/02_GT"


@pytest.mark.data
def test_cells_of_u373_are_tracked_whatever_their_labels(u373: Path) -> None:
    rng = np.random.default_rng(0)
    markers = [tifffile.imread(path) for path in sorted(u373.glob("TRA/*.tif"))]
    frames = [renamed(maximum_filter(frame, 15), rng) for frame in markers]
    lineage = read_lineage(u373 / "TRA/man_track.txt")
    # Of 685 edges, overlap alone misses some where cells leap or are away for up to 10 frames.
    for rules, missing in (({}, 15), ({"max_distance": 80, "gap": 10}, 0)):
        found = tra(markers, lineage, Tracks(frames, **rules))
        assert found == pytest.approx(1 - 1.5 * missing / (10 * 692 + 1.5 * 685), abs=1e-12)


@pytest.mark.data
@pytest.mark.parametrize("first", [19, 35, 51])
def test_outlines_of_u373_are_linked_as_its_markers(u373: Path, first: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"{frame:03d}.tif" for frame in (first, first + 1)]
    outlines = [tifffile.imread(u373 / f"SEG/man_seg{name}") for name in names]
    markers = [tifffile.imread(u373 / f"TRA/man_track{name}") for name in names]
    cells = []
    for frame, marker in zip(Tracks([renamed(o, rng) for o in outlines]), markers, strict=True):
        inside = contingency(frame, marker)
        pairs = inside.where((inside.truth_label > 0) & (inside.prediction_label > 0))
        cells.append(dict(zip(pairs.prediction_label, pairs.truth_label, strict=True)))
    both = cells[0].keys() & cells[1].keys()
    assert len(both) > 3
    assert all(cells[0][cell] == cells[1][cell] for cell in both)
