"""Sound event detection, frame by frame: the CRNN, and its light form out of separable and dilated layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Literal

from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.streaming import Flow, Form, Moment, PerFrame, Plan, streams
from sentio.nn.streaming_joins import Chain
from sentio.nn.streaming_pooling import WindowPool

Answer = Literal["frames", "clip"]

CRNN = (
    "E. Cakir et al., Convolutional Recurrent Neural Networks for Polyphonic Sound Event Detection, IEEE/ACM "
    "TASLP 2017"
)
LIGHT = (
    "K. Drossos et al., Sound Event Detection with Depthwise Separable and Dilated Convolutions, IJCNN 2020"
)


class RecurrentMap(nn.Module):
    """A GRU over time: ``(batch, channel, time, frequency)`` to ``(batch, hidden, time, 1)``.

    Channels and frequencies are one vector for each frame, the channels outermost.
    """

    def __init__(self, features: int, hidden: int, *, layers: int = 1, bidirectional: bool = False) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, layers, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        return _back(self.gru(_sequence(x))[0])


class AsBands(nn.Module):
    """Channels become frequencies: ``(batch, channel, time, 1)`` to ``(batch, 1, time, channel)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 2, 1)


class FrameHead(nn.Module):
    """One linear layer for each frame: ``(batch, channel, time, frequency)`` to logits.

    Args:
        features: channels times frequencies.
        classes: width of the output.
        answer: ``frames`` gives ``(batch, time, classes)``, ``clip`` their mean over time.
    """

    def __init__(self, features: int, classes: int, answer: Answer) -> None:
        super().__init__()
        self.answer = answer
        self.fc = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(_sequence(x))
        return y if self.answer == "frames" else y.mean(1)


def _sequence(x: Tensor) -> Tensor:
    """``(batch, time, channel * frequency)``."""
    return x.transpose(1, 2).flatten(2)


def _back(x: Tensor) -> Tensor:
    return x.transpose(1, 2).unsqueeze(3)


class _InSequence(Form):
    """What runs on ``(batch, time, feature)``, for maps."""

    def __init__(self, module: nn.Module, *, maps: bool) -> None:
        self.module, self.maps = module, maps

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        if flow.axis != 2:
            raise plan.refusal(f"it takes (batch, channel, time, frequency), and time is axis {flow.axis}")
        self.form, out = plan.run(self.module, replace(flow, axis=1, ndim=3))
        return replace(out, axis=2, ndim=4) if self.maps else out

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        y = self.form.step(_sequence(x), moment)
        return _back(y) if self.maps else y

    def clip(self, x: Tensor) -> Tensor:
        y = self.form.clip(_sequence(x))
        return _back(y) if self.maps else y


@streams(RecurrentMap)
def _recurrent_map(module: RecurrentMap) -> Form:
    return _InSequence(module.gru, maps=True)


streams(AsBands)(PerFrame)


@streams(FrameHead)
def _frame_head(head: FrameHead) -> Form:
    if head.answer == "frames":
        return _InSequence(head.fc, maps=False)
    return Chain(WindowPool("mean", others=None), nn.Flatten(1), head.fc)


@register(
    "network",
    "crnn",
    paper=CRNN,
    input_shapes={"main": (1, 256, 40)},
    small={"classes": 4, "bands": 16, "width": 8, "hidden": 6, "pools": [4, 2, 2], "answer": "clip"},
    small_shapes={"main": (1, 32, 16)},
)
def crnn(
    *,
    classes: int = 3,
    in_channels: int = 1,
    bands: int = 40,
    width: int = 256,
    pools: Sequence[int] = (5, 4, 2),
    separable: bool = False,
    hidden: int = 256,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.25,
    answer: Answer = "frames",
) -> Staged:
    """CRNN for sound events: three convolutions that pool frequency alone, a GRU, logits for each frame.

    Takes log-mel ``(batch, 1, time, bands)`` of any length, gives logits ``(batch, time, classes)`` for a
    sigmoid, as several events may be heard at once: as many frames as it was given. 3,681,027 parameters at
    three classes. A frame's answer depends on everything before it and on six frames after it.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        bands: frequency bands; ``pools`` have to leave one of them.
        width: channels of the convolutions.
        pools: factors by which frequency is pooled, one for each convolution.
        separable: whether convolutions are depthwise separable, as in `crnn_desed`.
        hidden, layers, bidirectional: of the GRU; one that goes both ways cannot run on a stream.
        dropout: whole channels, behind each convolution.
        answer: ``frames``; or ``clip``, the mean of its frames' logits, ``(batch, classes)``.

    Raises:
        ConfigError: the pooling does not leave one band, or an option is out of range.
    """
    stages = _trunk(bands, in_channels, width, pools, dropout, answer, separable=separable)
    if hidden < 1 or layers < 1:
        raise ConfigError(f"A GRU has at least one layer of one, got hidden={hidden!r} and layers={layers!r}")
    stages["context"] = RecurrentMap(width, hidden, layers=layers, bidirectional=bidirectional)
    stages["head"] = FrameHead(hidden * (2 if bidirectional else 1), classes, answer)
    return Staged(stages, input_shapes={"main": (in_channels, 256, bands)})


