"""Pictures of an experiment: test images, images without truth, border weights and patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from unetflow.report import figures, scores, sources
from unetflow.report.sources import Run, attempt

PATCHES = 8
UNANNOTATED = 4


def predicted_strip(name: str, image: Path, folder: Path) -> figures.Strip | None:
    """Picture, truth, probability, instances and errors of an image, as far as they exist."""
    return attempt(lambda image: draw_strip(name, image, folder), image)


def draw_strip(name: str, image: Path, folder: Path) -> figures.Strip:
    """Picture, truth, probability, instances and errors of an image that exists."""
    plane = sources.volume_plane(image)
    by = figures.factor(plane)
    strip = figures.strip(name, plane, by)
    strip.add("Picture")
    classes, instances = sources.truth_planes(image)
    if classes is not None:
        overlay = figures.contours(classes, by, figures.TRUE, ignored=True)
        if instances is not None:
            borders = figures.contours(instances, by, figures.TRUE)
            overlay = np.where(borders[..., 3:] > 0, borders, overlay)
        strip.add("Truth", overlay)
    foreground = attempt(sources.probabilities_plane, folder / "prediction.ome.zarr" / image.name)
    if foreground is not None:
        probability = figures.heat(foreground.sum(axis=0), by, 0, 1)
        strip.add("Probability", probability, picture=False)
    labels = attempt(sources.labels_plane, folder / "segmentation.ome.zarr" / image.name)
    if labels is not None:
        strip.add("Instances", figures.contours(labels, by, figures.PREDICTED))
    if classes is not None and foreground is not None:
        strip.add("Errors", figures.errors(classes, foreground, by))
    return strip


def tested_images(
    name: str, table: pd.DataFrame | None, folder: Path, images: Path
) -> Iterator[dict[str, Any]]:
    """Yield the best, the median and the worst test image; none without scores."""
    ranking = [] if table is None else scores.ranked(table)
    for title, entry in scores.extremes(ranking):
        run = folder / str(entry["split"]) / f"seed{entry['seed']}"
        strip = predicted_strip(f"{name}-{title.lower()}", images / str(entry["image"]), run)
        yield {"title": title, **entry, "strip": strip, "path": run / "prediction.ome.zarr"}


def unannotated(name: str, runs: Sequence[Run], images: Path) -> Iterator[dict[str, Any]]:
    """Yield some of the images without truth that the final network predicted."""
    run = next(run for run in runs if run.split == "final")
    prediction = run.folder / "prediction.ome.zarr"
    # To track a sequence its annotated frames are predicted too.
    found = sorted(
        path.name
        for path in prediction.glob("*")
        if path.is_dir() and not (images / path.name / "labels/classes").exists()
    )
    # Evenly spread over the images, since neighbours in a stack look alike.
    shown = {round(place) for place in np.linspace(0, len(found) - 1, UNANNOTATED)}
    for number in sorted(shown) if found else ():
        strip = predicted_strip(f"{name}-new{number}", images / found[number], run.folder)
        yield {"image": found[number], "strip": strip, "path": prediction, "count": len(found)}


def weight_example(name: str, folder: Path, images: Path) -> dict[str, Any] | None:
    """Picture, training target and border weights of the first image that has them."""
    # A folder NAME.partial is still being written; names of images hold no dot.
    for path in sorted(path for path in folder.glob("*") if "." not in path.name):
        found = attempt(lambda path: draw_weights(name, path, images), path)
        if found:
            return found
    return None


def draw_weights(name: str, path: Path, images: Path) -> dict[str, Any]:
    """Return the pictures of one image's target and weights."""
    plane = sources.volume_plane(images / path.name)
    target, weights = (
        sources.plane_of(zarr.open_array(path / part, mode="r")) for part in ("target", "weights")
    )
    by = figures.factor(plane)
    strip = figures.strip(f"{name}-weights", plane, by)
    strip.add("Picture")
    strip.add("Target", figures.contours(target, by, figures.TRUE, ignored=True))
    low, high = float(weights.min()), float(weights.max())
    strip.add("Weights", figures.heat(weights, by, low, high), picture=False)
    return {"image": path.name, "path": path, "strip": strip, "low": low, "high": high}


def patch_examples(name: str, folder: Path) -> dict[str, Any] | None:
    """Return some deformed patches of the first image that has them, each with its weights."""
    for path in sorted(folder.glob("*.zarr")):
        strips = attempt(lambda path: list(patch_strips(name, path)), path)
        if strips:
            return {"image": path.stem, "path": path, "strips": strips}
    return None


def patch_strips(name: str, path: Path) -> Iterator[figures.Strip]:
    """Patches with the target's contours inside the frame that the network predicts."""
    image, classes, weights = (
        zarr.open_array(path / part, mode="r") for part in ("image", "classes", "weights")
    )
    for number in range(min(PATCHES, image.shape[0])):
        plane = sources.plane_of(np.asarray(image[number, 0]))
        target = sources.plane_of(np.asarray(classes[number]))
        loss = sources.plane_of(np.asarray(weights[number]))
        by = figures.factor(plane, figures.THUMBNAIL)
        strip = figures.strip(f"{name}-patch{number}", plane, by)
        shape = (strip.height, strip.width)
        overlay = figures.contours(target, by, figures.TRUE, ignored=True)
        strip.add("Patch", figures.framed(overlay, shape, figures.PREDICTED))
        heat = figures.heat(loss, by, float(loss.min()), float(loss.max()))
        strip.add("Weights", figures.framed(heat, shape, figures.PREDICTED), picture=False)
        yield strip
