"""From instances of every frame to tracks, in the format of the Cell Tracking Challenge.

U-Net's release has "a greedy tracking algorithm" ([1], its README) by which labels go on from frame
to frame. Here the links of two frames are chosen at once, none by the order of objects, and cells
may divide.

References
----------
.. [1] Ronneberger et al. 2015, arXiv:1505.04597, and the code released with it.
.. [2] Maška et al. 2023, DOI 10.1038/s41592-023-01879-y: the challenge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import KDTree
from skimage.util import map_array

from unetflow import axes as axis_rules
from unetflow.metrics.contingency import contingency, marginal
from unetflow.progress import log, track
from unetflow.settings.prediction import TrackSettings
from unetflow.store import open_image, replacing

Labels = NDArray[np.integer]
Linked = NDArray[np.uint32]


class Tracks(Iterable[Linked]):
    """Frames in which an object keeps its label, and the lineage of those labels.

    What links two frames, in this order, each object once:

    1. Division: if two or more objects have more than half of their pixels in one object of the
       frame before, and cover at least the part `division` of it each, they are its children.
    2. Overlap: the pairs whose intersections over union add up to most.
    3. Distance: of what is left, pairs of centroids nearer than `max_distance`, those for which
       what they are nearer adds up to most. A track that was missing in up to `gap` frames takes
       part: it ends where it was lost, and is found as its child, since tracks have no holes.

    What is linked to nothing begins a track. Iterating yields a uint32 array for every frame, read
    only since the next is linked to it: two are held at a time. Tracks count from 1 as they begin;
    `lineage`, int64 (tracks, 4), see `unetflow.lineage`, is that of the frames yielded so far.

    Parameters
    ----------
    frames : iterable of integer arrays (rows, columns) or (planes, rows, columns)
        Instances of each frame, 0 = background, all of one shape.
    division : float
        The smaller, the more fragments are taken for children. Above 0.5 nothing divides.
    max_distance, gap : float, int
        0: what does not overlap is not linked. A gap needs a distance.
    spacing : tuple of float
        Size of a voxel along each axis, or one for all, in the unit of `max_distance`.

    Raises
    ------
    ValueError
        If a parameter is out of range, or, on its turn, a frame is neither 2D nor 3D, has not the
        shape of the one before, or a negative label; TypeError if its labels are not integers.

    Examples
    --------
    >>> tracks = Tracks([np.array([[4, 4, 0, 0]]), np.array([[7, 7, 0, 2]])])
    >>> [frame.tolist() for frame in tracks], tracks.lineage.tolist()
    ([[[1, 1, 0, 0]], [[1, 1, 0, 2]]], [[1, 0, 1, 0], [2, 1, 1, 0]])
    """

    def __init__(
        self,
        frames: Iterable[Labels],
        *,
        division: float = 0.25,
        max_distance: float = 0.0,
        gap: int = 0,
        spacing: tuple[float, ...] = (1.0,),
    ) -> None:
        if not (division > 0 <= max_distance and (gap == 0 or gap > 0 < max_distance)):
            raise ValueError(
                "division must be above 0, max_distance and gap not below, and a gap needs a "
                f"max_distance: got {division}, {max_distance} and {gap}; set max_distance to what "
                "objects move in a frame"
            )
        self.frames, self.division, self.spacing = frames, division, np.array(spacing)
        self.max_distance, self.gap, self.lineage = max_distance, gap, np.zeros((0, 4), np.int64)

    def __iter__(self) -> Iterator[Linked]:
        """Link one frame after the other."""
        last, self.lineage = np.zeros(0, np.uint32), np.zeros((0, 4), np.int64)
        for number, frame in enumerate(self.frames):
            if number == 0:
                last = np.zeros(frame.shape, np.uint32)
                self._places = np.zeros((0, frame.ndim))  # where each track was seen last
            sized = frame.ndim in (2, 3) and self.spacing.size in (1, frame.ndim)
            if not sized or frame.shape != last.shape:
                raise ValueError(
                    f"frame {number}: frames must be 2D or 3D, of one shape and of as many axes as "
                    f"spacing has sizes: got {frame.shape} after {last.shape} and spacing "
                    f"{self.spacing.tolist()}; crop the frames alike, or leave spacing out"
                )
            last = self._link(number, frame, last)
            last.flags.writeable = False
            yield last

    def _link(self, number: int, frame: Labels, last: Linked) -> Linked:
        """Return the frame with labels of tracks, and enter it in the lineage."""
        # What is background in both frames is most of what would have to be sorted.
        table = contingency(last, frame, ignore=(last == 0) & (frame == 0))
        labels = np.unique(table.prediction_label[table.prediction_label > 0])
        _, size, row = marginal(table.truth_label, table.count)
        _, new_size, column = marginal(table.prediction_label, table.count)
        pair = (table.truth_label > 0) & (table.prediction_label > 0)
        size, new_size, shared = size[row][pair], new_size[column][pair], table.count[pair]
        old = table.truth_label[pair].astype(np.int64)
        new = np.searchsorted(labels, table.prediction_label[pair])  # rank among the labels

        track, parent = np.zeros((2, len(labels)), np.int64)  # of every object, 0 = none
        child = (2 * shared > new_size) & (shared >= self.division * size)
        child &= np.bincount(old[child], minlength=len(self.lineage) + 1)[old] > 1
        parent[new[child]] = old[child]
        iou = (shared / (size + new_size - shared)) * (parent[new] == 0) * ~np.isin(old, parent)
        best = _best(old, new, iou)
        track[new[best]] = old[best]

        places = _centroids(frame, labels) * self.spacing
        alone = np.flatnonzero((track == 0) & (parent == 0))
        gone = np.setdiff1d(self.lineage[:, 0], np.r_[track, parent, self.lineage[:, 3]])
        gone = gone[self.lineage[gone - 1, 2] >= number - 1 - self.gap]
        if self.max_distance and len(gone) and len(alone):
            near = KDTree(self._places[gone - 1]).sparse_distance_matrix(
                KDTree(places[alone]), self.max_distance, output_type="ndarray"
            )
            near = near[_best(near["i"], near["j"], 1 - near["v"] / self.max_distance)]
            old, new = gone[near["i"]], alone[near["j"]]
            missed = self.lineage[old - 1, 2] < number - 1
            parent[new[missed]], track[new[~missed]] = old[missed], old[~missed]

        begins = np.flatnonzero(track == 0)
        track[begins] = len(self.lineage) + 1 + np.arange(len(begins))
        rows = [(track[i], number, number, parent[i]) for i in begins]
        self.lineage = np.concatenate([self.lineage, np.array(rows, np.int64).reshape(-1, 4)])
        self.lineage[track - 1, 2] = number
        self._places = np.concatenate([self._places, places[begins]])
        self._places[track - 1] = places
        return np.asarray(map_array(frame, labels, track.astype(np.uint32)))


def write_result(tracks: Tracks, folder: Path, sequence: str, first: int = 0) -> Path:
    """Write `mask000.tif` and so on and `res_track.txt` as the challenge takes them; return where.

    That is the folder `01_RES` for sequence "01": complete or absent, and in place of an older one.
    Masks are uint16, with a page for each plane. Frames are numbered from `first`, in the text too,
    with 3 digits or as many as the last one needs.

    Raises
    ------
    ValueError
        If there are more than 65,535 tracks.
    """
    files, result = [], folder / f"{sequence}_RES"
    with replacing(result) as partial:
        partial.mkdir()
        for number, frame in enumerate(tracks):
            if len(tracks.lineage) > np.iinfo(np.uint16).max:
                raise ValueError(
                    f"{result}: masks of the challenge have 16 bits, for up to 65,535 tracks: got "
                    f"{len(tracks.lineage):,} up to frame {number}; leave out small objects"
                )
            files.append(partial / f"{number}.tif")
            mask = frame.astype(np.uint16)
            tifffile.imwrite(files[-1], mask, photometric="minisblack", compression="lzw")
        digits = max(3, len(str(first + len(files) - 1)))
        for number, file in enumerate(files, start=first):
            file.rename(partial / f"mask{number:0{digits}}.tif")
        lineage = tracks.lineage + np.array([0, first, first, 0])
        np.savetxt(partial / "res_track.txt", lineage, fmt="%d")
    return result


def track_images(
    sequences: Mapping[str, Mapping[int, Path]], output: Path, settings: TrackSettings
) -> None:
    """Write the tracks of several sequences into one folder, complete or absent.

    Parameters
    ----------
    sequences : mapping of sequence to its segmented frames (OME-Zarr) by their numbers, in order
    output : Path
        A folder for each, see `write_result`.
    """
    with replacing(output) as partial:
        partial.mkdir()
        for name, frames in sequences.items():
            first = open_image(next(iter(frames.values())))
            axes = axis_rules.spatial(first.axes)
            tracks = Tracks(
                (
                    interesting(np.asarray(open_image(path).array[...]), settings.field_of_interest)
                    for path in track(frames.values(), f"tracking {name}", len(frames))
                ),
                division=settings.division,
                max_distance=settings.max_distance,
                gap=settings.gap,
                spacing=axis_rules.voxel_size(axes, first.voxel_size_um) or (1.0,),
            )
            write_result(tracks, partial, name, min(frames))
            log(f"{name}: {len(tracks.lineage)} tracks in {len(frames)} frames")


def interesting(instances: Labels, frame: int) -> Labels:
    """Instances without those that lie wholly in a frame of the picture, so many pixels wide."""
    rows, columns = (slice(frame, extent - frame) for extent in instances.shape[-2:])
    return np.where(np.isin(instances, instances[..., rows, columns]), instances, 0)


def _best(old: Labels, new: Labels, gain: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which pairs are the one-to-one assignment of the largest total gain; none of gain 0."""
    rows, row = np.unique(old, return_inverse=True)
    columns, column = np.unique(new, return_inverse=True)
    # The algorithm gives every row a partner, so each has one of its own, which gains nothing.
    own = np.arange(len(rows))
    weight = np.concatenate([1 + gain, np.ones(len(rows))])
    place = np.append(row, own), np.append(column, len(columns) + own)
    graph = coo_array((weight, place), shape=(len(rows), len(columns) + len(rows))).tocsr()
    partner = min_weight_full_bipartite_matching(graph, maximize=True)[1]
    return np.flatnonzero((partner[row] == column) & (gain > 0))


def _centroids(frame: Labels, labels: Labels) -> NDArray[np.float64]:
    """Mean position of each label in voxels, of shape (labels, axes)."""
    where = np.nonzero(frame)
    rank = np.searchsorted(labels, frame[where])
    return np.stack([np.bincount(rank, place) / np.bincount(rank) for place in where], axis=1)
