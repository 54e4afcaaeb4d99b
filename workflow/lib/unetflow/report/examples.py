"""Pictures of an experiment: test images, images without truth, border weights and patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from unetflow.metrics.contingency import contingency
from unetflow.metrics.instances import divided, joined
from unetflow.regression import regression_of
from unetflow.report import figures, scores, sources
from unetflow.report.slices import Stack, stack
from unetflow.report.sources import Run, attempt
from unetflow.store import TARGET, open_image

PATCHES = 8
UNANNOTATED = 4


def predicted_strip(name: str, image: Path, folder: Path) -> figures.Strip | None:
    """Picture, truth, probability, instances and errors of an image, as far as they exist.

    Of a regression: picture, target, prediction and difference.
    """
    draw = draw_values if is_of_values(folder) else draw_strip
    return attempt(lambda image: draw(name, image, folder), image)


def is_of_values(folder: Path) -> bool:
    """Whether the network of a run is a regression."""
    return regression_of(sources.facts(folder / "model.json")) is not None


def draw_values(name: str, image: Path, folder: Path) -> figures.Strip:
    """Picture, target, prediction and difference of an image, in the grey levels of the target.

    Channels named red, green and blue are shown as such, else the first one is grey.
    """
    regression = regression_of(sources.facts(folder / "model.json"))
    assert regression is not None
    names, opened = list(regression.names), open_image(image)
    colours = ["red", "green", "blue"]
    chosen = [names.index(of) for of in colours] if {*colours} <= {*names} else [0]
    pixels, target = sources.values_plane(opened), opened.target()
    true = None if target is None else sources.values_plane(target)
    path = folder / "prediction.ome.zarr" / image.name
    found = attempt(lambda path: sources.values_plane(open_image(path)), path)
    known = next((of for of in (true, found) if of is not None), pixels)
    levels = [
        (float(low), float(high)) for low, high in np.percentile(known, (0.5, 99.5), (1, 2)).T
    ]
    by = figures.factor(pixels[0])
    if len(pixels) >= len(names):
        picture = figures.shades(pixels, levels, chosen, by)
    else:
        picture = figures.grey(figures.smaller(pixels[0], by))
    strip = figures.Strip(name, figures.data_uri(picture), *picture.shape[:2])
    strip.add("Picture")
    for title, values in (("Target", true), ("Prediction", found)):
        if values is not None:
            overlay = figures.opaque(figures.shades(values, levels, chosen, by))
            strip.add(title, overlay, picture=False)
    if true is not None and found is not None:
        apart = np.abs(found - true).mean(axis=0)
        high = float(np.percentile(apart, 99.5))
        heat = figures.heat(apart, by, 0, high)
        strip.add(f"Difference, 0 to {high:.3g}", heat, picture=False)
    return strip


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
            overlay = figures.above(figures.contours(instances, by, figures.TRUE), overlay)
        strip.add("Truth", overlay)
    foreground = attempt(sources.probabilities_plane, folder / "prediction.ome.zarr" / image.name)
    if foreground is not None:
        probability = figures.heat(foreground.sum(axis=0), by, 0, 1)
        strip.add("Probability", probability, picture=False)
    labels = attempt(sources.labels_plane, folder / "segmentation.ome.zarr" / image.name)
    if labels is not None:
        strip.add("Instances", figures.contours(labels, by, figures.PREDICTED))
    if classes is not None and foreground is not None:
        overlay = figures.errors(classes, foreground, by)
        if instances is not None and labels is not None:
            overlay = figures.above(divided_and_joined(instances, labels, by), overlay)
        strip.add("Errors", overlay)
    return strip


def divided_and_joined(
    truth: NDArray[np.integer], labels: NDArray[np.integer], by: int
) -> NDArray[np.uint8]:
    """Overlay of the true objects that were found in pieces and of those found that are several."""
    table = contingency(truth, labels)
    pieces = figures.outlines(truth, divided(table), by, figures.DIVIDED)
    return figures.above(figures.outlines(labels, joined(table), by, figures.JOINED), pieces)


def tested_images(
    name: str, table: pd.DataFrame | None, folder: Path, images: Path
) -> Iterator[dict[str, Any]]:
    """Yield the best, the median and the worst test image; none without scores."""
    ranking = [] if table is None else scores.ranked(table)
    for title, entry in scores.extremes(ranking):
        run = folder / str(entry["split"]) / f"seed{entry['seed']}"
        strip = predicted_strip(f"{name}-{title.lower()}", images / str(entry["image"]), run)
        parts = ("metrics.tsv", "prediction.ome.zarr", "segmentation.ome.zarr")
        paths = [run / part for part in parts if (run / part).exists()]
        yield {"title": title, **entry, "strip": strip, "paths": paths}


def worst_slices(
    name: str, table: pd.DataFrame | None, folder: Path, images: Path
) -> dict[str, Any] | None:
    """Planes of the worst test image where that is a stack with instances, and its files."""
    ranking = [] if table is None else scores.ranked(table)
    if not ranking:
        return None
    worst = ranking[0]
    image, run = str(worst["image"]), folder / str(worst["split"]) / f"seed{worst['seed']}"
    labels = run / "segmentation.ome.zarr" / image

    def read(path: Path) -> Stack | None:
        if len(open_image(path).spatial_shape) < 3:
            return None
        prediction, truth = run / "prediction.ome.zarr" / image, path / "labels/instances"
        return stack(f"{name}.{image}", path, {}, prediction, labels, truth)

    shown = attempt(read, images / image) if labels.exists() else None
    return None if shown is None else {"image": image, "stack": shown, "files": run}


def unannotated(name: str, runs: Sequence[Run], images: Path) -> Iterator[dict[str, Any]]:
    """Yield some of the images without truth that the final network predicted."""
    run = next(run for run in runs if run.split == "final")
    prediction = run.folder / "prediction.ome.zarr"
    # To track a sequence its annotated frames are predicted too.
    found = sorted(
        path.name
        for path in prediction.glob("*")
        if path.is_dir() and not sources.has_truth(images / path.name)
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
            return {
                "image": path.stem,
                "paths": [path, *sorted(folder.glob("*.png"))],
                "strips": strips,
            }
    return None


def patch_strips(name: str, path: Path) -> Iterator[figures.Strip]:
    """Patches with the target's contours inside the frame that the network predicts.

    Of a regression, patches with the frame, and the first channel of their true values.
    """
    if (path / TARGET).exists():
        yield from value_strips(name, path)
        return
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


def value_strips(name: str, path: Path) -> Iterator[figures.Strip]:
    """Patches with the frame that the network predicts, and what it is to be."""
    image, target = (zarr.open_array(path / part, mode="r") for part in ("image", TARGET))
    for number in range(min(PATCHES, image.shape[0])):
        plane = sources.plane_of(np.asarray(image[number, 0]))
        values = sources.plane_of(np.asarray(target[number, 0]))
        by = figures.factor(plane, figures.THUMBNAIL)
        strip = figures.strip(f"{name}-patch{number}", plane, by)
        shape = (strip.height, strip.width)
        true = figures.opaque(figures.grey(figures.smaller(values, by)))
        empty = np.zeros_like(true)
        strip.add("Patch", figures.framed(empty, shape, figures.PREDICTED))
        strip.add("Target", figures.framed(true, shape, figures.PREDICTED), picture=False)
        yield strip
