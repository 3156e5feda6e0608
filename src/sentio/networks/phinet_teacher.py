"""The plain network from which the EUSIPCO PhiNets were taught."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import PooledLinear
from sentio.nn.init import he_init


@register(
    "network",
    "phinet-teacher",
    paper="A. Brutti, F. Paissan, A. Ancilotto, E. Farella, Optimizing PhiNet architectures for the "
    "detection of urban sounds on low-end devices, EUSIPCO 2022",
    input_shapes={"main": (1, 126, 40)},
    small={"classes": 4, "width": 8},
    small_shapes={"main": (1, 24, 16)},
)
def phinet_teacher(*, classes: int = 10, in_channels: int = 1, width: int = 32) -> Staged:
    """Four 3×3 convolutions without padding, 66,026 parameters and 88.7 M MACs: a teacher for `phinet`.

    Takes log-mel ``(batch, 1, 126 time, 40 frequency)`` or any size from 16×16, gives logits
    ``(batch, classes)``. The paper's text gives 16 filters to the first convolution; its 66 K parameters and
    90 M operations fit 32.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        width: filters of the first two convolutions; the others have twice as many.
    """
    stages: dict[str, nn.Module] = {}
    channels = in_channels
    for number, (filters, dropout) in enumerate(
        ((width, 0.0), (width, 0.07), (2 * width, 0.07), (2 * width, 0.14)), start=1
    ):
        layers: list[tuple[str, nn.Module]] = [
            ("dropout", nn.Dropout2d(dropout)),
            ("conv", nn.Conv2d(channels, filters, 3)),
            ("act", nn.LeakyReLU(0.1)),
            ("bn", nn.BatchNorm2d(filters)),
        ]
        if number == 2:
            layers.append(("pool", nn.MaxPool2d(2)))
        stages[f"conv{number}"] = he_init(nn.Sequential(OrderedDict(layers)))
        channels = filters
    stages["head"] = PooledLinear(channels, classes)
    return Staged(stages, input_shapes={"main": (in_channels, 126, 40)})
