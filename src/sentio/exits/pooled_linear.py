"""The smallest exit: a mean and a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.exits.head import Shape, check_options
from sentio.nn.init import he_init


class PooledLinearExit(nn.Module):
    """Mean of each tensor over all axes but the channel's, concatenation, then ``head``.

    Works at any size of the pooled axes. Channels are the first axis behind the batch, but the last of
    tokens ``(batch, token, channel)``.
    """

    def __init__(self, ranks: tuple[int, ...], head: nn.Sequential) -> None:
        super().__init__()
        self.ranks = ranks
        self.head = head

    def forward(self, *tensors: Tensor) -> Tensor:
        pooled = [pool(x, rank) for x, rank in zip(tensors, self.ranks, strict=True)]
        return self.head(pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1))


def pool(x: Tensor, rank: int) -> Tensor:
    """``(batch, channel)``: the mean of a tensor with ``rank`` axes behind the batch."""
    if rank == 1:
        return x
    return x.mean(dim=1) if rank == 2 else x.mean(dim=tuple(range(2, rank + 1)))


@register("exit", "pooled-linear")
def build(
    shapes: tuple[Shape, ...], outputs: int, /, *, hidden: int | None = None, dropout: float = 0.0
) -> PooledLinearExit:
    """Global mean, then one linear layer; reads any number of tensors of any size.

    Args:
        shapes: of the tensors it reads: ``(C, H, W)`` and longer, tokens ``(N, C)``, or vectors ``(C,)``.
        outputs: width of the output.
        hidden: width of a hidden layer with ReLU; none by default.
        dropout: rate in front of the last linear layer.

    Raises:
        ConfigError: an option out of range, or a tensor without a channel axis.
    """
    sizes = {"outputs": outputs} | ({} if hidden is None else {"hidden": hidden})
    check_options("pooled-linear", at_least_one=sizes, dropouts={"dropout": dropout})
    if not shapes or not all(shapes):
        raise ConfigError(
            "Exit 'pooled-linear' reads tensors with a channel axis; one without axes was given"
        )
    width = sum(shape[1] if len(shape) == 2 else shape[0] for shape in shapes)
    layers: list[nn.Module] = []
    if hidden is not None:
        layers += [he_init(nn.Linear(width, hidden)), nn.ReLU()]
        width = hidden
    if dropout:
        layers.append(nn.Dropout(dropout))
    return PooledLinearExit(tuple(map(len, shapes)), nn.Sequential(*layers, nn.Linear(width, outputs)))