@register(
    "network",
    "crnn-desed",
    paper=LIGHT,
    input_shapes={"main": (1, 256, 40)},
    small={
        "classes": 4,
        "bands": 16,
        "width": 8,
        "maps": 6,
        "dilation": 3,
        "pools": [4, 2, 2],
        "answer": "clip",
    },
    small_shapes={"main": (1, 32, 16)},
)
def crnn_desed(
    *,
    classes: int = 3,
    in_channels: int = 1,
    bands: int = 40,
    width: int = 256,
    pools: Sequence[int] = (5, 4, 2),
    separable: bool = True,
    maps: int = 256,
    kernel: int = 3,
    dilation: int = 10,
    dropout: float = 0.25,
    answer: Answer = "frames",
) -> Staged:
    """The light CRNN: depthwise separable convolutions, and one dilated in time in place of the GRU.

    288,771 parameters at three classes, where `crnn` has 3,681,027. The name stands for *de*pthwise
    *se*parable and *d*ilated, not for the data set DESED. A frame's answer depends on 16 frames on either
    side: six for the convolutions, and ``dilation * (kernel - 1) / 2``.

    Args:
        classes, in_channels, bands, width, pools, dropout, answer: as for `crnn`.
        separable: false for plain convolutions before the dilated one.
        maps: channels of the dilated convolution.
        kernel: its taps, in time and over the ``width`` features, odd.
        dilation: of its taps in time.

    Raises:
        ConfigError: the pooling does not leave one band, or an option is out of range.
    """
    stages = _trunk(bands, in_channels, width, pools, dropout, answer, separable=separable)
    if kernel % 2 == 0 or not 0 < kernel <= width or dilation < 1:
        raise ConfigError(
            f"The dilated convolution takes an odd kernel of at most {width} and a dilation from 1 on, got "
            f"{kernel!r} and {dilation!r}"
        )
    conv = nn.Conv2d(
        1,
        maps,
        kernel,
        stride=(1, 3),
        padding=(dilation * (kernel - 1) // 2, 0),
        dilation=(dilation, 1),
    )
    stages["context"] = nn.Sequential(
        OrderedDict(bands=AsBands(), conv=conv, act=nn.ReLU(), bn=nn.BatchNorm2d(maps))
    )
    stages["head"] = FrameHead(maps * ((width - kernel) // 3 + 1), classes, answer)
    return Staged(stages, input_shapes={"main": (in_channels, 256, bands)})


def _trunk(
    bands: int,
    in_channels: int,
    width: int,
    pools: Sequence[int],
    dropout: float,
    answer: str,
    *,
    separable: bool,
) -> dict[str, nn.Module]:
    """The convolutions, a stage each; norms come behind activations, as in the papers' code."""
    if answer not in ("frames", "clip"):
        raise ConfigError(f"answer is 'frames' or 'clip', got {answer!r}")
    if not pools or any(pool < 1 for pool in pools) or prod(pools) != bands:
        raise ConfigError(
            f"Pooling by {', '.join(map(str, pools))} has to leave one of {bands} bands; their product is "
            f"{prod(pools)}: give a front end of as many bands, or other pools"
        )
    stages: dict[str, nn.Module] = {}
    for number, pool in enumerate(pools, start=1):
        channels = in_channels if number == 1 else width
        stages[f"block{number}"] = nn.Sequential(
            OrderedDict(
                conv=_separable(channels, width) if separable else nn.Conv2d(channels, width, 5, padding=2),
                act=nn.ReLU(),
                bn=nn.BatchNorm2d(width),
                pool=nn.MaxPool2d((1, pool)),
                dropout=nn.Dropout2d(dropout),
            )
        )
    return stages


def _separable(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(in_channels, out_channels, 5, padding=2, groups=in_channels),
            act=nn.LeakyReLU(0.01),
            bn=nn.BatchNorm2d(out_channels),
            pointwise=nn.Conv2d(out_channels, out_channels, 1),
        )
    )
