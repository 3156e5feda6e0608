"""A compact audio CNN to start with."""

from __future__ import annotations

from torch import Tensor, nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import PooledLinear, conv_bn_act
from sentio.nn.init import he_init
from sentio.nn.streaming import Form, streams
from sentio.nn.streaming_joins import Chain, Identity, Sum


class TinyBlock(nn.Module):
    """A 3×3 convolution that halves the map, then a depthwise-separable one around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.down = conv_bn_act(in_channels, out_channels, stride=2)
        self.depthwise = conv_bn_act(out_channels, out_channels, groups=out_channels)
        self.pointwise = conv_bn_act(out_channels, out_channels, 1, act=False)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x)
        return self.act(y + self.pointwise(self.depthwise(y)))


@streams(TinyBlock)
def _tiny_block(block: TinyBlock) -> Form:
    return Chain(block.down, Sum(Identity(), Chain(block.depthwise, block.pointwise)), block.act)


@register(
    "network",
    "tiny-cnn",
    input_shapes={"main": (1, 98, 64)},
    small={"classes": 4, "width": 8},
    small_shapes={"main": (1, 32, 32)},
)
def tiny_cnn(*, classes: int = 10, in_channels: int = 1, width: int = 16) -> Staged:
    """A compact audio CNN to start with: four blocks, about 44,000 parameters.

    Takes log-mel ``(batch, 1, time, frequency)`` of any size from about 16×16; its own is one second at
    100 frames per second without the padding, 64 bands.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        width: channels of the first block; the others have 1.5, 2.5 and 4 times as many.
    """
    widths = (width, width * 3 // 2, width * 5 // 2, width * 4)
    stages: dict[str, nn.Module] = {}
    channels = in_channels
    for number, out_channels in enumerate(widths, start=1):
        block = TinyBlock(channels, out_channels)
        he_init(block)
        stages[f"block{number}"] = block
        channels = out_channels
    stages["head"] = PooledLinear(channels, classes)
    return Staged(stages, input_shapes={"main": (in_channels, 98, 64)})
