"""Augmentation of log-mel features: functions of a batch and a generator, each usable alone.

Those that mix samples are in `sentio.audio.augmentation_mixing`, stretching in
`sentio.audio.augmentation_warp`; sound itself is changed by
`sentio.audio.augmentation_waveform`. Features are ``(batch, channel, time, frequency)``. Random numbers are
drawn on the generator's device, so a seed gives the same augmentation wherever the batch lies; a batch is
never changed in place.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from sentio.audio.augmentation_mixing import FREQUENCY, TIME, check_floats, freq_mixstyle, mixstyle, mixup
from sentio.audio.augmentation_warp import warp
from sentio.audio.checking import cells_of
from sentio.core.errors import ConfigError, InputError
from sentio.core.numeric import whole, within

__all__ = [
    "freq_mixstyle",
    "frequency_mask",
    "frequency_shift",
    "gain",
    "mixstyle",
    "mixup",
    "random_erasing",
    "time_mask",
    "time_roll",
    "warp",
]

#: what a mask is filled with: the sample's mean, the mean of what it hides, or a number
Fill = Literal["mean", "region"] | float | None


def time_roll(x: Tensor, max_fraction: float, generator: Generator | None = None) -> Tensor:
    """Roll each sample along time by its own random number of frames; what leaves re-enters.

    Args:
        x: ``(batch, channel, time, frequency)``.
        max_fraction: largest shift in either direction, as a share of the frames, in 0..1; 0 changes nothing.
        generator: source of the shifts.

    Raises:
        InputError: ``x`` does not have four axes, or holds no floats.
        ConfigError: the share is not in 0..1.
    """
    frames = _size(x, TIME)
    most = cells_of(_share(max_fraction), frames)
    shifts = _integers(len(x), -most, most, generator).to(x.device)
    rows = (torch.arange(frames, device=x.device) - shifts[:, None]) % frames
    return x.gather(TIME, rows[:, None, :, None].expand_as(x))


def frequency_shift(x: Tensor, max_fraction: float, generator: Generator | None = None) -> Tensor:
    """Move each sample up or down by its own random number of bands; the outermost band fills the gap.

    On a mel axis this is about what another pitch or a longer vocal tract does (VTLP; Jaitly and Hinton,
    2013).

    Args:
        x: ``(batch, channel, time, frequency)``.
        max_fraction: largest shift in either direction, as a share of the bands, in 0..1; 0 changes nothing.
        generator: source of the shifts.

    Raises:
        InputError: ``x`` does not have four axes, or holds no floats.
        ConfigError: the share is not in 0..1.
    """
    bands = _size(x, FREQUENCY)
    most = cells_of(_share(max_fraction), bands)
    shifts = _integers(len(x), -most, most, generator).to(x.device)
    columns = (torch.arange(bands, device=x.device) - shifts[:, None]).clamp(0, bands - 1)
    return x.gather(FREQUENCY, columns[:, None, None, :].expand_as(x))


def gain(x: Tensor, most: float, generator: Generator | None = None) -> Tensor:
    """Add one random number to each sample: on a logarithmic scale, another loudness.

    Args:
        x: ``(batch, channel, time, frequency)``, on a logarithmic scale.
        most: largest change in either direction, in the features' own unit; 0 changes nothing.
        generator: source of the changes.

    Raises:
        InputError: ``x`` does not have four axes, or holds no floats.
        ConfigError: ``most`` is negative or not finite.
    """
    _size(x, TIME)
    if not within(most, 0, math.inf):
        raise ConfigError(f"The largest change of loudness must be a number of at least 0, got {most!r}")
    device = generator.device if generator is not None else "cpu"
    drawn = torch.rand(len(x), generator=generator, device=device).to(x)
    return x + ((2 * drawn - 1) * most)[:, None, None, None]


def time_mask(
    x: Tensor,
    max_fraction: float,
    generator: Generator | None = None,
    *,
    count: int = 1,
    fill: Fill = None,
    exclusive: bool = False,
) -> Tensor:
    """Mask spans of frames, drawn for each sample (SpecAugment; Park et al., 2019).

    Args:
        x: ``(batch, channel, time, frequency)``.
        max_fraction: widest span as a share of the frames, in 0..1; widths are uniform from 0 up to it, and
            rounded down to whole frames it is the widest.
        generator: source of widths and places.
        count: number of spans; they may overlap.
        fill: value of masked entries; "mean" or None for the sample's mean, which is the paper's 0 for
            features of zero mean and as neutral for any others; "region" for each channel's mean over the
            span, which leaves the sum as it is.
        exclusive: leave out the widest width, so that spans are one frame shorter at most.

    Raises:
        InputError: ``x`` does not have four axes, or holds no floats.
        ConfigError: the share is not in 0..1, the count is negative, or there is no such fill.
    """
    return _masked(x, TIME, max_fraction, generator, count, fill, exclusive)


def frequency_mask(
    x: Tensor,
    max_fraction: float,
    generator: Generator | None = None,
    *,
    count: int = 1,
    fill: Fill = None,
    exclusive: bool = False,
) -> Tensor:
    """Mask spans of frequency bands, drawn for each sample (SpecAugment; Park et al., 2019).

    Args and errors as for `time_mask`, with bands for frames.
    """
    return _masked(x, FREQUENCY, max_fraction, generator, count, fill, exclusive)


def random_erasing(
    x: Tensor,
    probability: float,
    generator: Generator | None = None,
    *,
    max_fraction: float = 0.5,
    fill: Fill = None,
) -> Tensor:
    """Hide a rectangle of time and frequency, drawn for each sample (random erasing; Zhong et al., 2020).

    Args:
        x: ``(batch, channel, time, frequency)``.
        probability: with which a sample loses one, in 0..1.
        generator: source of choice, sizes and places.
        max_fraction: longest side as a share of its axis, in 0..1; both are uniform from 0 up to it.
        fill: as for `time_mask`; "region" is each channel's mean over the rectangle.

    Raises:
        InputError: ``x`` does not have four axes, or holds no floats.
        ConfigError: a share is not in 0..1, or there is no such fill.
    """
    sides = [cells_of(_share(max_fraction), _size(x, axis)) for axis in (TIME, FREQUENCY)]
    device = generator.device if generator is not None else "cpu"
    chosen = torch.rand(len(x), generator=generator, device=device).cpu() < _share(probability)
    hidden = _span(x, TIME, sides[0], generator) & _span(x, FREQUENCY, sides[1], generator)
    return _filled(x, hidden & chosen[:, None, None, None], _constant(x, fill))


def _masked(
    x: Tensor,
    axis: int,
    max_fraction: float,
    generator: Generator | None,
    count: int,
    fill: Fill,
    exclusive: bool,
) -> Tensor:
    widest = cells_of(_share(max_fraction), _size(x, axis)) - exclusive
    if not whole(count) or count < 0:
        raise ConfigError(f"The number of masks is whole and must be at least 0, got {count!r}")
    constant = _constant(x, fill)
    for _ in range(count):
        x = _filled(x, _span(x, axis, max(widest, 0), generator), constant)
    return x


def _span(x: Tensor, axis: int, widest: int, generator: Generator | None) -> Tensor:
    """Where each sample's span lies on an axis: booleans on the CPU, of one entry on the other axes."""
    size = x.shape[axis]
    widths = _integers(len(x), 0, widest, generator)[:, None]
    # Uniform in 0..size - width: the range differs from sample to sample.
    draws = _integers(len(x), 0, 2**31 - 1, generator)[:, None]
    starts = draws * (size - widths + 1) // 2**31
    places = torch.arange(size)
    shape = [len(x), 1, 1, 1]
    shape[axis] = size
    return ((places >= starts) & (places < starts + widths)).reshape(shape)


