"""Borders between objects, made comparable before they are scored.

References
----------
.. [1] Arganda-Carreras et al. 2015, DOI 10.3389/fnana.2015.00142: the scores of the ISBI 2012
   challenge depended on the width of borders; thinning the prediction removes that.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import expand_labels

REACH = 32
"""Pixels up to which `nearest_labels` grows objects: borders of up to twice that are thinned."""

NOTHING, UNKNOWN = np.int16(2**15 - 1), np.int16(-(2**15))
"""How far an object is where none is within reach, and where that was not asked for yet."""

AROUND = np.argwhere(np.ones((5, 5, 5), np.bool_)) - 2
AROUND = AROUND[(AROUND**2).sum(axis=1) <= 4]
AROUND = AROUND[np.argsort((AROUND**2).sum(axis=1), kind="stable")][1:]
"""Steps to the pixels up to 2 away, the nearest first."""


def thin(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """Labels grown over the background until they touch, so that border width does not count.

    Every background pixel takes the label of the nearest object (Euclidean distance between pixel
    centres; which one wins a tie is not defined). Made for `contingency.v_rand` and
    `contingency.v_info`: thin the prediction, leave the truth as it is, since those scores do not
    look at true background. The challenge's own script leaves a line of one pixel between objects,
    whose pixels it then scores as objects of one pixel; here no line is left to be scored.

    Parameters
    ----------
    labels : integer array with 2 or 3 axes
        Object ids, 0 = background. A stack that was segmented plane by plane is thinned plane by
        plane: in 3D an object would grow into its neighbour planes.

    Returns
    -------
    integer array of the same shape and dtype
        Without 0, except that an image without any object comes back empty. The input is not
        changed. Working memory is about 35 bytes a pixel in 2D and 50 in 3D.

    References
    ----------
    [1]

    Examples
    --------
    >>> thin(np.array([[1, 1, 0, 0, 0, 2, 2]]))
    array([[1, 1, 1, 1, 2, 2, 2]])
    """
    grown: NDArray[np.integer] = expand_labels(labels, distance=np.inf)
    return grown


def nearest_labels(
    labels: NDArray[np.integer], where: NDArray[np.bool_], reach: int = REACH
) -> NDArray[np.unsignedinteger]:
    """Label of the nearest object of chosen pixels: `thin`, as far as it takes for volumes.

    Distances are Euclidean, between pixel centres; of objects at one distance it is the one of the
    smallest id. Since nothing beyond the reach counts, a part of a volume that is cut out with a
    margin of that many pixels has the labels of the whole, exactly, and memory stays flat. What
    lies farther from all objects than that is no border but was missed.

    Parameters
    ----------
    labels : unsigned or non-negative integer array with 1 to 3 axes
        Object ids, 0 = background.
    where : bool array of the same shape
        True where the label is asked for; few pixels take little time.
    reach : int
        In pixels, below 2¹⁵ - 1.

    Returns
    -------
    uint32 or uint64 array of shape (chosen pixels,)
        In the order of `labels[where]`; 0 where no object is within reach. Working memory is 4
        bytes a pixel, and 4 or 8 more if labels are not of the result's dtype.

    Examples
    --------
    >>> labels = np.array([[7, 0, 0, 3, 0, 0]])
    >>> nearest_labels(labels, labels == 0, reach=1)
    array([7, 3, 3, 0], dtype=uint32)
    """
    small = labels.max(initial=0) < 2**32
    volume = np.ascontiguousarray(labels, np.uint32 if small else np.uint64)
    volume = volume.reshape((1,) * (3 - labels.ndim) + labels.shape)
    found = np.zeros(np.count_nonzero(where), volume.dtype)
    asked = where.reshape(volume.shape)
    # What is missed is mostly a rim, for which to look around is fastest.
    around = AROUND[(AROUND**2).sum(axis=1) <= reach**2]
    if _nearest_around(volume, asked, around, found):
        along = np.empty(volume.shape, np.int16)
        tiles = np.zeros([-(-extent // reach) for extent in volume.shape], np.bool_)
        _nearest_in_rows(volume, reach, along, tiles)
        near = ndimage.binary_dilation(tiles, np.ones((3, 3, 3), np.bool_))
        across = np.full(volume.shape, UNKNOWN)
        _nearest(volume, asked, reach, along, across, near, found)
    return found


@njit(nogil=True, cache=True)
def _nearest_around(labels, where, around, found):  # type: ignore[no-untyped-def]
    """Write the nearest label of each chosen pixel, 0 where there is none; return how many are."""
    planes, rows, columns = labels.shape
    place, left = 0, 0
    for z in range(planes):
        for y in range(rows):
            for x in range(columns):
                if not where[z, y, x]:
                    continue
                label, farthest = labels[z, y, x], 0 if labels[z, y, x] > 0 else 2**15
                for step in range(len(around)):
                    dz, dy, dx = around[step, 0], around[step, 1], around[step, 2]
                    square = dz * dz + dy * dy + dx * dx
                    if square > farthest:
                        break
                    plane, row, column = z + dz, y + dy, x + dx
                    if (
                        0 <= plane < planes
                        and 0 <= row < rows
                        and 0 <= column < columns
                        and labels[plane, row, column] > 0
                        and (label == 0 or labels[plane, row, column] < label)
                    ):
                        label, farthest = labels[plane, row, column], square
                found[place] = label
                place += 1
                left += label == 0
    return left


@njit(nogil=True, cache=True)
def _nearest_in_rows(labels, reach, along, tiles):  # type: ignore[no-untyped-def]
    """Write how far along its row the nearest object is, and which tiles hold objects."""
    planes, rows, columns = labels.shape
    for z in range(planes):
        for y in range(rows):
            row, offsets = labels[z, y], along[z, y]
            last = -reach - 1
            for x in range(columns):
                if row[x] > 0:
                    last = x
                    tiles[z // reach, y // reach, x // reach] = True
                offsets[x] = last - x if x - last <= reach else NOTHING
            last = columns + reach
            for x in range(columns - 1, -1, -1):
                if row[x] > 0:
                    last = x
                    continue
                ahead, behind = last - x, -offsets[x]
                if behind == -NOTHING:
                    closer = ahead <= reach
                else:
                    closer = ahead < behind or (ahead == behind and row[last] < row[x - behind])
                if closer:
                    offsets[x] = ahead


@njit(nogil=True, cache=True)
def _nearest(labels, where, reach, along, across, near, found):  # type: ignore[no-untyped-def]
    """Write the nearest label of each pixel that has none yet: the best of what its planes have."""
    planes, rows, columns = labels.shape
    place = -1
    for z in range(planes):
        for y in range(rows):
            for x in range(columns):
                if not where[z, y, x]:
                    continue
                place += 1
                if found[place] > 0 or not near[z // reach, y // reach, x // reach]:
                    continue
                best, label = reach * reach, labels.dtype.type(0)
                for dz in range(reach + 1):
                    if dz * dz > best:
                        break
                    for plane in range(z - dz, z + dz + 1, max(2 * dz, 1)):
                        if plane < 0 or plane >= planes:
                            continue
                        dy = across[plane, y, x]
                        if dy == UNKNOWN:
                            dy = _across(labels[plane], y, x, reach, along[plane])
                            across[plane, y, x] = dy
                        if dy == NOTHING:
                            continue
                        dx = along[plane, y + dy, x]
                        square = dz * dz + np.int64(dy) * dy + np.int64(dx) * dx
                        other = labels[plane, y + dy, x + dx]
                        if square < best or (square == best and (label == 0 or other < label)):
                            best, label = square, other
                found[place] = label


@njit(nogil=True, cache=True)
def _across(labels, y, x, reach, along):  # type: ignore[no-untyped-def]
    """Rows from a pixel to the one whose object is the nearest of a plane."""
    rows = labels.shape[0]
    best, label, found = reach * reach, labels.dtype.type(0), np.int16(NOTHING)
    for dy in range(reach + 1):
        if dy * dy > best:
            break
        for row in range(y - dy, y + dy + 1, max(2 * dy, 1)):
            if row < 0 or row >= rows or along[row, x] == NOTHING:
                continue
            dx = along[row, x]
            square = dy * dy + np.int64(dx) * dx
            other = labels[row, x + dx]
            if square < best or (square == best and (label == 0 or other < label)):
                best, label, found = square, other, np.int16(row - y)
    return found
