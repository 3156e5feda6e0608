"""SP4ASC: PANNs' CNN6 with separable convolutions, for acoustic scenes."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.init import he_init
from sentio.nn.normalisation import BandNorm
from sentio.nn.pooling import MaxMeanHead
from sentio.nn.streaming import Form, streams
from sentio.nn.streaming_joins import Chain, Sum


class CrossConv(nn.Module):
    """A 1×1 convolution, then a depthwise one along time plus a depthwise one along frequency.

    Both have three taps, two apart, and read the same 1×1 output: the five-by-five cross of a 5×5 kernel
    with ``(in_channels + 6) * out_channels`` weights instead of ``25 * in_channels * out_channels``. Padding
    keeps the size and comes behind the 1×1, so a batch norm behind the sum folds into both, borders included.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.time = nn.Conv2d(
            out_channels,
            out_channels,
            (3, 1),
            padding=(2, 0),
            dilation=(2, 1),
            groups=out_channels,
            bias=False,
        )
        self.frequency = nn.Conv2d(
            out_channels,
            out_channels,
            (1, 3),
            padding=(0, 2),
            dilation=(1, 2),
            groups=out_channels,
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise(x)
        return self.time(y) + self.frequency(y)


@streams(CrossConv)
def _cross_conv(module: CrossConv) -> Form:
    return Chain(module.pointwise, Sum(module.time, module.frequency))


@register(
    "network",
    "sp4asc",
    paper="G. Puy et al., Separable Convolutions and Test-Time Augmentations for Low-Complexity and "
    "Calibrated Acoustic Scene Classification, DCASE 2021 Task 1A",
    input_shapes={"main": (1, 431, 256)},
    small={"classes": 4, "bands": 32, "width": 8},
    small_shapes={"main": (1, 32, 32)},
)
def sp4asc(
    *, classes: int = 10, in_channels: int = 1, bands: int = 256, width: int = 64, dropout: float = 0.2
) -> Staged:
    """Acoustic scenes in 62,922 parameters, 62,474 once batch norm is folded, and 442.6 M MACs for 10 s.

    Takes log-mel ``(batch, 1, time, bands)``, at least 16 frames, gives logits ``(batch, classes)``. Its own
    input is ten seconds at 44.1 kHz: windows of 2048 samples, hop 1024, 256 Slaney bands in decibels (with
    HTK's mel scale the lowest band would be empty). Each band is normalised inside the first stage.
    `fold_batch_norm` gives the published test form, below 128 KB as float16.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        bands: frequency bands of the input, at least 16.
        width: channels of the first block; the others and the hidden layer have twice as many.
        dropout: before each linear layer.
    """
    stages: dict[str, nn.Module] = {}
    channels = in_channels
    for number, out_channels in enumerate((width, 2 * width, 2 * width, 2 * width), start=1):
        layers: list[tuple[str, nn.Module]] = [
            ("conv", CrossConv(channels, out_channels)),
            ("bn", nn.BatchNorm2d(out_channels)),
            ("act", nn.ReLU()),
            ("pool", nn.AvgPool2d(2)),
        ]
        if number == 1:
            layers.insert(0, ("norm", BandNorm(bands)))
        stages[f"block{number}"] = nn.Sequential(OrderedDict(layers))
        channels = out_channels
    stages["head"] = MaxMeanHead(channels, classes, dropout=dropout)
    for stage in stages.values():
        he_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, 431, bands)})
