"""Layouts of medical volumes: cases of several modalities, and the Medical Segmentation Decathlon.

References
----------
.. [1] Antonelli et al. 2022, DOI 10.1038/s41467-022-30695-9: the Decathlon and its dataset.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unetflow.datasets.files import Mask, Pixels, class_map
from unetflow.datasets.patterns import matching, safe
from unetflow.datasets.source import Grid, Labelled, Source
from unetflow.formats.medical import open_source, placement_of
from unetflow.settings.datasets import DecathlonLayout, MedicalLayout
from unetflow.store import NOT_ANNOTATED
from unetflow.volumes import Selection

ALIKE_MM = 0.1
"""Grids of a case whose corners are less apart are the same: headers round."""

Found = dict[tuple[str, str], Path]
"""Files by group and case."""


def cases(layout: MedicalLayout, root: Path) -> Iterator[Source]:
    """Cases of one file per modality.

    Raises
    ------
    ValueError
        If a modality or, where it is required, a mask is missing.
    """
    channels = layout.channels or ("",)
    of_channel = [found(root, layout.images.replace("{channel}", name)) for name in channels]
    masks = found(root, layout.masks) if layout.masks else {}
    for position, case in enumerate(sorted(set().union(*of_channel))):
        for name, files in zip(channels, of_channel, strict=True):
            if case not in files:
                present = next(files[case] for files in of_channel if case in files)
                raise ValueError(
                    f"{present}: a case must have every modality: found no {name} of "
                    f"{case[1]}; add the file, or remove the case"
                )
        mask = masks.get(case)
        if layout.masks and layout.require_masks and mask is None:
            raise ValueError(
                f"{of_channel[0][case]}: a case must have a mask that matches {layout.masks!r}: "
                "found none; add it, or set layout.require_masks: false"
            )
        group, image = safe(case[0] or case[1]), safe(case[1])
        name = f"{group}_{image}" if case[0] else image
        paths = [files[case] for files in of_channel]
        yield source_of(name, group, position, paths, mask, layout.classes)


def found(root: Path, pattern: str) -> Found:
    """Files that match a pattern, by group and case.

    Raises
    ------
    ValueError
        If two are of one name.
    """
    files: Found = {}
    for path, names in matching(root, pattern):
        case = names.get("group", ""), names["image"]
        if case in files:
            raise ValueError(
                f"{path}: a case must have one file that matches {pattern!r}: {files[case]} does "
                "too; write {group} where their folders differ, or remove one"
            )
        files[case] = path
    return files


def decathlon(layout: DecathlonLayout, root: Path) -> Iterator[Source]:
    """Cases that dataset.json lists, those with labels first."""
    path, task = read_task(root)
    classes = {name: value for value, name in enumerate(decathlon_classes(root))}
    pairs = [(entry["image"], entry["label"]) for entry in task["training"]]
    if layout.unannotated_too:
        pairs += [(image, None) for image in task.get("test", ())]
    for position, (image, label) in enumerate(pairs):
        files = [path.parent / name for name in (image, label) if name is not None]
        for file in files:
            if not file.is_file():
                raise ValueError(
                    f"{path}: every volume must be there: found no {file.relative_to(root)}; "
                    "fetch the dataset again"
                )
        name = safe(files[0].name.partition(".nii")[0])
        mask = files[1] if label is not None else None
        count = len(task.get("modality", {}))
        yield source_of(name, name, position, files[:1], mask, classes, count)


def decathlon_classes(root: Path) -> tuple[str, ...]:
    """Names of the classes of a task, by their values from 0 on.

    Raises
    ------
    ValueError
        If dataset.json is missing, or its labels are not numbered so.
    """
    path, task = read_task(root)
    labels = {int(value): name for value, name in task["labels"].items()}
    if sorted(labels) != list(range(len(labels))) or len(labels) < 2:
        raise ValueError(
            f"{path}: labels must be numbered 0, 1, ...: found {sorted(labels)}; correct it, or "
            "use layout.kind medical"
        )
    return tuple(safe(labels[value]) for value in range(len(labels)))


def read_task(root: Path) -> tuple[Path, dict[str, Any]]:
    """Return the dataset.json below a folder, and what it says.

    Raises
    ------
    ValueError
        If there is not exactly one, or it lists no volumes or labels.
    """
    files = sorted(root.glob("**/dataset.json"))
    if len(files) != 1:
        raise ValueError(
            f"{root}: a Decathlon task must have one dataset.json: found {len(files)}; fetch it "
            "again, or use layout.kind medical"
        )
    try:
        task = json.loads(files[0].read_text(encoding="utf-8"))
        if not (task["labels"] and all({"image", "label"} <= set(of) for of in task["training"])):
            raise KeyError("labels")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{files[0]}: must be JSON with labels, and training of image and label: "
            f"{' '.join(repr(error).split())}; fetch it again"
        ) from error
    return files[0], task


def source_of(
    name: str,
    group: str,
    position: int,
    files: Sequence[Path],
    mask: Path | None,
    classes: Mapping[str, int],
    modalities: int = 0,
) -> Source:
    """Return a case of several files, or of one that may hold several modalities."""
    several = len(files) > 1 or modalities > 1
    return Source(
        name,
        group,
        position,
        files[0],
        partial(read_case, files, mask, classes, modalities),
        axes="czyx" if several else "zyx",
        read_grid=partial(read_grid, files[0]),
    )


def read_grid(path: Path) -> Grid:
    """Return where a volume says that its voxels lie."""
    placement = placement_of(str(path))
    if placement is None:
        raise ValueError(
            f"{path}: a medical image must be a volume: got a plane; use layout.kind pairs"
        )
    return Grid(placement.voxel_size_um, placement.to_json())


def read_case(
    files: Sequence[Path], mask: Path | None, classes: Mapping[str, int], modalities: int
) -> Labelled:
    """Pixels (channel, z, y, x), or (z, y, x) of one modality, and classes of a case.

    Raises
    ------
    ValueError
        If the modalities or the mask do not lie on the same grid, if a file has other modalities
        than were stated, or if the mask is several volumes, has another value than those of the
        classes, or none of them but the background.
    """
    volumes = [read_volume(path) for path in files]
    for path in [*files[1:], *([mask] if mask else [])]:
        require_same_grid(files[0], path)
    if len(files) == 1 and volumes[0].shape[0] != max(modalities, 1):
        raise ValueError(
            f"{files[0]}: a volume must have the modalities that are stated: got "
            f"{volumes[0].shape[0]} of {max(modalities, 1)}; correct the file or the layout"
        )
    if len({volume.dtype for volume in volumes}) > 1:
        volumes = [volume.astype(np.result_type(*volumes)) for volume in volumes]
    pixels = np.concatenate(volumes)
    pixels = pixels if len(files) > 1 or modalities > 1 else pixels[0]
    if mask is None:
        return pixels, None, None
    values = read_volume(mask)
    if len(values) > 1:
        raise ValueError(
            f"{mask}: a mask must be one volume: got {len(values)}; save the one of classes by "
            "itself"
        )
    labels = whole_numbers(values[0], mask)
    require_a_class(classes, labels, mask)
    return pixels, class_map(classes, labels, mask), None


def read_volume(path: Path) -> Pixels:
    """Pixels (channel, z, y, x) of a file along the patient's axes; its times are channels."""
    source = open_source(str(path), "", "")
    axes = source.axes.replace("t", "c")
    if axes.count("c") > 1 or "z" not in axes:
        raise ValueError(
            f"{path}: a medical image must be a volume of some modalities: got axes "
            f"{source.axes!r}; save each volume by itself"
        )
    count = source.array.shape[axes.index("c")] if "c" in axes else 1
    pixels = Selection(source.array, axes, 0, range(count))[...]
    return pixels if "c" in axes else pixels[np.newaxis]


