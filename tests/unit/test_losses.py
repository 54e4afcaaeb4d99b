"""The weighted loss against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unetflow.losses import LOSSES, cross_entropy

torch.set_num_threads(1)
Case = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    classes = draw(st.integers(2, 4))
    shape = (draw(st.integers(1, 3)), *draw(st.lists(st.integers(1, 6), min_size=2, max_size=3)))
    logits = generator.normal(
        0, draw(st.sampled_from([0.1, 3, 30])), (shape[0], classes, *shape[1:])
    )
    target = generator.integers(classes, size=shape)
    weights = generator.gamma(1, size=shape) * generator.integers(2, size=shape)
    weights.flat[0] = 1
    return logits.astype(np.float32), target, weights.astype(np.float32)


def loss_of(case: Case) -> torch.Tensor:
    return cross_entropy(*map(torch.from_numpy, case))


@given(cases())
def test_the_loss_equals_the_mean_of_minus_log_softmax_under_the_weights(case: Case) -> None:
    logits, target, weights = (part.astype(np.float64) for part in case)
    likelihood = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    chosen = np.take_along_axis(likelihood, target[:, None].astype(int), axis=1)[:, 0]
    expected = -(weights * np.log(chosen)).sum() / weights.sum()
    assert loss_of(case).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@given(cases())
def test_overlap_losses_equal_their_formulas(case: Case) -> None:
    logits, target, weights = (part.astype(np.float64) for part in case)
    logits = logits - logits.max(axis=1, keepdims=True)
    likelihood = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores, indices = [], []
    for name in range(logits.shape[1]):
        true, predicted = target == name, likelihood[:, name]
        if not weights[true].any():
            continue
        shared, both = weights[true] @ predicted[true], (weights * (true + predicted)).sum()
        scores.append(2 * shared / both)
        if name > 0:
            indices.append(max(shared / (both - shared), 1e-15))
    expected = {
        "dice": 1 - np.mean(scores),
        "dice_cross_entropy": 1 - np.mean(scores) + loss_of(case).item(),
        "jaccard_cross_entropy": loss_of(case).item() - np.mean(np.log(indices or [1])),
    }
    for name, value in expected.items():
        found = LOSSES[name](*map(torch.from_numpy, case))
        assert found.item() == pytest.approx(value, rel=1e-3, abs=1e-4), name


def binary_loss(outputs: np.ndarray, target: np.ndarray) -> float:
    """H - log J as the authors of TernausNet compute it, of one output a pixel."""
    found, eps = 1 / (1 + np.exp(-outputs)), 1e-15
    entropy = -np.where(target, np.log(found), np.log(1 - found)).mean()
    shared, union = (found * target).sum(), found.sum() + target.sum()
    return float(entropy - np.log((shared + eps) / (union - shared + eps)))


@pytest.mark.parametrize("missed", [0, 6, 14])
@pytest.mark.parametrize("rows", [1, 7, 16])
def test_of_two_classes_the_jaccard_loss_is_the_published_one(missed: float, rows: int) -> None:
    target = np.zeros((2, 16, 16), np.int64)
    target[0, :rows] = 1
    outputs = np.random.default_rng(rows).normal(0, 1, target.shape) - missed
    logits = np.stack([0.7 + 0 * outputs, 0.7 + outputs], axis=1).astype(np.float32)
    found = LOSSES["jaccard_cross_entropy"](
        torch.from_numpy(logits), torch.from_numpy(target), torch.ones(target.shape)
    )
    assert found.item() == pytest.approx(binary_loss(outputs, target), rel=1e-4)
    assert missed == 0 or found.item() > missed


def test_without_foreground_the_jaccard_loss_is_cross_entropy() -> None:
    case = torch.randn(2, 3, 4, 5), torch.zeros(2, 4, 5).long(), torch.rand(2, 4, 5) + 0.1
    assert LOSSES["jaccard_cross_entropy"](*case) == cross_entropy(*case)


@pytest.mark.parametrize("name", LOSSES)
def test_a_sure_and_true_prediction_has_no_loss(name: str) -> None:
    target = torch.arange(12).reshape(1, 3, 4) % 3
    logits = 50.0 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    assert LOSSES[name](logits, target, torch.rand(1, 3, 4) + 0.1).item() == pytest.approx(
        0, abs=1e-5
    )


@given(cases(), st.sampled_from([0.001, 0.5, 7.0, 1000.0]), st.sampled_from(sorted(LOSSES)))
def test_only_the_ratios_of_weights_count(case: Case, factor: float, name: str) -> None:
    logits, target, weights = map(torch.from_numpy, case)
    scaled = LOSSES[name](logits, target, weights * factor)
    usual = LOSSES[name](logits, target, weights)
    assert scaled.item() == pytest.approx(usual.item(), rel=1e-4, abs=1e-5)


@given(cases(), st.sampled_from(sorted(LOSSES)))
def test_a_pixel_of_weight_zero_gets_exactly_no_gradient(case: Case, name: str) -> None:
    logits = torch.from_numpy(case[0]).requires_grad_()
    target, weights = map(torch.from_numpy, case[1:])
    loss = LOSSES[name](logits, target, weights)
    loss.backward()
    gradient = logits.grad.movedim(1, -1)
    assert torch.isfinite(gradient).all()
    assert (gradient[weights == 0] == 0).all()
    other = torch.where(weights == 0, (target + 1) % logits.shape[1], target)
    assert LOSSES[name](logits, other, weights).item() == loss.item()


@pytest.mark.parametrize("name", LOSSES)
def test_no_weight_at_all_is_no_loss_and_no_gradient(name: str) -> None:
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = LOSSES[name](logits, torch.zeros(1, 3, 3).long(), torch.zeros(1, 3, 3))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_half_precision_logits_are_taken_in_single() -> None:
    logits = torch.tensor([[[[8.0]], [[-8.0]]]], dtype=torch.bfloat16)
    loss = cross_entropy(logits, torch.zeros(1, 1, 1).long(), torch.ones(1, 1, 1))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.log1p(np.exp(-16.0)), rel=0.1)
