"""Prediction: what is written equals inference of the whole image, and failures leave no half."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tifffile
import torch
from numpy.typing import NDArray

from unetflow import prediction, store
from unetflow.geometry import geometry_to_json
from unetflow.inference import Model, array_reader, build, load, logits, sha256, softmax
from unetflow.intensity import histogram, normalisation
from unetflow.prediction import predict_block, predict_image, predict_images, shard_regions
from unetflow.settings import IntensitySettings, PredictSettings, UNetSettings
from unetflow.store import create_array, create_image, open_image, read_json, write_json
from unetflow.volumes import choice_of

torch.set_num_threads(1)

TILE = 26
OFFSET, SCALE = 100.0, 40.0


def write_model(
    folder: Path, dimensions: int = 2, channels: int = 1, classes: int = 2, **intensity: Any
) -> Path:
    torch.manual_seed(0)
    chosen = UNetSettings(dimensions=dimensions, width=2, depth=1)
    network = build(chosen, channels, classes)
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    folder.mkdir()
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    statistics = {"offset": [OFFSET] * channels, "scale": [SCALE] * channels}
    write_json(
        folder / "model.json",
        {
            "network": chosen.model_dump(mode="json"),
            "geometry": geometry_to_json(chosen.geometry),
            "channels": channels,
            "class_names": ["background", "cell", "border"][:classes],
            "intensity": IntensitySettings(**intensity).model_dump(mode="json") | statistics,
            "tile": [TILE] * dimensions,
            "weights_sha256": sha256(folder / "model.safetensors"),
        },
    )
    return folder


def chosen(**settings: Any) -> PredictSettings:
    return PredictSettings(**{"device": "cpu", "threads": 1, "dtype": "float32"} | settings)


def job(**settings: Any) -> dict[str, Any]:
    return {
        "tile": [TILE, TILE],
        "settings": chosen(**settings).model_dump(mode="json"),
        "choice": choice_of({}),
    }


def grey(shape: tuple[int, ...], dtype: str = "uint8") -> NDArray[np.generic]:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def whole(model: Model, image: NDArray[np.float64]) -> NDArray[np.float32]:
    """Foreground probabilities of a normalised image (channel, *spatial) in one tile."""
    extents = image.shape[1:]
    everything = tuple(slice(0, extent) for extent in extents)
    read = array_reader(image.astype(np.float32))
    return softmax(logits(model, read, extents, everything, None))[1:]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several shards of images of tens of pixels."""
    monkeypatch.setattr(store, "CHUNK", 16)
    monkeypatch.setattr(store, "SHARD", 32)


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
    predict_image(model, open_image(tmp_path / "image"), tmp_path / "out", (TILE, TILE), chosen())
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
    predict_image(model, open_image(tmp_path / "image"), tmp_path / "out", tile, chosen())
    found = open_image(tmp_path / "out").array
    assert len(shard_regions(found, 3)) == 4
    expected = whole(model, (pixels[None] - OFFSET) / SCALE)
    np.testing.assert_allclose(found[...], expected, atol=1e-5)


def test_several_channels_and_classes_keep_their_order(tmp_path: Path) -> None:
    pixels = grey((2, 40, 35), "uint16")
    create_image(tmp_path / "image", "cyx", pixels.shape, np.uint16, {})[...] = pixels
    model = load(write_model(tmp_path / "model", channels=2, classes=3), "cpu", "32")
    predict_image(model, open_image(tmp_path / "image"), tmp_path / "out", (TILE, TILE), chosen())
    found = open_image(tmp_path / "out").array
    assert found.shape == (2, 40, 35)
    np.testing.assert_allclose(found[...], whole(model, (pixels - OFFSET) / SCALE), atol=1e-5)


def test_an_image_is_normalised_by_its_own_statistics_where_the_model_was(tmp_path: Path) -> None:
    pixels = grey((40, 35))
    create_image(tmp_path / "image", "yx", pixels.shape, np.uint8, {})[...] = pixels
    intensity = {"source": "image", "normalise": "percentile"}
    model = load(write_model(tmp_path / "model", **intensity), "cpu", "32")
    predict_image(model, open_image(tmp_path / "image"), tmp_path / "out", (TILE, TILE), chosen())
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
            chosen(dtype=dtype, orientations=8),
        )
    half, single = (open_image(tmp_path / dtype).array[...] for dtype in ("float16", "float32"))
    assert half.dtype == np.float16
    assert half.tobytes() == single.astype(np.float16).tobytes()


