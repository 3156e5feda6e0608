"""The last stage of a vision transformer: special tokens become logits."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError


class ClassTokenHead(nn.Module):
    """Layer norm and one linear layer on the first token: ``(batch, token, dim)`` to ``(batch, classes)``."""

    #: kept by sentio.core.staged.reset_classifier: they belong to the backbone
    kept_at_reset = ("norm",)

    def __init__(self, dim: int, classes: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.fc = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x[:, 0]))


class DistilledHead(nn.Module):
    """Class and distillation token with a linear layer each; the answer is the mean of their softmaxes.

    ``(batch, token, dim)`` to ``(batch, classes)``: the logarithm of that mean, so a softmax of the output
    gives it. Training asks for `separate`, since labels teach the one and a teacher the other.
    H. Touvron et al., *Training Data-Efficient Image Transformers*, ICML 2021.
    """

    kept_at_reset = ("norm",)

    def __init__(self, dim: int, classes: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.fc = nn.Linear(dim, classes)
        self.distillation = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([logits.log_softmax(dim=-1) for logits in self.separate(x).values()])
        return both.logsumexp(dim=0) - log(2)

    def separate(self, x: Tensor) -> dict[str, Tensor]:
        """The logits of each token: ``class``, for the labels, and ``distillation``, for the teacher."""
        x = self.norm(x[:, :2])
        return {"class": self.fc(x[:, 0]), "distillation": self.distillation(x[:, 1])}


class MeanTokenHead(nn.Module):
    """The mean of class and distillation token, layer norm and one linear layer.

    ``(batch, token, dim)`` to ``(batch, classes)``, as in AST and PaSST. With ``distillation`` there is a
    linear layer for the distillation token as well, as in PaSST's published weights: only `separate` uses
    it, the answer does not.
    """

    kept_at_reset = ("norm",)

    def __init__(self, dim: int, classes: int, *, distillation: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.head_norm = nn.LayerNorm(dim, eps=eps)
        self.fc = nn.Linear(dim, classes)
        self.distillation = nn.Linear(dim, classes) if distillation else None

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head_norm(self.norm(x[:, :2]).mean(dim=1)))

    def separate(self, x: Tensor) -> dict[str, Tensor]:
        """The logits of each token: ``class``, for the labels, and ``distillation``, for the teacher.

        Raises:
            ConfigError: it was built without a layer for the distillation token.
        """
        if self.distillation is None:
            raise ConfigError(
                "This network's head has no layer of its own for the distillation token; build it with "
                "head='passt' or head='deit'"
            )
        x = self.norm(x[:, :2])
        return {"class": self.fc(self.head_norm(x[:, 0])), "distillation": self.distillation(x[:, 1])}
