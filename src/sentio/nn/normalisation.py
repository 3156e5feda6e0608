"""Normalisation of features and of channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sentio.core.errors import InputError
from sentio.nn.streaming import Form, PerFrame, refuses, streams


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


class GlobalResponseNorm(nn.Module):
    """Channels compete: ``x + weight * x * r + bias``, where ``r`` is its energy over the mean.

    Energy is the root of the sum of squares over time and frequency, the mean is over a sample's channels.
    ``(batch, channel, time, frequency)``, same shape out. One weight and one bias for all channels, as in
    CP-Mobile; both start at zero, where nothing is changed. S. Woo et al., *ConvNeXt V2*, CVPR 2023.
    """

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        energy = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        response = energy / (energy.mean(dim=1, keepdim=True) + self.eps)
        return x + self.weight * (x * response) + self.bias


refuses(
    "its energies are over the whole clip; build the network with batch norm in its place", GlobalResponseNorm
)


class SubSpectralNorm(nn.Module):
    """Batch norm with statistics and weights of its own for each channel in each of a few frequency ranges.

    ``(batch, channel, time, frequency)``, same shape out. The ranges are equally wide. S. Chang et al.,
    *SubSpectral Normalization for Neural Audio Data Processing*, ICASSP 2021.

    Args:
        channels: of the input.
        sub_bands: number of ranges; must divide the input's frequency axis.
    """

    def __init__(self, channels: int, sub_bands: int) -> None:
        super().__init__()
        self.channels = channels
        self.sub_bands = sub_bands
        self.bn = nn.BatchNorm2d(channels * sub_bands)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape.

        Raises:
            InputError: the frequency axis is not a multiple of the number of ranges.
        """
        if x.shape[3] % self.sub_bands:
            raise InputError(
                f"The network normalises {self.sub_bands} equally wide frequency ranges, got features "
                f"{x.shape[3]} wide; build it with bands= as many as the front end's"
            )
        ranges = x.unflatten(3, (self.sub_bands, -1)).transpose(2, 3).flatten(1, 2)
        return self.bn(ranges).unflatten(1, (self.channels, -1)).transpose(2, 3).flatten(3)