def _constant(x: Tensor, fill: Fill) -> Tensor | None:
    """What masks are filled with; None for the mean of what each hides."""
    if fill == "region":
        return None
    if fill is None or fill == "mean":
        return x.mean(dim=(1, 2, 3), keepdim=True)
    if not within(fill, -math.inf, math.inf):
        raise ConfigError(f"A mask is filled with 'mean', 'region' or a number, got {fill!r}")
    return torch.full_like(x[:1, :1, :1, :1], fill)


def _filled(x: Tensor, hidden: Tensor, constant: Tensor | None) -> Tensor:
    hidden = hidden.to(x.device)
    if constant is None:
        cells = hidden.expand(-1, -1, *x.shape[2:]).sum(dim=(TIME, FREQUENCY), keepdim=True).clamp(min=1)
        constant = (x * hidden).sum(dim=(TIME, FREQUENCY), keepdim=True) / cells
    return torch.where(hidden, constant, x)


def _size(x: Tensor, axis: int) -> int:
    if x.ndim != 4:
        raise InputError(f"Features are (batch, channel, time, frequency), got shape {tuple(x.shape)}")
    check_floats(x)
    return x.shape[axis]


def _share(fraction: float) -> float:
    if not within(fraction, 0, 1):
        raise ConfigError(f"A share of an axis must lie in 0..1, got {fraction!r}")
    return fraction


def _integers(count: int, low: int, high: int, generator: Generator | None) -> Tensor:
    """Uniform integers from ``low`` to ``high``, both included, shape ``(count,)``, on the CPU."""
    device = generator.device if generator is not None else "cpu"
    return torch.randint(low, high + 1, (count,), generator=generator, device=device).cpu()
