"""Border weights: one pass for all objects, against one per object and a plain transform."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from harness import Prepared, compare, write
from numpy.typing import NDArray
from scipy import ndimage

from unetflow.settings.training import WeightsSettings
from unetflow.weights import border_term, reach_of

W0, SIGMA = 10.0, 5.0
CORES = os.cpu_count() or 1
NAIVE_OBJECTS = 4


def cells(shape: tuple[int, ...], count: int) -> NDArray[np.uint32]:
    """Round cells of one size at random places, cut where they meet."""
    generator = np.random.default_rng(0)
    centres = np.zeros(shape, np.uint32)
    centres.flat[generator.choice(centres.size, count, replace=False)] = np.arange(1, count + 1)
    distance, nearest = ndimage.distance_transform_edt(centres == 0, return_indices=True)
    radius = 0.45 * (centres.size / count) ** (1 / len(shape))
    return np.where(distance < radius, centres[tuple(nearest)], 0).astype(np.uint32)


def term(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float32]:
    """Border term of two distances."""
    return (W0 * np.exp(-((first + second) ** 2) / (2 * SIGMA**2))).astype(np.float32)


def naive(instances: NDArray[np.uint32]) -> Prepared:
    """One transform of the whole image per object, as in most public code."""
    count = int(instances.max())

    def run() -> NDArray[np.float32]:
        first = np.full(instances.shape, np.inf)
        second = first.copy()
        for label in range(1, NAIVE_OBJECTS + 1):
            distance = ndimage.distance_transform_edt(instances != label)
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
        return term(first, second)

    note = f"{NAIVE_OBJECTS} objects timed, times {count / NAIVE_OBJECTS:,.0f}"
    return Prepared(run, note, count / NAIVE_OBJECTS)


def cropped(instances: NDArray[np.uint32]) -> Prepared:
    """One transform per object, within its bounding box and a margin."""
    reach = math.ceil(reach_of(WeightsSettings(w0=W0), SIGMA))

    def run() -> NDArray[np.float32]:
        first = np.full(instances.shape, np.inf, np.float32)
        second = first.copy()
        for label, box in enumerate(ndimage.find_objects(instances), start=1):
            if box is None:
                continue
            near = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in box)
            distance = ndimage.distance_transform_edt(instances[near] != label).astype(np.float32)
            second[near] = np.minimum(second[near], np.maximum(first[near], distance))
            first[near] = np.minimum(first[near], distance)
        return term(first, second)

    return Prepared(run)


def plain(instances: NDArray[np.uint32]) -> Prepared:
    """A single ordinary distance transform, which knows one distance and no second object."""
    import edt

    background = instances == 0
    return Prepared(
        lambda: edt.edt(background, parallel=CORES), "the floor: one distance, no labels"
    )


def ours(instances: NDArray[np.uint32], threads: int) -> Prepared:
    """Two nearest labels in one separable pass."""
    reach, sampling = reach_of(WeightsSettings(w0=W0), SIGMA), (1.0,) * instances.ndim
    return Prepared(lambda: border_term(instances, W0, SIGMA, reach, sampling, threads))


METHODS: Mapping[str, Callable[[NDArray[np.uint32]], Prepared]] = {
    "unetflow": partial(ours, threads=CORES),
    "unetflow, one thread": partial(ours, threads=1),
    "plain transform (edt)": plain,
    "one transform per object, cropped": cropped,
    "one transform per object": naive,
    "copy of the array": lambda instances: Prepared(instances.copy, "the memory's own speed"),
}


def main() -> None:
    """Compare on planes of 50 to 5,000 objects and on a volume of 1,000."""
    rows = []
    for shape, count in (
        ((2048, 2048), 50),
        ((2048, 2048), 2000),
        ((2048, 2048), 5000),
        ((64, 512, 512), 1000),
    ):
        instances = cells(shape, count)
        of_one_pass, of_each = (make(instances).run() for make in (METHODS["unetflow"], cropped))
        background = instances == 0
        np.testing.assert_allclose(
            np.asarray(of_one_pass)[background],
            np.asarray(of_each)[background],
            rtol=1e-4,
            atol=1e-6,
        )
        rows += compare(
            f"{'×'.join(map(str, shape))}, {count:,} objects",
            {name: partial(prepare, instances) for name, prepare in METHODS.items()},
        )
    write("weights", rows)


if __name__ == "__main__":
    main()
