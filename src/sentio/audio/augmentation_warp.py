"""Augmentation of log-mel features by stretching their axes; see `sentio.audio.augmentation` for others."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sentio.audio.augmentation_mixing import check_floats
from sentio.core.errors import ConfigError, InputError
from sentio.core.numeric import within


def warp(x: Tensor, time: float, frequency: float, generator: Generator | None = None) -> Tensor:
    """Stretch or squeeze each sample along time and frequency by its own random factors, about the middle.

    What a phase vocoder and a longer vocal tract (VTLP; Jaitly and Hinton, 2013) do to sound, done to its
    picture by linear interpolation: cheap enough to be drawn anew in every batch. What a squeezed picture
    lacks at its ends is mirrored along time, and along frequency repeats the outermost band.

    Args:
        x: ``(batch, channel, time, frequency)``.
        time, frequency: factors are log-uniform from ``1 / (1 + most)`` to ``1 + most``; 0 leaves an axis.
        generator: source of the factors.

    Raises:
        InputError: ``x`` does not have four axes, or holds no floats.
        ConfigError: a share is not in 0..1.
    """
    if x.ndim != 4:
        raise InputError(f"Features are (batch, channel, time, frequency), got shape {tuple(x.shape)}")
    check_floats(x)
    for most in (time, frequency):
        if not within(most, 0, 1):
            raise ConfigError(f"The largest stretch is a share in 0..1, got {most!r}")
    if not x.numel() or not (time or frequency):
        return x
    rows = _mirrored(_places(x.shape[2], _factors(len(x), time, generator)))
    columns = _places(x.shape[3], _factors(len(x), frequency, generator)).clamp(-1, 1)
    shape = (len(x), *x.shape[2:])
    grid = torch.stack([columns[:, None].expand(shape), rows[:, :, None].expand(shape)], dim=-1)
    return F.grid_sample(x, grid.to(x), mode="bilinear", padding_mode="border", align_corners=True)


def _factors(count: int, most: float, generator: Generator | None) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    drawn = 2 * torch.rand(count, generator=generator, device=device).cpu() - 1
    return torch.exp(drawn * math.log1p(most))


def _places(size: int, factors: Tensor) -> Tensor:
    """Where each of ``size`` entries is read, ends at -1 and 1, shape ``(len(factors), size)``."""
    return torch.linspace(-1, 1, size)[None] / factors[:, None]


def _mirrored(places: Tensor) -> Tensor:
    """Places outside -1..1 reflected at the ends; a factor reaches less than one length beyond them."""
    return places.where(places.abs() <= 1, places.sign() * 2 - places)
