"""Coarser levels against boxes of voxels, taken one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from unetflow.pyramid import add_levels
from unetflow.store import create_array


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("depth", [1, 3, 8])
def test_a_voxel_stands_for_the_box_below_it(
    tmp_path: Path, depth: int, dtype: type, mean: bool
) -> None:
    shape, chunks, shards = (2, 13, 21, 18), (1, depth, 4, 4), (2, 2 * depth, 8, 8)
    finest = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    create_array(tmp_path / "0", "czyx", shape, dtype, chunks, shards)[...] = finest
    sizes = {"z": 2.0, "y": 1.0, "x": 1.0}  # planes are halved from the second level on
    levels = add_levels(tmp_path, "0", "czyx", sizes, mean)
    below = finest
    for path in list(levels)[1:]:
        found = zarr.open_array(tmp_path / path)[...]
        steps = [-(-n // m) for n, m in zip(below.shape, found.shape, strict=True)]
        for place in np.ndindex(*found.shape):
            corner = [at * step for at, step in zip(place, steps, strict=True)]
            ends = [at + step for at, step in zip(corner, steps, strict=True)]
            # Where an extent is odd its last voxel counts twice.
            index = [
                [min(i, extent - 1) for i in range(start, stop)]
                for start, stop, extent in zip(corner, ends, below.shape, strict=True)
            ]
            box = below[np.ix_(*index)]
            expected = box.mean(dtype=np.float64) if mean else box.flat[0]
            if dtype is np.uint8:
                assert abs(found[place] - expected) <= 0.5
            else:
                assert found[place] == pytest.approx(expected, rel=1e-6)
        below = found
    assert [factors.get("z", 1) for factors in levels.values()] == [1, 1, 2, 4]
    assert below.shape[-2:] == (3, 3)
