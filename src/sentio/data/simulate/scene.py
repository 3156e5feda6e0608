"""A scene: where it is, what is heard in it and when. The same seed and index give the same samples.

`plan_street` and `plan_clip` draw everything that can be known beforehand; `render` makes the sounds, lets
them travel and measures from when to when each is audible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sentio.data.simulate import loudness
from sentio.data.simulate.backgrounds import BACKGROUNDS, LEVELS, background
from sentio.data.simulate.rooms import Source, Surroundings, draw_surroundings, heard, placed

if TYPE_CHECKING:
    from sentio.data.simulate.events import EventKind

Array = NDArray[np.float64]
#: (level in dB(A), generator, samples, rate) -> a background; what a user's own sounds may bring
OwnBackground = Callable[[float, np.random.Generator, int, int], Array]

#: the class of a clip in which nothing happens
BACKGROUND = "background"
#: the name of a background that a user's own sounds bring
OWN = "own"
#: signal-to-noise ratios that events have, dB, both A-weighted
SNR = (-3.0, 25.0)
#: events in a minute of street: between these
EVENTS_A_MINUTE = (12, 18)
#: an event of a street lasts at most this long: drawn between these, s
LENGTHS = (1.5, 7.0)
#: between events that would be too many at once, s
PAUSE = 0.3
#: a clip holds this much of its event, or all of it, s
LEAST = 0.5
#: an event is audible while it is above the background less this, dB
MASKED = 8.0
#: and no further below its own loudest moment than this, dB
FAINT = 30.0
#: where a long sound is cut off it fades over this time, s
FADE = 0.4
#: largest magnitude of a finished scene
PEAK = 0.99


@dataclass(frozen=True)
class PlannedEvent:
    """An event as it is drawn.

    Args:
        label: its kind.
        onset: when it begins to arrive at the microphone, s; None where its length has to be known first.
        longest: it is faded out and cut off by this time, s.
        distance: m; of a moving source at some moment while it sounds.
        speed: m/s.
        level: dB SPL at 1 m of its loudest 125 ms.
        snr: dB, taken where the level would lead out of `SNR`.
        key: of its own random numbers.
    """

    label: str
    onset: float | None
    longest: float
    distance: float
    speed: float
    level: float
    snr: float
    key: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A scene as it is drawn.

    Args:
        seconds, rate: its length, and samples per second.
        surroundings: where it is.
        background: one of `BACKGROUNDS`, or `OWN`.
        level: of the background, dB(A).
        events: what happens.
        key: of its random numbers: the seed, then what it is for.
    """

    seconds: float
    rate: int
    surroundings: Surroundings
    background: str
    level: float
    events: tuple[PlannedEvent, ...]
    key: tuple[int, ...]


@dataclass(frozen=True)
class HeardEvent:
    """An event as it is heard.

    Args:
        label: its kind.
        onset, offset: from when to when it is audible, s.
        distance: m; of a moving source when it is nearest.
        speed: m/s.
        snr: of what is audible, dB, A-weighted.
    """

    label: str
    onset: float
    offset: float
    distance: float
    speed: float
    snr: float


@dataclass(frozen=True, eq=False)
class Scene:
    """A finished scene.

    Args:
        samples: within -1 and 1; 1 is an RMS of `loudness.FULL_SCALE` dB SPL. Shape ``(time,)``.
        events: in order of their onsets.
        scale: dB by which everything was turned down so that nothing clips; 0 or less.
    """

    samples: Array
    events: tuple[HeardEvent, ...]
    scale: float = 0.0


@dataclass(frozen=True)
class Sounds:
    """What scenes are made of.

    Args:
        kinds: the events by name.
        background: makes backgrounds in place of `BACKGROUNDS`, if there is one.
    """

    kinds: Mapping[str, EventKind]
    background: OwnBackground | None = field(default=None)


def generator(key: tuple[int, ...]) -> np.random.Generator:
    """Random numbers that depend on the key only: the seed and a path below it."""
    return np.random.default_rng(np.random.SeedSequence(key[0], spawn_key=key[1:]))


