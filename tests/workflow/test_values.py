"""The whole workflow on a regression: values instead of classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from project import Project

from unetflow.datasets.fluorescence import fluorescence
from unetflow.inference import Model, array_reader, load, logits
from unetflow.intensity import stored_normalisation
from unetflow.regression import regression_of
from unetflow.store import open_image

pytestmark = pytest.mark.workflow

EXPERIMENT = """
description: A network too small to restore anything
dataset:
  name: dim
  folder: mine
  layout: {kind: targets, images: "dim/*.tif", targets: "bright/*.tif"}
task: regression
split: {unit: image, folds: 4, run: [0]}
patches: {tile: 44, per_image: 2, elastic_sigma: 2}
model: {width: 2, depth: 1}
train: {steps: 6, optimiser: adam, loss: ssim, validate_every: 3, threads: 1}
predict: {threads: 1, orientations: 4}
evaluate: {baselines: {noisy: input, gaussian: gaussian}}
"""
CONFIG = ("--config", "experiments=[dim]", "archives=[]")
SHEET = """volume\tpath\texperiment\tmodel\tregion\ttruth
dim0\tmine/stacks/dim0.tif\tdim\t\t\tmine/stacks/bright0.tif
cells\tdataset:tiny/membranes0_000\ttiny\t\t\tdataset:tiny/membranes0_000
dim1\tmine/stacks/dim1.tif\tdim\t\t\t
"""
MORE = """wide\tmine/stacks/dim2.tif\ttiled\tgiven\t\tmine/stacks/bright2.tif
part\tmine/stacks/dim1.tif\t\tgiven\t1:3, :, 10:40\tmine/stacks/bright1.tif
"""
TILED = """dataset: {name: any, layout: {kind: synthetic, texture: fluorescence, shape: [48, 48]}}
task: regression
predict: {threads: 1, block_minutes: 1.0e-6, dtype: float16}
"""


def test_a_regression_runs_from_pictures_to_the_report(fresh: Project) -> None:
    write_pairs(fresh)
    done = fresh.snakemake(*CONFIG).stdout
    for rule in ("compute_weights", "segment_images", "track_images"):
        assert rule not in done
    folder = fresh.path / "results/experiments/dim"
    run, images = folder / "fold0/seed0", fresh.path / "results/datasets/dim/images.ome.zarr"
    table = pd.read_csv(folder / "metrics.tsv", sep="\t")
    metrics = {"psnr", "rmse", "correlation", "ssim"}
    assert {*table["metric"]} == {
        f"{metric}{of}" for metric in metrics for of in ("", "_noisy", "_gaussian")
    }
    means = table.groupby("metric")["value"].mean()
    assert means["psnr_gaussian"] > means["psnr_noisy"]
    history = pd.read_csv(run / "history.tsv", sep="\t")
    facts = json.loads((run / "model.json").read_text())
    best = history["validation_loss"].min()
    assert facts["training"]["validation_loss"] == pytest.approx(best)
    assert json.loads((run / "tiling.json").read_text())["tiled"] <= 1e-4

    (name,) = {*table["image"]}
    pixels = open_image(images / name).region((slice(0, 48), slice(0, 52)))[0]
    found = open_image(run / f"prediction.ome.zarr/{name}").array[...]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, true_prediction(run, pixels, 4), rtol=1e-4)

    page = (fresh.path / "results/report/index.html").read_text()
    for part in (
        "Beside methods that learn less",
        "Target",
        "Difference, 0 to",
        "PSNR",
        "gaussian",
    ):
        assert part in page
    assert "Dice" not in page.split('id="experiment-dim"')[1].split("</section>")[0]
    assert fresh.would_run(*CONFIG) == set()

    export = fresh.snakemake("--dry-run", "export", *CONFIG).stdout
    assert "export_model" in export
    assert "train_model" not in fresh.snakemake("--dry-run", "ome_tiff", *CONFIG).stdout


def test_an_archive_is_restored_beside_segmented_volumes(project: Project) -> None:
    write_pairs(project)
    stacks = project.path / "mine/stacks"
    stacks.mkdir()
    for number, shape in enumerate([(3, 48, 52), (3, 40, 44), (40, 2100)]):
        for name, pixels in zip(("dim", "bright"), fluorescence(shape, 9 + number), strict=True):
            axes = {"axes": "ZYX"[-pixels.ndim :]}
            path = stacks / f"{name}{number}.tif"
            tifffile.imwrite(path, pixels, photometric="minisblack", metadata=axes)
    sheet = project.path / "config/archives/mixed.tsv"
    sheet.write_text(SHEET)
    config = ("--config", "experiments=[dim, tiny]", "archives=[mixed]")
    project.snakemake(*config)
    trained = project.path / "results/experiments/dim/final/seed0"
    archive = project.path / "results/archives/mixed"
    for number in (0, 1):
        check_values(archive / f"dim{number}", trained, stacks / f"dim{number}.tif", 4, "float32")
    assert (archive / "dim0/measured.json").is_file()  # the job of both
    assert not (archive / "dim1/measured.json").is_file()
    assert (archive / "cells/segmentation.ome.zarr/zarr.json").is_file()

    # The same network from elsewhere: in several blocks, in half floats, and in a part of a volume.
    (project.path / "config/experiments/tiled.yaml").write_text(TILED)
    given = project.path / "given"
    given.mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(trained / name, given)
    sheet.write_text(SHEET + MORE)
    done = project.snakemake(*config).stdout
    assert "train_model" not in done
    check_values(archive / "wide", given, stacks / "dim2.tif", 1, "float16")
    assert len([*(archive / "wide/prediction_blocks").glob("[0-9]*.json")]) == 2
    part = open_image(archive / "part/prediction.ome.zarr").array
    wanted = (slice(1, 3), slice(None), slice(10, 40))
    expected = true_prediction(given, tifffile.imread(stacks / "dim1.tif"), 1)[0]
    np.testing.assert_allclose(part[0][wanted], expected[wanted], rtol=1e-4)
    assert np.count_nonzero(part[...]) == expected[wanted].size

    table = pd.read_csv(archive / "summary.tsv", sep="\t", index_col="volume")
    assert {*table["state"]} == {"done"}
    restored = table.drop("cells")
    assert table["objects"].notna().to_dict() == {name: name == "cells" for name in table.index}
    assert restored["psnr"].notna().to_dict() == {
        "dim0": True, "dim1": False, "wide": True, "part": True
    }  # fmt: skip
    error = expected[wanted] - tifffile.imread(stacks / "bright1.tif")[wanted]
    each = np.sqrt((error**2).mean(axis=(1, 2)))
    assert table["rmse"]["part"] == pytest.approx(each.mean(), rel=1e-4)
    assert table["mean_target"]["part"] == pytest.approx(expected[wanted].mean(), rel=1e-5)
    assert table["largest_target"]["part"] == pytest.approx(expected[wanted].max(), rel=1e-5)
    page = (project.path / "results/report/index.html").read_text()
    assert "beside the values that are predicted" in page
    assert page.count('class="values"') > 0
    assert project.would_run(*config) == set()
    for of in ("wide", "dim1"):  # a job of its own, and one that is shared
        removed = archive / of / "summary.json"
        told = removed.rename(removed.with_suffix(".aside"))
        assert "measure_values" in project.would_run(*config)
        told.rename(removed)

    exported = project.snakemake("--dry-run", "ome_tiff", *config).stdout
    assert "mixed/wide/export/prediction.ome.tif" in exported
    assert "mixed/cells/export/segmentation.ome.tif" in exported
    exported = project.snakemake("--dry-run", "nifti", *config).stdout
    assert "mixed/cells/export/classes.nii.gz" in exported
    assert "mixed/wide" not in exported


def write_pairs(project: Project) -> None:
    """Write the experiment and its dataset."""
    (project.path / "config/experiments/dim.yaml").write_text(EXPERIMENT)
    for number in range(4):
        for folder, pixels in zip(("dim", "bright"), fluorescence((48, 52), number), strict=True):
            path = project.path / f"mine/{folder}/cell{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, pixels)


def check_values(volume: Path, model: Path, picture: Path, turns: int, dtype: str) -> None:
    """Check what an archive holds of a volume, and that it holds nothing of objects."""
    stored = open_image(volume / "prediction.ome.zarr")
    assert stored.array.dtype == dtype
    expected = true_prediction(model, tifffile.imread(picture), turns)
    np.testing.assert_allclose(
        stored.array[...], expected, rtol=1e-4 if dtype == "float32" else 1e-3
    )
    about = json.loads((volume / "prediction.ome.zarr/zarr.json").read_text())["attributes"]
    assert about["unetflow"] == {"output": "values", "channels": ["target"]}
    assert (volume / "thumbnail.webp").is_file()
    for name in ("segmentation.ome.zarr", "objects.tsv", "merges.tsv", "seams.tsv"):
        assert not (volume / name).exists()


def true_prediction(folder: Path, pixels: NDArray[Any], turns: int) -> NDArray[np.float32]:
    """Network's output (channels, ...) of whole planes in counts, mean over quarter turns."""
    model = load(folder, "cpu", "32")
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    normalise = stored_normalisation(model.facts["intensity"])
    found = []
    for plane in planes:
        turned = [np.rot90(normalise.apply(plane[None]), k, (1, 2)) for k in range(turns)]
        outputs = [
            np.rot90(whole(model, np.ascontiguousarray(of)), -k, (1, 2))
            for k, of in enumerate(turned)
        ]
        found.append(regression_of(model.facts).values(np.mean(outputs, axis=0)))
    return np.stack(found, axis=1).reshape(-1, *pixels.shape)


def whole(model: Model, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs of an image in one piece."""
    shape = pixels.shape[1:]
    region = tuple(slice(0, extent) for extent in shape)
    return logits(model, array_reader(pixels), shape, region, None)
