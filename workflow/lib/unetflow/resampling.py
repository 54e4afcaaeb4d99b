"""Values of an image where a deformation reads them, interpolated once, in compiled loops.

References
----------
.. [1] Unser 1999, DOI 10.1109/79.799930: cubic B-splines and their recursive prefilter.
.. [2] Keys 1981, DOI 10.1109/TASSP.1981.1163711: cubic convolution, which needs no prefilter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unetflow.elastic import Deformation
from unetflow.geometry import mirrored

Interpolation = Literal["nearest", "linear", "convolution", "spline"]
METHODS: tuple[Interpolation, ...] = ("nearest", "linear", "convolution", "spline")

POLE = math.sqrt(3) - 2
"""Of the prefilter: what lies a sample further away counts 0.27 times as much ([1])."""

MARGIN = 14  # POLE**14 is below the resolution of float32
LINES = 16  # as wide as a cache line


def resample(
    image: Any,
    deformation: Deformation,
    interpolation: Interpolation,
    place: Sequence[int] = (),
) -> NDArray[Any]:
    """Values of an image where a deformation reads them, mirrored beyond its border.

    Parameters
    ----------
    image : NumPy or Zarr array
        It is mirrored without repeating the edge; only the region that the patch touches is read
        and filtered.
    place : sequence of int
        Index along the axes of the image before those of the deformation: its channel, its plane.
    interpolation : str
        "nearest", which brings no new values and keeps the dtype; "linear"; "convolution", by
        Keys' cubic kernel ([2]); or "spline", the interpolating cubic B-spline ([1]).

    Returns
    -------
    array of the deformation's shape, with "nearest" of the image's type, else float32, or float64
    for types that float32 does not hold
    """
    shift, size = deformation.displacement, np.array(deformation.shape)
    moved = [max(along.max(), -along.min()) for along in shift]
    reach = np.abs(deformation.matrix) @ ((size - 1) / 2 + moved)
    lower = np.floor(deformation.offset - reach).astype(int) - 1
    upper = np.ceil(deformation.offset + reach).astype(int) + 3
    index, read = [], []
    for start, stop, extent in zip(lower, upper, image.shape[len(place) :], strict=True):
        along = mirrored(int(start), int(stop), extent)
        margin = MARGIN if interpolation == "spline" else 0
        first, last = int(along.min()) - margin, int(along.max()) + margin
        read.append(slice(max(first, 0), min(last + 1, extent)))
        index.append((along - read[-1].start).astype(np.uint64))
    region = np.asarray(image[(*place, *read)])
    base = None
    if interpolation != "nearest":
        if not np.can_cast(region.dtype, np.float32):
            # float32 has 24 bits: of larger types they are spent on what differs in the region.
            base = region.mean(dtype=np.float64)
            region = region - base
        region = np.array(region, np.float32, order="C")
    if interpolation == "spline":
        make_spline(region)
    result = np.empty(deformation.shape, region.dtype)
    # Counted from the patch's first place instead of its centre, and to the first of four samples
    origin = deformation.offset - lower - 1 - deformation.matrix @ ((size - 1) / 2)
    method = METHODS.index(interpolation)
    kernel: Any = sample_plane if region.ndim == 2 else sample_volume
    kernel(region, *index, shift, deformation.matrix, origin, method, result)
    return result if base is None else result + base


def make_spline(samples: NDArray[np.float32]) -> None:
    """Replace samples, mirrored at their ends, by the coefficients of the cubic B-spline ([1])."""
    for axis in range(samples.ndim):
        before, after = samples.shape[:axis], samples.shape[axis + 1 :]
        prefilter(samples.reshape(math.prod(before), samples.shape[axis], math.prod(after)))


@njit(nogil=True, cache=True, fastmath={"contract"})
def prefilter(samples):  # type: ignore[no-untyped-def]
    """Filter float32 (outer, n, inner) in place along its middle axis.

    The recursion runs over many lines at once: those beside each other in memory, or else copies.
    """
    outer, n, inner = samples.shape
    if n == 1:
        return
    if inner > 1:
        for block in range(outer):
            recursion(samples[block])
        return
    lines = np.empty((n, LINES), np.float32)
    for start in range(0, outer, LINES):
        count = min(LINES, outer - start)
        for line in range(count):
            for i in range(n):
                lines[i, line] = samples[start + line, i, 0]
        recursion(lines)
        for line in range(count):
            for i in range(n):
                samples[start + line, i, 0] = lines[i, line]


@njit(nogil=True, cache=True, fastmath={"contract"})
def recursion(values):  # type: ignore[no-untyped-def]
    """Filter float32 (n, lines) in place along the first axis ([1], box 2)."""
    n, width = values.shape
    pole, gain = np.float32(POLE), np.float32((1 - POLE) * (1 - 1 / POLE))
    first = values[0].copy()
    power = pole
    for k in range(1, 2 * MARGIN):
        period = k % (2 * n - 2)
        mirror = period if period < n else 2 * n - 2 - period
        for j in range(width):
            first[j] += power * values[mirror, j]
        power *= pole
    for j in range(width):
        values[0, j] = first[j] * gain
    for i in range(1, n):
        for j in range(width):
            values[i, j] = values[i, j] * gain + pole * values[i - 1, j]
    last = pole / (pole * pole - np.float32(1))
    for j in range(width):
        values[n - 1, j] = last * (values[n - 1, j] + pole * values[n - 2, j])
    for i in range(n - 2, -1, -1):
        for j in range(width):
            values[i, j] = pole * (values[i + 1, j] - values[i, j])


@njit(nogil=True, cache=True, fastmath={"contract"}, inline="always")
def taps(t, method):  # type: ignore[no-untyped-def]
    """Weights of the samples at -1, 0, 1, 2 for a place at t in [0, 1)."""
    one = np.float32(1)
    r = one - t
    if method == 1:
        return np.float32(0), r, t, np.float32(0)
    if method == 2:
        half = np.float32(0.5)
        return (
            -half * t * r * r,
            one + t * t * (np.float32(1.5) * t - np.float32(2.5)),
            one + r * r * (np.float32(1.5) * r - np.float32(2.5)),
            -half * r * t * t,
        )
    sixth, half, two_thirds = np.float32(1 / 6), np.float32(0.5), np.float32(2 / 3)
    return (
        sixth * r * r * r,
        two_thirds - half * t * t * (np.float32(2) - t),
        two_thirds - half * r * r * (np.float32(2) - r),
        sixth * t * t * t,
    )


@njit(nogil=True, cache=True, inline="always")
def below(coordinate):  # type: ignore[no-untyped-def]
    """Whole part of a coordinate that is not negative, unsigned: such an index needs no check."""
    return np.uint64(np.int64(coordinate))


@njit(nogil=True, cache=True, fastmath={"contract"}, inline="always")
def along(line, columns, first, weights):  # type: ignore[no-untyped-def]
    """Weighted sum of four samples of a line."""
    one = np.uint64(1)
    second = first + one
    third = second + one
    return (
        weights[0] * line[columns[first]]
        + weights[1] * line[columns[second]]
        + weights[2] * line[columns[third]]
        + weights[3] * line[columns[third + one]]
    )


@njit(nogil=True, cache=True, fastmath={"contract"})
def sample_plane(  # type: ignore[no-untyped-def]
    region, rows, columns, shift, matrix, origin, method, result
):
    """Write the values (rows, columns) of a plane where a deformation reads them.

    `rows` and `columns` say where in `region` the mirrored rows and columns are.
    """
    one = np.uint64(1)
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            a, b = i + np.float64(shift[0, i, j]), j + np.float64(shift[1, i, j])
            y = origin[0] + matrix[0, 0] * a + matrix[0, 1] * b
            x = origin[1] + matrix[1, 0] * a + matrix[1, 1] * b
            if method == 0:
                result[i, j] = region[rows[below(y + 1.5)], columns[below(x + 1.5)]]
                continue
            row, column = below(y), below(x)
            u = taps(np.float32(y - np.int64(y)), method)
            v = taps(np.float32(x - np.int64(x)), method)
            total = np.float32(0)
            for k in range(4):
                total += u[k] * along(region[rows[row]], columns, column, v)
                row += one
            result[i, j] = total


@njit(nogil=True, cache=True, fastmath={"contract"})
def sample_volume(  # type: ignore[no-untyped-def]
    region, planes, rows, columns, shift, matrix, origin, method, result
):
    """Write the values (planes, rows, columns) of a volume where a deformation reads them."""
    one = np.uint64(1)
    for h in range(result.shape[0]):
        for i in range(result.shape[1]):
            for j in range(result.shape[2]):
                a = h + np.float64(shift[0, h, i, j])
                b = i + np.float64(shift[1, h, i, j])
                c = j + np.float64(shift[2, h, i, j])
                z = origin[0] + matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * c
                y = origin[1] + matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * c
                x = origin[2] + matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * c
                if method == 0:
                    result[h, i, j] = region[
                        planes[below(z + 1.5)], rows[below(y + 1.5)], columns[below(x + 1.5)]
                    ]
                    continue
                plane, column = below(z), below(x)
                s = taps(np.float32(z - np.int64(z)), method)
                u = taps(np.float32(y - np.int64(y)), method)
                v = taps(np.float32(x - np.int64(x)), method)
                total = np.float32(0)
                for g in range(4):
                    page, row = region[planes[plane]], below(y)
                    of_plane = np.float32(0)
                    for k in range(4):
                        of_plane += u[k] * along(page[rows[row]], columns, column, v)
                        row += one
                    total += s[g] * of_plane
                    plane += one
                result[h, i, j] = total
