"""The smallest exit: a mean and a linear layer."""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.exits.head import Shape, check_options
from sentio.nn.init import he_init
from sentio.nn.streaming import Flow, Form, PerFrame, streams
from sentio.nn.streaming_joins import Chain
from sentio.nn.streaming_pooling import WindowPool


class PooledLinearExit(nn.Module):
    """Mean of each tensor over its pooled axes, concatenation, then ``head``.

    Works at any size of the pooled axes. Channels are the first axis behind the batch, but the last of
    tokens ``(batch, token, channel)``.

    Args:
        axes: for each tensor read, the axes that are averaged, the batch being 0.
        head: behind the mean.
        first: whether the first token is read instead of the mean of all.
    """

    def __init__(
        self, axes: tuple[tuple[int, ...], ...], head: nn.Sequential, *, first: bool = False
    ) -> None:
        super().__init__()
        self.axes = axes
        self.head = head
        self.first = first

    def forward(self, *tensors: Tensor) -> Tensor:
        if self.first:
            pooled = [x[:, 0] for x in tensors]
        else:
            pooled = [
                (x.mean(dim=axes) if axes else x).flatten(1)
                for x, axes in zip(tensors, self.axes, strict=True)
            ]
        return self.head(pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1))


@streams(PooledLinearExit)
def _pooled_linear(exit: PooledLinearExit) -> Form:
    def check(flow: Flow) -> str | None:
        if exit.first:
            return "it reads the first token of a clip, and a stream goes on; use over='all'"
        if len(exit.axes) > 1 or flow.axis not in exit.axes[0]:
            return f"it averages axes {exit.axes[0]} of one tensor, and time is axis {flow.axis}"
        return None

    others = "mean" if len(exit.axes[0]) > 1 else None
    pool = Chain(PerFrame(nn.Identity(), check=check), WindowPool("mean", others=others))
    return Chain(pool, PerFrame(nn.Flatten(1)), exit.head)


def pooled_axes(shape: Shape, over: str) -> tuple[int, ...]:
    """The axes of ``(batch, *shape)`` that are averaged."""
    if len(shape) == 1:
        return ()
    if len(shape) == 2:
        return (1,)
    return (2,) if over == "time" else tuple(range(2, len(shape) + 1))


@register("exit", "pooled-linear")
def build(
    shapes: tuple[Shape, ...],
    outputs: int,
    /,
    *,
    over: Literal["all", "time", "first"] = "all",
    hidden: int | None = None,
    dropout: float = 0.0,
) -> PooledLinearExit:
    """A mean, then one linear layer; reads any number of tensors of any size.

    Args:
        shapes: of the tensors it reads: ``(C, H, W)`` and longer, tokens ``(N, C)``, or vectors ``(C,)``.
        outputs: width of the output.
        over: ``all`` averages all axes but the channel's; ``time`` only the first of them, so that an early
            layer of a spectrogram network, whose channels see few bands each, still tells high from low;
            ``first`` averages nothing and reads the first of tokens, a transformer's class token.
        hidden: width of a hidden layer with ReLU; none by default.
        dropout: rate in front of the last linear layer.

    Raises:
        ConfigError: an option out of range, or a tensor without a channel axis.
    """
    sizes = {"outputs": outputs} | ({} if hidden is None else {"hidden": hidden})
    check_options("pooled-linear", at_least_one=sizes, dropouts={"dropout": dropout})
    if over not in ("all", "time", "first"):
        raise ConfigError(
            f"Exit 'pooled-linear' averages over 'all' or 'time', or takes 'first', got {over!r}"
        )
    if not shapes or not all(shapes):
        raise ConfigError(
            "Exit 'pooled-linear' reads tensors with a channel axis; one without axes was given"
        )
    if over == "first" and any(len(shape) != 2 for shape in shapes):
        raise ConfigError(
            "Exit 'pooled-linear' with over='first' reads tokens (token, channel), and there is a tensor of "
            "another shape; use over='all'"
        )
    axes = tuple(pooled_axes(shape, over) for shape in shapes)
    width = sum(
        prod(size for axis, size in enumerate(shape, 1) if axis not in averaged)
        for shape, averaged in zip(shapes, axes, strict=True)
    )
    layers: list[nn.Module] = []
    if hidden is not None:
        layers += [he_init(nn.Linear(width, hidden)), nn.ReLU()]
        width = hidden
    if dropout:
        layers.append(nn.Dropout(dropout))
    return PooledLinearExit(axes, nn.Sequential(*layers, nn.Linear(width, outputs)), first=over == "first")
