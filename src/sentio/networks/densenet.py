"""DenseNet-201: every layer reads all maps before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import PooledLinear
from sentio.nn.init import he_init


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1×1 and 3×3 convolution; ``growth`` new channels are appended to the input's."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(self.relu(self.norm2(y)))], dim=1)


@register(
    "network",
    "densenet201",
    paper="G. Huang et al., Densely Connected Convolutional Networks, CVPR 2017",
    input_shapes={"main": (3, 224, 224)},
    small={"classes": 4, "width": 8, "growth": 4, "depths": (1, 1, 2, 1)},
    small_shapes={"main": (3, 64, 64)},
)
def densenet201(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    hidden: int | None = None,
    dropout: float = 0.0,
    depths: Sequence[int] = (6, 12, 48, 32),
    growth: int = 32,
    width: int = 64,
) -> Staged:
    """DenseNet-201: 20,013,928 parameters, 4.29 G MACs.

    A transition is two stages: ``transition1.conv`` ends behind its convolution and ``transition1`` behind
    its pooling.

    Args:
        classes: width of the output.
        in_channels: channels of the input, of any size from 32×32.
        hidden: width of a layer between average and output, 256 in the papers on exits; none by default.
        dropout: rate in front of the output.
        depths: layers of each dense block; ``(6, 12, 24, 16)`` is DenseNet-121.
        growth: channels that a layer adds.
        width: channels of the stem.
    """
    stages: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False),
                norm=nn.BatchNorm2d(width),
                relu=nn.ReLU(),
                pool=nn.MaxPool2d(3, stride=2, padding=1),
            )
        )
    }
    channels = width
    for number, depth in enumerate(depths, start=1):
        block: list[nn.Module] = []
        for _ in range(depth):
            block.append(DenseLayer(channels, growth))
            channels += growth
        if number == len(depths):
            block += [nn.BatchNorm2d(channels), nn.ReLU()]
        stages[f"denseblock{number}"] = nn.Sequential(*block)
        if number < len(depths):
            conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
            stages[f"transition{number}.conv"] = nn.Sequential(
                OrderedDict(norm=nn.BatchNorm2d(channels), relu=nn.ReLU(), conv=conv)
            )
            stages[f"transition{number}"] = nn.AvgPool2d(2)
            channels //= 2
    for stage in stages.values():
        he_init(stage)
    stages["head"] = PooledLinear(channels, classes, hidden=hidden, dropout=dropout)
    return Staged(stages, input_shapes={"main": (in_channels, 224, 224)})
