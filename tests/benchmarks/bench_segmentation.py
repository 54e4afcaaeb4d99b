"""Connected components of a volume: blocks joined at their seams, against labelling it whole."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from harness import Prepared, compare, in_fresh_process, process_peak_mib, write
from numpy.typing import NDArray
from scipy import ndimage

from unetflow.joining import join, renumber
from unetflow.labelling import components, label_block
from unetflow.segmentation import segment_image
from unetflow.settings.prediction import SegmentSettings
from unetflow.stitching import blocks_of
from unetflow.store import chunks_and_shards, create_array, create_image, remove

SHAPE = (512, 512, 512)
SPACING = 28
"""Voxels from one object to the next: some 5,000 of them."""

SETTINGS = SegmentSettings(threshold=0.5)
MODEL = {"network": {"dimensions": 3}}
CASES = ("512³, in memory", "512³, from disk to disk")


def objects() -> NDArray[np.float16]:
    """Probability of blobs of many sizes, some of which touch."""
    rng = np.random.default_rng(0)
    seeds = np.zeros([extent // 4 for extent in SHAPE], np.float32)
    for centre in np.ndindex(*[extent // SPACING for extent in SHAPE]):
        place = (np.array(centre) + rng.uniform(0.2, 0.8, 3)) * SPACING / 4
        seeds[tuple(place.astype(int))] = rng.uniform(0.3, 1)
    smooth = ndimage.gaussian_filter(seeds, 1.2)
    coarse = np.clip(smooth / np.percentile(smooth, 80) / 2, 0, 1)
    return ndimage.zoom(coarse, 4, order=1).astype(np.float16)


def blockwise(mask: NDArray[np.bool_]) -> Any:
    """Ours with its labels kept in memory, and what it notes of blocks on disk."""
    layout = chunks_and_shards("zyx", SHAPE, cubes=True)
    grid = blocks_of(SHAPE, layout[1], False, SETTINGS)
    labels: Any = np.zeros(SHAPE, np.uint32)  # in place of the array on disk
    with tempfile.TemporaryDirectory() as folder:
        for index in grid.blocks:
            label_block(grid, index, lambda region: components(mask[region]), labels, Path(folder))
        ids = join(grid, dict.fromkeys(grid.blocks, Path(folder)), 0).ids
    renumber(grid, lambda _: labels, ids.__getitem__, labels)
    return labels


def with_dask_image(mask: NDArray[np.bool_]) -> NDArray[np.integer]:
    """dask-image, which relabels a Dask array of chunks; by faces, as its default is."""
    import dask.array as da
    from dask_image.ndmeasure import label

    return np.asarray(label(da.from_array(mask, chunks=256))[0])


IN_MEMORY: dict[str, Callable[[NDArray[np.bool_]], Any]] = {
    "unetflow, blocks": blockwise,
    "cc3d, whole": components,
    "SciPy, whole": lambda mask: ndimage.label(mask)[0],
    "dask-image": with_dask_image,
}


def from_disk(folder: Path) -> None:
    """Ours as the workflow runs it: instances in OME-Zarr with coarser levels."""
    segment_image(folder / "prediction", folder / "blocks", MODEL, SETTINGS)


def whole_from_disk(folder: Path) -> None:
    """Read all, label with cc3d, write all in the same chunks, without coarser levels."""
    foreground = np.asarray(zarr.open_array(folder / "prediction" / "0", mode="r")[0])
    layout = chunks_and_shards("zyx", SHAPE, cubes=True)
    remove(folder / "whole")
    found = create_array(folder / "whole", "zyx", SHAPE, np.uint32, *layout, empty=True)
    found[...] = components(foreground > SETTINGS.threshold)


ON_DISK = {"unetflow, blocks": from_disk, "cc3d, whole": whole_from_disk}


def peak_of(name: str, folder: Path) -> float:
    """Peak in MiB of a process that labels once, from memory or from disk."""
    if name in ON_DISK and folder.is_dir():
        ON_DISK[name](folder)
    else:
        IN_MEMORY[name](objects() > SETTINGS.threshold)
    return process_peak_mib()


def main() -> None:
    """Time labelling in memory and on disk, and tell the peak of processes of their own."""
    foreground = objects()
    mask = foreground > SETTINGS.threshold
    count = int(components(mask).max())
    rows = compare(
        CASES[0],
        {name: partial(prepared, method, mask, count) for name, method in IN_MEMORY.items()},
        traced=False,
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        channels = (1, *SHAPE)
        image = create_image(folder / "prediction", "czyx", channels, np.float16, {}, cubes=True)
        image[0] = foreground
        ready = {
            name: partial(Prepared, partial(method, folder)) for name, method in ON_DISK.items()
        }
        rows += compare(CASES[1], ready, traced=False)
        for row in rows:
            where = folder if row["case"] == CASES[1] else Path("nowhere")
            if np.isfinite(float(str(row.get("median_seconds", "nan")))):
                row["peak_mib"] = in_fresh_process(peak_of, str(row["method"]), where)
    write("segmentation", rows)


def prepared(method: Callable[[Any], Any], mask: NDArray[np.bool_], count: int) -> Prepared:
    """A method that finds as many objects as cc3d, or else is told to be wrong."""
    found = int(method(mask).max())
    note = f"{count:,} objects" if found == count else f"WRONG: {found:,} objects of {count:,}"
    return Prepared(partial(method, mask), note)


if __name__ == "__main__":
    main()
