"""Layers that mix tokens by linear layers instead of attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MixerLayer(nn.Module):
    """``U = X + f2(GELU(f1(LN(X)ᵀ)))ᵀ``, ``Y = U + f4(GELU(f3(LN(U))))``.

    ``(batch, token, dim)`` to the same.

    I. Tolstikhin et al., *MLP-Mixer: An all-MLP Architecture for Vision*, NeurIPS 2021.

    Args:
        tokens, dim: of the input.
        token_hidden: width between f1 and f2, which work along the tokens.
        channel_hidden: width between f3 and f4, which work along the channels.
    """

    def __init__(self, tokens: int, dim: int, token_hidden: int, channel_hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.across = nn.Sequential(
            nn.Linear(tokens, token_hidden), nn.GELU(), nn.Linear(token_hidden, tokens)
        )
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.along = nn.Sequential(nn.Linear(dim, channel_hidden), nn.GELU(), nn.Linear(channel_hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.along(self.norm2(x))


class Affine(nn.Module):
    """``α ⊙ x + β`` with one α and β for each channel of ``(..., dim)``; starts as the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x + self.beta


class ResMLPLayer(nn.Module):
    """``U = X + Aff(f1(Aff(X)ᵀ)ᵀ)``, ``Y = U + Aff(f3(GELU(f2(Aff(U)))))``.

    ``(batch, token, dim)`` to the same.

    H. Touvron et al., *ResMLP: Feedforward Networks for Image Classification with Data-Efficient Training*,
    2021.

    Args:
        tokens, dim: of the input.
        hidden: width between f2 and f3, which work along the channels.
    """

    def __init__(self, tokens: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.before1, self.after1 = Affine(dim), Affine(dim)
        self.across = nn.Linear(tokens, tokens)
        self.before2, self.after2 = Affine(dim), Affine(dim)
        self.along = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.after1(self.across(self.before1(x).transpose(1, 2)).transpose(1, 2))
        return x + self.after2(self.along(self.before2(x)))
