"""A very cheap network with the feature maps at which published early exits sit."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import PooledLinear, conv_bn_act
from sentio.nn.init import he_init


@register(
    "network",
    "tap-cnn",
    input_shapes={"main": (3, 224, 224)},
    small={"classes": 4},
    small_shapes={"main": (3, 32, 32)},
)
def tap_cnn(*, classes: int = 10, in_channels: int = 3) -> Staged:
    """Maps of 128, 256 and 512 channels at 28×28 from a 224×224 image, at a hundredth of a DenseNet's cost.

    The shapes are those at which the SL-ViT paper taps ResNet152 and DenseNet201, so that its branches can
    be built, run and timed at their published sizes without those networks. Not meant to be accurate.

    Args:
        classes: width of the output.
        in_channels: channels of the image, whose sides are multiples of 8.
    """
    patchify = nn.Conv2d(in_channels, 128, 8, stride=8, bias=False)
    stages = {
        "tap1": nn.Sequential(OrderedDict(conv=patchify, bn=nn.BatchNorm2d(128), act=nn.ReLU())),
        "tap2": conv_bn_act(128, 256, 1, groups=16),
        "tap3": conv_bn_act(256, 512, 1, groups=16),
        "head": PooledLinear(512, classes),
    }
    for stage in stages.values():
        he_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, 224, 224)})
