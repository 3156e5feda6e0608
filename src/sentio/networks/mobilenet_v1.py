"""MobileNet-V1: depthwise-separable convolutions."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import PooledLinear, conv_bn_act
from sentio.nn.init import he_init

#: (channels, stride) of the 13 blocks
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


@register(
    "network",
    "mobilenet-v1",
    paper="A. Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision "
    "Applications, 2017",
    input_shapes={"main": (3, 224, 224)},
    small={"classes": 4, "width": 1 / 16},
    small_shapes={"main": (3, 64, 64)},
)
def mobilenet_v1(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    hidden: int | None = None,
    dropout: float = 0.0,
    width: float = 1.0,
) -> Staged:
    """MobileNet-V1: 4,231,976 parameters, 569 M MACs.

    Block 4 is two stages, since a paper's exit may sit behind its depthwise convolution.

    Args:
        classes: width of the output.
        in_channels: channels of the input, of any size from 32×32.
        hidden: width of a layer between average and output, 256 in the papers on exits; none by default.
        dropout: rate in front of the output.
        width: factor on all widths; 1, 0.75, 0.5 and 0.25 in the paper.
    """

    def scaled(channels: int) -> int:
        return max(1, int(channels * width))

    def separable(channels: int, out: int, stride: int) -> tuple[nn.Module, nn.Module]:
        depthwise = conv_bn_act(channels, channels, stride=stride, groups=channels, act=nn.ReLU6)
        return depthwise, conv_bn_act(channels, out, 1, act=nn.ReLU6)

    channels = scaled(32)
    stages: dict[str, nn.Module] = {"stem": conv_bn_act(in_channels, channels, stride=2, act=nn.ReLU6)}
    for number, (wide, stride) in enumerate(BLOCKS, start=1):
        depthwise, pointwise = separable(channels, scaled(wide), stride)
        channels = scaled(wide)
        if number == 4:
            stages["block4.depthwise"], stages["block4"] = depthwise, pointwise
        else:
            stages[f"block{number}"] = nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))
    for stage in stages.values():
        he_init(stage)
    stages["head"] = PooledLinear(channels, classes, hidden=hidden, dropout=dropout)
    return Staged(stages, input_shapes={"main": (in_channels, 224, 224)})
