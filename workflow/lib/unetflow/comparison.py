"""An image's results held against its truth, block by block, in memory that does not grow with it.

The blocks' counts add up to those of the whole image exactly, so that scores do not depend on the
division into blocks. Only scores of surfaces read planes, or the volume, as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow.labelling import Grid, Index, Region
from unetflow.metrics.boundary import REACH
from unetflow.metrics.probabilities import LEVELS
from unetflow.progress import track
from unetflow.scoring import (
    Counts,
    Regions,
    count,
    most_probable,
    score_surfaces,
    scores_of,
    total,
)
from unetflow.settings.evaluation import EvaluateSettings
from unetflow.store import Image
from unetflow.truths import block_of, component_ids

Ids = Callable[[Index], NDArray[np.integer]]
"""True instances of a block."""


@dataclass(frozen=True)
class Comparison:
    """A truth and a result, read region by region; regions are those within the frame left out.

    Attributes
    ----------
    classes, instances : arrays, or what reads regions of them when indexed
        True ones. Without instances (None), they are the connected components of what is not
        class 0: the truth is read once more to find them.
    foreground : Image
        Probabilities of all classes but background, (classes - 1, ...).
    segmentation : Image
    class_names : sequence of str
    border : int
        Width of the frame that is left out, in pixels.
    by_plane : bool
        Planes of a stack are scored by themselves.
    block : tuple of int, or None
        Extents of blocks; None leaves them to `truths.block_of`.
    regions : mapping
        Unions of classes that are scored too.
    unit_um : float
        Unit of surface distances.
    """

    classes: Any
    instances: Any
    foreground: Image
    segmentation: Image
    class_names: Sequence[str]
    border: int = 0
    by_plane: bool = False
    block: tuple[int, ...] | None = None
    regions: Regions = field(default_factory=dict)
    unit_um: float = 1.0

    @cached_property
    def grid(self) -> Grid:
        """Division into blocks, with the margin that thinning takes.

        Raises
        ------
        ValueError
            If the frame leaves no pixel.
        """
        *planes, rows, columns = self.segmentation.spatial_shape
        shape = (*planes, rows - 2 * self.border, columns - 2 * self.border)
        if min(shape) < 1:
            raise ValueError(
                f"evaluate.ignore_border must leave pixels to score: got {self.border} for a plane "
                f"of {rows} x {columns}; set it lower"
            )
        margin = (0 if self.by_plane else REACH,) * len(planes) + (REACH, REACH)
        return Grid(shape, self.block or block_of(shape, self.by_plane), margin)

    def scores(self) -> tuple[dict[str, float], NDArray[np.int64]]:
        """Scores, see `scoring.scores_of`, and the pixels of each class by their probability.

        Of planes, scores are the mean over those that have each, else NaN, and pixels are added.
        Each block is read once, labels with its margin. Memory is that of a block, and some 100
        bytes for every pair of objects that overlap.
        """
        scored, levels = [], np.zeros((len(self.class_names) - 1, 2, LEVELS), np.int64)
        for counts in self.counts():
            scored.append(scores_of(counts, self.class_names, self.regions))
            levels += counts.levels
        return mean(scored), levels

    def counts(self) -> Iterator[Counts]:
        """Counts of each plane, or of the whole."""
        blocks = self.grid.blocks
        tracked = track(blocks, "scoring blocks", len(blocks)) if len(blocks) > 1 else blocks
        with TemporaryDirectory() as folder:
            ids = self.ids(Path(folder))
            # Blocks of the same planes follow one another.
            for _, along in groupby(tracked, lambda index: index[0] if self.by_plane else 0):
                parts = [self.counts_of(index, ids) for index in along]
                yield from map(total, zip(*parts, strict=True))

    def ids(self, folder: Path) -> Ids:
        """Return what reads true instances; components are written to a folder to be read."""
        if self.instances is None:
            read = lambda region: self.read(self.classes, region)  # noqa: E731
            return component_ids(read, self.grid, self.by_plane, folder)
        return lambda index: self.read(self.instances, self.grid.core(index))

    def counts_of(self, index: Index, ids: Ids) -> list[Counts]:
        """Counts of a block: of each of its planes, or of all of it."""
        core, grown = self.grid.core(index), self.grid.grown(index)
        own = tuple(
            slice(c.start - g.start, c.stop - g.start) for c, g in zip(core, grown, strict=True)
        )
        known, found = self.read(self.classes, grown), self.read(self.segmentation.array, grown)
        true_instances, foreground = ids(index), self.probabilities(core)
        if not self.by_plane:
            return [count(known, true_instances, foreground, found, own)]
        planes = zip(known, true_instances, foreground.swapaxes(0, 1), found, strict=True)
        return [count(*plane, own[1:]) for plane in planes]

    def surfaces(self, tolerance: float, points: bool = False) -> dict[str, float]:
        """See `scoring.score_surfaces`: of planes, the mean over those that have each; else NaN.

        Planes, or the volume, are read whole, and take some 30 bytes a voxel.

        Raises
        ------
        ValueError
            If points are asked for and the size of voxels is not known.
        """
        axes, shape = axis_rules.spatial(self.segmentation.axes), self.grid.shape
        known_um = axis_rules.voxel_size(axes, self.segmentation.voxel_size_um)
        if points and not known_um:
            raise ValueError(
                "evaluate.challenge sliver07 must know the size of voxels: got an image that does "
                "not tell it; set dataset.voxel_size_um, or leave it out"
            )
        size = tuple(um / self.unit_um for um in known_um or (self.unit_um,) * len(axes))
        planes = range(shape[0]) if self.by_plane else (slice(0, shape[0]),)
        scored = []
        for first in planes:
            region = (first, *(slice(0, extent) for extent in shape[1:]))
            known = self.read(self.classes, region)
            predicted = most_probable(self.probabilities(region))
            how = size[-known.ndim :], tolerance, self.regions, points
            scored.append(score_surfaces(known, predicted, self.class_names, *how))
        return mean(scored)

    def probabilities(self, region: tuple[Any, ...]) -> NDArray[np.float32]:
        """Of the classes but background, (classes - 1, ...), in a region."""
        return np.asarray(self.foreground.array[(slice(None), *self.framed(region))])

    def framed(self, region: tuple[Any, ...]) -> tuple[Any, ...]:
        """Where a region lies in the image."""
        inside = (slice(part.start + self.border, part.stop + self.border) for part in region[-2:])
        return (*region[:-2], *inside)

    def read(self, array: Any, region: Region | tuple[Any, ...]) -> NDArray[Any]:
        """Pixels of a region."""
        return np.asarray(array[self.framed(region)])


def mean(scored: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each score over the planes that have it; NaN where none has."""
    return {str(name): float(value) for name, value in pd.DataFrame(scored).mean().items()}


def compare(
    classes: Any,
    instances: Any,
    foreground: Image,
    segmentation: Image,
    model: Mapping[str, Any],
    settings: EvaluateSettings,
) -> Comparison:
    """Comparison of true classes and instances with what a model has found."""
    stack = len(segmentation.spatial_shape) == 3 and model["network"]["dimensions"] == 2
    return Comparison(
        classes,
        instances,
        foreground,
        segmentation,
        model["class_names"],
        settings.ignore_border,
        settings.plane_by_plane and stack,
        regions=settings.numbered_regions(model["class_names"]),
        unit_um=1000.0 if settings.surface_unit == "mm" else 1.0,
    )
