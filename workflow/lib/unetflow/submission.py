"""Predictions in the format in which a challenge takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from unetflow.predicted import foreground
from unetflow.store import open_image, replacing


def write_isbi2012(predictions: Sequence[Path], output: Path) -> None:
    """Write the probability of cell of sections as ISBI 2012 takes it: a 32-bit TIFF stack, 0 to 1.

    Parameters
    ----------
    predictions : sequence of Path
        2D images (OME-Zarr), in the order of the sections.
    output : Path
        Complete or absent.

    Raises
    ------
    ValueError
        If there is none, or they are not 2D sections of one size.
    """
    cells = [foreground(open_image(path)) for path in predictions]
    shapes = sorted({section.shape for section in cells})
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"{output}: a submission must be of 2D sections of one size: got {shapes or 'none'}; "
            "submit an experiment whose split has them as test images"
        )
    stack = np.clip(np.stack(cells), 0, 1).astype(np.float32)  # sums of rounded ones may be more
    with replacing(output) as partial:
        tifffile.imwrite(partial, stack, imagej=True, metadata={"axes": "ZYX"})
