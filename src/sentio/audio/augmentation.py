"""Augmentation of log-mel features: functions of a batch and a generator, each usable alone.

Features are ``(batch, channel, time, frequency)``. Random numbers are drawn on the generator's device, so a
seed gives the same augmentation wherever the batch lies; a batch is never changed in place.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor

from sentio.core.errors import ConfigError, InputError

TIME, FREQUENCY = 2, 3


def time_roll(x: Tensor, max_fraction: float, generator: Generator | None = None) -> Tensor:
    """Roll each sample along time by its own random number of frames; what leaves re-enters.

    Args:
        x: ``(batch, channel, time, frequency)``.
        max_fraction: largest shift in either direction, as a share of the frames, in 0..1; 0 changes nothing.
        generator: source of the shifts.

    Raises:
        InputError: ``x`` does not have four axes.
        ConfigError: the share is not in 0..1.
    """
    frames = _size(x, TIME)
    most = math.floor(_share(max_fraction) * frames)
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
        InputError: ``x`` does not have four axes.
        ConfigError: the share is not in 0..1.
    """
    bands = _size(x, FREQUENCY)
    most = math.floor(_share(max_fraction) * bands)
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
        InputError: ``x`` does not have four axes.
        ConfigError: ``most`` is negative or not finite.
    """
    _size(x, TIME)
    if not (math.isfinite(most) and most >= 0):
        raise ConfigError(f"The largest change of loudness must not be negative, got {most!r}")
    device = generator.device if generator is not None else "cpu"
    drawn = torch.rand(len(x), generator=generator, device=device).to(x)
    return x + ((2 * drawn - 1) * most)[:, None, None, None]


def time_mask(
    x: Tensor,
    max_fraction: float,
    generator: Generator | None = None,
    *,
    count: int = 1,
    fill: float | None = None,
) -> Tensor:
    """Mask spans of frames, drawn for each sample (SpecAugment; Park et al., 2019).

    Args:
        x: ``(batch, channel, time, frequency)``.
        max_fraction: widest span as a share of the frames, in 0..1; widths are uniform from 0 up to it.
        generator: source of widths and places.
        count: number of spans; they may overlap.
        fill: value of masked entries; if None the sample's mean, which is the paper's 0 for features of zero
            mean and as neutral for any others.

    Raises:
        InputError: ``x`` does not have four axes.
        ConfigError: the share is not in 0..1, or the count is negative.
    """
    return _masked(x, TIME, max_fraction, generator, count, fill)


def frequency_mask(
    x: Tensor,
    max_fraction: float,
    generator: Generator | None = None,
    *,
    count: int = 1,
    fill: float | None = None,
) -> Tensor:
    """Mask spans of frequency bands, drawn for each sample (SpecAugment; Park et al., 2019).

    Args and errors as for `time_mask`, with bands for frames.
    """
    return _masked(x, FREQUENCY, max_fraction, generator, count, fill)


def mixup(
    x: Tensor,
    targets_onehot: Tensor,
    alpha: float,
    generator: Generator | None = None,
    *,
    per_sample: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mix each sample, and its target, with another of the batch (mixup; Zhang et al., 2018).

    ``lam * x + (1 - lam) * x[permutation]``, the same for targets, ``lam ~ Beta(alpha, alpha)``.

    Args:
        x: a batch of any shape, batch first.
        targets_onehot: floats, batch first, e.g. ``(batch, class)``.
        alpha: strength of mixing, at least 0; 0 changes nothing.
        generator: source of ``lam`` and the permutation.
        per_sample: draw ``lam`` for each sample; if False one for the batch, as in the paper's program.

    Returns:
        The mixed batch and the mixed targets.

    Raises:
        InputError: targets are no floats, or not as many as samples.
        ConfigError: ``alpha`` is negative.
    """
    if not (math.isfinite(alpha) and alpha >= 0):
        raise ConfigError(f"alpha must be a number of at least 0, got {alpha!r}")
    if len(x) != len(targets_onehot):
        raise InputError(f"mixup needs a target for each of the {len(x)} samples, got {len(targets_onehot)}")
    if not targets_onehot.is_floating_point():
        raise InputError(f"mixup needs float targets, e.g. one-hot, got {targets_onehot.dtype}")
    if alpha == 0 or not len(x):
        return x, targets_onehot
    device = generator.device if generator is not None else "cpu"
    partners = torch.randperm(len(x), generator=generator, device=device).to(x.device)
    # torch's Beta distribution takes no generator, so numpy draws with a seed that ours gives.
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    drawn = np.random.default_rng(seed).beta(alpha, alpha, size=len(x) if per_sample else 1)
    return _mix(x, partners, drawn), _mix(targets_onehot, partners.to(targets_onehot.device), drawn)


def _mix(values: Tensor, partners: Tensor, drawn: np.ndarray) -> Tensor:
    lam = torch.from_numpy(drawn).to(values).reshape(-1, *[1] * (values.ndim - 1))
    return lam * values + (1 - lam) * values[partners]


def _masked(
    x: Tensor, axis: int, max_fraction: float, generator: Generator | None, count: int, fill: float | None
) -> Tensor:
    size = _size(x, axis)
    widest = math.floor(_share(max_fraction) * size)
    if count < 0:
        raise ConfigError(f"The number of masks must be at least 0, got {count}")
    hidden = torch.zeros(len(x), size, dtype=torch.bool)
    places = torch.arange(size)
    for _ in range(count):
        widths = _integers(len(x), 0, widest, generator)[:, None]
        # Uniform in 0..size - width: the range differs from sample to sample.
        draws = _integers(len(x), 0, 2**31 - 1, generator)[:, None]
        starts = draws * (size - widths + 1) // 2**31
        hidden |= (places >= starts) & (places < starts + widths)
    values = x.mean(dim=(1, 2, 3), keepdim=True) if fill is None else torch.full_like(x[:1, :1, :1, :1], fill)
    shape = [len(x), 1, 1, 1]
    shape[axis] = size
    return torch.where(hidden.reshape(shape).to(x.device), values, x)


def _size(x: Tensor, axis: int) -> int:
    if x.ndim != 4:
        raise InputError(f"Features are (batch, channel, time, frequency), got shape {tuple(x.shape)}")
    return x.shape[axis]


def _share(fraction: float) -> float:
    if not 0 <= fraction <= 1:
        raise ConfigError(f"A share of an axis must lie in 0..1, got {fraction!r}")
    return fraction


def _integers(count: int, low: int, high: int, generator: Generator | None) -> Tensor:
    """Uniform integers from ``low`` to ``high``, both included, shape ``(count,)``, on the CPU."""
    device = generator.device if generator is not None else "cpu"
    return torch.randint(low, high + 1, (count,), generator=generator, device=device).cpu()
