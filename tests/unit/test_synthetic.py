"""Properties of the synthetic micrographs: reproducible, well labelled and not trivial."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from unetflow.datasets.synthetic import synthesize

TEXTURES = ("membranes", "cells", "circles", "rectangles")
SHAPES = [(16, 16), (37, 53), (1, 37, 53), (3, 16, 81), (5, 64, 64), (160, 200)]


def best_f1(score: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Return the best Dice coefficient that any one threshold on `score` reaches."""
    order = np.argsort(-score.ravel(), kind="stable")
    hits = np.cumsum(truth.ravel()[order])
    return float((2 * hits / (np.arange(1, truth.size + 1) + truth.sum())).max())


@pytest.mark.parametrize("texture", TEXTURES)
def test_the_same_seed_gives_the_same_bytes(texture: str) -> None:
    first = synthesize(texture, (2, 64, 70), seed=7)
    again = synthesize(texture, (2, 64, 70), seed=7)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("texture", TEXTURES)
def test_another_seed_gives_another_image_and_other_instances(texture: str) -> None:
    first = synthesize(texture, (64, 70), seed=7)
    other = synthesize(texture, (64, 70), seed=8)
    assert (first[0] != other[0]).any()
    assert ((first[1] > 0) != (other[1] > 0)).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("texture", TEXTURES)
def test_shape_and_type_are_as_asked_and_both_classes_present(
    texture: str, shape: tuple[int, ...]
) -> None:
    for seed in range(5):
        image, instances = synthesize(texture, shape, seed)
        assert image.shape == instances.shape == shape
        assert (image.dtype, instances.dtype) == (np.uint8, np.uint32)
        assert 0.01 < (instances > 0).mean() < 0.99


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("texture", TEXTURES)
def test_ids_are_consecutive_and_each_is_one_connected_object(
    texture: str, shape: tuple[int, ...]
) -> None:
    _, instances = synthesize(texture, shape, seed=1)
    ids = np.unique(instances)
    np.testing.assert_array_equal(ids, np.arange(len(ids)))
    # Regions of equal value: as many as ids only if none is in two pieces.
    assert measure.label(instances, connectivity=1).max() == ids[-1]


@pytest.mark.parametrize("seed", range(3))
def test_membranes_separate_the_cells_of_a_plane(seed: int) -> None:
    _, instances = synthesize("membranes", (4, 150, 130), seed)
    for plane in instances:
        regions, count = ndimage.label(plane > 0)
        for region in range(1, count + 1):
            assert len(np.unique(plane[regions == region])) == 1


def test_some_cells_touch_and_keep_their_own_ids() -> None:
    _, instances = synthesize("cells", (400, 400), seed=0)
    left, right = instances[:, :-1], instances[:, 1:]
    assert ((left != right) & (left > 0) & (right > 0)).any()


@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_finds_the_membranes(seed: int) -> None:
    image, instances = synthesize("membranes", (256, 256), seed)
    membrane = instances == 0
    smooth = ndimage.gaussian_filter(image.astype(float), 1.5)
    for levels in (image.astype(float), smooth):
        # All of the image counted as membrane is what an uninformative score reaches.
        assert best_f1(np.zeros(image.shape), membrane) + 0.1 < best_f1(-levels, membrane) < 0.75


@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_finds_the_cells(seed: int) -> None:
    image, instances = synthesize("cells", (256, 256), seed)
    levels = ndimage.gaussian_filter(image.astype(float), 1.5)
    for score in (levels, -levels, np.abs(levels - np.median(levels))):
        assert best_f1(score, instances > 0) < 0.85


@pytest.mark.parametrize("kind", ["circles", "rectangles"])
def test_shapes_have_their_form_and_are_brighter(kind: str) -> None:
    image, instances = synthesize(kind, (300, 400), seed=3)
    regions = measure.regionprops(instances, image)
    assert len(regions) > 5
    full = np.pi / 4 if kind == "circles" else 1.0  # of its bounding box
    for region in regions:
        assert region.extent == pytest.approx(full, abs=0.05)
        assert region.intensity_mean > image[instances == 0].mean() + 25
    widths = [np.subtract(region.bbox[2:], region.bbox[:2]) for region in regions]
    assert all((abs(rows - columns) <= 1) for rows, columns in widths) == (kind == "circles")


@pytest.mark.parametrize("texture", TEXTURES)
def test_neighbouring_planes_agree_more_than_distant_ones(texture: str) -> None:
    _, instances = synthesize(texture, (24, 128, 128), seed=2)
    # The rarer class, since the other overlaps much by chance.
    rare = instances == 0 if texture == "membranes" else instances > 0

    def overlap(gap: int) -> float:
        first, second = rare[:-gap], rare[gap:]
        return float((first & second).sum() / (first | second).sum())

    assert overlap(1) > 0.3
    assert overlap(1) > 1.5 * overlap(16)


def test_objects_continue_through_planes_but_not_through_all() -> None:
    _, instances = synthesize("membranes", (24, 128, 128), seed=2)
    extents = [region[0].stop - region[0].start for region in ndimage.find_objects(instances)]
    assert np.median(extents) >= 3
    assert min(extents) < 24


@pytest.mark.parametrize("texture", TEXTURES)
def test_grey_levels_use_the_range_without_saturating(texture: str) -> None:
    image, _ = synthesize(texture, (256, 256), seed=4)
    assert image.std() > 3
    assert np.isin(image, (0, 255)).mean() < 0.02


def test_an_unknown_texture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="one of membranes, cells, circles, rectangles: got 'nuclei'"
    ):
        synthesize("nuclei", (64, 64), seed=0)


@pytest.mark.parametrize("shape", [(64,), (15, 64), (64, 8), (0, 64, 64), (1, 2, 64, 64)])
def test_a_bad_shape_is_refused_with_the_rule(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"at least 16 rows and columns: got \("):
        synthesize("cells", shape, seed=0)
