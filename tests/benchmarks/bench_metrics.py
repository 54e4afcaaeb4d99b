"""All label metrics from one table, against one score of scikit-image's and one of another."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
from bench_weights import cells
from harness import Prepared, compare, write
from numpy.typing import NDArray

from unetflow.metrics.contingency import contingency, variation_of_information
from unetflow.metrics.instances import mean_iou
from unetflow.scoring import score_plane

OBJECTS = 5000
SHIFT = 2
"""Columns by which the prediction is off, so that each object meets several."""

Labels = NDArray[np.uint32]


def ours(truth: Labels, predicted: Labels) -> Prepared:
    """All scores of classes, probabilities and objects."""
    classes, foreground = (truth > 0).astype(np.uint8), (predicted > 0)[None].astype(np.float32)
    names = ("background", "cell")
    count = len(score_plane(classes, truth, foreground, predicted, names))
    return Prepared(
        lambda: score_plane(classes, truth, foreground, predicted, names), f"{count} scores"
    )


def table_alone(truth: Labels, predicted: Labels) -> Prepared:
    """The table that all scores of objects come from."""
    return Prepared(lambda: contingency(truth, predicted), "the table alone")


def scikit_image(truth: Labels, predicted: Labels) -> Prepared:
    """One score, as its two parts."""
    from skimage.metrics import variation_of_information as reference

    found = variation_of_information(contingency(truth, predicted))
    np.testing.assert_allclose([*found.values()], reference(truth, predicted), rtol=1e-9)
    return Prepared(lambda: reference(truth, predicted), "one score")


def ctcmetrics(truth: Labels, predicted: Labels, folder: Path) -> Prepared:
    """The matching of SEG, DET and TRA, which it makes of files."""
    from ctc_metrics.metrics.technical.seg import seg
    from ctc_metrics.utils.representations import match

    paths = [str(folder / f"{name}.tif") for name in ("truth", "predicted")]
    for path, labels in zip(paths, (truth, predicted), strict=True):
        tifffile.imwrite(path, labels.astype(np.uint16))

    def run() -> float:
        labels, _, _, _, ious = match(*paths)
        return float(seg([labels], [ious]))

    np.testing.assert_allclose(run(), mean_iou(contingency(truth, predicted)), rtol=1e-9)
    return Prepared(run, "one score; reads TIFF")


def main() -> None:
    """Compare on a plane and on a volume."""
    rows = []
    for shape in ((2048, 2048), (128, 512, 512)):
        truth = cells(shape, OBJECTS)
        predicted = np.roll(truth, SHIFT, axis=-1)
        with tempfile.TemporaryDirectory() as folder:
            methods = {
                "unetflow, all label metrics": ours,
                "unetflow, contingency table": table_alone,
                "scikit-image, variation of information": scikit_image,
                "py-ctcmetrics, SEG": partial(ctcmetrics, folder=Path(folder)),
            }
            rows += compare(
                f"{'×'.join(map(str, shape))}, {OBJECTS:,} objects",
                {name: partial(make, truth, predicted) for name, make in methods.items()},
            )
    write("metrics", rows)


if __name__ == "__main__":
    main()
