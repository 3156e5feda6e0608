"""Patchout: a transformer trains on some of its patches."""

from __future__ import annotations

import torch
from torch import Tensor

from sentio.core.errors import ConfigError


def draw_patchout(
    grid: tuple[int, int],
    *,
    time: int = 0,
    frequency: int = 0,
    tokens: int = 0,
    batch: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw which patches stay: whole columns and rows are dropped first, then single patches.

    One draw serves the batch, so that a teacher and a student can be given the same patches:
    ``net({"main": x, "keep": keep})``. K. Koutini et al., *Efficient Training of Audio Transformers with
    Patchout*, Interspeech 2022.

    Args:
        grid: patches along (time, frequency), as in ``net.stage("patches").grid``.
        time: time positions to drop, with all their patches (structured).
        frequency: frequency positions to drop, with all their patches (structured).
        tokens: single patches to drop of those that are left (unstructured).
        batch: samples.
        generator: of the draw, on the CPU; PyTorch's own if None.

    Returns:
        ``(batch, kept)`` int64, the same ascending indices in raster order for every sample.

    Raises:
        ConfigError: a number below zero, or nothing would be left.
    """
    check_patchout(grid, (time, frequency), tokens)
    times, frequencies = (
        torch.randperm(side, generator=generator)[: side - dropped].sort().values
        for side, dropped in zip(grid, (time, frequency), strict=True)
    )
    kept = (times[:, None] * grid[1] + frequencies).flatten()
    if tokens:
        kept = kept[torch.randperm(len(kept), generator=generator)[: len(kept) - tokens].sort().values]
    return kept.expand(batch, -1)


def check_patchout(grid: tuple[int, int], structured: tuple[int, int], tokens: int) -> None:
    """Raise `ConfigError` unless at least one patch of the grid would be left."""
    names = ("time", "frequency")
    for name, side, dropped in zip(names, grid, structured, strict=True):
        if not 0 <= dropped < side:
            raise ConfigError(
                f"Patchout drops 0 to {side - 1} of {side} {name} positions, got {dropped!r}; "
                "drop fewer, or give longer inputs"
            )
    left = (grid[0] - structured[0]) * (grid[1] - structured[1])
    if not 0 <= tokens < left:
        raise ConfigError(
            f"Patchout drops 0 to {left - 1} single patches of the {left} left, got {tokens!r}; drop fewer"
        )
