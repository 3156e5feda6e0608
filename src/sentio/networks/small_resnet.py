"""A residual network for small images of any width and depth, as a teacher or a budget asks for it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.networks.resnet import BasicBlock, averaged_shortcut
from sentio.nn.conv import PooledLinear, conv_bn_act
from sentio.nn.init import he_init


@register(
    "network",
    "small-resnet",
    paper="K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
    input_shapes={"main": (3, 32, 32)},
    small={"classes": 4, "stem": [4, 8], "widths": [8, 12], "strides": [1, 2]},
    small_shapes={"main": (3, 16, 16)},
)
def small_resnet(
    *,
    classes: int = 10,
    in_channels: int = 3,
    stem: Sequence[int] = (24, 48),
    widths: Sequence[int] = (48, 96, 192, 192, 192),
    strides: Sequence[int] = (1, 1, 2, 1, 2),
    dropout: float = 0.0,
) -> Staged:
    """Residual blocks in a row, each a stage, behind a stem that halves the sides.

    Few layers work in full resolution, so that the network may be wide: by default 2,067,490 parameters, and
    134 M MACs at 32×32. Shortcuts that stride average first (He et al., Bag of Tricks, CVPR 2019, ResNet-D).

    Args:
        classes: width of the output.
        in_channels: channels of the input, of any size.
        stem: channels of the two convolutions before the blocks; the second strides.
        widths: channels of each block.
        strides: of each block.
        dropout: before the last linear layer.

    Raises:
        ConfigError: the options do not go together.
    """
    if len(stem) != 2 or not widths or len(widths) != len(strides):
        raise ConfigError(
            f"small-resnet takes two channels as stem and as many strides as widths, got {len(stem)} in "
            f"stem, {len(widths)} widths and {len(strides)} strides"
        )
    first, channels = stem
    stages: dict[str, nn.Module] = {
        "stem": nn.Sequential(conv_bn_act(in_channels, first), conv_bn_act(first, channels, stride=2))
    }
    for number, (width, stride) in enumerate(zip(widths, strides, strict=True), start=1):
        stages[f"block{number}"] = BasicBlock(channels, width, stride, shortcut=averaged_shortcut)
        channels = width
    for stage in stages.values():
        he_init(stage)
    head = PooledLinear(channels, classes)
    stages["head"] = nn.Sequential(nn.Dropout(dropout), head) if dropout else head
    return Staged(stages, input_shapes={"main": (in_channels, 32, 32)})
