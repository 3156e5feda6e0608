"""Normalisation of features and of channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sentio.core.errors import InputError
from sentio.nn.streaming import Form, PerFrame, streams


class BandNorm(nn.Module):
    """Batch norm with statistics of its own for each frequency band: ``(batch, channel, time, frequency)``.

    Mean and variance are over batch, channels and time. Called BN-mel or ``bn0`` where it stands before a
    network's first convolution; it takes the place of standardising log-mels with the training set's figures.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands
        self.bn = nn.BatchNorm2d(bands)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape.

        Raises:
            InputError: not as many bands as there are statistics.
        """
        if x.shape[3] != self.bands:
            raise InputError(
                f"The network normalises each of {self.bands} bands, got features with "
                f"{x.shape[3]}; set the front end's bands, or build the network with bands={x.shape[3]}"
            )
        return self.bn(x.transpose(1, 3)).transpose(1, 3)


class ChannelAffine(nn.Module):
    """``weight * x + bias`` with two numbers for each channel: ``(batch, channel, ...)``, same shape out.

    What is left of a batch norm whose statistics no longer change.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        return x * self.weight.view(shape) + self.bias.view(shape)


@streams(BandNorm)
def _band_norm(module: BandNorm) -> Form:
    return PerFrame(module, check=lambda flow: None if flow.axis == 2 else "time has to be axis 2", ndim=4)


streams(ChannelAffine)(PerFrame)
