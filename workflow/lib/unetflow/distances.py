"""Distances to the nearest and to the second nearest object, exact, whatever their number.

A separable distance transform by lower envelopes of parabolas ([1], [2]) that carries the two
nearest *distinct* labels of every voxel, where an ordinary one carries a distance. Along a line
the envelope of the nearest labels falls into runs of one label. At the ends of a run its label is
as near as that of the run before or after it, so these are the second nearest there; and as one
goes along a line, the position of the nearest parabola only goes forward. Within a run, the second
nearest label's parabola hence stands between the last one of the run before and the first one of
the run after. These stretches cover each position at most three times, so the second envelopes of
all runs take linear time together, like the first.

References
----------
.. [1] Felzenszwalb, Huttenlocher 2012, DOI 10.4086/toc.2012.v008a019.
.. [2] Meijster, Roerdink, Hesselink 2000, DOI 10.1007/0-306-47025-X_36.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

LARGEST_LABEL = 2**32 - 1

# Lines that do not lie along the memory are copied in blocks as wide as a cache line.
BLOCK = 16


def nearest_two(
    instances: NDArray[np.integer], radius: float, sampling: Sequence[float], threads: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distances of every pixel to the nearest and to the second nearest object.

    Parameters
    ----------
    instances : integer array of any shape
        Object ids from 0 (background) to 2³² - 1, in any order, with gaps; an object may be in
        pieces.
    radius : float
        Distances up to it are exact, larger ones are infinite. A part of an image that was cut out
        with a margin of this radius therefore has the distances of the whole, bit for bit.
    sampling : sequence of float
        Voxel size per axis; radius and distances are in its unit.
    threads : int
        Does not change the result.

    Returns
    -------
    first, second : float32 arrays of the same shape
        0 on the object itself; infinite where there is no (second) object within reach.

    Raises
    ------
    ValueError
        If the ids are no whole numbers, negative or too large.
    """
    labels = as_labels(instances)
    shape, reach = labels.shape, np.float32(radius) ** 2
    label1, label2 = np.empty((2, *shape), np.uint32)
    square1, square2 = np.empty((2, *shape), np.float32)
    carried = (label1, square1, label2, square2)
    view: tuple[int, ...] = (shape[0], math.prod(shape[1:]))
    lines = [part.reshape(view) for part in (labels, *carried)]
    in_parallel(nearest_along_first_axis, view[1], threads, *lines, float(sampling[0]), reach)
    for axis in range(1, len(shape)):
        view = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
        blocks = view[0] * -(-view[2] // BLOCK)
        lines = [part.reshape(view) for part in carried]
        in_parallel(nearest_along_axis, blocks, threads, *lines, float(sampling[axis]), reach)
    return np.sqrt(square1, out=square1), np.sqrt(square2, out=square2)


def as_labels(instances: NDArray[Any]) -> NDArray[np.uint32]:
    """Return object ids as contiguous uint32, or refuse them."""
    if not np.issubdtype(instances.dtype, np.integer):
        raise ValueError(
            f"object ids must be whole numbers: got {instances.dtype}; store them as uint32"
        )
    if instances.size and not np.can_cast(instances.dtype, np.uint32):
        low, high = int(instances.min()), int(instances.max())
        if low < 0 or high > LARGEST_LABEL:
            raise ValueError(
                f"object ids must be from 0 to {LARGEST_LABEL}: got {low} to {high}; relabel them"
            )
    return np.ascontiguousarray(instances, np.uint32)


def in_parallel(kernel: Callable[..., None], count: int, threads: int, *arguments: Any) -> None:
    """Run a kernel over `count` lines or blocks, in parts on several threads."""
    parts = min(count, 4 * threads) if threads > 1 else 1
    edges = [count * part // max(parts, 1) for part in range(parts + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda edge: kernel(*edge, *arguments), pairwise(edges)))


@njit(nogil=True, cache=True, inline="always")
def inserted(label1, square1, label2, square2, label, square):  # type: ignore[no-untyped-def]
    """Two nearest distinct labels after one more candidate."""
    if label == label1:
        return label1, min(square1, square), label2, square2
    if square < square1:
        return label, square, label1, square1
    if square < square2:
        return label1, square1, label, square
    return label1, square1, label2, square2


@njit(nogil=True, cache=True)
def nearest_along_first_axis(  # type: ignore[no-untyped-def]
    start, stop, labels, label1, square1, label2, square2, step, reach
):
    """Two nearest labels along columns `start..stop-1` of (rows, columns): a sweep each way.

    A sweep remembers of each column the last two distinct labels that it met.
    """
    rows, width = labels.shape[0], stop - start
    last, other = np.zeros(width, np.uint32), np.zeros(width, np.uint32)
    since_last = np.full(width, np.inf, np.float32)
    since_other = np.full(width, np.inf, np.float32)
    one, none, scale = np.float32(1), np.float32(np.inf), np.float32(step)
    for sweep in range(2):
        last[:], other[:], since_last[:], since_other[:] = 0, 0, none, none
        for position in range(rows):
            row = position if sweep == 0 else rows - 1 - position
            for column in range(width):
                place = start + column
                label = labels[row, place]
                near, far = since_last[column] + one, since_other[column] + one
                if label != 0:
                    if label != last[column]:
                        other[column], far = last[column], near
                        last[column] = label
                    near = np.float32(0)
                since_last[column], since_other[column] = near, far
                if sweep == 0:
                    label1[row, place], square1[row, place] = last[column], near
                    label2[row, place], square2[row, place] = other[column], far
                    continue
                a, near_a, b, near_b = inserted(
                    label1[row, place],
                    square1[row, place],
                    label2[row, place],
                    square2[row, place],
                    last[column],
                    near,
                )
                a, near_a, b, near_b = inserted(a, near_a, b, near_b, other[column], far)
                near_a, near_b = near_a * scale, near_b * scale
                near_a, near_b = near_a * near_a, near_b * near_b
                label1[row, place], label2[row, place] = a, b
                square1[row, place] = near_a if near_a <= reach else none
                square2[row, place] = near_b if near_b <= reach else none


@njit(nogil=True, cache=True)
def nearest_along_axis(  # type: ignore[no-untyped-def]
    start, stop, label1, square1, label2, square2, step, reach
):
    """Two nearest labels along the middle axis of (outer, n, inner), for blocks of lines."""
    n, inner = label1.shape[1:]
    blocks = -(-inner // BLOCK)
    labels, squares = np.empty((BLOCK, 4, n), np.uint32), np.empty((BLOCK, 4, n), np.float32)
    stack = np.empty((2, n), np.int64), np.empty((2, n + 1), np.float64)
    second = np.empty(n, np.uint32), np.empty(n, np.float32)
    for block in range(start, stop):
        outer, low = block // blocks, block % blocks * BLOCK
        width = min(BLOCK, inner - low)
        for place in range(n):
            for line in range(width):
                index = outer, place, low + line
                labels[line, 0, place], squares[line, 0, place] = label1[index], square1[index]
                labels[line, 1, place], squares[line, 1, place] = label2[index], square2[index]
        for line in range(width):
            nearest_along_line(labels[line], squares[line], stack, second, step, reach)
        for place in range(n):
            for line in range(width):
                index = outer, place, low + line
                label1[index], square1[index] = labels[line, 2, place], squares[line, 2, place]
                label2[index], square2[index] = labels[line, 3, place], squares[line, 3, place]


@njit(nogil=True, cache=True)
def envelope(squares, start, stop, positions, cuts, unit):  # type: ignore[no-untyped-def]
    """Write the lower envelope of the parabolas at `start..stop-1`; return how many it has.

    The k-th stands at `positions[k]` and is the lowest from `cuts[k]` to `cuts[k + 1]` ([1]).
    """
    half, count = 0.5 / unit, 0
    for position in range(start, stop):
        square = np.float64(squares[position])
        if square == np.inf:
            continue
        cut = -np.inf
        while count > 0:
            before = positions[count - 1]
            rise = square - np.float64(squares[before])
            cut = rise / (position - before) * half + 0.5 * (position + before)
            if cut > cuts[count - 1]:
                break
            count -= 1
        positions[count], cuts[count] = position, cut if count > 0 else -np.inf
        count += 1
    cuts[count] = np.inf
    return count


@njit(nogil=True, cache=True)
def nearest_along_line(labels, squares, stack, second, step, reach):  # type: ignore[no-untyped-def]
    """Two nearest labels along one line.

    Parameters
    ----------
    labels, squares : (4, n)
        Nearest and second nearest label so far, and their squared distances, in rows 0 and 1;
        their successors are written to rows 2 and 3.
    stack : int64 (2, n) and float64 (2, n + 1)
        Room for two envelopes: positions of parabolas, and where each becomes the lowest.
    second : uint32 (n,) and float32 (n,)
        Room for the nearest label, and its square, other than that of a run.
    """
    n = labels.shape[1]
    at, at_other, cuts, cuts_other = stack[0][0], stack[0][1], stack[1][0], stack[1][1]
    label_other, square_other = second
    label1, label2, new_label1, new_label2 = labels[0], labels[1], labels[2], labels[3]
    square1, square2, new_square1, new_square2 = squares[0], squares[1], squares[2], squares[3]
    unit, none = step * step, np.float32(np.inf)
    new_label1[:], new_label2[:], new_square1[:], new_square2[:] = 0, 0, none, none
    count = envelope(square1, 0, n, at, cuts, unit)
    run, start = 0, 0
    while run < count:
        label = label1[at[run]]
        following = run + 1
        while following < count and label1[at[following]] == label:
            following += 1
        stop = n if following == count else min(n, max(0, int(np.ceil(cuts[following]))))
        if start < stop:
            lowest = at[run - 1] if run > 0 else 0
            highest = at[following] + 1 if following < count else n
            for place in range(lowest, highest):
                same = label1[place] == label
                label_other[place] = label2[place] if same else label1[place]
                square_other[place] = square2[place] if same else square1[place]
            others = envelope(square_other, lowest, highest, at_other, cuts_other, unit)
            k, other = run, 0
            for place in range(start, stop):
                while cuts[k + 1] <= place:
                    k += 1
                away = place - at[k]
                square = np.float32(square1[at[k]] + away * away * unit)
                if square <= reach:
                    new_label1[place], new_square1[place] = label, square
                if others > 0:
                    while cuts_other[other + 1] <= place:
                        other += 1
                    nearest = at_other[other]
                    away = place - nearest
                    square = np.float32(square_other[nearest] + away * away * unit)
                    if square <= reach:
                        new_label2[place], new_square2[place] = label_other[nearest], square
            start = stop
        run = following
