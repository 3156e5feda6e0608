"""PANNs: the plain convolutional networks CNN6 and CNN10 for audio tagging."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import conv_bn_act
from sentio.nn.init import xavier_init
from sentio.nn.normalisation import BandNorm
from sentio.nn.pooling import MaxMeanHead

PAPER = (
    "Q. Kong et al., PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition, 2020"
)


@register(
    "network",
    "cnn6",
    paper=PAPER,
    input_shapes={"main": (1, 50, 64)},
    small={"classes": 4, "bands": 32, "width": 8},
    small_shapes={"main": (1, 32, 32)},
)
def cnn6(*, classes: int = 527, in_channels: int = 1, bands: int = 64, width: int = 64) -> Staged:
    """CNN6 of PANNs: four 5×5 convolutions, 4,837,455 parameters at AudioSet's 527 classes.

    Takes log-mel ``(batch, 1, time, bands)``, at least 16 frames, gives logits ``(batch, classes)``, for a
    sigmoid where several classes may be heard at once. Its own input is one second in 50 frames, 64 bands;
    each band is normalised inside the first stage.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        bands: frequency bands of the input, at least 16.
        width: channels of the first block; each block has twice as many as the one before.
    """
    return _tagger(classes, in_channels, bands, width, kernel=5, convolutions=1)


@register(
    "network",
    "cnn10",
    paper=PAPER,
    input_shapes={"main": (1, 50, 64)},
    small={"classes": 4, "bands": 32, "width": 8},
    small_shapes={"main": (1, 32, 32)},
)
def cnn10(*, classes: int = 527, in_channels: int = 1, bands: int = 64, width: int = 64) -> Staged:
    """CNN10 of PANNs: four pairs of 3×3 convolutions, 5,219,279 parameters at AudioSet's 527 classes.

    Input, output and arguments as for `cnn6`.
    """
    return _tagger(classes, in_channels, bands, width, kernel=3, convolutions=2)


def _tagger(
    classes: int, in_channels: int, bands: int, width: int, *, kernel: int, convolutions: int
) -> Staged:
    stages: dict[str, nn.Module] = {}
    channels = in_channels
    for number in range(1, 5):
        out_channels = width * 2 ** (number - 1)
        layers: list[tuple[str, nn.Module]] = [("norm", BandNorm(bands))] if number == 1 else []
        for index in range(1, convolutions + 1):
            layers.append((f"conv{index}", conv_bn_act(channels, out_channels, kernel)))
            channels = out_channels
        layers += [("pool", nn.AvgPool2d(2)), ("dropout", nn.Dropout(0.2))]
        stages[f"block{number}"] = nn.Sequential(OrderedDict(layers))
    stages["head"] = MaxMeanHead(channels, classes, dropout=0.5)
    for stage in stages.values():
        xavier_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, 50, bands)})
