"""Learned positions of the patches of a spectrogram or an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sentio.core.errors import InputError


class JointPositions(nn.Module):
    """A vector for each cell of the grid, and one for each special token.

    Args:
        grid: patches along (time, frequency).
        special: tokens in front of the patches.
        dim: width of a token.
    """

    def __init__(self, grid: tuple[int, int], special: int, dim: int) -> None:
        super().__init__()
        self.special = nn.Parameter(torch.empty(special, dim))
        self.grid = nn.Parameter(torch.empty(*grid, dim))
        for table in self.parameters():
            nn.init.trunc_normal_(table, std=0.02)

    @property
    def size(self) -> tuple[int, int]:
        """The grid, (time, frequency)."""
        return self.grid.shape[0], self.grid.shape[1]

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """``(time * frequency, dim)`` for the patches, in raster order.

        Raises:
            InputError: ``grid`` is not the one that was learned.
        """
        _check(grid, self.size, grid == self.size, "size")
        return self.grid.flatten(0, 1)


class DisentangledPositions(nn.Module):
    """A vector for each time plus a vector for each frequency: ``p(t, f) = time[t] + frequency[f]``.

    A shorter clip takes a slice of the times: from the start in eval mode, from anywhere in training.
    K. Koutini et al., *Efficient Training of Audio Transformers with Patchout*, Interspeech 2022.

    Args:
        grid: patches along (time, frequency); the first is the longest clip.
        special: tokens in front of the patches, which have vectors of their own.
        dim: width of a token.
    """

    def __init__(self, grid: tuple[int, int], special: int, dim: int) -> None:
        super().__init__()
        self.special = nn.Parameter(torch.empty(special, dim))
        self.time = nn.Parameter(torch.empty(grid[0], dim))
        self.frequency = nn.Parameter(torch.empty(grid[1], dim))
        for table in self.parameters():
            nn.init.trunc_normal_(table, std=0.02)

    @property
    def size(self) -> tuple[int, int]:
        """The longest grid, (time, frequency)."""
        return self.time.shape[0], self.frequency.shape[0]

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """``(time * frequency, dim)`` for the patches, in raster order.

        Raises:
            InputError: ``grid`` is longer than what was learned, or has another number of frequencies.
        """
        _check(grid, self.size, grid[0] <= self.size[0] and grid[1] == self.size[1], "size (or less time)")
        spare = self.size[0] - grid[0]
        start = int(torch.randint(spare + 1, ())) if self.training and spare else 0
        return (self.time[start : start + grid[0], None] + self.frequency).flatten(0, 1)

    def joint(self) -> JointPositions:
        """The same positions as a joint table, to start a network from that has one."""
        table = JointPositions(self.size, *self.special.shape).to(self.time)
        with torch.no_grad():
            table.special.copy_(self.special)
            table.grid.copy_(self.time[:, None] + self.frequency)
        return table


def resize_grid(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """A table of positions for another grid: a shorter axis is cut around its middle, a longer one resized.

    Y. Gong et al., *AST: Audio Spectrogram Transformer*, Interspeech 2021, section 2.2.

    Args:
        grid: ``(time, frequency, dim)``.
        size: the new (time, frequency).

    Returns:
        ``(*size, dim)``; longer axes are interpolated bilinearly, cell centres aligned.
    """
    for axis, wanted in enumerate(size):
        spare = grid.shape[axis] - wanted
        if spare > 0:
            grid = grid.narrow(axis, grid.shape[axis] // 2 - wanted // 2, wanted)
    if tuple(grid.shape[:2]) == size:
        return grid
    resized = interpolate(grid.movedim(-1, 0)[None], size=size, mode="bilinear", align_corners=False)
    return resized[0].movedim(0, -1)


def _check(grid: tuple[int, int], size: tuple[int, int], fits: bool, what: str) -> None:
    if not fits:
        raise InputError(
            f"The input makes {grid[0]}x{grid[1]} patches (time x frequency), but this network's positions "
            f"are for {size[0]}x{size[1]}; give it inputs of the {what} it was built with, or build it with "
            "option 'size'"
        )
