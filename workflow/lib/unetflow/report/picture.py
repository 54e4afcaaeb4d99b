"""Draws the README's picture from a finished demo: image, weights, probability, instances."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import zarr
from matplotlib.figure import Figure
from skimage.color import label2rgb

from unetflow.predicted import probabilities
from unetflow.store import open_image


def draw(results: Path, output: Path) -> None:
    """Write a PNG of the first test image of the demo's first fold, from picture to instances."""
    experiment = results / "experiments/demo"
    fold = experiment / "fold0/seed0"
    prediction = min((fold / "prediction.ome.zarr").glob("[!.]*"))
    name = prediction.name
    picture = np.asarray(open_image(results / "datasets/demo/images.ome.zarr" / name).array)
    weights = np.asarray(zarr.open_array(experiment / "weights.zarr" / name / "weights", mode="r"))
    instances = np.asarray(open_image(fold / "segmentation.ome.zarr" / name).array)
    panels = {
        "image": (picture, "gray"),
        "border weights": (weights, "magma"),
        "predicted probability": (probabilities(open_image(prediction))[0], "cividis"),
        "instances": (label2rgb(instances, picture, alpha=0.4, bg_label=0), None),
    }
    figure = Figure(figsize=(12, 3.3), layout="constrained")
    for axes, (title, (pixels, colours)) in zip(
        figure.subplots(1, len(panels)), panels.items(), strict=True
    ):
        axes.imshow(pixels.astype(float), cmap=colours)
        axes.set_title(title)
        axes.set_axis_off()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
