"""Labels of an image as far as they teach, where an experiment leaves some of its planes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unetflow import axes as axis_rules
from unetflow.annotation import Every, untaught
from unetflow.store import NOT_ANNOTATED, Image

LeftOut = Callable[[Any], NDArray[np.bool_]]
"""Of an index into an image's labels: what of it is not to be known, in a shape that broadcasts."""


@dataclass(frozen=True)
class Known:
    """Labels of an image, read when indexed: `otherwise` where they are left out."""

    labels: Any
    left_out: LeftOut
    otherwise: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents along all axes."""
        return tuple(self.labels.shape)

    def __getitem__(self, index: Any) -> NDArray[np.integer]:
        """Labels of a region, with a slice or a number for each axis."""
        otherwise = self.labels.dtype.type(self.otherwise)
        return np.asarray(np.where(self.left_out(index), otherwise, self.labels[index]))


def left_out_of(image: Image, annotated: Every | None, tested: int | None) -> LeftOut:
    """Return what of windows of an image, a slice for each axis, teaches nothing; see `untaught`.

    Raises
    ------
    ValueError
        If planes are annotated across an axis that the image lacks.
    """
    spatial = axis_rules.spatial(image.axes)
    unknown = set(annotated or ()) - set(spatial)
    if unknown:
        raise ValueError(
            f"{image.path}: weights.annotated_planes must be across axes of the image, {spatial}: "
            f"got {', '.join(sorted(unknown))}; leave it out"
        )
    return lambda window: untaught(window, spatial, annotated, tested)


def labels_of(
    image: Image, dimensions: int, left_out: LeftOut = lambda _: np.array(False)
) -> tuple[Any, Any]:
    """Classes and instances of an image, read when indexed, as if what is left out had none.

    Where an image has no instances they are the connected components (sharing a face) of what is
    not class 0, in each plane for a 2D network; its classes are then held in memory as a whole.

    Raises
    ------
    ValueError
        If the image is not annotated.
    """
    classes, instances = image.label("classes"), image.label("instances")
    if classes is None:
        raise ValueError(f"{image.path}: an image must be annotated: it has no labels/classes")
    known = Known(classes, left_out, NOT_ANNOTATED)
    if instances is not None:
        return known, Known(instances, left_out, 0)
    whole = known[tuple(slice(0, extent) for extent in known.shape)]
    sharing_a_face = ndimage.generate_binary_structure(whole.ndim, 1)
    if dimensions < whole.ndim:
        sharing_a_face[[0, 2]] = False
    return whole, ndimage.label((whole > 0) & (whole != NOT_ANNOTATED), sharing_a_face)[0]
