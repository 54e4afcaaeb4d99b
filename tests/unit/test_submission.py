"""What a challenge reads of a submission."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from unetflow.store import create_image
from unetflow.submission import write_isbi2012


def test_a_submission_is_a_stack_of_probabilities_in_their_order(tmp_path: Path) -> None:
    sections = np.random.default_rng(0).random((3, 2, 5, 7)).astype(np.float32)
    paths = [tmp_path / name for name in ("b", "c", "a")]
    for path, section in zip(paths, sections, strict=True):
        create_image(path, "cyx", section.shape, np.float32, {})[...] = section
    write_isbi2012(paths, tmp_path / "submission.tif")
    with tifffile.TiffFile(tmp_path / "submission.tif") as file:
        (series,) = file.series
        assert (series.axes, series.shape, series.dtype) == ("ZYX", (3, 5, 7), np.float32)
        found = series.asarray()
    np.testing.assert_allclose(found, np.clip(sections.sum(axis=1), 0, 1))


@pytest.mark.parametrize("shapes", [[], [(1, 5, 7), (1, 5, 8)], [(1, 2, 5, 7)]])
def test_what_is_no_stack_of_sections_is_refused(
    tmp_path: Path, shapes: list[tuple[int, ...]]
) -> None:
    paths = [tmp_path / str(number) for number in range(len(shapes))]
    for path, shape in zip(paths, shapes, strict=True):
        create_image(path, "czyx"[:1] + "zyx"[4 - len(shape) :], shape, np.float32, {})
    with pytest.raises(ValueError, match="2D sections of one size"):
        write_isbi2012(paths, tmp_path / "submission.tif")
    assert not (tmp_path / "submission.tif").exists()
