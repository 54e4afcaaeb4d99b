"""Thinning of borders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unetflow.metrics.boundary import nearest_labels, thin
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


@st.composite
def sparse_labels(draw: st.DrawFn) -> np.ndarray:
    """Few objects, with ids of up to 64 bits, in 1 to 3 axes."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=9))
    dtype = draw(st.sampled_from([np.uint8, np.int32, np.uint64]))
    most = min(np.iinfo(dtype).max, 2**63)
    ids = st.sampled_from([1, 2, 200 % (most + 1) or 3, most])
    return draw(hnp.arrays(dtype, shape, elements=ids, fill=st.just(0)))


@given(sparse_labels(), st.integers(1, 6), st.integers(0, 10**6))
def test_labels_within_reach_are_those_of_a_loop_over_objects(
    labels: np.ndarray, reach: int, seed: int
) -> None:
    where = np.random.default_rng(seed).random(labels.shape) < 0.5
    before = labels.copy()
    found = nearest_labels(labels, where, reach)
    assert np.array_equal(labels, before)
    objects, ids = np.argwhere(labels), labels[labels > 0].astype(object)
    expected = []
    for pixel in np.argwhere(where):
        distances = ((objects - pixel) ** 2).sum(axis=1)
        nearest = distances.min(initial=reach**2 + 1)
        near = nearest <= reach**2
        expected.append(min(ids[distances == nearest]) if near else 0)
    assert found.tolist() == expected


@given(sparse_labels(), st.integers(1, 4), st.integers(0, 8), st.integers(1, 5))
def test_a_part_with_a_margin_has_the_labels_of_the_whole(
    labels: np.ndarray, reach: int, start: int, length: int
) -> None:
    where = np.zeros(labels.shape, bool)
    where[start : start + length] = True
    low = max(start - reach, 0)
    part = slice(low, start + length + reach)
    alone = nearest_labels(labels[part], where[part], reach)
    assert np.array_equal(alone, nearest_labels(labels, where, reach))


@pytest.mark.parametrize("shape", [(300, 3), (300, 1, 2)])
@pytest.mark.parametrize("axis", [0, 1])
def test_objects_grow_as_far_as_they_reach_over_empty_space(
    shape: tuple[int, ...], axis: int
) -> None:
    labels, grown = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    labels[100] = 9
    labels, grown = np.swapaxes(labels, 0, axis), np.swapaxes(grown, 0, axis)
    where = np.ones(labels.shape, bool)
    grown[where] = nearest_labels(labels, where, reach=32)
    along = np.swapaxes(grown, 0, axis).reshape(300, -1)
    expected = np.isin(np.arange(300), np.arange(68, 133))
    assert np.array_equal(along == 9, np.repeat(expected[:, None], along.shape[1], axis=1))


def test_whole_objects_are_thinned_alike_where_nothing_is_far() -> None:
    random = np.random.default_rng(0)
    labels = np.where(random.random((60, 70)) < 0.02, random.integers(1, 99, (60, 70)), 0)
    where = labels == 0
    squares = {}
    for name, grown in (("thin", thin(labels)[where]), ("near", nearest_labels(labels, where))):
        objects = {one: np.argwhere(labels == one) for one in np.unique(grown)}
        squares[name] = [
            ((objects[one] - pixel) ** 2).sum(axis=1).min()
            for one, pixel in zip(grown, np.argwhere(where), strict=True)
        ]
    assert squares["thin"] == squares["near"]
