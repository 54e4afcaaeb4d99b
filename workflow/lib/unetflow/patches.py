"""The augmentation cache: patches of one image, deformed once for every epoch and fold."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow.elastic import Deformation, draw
from unetflow.geometry import Geometry
from unetflow.known_labels import labels_of
from unetflow.progress import log, track
from unetflow.resampling import resample
from unetflow.settings.training import PatchesSettings, WeightsSettings
from unetflow.store import (
    NOT_ANNOTATED,
    Image,
    create_array,
    open_image,
    replacing,
    require_space,
    write_text,
)
from unetflow.weights import sampling_of, target_and_weights

PATCHES_PER_SHARD = 32


@dataclass(frozen=True)
class Source:
    """An image that patches are cut from, with its training target.

    Attributes
    ----------
    target, weights : array of the image's spatial axes
        As the stage weights wrote them.
    geometry : Geometry
        Of the network: a patch's target has the extents of its output.
    class_counts, weight_settings
        For weights that are computed again.
    """

    image: Image
    target: Any
    weights: Any
    geometry: Geometry
    class_counts: Sequence[int]
    weight_settings: WeightsSettings

    @cached_property
    def labels(self) -> tuple[Any, Any]:
        """Classes and instances of the image, before any line divided them, where it teaches."""
        return labels_of(
            self.image, len(self.geometry), lambda index: self.target[index] == NOT_ANNOTATED
        )

    @cached_property
    def class_counts_of_planes(self) -> NDArray[np.int64]:
        """Pixels (planes, classes) of each class of the target, those not annotated left out."""
        planes = np.ndindex(self.target.shape[:-2])
        counts = [np.bincount(self.target[plane].ravel(), minlength=256) for plane in planes]
        return np.array(counts)[:, :NOT_ANNOTATED]

    def balanced_place(self, share: float, seed: list[int]) -> tuple[int, ...] | None:
        """Pixel of a class drawn evenly among those of the target; None for all but a share.

        Drawn from a generator of its own, so that deformations do not depend on it.
        """
        generator = np.random.default_rng([*seed, 1])
        if generator.random() >= share:
            return None
        counts = self.class_counts_of_planes
        if not counts.any():
            return None  # no pixel is annotated
        chosen = generator.choice(np.flatnonzero(counts.sum(axis=0)))
        until = np.cumsum(counts[:, chosen])
        rank = int(generator.integers(until[-1]))
        number = int(np.searchsorted(until, rank, side="right"))
        plane = np.unravel_index(number, self.target.shape[:-2]) if self.target.ndim > 2 else ()
        pixels = np.flatnonzero(self.target[tuple(map(int, plane))] == chosen)
        pixel = pixels[rank - (until[number - 1] if number else 0)]
        within = np.unravel_index(pixel, self.target.shape[-2:])
        return tuple(int(index) for index in (*plane, *within))

    @property
    def frame(self) -> list[int]:
        """Frame of a patch that the network does not predict, per axis."""
        return [axis.frame for axis in self.geometry]

    def truth_arrays(
        self, core: tuple[int, ...]
    ) -> list[tuple[str, str, tuple[int, ...], np.dtype[Any]]]:
        """Name, axes, extents of one patch, and type, of each array of the truth of a cache."""
        spatial = "n" + "zyx"[-len(core) :]
        return [
            ("classes", spatial, core, np.dtype(np.uint8)),
            ("weights", spatial, core, np.dtype(np.float32)),
        ]

    def truth(
        self, deformation: Deformation, settings: PatchesSettings, plane: tuple[int, ...]
    ) -> dict[str, NDArray[Any]]:
        """Return the truth of a deformed patch by the names of these arrays, see `Patch`."""
        if settings.weights == "recomputed":
            classes, weights = weighted_again(self, deformation, plane)
        else:
            core = deformation.without(self.frame)
            classes = resample(self.target, core, "nearest", plane)
            weights = resample(self.weights, core, "linear", plane)
        return {"classes": classes, "weights": weights}


class ValueSource(Source):
    """An image whose target are true values (channel, *spatial): they deform as its pixels do."""

    def truth_arrays(
        self, core: tuple[int, ...]
    ) -> list[tuple[str, str, tuple[int, ...], np.dtype[Any]]]:
        """Name, axes, extents and type of the values."""
        extents = (self.target.shape[0], *core)
        return [("target", "nc" + "zyx"[-len(core) :], extents, np.dtype(np.float32))]

    def truth(
        self, deformation: Deformation, settings: PatchesSettings, plane: tuple[int, ...]
    ) -> dict[str, NDArray[Any]]:
        """Return the values of a deformed patch, interpolated as its pixels are."""
        core = deformation.without(self.frame)
        channels = [
            resample(self.target, core, settings.interpolation, (channel, *plane))
            for channel in range(self.target.shape[0])
        ]
        return {"target": np.stack(channels).astype(np.float32)}


@dataclass(frozen=True)
class Patch:
    """A deformed patch, and what it was made from.

    Attributes
    ----------
    pixels : (channels, *tile), dtype of the image
        Integers are rounded and clipped to their range.
    truth : dict
        `classes`, uint8 (*output extents), by the nearest neighbour: no new values. `weights`,
        float32 (*output extents), by linear interpolation, which blends with the 0 of pixels that
        are not annotated over one pixel; or computed again. Of a regression instead of both
        `target`, float32 (channels, *output extents), by that of the pixels.
    seed : list of int
    centre : tuple of int
        Image coordinate that the patch's centre shows, with the plane first.
    deformation : Deformation
    """

    pixels: NDArray[Any]
    truth: dict[str, NDArray[Any]]
    seed: list[int]
    centre: tuple[int, ...]
    deformation: Deformation

    @property
    def classes(self) -> NDArray[np.uint8]:
        """Classes of a segmentation."""
        return self.truth["classes"]

    @property
    def weights(self) -> NDArray[np.float32]:
        """Their weights."""
        return self.truth["weights"]


def patch_seed(seed: int, image: str, number: int) -> list[int]:
    """Seed of one patch: from the experiment's seed, the image's name and the patch's number."""
    return [seed, zlib.crc32(image.encode()), number]


