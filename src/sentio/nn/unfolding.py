"""A feature map as sequences of equal cells of its patches, and back."""

from __future__ import annotations

from torch import Tensor


def unfold(x: Tensor, patch: int = 2) -> Tensor:
    """``(batch, C, H, W)`` to ``(batch * patch², H/patch * W/patch, C)``.

    One sequence for each cell of a patch: it holds that cell of all patches, in raster order. ``patch`` must
    divide H and W.
    """
    cells = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, row, row in, column, column in)
    return cells.permute(0, 3, 5, 2, 4, 1).flatten(3, 4).flatten(0, 2)


def fold(sequences: Tensor, size: tuple[int, int], patch: int = 2) -> Tensor:
    """`unfold` undone, exactly: ``(batch * patch², N, C)`` to ``(batch, C, H, W)`` with ``size = (H, W)``."""
    rows = size[0] // patch
    cells = sequences.unflatten(1, (rows, -1)).unflatten(0, (-1, patch, patch))
    return cells.permute(0, 5, 3, 1, 4, 2).flatten(4, 5).flatten(2, 3)
