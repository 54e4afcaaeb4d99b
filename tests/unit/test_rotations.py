"""The mean over rotations: a prediction that turns with its input is its own mean."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from unetflow.rotations import mean_over_rotations


def smooth(shape: tuple[int, ...]) -> NDArray[np.float32]:
    noise = np.random.default_rng(0).normal(size=shape)
    filtered = np.stack([gaussian_filter(plane, 4, mode="mirror") for plane in noise])
    return (filtered / filtered.std()).astype(np.float32)


@pytest.mark.parametrize("count", [1, 4, 7])
@pytest.mark.parametrize("shape", [(2, 60, 60), (1, 41, 90)])
def test_what_turns_with_its_input_is_its_own_mean(count: int, shape: tuple[int, ...]) -> None:
    """A pointwise function does; what is left is interpolation, which the mean's error bounds."""
    pixels = smooth(shape)

    def squash(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return 1 / (1 + np.exp(-values))

    found = mean_over_rotations(squash, pixels, count)
    assert found.shape == shape
    np.testing.assert_allclose(found, squash(pixels), atol=0.02)


def test_quarter_turns_equal_those_of_numpy() -> None:
    pixels = smooth((1, 33, 33))
    ramp = np.linspace(0, 1, 200, dtype=np.float32)

    def look(values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Something that does not turn with its input: it depends on the row."""
        rows = values.shape[1]
        start = (200 - rows) // 2
        return values * ramp[start : start + rows, None]

    found = mean_over_rotations(look, pixels, 4)
    # The canvas is centred on the plane, so its rows meet the middle of the ramp too.
    straight = [np.rot90(look(np.rot90(pixels, k, (1, 2))), -k, (1, 2)) for k in range(4)]
    np.testing.assert_allclose(found, np.mean(straight, axis=0), atol=0.01)


def test_each_rotation_is_predicted_once_on_a_canvas_that_holds_it() -> None:
    seen = []

    def note(values: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(values.shape)
        return values

    mean_over_rotations(note, smooth((1, 30, 40)), 7)
    assert seen == [(1, 30, 40)] + [(1, 52, 52)] * 6
