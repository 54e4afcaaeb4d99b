"""Who trains, validates and tests, in each fold and for the final model."""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from unetflow import axes as axis_rules
from unetflow.settings.training import SplitSettings

ROLES = {"fitted": ("train", "validate"), "divided": ("train", "validate", "test")}
"""What images of further parts do: "fitted" ones all of it, "divided" ones on different planes."""

Images = Sequence[dict[str, Any]]
"""Entries of a dataset's index: image, group, frame, annotated."""


def split(images: Images, settings: SplitSettings) -> dict[str, dict[str, str]]:
    """Part of each image ("train", "validate", "test" or "track") in fold0, fold1, ... and final.

    In fold f the test part is f, the validation part the next one, and the rest trains; of two
    folds, the last fifth of the images that are not tested validates. What is not annotated and was
    held out with the test part, see `followers`, is in the part "track". `final` trains on every
    annotated image, and its test part are the images without annotation.

    Where training images validate, they are in the part "fitted". With `settings.tested_planes` a
    fold has only the images that it would test, in the part "divided": it trains and validates on
    others of their planes.

    Raises
    ------
    ValueError
        If there are fewer groups, frames or images than folds, one image to train and validate on,
        or planes to be tested of an image that is one; the message names the remedy.
    """
    annotated = [image for image in images if image["annotated"]]
    if not annotated:
        raise ValueError("a dataset must have annotated images: got none; check the mask pattern")
    fold_of = assign(annotated, settings)
    if settings.tested_planes is not None:
        check_stacks(annotated)
    parts: dict[str, dict[str, str]] = {}
    for fold in range(settings.folds):
        if settings.tested_planes is not None:
            parts[f"fold{fold}"] = {name: "divided" for name, of in fold_of.items() if of == fold}
            continue
        fitted = settings.validate_on == "training"
        names = {(fold + 1) % settings.folds: "validate", fold: "test"}
        if fitted:
            names = dict.fromkeys(range(settings.folds), "fitted") | {fold: "test"}
        part = {name: names.get(of, "train") for name, of in fold_of.items()}
        if settings.folds == 2 and not fitted:
            part |= dict.fromkeys(all_but_the_last_fifth(annotated, part), "train")
        tracked = [name for name, of in followers(images, fold_of, settings).items() if of == fold]
        parts[f"fold{fold}"] = part | dict.fromkeys(tracked, "track")
    parts["final"] = {image["image"]: "train" if image["annotated"] else "test" for image in images}
    return parts


def check_stacks(images: Images) -> None:
    """Refuse images that have no planes to be tested."""
    for image in images:
        if len(axis_rules.spatial(image["axes"])) < 3:
            raise ValueError(
                f"split.tested_planes must be of stacks: got {image['image']} of axes "
                f"{image['axes']}; leave it out and use split.unit: block"
            )


def images_of(part: Mapping[str, str], name: str) -> list[str]:
    """Images that train, validate or test in a split, with all of their planes or some."""
    return [image for image, of in part.items() if name in ROLES.get(of, (of,))]


def all_but_the_last_fifth(images: Images, part: Mapping[str, str]) -> list[str]:
    """Images of the part "validate" that train where no other part is left to."""
    rest = [image for image in in_order(images) if part[image["image"]] == "validate"]
    if len(rest) < 2:
        raise ValueError(
            f"split.folds 2 must leave two images to train and validate on: got {len(rest)}; "
            "annotate more images, or set split.validate_on: training"
        )
    return [image["image"] for image in rest[: -max(1, len(rest) // 5)]]


def followers(
    images: Images, fold_of: Mapping[str, int], settings: SplitSettings
) -> dict[str, int]:
    """Fold in which each frame without annotation is held out with its annotated neighbours.

    It goes with the annotated frame of its group before it, or the first one, so that runs of
    frames that are held out together have no gaps. None where images stand alone.
    """
    if settings.unit == "image":
        return {}
    found: dict[str, int] = {}
    for group in by_group(images).values():
        known = [image for image in in_order(group) if image["image"] in fold_of]
        frames = [int(image["frame"]) for image in known]
        for image in group:
            if known and image["image"] not in fold_of:
                before = max(bisect(frames, int(image["frame"])) - 1, 0)
                found[image["image"]] = fold_of[known[before]["image"]]
    return found


def by_group(images: Images) -> dict[str, list[dict[str, Any]]]:
    """Images of each group."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for image in images:
        groups[image["group"]].append(image)
    return groups


def in_order(images: Images) -> list[dict[str, Any]]:
    """Sort images by group and frame."""
    return sorted(images, key=lambda image: (image["group"], int(image["frame"])))


def to_predict(images: Images, part: Mapping[str, str], track: bool) -> list[str]:
    """Images that the network of a split predicts, in the order of the index.

    Those of the part "test"; to track, also those of the part "track", and all of a group in which
    images without annotation are tested, as `final` does.
    """
    chosen = set(images_of(part, "test"))
    tested = [image for image in images if image["image"] in chosen]
    names = {image["image"] for image in tested}
    if track:
        whole = {image["group"] for image in tested if not image["annotated"]}
        names |= {name for name, of in part.items() if of == "track"}
        names |= {image["image"] for image in images if image["group"] in whole}
    return [image["image"] for image in images if image["image"] in names]


def sequences(images: Images, names: Sequence[str]) -> dict[str, dict[int, str]]:
    """Frame numbers and names of the named images, for each group, in the order of frames.

    Raises
    ------
    ValueError
        If frames of a group do not follow each other without gaps.
    """
    chosen = set(names)
    groups = by_group([image for image in in_order(images) if image["image"] in chosen])
    for name, group in groups.items():
        frames = [int(image["frame"]) for image in group]
        for frame, following in pairwise(frames):
            if following != frame + 1:
                raise ValueError(
                    f"frames to be tracked must follow each other, one image each: in {name} got "
                    f"{following} after {frame}; use split.unit: group or block, and all frames of "
                    "the dataset (layout.every_frame)"
                )
    return {
        name: {int(image["frame"]): image["image"] for image in group}
        for name, group in groups.items()
    }


def assign(images: Images, settings: SplitSettings) -> dict[str, int]:
    """Fold in which each image is tested."""
    groups = by_group(images)
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
