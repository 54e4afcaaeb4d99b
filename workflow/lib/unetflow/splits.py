"""Who trains, validates and tests, in each fold and for the final model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from unetflow.settings import SplitSettings

Images = Sequence[dict[str, Any]]
"""Entries of a dataset's index: image, group, frame, annotated."""


def split(images: Images, settings: SplitSettings) -> dict[str, dict[str, str]]:
    """Part of each image ("train", "validate" or "test") in fold0, fold1, ... and final.

    In fold f the test part is f, the validation part the next one, and the rest trains. `final`
    trains on every annotated image, and its test part are the images without annotation.

    Raises
    ------
    ValueError
        If there are fewer groups, frames or images than folds; the message names the remedy.
    """
    annotated = [image for image in images if image["annotated"]]
    if not annotated:
        raise ValueError("a dataset must have annotated images: got none; check the mask pattern")
    fold_of = assign(annotated, settings)
    parts: dict[str, dict[str, str]] = {}
    for fold in range(settings.folds):
        following = (fold + 1) % settings.folds
        names = {fold: "test", following: "validate"}
        parts[f"fold{fold}"] = {name: names.get(of, "train") for name, of in fold_of.items()}
    parts["final"] = {image["image"]: "train" if image["annotated"] else "test" for image in images}
    return parts


def assign(images: Images, settings: SplitSettings) -> dict[str, int]:
    """Fold in which each image is tested."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for image in images:
        groups[image["group"]].append(image)
    if settings.unit == "block":
        return blocks(groups, settings.folds)
    if settings.unit == "group":
        units = [[image["image"] for image in group] for _, group in sorted(groups.items())]
        remedy = "use split.unit: block (runs of neighbouring frames or planes) or fewer folds"
    else:
        units = [[image["image"]] for image in images]
        remedy = "use fewer folds or annotate more images"
    if len(units) < settings.folds:
        raise ValueError(
            f"split.folds must be at most the number of {settings.unit}s: got {settings.folds} "
            f"folds and {len(units)}; {remedy}"
        )
    order = np.random.default_rng([settings.seed, 1]).permutation(len(units))
    # Largest first into the smallest fold, so that folds come out alike in size.
    sizes = [0] * settings.folds
    fold_of: dict[str, int] = {}
    for index in sorted(order, key=lambda index: -len(units[index])):
        fold = int(np.argmin(sizes))
        sizes[fold] += len(units[index])
        fold_of |= dict.fromkeys(units[index], fold)
    return fold_of


def blocks(groups: dict[str, list[dict[str, Any]]], folds: int) -> dict[str, int]:
    """Contiguous runs of each group's frames, as equal as can be."""
    fold_of = {}
    for name, group in groups.items():
        if len(group) < folds:
            raise ValueError(
                f"split.folds must be at most the frames of each group: got {folds} folds and "
                f"{len(group)} frames in {name}; use fewer folds or split.unit: image"
            )
        for position, image in enumerate(sorted(group, key=lambda image: int(image["frame"]))):
            fold_of[image["image"]] = position * folds // len(group)
    return fold_of
