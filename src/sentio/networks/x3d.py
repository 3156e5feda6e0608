"""X3D: action recognition on video, small; on a stream it is CoX3D.

Weights lie as in the public ones, under other names: convolutions ``(out, in / groups, time, height,
width)``, and linear layers ``(out, in)`` where those have 1×1×1 convolutions behind a pooling.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import conv_bn_act_3d, round_channels
from sentio.nn.init import he_init
from sentio.nn.squeeze_excitation import SqueezeExcitation
from sentio.nn.streaming import Form, streams
from sentio.nn.streaming_joins import Chain, Identity, Sum
from sentio.nn.streaming_pooling import WindowPool

Scope = Literal["clip", "frame"]

#: blocks of the four residual stages
BLOCKS, BLOCKS_L = (3, 5, 11, 7), (5, 10, 25, 15)
PAPER = "C. Feichtenhofer, X3D: Expanding Architectures for Efficient Video Recognition, CVPR 2020"
SMALL: dict[str, Any] = {"classes": 4, "width": 8, "blocks": [1, 2, 1, 1], "hidden": 32}
SMALL_SHAPES = {"main": (3, 4, 32, 32)}


class X3DBlock(nn.Module):
    """Expand 1×1×1, depthwise 3×3×3, squeeze and excitation, Swish, project 1×1×1, shortcut, ReLU.

    ``(batch, in_channels, time, height, width)`` to ``(batch, out_channels, time, ...)``; the stride is in
    height and width.

    Args:
        inner: width of the depthwise convolution.
        squeeze: width inside squeeze and excitation; none if 0.
        scope: what that averages over.
    """

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, stride: int, *, squeeze: int, scope: Scope
    ) -> None:
        super().__init__()
        steps = (1, stride, stride)
        self.expand = conv_bn_act_3d(in_channels, inner, 1)
        self.depthwise = conv_bn_act_3d(inner, inner, 3, stride=steps, groups=inner, act=False)
        self.squeeze = SqueezeExcitation(inner, squeeze, scope=scope) if squeeze else nn.Identity()
        self.swish = nn.SiLU()
        self.project = conv_bn_act_3d(inner, out_channels, 1, act=False)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity() if same else conv_bn_act_3d(in_channels, out_channels, 1, stride=steps, act=False)
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.swish(self.squeeze(self.depthwise(self.expand(x)))))
        return self.act(y + self.shortcut(x))


@streams(X3DBlock)
def _block(block: X3DBlock) -> Form:
    main = Chain(block.expand, block.depthwise, block.squeeze, block.swish, block.project)
    shortcut = Identity() if isinstance(block.shortcut, nn.Identity) else block.shortcut
    return Chain(Sum(main, shortcut), block.act)


class X3DHead(nn.Module):
    """Average over the clip, a hidden layer without bias, ReLU, dropout, one linear layer.

    ``(batch, C, time, height, width)`` to ``(batch, classes)``.
    """

    def __init__(self, channels: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, hidden, bias=False)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.act(self.expand(x.mean(dim=(2, 3, 4))))))


@streams(X3DHead)
def _head(head: X3DHead) -> Form:
    return Chain(WindowPool("mean"), head.expand, head.act, head.drop, head.fc)


def x3d(
    *,
    classes: int = 400,
    in_channels: int = 3,
    frames: int = 13,
    side: int = 160,
    width: int = 24,
    blocks: Sequence[int] = BLOCKS,
    hidden: int = 2048,
    dropout: float = 0.5,
    squeeze: Scope = "clip",
) -> Staged:
    """X3D of any size: ``(batch, in_channels, time, height, width)`` to logits ``(batch, classes)``.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        frames, side: of the clip it is made for, whatever others it takes too.
        width: channels of the stem and the first residual stage; the others have 2, 4 and 8 times as many.
        blocks: of the four residual stages.
        hidden: width of the head's hidden layer.
        dropout: rate in front of the last layer.
        squeeze: what squeeze and excitation averages over, the ``clip`` as published, or each ``frame`` by
            itself, as on a stream.

    Raises:
        ConfigError: an option out of range.
    """
    sizes = {"classes": classes, "in_channels": in_channels, "frames": frames, "side": side}
    _check({**sizes, "width": width, "hidden": hidden}, blocks)
    stem = OrderedDict(
        spatial=nn.Conv3d(in_channels, width, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
        temporal=nn.Conv3d(width, width, (5, 1, 1), padding=(2, 0, 0), groups=width, bias=False),
        bn=nn.BatchNorm3d(width),
        act=nn.ReLU(),
    )
    stages: dict[str, nn.Module] = {"stem": nn.Sequential(stem)}
    channels = inner = width
    for number, depth in enumerate(blocks):
        out = width * 2**number
        inner = int(2.25 * out)
        gate = round_channels(inner / 16, at_least=0.9)
        row = []
        for index in range(depth):
            stride = 2 if index == 0 else 1
            # Every second block only: the paper's table shows it in each, its count of parameters does not.
            row.append(
                X3DBlock(channels, inner, out, stride, squeeze=0 if index % 2 else gate, scope=squeeze)
            )
            channels = out
        stages[f"res{number + 2}"] = nn.Sequential(*row)
    stages["features"] = conv_bn_act_3d(channels, inner, 1)
    stages["head"] = X3DHead(inner, hidden, classes, dropout)
    for stage in stages.values():
        he_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, frames, side, side)})


def _check(sizes: dict[str, int], blocks: Sequence[int]) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ConfigError(f"Option {name!r} of X3D must be at least 1, got {value!r}")
    if len(blocks) != 4 or min(blocks) < 1:
        raise ConfigError(f"Option 'blocks' of X3D is four numbers from 1 on, got {list(blocks)}")


register(
    "network",
    "x3d-xs",
    summary="Actions in four frames of video: 3,794,322 parameters, 605 M MACs.",
    paper=PAPER,
    input_shapes={"main": (3, 4, 160, 160)},
    small=SMALL,
    small_shapes=SMALL_SHAPES,
)(partial(x3d, frames=4, side=160))

register(
    "network",
    "x3d-s",
    summary="Actions in 13 frames of video: 3,794,322 parameters, 1.96 G MACs.",
    paper=PAPER,
    input_shapes={"main": (3, 13, 160, 160)},
    small=SMALL,
    small_shapes=SMALL_SHAPES,
)(partial(x3d, frames=13, side=160))

register(
    "network",
    "x3d-m",
    summary="Actions in 16 frames of video: 3,794,322 parameters, 4.73 G MACs.",
    paper=PAPER,
    input_shapes={"main": (3, 16, 224, 224)},
    small=SMALL,
    small_shapes=SMALL_SHAPES,
)(partial(x3d, frames=16, side=224))

register(
    "network",
    "x3d-l",
    summary="Actions in 16 frames of video: 6,153,432 parameters, 18.4 G MACs.",
    paper=PAPER,
    input_shapes={"main": (3, 16, 312, 312)},
    small=SMALL,
    small_shapes=SMALL_SHAPES,
)(partial(x3d, frames=16, side=312, blocks=BLOCKS_L))
