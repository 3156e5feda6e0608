"""A linear probe: what a network that was trained for something else says about classes of one's own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

#: of what a probe is fitted to, against a certainty that few recordings do not bear out
SMOOTHING = 0.05
#: of the mean deviation of all values: below it a value says more of chance than of the sound
LEAST_SPREAD = 0.1
STEPS = 200


class LinearProbe:
    """Multinomial logistic regression on standardised embeddings, with an L2 penalty.

    The loss is the mean over recordings, each window of one having an equal share of it, so that long ones
    do not count for more. Fitted by L-BFGS from zero, so the same data give the same probe.

    Args:
        l2: weight of the sum of squared weights.
    """

    def __init__(self, l2: float) -> None:
        self.l2 = l2
        self._scale: tuple[Tensor, Tensor] | None = None
        self._weights: tuple[Tensor, Tensor] | None = None

    def fit(self, embeddings: Tensor, targets: Tensor, rows: Tensor, classes: int) -> None:
        """Learn from embeddings ``(window, dim)`` with class numbers and recordings, both ``(window,)``."""
        wide = embeddings.double()
        spread = wide.std(0, correction=0)
        self._scale = wide.mean(0), (spread + LEAST_SPREAD * spread.mean()).clamp_min(1e-12)
        x = self._standardised(embeddings)
        _, place, counts = rows.unique(return_inverse=True, return_counts=True)
        share = 1.0 / (counts[place] * len(counts))
        weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, requires_grad=True)
        bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [weight, bias], max_iter=STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            each = cross_entropy(x @ weight + bias, targets, reduction="none", label_smoothing=SMOOTHING)
            total = (each * share).sum() + self.l2 * weight.square().sum()
            total.backward()
            return total

        with torch.enable_grad():
            optimiser.step(loss)
        self._weights = weight.detach(), bias.detach()

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Logits ``(window, class)``, float32; there once it was fitted."""
        assert self._weights is not None, "fit the probe first"
        weight, bias = self._weights
        return (self._standardised(embeddings) @ weight + bias).float()

    def _standardised(self, embeddings: Tensor) -> Tensor:
        assert self._scale is not None
        mean, spread = self._scale
        return (embeddings.double() - mean) / spread