@pytest.mark.parametrize(
    ("shape", "shard"), [((1, 70, 45), (1, 32, 32)), ((1, 3, 64, 33), (1, 2, 32, 32))]
)
def test_regions_are_whole_shards_and_cover_the_array_once(
    tmp_path: Path, shape: tuple[int, ...], shard: tuple[int, ...]
) -> None:
    chunk = (*(1,) * (len(shape) - 2), 16, 16)
    array = create_array(tmp_path / "a", "czyx"[-len(shape) :], shape, "u1", chunk, shard)
    covered = np.zeros(shape[1:], int)
    for region in shard_regions(array, len(shape) - 1):
        covered[region] += 1
        for part, step, extent in zip(region, shard[1:], shape[1:], strict=True):
            assert part.start % step == 0
            assert part.stop in (part.start + step, extent)
    assert (covered == 1).all()


def test_images_are_predicted_into_one_folder_with_the_models_tile(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "model"), "cpu", "32")
    for number, name in enumerate("ab"):
        pixels = grey((40 + number, 35))
        create_image(tmp_path / name, "yx", pixels.shape, np.uint8, {})[...] = pixels
    paths = [tmp_path / name for name in "ab"]
    predict_images(model, paths, tmp_path / "out", chosen())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]
    for path in paths:
        pixels = open_image(path).array[...]
        found = open_image(tmp_path / "out" / path.name).array[...]
        np.testing.assert_allclose(found, whole(model, (pixels[None] - OFFSET) / SCALE), atol=1e-5)


def test_an_image_that_fails_leaves_none_of_the_folder(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "model"), "cpu", "32")
    create_image(tmp_path / "good", "yx", (30, 30), np.uint8, {})[...] = grey((30, 30))
    create_image(tmp_path / "bad", "cyx", (2, 30, 30), np.uint8, {})[...] = grey((2, 30, 30))
    message = re.escape(
        "bad: the model takes 1 channels: the image has 2; choose channels or another model"
    )
    with pytest.raises(ValueError, match=message):
        predict_images(model, [tmp_path / "good", tmp_path / "bad"], tmp_path / "out", chosen())
    assert {path.name for path in tmp_path.iterdir()} == {"model", "good", "bad"}


# ---------------------------------------------------------------------------------- blocks


def predicted(tmp_path: Path, volume: Path) -> dict[str, Any]:
    """Predict a volume as a block; return its receipt after looking for leftovers."""
    model = write_model(tmp_path / "model")
    output, receipt = tmp_path / "out/prediction", tmp_path / "out/receipt.json"
    predict_block(model, volume, output, receipt, job())
    facts = read_json(receipt)
    assert set(facts) == {"state", "reason", "seconds"}
    assert facts["seconds"] >= 0
    names = {"receipt.json"} | ({"prediction"} if facts["state"] == "done" else set())
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    return facts


