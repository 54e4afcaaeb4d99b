"""Thinning of borders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unetflow.metrics.boundary import thin
from unetflow.metrics.contingency import contingency, v_info, v_rand


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int32, np.uint64]),
        hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5),
        elements=st.sampled_from([0, 0, 0, 1, 2, 200]),
    )
)
def test_every_pixel_takes_the_label_of_a_nearest_object(labels: np.ndarray) -> None:
    before = labels.copy()
    thinned = thin(labels)
    assert np.array_equal(labels, before)
    assert thinned.dtype == labels.dtype
    objects = np.argwhere(labels)
    for pixel in np.ndindex(labels.shape):
        distances = ((objects - pixel) ** 2).sum(axis=1)
        nearest = objects[distances == distances.min()] if len(objects) else []
        assert thinned[pixel] in {labels[tuple(found)] for found in nearest} or not len(objects)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_an_image_without_objects_stays_empty(shape: tuple[int, ...]) -> None:
    assert not thin(np.zeros(shape, np.uint16)).any()


@pytest.mark.parametrize("width", [1, 3, 5])
def test_border_width_does_not_change_the_scores_of_a_thinned_prediction(width: int) -> None:
    truth = np.zeros((12, 20), np.uint8)
    truth[:, :9], truth[:, 11:] = 1, 2
    prediction = truth.copy()
    prediction[:, 10 - width : 10 + width] = 0
    table = contingency(truth, thin(prediction))
    assert v_rand(table)["score"] == 1
    assert v_info(table)["score"] == 1
