"""The kinds of event: what each sounds like, how loud it is and where it is heard from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError
from sentio.data.simulate.everyday import (
    chainsaw,
    clock_tick,
    crying,
    fire,
    helicopter,
    rooster,
    sneeze,
    waves,
)
from sentio.data.simulate.impacts import footsteps, glass
from sentio.data.simulate.machines import drill, engine
from sentio.data.simulate.tones import bell, horn, siren
from sentio.data.simulate.voices import babble, bark
from sentio.data.simulate.weather import rain

#: the level of an event is that of its loudest stretch of this length (s), as a meter on "fast" shows it
LOUDEST = 0.125


@dataclass(frozen=True)
class EventKind:
    """One kind of event.

    Args:
        name: its label.
        make: ``(generator, rate in Hz) -> sound`` at 1 m, dry, shape ``(time,)``, float64, without DC, at any
            scale and of its natural length.
        level: dB SPL at 1 m of its loudest 125 ms, the range to draw from.
        distance: m, the range to draw from, evenly in its logarithm.
        speed: m/s of a source that moves, the range to draw from; ``(0, 0)`` stands still.
    """

    name: str
    make: Callable[[np.random.Generator, int], NDArray[np.float64]]
    level: tuple[float, float]
    distance: tuple[float, float]
    speed: tuple[float, float] = (0.0, 0.0)


#: The ten of a street. Levels: UN Regulation No. 28 asks 105 to 118 dB(A) of a horn at 2 m; conversation is
#: about 60 dB at 1 m (ISO 9921) and raised in a street; the others are of the order that noise surveys give.
EVENTS: dict[str, EventKind] = {
    kind.name: kind
    for kind in (
        EventKind("babble", babble, (66, 80), (1.5, 10)),
        EventKind("bark", bark, (85, 105), (3, 40)),
        EventKind("bell", bell, (75, 105), (3, 40)),
        EventKind("drill", drill, (92, 112), (6, 60)),
        EventKind("engine", engine, (78, 100), (3, 30), (0, 17)),
        EventKind("footsteps", footsteps, (64, 80), (1, 6), (1.0, 3.0)),
        EventKind("glass", glass, (84, 104), (3, 30)),
        EventKind("horn", horn, (100, 120), (8, 120), (0, 14)),
        EventKind("rain", rain, (62, 78), (1, 4)),
        EventKind("siren", siren, (108, 124), (20, 250), (0, 22)),
    )
}

#: Eight of house, farm and shore, for clips only. Levels are of the order that surveys give, those of a clock
#: higher, as by a microphone beside it.
EVERYDAY: dict[str, EventKind] = {
    kind.name: kind
    for kind in (
        EventKind("chainsaw", chainsaw, (98, 116), (5, 60)),
        EventKind("clock-tick", clock_tick, (55, 80), (0.3, 2)),
        EventKind("crying", crying, (80, 105), (1, 12)),
        EventKind("fire", fire, (60, 85), (1, 5)),
        EventKind("helicopter", helicopter, (110, 130), (40, 300), (0, 20)),
        EventKind("rooster", rooster, (85, 110), (3, 50)),
        EventKind("sneeze", sneeze, (75, 100), (1, 6)),
        EventKind("waves", waves, (75, 95), (3, 30)),
    )
}

#: what clips can be made of, by name
KINDS: dict[str, dict[str, EventKind]] = {
    "street": EVENTS,
    "everyday": EVERYDAY,
    "all": EVENTS | EVERYDAY,
}


def loudest(sound: NDArray[np.float64], rate: int) -> float:
    """RMS of the loudest 125 ms; a shorter sound counts as followed by silence."""
    size = round(LOUDEST * rate)
    energy = np.cumsum(np.concatenate([[0.0], sound**2, np.zeros(max(size - len(sound), 0))]))
    return float(np.sqrt(np.max(energy[size:] - energy[:-size]) / size))


def dry(kind: EventKind, generator: np.random.Generator, rate: int) -> NDArray[np.float64]:
    """One event as it sounds at 1 m in the open: the loudest 125 ms have RMS 1.

    Args:
        kind: one of `EVENTS` or `EVERYDAY`, or one's own.
        generator: the same state gives the same sound.
        rate: Hz, from 8000.

    Returns:
        float64, shape ``(time,)``, of the event's natural length.

    Raises:
        InputError: the kind made an empty or silent sound, or one that is not finite.
    """
    sound = np.asarray(kind.make(generator, rate), np.float64)
    scale = loudest(sound, rate) if sound.size else 0.0
    if not np.isfinite(scale) or scale <= 0:
        raise InputError(
            f"The event kind {kind.name!r} made no usable sound at {rate} Hz; its make must return a finite, "
            "non-silent array of shape (time,)"
        )
    return sound / scale