def plan_street(
    sounds: Sounds, key: tuple[int, ...], *, seconds: float, rate: int, polyphony: int = 2
) -> Plan:
    """A stretch of street.

    Args:
        sounds: what it is made of.
        key: the seed and the number of the scene.
        seconds, rate: length, and samples per second.
        polyphony: at most this many events at once; never two of one kind.
    """
    draw = generator(key)
    surroundings = draw_surroundings(draw)
    count = round(draw.uniform(*EVENTS_A_MINUTE) * seconds / 60)
    taken: list[tuple[float, float, str]] = []
    events: list[PlannedEvent] = []
    for number in range(max(1, count)):
        label = str(draw.choice(sorted(sounds.kinds)))
        longest = float(draw.uniform(*LENGTHS))
        for _ in range(20):
            onset = float(draw.uniform(0, max(0.0, seconds - LEAST)))
            if _fits(taken, onset, onset + longest + PAUSE, label, polyphony):
                taken.append((onset, onset + longest + PAUSE, label))
                events.append(
                    _planned(sounds.kinds[label], onset, longest, surroundings, draw, (*key, 1 + number))
                )
                break
    return _plan(sounds, seconds, rate, surroundings, tuple(events), draw, key)


def plan_clip(sounds: Sounds, label: str, key: tuple[int, ...], *, seconds: float, rate: int) -> Plan:
    """A clip with one event, or with none for the class `BACKGROUND`."""
    draw = generator(key)
    surroundings = draw_surroundings(draw)
    events: tuple[PlannedEvent, ...] = ()
    if label != BACKGROUND:
        events = (_planned(sounds.kinds[label], None, np.inf, surroundings, draw, (*key, 1)),)
    return _plan(sounds, seconds, rate, surroundings, events, draw, key)


def _plan(
    sounds: Sounds,
    seconds: float,
    rate: int,
    surroundings: Surroundings,
    events: tuple[PlannedEvent, ...],
    draw: np.random.Generator,
    key: tuple[int, ...],
) -> Plan:
    name = OWN if sounds.background else str(draw.choice(sorted(BACKGROUNDS)))
    return Plan(seconds, rate, surroundings, name, float(draw.uniform(*LEVELS)), events, key)


def _planned(
    kind: EventKind,
    onset: float | None,
    longest: float,
    surroundings: Surroundings,
    draw: np.random.Generator,
    key: tuple[int, ...],
) -> PlannedEvent:
    near, far = kind.distance
    return PlannedEvent(
        label=kind.name,
        onset=onset,
        longest=longest,
        distance=float(near * (far / near) ** draw.uniform()),
        speed=float(draw.uniform(*kind.speed)) if surroundings.passable else 0.0,
        level=float(draw.uniform(*kind.level)),
        snr=float(draw.uniform(*SNR)),
        key=key,
    )


def _fits(
    taken: list[tuple[float, float, str]], start: float, end: float, label: str, polyphony: int
) -> bool:
    """Whether one more event leaves at most ``polyphony`` at once, and no two of a kind."""
    meeting = [(a, b, other) for a, b, other in taken if a < end and start < b]
    if any(other == label for _, _, other in meeting):
        return False
    return all(
        sum(a <= moment < b for a, b, _ in meeting) < polyphony
        for moment in [start, *(a for a, _, _ in meeting if a >= start)]
    )


def render(plan: Plan, sounds: Sounds) -> Scene:
    """The samples of a scene, and what is audible in it.

    An event that nothing is heard of, since it is too faint beside the background even at the lowest
    ratio, is left out.
    """
    from sentio.data.simulate.events import dry

    rate, length = plan.rate, round(plan.seconds * plan.rate)
    draw = generator((*plan.key, 0))
    if sounds.background is None:
        samples = background(plan.background, plan.level, draw, length, rate)
    else:
        samples = sounds.background(plan.level, draw, length, rate)
    quiet = loudness.frame_power(samples, rate)
    events = []
    for event in plan.events:
        own = generator(event.key)
        sound = _cut(dry(sounds.kinds[event.label], own, rate), event.longest, rate)
        onset = _place(sound, plan.seconds, own, rate) if event.onset is None else event.onset
        first = round(onset * rate)
        source, distance = _source(event, plan.surroundings, len(sound) / rate, own)
        arrived = heard(sound, source, plan.surroundings, own, rate)
        present = np.zeros(length)
        piece = arrived[max(0, -first) : length - first]
        present[max(0, first) : max(0, first) + len(piece)] = piece
        last = None if event.onset is None else onset + len(sound) / rate + PAUSE
        found = _audible(present, quiet, event, last, rate)
        if found is None:
            continue
        factor, start, end, snr = found
        samples += factor * present
        times = max(start, onset), min(end, plan.seconds)
        events.append(HeardEvent(event.label, *times, distance, event.speed, snr))
    peak = float(np.max(np.abs(samples)))
    scale = min(1.0, PEAK / peak) if peak > 0 else 1.0
    ordered = tuple(sorted(events, key=lambda event: (event.onset, event.label)))
    return Scene(samples * scale, ordered, round(20 * float(np.log10(scale)), 2) + 0.0)


