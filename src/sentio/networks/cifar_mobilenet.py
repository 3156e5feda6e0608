"""MobileNetV2's blocks in a network for small images."""

from __future__ import annotations

from torch import nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import InvertedResidual, PooledLinear, conv_bn_act, round_channels
from sentio.nn.init import he_init

#: of each group: channels at width 1, blocks, stride of the first
GROUPS = ((16, 1, 1), (24, 2, 2), (40, 3, 2), (80, 2, 2))


@register(
    "network",
    "cifar-mobilenet",
    paper="after M. Sandler et al., MobileNetV2, CVPR 2018; sizes for 32x32 are this project's own",
    input_shapes={"main": (3, 32, 32)},
    small={"classes": 4, "width": 0.5},
    small_shapes={"main": (3, 16, 16)},
)
def cifar_mobilenet(
    *, classes: int = 10, in_channels: int = 3, width: float = 1.0, expansion: int = 4
) -> Staged:
    """Small images with few multiply-accumulates: inverted residual blocks, depthwise convolutions.

    Fewer multiply-accumulates than a dense network of its accuracy, but they run slower on most processors;
    `sentio.profile` says by how much.

    Args:
        classes: width of the output.
        in_channels: channels of the input, of any size from about 16×16.
        width: factor on the channels, rounded to multiples of 8.
        expansion: how much wider blocks are inside.

    Raises:
        ConfigError: the width is not above 0, or the expansion below 1.
    """
    if not width > 0 or expansion < 1:
        raise ConfigError(
            f"Network 'cifar-mobilenet' takes a width above 0 and an expansion from 1 on, got {width!r} and "
            f"{expansion!r}"
        )
    channels = round_channels(16 * width)
    stages: dict[str, nn.Module] = {"stem": conv_bn_act(in_channels, channels)}
    for number, (out, depth, stride) in enumerate(GROUPS, start=1):
        out_channels = round_channels(out * width)
        blocks = []
        for place in range(depth):
            step = stride if place == 0 else 1
            blocks.append(InvertedResidual(channels, expansion * channels, out_channels, stride=step))
            channels = out_channels
        stages[f"group{number}"] = nn.Sequential(*blocks)
    last = 2 * channels
    stages["features"] = conv_bn_act(channels, last, 1)
    for stage in stages.values():
        he_init(stage)
    return Staged(
        {**stages, "head": PooledLinear(last, classes)}, input_shapes={"main": (in_channels, 32, 32)}
    )
