"""Bag-of-Features pooling: which of some learnt codewords a map's local features resemble, on average.

N. Passalis, A. Tefas, "Learning Bag-of-Features Pooling for Deep Convolutional Neural Networks", ICCV 2017.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BagOfFeatures(nn.Module):
    """Soft histogram over codewords, ``(batch, codewords)``: at least 0, and 1 in sum.

    Takes a map ``(batch, C, ...)`` of any size, tokens ``(batch, N, C)`` or a vector ``(batch, C)``. A local
    feature x belongs to codeword v_j by ``softmax_j(-|x - v_j|^2 / (2 sigma^2))``, and the histogram is the
    mean over all places. ``sigma`` is kept as its logarithm, so that training cannot make it negative.

    Args:
        channels: C.
        codewords: how many.
    """

    def __init__(self, channels: int, codewords: int) -> None:
        super().__init__()
        self.codewords = nn.Parameter(torch.randn(codewords, channels))
        # The root of the mean square distance of standard normal features and codewords.
        self.log_sigma = nn.Parameter(torch.tensor(0.5 * math.log(2 * channels)))

    def memberships(self, x: Tensor) -> Tensor:
        """Of each place in each codeword, ``(batch, place, codewords)``; they sum to 1 over codewords."""
        # |x|^2 is the same for all codewords and falls out of the softmax; what remains is a linear layer,
        # which costs what the distances do, is counted as such, exports and can be quantised.
        offset = -0.5 * self.codewords.square().sum(1)
        likeness = F.linear(local_features(x), self.codewords, offset)
        return (likeness * (-2 * self.log_sigma).exp()).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.memberships(x).mean(1)


def local_features(x: Tensor) -> Tensor:
    """A map ``(batch, C, ...)``, tokens ``(batch, N, C)`` or a vector ``(batch, C)`` by place.

    Returns:
        ``(batch, place, C)``.
    """
    if x.ndim == 2:
        return x[:, None]
    return x if x.ndim == 3 else x.flatten(2).transpose(1, 2)
