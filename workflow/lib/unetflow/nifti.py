"""Classes of predictions as NIfTI, on the grid of the volume they were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from unetflow.formats.medical import placement_of, require_simpleitk
from unetflow.formats.placement import Placement, of_voxels
from unetflow.predicted import holds_values, open_prediction, probability_image
from unetflow.progress import track
from unetflow.scoring import most_probable
from unetflow.store import Image, replacing
from unetflow.volumes import is_medical
from unetflow.voxels import on_grid

PLANES = 16
"""That are read at once."""


def write_nifti(
    prediction: Path, place: str, output: Path, choice: Mapping[str, str] | None = None
) -> None:
    """Write the most probable class of each voxel as `.nii.gz`, complete or absent.

    Size, spacing, origin and direction are those of the medical volume that was predicted, or that
    its dataset was prepared from: a voxel's index names the same point of the patient in both.
    Where the prediction has voxels of another size its probabilities are interpolated linearly. A
    volume that is no medical one lies at the origin.

    Parameters
    ----------
    prediction : Path
        OME-Zarr image.
    place : str
        The volume, or the dataset's image.
    choice : mapping, optional
        Scene of the volume.

    Raises
    ------
    ValueError
        If it is a plane, or a regression's, was not predicted, or SimpleITK is missing.
    """
    require_simpleitk(place)
    import SimpleITK as sitk

    image = open_prediction(prediction)
    if holds_values(image):
        raise ValueError(
            f"{prediction}: NIfTI must be of classes: got values of a regression; export them as "
            "OME-TIFF"
        )
    if len(image.spatial_shape) != 3:
        raise ValueError(
            f"{prediction}: NIfTI must be of a volume: got a plane; export it as OME-TIFF"
        )
    grid = source_grid(place, image, choice or {})
    classes = classes_on(image, grid.spatial_shape, grid.voxel_size_um)
    result = sitk.GetImageFromArray(grid.in_file_order(classes))
    result.SetSpacing(grid.spacing_mm)
    result.SetOrigin(grid.origin_mm)
    result.SetDirection(grid.direction)
    with replacing(output) as partial:
        written = partial.with_name(f"{partial.name}.nii.gz")  # the ending says the format
        sitk.WriteImage(result, str(written))
        written.replace(partial)


def write_niftis(predictions: Sequence[Path], images: Path, folder: Path) -> None:
    """Write several predictions, `IMAGE.nii.gz` each, into a folder that is complete or absent.

    Parameters
    ----------
    images : Path
        Folder of the images, each of the name of its prediction.
    """
    with replacing(folder) as partial:
        partial.mkdir()
        for path in track(predictions, "writing NIfTI", len(predictions)):
            write_nifti(path, str(images / path.name), partial / f"{path.name}.nii.gz")


def write_nifti_of_volume(facts: Mapping[str, Any], prediction: Path, output: Path) -> None:
    """Write the classes of an archive's volume.

    Parameters
    ----------
    facts : mapping
        How its prediction went, see `blocks.finish_prediction`.

    Raises
    ------
    ValueError
        If it failed.
    """
    volume = facts["volume"]
    if facts["reason"]:
        raise ValueError(
            f"{volume['path']}: a volume must be predicted to be exported: it failed, "
            f"{facts['reason']}; repair it and run again"
        )
    write_nifti(prediction, volume["path"], output, volume)


def source_grid(place: str, prediction: Image, choice: Mapping[str, str]) -> Placement:
    """Grid of the volume that a prediction was made of."""
    path = Path(place)
    if is_medical(place):
        found = placement_of(place, choice.get("scene", ""))
        assert found is not None  # its prediction is no plane
        return found
    facts: Any = zarr.open_group(path, mode="r").attrs if (path / "zarr.json").is_file() else {}
    if "placement" in facts:
        return Placement.from_json(facts["placement"])
    return of_voxels(prediction.spatial_shape, prediction.voxel_size_um)


def classes_on(
    prediction: Image, shape: tuple[int, ...], voxel_size_um: Mapping[str, float]
) -> NDArray[np.uint8]:
    """Most probable class (z, y, x) on a grid that begins where the prediction's does."""
    found = probability_image(prediction)
    if prediction.spatial_shape != shape:
        found = on_grid(found, shape, voxel_size_um)
    classes = np.empty(shape, np.uint8)
    for start in range(0, shape[0], PLANES):
        planes = slice(start, min(start + PLANES, shape[0]))
        classes[planes] = most_probable(found.array[:, planes])
    return classes
