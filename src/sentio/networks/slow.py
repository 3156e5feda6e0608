"""Slow: the slow pathway of SlowFast alone, a ResNet-50 on video; on a stream it is CoSlow.

Weights lie as in the public ones, under other names: convolutions ``(out, in, time, height, width)``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import conv_bn_act_3d
from sentio.nn.init import he_init
from sentio.nn.streaming import Form, streams
from sentio.nn.streaming_joins import Chain, Identity, Sum
from sentio.nn.streaming_pooling import WindowPool

#: bottlenecks of the four residual stages, and the kernel in time of their first convolution
BLOCKS, TEMPORAL = (3, 4, 6, 3), (1, 1, 3, 3)


class SlowBlock(nn.Module):
    """``temporal``×1×1, 1×3×3 and 1×1×1 convolution and a shortcut; the stride is in the 1×3×3."""

    def __init__(self, in_channels: int, inner: int, out_channels: int, stride: int, temporal: int) -> None:
        super().__init__()
        steps = (1, stride, stride)
        self.reduce = conv_bn_act_3d(in_channels, inner, (temporal, 1, 1))
        self.spatial = conv_bn_act_3d(inner, inner, (1, 3, 3), stride=steps)
        self.expand = conv_bn_act_3d(inner, out_channels, 1, act=False)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity() if same else conv_bn_act_3d(in_channels, out_channels, 1, stride=steps, act=False)
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.expand(self.spatial(self.reduce(x))) + self.shortcut(x))


@streams(SlowBlock)
def _block(block: SlowBlock) -> Form:
    shortcut = Identity() if isinstance(block.shortcut, nn.Identity) else block.shortcut
    return Chain(Sum(Chain(block.reduce, block.spatial, block.expand), shortcut), block.act)


class SlowHead(nn.Module):
    """Average over the clip, dropout, one linear layer: ``(batch, C, time, height, width)`` to logits."""

    def __init__(self, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(x.mean(dim=(2, 3, 4))))


@streams(SlowHead)
def _head(head: SlowHead) -> Form:
    return Chain(WindowPool("mean"), head.drop, head.fc)


@register(
    "network",
    "slow",
    paper="C. Feichtenhofer et al., SlowFast Networks for Video Recognition, ICCV 2019",
    input_shapes={"main": (3, 8, 256, 256)},
    small={"classes": 4, "width": 8, "blocks": [1, 1, 1, 1]},
    small_shapes={"main": (3, 4, 32, 32)},
)
def slow(
    *,
    classes: int = 400,
    in_channels: int = 3,
    frames: int = 8,
    side: int = 256,
    width: int = 64,
    blocks: Sequence[int] = BLOCKS,
    dropout: float = 0.5,
) -> Staged:
    """Slow 8×8 with a ResNet-50: 32,454,096 parameters, 54.5 G MACs for eight frames of 256×256.

    ``(batch, in_channels, time, height, width)`` to logits ``(batch, classes)``. Convolutions in time are in
    the last two residual stages only, three frames wide.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        frames, side: of the clip it is made for, whatever others it takes too.
        width: channels of the stem; 64 in the paper.
        blocks: bottlenecks of the four residual stages.
        dropout: rate in front of the last layer.

    Raises:
        ConfigError: an option out of range.
    """
    sizes = {"classes": classes, "in_channels": in_channels, "frames": frames, "side": side, "width": width}
    for name, value in sizes.items():
        if value < 1:
            raise ConfigError(f"Option {name!r} of network 'slow' must be at least 1, got {value!r}")
    if len(blocks) != 4 or min(blocks) < 1:
        raise ConfigError(f"Option 'blocks' of network 'slow' is four numbers from 1 on, got {list(blocks)}")
    stem = OrderedDict(
        conv=nn.Conv3d(in_channels, width, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
        bn=nn.BatchNorm3d(width),
        act=nn.ReLU(),
        pool=nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
    )
    stages: dict[str, nn.Module] = {"stem": nn.Sequential(stem)}
    channels = width
    for number, (depth, temporal) in enumerate(zip(blocks, TEMPORAL, strict=True)):
        inner = width * 2**number
        row = []
        for index in range(depth):
            stride = 2 if index == 0 and number else 1
            row.append(SlowBlock(channels, inner, 4 * inner, stride, temporal))
            channels = 4 * inner
        stages[f"res{number + 2}"] = nn.Sequential(*row)
    stages["head"] = SlowHead(channels, classes, dropout)
    for stage in stages.values():
        he_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, frames, side, side)})
