"""EfficientNet: V1 from B0 to B7, and V2."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import PooledLinear, conv_bn_act, round_channels
from sentio.nn.init import he_init
from sentio.nn.squeeze_excitation import SqueezeExcitation


class Group(NamedTuple):
    """Blocks of one kind: the first has the stride."""

    fused: bool
    expansion: int
    kernel: int
    stride: int
    channels: int
    depth: int


#: (width factor, depth factor, side of the input, dropout) of each published size
V1_SIZES = {
    "b0": (1.0, 1.0, 224, 0.2),
    "b1": (1.0, 1.1, 240, 0.2),
    "b2": (1.1, 1.2, 260, 0.3),
    "b3": (1.2, 1.4, 300, 0.3),
    "b4": (1.4, 1.8, 380, 0.4),
    "b5": (1.6, 2.2, 456, 0.4),
    "b6": (1.8, 2.6, 528, 0.5),
    "b7": (2.0, 3.1, 600, 0.5),
}
V1_GROUPS = (
    Group(False, 1, 3, 1, 16, 1),
    Group(False, 6, 3, 2, 24, 2),
    Group(False, 6, 5, 2, 40, 2),
    Group(False, 6, 3, 2, 80, 3),
    Group(False, 6, 5, 1, 112, 3),
    Group(False, 6, 5, 2, 192, 4),
    Group(False, 6, 3, 1, 320, 1),
)
#: (groups, side of the input, dropout) of each published size
V2_SIZES = {
    "s": (
        (
            Group(True, 1, 3, 1, 24, 2),
            Group(True, 4, 3, 2, 48, 4),
            Group(True, 4, 3, 2, 64, 4),
            Group(False, 4, 3, 2, 128, 6),
            Group(False, 6, 3, 1, 160, 9),
            Group(False, 6, 3, 2, 256, 15),
        ),
        384,
        0.2,
    ),
    "m": (
        (
            Group(True, 1, 3, 1, 24, 3),
            Group(True, 4, 3, 2, 48, 5),
            Group(True, 4, 3, 2, 80, 5),
            Group(False, 4, 3, 2, 160, 7),
            Group(False, 6, 3, 1, 176, 14),
            Group(False, 6, 3, 2, 304, 18),
            Group(False, 6, 3, 1, 512, 5),
        ),
        480,
        0.3,
    ),
    "l": (
        (
            Group(True, 1, 3, 1, 32, 4),
            Group(True, 4, 3, 2, 64, 7),
            Group(True, 4, 3, 2, 96, 7),
            Group(False, 4, 3, 2, 192, 10),
            Group(False, 6, 3, 1, 224, 19),
            Group(False, 6, 3, 2, 384, 25),
            Group(False, 6, 3, 1, 640, 7),
        ),
        480,
        0.4,
    ),
}


class MBConv(nn.Module):
    """Expand, depthwise, squeeze and excitation, project; or, ``fused``, one full convolution and project.

    ``(batch, in_channels, H, W)`` to ``(batch, channels, H/stride, W/stride)``; the input is added where the
    shape stays. Activations are SiLU.
    """

    def __init__(self, in_channels: int, group: Group, stride: int) -> None:
        super().__init__()
        hidden = in_channels * group.expansion
        kernel, out = group.kernel, group.channels
        layers: list[nn.Module] = []
        if group.fused:
            wide = hidden if group.expansion > 1 else out
            layers.append(conv_bn_act(in_channels, wide, kernel, stride=stride, act=nn.SiLU))
            if group.expansion > 1:
                layers.append(conv_bn_act(wide, out, 1, act=False))
        else:
            if group.expansion > 1:
                layers.append(conv_bn_act(in_channels, hidden, 1, act=nn.SiLU))
            layers.append(conv_bn_act(hidden, hidden, kernel, stride=stride, groups=hidden, act=nn.SiLU))
            layers.append(SqueezeExcitation(hidden, max(1, in_channels // 4), act=nn.SiLU))
            layers.append(conv_bn_act(hidden, out, 1, act=False))
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and in_channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.shortcut else y


def _efficientnet(
    stem: int,
    groups: Sequence[Group],
    features: int,
    classes: int,
    in_channels: int,
    side: int,
    dropout: float,
    eps: float,
) -> Staged:
    stages: dict[str, nn.Module] = {"stem": conv_bn_act(in_channels, stem, stride=2, act=nn.SiLU)}
    channels = stem
    for number, group in enumerate(groups, start=1):
        blocks = []
        for index in range(group.depth):
            blocks.append(MBConv(channels, group, group.stride if index == 0 else 1))
            channels = group.channels
        stages[f"block{number}"] = nn.Sequential(*blocks)
    stages["features"] = conv_bn_act(channels, features, 1, act=nn.SiLU)
    for stage in stages.values():
        he_init(stage)
        for module in stage.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps
    stages["head"] = PooledLinear(features, classes, dropout=dropout)
    return Staged(stages, input_shapes={"main": (in_channels, side, side)})


@register(
    "network",
    "efficientnet",
    paper="M. Tan, Q. Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, "
    "ICML 2019",
    input_shapes={"main": (3, 224, 224)},
    small={"classes": 4, "width": 0.25, "depth": 0.3},
    small_shapes={"main": (3, 32, 32)},
)
def efficientnet(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    size: str = "b0",
    width: float | None = None,
    depth: float | None = None,
    dropout: float | None = None,
    eps: float = 1e-3,
) -> Staged:
    """EfficientNet-B0 to B7: 5,288,548 parameters and 386 M MACs at B0, 66,347,960 at B7.

    Stochastic depth, which the paper trains with, is not among its layers.

    Args:
        classes: width of the output.
        in_channels: channels of the input, of any size from 32×32; the published side is `V1_SIZES`'.
        size: ``b0`` to ``b7``.
        width: factor on all widths, instead of the size's own.
        depth: factor on the numbers of blocks, instead of the size's own.
        dropout: rate in front of the output, instead of the size's own.
        eps: of the batch norms.

    Raises:
        ConfigError: another size.
    """
    if size not in V1_SIZES:
        raise ConfigError(f"Network 'efficientnet' has sizes {', '.join(V1_SIZES)}, got {size!r}")
    wide, deep, side, rate = V1_SIZES[size]
    wide, deep = wide if width is None else width, deep if depth is None else depth

    def scaled(channels: int) -> int:
        return round_channels(channels * wide, at_least=0.9)

    groups = [
        group._replace(channels=scaled(group.channels), depth=ceil(group.depth * deep)) for group in V1_GROUPS
    ]
    rate = rate if dropout is None else dropout
    return _efficientnet(scaled(32), groups, 4 * groups[-1].channels, classes, in_channels, side, rate, eps)


@register(
    "network",
    "efficientnet-v2",
    paper="M. Tan, Q. Le, EfficientNetV2: Smaller Models and Faster Training, ICML 2021",
    input_shapes={"main": (3, 384, 384)},
    small={"classes": 4, "width": 0.25, "depth": 0.1},
    small_shapes={"main": (3, 32, 32)},
)
def efficientnet_v2(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    size: str = "s",
    width: float = 1.0,
    depth: float = 1.0,
    dropout: float | None = None,
    eps: float = 1e-3,
) -> Staged:
    """EfficientNetV2-S, M and L: 21,458,488, 54,139,356 and 118,515,272 parameters.

    Stochastic depth, which the paper trains with, is not among its layers.

    Args:
        classes: width of the output.
        in_channels: channels of the input, of any size from 32×32; the published side is `V2_SIZES`'.
        size: ``s``, ``m`` or ``l``.
        width: factor on all widths.
        depth: factor on the numbers of blocks.
        dropout: rate in front of the output, instead of the size's own.
        eps: of the batch norms.

    Raises:
        ConfigError: another size.
    """
    if size not in V2_SIZES:
        raise ConfigError(f"Network 'efficientnet-v2' has sizes {', '.join(V2_SIZES)}, got {size!r}")
    own, side, rate = V2_SIZES[size]
    groups = [
        group._replace(
            channels=round_channels(group.channels * width, at_least=0.9), depth=ceil(group.depth * depth)
        )
        for group in own
    ]
    stem = round_channels(own[0].channels * width, at_least=0.9)
    features = round_channels(1280 * width)
    rate = rate if dropout is None else dropout
    return _efficientnet(stem, groups, features, classes, in_channels, side, rate, eps)
