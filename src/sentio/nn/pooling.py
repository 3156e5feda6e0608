"""Heads that pool over time and frequency."""

from __future__ import annotations

from torch import Tensor, nn

from sentio.nn.streaming import Flow, Form, PerFrame, streams
from sentio.nn.streaming_joins import Chain
from sentio.nn.streaming_pooling import WindowPool


class MaxMeanHead(nn.Module):
    """Mean over frequency, maximum plus mean over time, one or two linear layers: to ``(batch, classes)``.

    Takes ``(batch, channels, time, frequency)`` of any size. The maximum keeps what is heard once in a clip,
    the mean what is heard throughout. The head of PANNs (Kong et al., 2020), with dropout before each layer.

    Args:
        channels, classes: of input and output.
        dropout: before each linear layer.
        hidden: whether there is a layer before the last.
    """

    def __init__(self, channels: int, classes: int, *, dropout: float, hidden: bool = True) -> None:
        super().__init__()
        self.hidden = hidden
        if hidden:
            self.drop1 = nn.Dropout(dropout)
            self.fc1 = nn.Linear(channels, channels)
            self.relu = nn.ReLU()
        self.drop2 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(dim=3)
        x = x.amax(dim=2) + x.mean(dim=2)
        if self.hidden:
            x = self.relu(self.fc1(self.drop1(x)))
        return self.fc2(self.drop2(x))


@streams(MaxMeanHead)
def _max_mean_head(head: MaxMeanHead) -> Form:
    pool = Chain(_maps(), WindowPool("max", "mean", others="mean"))
    before = (head.drop1, head.fc1, head.relu) if head.hidden else ()
    return Chain(pool, *before, head.drop2, head.fc2)


class MeanMaxHead(nn.Module):
    """Mean over frequency, maximum over time, and a linear layer: to ``(batch, classes)``.

    Takes ``(batch, channels, time, frequency)`` of any size.

    Args:
        channels, classes: of input and output; where they are equal the layer begins as the identity.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)
        if classes == channels:
            nn.init.eye_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean(dim=3).amax(dim=2))


@streams(MeanMaxHead)
def _mean_max_head(head: MeanMaxHead) -> Form:
    return Chain(_maps(), WindowPool("max", others="mean"), head.fc)


class BandsHead(nn.Module):
    """Mean over time alone, then one linear layer that tells the bands apart: to ``(batch, classes)``.

    Takes ``(batch, channels, time, bands)`` of any time. Where sounds differ in which bands they fill, as
    vowels do, a mean over frequency leaves that to the channels.

    Args:
        channels, bands, classes: of input and output.
        dropout: before the linear layer.
    """

    def __init__(self, channels: int, bands: int, classes: int, *, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(channels * bands, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(x.mean(dim=2).flatten(1)))


@streams(BandsHead)
def _bands_head(head: BandsHead) -> Form:
    pool = WindowPool("mean", others=None)
    return Chain(_maps(), pool, PerFrame(nn.Flatten(1)), head.drop, head.fc)


def _maps() -> Form:
    """Nothing, but a refusal where another axis is time than the one that is pooled as such."""

    def check(flow: Flow) -> str | None:
        if flow.axis == 2:
            return None
        return f"it takes (batch, channel, time, frequency), and time is axis {flow.axis}"

    return PerFrame(nn.Identity(), check=check, ndim=4)
