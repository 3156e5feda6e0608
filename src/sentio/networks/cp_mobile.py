"""CP-Mobile in the simplified form of the DCASE 2024 Task 1 baseline."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import InvertedResidual, conv_bn_act, round_channels
from sentio.nn.init import he_init
from sentio.nn.streaming import Form, streams
from sentio.nn.streaming_joins import Chain
from sentio.nn.streaming_pooling import WindowPool

#: Blocks per width, and the (time, frequency) strides of the blocks that have one, counted from 1.
BLOCKS = (3, 2, 1)
STRIDES = {3: (2, 1), 4: (1, 2)}


class ConvHead(nn.Module):
    """1×1 convolution to the classes, batch norm, global average: ``(batch, C, T, F)`` to logits."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classify = conv_bn_act(channels, classes, 1, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(x).mean(dim=(2, 3))


@streams(ConvHead)
def _conv_head(head: ConvHead) -> Form:
    return Chain(head.classify, WindowPool("mean"))


@register(
    "network",
    "dcase2024-baseline",
    paper="F. Schmid et al., Data-Efficient Low-Complexity Acoustic Scene Classification in the DCASE 2024 "
    "Challenge; CP-Mobile: F. Schmid et al., DCASE 2023 Task 1",
    input_shapes={"main": (1, 65, 256)},
    small={"base_channels": 16, "classes": 4},
    small_shapes={"main": (1, 17, 32)},
)
def dcase2024_baseline(
    *,
    classes: int = 10,
    in_channels: int = 1,
    base_channels: int = 32,
    channels_multiplier: float = 1.8,
    expansion: float = 2.1,
) -> Staged:
    """Acoustic scenes in 61,148 parameters and 29.4 M MACs: two strided stems, six inverted residuals.

    Takes log-mel ``(batch, 1, 65 time, 256 frequency)``, gives logits ``(batch, classes)``; other sizes
    work too. Kernels and strides are the baseline's, transposed from frequency first to time first.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        base_channels: width behind the stem; a quarter of it inside.
        channels_multiplier: growth of the width from one group of blocks to the next.
        expansion: hidden width of a block over its input's.
    """
    widths = [round_channels(base_channels * channels_multiplier**group) for group in range(len(BLOCKS))]
    first = max(1, base_channels // 4)
    stages: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            OrderedDict(
                first=conv_bn_act(in_channels, first, stride=2),
                second=conv_bn_act(first, widths[0], stride=2),
            )
        )
    }
    channels = widths[0]
    for width, repeats in zip(widths, BLOCKS, strict=True):
        for _ in range(repeats):
            number = len(stages)
            hidden = round_channels(expansion * channels)
            stages[f"block{number}"] = InvertedResidual(
                channels, hidden, width, stride=STRIDES.get(number, (1, 1))
            )
            channels = width
    stages["head"] = ConvHead(channels, classes)
    for stage in stages.values():
        he_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, 65, 256)})
