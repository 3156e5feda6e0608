"""Feature maps as rows of patches."""

from __future__ import annotations

from math import ceil, gcd, sqrt

import torch.nn.functional as F
from torch import Tensor, nn


def choose_patch(height: int, width: int) -> tuple[int, int]:
    """The patch for a map: close to the root of its sides, and dividing them if anything sensible does.

    A patch is sensible where it is within a factor of two of the root of its side. First choice is a
    square patch that divides both sides, closest to the root of ``height`` (the SL-ViT paper's rule: 28×28
    gives 4×4, 25×25 gives 5×5, 72×128 gives 8×8). Where there is none, each side gets its own: the sensible
    divisor closest to its root, else the rounded root, for which the map is padded.
    """
    common = gcd(height, width)
    square = [p for p in _divisors(common) if _sensible(p, height) and _sensible(p, width)]
    if square:
        patch = min(square, key=lambda p: abs(p - sqrt(height)))
        return patch, patch
    return _choose_side(height), _choose_side(width)


def _choose_side(side: int) -> int:
    fitting = [p for p in _divisors(side) if _sensible(p, side)]
    return min(fitting, key=lambda p: abs(p - sqrt(side))) if fitting else round(sqrt(side))


def _divisors(number: int) -> list[int]:
    return [p for p in range(1, number + 1) if number % p == 0]


def _sensible(patch: int, side: int) -> bool:
    return sqrt(side) / 2 <= patch <= 2 * sqrt(side)


def patchify(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """``(batch, C, H, W)`` to ``(batch, patch, row * column * C)``, patches in raster order.

    Inside a patch the order is row, column, channel. ``patch`` must divide H and W.
    """
    height, width = patch
    cells = x.unflatten(3, (-1, width)).unflatten(
        2, (-1, height)
    )  # (B, C, grid row, row, grid column, column)
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


class PatchEmbedding(nn.Module):
    """Patches of a map through one linear layer: ``(batch, C, H, W)`` to ``(batch, token, dim)``.

    The same as a convolution whose kernel and stride are the patch, its weights re-ordered. A map that the
    patch does not divide is padded with zeros at the end of the axis.

    Args:
        shape: (C, H, W) of the map.
        dim: width of a token.
        patch: (height, width) of a patch.
    """

    def __init__(self, shape: tuple[int, int, int], dim: int, patch: tuple[int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        self.patch = patch
        self.grid = (ceil(height / patch[0]), ceil(width / patch[1]))
        self.padding = (0, self.grid[1] * patch[1] - width, 0, self.grid[0] * patch[0] - height)
        self.linear = nn.Linear(patch[0] * patch[1] * channels, dim)

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, self.padding) if any(self.padding) else x
        return self.linear(patchify(padded, self.patch))


class FramePatchEmbedding(PatchEmbedding):
    """Patches of every frame: ``(batch, C, time, H, W)`` to ``(batch, time * token, dim)``, frame by frame.

    Args:
        shape: (C, time, H, W) of the video.
        dim, patch: as in `PatchEmbedding`.
    """

    def __init__(self, shape: tuple[int, int, int, int], dim: int, patch: tuple[int, int]) -> None:
        channels, self.time, height, width = shape
        super().__init__((channels, height, width), dim, patch)

    @property
    def tokens(self) -> int:
        return self.time * super().tokens

    def forward(self, x: Tensor) -> Tensor:
        tokens = super().forward(x.transpose(1, 2).flatten(0, 1))
        return tokens.unflatten(0, (-1, self.time)).flatten(1, 2)