def _cut(sound: Array, longest: float, rate: int) -> Array:
    """The beginning of a sound, faded out where it is cut."""
    if len(sound) <= longest * rate:
        return sound
    sound = sound[: round(longest * rate)].copy()
    fade = min(len(sound) // 2, round(FADE * rate))
    sound[len(sound) - fade :] *= np.linspace(1, 0, fade)
    return sound


def _place(sound: Array, seconds: float, draw: np.random.Generator, rate: int) -> float:
    """An onset, possibly before the clip, that leaves enough of the sound's louder parts inside.

    All onsets that do are equally likely.
    """
    hop = loudness.hop_length(rate)
    power = loudness.frame_power(sound, rate)
    loud = power > 10 ** (-FAINT / 2 / 10) * power.max()
    before = np.concatenate([[0], np.cumsum(loud)])
    window = max(1, int(seconds * rate) // hop)
    # A shift is the clip's beginning in the sound, in frames.
    shifts = np.arange(-window + 1, len(loud))
    inside = before[np.clip(shifts + window, 0, len(loud))] - before[np.clip(shifts, 0, len(loud))]
    least = min(round(LEAST * rate / hop), inside.max())
    return -float(draw.choice(shifts[inside >= least])) * hop / rate


def _source(
    event: PlannedEvent, surroundings: Surroundings, seconds: float, draw: np.random.Generator
) -> tuple[Source, float]:
    """A place, and a way along the street for what moves; and the distance when it is nearest."""
    place = np.array(placed(surroundings, event.distance, draw))
    offset = place - np.array(surroundings.microphone)
    if event.speed == 0:
        return Source(tuple(place)), float(np.linalg.norm(offset))
    # It is at its place at some moment while it sounds.
    speed = event.speed * float(draw.choice([-1.0, 1.0]))
    begin = offset[0] - speed * draw.uniform() * seconds
    ways = begin, begin + speed * seconds
    nearest = float(np.clip(0.0, min(ways), max(ways)))
    start = (float(begin + surroundings.microphone[0]), float(place[1]), float(place[2]))
    return Source(start, (speed, 0.0, 0.0)), float(np.hypot(nearest, np.linalg.norm(offset[1:])))


def _audible(
    present: Array, quiet: Array, event: PlannedEvent, last: float | None, rate: int
) -> tuple[float, float, float, float] | None:
    """Level and times of an event beside its background.

    Args:
        present: the event alone, as heard from a source of 0 dB at 1 m, shape ``(time,)``.
        quiet: the background's power in frames.
        event: what was planned.
        last: the label ends by then, s.

    Returns:
        The factor for ``present``, onset and offset in s, and the ratio in dB; None if nothing is audible.
    """
    power = loudness.frame_power(present, rate)
    end = len(power) if last is None else min(len(power), int(last * rate / loudness.hop_length(rate)))
    power = np.concatenate([power[:end], np.zeros(len(power) - end)])
    if power.max() <= 0:
        return None
    strong = power > 10 ** (-FAINT / 10) * power.max()
    factor = loudness.amplitude(event.level - loudness.FULL_SCALE)
    snr = _ratio(factor, power, quiet, strong)
    if not SNR[0] <= snr <= SNR[1]:
        factor *= loudness.amplitude(event.snr - snr)
    audible = np.flatnonzero(strong & (factor**2 * power > 10 ** (-MASKED / 10) * quiet))
    if not len(audible):
        return None
    first, past = int(audible[0]), int(audible[-1]) + 1
    active = np.zeros(len(power), dtype=bool)
    active[first:past] = True
    step = loudness.hop_length(rate) / rate
    return factor, first * step, past * step, _ratio(factor, power, quiet, active & strong)


def _ratio(factor: float, power: Array, quiet: Array, where: NDArray[np.bool_]) -> float:
    noise = max(float(np.mean(quiet[where])), 1e-14)
    return float(10 * np.log10(factor**2 * float(np.mean(power[where])) / noise))
