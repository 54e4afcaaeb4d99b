"""Pictures whose truth are values: files in pairs, and pictures that are made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import loadmat

from unetflow.datasets.files import Pixels, read_picture, require_known
from unetflow.datasets.fluorescence import fluorescence
from unetflow.datasets.landscape import landscape
from unetflow.datasets.medical import require_same_grid
from unetflow.datasets.patterns import matching, safe
from unetflow.datasets.source import Grid, Labelled, Source
from unetflow.formats.medical import placement_of
from unetflow.settings.datasets import SyntheticLayout, TargetsLayout
from unetflow.volumes import is_medical, open_volume

PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
MATLAB = ".mat"
HDF5_MARK = b"MATLAB 7.3"
"""How a .mat file begins that is HDF5."""


def targets(layout: TargetsLayout, root: Path) -> Iterator[Source]:
    """Pictures with the files of their true values."""
    grouped = "{group}" in layout.images and "{group}" in layout.targets

    def key(names: dict[str, str]) -> tuple[str, str]:
        return names["image"], names["group"] if grouped else ""

    target_of = {key(names): path for path, names in matching(root, layout.targets)}
    for position, (path, names) in enumerate(matching(root, layout.images)):
        target = target_of.get(key(names))
        if target is None:
            raise ValueError(
                f"{path}: an image must have a target that matches {layout.targets!r}: found none; "
                "add it or correct the pattern"
            )
        name, group = safe(names["image"]), safe(names.get("group", "all"))
        name = name if "group" not in names else f"{group}_{name}"
        axes, pixels, grid = open_values(path, layout.image_key, "layout.image_key")
        _, values, _ = open_values(target, layout.target_key, "layout.target_key")
        if is_medical(str(path)) and is_medical(str(target)):
            require_same_grid(path, target)
        yield Source(
            name,
            group,
            position,
            path,
            partial(without_labels, pixels),
            axes=axes,
            read_grid=grid,
            read_target=partial(with_channels, values, target),
        )


def without_labels(read: Callable[[], tuple[str, Pixels]]) -> Labelled:
    """Pixels of a picture that has neither classes nor instances."""
    return read()[1], None, None


def with_channels(read: Callable[[], tuple[str, Pixels]], path: Path) -> Pixels:
    """Values (channels, *spatial) of a file, which may have one channel without an axis."""
    axes, values = read()
    require_known(path, values)
    return values if "c" in axes else values[np.newaxis]


def open_values(
    path: Path, key: str | None, setting: str
) -> tuple[str, Callable[[], tuple[str, Pixels]], Callable[[], Grid] | None]:
    """Return the axes of a file, some of "czyx", what reads these and its pixels, and its grid.

    Raises
    ------
    ValueError
        If the file cannot be read, or is one of MATLAB without the array that is asked for.
    """
    if path.suffix.lower() == MATLAB:
        read = partial(read_matlab, path, key, setting)
    elif path.suffix.lower() in PICTURES:
        read = partial(channels_first, read_picture, path)
    else:
        image = open_volume(path)
        placement = placement_of(str(path)) if is_medical(str(path)) else None
        facts = {} if placement is None else placement.to_json()
        grid = partial(Grid, image.voxel_size_um, facts)
        return image.axes, lambda: (image.axes, np.asarray(image.array[...])), grid
    return read()[0], read, None


def channels_first(read: Callable[[Path], Pixels], path: Path) -> tuple[str, Pixels]:
    """Axes and pixels of (rows, columns) or (rows, columns, channels)."""
    pixels = read(path)
    if pixels.ndim == 2:
        return "yx", pixels
    if pixels.ndim == 3:
        return "cyx", np.moveaxis(pixels, -1, 0)
    raise ValueError(
        f"{path}: a picture must be (rows, columns) or (rows, columns, channels): got "
        f"{pixels.shape}; write each picture into a file"
    )


def read_matlab(path: Path, key: str | None, setting: str) -> tuple[str, Pixels]:
    """Axes and pixels of an array of a MATLAB file."""
    arrays = matlab_arrays(path)
    if key is None and len(arrays) == 1:
        key = next(iter(arrays))
    if key is None or key not in arrays:
        raise ValueError(
            f"{path}: {setting} must name one of its arrays, {', '.join(arrays) or 'none'}: got "
            f"{key}; correct it"
        )
    return channels_first(lambda _: arrays[str(key)], path)


def matlab_arrays(path: Path) -> dict[str, Any]:
    """Arrays of a MATLAB file of any version, by their names."""
    try:
        with path.open("rb") as file:
            is_hdf5 = file.read(len(HDF5_MARK)) == HDF5_MARK
        if is_hdf5:  # which stores the first axis of MATLAB last
            with h5py.File(path) as content:
                found = {name: of[...].T for name, of in content.items() if hasattr(of, "shape")}
        else:
            found = loadmat(path)
    except Exception as error:  # decoders raise whatever they like for a broken file
        raise ValueError(
            f"{path}: must be a readable MATLAB file: {error}; copy it again"
        ) from error
    return {
        name: of
        for name, of in found.items()
        if isinstance(of, np.ndarray) and of.dtype.kind in "buif" and of.ndim >= 2
    }


def synthetic(layout: SyntheticLayout, root: Path) -> Iterator[Source]:
    """Pictures of a texture with true values."""
    for number in range(layout.stacks):
        name, seed = f"{layout.texture}{number}", layout.seed + number
        if layout.texture == "multispectral":
            made = landscape((layout.shape[0], layout.shape[1]), seed)
            yield made_here(name, name, 0, root, *made, axes="cyx")
            continue
        noisy, clean = fluorescence(layout.shape, seed)
        if len(layout.shape) == 3 and layout.planes_are_images:
            for plane, pair in enumerate(zip(noisy, clean, strict=True)):
                yield made_here(f"{name}_{plane:03d}", name, plane, root, pair[0], pair[1][None])
        else:
            yield made_here(name, name, 0, root, noisy, clean[None])


def made_here(
    name: str, group: str, frame: int, root: Path, pixels: Pixels, target: Pixels, axes: str = ""
) -> Source:
    """Return the source of a picture in memory."""
    read = partial(given, pixels)
    return Source(name, group, frame, root, read, axes=axes, read_target=lambda: target)


def given(pixels: Pixels) -> Labelled:
    """Pixels that are in memory already."""
    return pixels, None, None
