"""Losses of a classifier: cross-entropy and focal, with smoothed labels and weighted classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassifierLoss:
    """How far logits are from targets.

    Args:
        gamma: exponent of the focal loss; 0 for the cross-entropy.
        label_smoothing: share of each target that is spread evenly over all classes, in 0..1, 1 excluded.
        weights: of the classes; None for 1 each.
    """

    gamma: float = 0.0
    label_smoothing: float = 0.0
    weights: tuple[float, ...] | None = None

    def __call__(self, logits: Any, targets: Any) -> Any:
        """The mean over a batch, as a scalar tensor.

        Args:
            logits: ``(batch, class)``.
            targets: class indices ``(batch,)`` or probabilities ``(batch, class)``.
        """
        from torch.nn.functional import cross_entropy

        wide = logits.float()
        if self.gamma == 0 and self.weights is None:
            return cross_entropy(wide, targets, label_smoothing=self.label_smoothing)
        return focal_loss(
            wide, targets, gamma=self.gamma, label_smoothing=self.label_smoothing, weights=self.weights
        )


def focal_loss(
    logits: Any,
    targets: Any,
    *,
    gamma: float = 1.0,
    label_smoothing: float = 0.0,
    weights: Sequence[float] | None = None,
) -> Any:
    """Focal loss: the cross-entropy in which what is surely right counts less (Lin et al., ICCV 2017).

    ``-sum_k w_k y_k (1 - p_k)^gamma log p_k``, summed over classes, so that it is defined for the soft
    targets of mixup and smoothed labels too; for a one-hot target it is ``-(1 - p_t)^gamma log p_t``. The
    mean is over samples, not over weights: a rare class weighs the same in every batch, and soft targets and
    class indices are treated alike.

    Args:
        logits: ``(batch, class)``.
        targets: class indices ``(batch,)`` or probabilities ``(batch, class)``.
        gamma: 0 gives the cross-entropy.
        label_smoothing: share of each target that is spread evenly over all classes.
        weights: of the classes.

    Returns:
        A scalar tensor.
    """
    import torch
    from torch.nn.functional import log_softmax, one_hot

    log_p = log_softmax(logits, dim=1)
    classes = logits.shape[1]
    y = targets if targets.is_floating_point() else one_hot(targets, classes).to(log_p)
    if label_smoothing:
        y = (1 - label_smoothing) * y + label_smoothing / classes
    if weights is not None:
        y = y * torch.as_tensor(weights, dtype=log_p.dtype, device=log_p.device)
    if gamma:
        # Where p is 1 a power below one would have no finite slope.
        y = y * (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny) ** gamma
    return -(y * log_p).sum(dim=1).mean()


def inverse_weights(counts: NDArray[np.integer[Any]], floor: int = 1) -> NDArray[np.float64]:
    """Class weights ``1 / max(n, floor)``: rare classes weigh more, but not without limit.

    Args:
        counts: training samples of each class, ``(class,)``.
        floor: classes of fewer samples than this weigh no more.
    """
    return 1.0 / np.maximum(counts, max(floor, 1))


def scaled_weights(weights: NDArray[np.float64], counts: NDArray[np.integer[Any]]) -> tuple[float, ...]:
    """Class weights with a mean of 1 over the training samples, so that the learning rate keeps its meaning.

    Args:
        weights: of the classes, at least 0, ``(class,)``.
        counts: training samples of each class, ``(class,)``; some of them of a class that weighs something.
    """
    return tuple((weights * counts.sum() / (weights * counts).sum()).tolist())
