"""Synthetic patients: reproducible, nested, in space, and no task for a threshold."""

from __future__ import annotations

import numpy as np
import pytest

from unetflow.datasets.layouts import sources
from unetflow.datasets.phantom import CLASSES, phantom
from unetflow.settings.datasets import DatasetSettings

SHAPE, SIZE = (12, 40, 36), (3.0, 1.0, 1.0)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not() -> None:
    first, again, other = (phantom(SHAPE, SIZE, seed) for seed in (1, 1, 2))
    for here, there in zip(first, again, strict=True):
        np.testing.assert_array_equal(here, there)
    assert (first[0] != other[0]).any()
    assert (first[1] != other[1]).any()


@pytest.mark.parametrize("seed", range(4))
def test_a_lesion_has_all_classes_and_lies_in_the_body(seed: int) -> None:
    pixels, classes = phantom(SHAPE, SIZE, seed)
    assert pixels.shape == (4, *SHAPE)
    assert (pixels.dtype, classes.dtype) == (np.int16, np.uint8)
    assert set(np.unique(classes)) == {0, 1, 2}
    body = pixels[0] > 0
    assert (pixels[:, body] > 0).all()
    assert (pixels[:, ~body] == 0).all()
    assert body[classes > 0].all()
    assert 0.2 < body.mean() < 0.8


@pytest.mark.parametrize("seed", range(4))
def test_the_core_is_enclosed_by_the_rim(seed: int) -> None:
    _, classes = phantom((36, 40, 36), (1, 1, 1), seed)
    for axis in range(3):
        for step in (-1, 1):
            beside = np.roll(classes, step, axis)
            assert (beside[classes == 2] > 0).all()


def test_objects_are_as_round_in_space_as_voxels_are_not() -> None:
    """Voxels twice as thick, half as many: the same body, seen by fewer planes."""
    thin = phantom((24, 40, 36), (1.5, 1.0, 1.0), 3)[1]
    thick = phantom((12, 40, 36), (3.0, 1.0, 1.0), 3)[1]
    for value in (1, 2):
        volumes = (thin == value).sum() * 1.5, (thick == value).sum() * 3.0
        assert volumes[0] == pytest.approx(volumes[1], rel=0.2)


def test_no_threshold_on_one_modality_finds_the_core() -> None:
    pixels, classes = phantom((16, 48, 48), SIZE, 0)
    core = classes.ravel() == 2
    for channel in pixels.astype(float):
        for sign in (-1, 1):
            order = np.argsort(sign * channel.ravel(), kind="stable")
            hits = np.cumsum(core[order])
            dice = 2 * hits / (np.arange(1, core.size + 1) + core.sum())
            assert dice.max() < 0.9


def test_a_dataset_of_phantoms_has_their_classes_and_modalities() -> None:
    layout = {"kind": "synthetic", "texture": "phantom", "shape": SHAPE, "stacks": 2}
    size = {"z": 3000, "y": 1000, "x": 1000}
    dataset = DatasetSettings(
        name="made", voxel_size_um=size, layout=layout | {"planes_are_images": False}
    )
    assert dataset.class_names == CLASSES
    first, second = sources(dataset, None)  # type: ignore[arg-type]
    assert (first.axes, first.group, second.group) == ("czyx", "phantom0", "phantom1")
    pixels, classes, instances = first.read()
    np.testing.assert_array_equal(pixels, phantom(SHAPE, SIZE, 0)[0])
    assert classes is not None
    assert instances is None


@pytest.mark.parametrize("wrong", [{"shape": [40, 40], "planes_are_images": False}, {}])
def test_a_phantom_is_a_volume(wrong: dict[str, object]) -> None:
    layout = {"kind": "synthetic", "texture": "phantom", "shape": SHAPE} | wrong
    with pytest.raises(ValueError, match=r"a phantom must be a volume: got shape .* set three"):
        DatasetSettings(name="made", layout=layout)
