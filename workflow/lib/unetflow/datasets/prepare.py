"""A dataset's pictures, checked and written as OME-Zarr images with labels, and their index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow.datasets.files import Mask, Pixels, require_known
from unetflow.datasets.layouts import class_names, lineages, sources, unique
from unetflow.datasets.source import Grid, Labelled, Source
from unetflow.progress import track
from unetflow.separation import separate
from unetflow.settings.datasets import DatasetSettings
from unetflow.store import (
    SOURCE,
    TARGET,
    Image,
    add_label,
    create_image,
    replacing,
    validate,
    write_json,
)
from unetflow.voxels import resampled, resampled_classes, resampled_ids, steps_to


def prepare(dataset: DatasetSettings, root: Path, images: Path, index: Path, key: str) -> None:
    """Write every picture of a dataset below `images`, and the index.

    Parameters
    ----------
    root : Path
        Where the dataset's files lie.
    images : Path
        Folder of OME-Zarr images, complete or absent: labels/classes is uint8 with 255 = not
        annotated, labels/instances uint32 with 0 = background, labels/markers uint32 with the
        labels of true tracks, where known; where voxels are resampled labels/source_classes and
        labels/source_instances are those that were drawn; target is an image of float32 (channel,
        *spatial) where the truth are values.
    index : Path
        JSON: `key`, `class_names`, `target_names` (channels of true values), `class_counts` (pixels
        per class, all images together),
        `separated_class_counts` (the same once a line divides touching objects), `lineages` (of
        the groups whose true tracks are known, see `lineage`) and `images`, a list of name,
        group, frame, axes, shape, dtype, voxel size, annotated, sha256.
    key : str
        Says what the index was made from.

    Raises
    ------
    ValueError
        One line that names the file, for a picture or mask that cannot be used.
    """
    found = unique(sources(dataset, root))
    names = class_names(dataset, root)
    tracks = lineages(dataset, root)
    entries = []
    counts = np.zeros((2, len(names)), np.int64)
    with replacing(images) as partial:
        partial.mkdir()
        for source in track(found, "preparing images", len(found)):
            entry, counted = write_source(source, dataset, len(names), partial)
            entries.append(entry)
            counts += counted
        validate(partial / entries[0]["image"])
    write_json(
        index,
        {
            "key": key,
            "class_names": names,
            "target_names": dataset.target_names,
            "class_counts": counts[0].tolist(),
            "separated_class_counts": counts[1].tolist(),
            "lineages": {group: lineage.tolist() for group, lineage in tracks.items()},
            "images": entries,
        },
    )


def write_source(
    source: Source, dataset: DatasetSettings, classes_known: int, images: Path
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Write one picture; return its entry in the index, and its pixels per class (2, classes).

    First as they are annotated, then with the line between touching objects as background.
    """
    pixels, classes, instances = checked(source, *source.read())
    require_known(source.file, pixels)
    markers = None if source.read_markers is None else source.read_markers()
    axes = source.axes or "zyx"[-pixels.ndim :]
    spatial = axis_rules.spatial(axes)
    target = None if source.read_target is None else source.read_target()
    if markers is not None:
        check_mask(source, markers, pixels.shape)
    if target is not None:
        check_target(source, target, pixels.shape[axes.count("c") :], dataset.target_names)
    grid = Grid({}, {}) if source.read_grid is None else source.read_grid()
    stated = dataset.voxel_size_um | grid.voxel_size_um
    size = {axis: um for axis, um in stated.items() if axis in spatial}
    drawn: dict[str, Mask | None] = {}
    drawn_size = size
    if dataset.resample_um is not None:
        drawn = {SOURCE + "classes": classes, SOURCE + "instances": instances}
        image = Image(source.file, pixels, axes, size)
        finer = resampled(image, dataset.resample_um, "dataset.resample_um")
        steps = steps_to(image, dataset.resample_um)
        pixels, size = in_type(finer.array[...], pixels.dtype), finer.voxel_size_um
        classes = None if classes is None else resampled_classes(classes, steps)
        instances = None if instances is None else resampled_ids(instances, steps)
        markers = None if markers is None else resampled_ids(markers, steps)
        if target is not None:
            true = replace(image, array=target, axes="c" + spatial)
            target = resampled(true, dataset.resample_um, "dataset.resample_um").array[...]
    path = images / source.name
    attributes = {"placement": grid.placement} if grid.placement else {}
    stored = create_image(path, axes, pixels.shape, pixels.dtype, size, attributes=attributes)
    stored[...] = pixels
    counts = np.zeros((2, classes_known), np.int64)
    if classes is not None:
        divided = classes if instances is None else separate(classes.astype(np.uint8), instances)
        for which, labels in enumerate((classes, divided)):
            counts[which] = np.bincount(labels.ravel(), minlength=256)[: counts.shape[1]]
    prepared = {"classes": classes, "instances": instances, "markers": markers}
    for masks, of in ((prepared, size), (drawn, drawn_size)):
        for name, mask in masks.items():
            if mask is not None:
                dtype = np.uint8 if name.endswith("classes") else np.uint32
                add_label(path, name, spatial, mask.astype(dtype), of)
    if target is not None:
        values = np.asarray(target, np.float32)
        create_image(path / TARGET, "c" + spatial, values.shape, np.float32, size)[...] = values
    every = (pixels, classes, instances, markers, target, *drawn.values())
    parts = [part for part in every if part is not None]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
    entry = {
        "image": source.name,
        "group": source.group,
        "frame": source.frame,
        "axes": axes,
        "shape": pixels.shape,
        "dtype": str(pixels.dtype),
        "voxel_size_um": size,
        "annotated": classes is not None or target is not None,
        "sha256": digest.hexdigest(),
    }
    return entry, counts


