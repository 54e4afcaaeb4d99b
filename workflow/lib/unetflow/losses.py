"""Loss functions.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, equation 1.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def weighted_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Pixel-wise softmax and cross entropy, each pixel weighted, over the sum of the weights ([1]).

    Parameters
    ----------
    logits : (N, classes, ...) float
        Taken in float32, whatever the network's precision.
    target : (N, ...) int64
        Class of each pixel. Where the weight is 0 any class will do: such a pixel gets no gradient.
    weights : (N, ...) float32
        At least 0. If all are 0, so is the loss.
    """
    losses = functional.cross_entropy(logits.float(), target, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp_min(1e-12)
