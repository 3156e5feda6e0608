"""PhiNets on waveforms: a bank of four strided convolutions, then one-dimensional inverted residuals.

Behind the bank a map is ``(batch, channel, time, 1)``, so that every exit and head reads it as any other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError, InputError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import PooledLinear
from sentio.nn.init import he_init
from sentio.nn.squeeze_excitation import SqueezeExcitation
from sentio.nn.streaming import Flow, Form, Moment, Plan, streams
from sentio.nn.streaming_joins import Chain, Concat, Identity, Sum
from sentio.nn.streaming_windows import Pad

#: Kernels of the bank, and the sample at which each begins to read.
KERNELS = (32, 64, 128, 256)
OFFSETS = (0, 64, 192, 448)
#: Frames of the shortest kernel that are cut off at the end.
CROP = 4
#: Frames that two poolings still leave something of.
LEAST_FRAMES = 4

#: The five published networks, as options.
MEMBERS_1D = {
    "m1": {"stride": 300, "filters": 3, "n_layers": 4, "depth_multiplier": 4.5},
    "m0.5": {"stride": 500, "filters": 2, "n_layers": 4, "depth_multiplier": 4.5},
    "m0.2": {"stride": 1600, "filters": 2, "n_layers": 3, "depth_multiplier": 2.5},
    "m0.1": {"stride": 300, "filters": 1, "n_layers": 4, "depth_multiplier": 1.5},
    "m0.07": {"stride": 500, "filters": 1, "n_layers": 3, "depth_multiplier": 1.5},
}


class FilterBank(nn.Module):
    """Four convolutions over one waveform: ``(batch, channel, sample)`` to ``(batch, 4 filters, time, 1)``.

    Frame ``t`` reads samples from ``t * stride`` up to ``t * stride + 704``, so the bank can run on a
    stream. The paper rotates the waveform in front of the longer kernels and crops the frames behind them;
    no kept frame reads what was wrapped around, so here each kernel begins at its offset and only kept
    frames are computed. At strides so small that one would wrap, such as 100, more is cropped instead.

    Args:
        in_channels: of the waveform.
        filters: of each kernel.
        stride: samples from frame to frame.
    """

    def __init__(self, in_channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.convs = nn.ModuleList(
            nn.Conv1d(in_channels, filters, kernel, stride=stride, bias=False) for kernel in KERNELS
        )

    @property
    def least_samples(self) -> int:
        """Samples of the shortest waveform that it takes."""
        last = LEAST_FRAMES - 1
        return max(last * self.stride + OFFSETS[-1] + KERNELS[-1], (last + CROP) * self.stride + KERNELS[0])

    def frames(self, samples: int) -> int:
        """Frames that so many samples give."""
        shortest = (samples - KERNELS[0]) // self.stride + 1 - CROP
        longest = (samples - OFFSETS[-1] - KERNELS[-1]) // self.stride + 1
        return min(shortest, longest)

    def forward(self, x: Tensor) -> Tensor:
        samples = x.shape[-1]
        if samples < self.least_samples:
            raise InputError(
                f"Network 'phinet-1d' with stride {self.stride} needs waveforms of at least "
                f"{self.least_samples} samples, got {samples}"
            )
        span = (self.frames(samples) - 1) * self.stride
        maps = [
            conv(x[..., offset : offset + span + kernel])
            for conv, offset, kernel in zip(self.convs, OFFSETS, KERNELS, strict=True)
        ]
        return torch.cat(maps, dim=1).unsqueeze(-1)


class StreamedBank(Concat):
    """The bank on a stream: each kernel begins at its offset, and all wait for the last."""

    def __init__(self, bank: FilterBank) -> None:
        kernels = zip(bank.convs, OFFSETS, strict=True)
        super().__init__(*(Chain(Pad((-offset, 0)), conv) for conv, offset in kernels))
        self.bank = bank

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        out = super().plan(replace(flow, ndim=3), plan)
        return replace(out, ndim=4, frames=None if flow.frames is None else self.bank.frames(flow.frames))

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        return super().step(x, moment).unsqueeze(-1)

    def clip(self, x: Tensor) -> Tensor:
        return super().clip(x).unsqueeze(-1)


streams(FilterBank)(StreamedBank)


class PhiNetBlock1d(nn.Module):
    """Expand, depthwise 3 in time, project, squeeze and excitation; then the input is added or put beside.

    ``(batch, channels, time, 1)`` to the same with ``add``, to ``2 * channels`` with ``concat``. There is a
    ReLU behind the projection too.

    Args:
        channels: of the input.
        depth_multiplier: expanded width over the input's.
        join: what becomes of the input.
    """

    def __init__(self, channels: int, depth_multiplier: float, join: Literal["add", "concat"]) -> None:
        super().__init__()
        hidden = max(1, int(channels * depth_multiplier))
        self.expand = _conv(channels, hidden, (1, 1))
        self.depthwise = _conv(hidden, hidden, (3, 1), groups=hidden)
        self.project = _conv(hidden, channels, (1, 1))
        self.se = SqueezeExcitation(channels, channels // 8, bias=False)
        self.join = join
        self.out_channels = channels if join == "add" else 2 * channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.se(self.project(self.depthwise(self.expand(x))))
        return x + y if self.join == "add" else torch.cat((y, x), dim=1)


@streams(PhiNetBlock1d)
def _phinet_block_1d(block: PhiNetBlock1d) -> Form:
    main = Chain(block.expand, block.depthwise, block.project, block.se)
    return Sum(Identity(), main) if block.join == "add" else Concat(main, Identity())


@register(
    "network",
    "phinet-1d",
    paper="F. Paissan, A. Ancilotto, A. Brutti, E. Farella, Scalable neural architectures for end-to-end "
    "environmental sound classification, ICASSP 2022",
    input_shapes={"main": (1, 64_000)},
    small={"classes": 4, "filters": 6, "stride": 100, "depth_multiplier": 2.0},
    small_shapes={"main": (1, 2_400)},
)
def phinet_1d(
    *,
    classes: int = 10,
    in_channels: int = 1,
    stride: int = 300,
    filters: int = 3,
    n_layers: int = 4,
    depth_multiplier: float = 4.5,
) -> Staged:
    """Short sounds from the waveform itself: 11,506 parameters and 1.34 M MACs for four seconds at 16 kHz.

    Takes peak-normalised samples ``(batch, 1, 64000)``, float32 in [-1, 1], gives logits
    ``(batch, classes)``; other lengths work too. By default it is the paper's M1; `MEMBERS_1D` holds the
    options of all five.

    Args:
        classes: width of the output.
        in_channels: channels of the waveform.
        stride: samples from frame to frame; parameters do not depend on it.
        filters: of each of the four kernels.
        n_layers: the filter bank and the blocks behind it, at least 3. Blocks from the fourth on are outside
            what was published.
        depth_multiplier: expanded width of a block over its input's.

    Raises:
        ConfigError: an option out of range.
    """
    for name, value, least in (("stride", stride, 1), ("filters", filters, 1), ("n_layers", n_layers, 3)):
        if value < least:
            raise ConfigError(
                f"Option {name!r} of network 'phinet-1d' must be at least {least}, got {value!r}"
            )
    if not depth_multiplier > 0:
        raise ConfigError(
            f"Option 'depth_multiplier' of network 'phinet-1d' must be above 0, got {depth_multiplier!r}"
        )
    stages: dict[str, nn.Module] = {"bank": FilterBank(in_channels, filters, stride)}
    channels = len(KERNELS) * filters
    for number in range(1, n_layers):
        block = PhiNetBlock1d(channels, depth_multiplier, "concat" if number in (2, 3) else "add")
        stages[f"block{number}"] = nn.Sequential(
            block, nn.AvgPool2d((2, 1)) if number in (1, 3) else nn.Identity()
        )
        channels = block.out_channels
    stages["head"] = PooledLinear(channels, classes)
    for stage in stages.values():
        he_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, 64_000)})


def _conv(in_channels: int, out_channels: int, kernel: tuple[int, int], *, groups: int = 1) -> nn.Sequential:
    padding = (kernel[0] // 2, 0)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())
