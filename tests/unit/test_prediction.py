"""Prediction: what is written equals inference of the whole image, and failures leave no half."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_model import OFFSET, SCALE, TILE, grey, settings, small_shards, whole, write_model

from unetflow import store
from unetflow.inference import load
from unetflow.intensity import histogram, normalisation
from unetflow.predicted import foreground, probabilities
from unetflow.prediction import predict_image, predict_images, tile_of
from unetflow.regions import Job
from unetflow.rotations import mean_over_rotations
from unetflow.settings.training import IntensitySettings
from unetflow.store import create_image, open_image, shard_regions

__all__ = ["small_shards"]

torch.set_num_threads(1)

SHAPES = [("yx", (70, 45)), ("yx", (33, 97)), ("yx", (5, 3)), ("zyx", (3, 40, 35))]


@pytest.mark.parametrize(("axes", "shape"), SHAPES)
@pytest.mark.parametrize("shards", ["one shard", "several shards"])
def test_a_prediction_equals_inference_of_the_whole_image(
    tmp_path: Path, request: pytest.FixtureRequest, axes: str, shape: tuple[int, ...], shards: str
) -> None:
    if shards == "several shards":
        request.getfixturevalue("small_shards")
    pixels, size = grey(shape), {"y": 0.5, "x": 0.25}
    create_image(tmp_path / "image", axes, shape, np.uint8, size)[...] = pixels
    model = load(write_model(tmp_path / "model"), "cpu", "32")
    predict_image(model, open_image(tmp_path / "image"), tmp_path / "out", (TILE, TILE), settings())
    found = open_image(tmp_path / "out")
    assert found.axes == "c" + axes
    assert found.voxel_size_um == size
    assert found.array.shape == (1, *shape)
    assert found.array.dtype == np.float32
    if shards == "several shards" and shape[-1] > 32:
        assert len(shard_regions(found.array, len(axes))) > 1
    planes = pixels.reshape(-1, *shape[-2:])
    expected = np.stack([whole(model, (plane[None] - OFFSET) / SCALE) for plane in planes], axis=1)
    np.testing.assert_allclose(found.array[...], expected.reshape(1, *shape), atol=1e-5)
    store.validate(tmp_path / "out")


def test_a_volume_by_a_3d_network_equals_inference_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    pixels = grey((20, 34, 21))
    create_image(tmp_path / "image", "zyx", pixels.shape, np.uint8, {})[...] = pixels
    model = load(write_model(tmp_path / "model", dimensions=3), "cpu", "32")
    tile = (20, 26, 22)
    predict_image(model, open_image(tmp_path / "image"), tmp_path / "out", tile, settings())
    found = open_image(tmp_path / "out").array
    assert len(shard_regions(found, 3)) == 12
    expected = whole(model, (pixels[None] - OFFSET) / SCALE)
    np.testing.assert_allclose(found[...], expected, atol=1e-5)


def test_several_channels_and_classes_keep_their_order(tmp_path: Path) -> None:
    pixels = grey((2, 40, 35), "uint16")
    create_image(tmp_path / "image", "cyx", pixels.shape, np.uint16, {})[...] = pixels
    model = load(write_model(tmp_path / "model", channels=2, classes=3), "cpu", "32")
    predict_image(model, open_image(tmp_path / "image"), tmp_path / "out", (TILE, TILE), settings())
    found = open_image(tmp_path / "out").array
    assert found.shape == (2, 40, 35)
    np.testing.assert_allclose(found[...], whole(model, (pixels - OFFSET) / SCALE), atol=1e-5)


def test_an_image_is_normalised_by_its_own_statistics_where_the_model_was(tmp_path: Path) -> None:
    pixels = grey((40, 35))
    create_image(tmp_path / "image", "yx", pixels.shape, np.uint8, {})[...] = pixels
    intensity = {"source": "image", "normalise": "percentile"}
    model = load(write_model(tmp_path / "model", **intensity), "cpu", "32")
    predict_image(model, open_image(tmp_path / "image"), tmp_path / "out", (TILE, TILE), settings())
    own = normalisation([histogram(pixels, "image")], IntensitySettings(**intensity))
    expected = whole(model, own.apply(pixels[None]))
    np.testing.assert_allclose(open_image(tmp_path / "out").array[...], expected, atol=1e-5)


def test_half_precision_storage_rounds_and_changes_nothing_else(tmp_path: Path) -> None:
    pixels = grey((40, 35))
    create_image(tmp_path / "image", "yx", pixels.shape, np.uint8, {})[...] = pixels
    model = load(write_model(tmp_path / "model"), "cpu", "32")
    for dtype in ("float16", "float32"):
        predict_image(
            model,
            open_image(tmp_path / "image"),
            tmp_path / dtype,
            (TILE, TILE),
            settings(dtype=dtype, orientations=8),
        )
    half, single = (open_image(tmp_path / dtype).array[...] for dtype in ("float16", "float32"))
    assert half.dtype == np.float16
    assert half.tobytes() == single.astype(np.float16).tobytes()


def test_images_are_predicted_into_one_folder_with_the_models_tile(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "model"), "cpu", "32")
    for number, name in enumerate("ab"):
        pixels = grey((40 + number, 35))
        create_image(tmp_path / name, "yx", pixels.shape, np.uint8, {})[...] = pixels
    paths = [tmp_path / name for name in "ab"]
    facts = predict_images(model, paths, tmp_path / "out", settings())
    assert facts["pixels"] == (40 + 41) * 35
    assert facts["predict_seconds"] > 0
    turned = settings(orientations=4), settings(rotations=3)
    for way in turned:
        facts = predict_images(model, paths[:1], tmp_path / "turned", way)
        assert facts["pixels"] == 40 * 35 * way.orientations * way.rotations
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]
    for path in paths:
        pixels = open_image(path).array[...]
        found = open_image(tmp_path / "out" / path.name).array[...]
        np.testing.assert_allclose(found, whole(model, (pixels[None] - OFFSET) / SCALE), atol=1e-5)


def test_an_automatic_tile_gives_the_same_prediction_within_its_memory(tmp_path: Path) -> None:
    pixels = grey((60, 55))
    create_image(tmp_path / "image", "yx", pixels.shape, np.uint8, {})[...] = pixels
    model = load(write_model(tmp_path / "model"), "cpu", "32")
    tiles = {}
    for megabytes in (0.06, 100):
        chosen = settings(tile="auto", memory_gb=megabytes / 1e3)
        tiles[megabytes] = tuple(tile_of(model, open_image(tmp_path / "image"), chosen))
        predict_images(model, [tmp_path / "image"], tmp_path / f"{megabytes}", chosen)
        found = open_image(tmp_path / f"{megabytes}/image").array[...]
        np.testing.assert_allclose(found, whole(model, (pixels[None] - OFFSET) / SCALE), atol=1e-5)
    assert max(tiles[0.06]) < 60 < min(tiles[100])


def test_an_image_that_fails_leaves_none_of_the_folder(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "model"), "cpu", "32")
    create_image(tmp_path / "good", "yx", (30, 30), np.uint8, {})[...] = grey((30, 30))
    create_image(tmp_path / "bad", "cyx", (2, 30, 30), np.uint8, {})[...] = grey((2, 30, 30))
    message = re.escape(
        "bad: the model takes 1 channels: the image has 2; choose channels or another model"
    )
    with pytest.raises(ValueError, match=message):
        predict_images(model, [tmp_path / "good", tmp_path / "bad"], tmp_path / "out", settings())
    assert {path.name for path in tmp_path.iterdir()} == {"model", "good", "bad"}


def stored(tmp_path: Path, name: str, **changes: Any) -> store.Image:
    """Predict one image of two channels by a model of three classes."""
    pixels = grey((2, 40, 35))
    if not (tmp_path / "image").exists():
        create_image(tmp_path / "image", "cyx", pixels.shape, np.uint8, {})[...] = pixels
        write_model(tmp_path / "model", channels=2, classes=3)
    model = load(tmp_path / "model", "cpu", "32")
    image = open_image(tmp_path / "image")
    predict_image(model, image, tmp_path / name, (TILE, TILE), settings(**changes))
    store.validate(tmp_path / name)
    return open_image(tmp_path / name)


def test_rotations_are_averaged_plane_by_plane_over_the_whole_image(tmp_path: Path) -> None:
    pixels = grey((2, 40, 35))
    create_image(tmp_path / "image", "zyx", pixels.shape, np.uint8, {})[...] = pixels
    model = load(write_model(tmp_path / "model"), "cpu", "32")
    image = open_image(tmp_path / "image")
    predict_image(model, image, tmp_path / "out", (TILE, TILE), settings(rotations=7))
    found = open_image(tmp_path / "out").array[...]
    for number, plane in enumerate(pixels):
        normal = ((plane[None] - OFFSET) / SCALE).astype(np.float32)
        mean = mean_over_rotations(lambda turned: whole(model, turned), normal, 7)
        np.testing.assert_allclose(found[:, number], mean, atol=1e-5)
    assert not np.allclose(found[:, 0], whole(model, (pixels[:1] - OFFSET) / SCALE), atol=1e-3)


def test_every_kind_of_output_reads_back_as_probabilities(tmp_path: Path) -> None:
    exact = stored(tmp_path, "float32").array[...]
    for name, bound, changes in (
        ("half", 1e-3, {"dtype": "float16"}),
        ("bytes", 0.5 / 255 + 1e-6, {"dtype": "uint8"}),
        ("logits", 1e-6, {"output": "logits", "dtype": "float32"}),
    ):
        found = stored(tmp_path, name, **changes)
        np.testing.assert_allclose(probabilities(found), exact, atol=bound)
        np.testing.assert_allclose(foreground(found), exact.sum(axis=0), atol=2 * bound)
        part = (slice(3, 20), slice(5, 6))
        np.testing.assert_array_equal(probabilities(found, part), probabilities(found)[:, *part])


def test_a_class_map_is_the_most_probable_class(tmp_path: Path) -> None:
    exact = stored(tmp_path, "float32").array[...]
    found = stored(tmp_path, "classes", output="classes")
    every = np.concatenate([1 - exact.sum(axis=0, keepdims=True), exact])
    assert found.array.dtype == np.uint8
    np.testing.assert_array_equal(found.array[0], every.argmax(axis=0))
    np.testing.assert_array_equal(probabilities(found).argmax(axis=0)[found.array[0] == 2], 1)
    np.testing.assert_array_equal(foreground(found), found.array[0] > 0)


def test_chosen_classes_alone_are_stored_in_their_order(tmp_path: Path) -> None:
    exact = stored(tmp_path, "float32").array[...]
    found = stored(tmp_path, "chosen", channels=("border", "background"))
    np.testing.assert_array_equal(found.array[0], exact[1])
    np.testing.assert_allclose(found.array[1], 1 - exact.sum(axis=0), atol=1e-6)
    np.testing.assert_array_equal(probabilities(found)[1], exact[1])
    assert not probabilities(found)[0].any()
    with pytest.raises(ValueError, match="must be classes of the model, background, cell, border"):
        stored(tmp_path, "unknown", channels=("nucleus",))


def test_a_region_is_read_while_another_is_computed_and_memory_holds_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    pixels, events = grey((32, 32 * 6)), []
    create_image(tmp_path / "image", "yx", pixels.shape, np.uint8, {})[...] = pixels
    model = load(write_model(tmp_path / "model"), "cpu", "32")
    for name in ("read", "predict"):
        kept = getattr(Job, name)

        def noted(self: Job, *given: Any, name: str = name, kept: Any = kept) -> Any:
            events.append((name, given[-1][-1].start // 32, "begins"))
            found = kept(self, *given)
            events.append((name, given[-1][-1].start // 32, "ends"))
            return found

        monkeypatch.setattr(Job, name, noted)
    predict_image(model, open_image(tmp_path / "image"), tmp_path / "out", (TILE, TILE), settings())
    assert [number for name, number, when in events if (name, when) == ("predict", "begins")] == [
        *range(6)
    ]
    for number in range(6):
        if number > 1:  # two before it have been computed, one of them written
            begun = events.index(("read", number, "begins"))
            assert events.index(("predict", number - 2, "ends")) < begun
