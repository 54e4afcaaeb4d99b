"""Values of an archive's volumes: what is planned, stored, told and scored of them, and refused."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from skimage.measure import block_reduce
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from small_model import grey, small_shards, write_model

from unetflow import predicted, value_scores
from unetflow.assembly import finish_prediction
from unetflow.evaluation import evaluate_volume
from unetflow.measured_values import measure_values, statistics
from unetflow.nifti import write_nifti
from unetflow.ome_tiff import write_ome_tiff
from unetflow.packages import adopt, suited
from unetflow.packs import Pack
from unetflow.planning import plan_archive
from unetflow.predicted import holds_values
from unetflow.reading import parse
from unetflow.regression import regression_of
from unetflow.report.slices import stack
from unetflow.settings.evaluation import EvaluateSettings
from unetflow.settings.experiment import ExperimentSettings
from unetflow.settings.prediction import PredictSettings
from unetflow.store import Image, create_array, create_image, open_image, read_json, write_json

__all__ = ["small_shards"]
TARGET = {"names": ["red", "infra"], "offset": [100.0, 7.0], "scale": [20.0, 3.0]}
MODEL = {"class_names": [], "target": {**TARGET, "data_range": 250.0}}
SHAPE = (5, 40, 44)


def true_and_found(shape: tuple[int, ...] = SHAPE) -> tuple[NDArray[Any], NDArray[Any]]:
    """True values of two channels, and what a network may have told of them."""
    generator = np.random.default_rng(1)
    true = generator.uniform(0, 250, (2, *shape)).astype(np.float32)
    return true, (true + generator.normal(3, 20, true.shape)).astype(np.float32)


def stored(path: Path, values: NDArray[Any], dtype: str = "float32") -> Path:
    """Write a prediction as blocks and `finish_prediction` do."""
    settings = predicted.stored_as(PredictSettings(dtype=dtype), MODEL)
    axes = "czyx"[: values.ndim] if values.ndim == 4 else "cyx"
    about = predicted.metadata(["red", "infra"], settings)
    create_image(path, axes, values.shape, dtype, {}, **about)[...] = values
    return path


def volume(root: Path, **row: str) -> dict[str, Any]:
    """Return the facts of a volume whose picture lies in a folder."""
    tifffile.imwrite(root / "picture.tif", grey(SHAPE), metadata={"axes": "ZYX"})
    about = {"path": str(root / "picture.tif"), "experiment": "e", "shape": [*SHAPE]}
    of = {**about, "voxels": int(np.prod(SHAPE)), **row}
    return {"state": "done", "reason": "", "seconds": 1.5, "volume": of}


# ------------------------------------------------------------------------------ in numbers


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("region", [None, (slice(1, 4), slice(30, 40), slice(0, 33))])
@pytest.mark.parametrize("masked", [False, True])
def test_statistics_are_those_of_all_voxels_that_are_predicted(
    tmp_path: Path, region: Any, masked: bool
) -> None:
    _, values = true_and_found()
    image = open_image(stored(tmp_path / "p", values + 1e4))  # a mean far above the deviation
    inside = np.zeros(SHAPE, bool)
    inside[region or ...] = True
    mask = None
    if masked:
        pixels = (np.random.default_rng(2).random(SHAPE) > 0.7).astype(np.uint8)
        create_image(tmp_path / "m", "zyx", SHAPE, "uint8", {})[...] = pixels
        mask = open_image(tmp_path / "m")
        inside &= pixels > 0
    found = statistics(image, ["red", "infra"], region, mask)
    for channel, name in zip(values.astype(np.float64) + 1e4, ["red", "infra"], strict=True):
        counted = channel[inside]
        expected = counted.mean(), counted.std(), counted.min(), counted.max()
        told = [found[f"{what}_{name}"] for what in ("mean", "deviation", "least", "largest")]
        np.testing.assert_allclose(told, expected, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_many_channels_take_the_memory_of_one(tmp_path: Path, masked: bool) -> None:
    peaks, mask = [], None
    if masked:
        create_image(tmp_path / "m", "yx", (1024, 1024), "uint8", {})[...] = 1
        mask = open_image(tmp_path / "m")
    for channels in (1, 8):
        values = np.random.default_rng(3).random((channels, 1024, 1024), np.float32)
        path = tmp_path / f"{channels}"
        create_image(path, "cyx", values.shape, "float32", {})[...] = values
        names = [str(number) for number in range(channels)]
        del values
        tracemalloc.start()
        statistics(open_image(path), names, None, mask)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_no_voxel_has_no_statistics(tmp_path: Path) -> None:
    image = open_image(stored(tmp_path / "p", true_and_found()[1]))
    create_image(tmp_path / "m", "zyx", SHAPE, "uint8", {})
    assert statistics(image, ["red", "infra"], None, open_image(tmp_path / "m")) == {}


def test_volumes_of_a_job_are_told_of_and_nothing_of_objects_is_left(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("good", "bad")}
    of_objects = ["segmentation.ome.zarr", "objects.tsv", "objects.parquet", "outlines.zip"]
    of_objects += ["outlines.geojson", "merges.tsv", "seams.tsv"]
    for folder in folders.values():
        folder.mkdir()
        for name in of_objects:
            (folder / name).touch()
    _, values = true_and_found()
    stored(folders["good"] / "prediction.ome.zarr", values)
    write_json(folders["good"] / "prediction.json", volume(tmp_path))
    failed = {"state": "failed", "reason": "torn", "seconds": 0.0, "volume": {"path": "no.tif"}}
    write_json(folders["bad"] / "prediction.json", failed)
    measure_values(job(tmp_path, "good"), ["good", "bad"], MODEL)
    for name in ("measured.json", ".measured.json"):
        assert read_json(folders["good"] / name)["restored"] == "again"
    good, bad = (read_json(folders[name] / "summary.json") for name in ("good", "bad"))
    assert good["state"] == "done"
    assert good["mean_infra"] == pytest.approx(values[1].mean(), rel=1e-5)
    assert {"predict_seconds": 1.5, "experiment": "e", "shape": [*SHAPE]}.items() <= good.items()
    assert (bad["state"], bad["reason"], bad["path"]) == ("failed", "torn", "no.tif")
    assert not [name for name in bad if name.startswith("mean")]
    assert {path.name for path in folders["bad"].iterdir()} == {
        "prediction.json", "summary.json", ".measured_own.json"
    }  # fmt: skip
    assert not {path.name for path in folders["good"].iterdir()} & {*of_objects}
    with PIL.Image.open(folders["good"] / "thumbnail.webp") as picture:
        assert picture.size == (2 * 44, 40)
        found = np.asarray(picture.convert("L")).astype(float)
    halves = found[:, :44], found[:, 44:]
    middle = grey(SHAPE)[2], values[0, 2]
    for half, plane in zip(halves, middle, strict=True):
        assert np.corrcoef(half.ravel(), plane.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("names", [["a", "b"], ["a"]])
def test_only_volumes_whose_prediction_is_another_are_measured_again(
    tmp_path: Path, names: list[str]
) -> None:
    _, values = true_and_found()
    for name in names:
        stored(tmp_path / name / "prediction.ome.zarr", values)
        write_json(tmp_path / name / "prediction.json", volume(tmp_path))
    summaries = [tmp_path / name / "summary.json" for name in names]

    def measured() -> list[bool]:
        """Which summaries are written."""
        before = [of.stat().st_mtime_ns if of.is_file() else 0 for of in summaries]
        measure_values(job(tmp_path, "a"), names, MODEL)
        times = zip(summaries, before, strict=True)
        return [of.stat().st_mtime_ns != earlier for of, earlier in times]

    alone = [name == "a" for name in names]
    assert all(measured())
    assert not any(measured())
    stored(tmp_path / "a/prediction.ome.zarr", values + 50)
    write_json(tmp_path / "a/prediction.json", volume(tmp_path))
    assert measured() == alone
    assert read_json(summaries[0])["mean_red"] == pytest.approx(values[0].mean() + 50, rel=1e-5)
    summaries[0].unlink()
    assert measured() == alone


def job(root: Path, first: str) -> Pack:
    """Return what measures volumes in folders of their names."""
    paths = {"facts": "prediction.json", "prediction": "prediction.ome.zarr"}
    paths["summary"] = "summary.json"
    patterns = {key: str(root / "{volume}" / name) for key, name in paths.items()}
    return Pack(None, root / first / "measured.json", patterns, "code", "again")


# --------------------------------------------------------------------------------- scores


def scores(root: Path, truth: Path, facts: dict[str, Any], **settings: Any) -> pd.DataFrame:
    paths = {"truth": str(truth), "prediction": root / "p", "segmentation": ""}
    output = root / "metrics.tsv"
    evaluate_volume(facts, paths, output, MODEL, EvaluateSettings(**settings))
    return pd.read_csv(output, sep="\t")


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("as_target", [False, True])
@pytest.mark.parametrize("cell", ["", "1:4, 3:30, :"])
@pytest.mark.parametrize("border", [0, 4])
def test_volumes_are_scored_plane_by_plane_as_scikit_image_does(
    tmp_path: Path, as_target: bool, cell: str, border: int
) -> None:
    true, values = true_and_found()
    stored(tmp_path / "p", values)
    if as_target:
        create_image(tmp_path / "t", "zyx", SHAPE, "uint8", {})
        create_image(tmp_path / "t/target", "czyx", true.shape, "float32", {})[...] = true
    else:
        create_image(tmp_path / "t", "czyx", true.shape, "float32", {})[...] = true
    found = scores(
        tmp_path, tmp_path / "t", volume(tmp_path, region=cell), ignore_border=border
    ).set_index("metric")["value"]
    frame = (slice(border, 40 - border), slice(border, 44 - border))
    planes, rows = (slice(1, 4), slice(max(3, border), 30)) if cell else (slice(None), frame[0])
    pair = [
        of[:, planes, rows, frame[1]].swapaxes(0, 1).astype(np.float64) for of in (true, values)
    ]
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    psnr, ssim = [], []
    for of_true, of_found in zip(*pair, strict=True):
        psnr.append(peak_signal_noise_ratio(of_true, of_found, data_range=250))
        similar = structural_similarity(
            of_true, of_found, data_range=250, channel_axis=0, full=True, **window
        )[1]
        ssim.append(similar[:, 5:-5, 5:-5].mean())
    assert found["psnr"] == pytest.approx(np.mean(psnr), rel=1e-5)
    assert found["ssim"] == pytest.approx(np.mean(ssim), rel=1e-4)
    assert {*found.index} == {"psnr", "rmse", "correlation", "sam", "ssim", "q2n"}


def test_a_slab_has_so_many_values_of_all_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, values = true_and_found()
    for name, of in (("p", values), ("t", true)):
        create_image(tmp_path / name, "czyx", of.shape, "float32", {}, cubes=True)[...] = of
    read, region = [], Image.region

    def reading(image: Image, index: Any) -> NDArray[Any]:
        found = region(image, index)
        read.append(found.size)
        return found

    whole = scores(tmp_path, tmp_path / "t", volume(tmp_path))
    monkeypatch.setattr(Image, "region", reading)
    monkeypatch.setattr(value_scores, "SLAB", 2 * values[:, 0].size)
    pd.testing.assert_frame_equal(scores(tmp_path, tmp_path / "t", volume(tmp_path)), whole)
    assert max(read) == 2 * values[:, 0].size


def test_all_planes_are_scored_together_where_that_is_asked_for(tmp_path: Path) -> None:
    true, values = true_and_found()
    values[:, 0] += 100
    stored(tmp_path / "p", values)
    create_image(tmp_path / "t", "czyx", true.shape, "float32", {})[...] = true
    found = scores(tmp_path, tmp_path / "t", volume(tmp_path), plane_by_plane=False)
    error = np.sqrt(((true.astype(float) - values) ** 2).mean())
    assert found.set_index("metric")["value"]["rmse"] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda true: true[:, :4], r"must have the extents \(5, 40, 44\) .* red, infra"),
        (lambda true: true[:1], r"channels red, infra: it has \(5, 40, 44\) and 1"),
        (lambda true: np.where(true > 200, np.nan, true), "true values must be finite"),
    ],
)
def test_a_truth_that_is_none_leaves_a_volume_without_scores(
    tmp_path: Path, change: Any, said: str
) -> None:
    true, values = true_and_found()
    stored(tmp_path / "p", values)
    wrong = change(true).astype(np.float32)
    create_image(tmp_path / "t", "czyx", wrong.shape, "float32", {})[...] = wrong
    found = scores(tmp_path, tmp_path / "t", volume(tmp_path))
    assert found["metric"].isna().all()
    assert found["reason"].str.contains(said).all()


def test_a_picture_of_a_dataset_is_no_truth_of_itself(tmp_path: Path) -> None:
    true, values = true_and_found()
    stored(tmp_path / "p", values)
    image = tmp_path / "images.ome.zarr/one"
    create_image(image, "czyx", true.shape, "float32", {})[...] = true
    found = scores(tmp_path, image, volume(tmp_path))
    assert found["metric"].isna().all()
    assert found["reason"].str.contains("image must have true values to be a truth").all()
    create_image(image / "target", "czyx", true.shape, "float32", {})[...] = true
    assert scores(tmp_path, image, volume(tmp_path))["reason"].isna().all()


def test_no_truth_and_no_mask_can_be_scored(tmp_path: Path) -> None:
    stored(tmp_path / "p", true_and_found()[1])
    found = scores(tmp_path, tmp_path / "none.tif", volume(tmp_path))
    assert found["reason"].str.contains("no scores: .*none.tif: a volume must exist").all()
    found = scores(tmp_path, tmp_path / "t", volume(tmp_path, mask="m.tif"))
    said = "got a mask; name a region instead, or leave truth out"
    assert found["reason"].str.contains(said).all()
    failed = {"state": "failed", "reason": "torn", "volume": {}}
    assert scores(tmp_path, tmp_path / "t", failed).empty


# ------------------------------------------------------------------- what is stored, planned


def test_half_floats_hold_no_value_that_is_too_large() -> None:
    settings = PredictSettings(output="values", dtype="float16")
    fits = np.array([[-65504.0, 3.0]], np.float32)
    np.testing.assert_array_equal(predicted.encode(fits, ["t"], ["t"], settings), fits)
    for wrong in (-7e4, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"fit predict.dtype float16, up to 65504.*float32"):
            predicted.encode(np.array([[wrong, 3]], np.float32), ["t"], ["t"], settings)
    other = settings.model_copy(update={"dtype": "float32"})
    assert predicted.encode(np.array([[7e4]], np.float32), ["t"], ["t"], other) == 7e4


@pytest.fixture
def restoring(tmp_path: Path) -> Path:
    """Write a model of one channel of values."""
    folder = write_model(tmp_path / "model")
    network = read_json(write_model(tmp_path / "two", classes=1) / "model.json")
    shutil.copy(tmp_path / "two/model.safetensors", folder)
    target = {"names": ["t"], "offset": [100.0], "scale": [20.0], "data_range": 250.0}
    write_json(folder / "model.json", network | {"class_names": [], "target": target})
    return folder


def test_a_sheet_may_name_a_model_of_values(tmp_path: Path, restoring: Path) -> None:
    adopt(str(restoring), tmp_path / "a/model.json", tmp_path / "a/model.safetensors")
    assert regression_of(read_json(tmp_path / "a/model.json")) is not None
    tifffile.imwrite(tmp_path / "v.tif", grey((40, 44)))
    row = {"path": str(tmp_path / "v.tif"), "experiment": "", "model": "m"}
    rows = {"there": row, "missing": {**row, "path": "none.tif"}}
    rows["classes"] = {**row, "model": "c"}
    of_classes = write_model(tmp_path / "classes") / "model.json"
    models = {"m": tmp_path / "a/model.json", "c": of_classes}
    none = {"": ExperimentSettings(dataset="none")}
    plan_archive(rows, none, tmp_path / "plan.json", "key", models)
    planned = read_json(tmp_path / "plan.json")["volumes"]
    assert {name: of["regression"] for name, of in planned.items()} == {
        "there": True, "missing": True, "classes": False
    }  # fmt: skip
    (block,) = planned["there"]["blocks"].values()
    chosen = block["job"]["settings"]
    assert (chosen["output"], chosen["dtype"]) == ("values", "float32")
    assert planned["there"]["disk_bytes"] == 40 * 44 * 4
    (block,) = planned["classes"]["blocks"].values()
    assert block["job"]["settings"]["output"] == "probabilities"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"predict": {"keep": False}}, "predict.keep must be True beside a model of the task reg"),
        ({"predict": {"output": "classes"}}, "predict.output must be probabilities beside"),
        ({"predict": {"channels": ["cell"]}}, "predict.channels must be None beside"),
    ],
)
def test_settings_of_classes_are_told_beside_a_model_of_values(
    restoring: Path, changes: dict[str, Any], said: str
) -> None:
    facts = read_json(restoring / "model.json")
    with pytest.raises(ValueError, match=said):
        suited(ExperimentSettings(dataset="any", **changes), facts)


def test_an_experiment_of_values_is_none_for_a_model_of_classes(tmp_path: Path) -> None:
    facts = read_json(write_model(tmp_path / "m") / "model.json")
    with pytest.raises(ValueError, match="of the model's task, segmentation: got one of the task"):
        suited(ExperimentSettings(dataset="any", task="regression"), facts)


def test_an_experiment_of_values_says_how_they_are_stored(restoring: Path) -> None:
    own = ExperimentSettings(dataset="any", task="regression", predict={"dtype": "float16"})
    found = suited(own, read_json(restoring / "model.json")).predict
    assert (found.output, found.dtype, found.keep) == ("values", "float16", True)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("keep", False, "predict.keep must be true for the task regression, whose predictions"),
        ("output", "logits", "predict.output must be values for the task regression: got logits"),
    ],
)
def test_a_prediction_that_is_the_result_stays(key: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(
            ExperimentSettings,
            {"dataset": "any", "task": "regression", "predict": {key: value}},
            "mine.yaml",
        )


def test_a_finished_prediction_says_what_its_channels_are(tmp_path: Path) -> None:
    _, values = true_and_found((300, 600))
    stored(tmp_path / "p", values)
    facts = volume(tmp_path)
    row = {**facts["volume"], "reason": ""}
    tifffile.imwrite(tmp_path / "picture.tif", grey((300, 600)))
    receipt = {"array": "0", "shards": [], "reason": "", "seconds": 1, "waiting": 0}
    write_json(tmp_path / "r.json", receipt)
    # A row that names a model alone has the settings of a segmentation.
    how = MODEL, PredictSettings(), tmp_path / "p", tmp_path / "f.json"
    finish_prediction(row, [tmp_path / "r.json"], *how)
    image = open_image(tmp_path / "p")
    assert holds_values(image)
    about = read_json(tmp_path / "p/zarr.json")["attributes"]["unetflow"]
    assert about == {"output": "values", "channels": ["red", "infra"]}
    shown = stack("s", row["path"], {}, tmp_path / "p", tmp_path / "none")
    assert [layer.name for layer in shown.layers] == ["image", "values"]
    half = zarr.open_array(tmp_path / "p/0-1", mode="r")[...]
    np.testing.assert_allclose(half, block_reduce(values, (1, 2, 2), np.mean), rtol=1e-5)


@pytest.mark.parametrize("before", [False, True])
def test_a_volume_that_fails_has_no_values_until_it_is_repaired(
    tmp_path: Path, before: bool
) -> None:
    values = true_and_found((40, 44))[1]
    tifffile.imwrite(tmp_path / "picture.tif", grey((40, 44)))
    row = {"path": str(tmp_path / "picture.tif"), "experiment": "e", "reason": ""}

    def finish(reason: str) -> None:
        receipt = {"array": "0", "shards": [], "reason": reason, "seconds": 1, "waiting": 0}
        write_json(tmp_path / "r.json", receipt)
        how = MODEL, PredictSettings(), tmp_path / "p", tmp_path / "f.json"
        finish_prediction(row, [tmp_path / "r.json"], *how)

    if before:
        stored(tmp_path / "p", values)
        finish("")
    finish("torn")
    with pytest.raises(ValueError, match="must be predicted to be exported: it failed, torn; rep"):
        write_ome_tiff(tmp_path / "p", tmp_path / "p.ome.tif")
    if not before:
        create_array(tmp_path / "p/0", "cyx", values.shape, "float32", (1, 40, 44), (1, 40, 44))
        zarr.open_array(tmp_path / "p/0")[...] = values
    finish("")
    np.testing.assert_array_equal(open_image(tmp_path / "p").array[...], values)
    write_ome_tiff(tmp_path / "p", tmp_path / "p.ome.tif")


def test_values_are_no_classes_for_nifti(tmp_path: Path) -> None:
    pytest.importorskip("SimpleITK")
    stored(tmp_path / "p", true_and_found()[1])
    with pytest.raises(ValueError, match="must be of classes: got values of a regression"):
        write_nifti(tmp_path / "p", str(tmp_path / "v.tif"), tmp_path / "o.nii.gz")
