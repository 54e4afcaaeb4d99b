"""The threshold of watershed's seeds with which the objects of validation images come out best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unetflow.annotation import Every
from unetflow.inference import Model
from unetflow.known_labels import labels_of, left_out_of
from unetflow.metrics.contingency import contingency
from unetflow.metrics.instances import matching
from unetflow.prediction import predict_images
from unetflow.progress import log, track
from unetflow.segmentation import segment_image
from unetflow.settings.prediction import PredictSettings, SegmentSettings
from unetflow.store import NOT_ANNOTATED, Image, open_image, remove, replacing, write_json

TRIED = (*np.linspace(0.05, 0.95, 19).round(2), 0.97, 0.99)
"""Networks that have learned long are nearly certain."""

Objects = tuple[NDArray[np.integer], NDArray[np.bool_]]
"""True ids (*spatial), 0 is none; where they are judged."""


def choose_seeds(
    model: Model,
    images: Sequence[Path],
    output: Path,
    predict: PredictSettings,
    segment: SegmentSettings,
    annotated_planes: Every | None = None,
    tested_planes: int | None = None,
) -> None:
    """Write the threshold of watershed's seeds with which validation images are divided best.

    They are predicted and divided as test images are, once for each threshold that is tried, from
    that of the objects up. Best is the panoptic quality, mean over the images, or over the planes
    of stacks whose objects are of one plane; of equal ones that in the middle. Objects that fill
    the picture (threshold 0) are judged within the true ones alone.

    Parameters
    ----------
    images : sequence of Path
        OME-Zarr with their labels, which count where they could teach, see `annotation.untaught`.
    output : Path
        JSON: `seed_threshold`, and `panoptic_quality` of each that was tried.

    Raises
    ------
    ValueError
        If true objects cannot be told from one another.
    """
    given = segment.threshold
    threshold = float(model.facts["threshold"] if given == "auto" else given)
    tried = [threshold, *(float(seed) for seed in TRIED if seed > threshold)]
    by_plane = model.facts["network"]["dimensions"] == 2 and segment.link_planes is None
    rows: list[tuple[float, ...]] = []
    with replacing(output) as partial:
        predictions, instances = partial / "predictions", partial / "instances"
        predict_images(model, images, predictions, predict)
        for path in track(images, "choosing seeds", len(images)):
            image = open_image(path)
            objects, judged = true_objects(image, by_plane, annotated_planes, tested_planes)
            if threshold == 0:
                judged &= objects > 0
            qualities = []
            for seed in tried:
                way = segment.model_copy(update={"seed_threshold": seed})
                segment_image(predictions / path.name, instances, model.facts, way)
                found = np.asarray(open_image(instances).array)
                planes = np.ndindex(found.shape[:-2] if by_plane else ())
                qualities.append([quality(objects[i], found[i], judged[i]) for i in planes])
            rows += zip(*qualities, strict=True)
        remove(partial)
        mean = pd.DataFrame(rows, columns=tried).mean().fillna(0)
        best = [seed for seed in tried if mean[seed] == mean.max()]
        chosen = best[len(best) // 2]
        log(f"seeds above {chosen:g}: panoptic quality {mean.max():.3f}")
        quality_of = {f"{seed:g}": round(value, 6) for seed, value in mean.items()}
        write_json(partial, {"seed_threshold": chosen, "panoptic_quality": quality_of})


def true_objects(
    image: Image, by_plane: bool, annotated_planes: Every | None, tested_planes: int | None
) -> Objects:
    """True objects of an image, and where they are judged."""
    left_out = left_out_of(image, annotated_planes, tested_planes)
    dimensions = 2 if by_plane else len(image.spatial_shape)
    everything = tuple(slice(0, extent) for extent in image.spatial_shape)
    classes, objects = (of[everything] for of in labels_of(image, dimensions, left_out))
    judged = classes != NOT_ANNOTATED
    if image.label("instances") is None and not (by_plane or judged.all()):
        raise ValueError(
            f"{image.path}: segment.seed_threshold auto must have labels/instances where only a "
            "part of a volume is annotated, since classes there show an object in pieces: got "
            "classes alone; set a number"
        )
    return objects, judged


def quality(
    true: NDArray[np.integer], found: NDArray[np.integer], judged: NDArray[np.bool_]
) -> float:
    """Panoptic quality of what is judged; NaN if there is nothing to find, and nothing found."""
    return matching(contingency(true[judged], found[judged]), 0.5)["panoptic_quality"]
