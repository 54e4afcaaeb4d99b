"""Reading the layouts in which datasets come, to images with labels in OME-Zarr.

A layout yields `Source`s lazily; `prepare` checks and writes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label

from unetflow.datasets.files import (
    Mask,
    Pixels,
    class_map,
    grey,
    open_hdf5,
    page_count,
    read_mask,
    read_picture,
)
from unetflow.datasets.medical import cases, decathlon, decathlon_classes
from unetflow.datasets.patterns import matching, safe
from unetflow.datasets.phantom import phantom
from unetflow.datasets.source import Labelled, Source
from unetflow.datasets.synthetic import synthesize
from unetflow.datasets.values import synthetic as synthetic_values
from unetflow.datasets.values import targets
from unetflow.lineage import read_lineage
from unetflow.settings.datasets import (
    CtcLayout,
    DatasetSettings,
    DecathlonLayout,
    Hdf5Layout,
    MedicalLayout,
    PairsLayout,
    StackLayout,
    SyntheticLayout,
    TargetsLayout,
)
from unetflow.store import NOT_ANNOTATED


def sources(dataset: DatasetSettings, root: Path) -> Iterator[Source]:
    """Pictures of a dataset whose files lie below `root`, sorted by name.

    Raises
    ------
    ValueError
        If the layout finds no pictures, or a mask is missing.
    """
    layout = dataset.layout
    if isinstance(layout, StackLayout):
        return stacks(layout, root)
    if isinstance(layout, CtcLayout):
        return cell_tracking(layout, root)
    if isinstance(layout, PairsLayout):
        return pairs(layout, root)
    if isinstance(layout, TargetsLayout):
        return targets(layout, root)
    if isinstance(layout, Hdf5Layout):
        return hdf5(layout, root)
    if isinstance(layout, MedicalLayout):
        return cases(layout, root)
    if isinstance(layout, DecathlonLayout):
        return decathlon(layout, root)
    if dataset.target_names:
        return synthetic_values(layout, root)
    return synthetic(layout, root, dataset.voxel_size_um)


def class_names(dataset: DatasetSettings, root: Path) -> tuple[str, ...]:
    """Names of a dataset's classes, background first.

    Raises
    ------
    ValueError
        If its files should name them, and do not.
    """
    if isinstance(dataset.layout, DecathlonLayout):
        return decathlon_classes(root)
    return dataset.class_names


def lineages(dataset: DatasetSettings, root: Path) -> dict[str, NDArray[np.int64]]:
    """True lineage of each sequence of the challenge that has one, by its name.

    Raises
    ------
    ValueError
        If a file holds no lineage.
    """
    found = sorted(root.glob("**/[0-9][0-9]_GT/TRA/man_track.txt"))
    ctc = isinstance(dataset.layout, CtcLayout)
    return {path.parts[-3].removesuffix("_GT"): read_lineage(path) for path in found if ctc}


def stacks(layout: StackLayout, root: Path) -> Iterator[Source]:
    """Planes (or the whole) of multi-page TIFF stacks."""
    annotated = matching(root, layout.images)
    for path, names in annotated:
        masks = matching(root, layout.labels.replace("{group}", names.get("group", "")))
        yield from planes_of(path, masks[0][0], names.get("group", ""), layout)
    for path, names in matching(root, layout.unannotated) if layout.unannotated else []:
        yield from planes_of(path, None, names.get("group", ""), layout)


def planes_of(path: Path, mask: Path | None, group: str, layout: StackLayout) -> Iterator[Source]:
    """Sources of one stack."""
    group = safe(group or path.stem)
    read = partial(read_stack, path, mask, layout.classes)
    if not layout.planes_are_images:
        yield Source(group, group, 0, path, read)
        return
    count = page_count(path)
    if mask is not None and page_count(mask) != count:
        raise ValueError(
            f"{mask}: a mask stack must have the planes of its images: got {page_count(mask)}, "
            f"{path.name} has {count}; export it again"
        )
    for plane in range(count):
        yield Source(f"{group}_{plane:03d}", group, plane, path, partial(read, plane))


def read_stack(
    path: Path, mask: Path | None, classes: Mapping[str, int], plane: int | None = None
) -> Labelled:
    """Pixels and classes of a stack, or of one of its planes."""
    pixels = grey(read_picture(path, plane), None, path)
    labels = None if mask is None else class_map(classes, read_picture(mask, plane), mask)
    return pixels, labels, None


def cell_tracking(layout: CtcLayout, root: Path) -> Iterator[Source]:
    """Outlined or all frames of each sequence of the challenge; all of one without truth."""
    folders = sorted(path for path in root.glob("**/[0-9][0-9]") if path.is_dir())
    if not folders:
        raise ValueError(
            f"{root}: must hold folders such as 01 and 01_GT: found none; fetch it again"
        )
    for folder in folders:
        truth = folder.with_name(folder.name + "_GT")
        if not truth.is_dir():
            yield from frames(folder)
            continue
        outlined = list(outlined_frames(folder, truth, layout))
        numbers = {source.frame for source in outlined}
        others = frames(folder) if layout.every_frame else ()
        found = [*outlined, *(source for source in others if source.frame not in numbers)]
        yield from sorted(found, key=lambda source: source.name)


def frames(folder: Path) -> Iterator[Source]:
    """All frames of a sequence, without outlines."""
    found = sorted(folder.glob("t[0-9]*.tif"))
    if not found:
        raise ValueError(f"{folder}: must hold frames such as t000.tif: found none; fetch it again")
    for path in found:
        frame = path.stem[1:]
        read = partial(read_stack, path, None, {})
        markers = markers_of(folder, frame)
        yield Source(f"{folder.name}_{frame}", folder.name, int(frame), path, read, markers)


def markers_of(folder: Path, frame: str, plane: int | None = None) -> Callable[[], Mask] | None:
    """Return what reads the markers of the true tracks in a frame; None where there are none."""
    path = folder.with_name(folder.name + "_GT") / "TRA" / f"man_track{frame}.tif"
    return partial(read_picture, path, plane) if path.is_file() else None


def outlined_frames(folder: Path, truth: Path, layout: CtcLayout) -> Iterator[Source]:
    """Frames of a sequence that have outlines, or the planes of frames that have."""
    masks = sorted((truth / "SEG").glob("man_seg*.tif"))
    if not masks:
        raise ValueError(
            f"{truth / 'SEG'}: must hold masks such as man_seg000.tif: found none; fetch it again"
        )
    for mask in masks:
        frame, *planes = re.findall(r"\d+", mask.stem)
        pixels = folder / f"t{frame}.tif"
        if not pixels.is_file():
            raise ValueError(
                f"{pixels}: a mask must have its frame: found none for {mask.name}; fetch it again"
            )
        track = truth / "TRA" / f"man_track{frame}.tif" if layout.ignore_unlabelled else None
        if planes and layout.every_frame:
            raise ValueError(
                f"{mask}: with layout.every_frame outlines must be of whole frames: got those of a "
                "plane; leave layout.every_frame out"
            )
        plane = int(planes[0]) if planes else None
        name = "_".join([folder.name, frame, *planes])
        read = partial(read_tracked, pixels, mask, track, plane, layout.field_of_interest)
        markers = markers_of(folder, frame, plane)
        yield Source(name, folder.name, int(frame), pixels, read, markers)


def read_tracked(
    pixels: Path, mask: Path, track: Path | None, plane: int | None, frame: int
) -> Labelled:
    """Pixels, classes and instances of a frame, or of one plane of it.

    A cell that has a marker in TRA but no outline in SEG is neither cell nor background for sure:
    the surroundings of its marker, up to half the width of the outlined cells, are not annotated.
    Cells that lie wholly in the frame around the challenge's field of interest have neither.
    """
    image, instances = read_picture(pixels, plane), read_picture(mask)
    classes = (instances > 0).astype(np.uint8)
    interest = np.zeros(classes.shape, bool)
    bottom, right = (max(frame, extent - frame) for extent in classes.shape[-2:])
    interest[..., frame:bottom, frame:right] = True
    classes[~interest & (classes == 0)] = NOT_ANNOTATED
    # Outlines of another shape than their frame are refused later, by that name.
    if track is not None and track.is_file() and instances.shape == image.shape:
        markers = read_picture(track, plane)
        if markers.shape != instances.shape:
            raise ValueError(
                f"{track}: markers must have the shape of the outlines: got {markers.shape}, "
                f"{mask.name} has {instances.shape}; fetch it again"
            )
        unlabelled = (markers > 0) & ~np.isin(markers, np.unique(markers[instances > 0]))
        if unlabelled.any():
            areas = np.bincount(instances.ravel())[1:]
            reach = np.sqrt(np.mean(areas[areas > 0])) / 2 if areas.any() else 0
            near = ndimage.distance_transform_edt(~unlabelled) <= reach
            classes[near & (classes == 0)] = NOT_ANNOTATED
    return image, classes, instances


def pairs(layout: PairsLayout, root: Path) -> Iterator[Source]:
    """Pictures with their masks, one file or one per object."""
    grouped = "{group}" in layout.images and "{group}" in layout.masks
    masks_of: dict[tuple[str, str], list[Path]] = {}
    for path, names in matching(root, layout.masks):
        masks_of.setdefault((names["image"], names["group"] if grouped else ""), []).append(path)
    for position, (path, names) in enumerate(matching(root, layout.images)):
        masks = masks_of.get((names["image"], names["group"] if grouped else ""))
        if not masks:
            raise ValueError(
                f"{path}: an image must have a mask that matches {layout.masks!r}: found none; "
                "add the mask or correct the pattern"
            )
        name, group = safe(names["image"]), safe(names.get("group", "all"))
        name = name if "group" not in names else f"{group}_{name}"
        yield Source(name, group, position, path, partial(read_pair, path, masks, layout))


def read_pair(path: Path, masks: list[Path], layout: PairsLayout) -> Labelled:
    """Pixels, classes and instances of a picture."""
    pixels = grey(read_picture(path), layout.channel, path)
    if len(masks) > 1:
        instances = np.zeros(pixels.shape, np.uint32)
        for number, mask in enumerate(masks, start=1):
            pixels_of_object = read_mask(mask, pixels.shape, 0) > 0
            if pixels_of_object.shape != instances.shape:
                raise ValueError(
                    f"{mask}: a mask must have the shape of its image: got "
                    f"{pixels_of_object.shape}, {path.name} has {pixels.shape}; export it again"
                )
            instances[pixels_of_object] = number
        return pixels, None, instances
    labels = read_mask(masks[0], pixels.shape, layout.mask_channel)
    return labelled(pixels, labels, layout, masks[0])


def labelled(
    pixels: Pixels, labels: Mask, layout: PairsLayout | Hdf5Layout, file: Path
) -> Labelled:
    """Pixels with labels that are instances, their components, or classes."""
    if layout.labels_are == "instances":
        return pixels, None, labels
    if layout.labels_are == "components":
        return pixels, None, label(labels, background=0)
    return (
        pixels,
        class_map(layout.classes or {"background": 0, "foreground": 1}, labels, file),
        None,
    )


def hdf5(layout: Hdf5Layout, root: Path) -> Iterator[Source]:
    """Volumes, or their planes, of HDF5 files."""
    for path, names in matching(root, layout.files):
        name = safe(names.get("image", path.stem))
        name = name if "group" not in names else f"{safe(names['group'])}_{name}"
        with open_hdf5(path) as file:
            missing = [key for key in (layout.image, layout.labels) if key and key not in file]
            if missing:
                raise ValueError(
                    f"{path}: must hold {missing}: found {list(file)}; correct layout.image or "
                    "layout.labels"
                )
            count = file[layout.image].shape[0]
            if layout.labels and file[layout.labels].shape != file[layout.image].shape:
                raise ValueError(
                    f"{path}: a mask must have the shape of its image: {layout.image} has "
                    f"{file[layout.image].shape}, {layout.labels} has {file[layout.labels].shape}"
                )
        read = partial(read_hdf5, path, layout)
        if layout.planes_are_images:
            for plane in range(count):
                yield Source(f"{name}_{plane:03d}", name, plane, path, partial(read, plane))
        else:
            yield Source(name, safe(names.get("group", name)), 0, path, read)


def read_hdf5(path: Path, layout: Hdf5Layout, plane: int | None = None) -> Labelled:
    """Pixels and labels of a volume, or of one of its planes."""
    which = ... if plane is None else plane
    with open_hdf5(path) as file:
        pixels = file[layout.image][which]
        if layout.labels is None:
            return pixels, None, None
        return labelled(pixels, file[layout.labels][which], layout, path)


def synthetic(
    layout: SyntheticLayout, root: Path, voxel_size_um: Mapping[str, float]
) -> Iterator[Source]:
    """Stacks that are made here, whole or plane by plane."""
    for number in range(layout.stacks):
        if layout.texture == "phantom":
            size = [voxel_size_um.get(axis, 1000.0) for axis in "zyx"]
            make = partial(imagined, layout.shape, size, layout.seed + number)
            yield Source(f"phantom{number}", f"phantom{number}", 0, root, make, axes="czyx")
            continue
        pixels, instances = synthesize(layout.texture, layout.shape, layout.seed + number)
        name = f"{layout.texture}{number}"
        if len(layout.shape) == 3 and layout.planes_are_images:
            for plane in range(layout.shape[0]):
                read = partial(given, pixels[plane], instances[plane])
                yield Source(f"{name}_{plane:03d}", name, plane, root, read)
        else:
            yield Source(name, name, 0, root, partial(given, pixels, instances))


def imagined(shape: Sequence[int], voxel_size: Sequence[float], seed: int) -> Labelled:
    """Pixels and classes of a phantom."""
    return *phantom(shape, voxel_size, seed), None


def given(pixels: Pixels, instances: Mask) -> Labelled:
    """Pixels and instances that are in memory already."""
    return pixels, None, instances


def unique(found: Iterable[Source]) -> list[Source]:
    """Sources as a list, refused where two have the same name."""
    named: dict[str, Source] = {}
    for source in found:
        if source.name in named:
            raise ValueError(
                f"{source.file}: images must have different names: {named[source.name].file} is "
                f"{source.name} too; use {{group}} in the pattern"
            )
        named[source.name] = source
    return list(named.values())
