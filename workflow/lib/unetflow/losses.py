"""Loss functions; a pixel of weight 0 takes part in none of them.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, equation 1.
.. [2] Milletari et al. 2016, DOI 10.1109/3DV.2016.79: overlap as a loss.
.. [3] Iglovikov, Shvets 2018, arXiv:1801.05746, equation 5: H - log J.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of logits (N, classes, ...) of any precision, classes (N, ...) int64, weights (N, ...) float32.

Where the weight is 0 any class will do. If all weights are 0, so are loss and gradient.
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
    """H - log J: cross entropy minus the logarithm of the mean soft Jaccard index ([3])."""
    shared, predicted, true = overlaps(logits, target, weights)
    present = true > 0
    scores = shared[present] / (predicted + true - shared)[present]
    # Without a class there is no index, whose logarithm would have no gradient.
    index = scores.mean() if len(scores) else shared.sum() + 1
    return cross_entropy(logits, target, weights) - torch.log(index.clamp_min(1e-7))


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
