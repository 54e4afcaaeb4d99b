"""Scores of tracked sequences against their true tracks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from unetflow.lineage import cut_lineage, read_lineage
from unetflow.metrics.contingency import Contingency, contingency
from unetflow.metrics.tracking import tracking_scores
from unetflow.progress import log
from unetflow.store import open_image


def score_tracks(
    sequences: Mapping[str, Mapping[int, str]],
    images: Path,
    tracks: Path,
    lineages: Mapping[str, list[list[int]]],
) -> dict[str, dict[str, float]]:
    """SEG, DET and TRA of each sequence, by its name and frames, such as "01 frames 0-114".

    A sequence without a true lineage, or without markers in one of its frames, is left out, and the
    log says so.

    Parameters
    ----------
    sequences : mapping of sequence to the names of its frames' images by their numbers, in order
    images : Path
        Folder of the images with their labels.
    tracks : Path
        Folder of the results, see `tracking.write_result`.
    lineages : mapping of sequence to its true lineage, see `lineage`
    """
    scores = {}
    for name, frames in sequences.items():
        truth = [images / image for image in frames.values()]
        title = f"{name} frames {min(frames)}-{max(frames)}"
        if name in lineages and all((path / "labels/markers").is_dir() for path in truth):
            lineage = np.array(lineages[name], np.int64).reshape(-1, 4)
            scores[title] = score_sequence(
                dict(zip(frames, truth, strict=True)), lineage, tracks / f"{name}_RES"
            )
        else:
            log(f"{title}: no scores of tracks: the dataset has no true tracks of all these frames")
    return scores


def score_sequence(
    frames: Mapping[int, Path], lineage: NDArray[np.int64], result: Path
) -> dict[str, float]:
    """SEG, DET and TRA of a sequence, or of a run of its frames as if there were no others.

    As in the challenge all pixels count, whether or not `labels/classes` says that they are
    annotated. SEG is the mean over the true objects of all frames that have outlines. A score that
    is not defined, such as SEG without outlines, is left out.

    Parameters
    ----------
    frames : mapping of frame number to its image (OME-Zarr with labels/markers), in order
    lineage : int64 array (tracks, 4)
        That of the whole sequence.
    result : Path
        Folder of the challenge with a mask of each of these frames.

    Raises
    ------
    ValueError
        If markers and lineage do not have the same tracks.
    """
    masks = sorted(result.glob("mask*.tif"))

    def tables(label: str) -> Iterator[Contingency]:
        for path, mask in zip(frames.values(), masks, strict=True):
            known = open_image(path).label(label)
            if known is not None:
                truth, found = np.asarray(known[...]), tifffile.imread(mask)
                yield contingency(truth, found, ignore=(truth == 0) & (found == 0))

    run = min(frames), max(frames)
    scores = tracking_scores(
        tables("markers"),
        cut_lineage(lineage, *run),
        cut_lineage(read_lineage(result / "res_track.txt"), *run),
        tables("instances"),
    )
    found = {name: scores[name] for name in ("seg", "det", "tra")}
    return {name: score for name, score in found.items() if math.isfinite(score)}
