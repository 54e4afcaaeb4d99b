"""Sequences linked from written instances, and their scores by files against py-ctcmetrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, maximum_filter

from unetflow.lineage import cut_lineage, read_lineage
from unetflow.settings.prediction import TrackSettings
from unetflow.store import add_label, create_image
from unetflow.track_scores import score_tracks
from unetflow.tracking import interesting, track_images

Movie = NDArray[np.uint32]


def cells(frames: int, seed: int) -> tuple[Movie, NDArray[np.int64]]:
    """Squares that move a little, of which some come, go and divide; and their lineage."""
    rng = np.random.default_rng(seed)
    movie = np.zeros((frames, 60, 80), np.uint32)
    rows = []
    for row in range(8, 60, 15):
        for column in range(8, 80, 15):
            begin, end = int(rng.integers(0, 3)), frames - 1 - int(rng.integers(0, 3))
            label = len(rows) + 1
            rows.append([label, begin, end, 0])
            step = rng.integers(-1, 2, 2)
            for frame in range(begin, end + 1):
                y, x = np.array([row, column]) + step * min(frame // 2, 2)
                movie[frame, y - 4 : y + 5, x - 4 : x + 5] = label
    mother, (_, begin, end, _) = 7, rows[6]
    middle = (begin + end) // 2
    for child in (len(rows) + 1, len(rows) + 2):
        rows.append([child, middle + 1, end, mother])
    rows[mother - 1][2] = middle
    for frame in movie[middle + 1 : end + 1]:
        place = np.nonzero(frame == mother)
        left = place[1] < np.median(place[1])
        frame[place] = np.where(
            left, len(rows) - 1, np.where(place[1] == place[1].max(), 0, len(rows))
        )
    return movie, np.array(rows)


def found_cells(movie: Movie, seed: int) -> Movie:
    """Instances of each frame as a network may find them: missed, invented, shrunk, joined."""
    rng = np.random.default_rng(seed)
    found = []
    for frame in movie:
        labels = np.append(0, rng.permutation(int(movie.max())) + 1)[frame]
        labels[np.isin(labels, rng.choice(movie.max(), 3) + 1)] = 0
        labels[labels == rng.integers(1, movie.max())] = rng.integers(1, movie.max())
        labels[:, : rng.integers(2, 9)] = 0
        labels[30:34, rng.integers(0, 70) :][:, :4] = 999
        found.append(labels)
    return np.array(found, np.uint32)


def write_movie(folder: Path, truth: Movie, found: Movie, outlined: set[int], first: int) -> dict:
    """Write images with markers, some with outlines, and what was segmented of them."""
    names = {first + number: f"01_{first + number:03d}" for number in range(len(truth))}
    for name, true, instances in zip(names.values(), truth, found, strict=True):
        create_image(folder / "images" / name, "yx", true.shape, np.uint8, {})[...] = 1
        markers = np.where(binary_erosion(true > 0, iterations=2), true, 0).astype(np.uint32)
        add_label(folder / "images" / name, "markers", "yx", markers, {})
        if int(name[-3:]) in outlined:
            add_label(folder / "images" / name, "instances", "yx", true, {})
        path = folder / "segmentation" / name
        create_image(path, "yx", instances.shape, np.uint32, {})[...] = instances
    return names


def linked(folder: Path, names: dict[int, str], **settings: float) -> Path:
    """Track what was written; return where."""
    frames = {frame: folder / "segmentation" / name for frame, name in names.items()}
    track_images({"01": frames}, folder / "tracks", TrackSettings(enabled=True, **settings))
    return folder / "tracks"


def reference(
    folder: Path, truth: Movie, lineage: NDArray[np.int64], outlined: set[int], result: Path
) -> dict[str, float]:
    """Scores of py-ctcmetrics of a whole sequence, numbered from 0."""
    ctc = pytest.importorskip("ctc_metrics", reason="py-ctcmetrics is not installed")
    for part in ("SEG", "TRA"):
        (folder / "01_GT" / part).mkdir(parents=True)
    for number, true in enumerate(truth):
        markers = np.where(binary_erosion(true > 0, iterations=2), true, 0)
        tra, seg = folder / "01_GT/TRA", folder / "01_GT/SEG"
        tifffile.imwrite(tra / f"man_track{number:03d}.tif", markers.astype(np.uint16))
        if number in outlined:
            tifffile.imwrite(seg / f"man_seg{number:03d}.tif", true.astype(np.uint16))
    np.savetxt(folder / "01_GT/TRA/man_track.txt", lineage, fmt="%d")
    wanted = ["Valid", "SEG", "DET", "TRA"]
    scores = ctc.evaluate_sequence(result, folder / "01_GT", wanted, threads=1)
    assert scores["Valid"] == 1
    return {name.lower(): scores[name] for name in wanted[1:]}


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_a_written_sequence_are_those_of_py_ctcmetrics(tmp_path: Path, seed: int) -> None:
    truth, lineage = cells(8, seed)
    outlined = {0, 3, 4}
    names = write_movie(tmp_path, truth, found_cells(truth, seed), outlined, first=0)
    tracks = linked(tmp_path, names, max_distance=8, gap=2)
    known = {"01": lineage.tolist()}
    (title, scores), *_ = score_tracks({"01": names}, tmp_path / "images", tracks, known).items()
    expected = reference(tmp_path, truth, lineage, outlined, tracks / "01_RES")
    assert title == "01 frames 0-7"
    assert scores == pytest.approx(expected, abs=1e-9)
    assert len(set(scores.values())) == 3
    assert all(0.3 < score < 0.99 for score in scores.values())


def test_a_run_of_frames_is_scored_as_if_there_were_no_others(tmp_path: Path) -> None:
    truth, lineage = cells(12, 5)
    first, last = 4, 10
    run = slice(first, last + 1)
    found = found_cells(truth, 5)
    names = write_movie(tmp_path, truth[run], found[run], {5, 8}, first)
    tracks = linked(tmp_path, names, max_distance=8, gap=1)
    masks = sorted(path.name for path in (tracks / "01_RES").glob("*.tif"))
    assert masks == [f"mask{frame:03d}.tif" for frame in range(first, last + 1)]
    assert read_lineage(tracks / "01_RES/res_track.txt")[:, 1].min() == first
    known = {"01": lineage.tolist()}
    scores = score_tracks({"01": names}, tmp_path / "images", tracks, known)
    # The same frames, numbered from 0, as a sequence of their own.
    alone = write_movie(tmp_path / "alone", truth[run], found[run], {1, 4}, 0)
    result = linked(tmp_path / "alone", alone, max_distance=8, gap=1) / "01_RES"
    cut = cut_lineage(lineage, first, last)
    expected = reference(tmp_path / "alone", truth[run], cut, {1, 4}, result)
    assert scores == {"01 frames 4-10": pytest.approx(expected, abs=1e-9)}


def test_perfect_tracks_have_perfect_scores_and_no_outlines_no_seg(tmp_path: Path) -> None:
    truth, lineage = cells(8, 1)
    names = write_movie(tmp_path, truth, truth, set(), first=0)
    tracks = linked(tmp_path, names)
    known = {"01": lineage.tolist()}
    scores = score_tracks({"01": names}, tmp_path / "images", tracks, known)
    assert scores == {"01 frames 0-7": {"det": 1, "tra": 1}}


def test_a_sequence_without_true_tracks_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth, lineage = cells(8, 1)
    names = write_movie(tmp_path, truth, truth, set(), first=0)
    assert score_tracks({"01": names}, tmp_path / "images", tmp_path, {}) == {}
    create_image(tmp_path / "images/01_008", "yx", (60, 80), np.uint8, {})[...] = 1
    known = {"01": lineage.tolist()}
    more = {"01": names | {8: "01_008"}}
    with caplog.at_level("INFO", "unetflow"):
        assert score_tracks(more, tmp_path / "images", tmp_path, known) == {}
    assert "01 frames 0-8: no scores of tracks" in caplog.text


def test_distances_are_in_um_where_the_size_is_known(tmp_path: Path) -> None:
    frames = {}
    for number, column in enumerate((2, 10)):
        instances = np.zeros((9, 20), np.uint32)
        instances[3:6, column : column + 3] = 5
        frames[number] = tmp_path / str(number)
        size = {"y": 0.5, "x": 0.5}
        create_image(frames[number], "yx", (9, 20), np.uint32, size)[...] = instances
    for reach, count in ((3.9, 2), (4.1, 1)):  # 8 pixels are 4 µm
        settings = TrackSettings(enabled=True, max_distance=reach)
        track_images({"a": frames}, tmp_path / "tracks", settings)
        assert len(read_lineage(tmp_path / "tracks/a_RES/res_track.txt")) == count


@pytest.mark.parametrize("shape", [(20, 30), (3, 20, 30)])
@pytest.mark.parametrize("frame", [0, 3, 9, 40])
def test_objects_without_a_pixel_in_the_field_of_interest_are_left_out(
    shape: tuple[int, ...], frame: int
) -> None:
    rng = np.random.default_rng(frame)
    points = np.where(rng.random(shape) < 0.02, rng.integers(1, 2**31, shape), 0)
    instances = maximum_filter(points, (1,) * (len(shape) - 2) + (5, 5))
    kept = interesting(instances, frame)
    for label in np.unique(instances[instances > 0]):
        rows, columns = np.nonzero(instances == label)[-2:]
        depth = np.minimum.reduce([rows, columns, 19 - rows, 29 - columns]).max()
        assert ((kept == label) == ((instances == label) & (depth >= frame))).all()


def test_a_part_of_a_lineage_is_what_the_movie_shows_of_it() -> None:
    truth, lineage = cells(12, 3)
    for first, last in ((0, 11), (0, 4), (3, 3), (5, 9), (8, 11)):
        cut = cut_lineage(lineage, first, last)
        shown = truth[first : last + 1]
        expected = []
        for label in np.unique(shown[shown > 0]):
            frames = np.flatnonzero((shown == label).any(axis=(1, 2)))
            parent = int(lineage[lineage[:, 0] == label, 3][0])
            expected.append([label, frames[0], frames[-1], parent * (parent in shown)])
        assert cut[np.argsort(cut[:, 0])].tolist() == expected
