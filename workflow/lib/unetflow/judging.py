"""A truth and results on one grid: that which was annotated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unetflow.datasets.medical import require_same_grid
from unetflow.formats.medical import placement_of
from unetflow.progress import one_line
from unetflow.store import SOURCE, Image, open_image
from unetflow.truths import Guarded, UnusableTruth, truth_arrays
from unetflow.volumes import is_medical, open_volume
from unetflow.voxels import on_grid, resampled


class Judged(NamedTuple):
    """A truth and results on one grid.

    Attributes
    ----------
    classes, instances : arrays, or what reads regions of them when indexed
        True ones, see `truths.truth_arrays`.
    foreground : Image
        Probabilities of all classes but background.
    segmentation : Image
    """

    classes: Any
    instances: Any
    foreground: Image
    segmentation: Image


def open_truth(
    place: Path | str,
    volume: str,
    foreground: Image,
    segmentation: Image,
    class_names: Sequence[str],
) -> Judged:
    """Truth of a volume at a place, and its results on the grid of that.

    Parameters
    ----------
    volume : str
        Place of the volume: where both are medical, they must lie at the same one of the patient.

    Raises
    ------
    UnusableTruth
        Here, and when what is returned is read.
    """
    try:
        if is_medical(str(place)) and is_medical(volume):
            require_same_place(volume, str(place))
        found = on_grid_of_truth(open_volume(place), foreground, segmentation, class_names)
    except Exception as error:
        raise UnusableTruth(one_line(error)) from error
    instances = None if found.instances is None else Guarded(found.instances)
    return found._replace(classes=Guarded(found.classes, len(class_names)), instances=instances)


def require_same_place(volume: str, truth: str) -> None:
    """Refuse a medical truth of a volume's extents that lies elsewhere."""
    here, there = placement_of(volume), placement_of(truth)
    if here and there and here.spatial_shape == there.spatial_shape:
        require_same_grid(Path(volume), Path(truth))


def on_grid_of_truth(
    truth: Image, foreground: Image, segmentation: Image, class_names: Sequence[str]
) -> Judged:
    """Truth and results on the grid that was annotated, to which probabilities are interpolated.

    That is another one of a dataset's image that was prepared with voxels of another size, and of a
    truth of a volume whose voxels say that it covers it. An object is there where its nearest voxel
    is.

    Raises
    ------
    ValueError
        See `truths.truth_arrays`.
    """
    grid = truth if covers(truth, segmentation) else segmentation
    classes, instances = truth_arrays(truth, grid.spatial_shape, class_names)
    drawn = Path(truth.path, "labels", SOURCE + "classes")
    if drawn.is_dir():
        grid = open_image(drawn)
        classes, instances = grid.array, truth.label(SOURCE + "instances")
    if grid is segmentation:
        return Judged(classes, instances, foreground, segmentation)
    of = grid.spatial_shape, grid.voxel_size_um
    return Judged(
        classes, instances, on_grid(foreground, *of), on_grid(segmentation, *of, nearest=True)
    )


def covers(truth: Image, segmentation: Image) -> bool:
    """Whether a truth has other voxels than a segmentation, and is as long, wide and high."""
    if truth.spatial_shape == segmentation.spatial_shape or not segmentation.voxel_size_um:
        return False
    if truth.voxel_size_um.keys() != segmentation.voxel_size_um.keys():
        return False
    found = resampled(truth, segmentation.voxel_size_um)
    return found.spatial_shape == segmentation.spatial_shape
