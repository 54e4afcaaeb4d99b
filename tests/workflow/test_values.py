"""The whole workflow on a regression: values instead of classes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from project import Project

from unetflow.datasets.fluorescence import fluorescence
from unetflow.inference import Model, array_reader, load, logits
from unetflow.regions import normalisation_of
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


def test_a_regression_runs_from_pictures_to_the_report(fresh: Project) -> None:
    (fresh.path / "config/experiments/dim.yaml").write_text(EXPERIMENT)
    for number in range(4):
        for folder, pixels in zip(("dim", "bright"), fluorescence((48, 52), number), strict=True):
            path = fresh.path / f"mine/{folder}/cell{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, pixels)
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

    # What is stored is the network's output, turned back into counts, mean over orientations.
    model = load(run, "cpu", "32")
    (name,) = {*table["image"]}
    image = open_image(images / name)
    pixels = normalisation_of(model, image).apply(image.region((slice(0, 48), slice(0, 52))))
    turned = [np.rot90(pixels, k, (1, 2)) for k in range(4)]
    outputs = [
        np.rot90(whole(model, np.ascontiguousarray(of)), -k, (1, 2)) for k, of in enumerate(turned)
    ]
    expected = regression_of(facts).values(np.mean(outputs, axis=0))
    found = open_image(run / f"prediction.ome.zarr/{name}").array[...]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)

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
    assert "export_model" not in export
    assert "train_model" not in fresh.snakemake("--dry-run", "ome_tiff", *CONFIG).stdout


def whole(model: Model, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs of an image in one piece."""
    shape = pixels.shape[1:]
    region = tuple(slice(0, extent) for extent in shape)
    return logits(model, array_reader(pixels), shape, region, None)
