"""Least squares in closed form, from data that comes in parts."""

from __future__ import annotations

import torch
from torch import Tensor


class NormalEquations:
    """What least squares needs to know of features S and targets Y: their products, in double precision.

    The features themselves need not be kept: those of 16,000 images and 512 codewords become a 512×512
    matrix.
    """

    def __init__(self) -> None:
        self.samples = 0
        self.gram = self.moment = self.energy = torch.zeros((), dtype=torch.float64)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """More samples: ``(sample, feature)`` and ``(sample, target)``."""
        s, y = features.detach().double().cpu(), targets.detach().double().cpu()
        self.samples += len(s)
        self.gram = self.gram + s.T @ s
        self.moment = self.moment + s.T @ y
        self.energy = self.energy + y.square().sum()

    def solve(self, ridge: float) -> Tensor:
        """The weights ``(feature, target)`` of least squares, ``W`` in ``S W ≈ Y``, float64.

        Args:
            ridge: added to the diagonal, as a share of its mean. With 0 the shortest solution is found where
                there are several.
        """
        if not ridge:
            found: Tensor = torch.linalg.lstsq(self.gram, self.moment, driver="gelsd").solution
            return found
        damped = self.gram + ridge * self.gram.diagonal().mean() * torch.eye(len(self.gram)).double()
        return torch.cholesky_solve(self.moment, torch.linalg.cholesky(damped))

    def loss(self, weights: Tensor) -> float:
        """Squared distance of ``S W`` and Y, summed over targets and averaged over samples."""
        w = weights.double().cpu()
        total = self.energy - 2 * (w * self.moment).sum() + (w * (self.gram @ w)).sum()
        return max(total.item() / self.samples, 0.0)
