"""One picture of a dataset, as layouts find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetflow.datasets.files import Mask, Pixels

Labelled = tuple[Pixels, Mask | None, Mask | None]
"""Pixels, classes and instances of a picture."""


@dataclass(frozen=True)
class Grid:
    """What a file says of the grid of its voxels.

    Attributes
    ----------
    voxel_size_um : dict
        Per spatial axis.
    placement : dict
        Where they lie in the patient, see `formats.placement`.
    """

    voxel_size_um: dict[str, float]
    placement: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """One picture of a dataset with its labels, not yet read.

    Attributes
    ----------
    name, group : str
        The image, and the sequence, stack or patient it belongs to.
    frame : int
        Position in the group.
    file : Path
        For error messages.
    read : function
        Returns pixels, classes or None, instances or None.
    read_markers : function, or None
        Returns the markers of the true tracks that are in this frame.
    axes : str
        Of the pixels, of which labels have no channel; empty: the last of zyx.
    read_grid : function, or None
        Returns what the file says of its voxels, where it does.
    read_target : function, or None
        Returns the true values (channels, *spatial), where they are the truth.
    """

    name: str
    group: str
    frame: int
    file: Path
    read: Callable[[], Labelled]
    read_markers: Callable[[], Mask] | None = None
    axes: str = ""
    read_grid: Callable[[], Grid] | None = None
    read_target: Callable[[], Pixels] | None = None
