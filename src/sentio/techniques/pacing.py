"""How much of an ordered training set may be drawn from at a batch: pacing functions.

G. Hacohen, D. Weinshall, "On the Power of Curriculum Learning in Training Deep Networks", ICML 2019, and for
exits A. Bakhtiarnia et al., "Improving the Accuracy of Early Exits in Multi-Exit Architectures via Curriculum
Learning", IJCNN 2021. Batches count from 0 over the whole training; shares lie in (0, 1] and never fall.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from sentio.core.errors import ConfigError, UnknownNameError

#: batch -> share of the ordered samples, the first ones
Pacing = Callable[[int], float]


def fixed_exponential(*, start: float = 0.04, growth: float = 1.9, every: int = 100) -> Pacing:
    """``min(start * growth**floor(t / every), 1)``."""
    _check(start=start)
    if growth <= 1:
        raise ConfigError(f"The growth of a pacing must be above 1, got {growth!r}")
    _check_batches(every=every)

    def share(batch: int) -> float:
        # Beyond this power the share is 1 already, and the power may be more than a float holds.
        steps = min(batch // every, math.ceil(-math.log(start) / math.log(growth)) + 1)
        return min(start * growth**steps, 1.0)

    return share


def single_step(*, start: float = 0.3, every: int = 300) -> Pacing:
    """``start`` for ``every`` batches, then everything."""
    _check(start=start)
    _check_batches(every=every)
    return lambda batch: start if batch < every else 1.0


def root(*, start: float = 0.04, until: int = 600, power: float = 2.0) -> Pacing:
    """``(start**p + (1 - start**p) t / until)**(1/p)``, from batch ``until`` on everything; p = 1 is linear.

    (The paper prints a square root for every p; its own name and p = 2 say that the p-th root is meant.)
    """
    _check(start=start)
    _check_batches(until=until)
    if not 0 < power < math.inf:
        raise ConfigError(f"The power of a pacing must be above 0, got {power!r}")
    low = start**power
    return lambda batch: 1.0 if batch >= until else (low + (1 - low) * batch / until) ** (1 / power)


def linear(*, start: float = 0.04, until: int = 600) -> Pacing:
    """``start + (1 - start) t / until``, from batch ``until`` on everything."""
    return root(start=start, until=until, power=1.0)


def geometric(*, start: float = 0.04, until: int = 600) -> Pacing:
    """``start**(1 - t / until)``, from batch ``until`` on everything."""
    _check(start=start)
    _check_batches(until=until)
    return lambda batch: 1.0 if batch >= until else start ** (1 - batch / until)


PACINGS: dict[str, Callable[..., Pacing]] = {
    "fixed-exponential": fixed_exponential,
    "geometric": geometric,
    "linear": linear,
    "root": root,
    "single-step": single_step,
}


def find_pacing(given: str | Mapping[str, Any] | Pacing) -> Pacing:
    """A pacing by name, by name with options, or a function of one's own.

    Raises:
        UnknownNameError, ConfigError: no such pacing or option, or one that cannot be.
    """
    if callable(given):
        return given
    options = {"name": given} if isinstance(given, str) else dict(given) if isinstance(given, Mapping) else {}
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"pacing is a name, or a name with options; got {given!r}")
    if name not in PACINGS:
        raise UnknownNameError("pacing", name, tuple(PACINGS))
    known = tuple(signature(PACINGS[name]).parameters)
    for option, value in options.items():
        if option not in known:
            raise UnknownNameError(f"option of pacing {name!r},", str(option), known)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"Option {option!r} of pacing {name!r} is a number, got {value!r}")
    return PACINGS[name](**options)


def _check(*, start: float) -> None:
    if not 0 < start <= 1:
        raise ConfigError(f"A pacing starts with a share above 0 and at most 1, got {start!r}")


def _check_batches(**counts: int) -> None:
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name!r} of a pacing is a number of batches from 1 on, got {value!r}")