def in_type(values: Pixels, dtype: np.dtype[Any]) -> Pixels:
    """Return interpolated values in the type of those that they lie between."""
    return (np.rint(values) if dtype.kind in "iu" else values).astype(dtype)


def checked(
    source: Source, pixels: Pixels, classes: Mask | None, instances: Mask | None
) -> Labelled:
    """Return the parts of a picture, with classes made from instances where there are none.

    Raises
    ------
    ValueError
        For a picture that is not 2D or 3D, not finite or constant; for a mask of another shape,
        with fractions, negative ids or ids above 2³² - 1.
    """
    file, name = source.file, source.name
    if not source.axes and pixels.ndim not in (2, 3):
        raise ValueError(
            f"{file}: an image must be a plane or a volume: {name} has shape {pixels.shape}; "
            "split channels and frames into files, or choose layout.channel"
        )
    if not np.isfinite(pixels).all():
        raise ValueError(
            f"{file}: grey values must be finite: {name} has NaN or infinite ones; "
            "repair or remove it"
        )
    for channel in pixels if "c" in source.axes else pixels[np.newaxis]:
        if channel.min() == channel.max():
            raise ValueError(
                f"{file}: an image must have two grey values: all of {name} are {channel.min()}; "
                "remove it"
            )
    for mask in (classes, instances):
        if mask is not None:
            check_mask(source, mask, pixels.shape[source.axes.count("c") :])
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if instances is not None and classes is None:
        classes = (instances > 0).astype(np.uint8)
    return pixels, classes, instances


def check_mask(source: Source, mask: Mask, shape: tuple[int, ...]) -> None:
    """Refuse a mask that is none of a picture of this shape, see `checked`."""
    file, name = source.file, source.name
    if mask.shape != shape:
        raise ValueError(
            f"{file}: a mask must have the shape of its image: {name} has {shape}, its mask "
            f"{mask.shape}; export the mask again"
        )
    if np.issubdtype(mask.dtype, np.floating) and not (mask == np.round(mask)).all():
        raise ValueError(
            f"{file}: mask values must be whole numbers: the mask of {name} has fractions"
        )
    if mask.min() < 0 or mask.max() > np.iinfo(np.uint32).max:
        raise ValueError(
            f"{file}: object ids must be from 0 to 4294967295: the mask of {name} has "
            f"{mask.min()} to {mask.max()}; relabel it"
        )


def check_target(
    source: Source, target: Pixels, shape: tuple[int, ...], names: Sequence[str]
) -> None:
    """Refuse true values that are none of a picture of these spatial extents.

    Raises
    ------
    ValueError
        For another shape, for other channels than are named, for NaN or infinite values.
    """
    file, name = source.file, source.name
    if target.shape[1:] != shape:
        raise ValueError(
            f"{file}: a target must have the shape of its image: {name} has {shape}, its target "
            f"{target.shape[1:]}; bring them to one grid"
        )
    if len(target) != len(names):
        raise ValueError(
            f"{file}: layout.channels must name the channels of the targets, {', '.join(names)}: "
            f"that of {name} has {len(target)}; correct it"
        )
    if not np.isfinite(target).all():
        raise ValueError(
            f"{file}: a target must be finite: that of {name} has NaN or infinite values; repair "
            "or remove it"
        )
