"""Convolution blocks."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from sentio.nn.streaming import Form, streams
from sentio.nn.streaming_joins import Chain, Sum
from sentio.nn.streaming_pooling import WindowPool

Size = int | tuple[int, int]


def round_channels(width: float, divisor: int = 8, *, at_least: float = 0.0) -> int:
    """The multiple of ``divisor`` nearest to ``width`` (halves go up), at least one ``divisor``.

    Args:
        at_least: a multiple below this part of ``width`` gives way to the next one; 0.9 is MobileNet's rule.
    """
    nearest = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return nearest if nearest >= at_least * width else nearest + divisor


def conv_bn_act(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    *,
    stride: Size = 1,
    groups: int = 1,
    act: bool | type[nn.Module] = True,
) -> nn.Sequential:
    """Convolution without bias, batch norm and, if ``act``, ReLU; padding keeps the size at stride 1.

    Args:
        kernel: odd side of the square kernel.
        stride: one number, or (time, frequency).
        act: whether an activation follows, or its class.
    """
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )
    layers: list[tuple[str, nn.Module]] = [("conv", conv), ("bn", nn.BatchNorm2d(out_channels))]
    if act:
        # Never in place: an exit may still read the boundary that this layer was given.
        layers.append(("act", nn.ReLU() if act is True else act()))
    return nn.Sequential(OrderedDict(layers))


def conv_bn_act_3d(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int, int] = 3,
    *,
    stride: int | tuple[int, int, int] = 1,
    groups: int = 1,
    act: bool | type[nn.Module] = True,
) -> nn.Sequential:
    """`conv_bn_act` for video ``(batch, channel, time, height, width)``; sides of the kernel are odd."""
    sides = (kernel,) * 3 if isinstance(kernel, int) else kernel
    padding = tuple(side // 2 for side in sides)
    conv = nn.Conv3d(
        in_channels, out_channels, sides, stride=stride, padding=padding, groups=groups, bias=False
    )
    layers: list[tuple[str, nn.Module]] = [("conv", conv), ("bn", nn.BatchNorm3d(out_channels))]
    if act:
        layers.append(("act", nn.ReLU() if act is True else act()))
    return nn.Sequential(OrderedDict(layers))


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise 3×3, project 1×1, then the shortcut and a ReLU.

    ``(batch, in_channels, time, frequency)`` to ``(batch, out_channels, time', frequency')``. The input is
    added where the widths agree, after a 3×3 average pooling where the block has a stride. The block of
    MobileNetV2 (Sandler et al., 2018) in the form of CP-Mobile (Schmid et al., 2023).

    Args:
        norm: applied to the sum, before the ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        *,
        stride: Size = 1,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.expand = conv_bn_act(in_channels, hidden, 1)
        self.depthwise = conv_bn_act(hidden, hidden, 3, stride=stride, groups=hidden)
        self.project = conv_bn_act(hidden, out_channels, 1, act=False)
        self.shortcut: nn.Module | None = None
        if in_channels == out_channels:
            strided = stride not in (1, (1, 1))
            self.shortcut = nn.AvgPool2d(3, stride=stride, padding=1) if strided else nn.Identity()
        self.norm = norm
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return self.act(y if self.norm is None else self.norm(y))


class PooledLinear(nn.Module):
    """Global average over time and frequency, then one linear layer: ``(batch, C, T, F)`` to logits.

    Args:
        channels: C.
        classes: width of the output.
        hidden: width of a layer in between, with ReLU and dropout; none by default.
        dropout: rate in front of the last layer.
    """

    def __init__(
        self, channels: int, classes: int, *, hidden: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        between: list[nn.Module] = [] if hidden is None else [nn.Linear(channels, hidden), nn.ReLU()]
        self.between = nn.Sequential(*between, *([nn.Dropout(dropout)] if dropout else []))
        self.fc = nn.Linear(channels if hidden is None else hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.between(x.mean(dim=(2, 3))))


@streams(InvertedResidual)
def _inverted_residual(block: InvertedResidual) -> Form:
    main = Chain(block.expand, block.depthwise, block.project)
    joined = main if block.shortcut is None else Sum(main, block.shortcut)
    return Chain(joined, *([] if block.norm is None else [block.norm]), block.act)


@streams(PooledLinear)
def _pooled_linear(head: PooledLinear) -> Form:
    return Chain(WindowPool("mean"), *head.between, head.fc)
