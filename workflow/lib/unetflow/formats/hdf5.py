"""A dataset of an HDF5 file."""

from __future__ import annotations

from typing import Any

import fsspec
import h5py

from unetflow.formats.source import Source, axes_by_number, divided, readable, whole

KIND = "HDF5 file"


class Dataset:
    """Pixels of a dataset; h5py reads one region at a time, whichever thread asks."""

    def __init__(self, place: str, dataset: h5py.Dataset) -> None:
        self.place, self.dataset = place, dataset
        self.shape, self.dtype = dataset.shape, dataset.dtype

    def __getitem__(self, index: Any) -> Any:
        """Pixels of a region."""
        try:
            return self.dataset[index]
        except OSError as error:
            if error.errno is not None:  # of the disk or the network
                raise
            # h5py's for a chunk that cannot be decoded
            raise ValueError(f"{self.place}: {error}; replace the file") from error


def open_source(place: str, scene: str, level: str) -> Source:
    """Return a dataset of a file, `FILE.h5:/path/of/dataset`, or the only one of `FILE.h5`.

    Its axes are those of AXES_BY_NUMBER; it tells no voxel size.

    Raises
    ------
    ValueError
        If the file cannot be read, or holds no such dataset or several.
    """
    whole(place, scene, level)
    path, inside = divided(place)
    with readable(place, KIND):
        if "://" in path:
            file = h5py.File(fsspec.open(path).open(), "r")
        else:
            file = h5py.File(path, "r", locking="best-effort")  # some shared disks have no locks
        names = datasets(file)
        dataset = file.get(inside or (names[0] if len(names) == 1 else "/"))
    if not isinstance(dataset, h5py.Dataset):
        found = ", ".join(f"/{name}" for name in names) or "none of 2 or more axes"
        raise ValueError(
            f"{place}: a volume must be one dataset, such as {path}:/data: found {found}; "
            "correct the path in the sheet"
        )
    return Source(Dataset(place, dataset), axes_by_number(place, dataset.shape))


def datasets(file: h5py.File) -> list[str]:
    """Names of the datasets that may hold an image."""
    names: list[str] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim > 1:
            names.append(name)

    file.visititems(note)
    return names