def drawn(
    shape: Sequence[int],
    dimensions: int,
    settings: PatchesSettings,
    seed: list[int],
    at: Sequence[int] | None = None,
) -> tuple[tuple[int, ...], tuple[int, ...], Deformation]:
    """Plane, centre and deformation that a seed stands for, in an image of these extents.

    Parameters
    ----------
    at : sequence of int, optional
        Plane and centre, where they are not drawn uniformly.
    """
    generator = np.random.default_rng(seed)
    place = tuple(int(generator.integers(extent)) for extent in shape)
    place = place if at is None else tuple(at)
    plane, centre = place[:-dimensions], place[-dimensions:]
    return plane, centre, draw(settings.tile_of(dimensions), centre, settings, generator)


def cut_patch(source: Source, settings: PatchesSettings, seed: list[int]) -> Patch:
    """Cut the patch that a seed stands for.

    The centre is drawn uniformly over the image, or balanced by class, see `settings.balanced`. A
    2D network's patch comes from one plane.
    """
    image, dimensions = source.image, len(source.geometry)
    at = source.balanced_place(settings.balanced, seed)
    plane, centre, deformation = drawn(image.spatial_shape, dimensions, settings, seed, at)
    channels = (
        [(channel,) for channel in range(image.array.shape[0])] if "c" in image.axes else [()]
    )
    pixels = np.stack(
        [
            resample(image.array, deformation, settings.interpolation, (*channel, *plane))
            for channel in channels
        ]
    )
    truth = source.truth(deformation, settings, plane)
    return Patch(in_range(pixels, image.array.dtype), truth, seed, (*plane, *centre), deformation)


