"""CP-Mobile: the winner of DCASE 2023 Task 1, and the simplified form that is the DCASE 2024 baseline."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import InvertedResidual, conv_bn_act, round_channels
from sentio.nn.init import he_init
from sentio.nn.normalisation import GlobalResponseNorm
from sentio.nn.streaming import Form, streams
from sentio.nn.streaming_joins import Chain
from sentio.nn.streaming_pooling import WindowPool

#: Blocks per width, and the (time, frequency) strides of the blocks that have one, counted from 1.
BLOCKS = (3, 2, 1)
STRIDES = {2: (2, 2), 4: (1, 2)}
BASELINE_STRIDES = {3: (2, 1), 4: (1, 2)}

#: Options of four sizes like those submitted to DCASE 2023 Task 1, named by their parameters once folded.
CP_MOBILE_MEMBERS: dict[str, dict[str, float]] = {
    "6k": {"base_channels": 8, "channels_multiplier": 1.9, "expansion": 2.0},
    "12k": {"base_channels": 16, "channels_multiplier": 1.5, "expansion": 1.75},
    "30k": {"base_channels": 24, "channels_multiplier": 1.5, "expansion": 2.0},
    "54k": {"base_channels": 32, "channels_multiplier": 1.7, "expansion": 1.9},
}


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
    "cp-mobile",
    paper="F. Schmid et al., CP-JKU Submission to DCASE23: Efficient Acoustic Scene Classification with "
    "CP-Mobile, DCASE 2023 Task 1",
    input_shapes={"main": (1, 64, 256)},
    small={"base_channels": 8, "channels_multiplier": 1.5, "expansion": 2.0, "classes": 4},
    small_shapes={"main": (1, 16, 32)},
)
def cp_mobile(
    *,
    classes: int = 10,
    in_channels: int = 1,
    base_channels: int = 32,
    channels_multiplier: float = 2.3,
    expansion: float = 3.0,
) -> Staged:
    """Acoustic scenes in 126,952 parameters and 28.9 M MACs: inverted residuals with response norm.

    Takes log-mel ``(batch, 1, 64 time, 256 frequency)``, gives logits ``(batch, classes)``; other sizes
    work too. Behind each of the six blocks stands a global response norm. Kernels and strides are the
    authors', transposed from frequency first to time first. The default is that of the authors' release;
    `CP_MOBILE_MEMBERS` holds smaller sizes.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        base_channels: width behind the stem and of the first blocks, a multiple of 8; a quarter of it inside
            the stem.
        channels_multiplier: growth of the width from one group of blocks to the next.
        expansion: hidden width of a block over its input's.
    """
    widths = partial(round_channels, at_least=0.9)
    stages = _stages(
        classes,
        in_channels,
        base_channels,
        channels_multiplier,
        expansion,
        widths,
        STRIDES,
        response_norm=True,
    )
    return Staged(stages, input_shapes={"main": (in_channels, 64, 256)})


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
    stages = _stages(
        classes,
        in_channels,
        base_channels,
        channels_multiplier,
        expansion,
        round_channels,
        BASELINE_STRIDES,
        response_norm=False,
    )
    return Staged(stages, input_shapes={"main": (in_channels, 65, 256)})


def _stages(
    classes: int,
    in_channels: int,
    base_channels: int,
    channels_multiplier: float,
    expansion: float,
    rounded: Callable[[float], int],
    strides: Mapping[int, tuple[int, int]],
    *,
    response_norm: bool,
) -> dict[str, nn.Module]:
    widths = [rounded(base_channels * channels_multiplier**group) for group in range(len(BLOCKS))]
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
            stages[f"block{number}"] = InvertedResidual(
                channels,
                rounded(expansion * channels),
                width,
                stride=strides.get(number, (1, 1)),
                norm=GlobalResponseNorm() if response_norm else None,
            )
            channels = width
    stages["head"] = ConvHead(channels, classes)
    for stage in stages.values():
        he_init(stage)
    return stages
