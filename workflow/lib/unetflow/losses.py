"""Loss functions; a pixel of weight 0 takes part in none of them.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, equation 1.
.. [2] Milletari et al. 2016, DOI 10.1109/3DV.2016.79: overlap as a loss.
.. [3] Iglovikov, Shvets 2018, arXiv:1801.05746, equation 5: H - log J; J of sums over all pixels,
   as their code has it (github.com/ternaus/robot-surgery-segmentation, loss.py, LossBinary).
.. [4] Isensee et al. 2021, DOI 10.1038/s41592-020-01008-z, online methods: deep supervision.
.. [5] Wang et al. 2004, DOI 10.1109/TIP.2003.819861: structural similarity (SSIM).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from unetflow.regression import Regression

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
"""Extent and standard deviation of the window, pixels ([5])."""

LEAST_INDEX = 1e-15
"""Of a class that is missed altogether: its logarithm stays finite. As in the code of [3]."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of logits (N, classes, ...) of any precision, classes (N, ...) int64, weights (N, ...) float32.

Where the weight is 0 any class will do. If all weights are 0, so are loss and gradient. Losses of
a regression are of values (N, channels, ...), instead of logits and of classes.
"""


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Pixel-wise softmax and cross entropy, weighted, over the sum of the weights ([1])."""
    losses = functional.cross_entropy(logits.float(), target, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp_min(1e-12)


def dice(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """One minus the soft Dice of the classes that the batch has, their mean ([2])."""
    shared, predicted, true = overlaps(logits, target, weights)
    present = true > 0
    score = 2 * shared[present] / (predicted + true)[present]
    return (1 - score).sum() / present.sum().clamp_min(1)


def dice_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Sum of both."""
    return dice(logits, target, weights) + cross_entropy(logits, target, weights)


def jaccard_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """H - log J: cross entropy minus the logarithm of the soft Jaccard index J ([3]).

    Mean over the classes that the batch has, background left out: with two classes it is that of
    the foreground. Without foreground, where J is 0 whatever is predicted, cross entropy alone.
    """
    shared, predicted, true = (sums[1:] for sums in overlaps(logits, target, weights))
    present = true > 0
    indices = shared[present] / (predicted + true - shared)[present]
    logarithms = torch.log(indices.clamp_min(LEAST_INDEX))
    return cross_entropy(logits, target, weights) - logarithms.sum() / present.sum().clamp_min(1)


def outputs_of(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Logits that a network gives in training, and those of coarser levels after them, if any."""
    return found if isinstance(found, tuple) else (found,)


def deeply_supervised(
    loss: Loss,
    outputs: Sequence[Tensor],
    target: Tensor,
    weights: Tensor,
    strides: Sequence[Sequence[int]],
) -> Tensor:
    """Mean of the losses of several levels, each of which counts half as much as the one above it.

    Of the target, classes or values, a coarser level sees the pixel in the middle of each of its
    samples ([4]).

    Parameters
    ----------
    outputs : sequence of Tensor
        Logits of the target's extents, then those of coarser levels, which have the same middle and
        may reach beyond the target.
    strides : sequence
        Of each of the latter, per axis.
    """
    total = loss(outputs[0], target, weights)
    for level, (logits, sizes) in enumerate(zip(outputs[1:], strides, strict=True), start=1):
        classes, counted = target, weights
        for axis, stride in enumerate(sizes, start=-len(sizes)):
            beyond = (logits.shape[axis] * stride - target.shape[axis]) // 2
            left_out = -(-beyond // stride)  # samples that lie not wholly within the target
            count = logits.shape[axis] - 2 * left_out
            logits = logits.narrow(axis, left_out, count)
            first = left_out * stride - beyond + stride // 2
            places = torch.arange(count, device=target.device) * stride + first
            classes, counted = (part.index_select(axis, places) for part in (classes, counted))
        total = total + loss(logits, classes, counted) / 2**level
    return total / (2 - 0.5 ** len(strides))


def l1(values: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute error over pixels and channels."""
    return averaged((values.float() - target).abs(), weights)


def l2(values: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error over pixels and channels."""
    return averaged((values.float() - target) ** 2, weights)


def ssim(
    values: Tensor,
    target: Tensor,
    weights: Tensor,
    zero: Sequence[float] = (0.0,),
    data_range: Sequence[float] = (1.0,),
) -> Tensor:
    """One minus the structural similarity ([5]), mean over channels and windows within the patch.

    A window counts by the weight in its middle. Variances are over n, as in `metrics.regression`.

    Parameters
    ----------
    zero : sequence of float
        What stands for 0 in the unit of the values, of all channels or of each.
    data_range : sequence of float
        Largest possible value minus the least, likewise.

    Raises
    ------
    ValueError
        If a patch is smaller than a window of 11 pixels.
    """
    if min(values.shape[2:]) < SSIM_WINDOW:
        raise ValueError(
            f"train.loss ssim needs patches of {SSIM_WINDOW} pixels and more after the network: "
            f"got {tuple(values.shape[2:])}; raise patches.tile"
        )
    like = (1, -1, *[1] * (values.ndim - 2))
    shift, extent = (torch.tensor(of, device=values.device).view(like) for of in (zero, data_range))
    p, t = values.float(), target
    mean_p, mean_t = windowed(p), windowed(t)
    var_p, var_t = windowed(p * p) - mean_p**2, windowed(t * t) - mean_t**2
    covariance = windowed(p * t) - mean_p * mean_t
    # Not earlier: a shift changes no variance, but large values would leave nothing of it.
    mean_p, mean_t = mean_p - shift, mean_t - shift
    c1, c2 = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    similarity = (2 * mean_p * mean_t + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_p**2 + mean_t**2 + c1) * (var_p + var_t + c2))
    edge = SSIM_WINDOW // 2
    core = (slice(None), *[slice(edge, -edge)] * (weights.ndim - 1))
    return averaged(1 - similarity, weights[core])


def windowed(x: Tensor) -> Tensor:
    """Gaussian means of all windows that lie within (N, channels, ...), along each axis."""
    places = torch.arange(SSIM_WINDOW, device=x.device) - SSIM_WINDOW // 2
    taps = torch.exp(-0.5 * (places / SSIM_SIGMA) ** 2)
    for axis in range(2, x.ndim):
        x = x.unfold(axis, SSIM_WINDOW, 1) @ (taps / taps.sum())
    return x


def averaged(errors: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of errors (N, channels, ...) by weights (N, ...)."""
    total = (errors.mean(dim=1) * weights).sum()
    return total / weights.sum().clamp_min(1e-12)


def overlaps(logits: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sums over a batch, per class: of both, of the prediction, and of the truth."""
    classes = logits.shape[1]
    predicted = functional.softmax(logits.float(), dim=1).transpose(0, 1).reshape(classes, -1)
    true = functional.one_hot(target.flatten(), classes).T.to(predicted.dtype)
    counted = weights.flatten()
    return (
        (predicted * true * counted).sum(dim=1),
        (predicted * counted).sum(dim=1),
        (true * counted).sum(dim=1),
    )


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "dice_cross_entropy": dice_cross_entropy,
    "jaccard_cross_entropy": jaccard_cross_entropy,
}
OF_VALUES: dict[str, Loss] = {"l1": l1, "l2": l2}


def loss_of(name: str, regression: Regression | None) -> Loss:
    """Return a loss by its name; that of a regression is of normalised values."""
    if regression is None:
        return LOSSES[name]
    if name != "ssim":
        return OF_VALUES[name]
    offsets, scales = regression.normalise.offset, regression.normalise.scale
    zero = [-offset / scale for offset, scale in zip(offsets, scales, strict=True)]
    return partial(ssim, zero=zero, data_range=[regression.data_range / of for of in scales])