def in_range(values: NDArray[np.floating], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values in the type of an image: integers are rounded, what overshoots is clipped."""
    limits: Any = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else np.finfo(dtype)
    low, high = float(limits.min), float(limits.max)
    if np.issubdtype(dtype, np.integer):
        values = np.rint(values.astype(np.float64))
        if int(high) > limits.max:  # no float64 is the largest of 64 bits
            high = float(np.nextafter(high, 0))
    return np.asarray(np.clip(values, low, high), dtype)


def weighted_again(
    source: Source, deformation: Deformation, plane: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Target and weights of the objects as they are after a deformation, exactly.

    Objects count as far as the patch's input shows them.
    """
    classes, instances = (
        resample(labels, deformation, "nearest", plane) for labels in source.labels
    )
    sampling, sigma = sampling_of(source.image, classes.ndim, source.weight_settings)
    target, weights = target_and_weights(
        classes, instances, source.class_counts, source.weight_settings, sampling, sigma
    )
    core = tuple(
        slice(edge, extent - edge) for edge, extent in zip(source.frame, classes.shape, strict=True)
    )
    return target[core], weights[core]


def open_source(
    image_path: Path,
    weights_path: Path,
    geometry: Geometry,
    weight_settings: WeightsSettings,
) -> Source:
    """Open an image and what the stage weights wrote for it; one of true values has its target."""
    image = open_image(image_path)
    axis_rules.check_dimensions(image.axes, len(geometry), str(image_path))
    values = image.target()
    if values is not None:
        return ValueSource(image, values.array, None, geometry, [], weight_settings)
    group = zarr.open_group(weights_path, mode="r")
    counts: Any = group.attrs["class_counts"]
    return Source(image, group["target"], group["weights"], geometry, counts, weight_settings)


def arrays_of(
    source: Source, settings: PatchesSettings
) -> list[tuple[str, str, tuple[int, ...], np.dtype[Any]]]:
    """Name, axes, extents of one patch, and type, of each array of a cache."""
    image, tile = source.image, settings.tile_of(len(source.geometry))
    core = tuple(extent - 2 * edge for extent, edge in zip(tile, source.frame, strict=True))
    spatial, channels = "zyx"[-len(tile) :], image.array.shape[0] if "c" in image.axes else 1
    return [
        ("image", "nc" + spatial, (channels, *tile), image.array.dtype),
        *source.truth_arrays(core),
    ]


def cut_patches(source: Source, output: Path, settings: PatchesSettings) -> None:
    """Write the patches of one image as a Zarr group of `image` and of their truth, see `Patch`.

    The group's attributes hold each patch's seed and centre, so that any can be made again, and
    how many pixels of each class they show, if any. A table beside it, of the same name, tells
    people, with the share of each patch that folds.
    """
    count, arrays = settings.per_image, arrays_of(source, settings)
    need = count * sum(math.prod(extents) * dtype.itemsize for _, _, extents, dtype in arrays)
    output.parent.mkdir(parents=True, exist_ok=True)
    require_space(output.parent, need, "lower patches.per_image")
    rows: list[dict[str, Any]] = []
    class_counts = np.zeros(NOT_ANNOTATED + 1, np.int64)
    with replacing(output) as partial:
        group = zarr.create_group(partial, zarr_format=3)
        shard = min(count, PATCHES_PER_SHARD)
        stored = [
            create_array(
                partial / name, axes, (count, *extents), dtype, (1, *extents), (shard, *extents)
            )
            for name, axes, extents, dtype in arrays
        ]
        for start in track(range(0, count, shard), "cutting patches", -(-count // shard)):
            seeds = [
                patch_seed(settings.seed, source.image.name, number)
                for number in range(start, min(start + shard, count))
            ]
            parts: list[list[NDArray[Any]]] = [[] for _ in stored]
            for number, seed in enumerate(seeds, start):
                patch = cut_patch(source, settings, seed)
                rows.append(described(number, source, patch))
                if "classes" in patch.truth:
                    class_counts += np.bincount(patch.classes.ravel(), minlength=len(class_counts))
                made = {"image": patch.pixels, **patch.truth}
                for part, (name, *_) in zip(parts, arrays, strict=True):
                    part.append(made[name])
            for array, part in zip(stored, parts, strict=True):
                array[start : start + len(seeds)] = np.stack(part)
        group.attrs.update(
            {
                "source": source.image.name,
                "seeds": [row["seed"] for row in rows],
                "centres": [row["centre"] for row in rows],
                "class_counts": class_counts[:NOT_ANNOTATED].tolist(),
            }
        )
        write_text(
            output.with_suffix(".tsv"), str(pd.DataFrame(rows).to_csv(sep="\t", index=False))
        )
    folded = [row["folded"] for row in rows if row["folded"] > 0]
    if folded:
        log(
            f"warning: {len(folded)} of {count} deformations fold, at most {max(folded):.1%} of a "
            "patch; lower patches.elastic_sigma or widen the grid"
        )


def described(number: int, source: Source, patch: Patch) -> dict[str, Any]:
    """Row of a patch in the table."""
    return {
        "image": source.image.name,
        "patch": number,
        "seed": patch.seed,
        "centre": list(patch.centre),
        "folded": round(patch.deformation.folded(), 4),
    }