def whole_numbers(values: Pixels, path: Path) -> Mask:
    """Return a mask's values, which some tools store as real numbers, as integers."""
    rounded = np.rint(values)
    if not np.array_equal(rounded, values):
        raise ValueError(
            f"{path}: mask values must be whole numbers: found fractions; save the labels again "
            "without interpolation"
        )
    return rounded.astype(np.int64)


def require_a_class(classes: Mapping[str, int], labels: Mask, path: Path) -> None:
    """Refuse a mask in black and white whose white is no class: it would be not annotated."""
    if len(classes) < 2 or NOT_ANNOTATED in classes.values():
        return
    (background, value), (other, _) = [*classes.items()][:2]
    white = labels == NOT_ANNOTATED
    if white.any() and (white | (labels == value)).all():
        raise ValueError(
            f"{path}: a mask must have a class beside {background}: found {value} and "
            f"{NOT_ANNOTATED} alone, and {NOT_ANNOTATED} is what is not annotated; if it is a "
            f"class, name it in layout.classes of kind medical, such as {other}: {NOT_ANNOTATED}; "
            "else remove the mask and set layout.require_masks: false"
        )


def require_same_grid(first: Path, other: Path) -> None:
    """Refuse two files of a case whose voxels do not lie at the same places.

    They are compared along the patient's axes: a mask whose axes are flipped is turned.
    """
    here, there = placement_of(str(first)), placement_of(str(other))
    if here is None or there is None:
        return  # refused by `read_volume`
    if here.spatial_shape != there.spatial_shape:
        raise ValueError(
            f"{other}: volumes of a case must have the same extents: got {there.spatial_shape} "
            f"(z, y, x), {first.name} has {here.spatial_shape}; resample it to the other's grid"
        )
    apart = np.abs(here.corners - there.corners).max()
    if apart > ALIKE_MM:
        raise ValueError(
            f"{other}: volumes of a case must lie in the same place: {apart:.3g} mm from "
            f"{first.name}; resample it to the other's grid"
        )
