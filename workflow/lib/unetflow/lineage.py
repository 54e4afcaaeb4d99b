"""The lineage of tracks: which frames each is in, and which it stems from.

An integer array of shape (tracks, 4), a row per track, as in `man_track.txt` of the Cell Tracking
Challenge [1]: its label, the first and the last frame it is in (from 0), and the label of its
parent, 0 = none. A track is in every frame from the first to the last: a cell that comes back after
a gap is a child.

References
----------
.. [1] Maška et al. 2023, DOI 10.1038/s41592-023-01879-y.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_lineage(path: Path) -> NDArray[np.int64]:
    """Return the lineage in a text of the challenge, such as `man_track.txt`.

    Raises
    ------
    ValueError
        If a line is not four integers, or they make no lineage, see `check_lineage`.
    """
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows, start=1):
        if len(row) != 4 or not all(part.isdecimal() for part in row):
            raise ValueError(
                f"{path}, line {number}: a track must be four integers, its label, begin, end and "
                f"parent: got {' '.join(row)!r}; correct the line"
            )
    lineage = np.array(rows, np.int64).reshape(-1, 4)
    check_lineage(lineage, str(path))
    return lineage


def cut_lineage(lineage: NDArray[np.integer], first: int, last: int) -> NDArray[np.int64]:
    """Lineage of the frames from `first` to `last`, both among them, as if there were no others.

    Frames count from 0 again. A track of other frames alone is left out, also as a parent.

    Examples
    --------
    >>> cut_lineage(np.array([[1, 0, 4, 0], [2, 5, 9, 1], [3, 7, 9, 2]]), 6, 8).tolist()
    [[2, 0, 2, 0], [3, 1, 2, 2]]
    """
    kept = lineage[(lineage[:, 1] <= last) & (lineage[:, 2] >= first)]
    label, begin, end, parent = kept.astype(np.int64).T
    parent = np.where(np.isin(parent, label), parent, 0)
    begin, end = np.maximum(begin, first) - first, np.minimum(end, last) - first
    return np.stack([label, begin, end, parent], axis=1)


def check_lineage(lineage: NDArray[np.integer], name: str) -> None:
    """Refuse what is no lineage; `name` says in the message which one it is.

    Raises
    ------
    ValueError
        If it is no integer array of shape (tracks, 4), if a label is below 1 or occurs twice, or
        a track ends before it begins, begins before frame 0, or before its parent has ended.
    """
    if not (lineage.ndim == 2 and lineage.shape[1] == 4 and lineage.dtype.kind in "iu"):
        raise ValueError(
            f"{name}: a lineage must be integers of shape (tracks, 4): got {lineage.dtype} of "
            f"shape {lineage.shape}; give a row of label, begin, end and parent for each track"
        )
    ends: dict[int, int] = {}
    for label, begin, end, parent in sorted(lineage.tolist(), key=lambda row: row[1]):
        unique, ended = label not in ends, ends.get(parent, begin) < begin
        if not (label > 0 and unique and 0 <= begin <= end and (ended or parent == 0)):
            raise ValueError(
                f"{name}: every track must have a label above 0 of its own, 0 <= begin <= end, and "
                f"as parent 0 or a track that ends before: got label {label}, begin {begin}, "
                f"end {end}, parent {parent}; correct this row, or that of its parent"
            )
        ends[label] = end
