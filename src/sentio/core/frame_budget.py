"""One exit for all samples of a frame, by the time that there is."""

from __future__ import annotations

from math import isfinite

from sentio.core.errors import ConfigError
from sentio.core.policy import ExitCosts, Fixed


def exit_within(costs: ExitCosts, ms: float, samples: int = 1) -> Fixed:
    """The deepest exit at which so many samples are answered within a time.

    For frames whose load varies: the more faces there are in one, the earlier is the exit for all of them.
    The first exit answers whatever it takes. An exit's measured time has the exits before it in it, which
    `Fixed` does not compute, so the time that is taken is rather less.

    Args:
        costs: with measured milliseconds of one sample, as `sentio.profile` and `Model.time_exits` give them.
        ms: milliseconds for the whole frame.
        samples: in it, answered one after another; in a batch they take less.

    Raises:
        ConfigError: no milliseconds are known; the time is not above 0, or there are fewer than 0 samples.
    """
    if costs.ms is None:
        raise ConfigError(
            "A frame's budget needs measured milliseconds of each exit; profile the network first"
        )
    if not (isfinite(ms) and ms > 0) or samples < 0:
        raise ConfigError(f"A frame takes a time above 0 and 0 samples or more, got {ms!r} and {samples!r}")
    fitting = [name for name, each in zip(costs.names, costs.ms, strict=True) if each * samples <= ms]
    return Fixed(fitting[-1] if fitting else costs.names[0])
