"""The order of axes, and where the spatial ones stand."""

from __future__ import annotations

from collections.abc import Sequence

ORDER = "tczyx"
SPATIAL = "zyx"


def spatial(axes: str) -> str:
    """Return the spatial axes of `axes`, in order: a subset of "zyx"."""
    return "".join(axis for axis in axes if axis in SPATIAL)


def check(axes: str, shape: Sequence[int], name: str) -> None:
    """Refuse axes that are out of order, repeated, or of another number than the shape.

    Raises
    ------
    ValueError
        Naming `name` and the rule that is broken.
    """
    if "".join(axis for axis in ORDER if axis in axes) != axes or axes[-2:] != "yx":
        raise ValueError(
            f"{name}: axes must be some of {ORDER!r} in this order and end in 'yx': got {axes!r}"
        )
    if len(axes) != len(shape):
        raise ValueError(
            f"{name}: {len(axes)} axes {axes!r} do not fit {len(shape)} extents {tuple(shape)}"
        )


def check_dimensions(axes: str, dimensions: int, name: str) -> None:
    """Refuse an image with fewer spatial axes than a network has; of more it takes planes.

    Raises
    ------
    ValueError
        Naming `name` and the rule that is broken.
    """
    if len(spatial(axes)) < dimensions:
        raise ValueError(
            f"{name}: a {dimensions}D network needs {dimensions} spatial axes: the image has "
            f"{len(spatial(axes))}; use a {len(spatial(axes))}D network"
        )


def voxel_size(axes: str, voxel_size_um: dict[str, float]) -> tuple[float, ...] | None:
    """Voxel size along the spatial axes in micrometres, or None where any of them is unknown."""
    sizes = [voxel_size_um.get(axis) for axis in spatial(axes)]
    return None if None in sizes else tuple(float(size) for size in sizes if size is not None)
