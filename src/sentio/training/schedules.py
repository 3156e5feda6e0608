"""How the learning rate moves, as a share of its highest value by epoch."""

from __future__ import annotations

import math

from sentio.training.sections import ScheduleSection


def share(schedule: ScheduleSection, epoch: float, epochs: int) -> float:
    """The share of the learning rate that a schedule other than ``plateau`` gives.

    Args:
        schedule: the section of the recipe.
        epoch: from 0; a fraction within an epoch.
        epochs: in all.
    """
    warmup, floor = min(schedule.warmup_epochs, epochs // 2), schedule.floor
    if schedule.name == "cosine":
        return cosine(epoch, epochs, warmup, floor)
    if schedule.name == "cosine-cycle":
        start = epochs if schedule.decay_start is None else schedule.decay_start
        return cosine_cycle(epoch, schedule.cycle_epochs, start, floor)
    if schedule.name == "linear":
        start = warmup if schedule.decay_start is None else schedule.decay_start
        return linear(epoch, warmup, start, schedule.decay_epochs or max(1, epochs - start), floor)
    if schedule.name == "one-cycle":
        return one_cycle(epoch, epochs, warmup or 0.3 * epochs, floor)
    return 1.0


def cosine(epoch: float, epochs: int, warmup: float = 0, floor: float = 0.0) -> float:
    """A linear rise from a hundredth, then half a cosine down to ``floor`` at ``epochs``.

    (Loshchilov and Hutter, SGDR, ICLR 2017.)
    """
    if epoch < warmup:
        return 0.01 + 0.99 * epoch / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


def cosine_cycle(epoch: float, cycle: int, start: int, floor: float = 0.0) -> float:
    """Up from ``floor`` and down again in every ``cycle`` epochs; at ``floor`` after the last cycle.

    The last cycle is the one that holds epoch ``start - 1`` (``cos_cyc`` of CP-JKU's DCASE systems).
    """
    end = cycle + (start - 1) // cycle * cycle
    if epoch > end:
        return floor
    return floor + (1 - floor) * 0.5 * (1 + math.cos(2 * math.pi * (epoch + cycle / 2) / cycle))


def linear(epoch: float, warmup: float, start: float, length: float, floor: float = 0.0) -> float:
    """An exponential rise, ``exp(-5 (1 - epoch / warmup)^2)``, and a straight fall to ``floor``.

    (The rise is that of Laine and Aila, Temporal Ensembling, ICLR 2017; CP-JKU's DCASE systems use both.)

    Args:
        epoch: from 0; below a half the rise stays where it is at a half, so that it never begins at zero.
        warmup: epochs of the rise.
        start: epoch up to which the rate stays at its highest.
        length: epochs of the fall.
        floor: share at its end.
    """
    rise = math.exp(-5 * (1 - max(epoch, 0.5) / warmup) ** 2) if epoch < warmup else 1.0
    fall = 1 - (1 - floor) * min(max(epoch - start, 0) / length, 1)
    return rise * fall


def one_cycle(epoch: float, epochs: int, warmup: float, floor: float = 0.0) -> float:
    """Half a cosine up from a twenty-fifth, and half a cosine down to ``floor`` (Smith and Topin, 2018)."""
    if epoch < warmup:
        return 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * epoch / warmup))
    return cosine(epoch - warmup, max(epochs - warmup, 1), 0, floor)
