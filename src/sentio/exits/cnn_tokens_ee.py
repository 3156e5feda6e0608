"""CNN-Ignore-EE, CNN-Add-EE and CNN-Project-EE: patch tokens as a map, with or without the class token."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.exits import cnn_ee
from sentio.exits.head import Shape, check_size
from sentio.exits.token_reading import PAPER, as_tokens, patch_grid, token_shape

Readout = Literal["ignore", "add", "project"]


class CNNTokensExit(nn.Module):
    """Patch tokens laid out as a map, with the class token ignored, added or appended, through a CNN.

    ``(batch, token, C)``, or a map, whose mean stands for the class token, to ``(batch, outputs)``.

    Args:
        kind: the exit's name.
        shape: of what it reads.
        readout: what is done with the first token.
        special: tokens in front of the patches.
        grid: (rows, columns) of the patches.
        cnn: behind them.
    """

    def __init__(
        self,
        kind: str,
        shape: Shape,
        readout: Readout,
        special: int,
        grid: tuple[int, int],
        cnn: nn.Module,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.shape = shape
        self.readout = readout
        self.special = special
        self.grid = grid
        self.cnn = cnn

    def forward(self, x: Tensor) -> Tensor:
        check_size(self.kind, x, self.shape)
        tokens = as_tokens(x)
        patches, first = tokens[:, self.special :], tokens[:, :1]
        if self.readout == "add":
            patches = patches + first
        elif self.readout == "project":
            patches = torch.cat([patches, first.expand_as(patches)], dim=2)
        return self.cnn(patches.transpose(1, 2).unflatten(2, self.grid))


def _build(
    kind: str,
    readout: Readout,
    shapes: tuple[Shape, ...],
    outputs: int,
    special: int,
    grid: tuple[int, int] | None,
    cnn: Callable[..., nn.Module],
) -> CNNTokensExit:
    _, width = token_shape(kind, shapes)
    (shape,) = shapes
    if not isinstance(special, int) or special < 1:
        raise ConfigError(f"Option 'special' of exit {kind!r} is a whole number from 1 up, got {special!r}")
    if len(shape) != 2:
        special = 1
    laid_out = patch_grid(kind, shape, special, grid)
    channels = 2 * width if readout == "project" else width
    return CNNTokensExit(
        kind, shape, readout, special, laid_out, cnn(((channels, *laid_out),), outputs, padding=1)
    )


@register("exit", "cnn-ignore-ee", paper=PAPER)
def ignore(
    shapes: tuple[Shape, ...],
    outputs: int,
    /,
    *,
    special: int = 1,
    grid: tuple[int, int] | None = None,
    filters: int = 16,
    hidden: int = 256,
    dropout: float = 0.5,
) -> CNNTokensExit:
    """Patch tokens as a map through ``cnn-ee``'s layers; the class token is not read.

    Args:
        shapes: tokens ``(N, C)``, or a map ``(C, H, W)``, whose mean stands for the class token.
        outputs: width of the output.
        special: tokens in front of the patches, the class token first; 2 with a distillation token.
        grid: (rows, columns) of the patches; a square if None.
        filters: of the 3×3 convolution, padded.
        hidden: width of the head's two hidden layers.
        dropout: rate behind each of them.

    Raises:
        ConfigError: an option out of range, another shape, or patches that are not a square.
    """
    cnn = partial(cnn_ee.build, filters=filters, hidden=hidden, dropout=dropout)
    return _build("cnn-ignore-ee", "ignore", shapes, outputs, special, grid, cnn)


@register("exit", "cnn-add-ee", paper=PAPER)
def add(
    shapes: tuple[Shape, ...],
    outputs: int,
    /,
    *,
    special: int = 1,
    grid: tuple[int, int] | None = None,
    filters: int = 16,
    hidden: int = 256,
    dropout: float = 0.5,
) -> CNNTokensExit:
    """Patch tokens, the class token added to each, as a map through ``cnn-ee``'s layers.

    Args:
        shapes, outputs, special, grid, filters, hidden, dropout: as in ``cnn-ignore-ee``.

    Raises:
        ConfigError: an option out of range, another shape, or patches that are not a square.
    """
    cnn = partial(cnn_ee.build, filters=filters, hidden=hidden, dropout=dropout)
    return _build("cnn-add-ee", "add", shapes, outputs, special, grid, cnn)


@register("exit", "cnn-project-ee", paper=PAPER)
def project(
    shapes: tuple[Shape, ...],
    outputs: int,
    /,
    *,
    special: int = 1,
    grid: tuple[int, int] | None = None,
    filters: int = 16,
    hidden: int = 256,
    dropout: float = 0.5,
) -> CNNTokensExit:
    """Patch tokens, the class token appended to each, as a map of 2 C channels through ``cnn-ee``'s layers.

    Args:
        shapes, outputs, special, grid, filters, hidden, dropout: as in ``cnn-ignore-ee``.

    Raises:
        ConfigError: an option out of range, another shape, or patches that are not a square.
    """
    cnn = partial(cnn_ee.build, filters=filters, hidden=hidden, dropout=dropout)
    return _build("cnn-project-ee", "project", shapes, outputs, special, grid, cnn)
