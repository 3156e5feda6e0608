"""Augmentation across a batch: samples mixed with others, their contents (mixup) or their style (MixStyle).

Functions of a batch and a generator, each usable alone; for training only. Random numbers are drawn on the
generator's device, so a seed gives the same augmentation wherever the batch lies; a batch is never changed in
place.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from sentio.core.errors import ConfigError, InputError
from sentio.core.numeric import within

CHANNEL, TIME, FREQUENCY = 1, 2, 3
#: added to variances, as by the authors of MixStyle
EPSILON = 1e-6


def mixup(
    x: Tensor,
    targets_onehot: Tensor,
    alpha: float,
    generator: Generator | None = None,
    *,
    per_sample: bool = False,
    larger: bool = False,
    probability: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Mix each sample, and its target, with another of the batch (mixup; Zhang et al., 2018).

    ``lam * x + (1 - lam) * x[permutation]``, the same for targets, ``lam ~ Beta(alpha, alpha)``.

    Args:
        x: a batch of any shape, batch first.
        targets_onehot: floats, batch first, e.g. ``(batch, class)``.
        alpha: strength of mixing, at least 0; 0 changes nothing.
        generator: source of ``lam`` and the permutation.
        per_sample: draw ``lam`` for each sample; if False one for the batch, as in the paper's program.
        larger: take ``max(lam, 1 - lam)``, so that a sample always outweighs its partner.
        probability: with which the batch is mixed at all.

    Returns:
        The mixed batch and the mixed targets.

    Raises:
        InputError: the batch or its targets are no floats, or these are not as many as samples.
        ConfigError: ``alpha`` is negative, or the probability is not in 0..1.
    """
    if len(x) != len(targets_onehot):
        raise InputError(f"mixup needs a target for each of the {len(x)} samples, got {len(targets_onehot)}")
    check_floats(x)
    if not targets_onehot.is_floating_point():
        raise InputError(f"mixup needs float targets, e.g. one-hot, got {targets_onehot.dtype}")
    drawn = _drawn(len(x), alpha, generator, probability, per_sample)
    if drawn is None:
        return x, targets_onehot
    lam = np.maximum(drawn.lam, 1 - drawn.lam) if larger else drawn.lam
    return _mix(x, drawn.partners, lam), _mix(targets_onehot, drawn.partners, lam)


def mixstyle(
    x: Tensor, alpha: float, generator: Generator | None = None, *, probability: float = 1.0
) -> Tensor:
    """Give each sample a mixture of its own mean and deviation and another's (MixStyle; Zhou et al., 2021).

    Statistics are of each sample and channel, over time and frequency.

    Args:
        x: ``(batch, channel, time, frequency)``.
        alpha: of the Beta distribution from which each sample's weight is drawn, at least 0; 0 changes
            nothing.
        generator: source of weights and partners.
        probability: with which the batch is changed at all.

    Raises:
        InputError: ``x`` does not have four axes, or holds no floats.
        ConfigError: ``alpha`` is negative, or the probability is not in 0..1.
    """
    return _restyled(x, (TIME, FREQUENCY), alpha, generator, probability)


def freq_mixstyle(
    x: Tensor, alpha: float, generator: Generator | None = None, *, probability: float = 1.0
) -> Tensor:
    """MixStyle with statistics of each sample and band, over channels and time (Schmid et al., 2022).

    A recording device's linear response is a constant for each band on a logarithmic scale, so it is among
    the statistics that are mixed; those of plain `mixstyle` do not see it.

    Args and errors as for `mixstyle`.
    """
    return _restyled(x, (CHANNEL, TIME), alpha, generator, probability)


def with_style_of(x: Tensor, partners: Tensor, lam: Tensor, axes: tuple[int, ...]) -> Tensor:
    """``x`` with means and deviations that are mixtures, weights and partners given.

    ``sigma_mix * (x - mu) / sigma + mu_mix`` with ``mu_mix = lam * mu + (1 - lam) * mu[partners]`` and
    ``sigma_mix`` likewise; the variance is the unbiased one. No gradient flows through the statistics.

    Args:
        x: ``(batch, channel, time, frequency)``.
        partners: place of each sample's partner, ``(batch,)``.
        lam: weight of a sample's own statistics, ``(batch,)``.
        axes: over which statistics are taken, at least two values.
    """
    with torch.no_grad():
        # One value has no unbiased variance.
        several = math.prod(x.shape[axis] for axis in axes) > 1
        mean = x.mean(dim=axes, keepdim=True)
        deviation = (x.var(dim=axes, keepdim=True, correction=int(several)) + EPSILON).sqrt()
        own = lam.to(x).reshape(-1, 1, 1, 1)
        mixed_mean = own * mean + (1 - own) * mean[partners]
        mixed_deviation = own * deviation + (1 - own) * deviation[partners]
    return mixed_deviation * ((x - mean) / deviation) + mixed_mean


def check_floats(x: Tensor) -> None:
    """Raise an `InputError` unless a batch holds floats: a weight of 0.7 is 0 among whole numbers."""
    if not x.is_floating_point():
        raise InputError(f"A batch that is augmented holds floats, got {x.dtype}; convert it first")


class _Drawn(NamedTuple):
    partners: Tensor
    lam: np.ndarray


def _drawn(
    samples: int, alpha: float, generator: Generator | None, probability: float, per_sample: bool
) -> _Drawn | None:
    """Partners and weights; None where the batch stays as it is."""
    if not within(alpha, 0, math.inf):
        raise ConfigError(f"alpha must be a number of at least 0, got {alpha!r}")
    if not within(probability, 0, 1):
        raise ConfigError(f"A probability must lie in 0..1, got {probability!r}")
    if alpha == 0 or not samples:
        return None
    device = generator.device if generator is not None else "cpu"
    if probability < 1 and float(torch.rand((), generator=generator, device=device)) >= probability:
        return None
    partners = torch.randperm(samples, generator=generator, device=device)
    # torch's Beta distribution takes no generator, so numpy draws with a seed that ours gives.
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    drawn = np.random.default_rng(seed).beta(alpha, alpha, size=samples if per_sample else 1)
    return _Drawn(partners, drawn)


def _restyled(
    x: Tensor, axes: tuple[int, ...], alpha: float, generator: Generator | None, probability: float
) -> Tensor:
    if x.ndim != 4:
        raise InputError(f"Features are (batch, channel, time, frequency), got shape {tuple(x.shape)}")
    check_floats(x)
    drawn = _drawn(len(x), alpha, generator, probability, per_sample=True)
    if drawn is None:
        return x
    return with_style_of(x, drawn.partners.to(x.device), torch.from_numpy(drawn.lam), axes)


def _mix(values: Tensor, partners: Tensor, drawn: np.ndarray) -> Tensor:
    lam = torch.from_numpy(drawn).to(values).reshape(-1, *[1] * (values.ndim - 1))
    return lam * values + (1 - lam) * values[partners.to(values.device)]
