"""SEG, DET and TRA of the Cell Tracking Challenge: how well cells were found and followed.

A tracked sequence is a graph: its vertices are the objects of every frame, its edges join a track's
objects of successive frames, and the last object of a parent with the first of each child. DET and
TRA say how much of the work of drawing the true graph the predicted one saves.

Lineages are those of `lineage`.

References
----------
.. [1] Matula et al. 2015, DOI 10.1371/journal.pone.0144959: acyclic oriented graph matching.
.. [2] Maška et al. 2014, DOI 10.1093/bioinformatics/btu080: SEG.
.. [3] Maška et al. 2023, DOI 10.1038/s41592-023-01879-y: all three in today's challenge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unetflow.lineage import check_lineage
from unetflow.metrics.contingency import Contingency, marginal, ratio
from unetflow.metrics.instances import object_ious

WEIGHTS = {"ns": 5.0, "fn": 10.0, "fp": 1.0, "ed": 1.0, "ea": 1.5, "ec": 1.0}
"""What the challenge takes for each operation of `graph_operations` ([1], [3])."""


def tracking_scores(
    markers: Iterable[Contingency],
    truth: NDArray[np.integer],
    prediction: NDArray[np.integer],
    segmentation: Iterable[Contingency] = (),
) -> dict[str, float]:
    """Scores of one tracked sequence.

    TRA = 1 - min(AOGM, AOGM_0) / AOGM_0, with AOGM the weighted sum of the operations that correct
    the predicted graph, and AOGM_0 that of drawing the true graph from nothing. DET is the same of
    vertices alone. SEG is the mean of `object_ious` over all frames' true objects.

    Parameters
    ----------
    markers : Contingency of every frame, in their order
        True tracking markers (such as `TRA/man_track000.tif`) against predicted labels, read one at
        a time. Pixels that are background on both sides may be left out, no others.
    truth, prediction : integer arrays of shape (tracks, 4)
        Lineages.
    segmentation : Contingency of each frame that has true outlines, optional
        These (`SEG/man_seg000.tif`) against predicted labels. They need not be labelled as tracks.

    Returns
    -------
    dict
        `seg`, `det` and `tra`, in [0, 1], 1 is best; then the counts of `graph_operations`.
        With an empty prediction all three are 0. Without true markers `det` and `tra` are 0, and
        NaN where nothing was predicted either; without true outlines `seg` is NaN.

    Raises
    ------
    ValueError
        See `graph_operations`.
    """
    operations = graph_operations(markers, truth, prediction)
    cost = {name: weight * operations[name] for name, weight in WEIGHTS.items()}
    vertices = WEIGHTS["fn"] * operations["vertices"]
    edges = WEIGHTS["ea"] * operations["edges"]
    ious = np.concatenate([np.zeros(0), *(object_ious(table) for table in segmentation)])
    return {
        "seg": float(ious.mean()) if len(ious) else math.nan,
        "det": _saved(cost["ns"] + cost["fn"] + cost["fp"], vertices),
        "tra": _saved(sum(cost.values()), vertices + edges),
        **operations,
    }


def graph_operations(
    markers: Iterable[Contingency], truth: NDArray[np.integer], prediction: NDArray[np.integer]
) -> dict[str, int]:
    """Count the operations that make the true graph of the predicted one, as in [1].

    A predicted object finds each true marker of which it covers more than half: a marker is found
    once at most, and an object may find several. Edges are compared between those predicted objects
    that found exactly one. Parameters are those of `tracking_scores`.

    Returns
    -------
    dict
        `ns`: splits, one less than the markers an object found; `fn`: markers not found; `fp`:
        objects that found none; `ed`: predicted edges not in truth; `ea`: true edges not predicted;
        `ec`: edges of both, from parent to child in one and within a track in the other;
        `vertices` and `edges` of the true graph.

    Raises
    ------
    ValueError
        If a lineage is none (`check_lineage`) or goes on after the last frame, or if a label is in
        the image and not in the lineage's tracks of that frame, or the other way round.
    """
    true, predicted = _Graph.of(truth, "truth"), _Graph.of(prediction, "prediction")
    pairs = [np.zeros((2, 0), np.int64)]
    for frame, table in enumerate(markers):
        true.check(frame, table.truth_label)
        predicted.check(frame, table.prediction_label)
        _, size, row = marginal(table.truth_label, table.count)
        objects = (table.truth_label > 0) & (table.prediction_label > 0)
        found = table.where(objects & (2 * table.count > size[row]))
        marker = true.vertices(frame, found.truth_label)
        pairs.append(np.stack([marker, predicted.vertices(frame, found.prediction_label)]))
    for graph in (true, predicted):
        if (end := graph.end.max(initial=-1)) > len(pairs) - 2:
            raise ValueError(
                f"{graph.name}: the lineage must end with the images: got an end in frame {end} "
                f"and {len(pairs) - 1} images; give the table of every frame, from 0 on"
            )

    marker, finder = np.concatenate(pairs, axis=1)
    found_by = np.bincount(finder, minlength=predicted.count)  # markers that each object found
    alone = found_by[finder] == 1
    to_truth = np.full(predicted.count, -1)
    to_truth[finder[alone]] = marker[alone]
    edges, of_parent = true.edges()
    drawn, drawn_of_parent = predicted.edges()
    drawn = to_truth[drawn]
    compared = (drawn >= 0).all(axis=0)
    key = edges[0] * true.count + edges[1]
    drawn_key = (drawn[0] * true.count + drawn[1])[compared]
    both, here, there = np.intersect1d(key, drawn_key, assume_unique=True, return_indices=True)
    return {
        "ns": int((found_by[found_by > 0] - 1).sum()),
        "fn": true.count - len(marker),
        "fp": int((found_by == 0).sum()),
        "ed": len(drawn_key) - len(both),
        "ea": len(key) - len(both),
        "ec": int((of_parent[here] != drawn_of_parent[compared][there]).sum()),
        "vertices": true.count,
        "edges": len(key),
    }


@dataclass(frozen=True, eq=False)
class _Graph:
    """A lineage in ascending order of its labels; objects are numbered track by track."""

    name: str
    label: NDArray[np.int64]  # of shape (tracks,), as all that follow
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    parent: NDArray[np.int64]
    first: NDArray[np.int64]  # number of each track's first object
    last: NDArray[np.int64]
    count: int  # objects

    @classmethod
    def of(cls, lineage: NDArray[np.integer], name: str) -> _Graph:
        check_lineage(lineage, name)
        label, begin, end, parent = lineage[np.argsort(lineage[:, 0])].astype(np.int64).T
        length = end - begin + 1
        stop = np.cumsum(length)
        return cls(name, label, begin, end, parent, stop - length, stop - 1, int(length.sum()))

    def check(self, frame: int, labels: NDArray[np.integer]) -> None:
        """Refuse a frame whose labels are not those of the lineage."""
        seen = np.unique(labels[labels > 0]).astype(np.int64)
        said = self.label[(self.begin <= frame) & (frame <= self.end)]
        if not np.array_equal(seen, said):
            raise ValueError(
                f"{self.name}, frame {frame}: image and lineage must have the same tracks: got "
                f"{np.setdiff1d(seen, said).tolist()} in the image alone and "
                f"{np.setdiff1d(said, seen).tolist()} in the lineage alone; correct where they "
                "begin and end: one that comes back after a gap is new, a child of the old one"
            )

    def vertices(self, frame: int, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """Objects of a frame by their labels."""
        track = np.searchsorted(self.label, labels.astype(np.int64))
        return self.first[track] + (frame - self.begin[track])

    def edges(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Both objects of every edge, of shape (2, edges), and which edges go to a child."""
        within = np.setdiff1d(np.arange(self.count), self.last)
        child = np.flatnonzero(self.parent)
        last = self.last[np.searchsorted(self.label, self.parent[child])]
        edges = np.stack([np.append(within, last), np.append(within + 1, self.first[child])])
        return edges, np.arange(edges.shape[1]) >= len(within)


def _saved(cost: float, worst: float) -> float:
    """Part of the worst cost that is not spent; see `ratio` where that is 0."""
    return ratio(worst - min(cost, worst), worst, empty=cost == 0)
