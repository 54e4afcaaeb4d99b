"""A picture of some patches of the cache, for the eye: what was deformed, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from unetflow.patches import drawn
from unetflow.settings.training import PatchesSettings
from unetflow.store import NOT_ANNOTATED, open_image, replacing

SHOWN = 6
GRID = 32  # pixels of the image between two lines


def draw_sheet(image: Path, patches: Path, output: Path, settings: PatchesSettings) -> None:
    """Write a PNG with a column for each of the first patches, their middle plane if 3D.

    Rows: the pixels, with the lines of a square grid of the image as the deformation bends them
    and the frame that the network predicts; the training target, of a regression its first
    channel; the weights, where there are some.
    """
    group: Any = zarr.open_group(patches, mode="r")
    pixels, values = group["image"], "target" in group
    targets = group["target"][:, 0] if values else group["classes"]
    shape, count = open_image(image).spatial_shape, min(SHOWN, pixels.shape[0])
    titles = ("image, grid bent", "target", "weights")[: 2 if values else 3]
    figure = Figure(figsize=(3 * count, 3 * len(titles)))
    axes = figure.subplots(len(titles), count, squeeze=False)
    for number in range(count):
        dimensions = pixels.ndim - 2
        seed, centre = (group.attrs[name][number] for name in ("seeds", "centres"))
        *_, deformation = drawn(shape, dimensions, settings, seed, centre)
        middle = tuple(extent // 2 for extent in deformation.shape[:-2])
        core = tuple(extent // 2 for extent in targets.shape[1:-2])
        top, middle_row, *rest = axes[:, number]
        top.imshow(np.asarray(pixels[(number, 0, *middle)]), cmap="gray")
        for coordinate in deformation.points()[-2:]:
            along = coordinate[middle]
            first = np.ceil(along.min() / GRID) * GRID
            levels = np.arange(first, along.max(), GRID)
            if len(levels):
                top.contour(along, levels, colors="tab:cyan", linewidths=0.6)
        (rows, columns), (high, wide) = deformation.shape[-2:], targets.shape[-2:]
        corner = ((columns - wide) / 2 - 0.5, (rows - high) / 2 - 0.5)
        top.add_patch(Rectangle(corner, wide, high, fill=False, color="tab:orange"))
        top.set_title(f"patch {number}", fontsize=9)
        target = np.asarray(targets[(number, *core)]).astype(float)
        if values:
            middle_row.imshow(target, cmap="gray")
            continue
        target[target == NOT_ANNOTATED] = np.nan
        middle_row.imshow(target, interpolation="nearest", vmin=0)
        (bottom,) = rest
        weights = np.asarray(group["weights"][(number, *core)])
        shown = bottom.imshow(weights, cmap="magma", vmin=0)
        figure.colorbar(shown, ax=bottom, orientation="horizontal", fraction=0.05, pad=0.02)
    for panel in axes.ravel():
        panel.set(xticks=[], yticks=[])
    for panel, name in zip(axes[:, 0], titles, strict=True):
        panel.set_ylabel(name)
    with replacing(output) as partial:
        figure.savefig(partial, format="png", dpi=80, bbox_inches="tight")
