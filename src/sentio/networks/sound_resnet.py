"""A residual network for windows of sound that learns from few recordings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.networks.resnet import BasicBlock
from sentio.nn.conv import conv_bn_act
from sentio.nn.init import he_init
from sentio.nn.pooling import BandsHead, MaxMeanHead


@register(
    "network",
    "sound-resnet",
    input_shapes={"main": (1, 101, 64)},
    small={"classes": 4, "width": 8},
    small_shapes={"main": (1, 32, 32)},
)
def sound_resnet(
    *,
    classes: int = 10,
    in_channels: int = 1,
    width: int = 16,
    blocks: Sequence[int] | None = None,
    kernel: int = 3,
    hidden: bool = True,
    bands: int | None = None,
    dropout: float = 0.3,
) -> Staged:
    """Windows of sound in 116,690 parameters and 24.8 M MACs: a stem and three residual blocks.

    Takes log-mel ``(batch, 1, time, frequency)`` of at least 16×16, gives logits ``(batch, classes)``; its
    own input is two seconds at 50 frames per second, 64 bands. Dense 3×3 convolutions at a quarter of the
    resolution: few parameters, and quick to train on a CPU, where depthwise ones are not. The network of the
    shipped ``fsdd-digits``.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        width: channels of the stem.
        blocks: channels of the three blocks; by default 2, 2.75 and 4 times as many.
        kernel: side of the stem's kernels, odd.
        hidden: whether the head has a layer before the last. Without it a new head, which a fine-tuning to
            other classes begins with, is little to learn.
        bands: of the input, for a head that tells them apart: the mean over time alone, then one linear
            layer. By default they are averaged, and any number will do.
        dropout: before each linear layer.
    """
    widths = (2 * width, width * 11 // 4, 4 * width) if blocks is None else tuple(blocks)
    if len(widths) != 3:
        raise ConfigError(
            f"sound-resnet has three blocks, got channels for {len(widths)}; give three numbers"
        )
    stages: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            OrderedDict(conv=conv_bn_act(in_channels, width, kernel, stride=2), pool=nn.AvgPool2d(2))
        )
    }
    channels = width
    for number, out_channels in enumerate(widths, start=1):
        block = BasicBlock(channels, out_channels, 1, shortcut=_projection)
        layers = [("pool", nn.AvgPool2d(2))] if number == len(widths) else []
        stages[f"block{number}"] = nn.Sequential(OrderedDict([*layers, ("residual", block)]))
        channels = out_channels
    if bands is None:
        stages["head"] = MaxMeanHead(channels, classes, dropout=dropout, hidden=hidden)
    else:
        stages["head"] = BandsHead(channels, _bands_behind(bands), classes, dropout=dropout)
    for name, stage in stages.items():
        if name != "head" or (hidden and bands is None):
            he_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, 101, 64 if bands is None else bands)})


def _bands_behind(bands: int) -> int:
    """What the last block makes of so many bands: a stride and two averages of pairs."""
    if bands < 8:
        raise ConfigError(f"Option 'bands' of sound-resnet must be at least 8, got {bands!r}")
    return (bands + 1) // 2 // 2 // 2


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return conv_bn_act(in_channels, out_channels, 1, stride=stride, act=False)
