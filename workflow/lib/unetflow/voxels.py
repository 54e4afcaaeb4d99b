"""The size of voxels: volumes resampled to another, and what a model expects of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow.orientations import Region
from unetflow.store import Image
from unetflow.volumes import positions

Places = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]
"""Along an axis, the voxels below and above each position, and the share of the latter."""

ALIKE = 0.05
"""Sizes that differ by less are the same: scales are stated in so many digits."""


def resampled(
    image: Image, voxel_size_um: Mapping[Any, float] | None, setting: str = "predict.voxel_size_um"
) -> Image:
    """Return a volume with voxels of another size, interpolated linearly as it is read.

    Its extents are those that cover the volume, rounded. For much larger voxels choose a level of
    its pyramid, which is a mean: interpolation leaves voxels out.

    Parameters
    ----------
    voxel_size_um : mapping of some of "zyx" to micrometres, or None
        None leaves the volume as it is, and so do axes that are not named.
    setting : str
        What to leave out, for the error.

    Raises
    ------
    ValueError
        If the volume does not state the size of its voxels.
    """
    spatial = axis_rules.spatial(image.axes)
    named = {axis: um for axis, um in (voxel_size_um or {}).items() if axis in spatial}
    unknown = sorted(set(named) - set(image.voxel_size_um))
    if unknown:
        raise ValueError(
            f"{image.path}: a volume must state the size of its voxels to be resampled: found none "
            f"along {', '.join(unknown)}; write it into its metadata, or leave {setting} out"
        )
    steps = steps_to(image, named)
    if all(abs(step - 1) < 1e-6 for step in steps):
        return image
    array: Any = Resampled(image, steps)
    return Image(image.path, array, image.axes, {**image.voxel_size_um, **named})


def steps_to(image: Image, voxel_size_um: Mapping[Any, float]) -> tuple[float, ...]:
    """Extents of voxels of another size in those of a volume; 1 along axes that are not named."""
    return tuple(
        voxel_size_um[axis] / image.voxel_size_um[axis] if axis in voxel_size_um else 1.0
        for axis in axis_rules.spatial(image.axes)
    )


def on_grid(
    image: Image, shape: tuple[int, ...], voxel_size_um: Mapping[str, float], nearest: bool = False
) -> Image:
    """Return an image on a grid that begins where its own does, see `Resampled`."""
    array = Resampled(image, steps_to(image, voxel_size_um), shape, nearest)
    return Image(image.path, array, image.axes, {**voxel_size_um})


def resampled_classes(labels: NDArray[np.integer], steps: Sequence[float]) -> NDArray[np.integer]:
    """Return classes with voxels of another size: where each is interpolated, the largest.

    Of two as large it is the smaller number. Thin classes keep their volume better than by the
    nearest voxel, and edges are smooth.
    """
    most, result = None, np.zeros((), labels.dtype)
    for value in np.unique(labels):
        part = Image("", (labels == value).astype(np.float32), "zyx"[-labels.ndim :], {})
        share = Resampled(part, tuple(steps))[...]
        if most is None:
            most, result = share, np.full(share.shape, value, labels.dtype)
            continue
        result[share > most] = value
        most = np.maximum(share, most)
    return result


def resampled_ids(labels: NDArray[np.integer], steps: Sequence[float]) -> NDArray[np.integer]:
    """Return ids with voxels of another size, each that of the nearest voxel."""
    of = Image("", labels, "zyx"[-labels.ndim :], {})
    return np.asarray(Resampled(of, tuple(steps), nearest=True)[...])


@dataclass(frozen=True)
class Resampled:
    """A volume between whose voxels is interpolated linearly, read when indexed.

    A voxel is the same whatever region it is read in. It is indexed with an int or a slice for each
    axis; channels stay as they are.

    Attributes
    ----------
    steps : tuple of float
        Extent of a voxel along each spatial axis, in those of the volume.
    extents : tuple of int, optional
        Voxels along each spatial axis, where they are others than those that cover the volume.
    nearest : bool
        Each voxel is the nearest one instead, as ids take it.
    """

    image: Image
    steps: tuple[float, ...]
    extents: tuple[int, ...] | None = None
    nearest: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a voxel."""
        return np.dtype(self.image.array.dtype if self.nearest else np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents along all axes."""
        spatial = self.image.spatial_shape
        lead = tuple(self.image.array.shape[: -len(spatial)])
        if self.extents is not None:
            return lead + self.extents
        sizes = zip(spatial, self.steps, strict=True)
        return lead + tuple(max(1, round(extent / step)) for extent, step in sizes)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Voxels (channel, *region)."""
        wanted = positions(index, self.shape)
        spatial = wanted[-len(self.steps) :]
        places = [
            self.places(axis, [part] if isinstance(part, int) else list(part))
            for axis, part in enumerate(spatial)
        ]
        pixels = self.image.region(span(places)).astype(self.dtype, copy=False)
        for axis, (below, above, share) in enumerate(places, start=1):
            first = np.take(pixels, below - below[0], axis)
            second = np.take(pixels, above - below[0], axis)
            share = share.reshape([-1 if i == axis else 1 for i in range(pixels.ndim)])
            if self.nearest:
                pixels = np.where(share > 0.5, second, first)
            else:
                pixels = first * (1 - share) + second * share
        drop = tuple(0 if isinstance(part, int) else slice(None) for part in spatial)
        pixels = pixels[(slice(None), *drop)]
        if "c" not in self.image.axes:
            return np.asarray(pixels[0])
        channels = wanted[0]
        return np.asarray(pixels[channels if isinstance(channels, int) else list(channels)])

    def source(self, region: Region) -> Region:
        """Part of the volume that a region is interpolated from."""
        along = (list(range(part.start, part.stop)) for part in region)
        return span([self.places(axis, part) for axis, part in enumerate(along)])

    def places(self, axis: int, along: list[int]) -> Places:
        """Voxels below and above each position along an axis, and the share of the latter."""
        last = self.image.spatial_shape[axis] - 1
        # The first voxels of both begin at the same place.
        centre = (np.asarray(along) + 0.5) * self.steps[axis] - 0.5
        centre = np.clip(centre, 0, last)
        below = np.floor(centre).astype(np.intp)
        return below, np.minimum(below + 1, last), (centre - below).astype(np.float32)


def span(places: Sequence[Places]) -> Region:
    """Part of a volume in which all of these voxels lie."""
    return tuple(slice(int(below[0]), int(above[-1]) + 1) for below, above, _ in places)


def require_size(image: Image, learned_um: Mapping[str, float], dimensions: int) -> None:
    """Refuse a volume whose voxels are of another size than those a model has learned from.

    Parameters
    ----------
    learned_um : mapping
        As far as it is known; so the volume's.
    dimensions : int
        Axes that the network sees.

    Raises
    ------
    ValueError
        Naming both sizes.
    """
    seen = axis_rules.spatial(image.axes)[-dimensions:]
    known = [axis for axis in seen if axis in learned_um and axis in image.voxel_size_um]
    if any(abs(image.voxel_size_um[axis] / learned_um[axis] - 1) > ALIKE for axis in known):
        found, learned = (
            " x ".join(f"{sizes[axis]:.4g}" for axis in known)
            for sizes in (image.voxel_size_um, learned_um)
        )
        raise ValueError(
            f"{image.path}: voxels must be as large as those that the model learned from, {learned}"
            f" um ({', '.join(known)}): got {found} um; set predict.voxel_size_um to resample, or "
            "choose a level of the volume"
        )
