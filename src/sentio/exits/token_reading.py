"""What the exits for transformers share: how they see tokens, and maps as tokens."""

from __future__ import annotations

from math import isqrt, prod

import torch
from torch import Tensor

from sentio.core.errors import ConfigError
from sentio.exits.head import Shape

PAPER = (
    "A. Bakhtiarnia, Q. Zhang, A. Iosifidis, Multi-Exit Vision Transformer for Dynamic Inference, BMVC 2021"
)


def token_shape(kind: str, shapes: tuple[Shape, ...]) -> tuple[int, int]:
    """(tokens, width) of what `as_tokens` makes of the one tensor that an exit reads.

    Raises:
        ConfigError: it reads several tensors, or one that is neither tokens nor a map.
    """
    if len(shapes) != 1:
        raise ConfigError(
            f"Exit {kind!r} reads one tensor, got {len(shapes)}; give it one (boundary, tensor)"
        )
    shape = shapes[0]
    if len(shape) < 2:
        raise ConfigError(
            f"Exit {kind!r} needs tokens (token, channel) or a map (channel, ...), got shape {shape}; attach "
            "it to another stage or use 'pooled-linear'"
        )
    return (shape[0], shape[1]) if len(shape) == 2 else (1 + prod(shape[1:]), shape[0])


def as_tokens(x: Tensor) -> Tensor:
    """``(batch, token, channel)`` as it is; a map ``(batch, channel, ...)`` as its mean, then its positions.

    A map has no class token, and its mean stands where exits look for one.
    """
    if x.ndim == 3:
        return x
    positions = x.flatten(2).transpose(1, 2)
    return torch.cat([positions.mean(dim=1, keepdim=True), positions], dim=1)


def patch_grid(kind: str, shape: Shape, special: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """(rows, columns) of the patches behind the special tokens, or of a map.

    Raises:
        ConfigError: ``grid`` does not fit, or is needed because the patches are not a square.
    """
    if len(shape) == 3:
        return shape[1], shape[2]
    if len(shape) != 2:
        raise ConfigError(
            f"Exit {kind!r} needs tokens (token, channel) or a map (channel, height, width), got {shape}"
        )
    patches = shape[0] - special
    if grid is None:
        side = isqrt(max(patches, 0))
        if side * side != patches or not side:
            raise ConfigError(
                f"Exit {kind!r} needs to know how {patches} patches lie behind {special} special tokens; "
                "give options grid=(rows, columns) and special"
            )
        return side, side
    sides = tuple(grid) if isinstance(grid, tuple | list) else ()
    whole = all(isinstance(side, int) and side >= 1 for side in sides)
    if len(sides) != 2 or not whole or prod(sides) != patches:
        raise ConfigError(
            f"Option 'grid' of exit {kind!r} must hold {patches} patches (behind {special} special tokens), "
            f"got {grid!r}"
        )
    return sides[0], sides[1]
