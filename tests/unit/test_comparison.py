"""Scores counted block by block: those of the whole image as reference, for any division."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import label

from unetflow.comparison import Comparison
from unetflow.judging import open_truth
from unetflow.scoring import score_plane, score_surfaces
from unetflow.store import NOT_ANNOTATED, Image, add_label, create_image, open_image
from unetflow.truths import UnusableTruth, block_of, some_ids

NAMES = ("background", "cell", "wall")


def noise(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Values in [0, 2], alike over some pixels, so that thresholds give objects of many sizes."""
    coarse = generator.random([-(-extent // 3) for extent in shape])
    for axis in range(len(shape)):
        coarse = np.repeat(coarse, 3, axis)
    return coarse[tuple(map(slice, shape))] + generator.random(shape)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OME-Zarr group without attributes, as which arrays in memory are read."""
    path = tmp_path_factory.mktemp("image")
    zarr.create_group(path, overwrite=True)
    return path


def truth_at(place: Path, shape: tuple[int, ...], names: Sequence[str]) -> tuple[Any, Any]:
    """Open a truth of a volume of these extents."""
    volume = Image(place, np.zeros(shape, np.uint8), "zyx"[-len(shape) :], {})
    return open_truth(place, "volume.tif", volume, volume, names)[:2]


def comparison(place: Path, seed: int, shape: tuple[int, ...], **options: Any) -> Comparison:
    """A truth with pixels that are not annotated, and a result that misses much of it."""
    generator = np.random.default_rng(seed)
    classes = (noise(generator, shape) < generator.uniform(0, 2)).astype(np.uint8)
    classes[generator.random(shape) < 0.3] *= 2
    classes[noise(generator, shape) < generator.uniform(0, 0.8)] = NOT_ANNOTATED
    known: NDArray[Any] | None = label(classes % NOT_ANNOTATED > 0, connectivity=1)
    assert known is not None
    kind = seed % 3
    known = (None, known, known.astype(np.uint64) * np.uint64(2**40 + 3))[kind]
    found = label(noise(generator, shape) < generator.choice([0, 0.1, 0.5, 0.9]))
    foreground = np.moveaxis(generator.dirichlet((1, 1, 1), shape)[..., 1:], -1, 0)
    axes = "zyx"[-len(shape) :]
    results = (
        Image(place, foreground.astype(np.float32), "c" + axes, {}),
        Image(place, found.astype(np.uint32), axes, {}),
    )
    return Comparison(classes, known, *results, NAMES, **options)


def scores_of_whole(compared: Comparison) -> dict[str, float]:
    """Scores of all planes, or of the volume, read at once."""
    inside = (..., *(slice(compared.border, -compared.border or None) for _ in range(2)))
    arrays = [
        None if array is None else np.asarray(array)[inside]
        for array in (
            compared.classes,
            compared.instances,
            compared.foreground.array,
            compared.segmentation.array,
        )
    ]
    if not compared.by_plane:
        return score_plane(*arrays, NAMES)
    classes, known, foreground, found = arrays
    rows = [
        score_plane(
            classes[z], None if known is None else known[z], foreground[:, z], found[z], NAMES
        )
        for z in range(len(classes))
    ]
    return dict(pd.DataFrame(rows).mean())


@given(st.data())
@examples(deadline=None, max_examples=60)
def test_scores_are_those_of_the_whole_for_every_division(place: Path, data: st.DataObject) -> None:
    # Longer along one axis than objects are grown, so that the margin is not all of the image.
    shape = (*data.draw(st.lists(st.integers(3, 8), min_size=1, max_size=2)), 90)
    shape = tuple(data.draw(st.permutations(shape)))
    by_plane = len(shape) == 3 and data.draw(st.booleans())
    compared = comparison(
        place,
        data.draw(st.integers(0, 10**6)),
        shape,
        border=data.draw(st.integers(0, 1)),
        by_plane=by_plane,
        block=tuple(data.draw(st.integers(-(-extent // 3), extent)) for extent in shape),
    )
    scores, levels = compared.scores()
    defined = {name: value for name, value in scores.items() if not math.isnan(value)}
    assert defined == scores_of_whole(compared)
    known = compared.framed(tuple(slice(0, extent) for extent in compared.grid.shape))
    assert levels[0].sum() == (compared.classes[known] != NOT_ANNOTATED).sum()


def test_each_block_is_read_once(place: Path) -> None:
    compared = comparison(place, 1, (40, 300), block=(40, 100))
    read: list[tuple[int, int]] = []

    class Counted:
        shape = (40, 300)

        def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
            read.append((index[1].start, index[1].stop))
            return np.asarray(compared.instances[index])

    other = comparison(place, 1, (40, 300), block=(40, 100))
    object.__setattr__(other, "instances", Counted())
    assert other.scores()[0] == compared.scores()[0]
    assert read == [(0, 100), (100, 200), (200, 300)]


def test_surfaces_are_those_of_the_whole_within_the_frame(place: Path) -> None:
    for by_plane in (False, True):
        compared = comparison(place, 7, (3, 12, 14), border=1, by_plane=by_plane, block=(1, 5, 5))
        classes = compared.classes[:, 1:-1, 1:-1]
        predicted = np.concatenate(
            [1 - compared.foreground.array.sum(axis=0, keepdims=True), compared.foreground.array]
        ).argmax(axis=0)[:, 1:-1, 1:-1]
        planes = range(3) if by_plane else (slice(None),)
        rows = [
            score_surfaces(classes[z], predicted[z], NAMES, (1.0,) * classes[z].ndim, 1)
            for z in planes
        ]
        assert compared.surfaces(1) == pytest.approx(dict(pd.DataFrame(rows).mean()))


def test_a_frame_that_leaves_no_pixel_is_refused(place: Path) -> None:
    with pytest.raises(ValueError, match=r"got 5 for a plane of 9 x 20; set it lower"):
        comparison(place, 1, (9, 20), border=5).scores()


def test_blocks_are_cubes_or_planes() -> None:
    assert block_of((1000, 3000, 3000), by_plane=False) == (256, 256, 256)
    assert block_of((9000, 9000), by_plane=False) == (4096, 4096)
    assert block_of((1000, 9000, 9000), by_plane=True) == (1, 4096, 4096)
    assert block_of((1000, 512, 1024), by_plane=True) == (32, 512, 1024)


# ----------------------------------------------------------------------------------- truth


class Failing:
    """A label image of which only a part can be decoded."""

    shape, dtype = (300, 300, 300), np.dtype(np.uint16)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[np.uint16]:
        if index[0].start > 0:
            raise RuntimeError("bad\nchunk")
        return np.arange(16**3, dtype=np.uint16).reshape(16, 16, 16)


def test_a_label_image_is_read_as_far_as_it_takes_to_tell_ids_from_a_class() -> None:
    assert len(some_ids(Failing())) > 1
    for value, other in ((0, 0), (7, 7), (7, 9), (0, 3), (1, 255), (0, 255)):
        labels = np.full((3, 300), value)
        labels[2, 299] = other
        assert some_ids(labels) == {value, other} - {0}
    assert some_ids(np.ones((4, 5), bool)) == {1}


def test_a_truth_that_breaks_while_it_is_read_is_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Image("there", Failing(), "zyx", {})  # type: ignore[arg-type]
    monkeypatch.setattr("unetflow.judging.open_volume", lambda place: broken)
    classes, known = truth_at(tmp_path, (300, 300, 300), ["a", "b"])
    first = (slice(0, 16),) * 3
    assert classes[first].max() == 1
    assert known[first].max() == 16**3 - 1
    with pytest.raises(UnusableTruth, match=r"^bad chunk$"):
        known[(slice(256, 300),) * 3]
    with pytest.raises(UnusableTruth, match="must have the extents"):
        truth_at(tmp_path, (3, 3, 3), ["a", "b"])


def test_a_label_image_is_its_own_classes(tmp_path: Path) -> None:
    labels = np.array([[0, 300, 2], [0, 0, 70_000]], np.uint32)
    create_image(tmp_path / "ids", "yx", labels.shape, np.uint32, {})[...] = labels
    classes, known = truth_at(tmp_path / "ids", labels.shape, ["a", "b"])
    region = (slice(0, 2), slice(1, 3))
    assert classes[region].tolist() == [[1, 1], [0, 1]]
    assert known[region].tolist() == [[300, 2], [0, 70_000]]
    assert open_image(tmp_path / "ids").array.dtype == np.uint32


@pytest.mark.parametrize(
    ("name", "labels", "words"),
    [
        ("classes", np.full((4, 5), 3, np.uint8), "classes from 0 to 1"),
        ("classes", np.ones((4, 5), np.float32), "whole numbers: found float32"),
        ("instances", np.full((4, 5), -1, np.int32), "ids from 0"),
        ("instances", np.ones((4, 6), np.uint32), "it has (4, 6)"),
    ],
)
def test_labels_that_cannot_be_scored_are_the_truths_fault(
    tmp_path: Path, name: str, labels: NDArray[Any], words: str
) -> None:
    create_image(tmp_path / "truth", "yx", (4, 5), np.uint8, {})[...] = 0
    if name == "instances":
        add_label(tmp_path / "truth", "classes", "yx", np.zeros((4, 5), np.uint8), {})
    add_label(tmp_path / "truth", name, "yx", labels, {})

    def read() -> None:
        for part in truth_at(tmp_path / "truth", (4, 5), ["background", "cell"]):
            assert part is not None
            assert part[...].shape == (4, 5)

    with pytest.raises(UnusableTruth, match=re.escape(words)):
        read()


def test_255_beside_1_in_8_bits_is_not_annotated(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 255], [0, 1, 0]], np.uint8)
    names = ["background", "cell"]
    for pixels, classes in ((mask, mask), (mask // 255 * 255, mask // 255)):
        tifffile.imwrite(tmp_path / "mask.tif", pixels, photometric="minisblack")
        known, instances = truth_at(tmp_path / "mask.tif", mask.shape, names)
        assert instances is None
        np.testing.assert_array_equal(known[...], classes)
