"""Instances by their distance from the seams of blocks, counted voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import regionprops

from unetflow.labelling import Grid, measure
from unetflow.seams import FARTHEST, seam_evidence

SHAPE, BLOCK = (37, 150), (16, 70)


def objects_of(labels: np.ndarray) -> dict[str, np.ndarray]:
    core = tuple(slice(0, extent) for extent in labels.shape)
    return measure(labels, core, labels.shape, int(labels.max()))


def random_boxes(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    labels = np.zeros(SHAPE, np.uint32)
    for number in range(1, count + 1):
        y, x = (rng.integers(0, extent - 6) for extent in SHAPE)
        labels[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = number
    return np.unique(labels, return_inverse=True)[1].reshape(SHAPE).astype(np.uint32)


@pytest.mark.parametrize("margin", [(2, 2), (0, 2)])
def test_voxels_centres_and_ends_are_those_counted_one_by_one(margin: tuple[int, int]) -> None:
    labels, grid = random_boxes(60), Grid(SHAPE, BLOCK, margin)
    seams = [
        [face for face in range(1, extent) if face % step == 0] if meets else []
        for extent, step, meets in zip(SHAPE, BLOCK, margin, strict=True)
    ]

    def far(axis: int, place: float) -> float:
        return min((abs(place - seam) for seam in seams[axis]), default=np.inf)

    def whole(value: float) -> int:
        return int(min(value, FARTHEST))

    expected = np.zeros((4, FARTHEST + 1), int)
    for y, x in np.ndindex(*SHAPE):
        expected[0, whole(min(far(0, y + 0.5), far(1, x + 0.5)))] += 1
    for region in regionprops(labels):
        y, x = region.centroid
        expected[1, whole(min(far(0, y + 0.5), far(1, x + 0.5)))] += 1
        for axis, side in ((0, 0), (0, 2), (1, 1), (1, 3)):
            if seams[axis] and 0 < region.bbox[side] < SHAPE[axis]:
                expected[3, whole(far(axis, region.bbox[side]))] += 1
    for axis, extent in enumerate(SHAPE):
        for face in range(1, extent) if seams[axis] else ():
            expected[2, whole(far(axis, face))] += 1

    found = seam_evidence(grid, objects_of(labels))
    assert found["distance"].tolist() == list(range(FARTHEST + 1))
    for row, name in zip(expected, ("voxels", "centres", "planes", "ends"), strict=True):
        assert found[name].tolist() == row.tolist(), name


def test_what_is_cut_ends_at_distance_0() -> None:
    labels = np.zeros(SHAPE, np.uint32)
    labels[4:8, 60:70], labels[4:8, 70:80] = 1, 2  # one object, in two pieces at the seam
    found = seam_evidence(Grid(SHAPE, BLOCK, (0, 2)), objects_of(labels))
    assert found.loc[0, "ends"] == 2
    assert found.loc[10, "ends"] == 2


def test_a_volume_of_one_block_has_no_seam() -> None:
    labels = random_boxes(5)
    for margin in ((2, 2), (0, 0)):
        assert seam_evidence(Grid(SHAPE, SHAPE, margin), objects_of(labels)).empty
    assert seam_evidence(Grid(SHAPE, BLOCK, (0, 0)), objects_of(labels)).empty


def test_without_instances_there_are_places_alone() -> None:
    found = seam_evidence(Grid(SHAPE, BLOCK, (2, 2)), objects_of(np.zeros(SHAPE, np.uint32)))
    assert found["voxels"].sum() == np.prod(SHAPE)
    assert not found[["centres", "ends"]].any(axis=None)