@pytest.mark.parametrize("shape", [(40, 35), (3, 40, 35)])
def test_a_tiff_file_is_predicted_as_the_same_pixels_in_ome_zarr(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    pixels = grey(shape)
    tifffile.imwrite(
        tmp_path / "volume.tif",
        pixels,
        photometric="minisblack",
        metadata={"axes": "ZYX"[-len(shape) :]},
    )
    create_image(tmp_path / "volume", "zyx"[-len(shape) :], shape, np.uint8, {})[...] = pixels
    found = []
    for name in ("volume.tif", "volume"):
        (tmp_path / f"of {name}").mkdir()
        assert predicted(tmp_path / f"of {name}", tmp_path / name)["state"] == "done"
        found.append(open_image(tmp_path / f"of {name}/out/prediction").array[...])
    assert found[0].shape == (1, *shape)
    np.testing.assert_array_equal(*found)
    gc.collect()  # a file left open would be told here


def test_the_chosen_channel_and_time_point_are_predicted(tmp_path: Path) -> None:
    pixels = grey((2, 3, 40, 35))
    create_image(tmp_path / "all", "tcyx", pixels.shape, np.uint8, {})[...] = pixels
    create_image(tmp_path / "one", "yx", (40, 35), np.uint8, {})[...] = pixels[1, 2]
    model, found = write_model(tmp_path / "model"), []
    for name, choice in (("all", {"time": "1", "channel": "2"}), ("one", {})):
        out = tmp_path / "of" / name
        asked = job() | {"choice": choice_of(choice)}
        predict_block(model, tmp_path / name, out / "prediction", out / "receipt.json", asked)
        assert read_json(out / "receipt.json")["state"] == "done"
        found.append(open_image(out / "prediction").array[...])
    np.testing.assert_array_equal(*found)


def test_another_number_of_channels_is_a_failed_receipt_with_its_reason(tmp_path: Path) -> None:
    create_image(tmp_path / "volume", "cyx", (3, 30, 30), np.uint8, {})[...] = grey((3, 30, 30))
    facts = predicted(tmp_path, tmp_path / "volume")
    assert facts["state"] == "failed"
    assert facts["reason"].endswith(
        "the model takes 1 channels: the image has 3; choose channels or another model"
    )


def test_a_missing_volume_is_a_failed_receipt(tmp_path: Path) -> None:
    facts = predicted(tmp_path, tmp_path / "nowhere")
    assert facts["state"] == "failed"
    assert "a volume must exist: found nothing; correct the path in the sheet" in facts["reason"]


@pytest.mark.parametrize("kind", ["text", "colour", "folder", "ending"])
def test_what_is_no_volume_is_a_failed_receipt(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "volume.tif"
    if kind == "text":
        path.write_text("not a picture")
        expected = "must be a readable TIFF file"
    elif kind == "colour":
        tifffile.imwrite(path, grey((30, 30, 3)), photometric="rgb")
        expected = "the model takes 1 channels: the image has 3"
    elif kind == "folder":
        path.mkdir()
        expected = "must be a readable OME-Zarr image (0.4 or 0.5) or Zarr array"
    else:
        path = tmp_path / "volume.txt"
        path.write_text("not a picture")
        expected = "a volume must be a Zarr folder or end in .tif, .tiff,"
    facts = predicted(tmp_path, path)
    assert facts["state"] == "failed"
    assert expected in facts["reason"]
    assert "\n" not in facts["reason"]


def test_a_volume_with_a_time_axis_is_a_failed_receipt_with_its_reason(tmp_path: Path) -> None:
    create_image(tmp_path / "volume", "tyx", (5, 30, 30), np.uint8, {})[...] = grey((5, 30, 30))
    facts = predicted(tmp_path, tmp_path / "volume")
    assert facts["state"] == "failed"
    assert "time" in facts["reason"]


@pytest.mark.parametrize("damage", ["overwritten", "cut short"])
def test_pixels_that_cannot_be_read_are_a_failed_receipt(tmp_path: Path, damage: str) -> None:
    create_image(tmp_path / "volume", "zyx", (5, 40, 50), np.uint8, {})[...] = grey((5, 40, 50))
    (shard,) = (path for path in (tmp_path / "volume/0/c").rglob("*") if path.is_file())
    stored = shard.read_bytes()
    if damage == "overwritten":  # the first chunk; the index at the end is left whole
        shard.write_bytes(bytes(1000) + stored[1000:])
    else:
        shard.write_bytes(stored[: len(stored) // 2])
    facts = predicted(tmp_path, tmp_path / "volume")
    assert facts["state"] == "failed"
    assert facts["reason"]


def test_a_tiff_file_that_lost_its_end_is_a_failed_receipt(tmp_path: Path) -> None:
    path = tmp_path / "volume.tif"
    tifffile.imwrite(path, grey((5, 40, 50)), photometric="minisblack", compression="zlib")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    facts = predicted(tmp_path, path)
    assert facts["state"] == "failed"


def test_grey_values_that_are_no_numbers_are_a_failed_receipt(tmp_path: Path) -> None:
    pixels = grey((40, 35), "float32")
    pixels[20, 20] = np.nan
    create_image(tmp_path / "volume", "yx", pixels.shape, np.float32, {})[...] = pixels
    facts = predicted(tmp_path, tmp_path / "volume")
    assert facts["state"] == "failed"
    assert "finite" in facts["reason"]


def test_a_full_disk_is_an_error_without_a_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_image(tmp_path / "volume", "yx", (40, 50), np.uint8, {})[...] = grey((40, 50))

    def full(*_: Any) -> NDArray[np.float32]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prediction, "predict_region", full)
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    with pytest.raises(OSError, match="No space left on device"):
        predict_block(model, tmp_path / "volume", out / "prediction", out / "receipt.json", job())
    assert not list(out.iterdir())


def test_weights_that_do_not_belong_to_the_model_are_an_error_and_no_receipt(
    tmp_path: Path,
) -> None:
    create_image(tmp_path / "volume", "yx", (40, 50), np.uint8, {})[...] = grey((40, 50))
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="weights must have the SHA-256 that"):
        predict_block(
            model, tmp_path / "volume", tmp_path / "prediction", tmp_path / "receipt.json", job()
        )
    assert {path.name for path in tmp_path.iterdir()} == {"volume", "model"}
