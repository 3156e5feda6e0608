"""Surroundings that reflect sound: boxes with open or closed sides.

Every side mirrors the source (J. Allen and D. Berkley, "Image method for efficiently simulating small-room
acoustics", JASA 1979); a mirror image moves with its source, so each reflection has its own Doppler shift.
What comes after the first reflections is noise that decays with Eyring's reverberation time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sentio.data.simulate import space
from sentio.data.simulate.signals import fast_length
from sentio.data.simulate.space import Air

Array = NDArray[np.float64]

#: reflections by up to this many sides are heard one by one
ORDER = 2
#: a field of late reflections needs at least this share of the sides to be closed
CLOSED = 0.5
#: how far a source stays from every side, m
MARGIN = 0.3
#: above this the late sound decays faster, Hz; and how much faster
DULL_ABOVE, DULLER = 2000.0, 2.0
#: the longest late sound, s
LONGEST_TAIL = 1.5


@dataclass(frozen=True)
class Surroundings:
    """A box from (0, 0, 0) to ``size`` with the microphone in it.

    Args:
        name: what it is.
        size: along the street, across it, and up, m.
        reflection: of the two sides of each axis, as factors of sound pressure; 0 for an open side.
        microphone: where it is, m.
        air: what fills it.
    """

    name: str
    size: tuple[float, float, float]
    reflection: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    microphone: tuple[float, float, float]
    air: Air = field(default_factory=Air)

    @property
    def passable(self) -> bool:
        """Whether something can drive through."""
        return self.reflection[0] == (0.0, 0.0)

    @property
    def _areas(self) -> Array:
        x, y, z = self.size
        return np.array([[y * z] * 2, [x * z] * 2, [x * y] * 2])

    @property
    def reverberation_time(self) -> float:
        """Seconds until the late sound is 60 dB down, after Eyring; 0 where too few sides are closed."""
        areas, reflection = self._areas, np.array(self.reflection)
        if np.sum(areas[reflection > 0]) < CLOSED * np.sum(areas):
            return 0.0
        lost = float(np.sum(areas * (1 - reflection**2)) / np.sum(areas))
        return 0.161 * math.prod(self.size) / (-float(np.sum(areas)) * math.log(1 - lost))


def images(surroundings: Surroundings, order: int = ORDER) -> tuple[Array, Array, Array]:
    """The mirror images of a source up to an order; the first is the source itself.

    Returns:
        signs, shape ``(image, 3)``, and shifts, m, shape ``(image, 3)``, such that an image is at
        ``sign * position + shift``; and gains, shape ``(image,)``.
    """
    axes = [
        _mirrors(length, low, high, order)
        for length, (low, high) in zip(surroundings.size, surroundings.reflection, strict=True)
    ]
    found = [
        (bounces, (a.sign, b.sign, c.sign), (a.shift, b.shift, c.shift), a.gain * b.gain * c.gain)
        for a in axes[0]
        for b in axes[1]
        for c in axes[2]
        if (bounces := a.bounces + b.bounces + c.bounces) <= order
    ]
    found.sort(key=lambda image: image[0])
    _, signs, shifts, gains = zip(*found, strict=True)
    return np.array(signs), np.array(shifts), np.array(gains)


@dataclass(frozen=True)
class _Mirror:
    bounces: int
    sign: float
    shift: float
    gain: float


def _mirrors(length: float, low: float, high: float, order: int) -> list[_Mirror]:
    """The images along one axis, between a side at 0 and one at ``length``."""
    found = []
    for pair in range(-order, order + 1):
        # An even number of bounces shifts the source, an odd one mirrors it.
        shifted = _Mirror(2 * abs(pair), 1.0, 2 * pair * length, (low * high) ** abs(pair))
        mirrored = _Mirror(
            abs(2 * pair - 1), -1.0, 2 * pair * length, low ** abs(pair - 1) * high ** abs(pair)
        )
        found += [image for image in (shifted, mirrored) if image.bounces <= order and image.gain > 0]
    return found


def tail(surroundings: Surroundings, generator: np.random.Generator, rate: int) -> Array:
    """The late part of the impulse response of a source at 1 m: decaying noise; empty out in the open.

    Its energy is that of a diffuse field, ``16 pi / R`` of the direct sound's at 1 m with the room constant
    ``R`` (H. Kuttruff, Room Acoustics), less what the reflections heard one by one have brought.

    Returns:
        Shape ``(time,)``, beginning with the direct sound's arrival.
    """
    decay = surroundings.reverberation_time
    if decay == 0:
        return np.zeros(0)
    areas, reflection = surroundings._areas, np.array(surroundings.reflection)
    total = float(np.sum(areas))
    lost = float(np.sum(areas * (1 - reflection**2))) / total
    room_constant = total * lost / (1 - lost)
    # The mean way between two sides is 4 V / S.
    free = 4 * math.prod(surroundings.size) / total / surroundings.air.speed_of_sound
    start = round(ORDER * free * rate)
    length = fast_length(start + round(min(decay, LONGEST_TAIL) * rate))
    times = np.arange(length) / rate
    spectrum = np.fft.rfft(generator.standard_normal(length))
    dull = 1 / (1 + (np.fft.rfftfreq(length, 1 / rate) / DULL_ABOVE) ** 4)
    low = np.fft.irfft(spectrum * dull, length)
    high = np.fft.irfft(spectrum * (1 - dull), length)
    rate_of_decay = math.log(1000) / decay
    noise = low * np.exp(-rate_of_decay * times) + high * np.exp(-DULLER * rate_of_decay * times)
    noise *= math.sqrt(16 * math.pi / room_constant * 2 * rate_of_decay / rate)
    noise[:start] = 0.0
    return noise


@dataclass(frozen=True)
class Source:
    """Where a sound comes from.

    Args:
        position: in the surroundings when the sound begins, m.
        velocity: m/s.
    """

    position: tuple[float, float, float]
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)


def heard(
    sound: Array, source: Source, surroundings: Surroundings, generator: np.random.Generator, rate: int
) -> Array:
    """A sound as it arrives at the microphone.

    Args:
        sound: at 1 m, shape ``(time,)``.
        source: where it comes from.
        surroundings: where it sounds.
        generator: draws the late sound.
        rate: samples per second.

    Returns:
        Shape ``(time,)``; its first sample is when the direct sound arrives.
    """
    air = surroundings.air
    signs, shifts, gains = images(surroundings)
    offsets = signs * np.array(source.position) + shifts - np.array(surroundings.microphone)
    late = tail(surroundings, generator, rate)
    if any(source.velocity):
        direct = space.moving(sound, offsets, signs * np.array(source.velocity), gains, air, rate)
        return direct if not len(late) else _sum(direct, space.convolve(sound, late))
    response = space.impulse_response(np.linalg.norm(offsets, axis=1), gains, air, rate)
    response = _sum(response, np.concatenate([np.zeros(space.LEAD), late]))
    return space.convolve(sound, response)[space.LEAD :]


def _sum(a: Array, b: Array) -> Array:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total


def placed(
    surroundings: Surroundings, distance: float, generator: np.random.Generator
) -> tuple[float, float, float]:
    """A position in the surroundings at a distance from the microphone, or nearer if it is too small."""
    microphone, size = np.array(surroundings.microphone), np.array(surroundings.size)
    height = generator.uniform(0.3, min(1.8, size[2] - MARGIN))
    while True:
        down = height - microphone[2]
        across = math.sqrt(max(distance**2 - down**2, MARGIN**2))
        angles = generator.uniform(0, 2 * math.pi, 64)
        places = microphone[:2] + across * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        inside = np.all((places > MARGIN) & (places < size[:2] - MARGIN), axis=1)
        if inside.any():
            x, y = places[int(np.argmax(inside))]
            return float(x), float(y), float(height)
        distance *= 0.8


def _open(draw: np.random.Generator) -> Surroundings:
    ground = draw.uniform(0.5, 0.95)
    size = (600.0, 600.0, 50.0)
    return _surroundings("open", size, ((0, 0), (0, 0), (ground, 0)), draw)


def _street(draw: np.random.Generator) -> Surroundings:
    size = (draw.uniform(300, 600), draw.uniform(8, 25), draw.uniform(6, 20))
    facades = (draw.uniform(0.7, 0.95), draw.uniform(0.7, 0.95))
    return _surroundings("street", size, ((0, 0), facades, (draw.uniform(0.85, 0.97), 0)), draw)


def _courtyard(draw: np.random.Generator) -> Surroundings:
    size = (draw.uniform(10, 40), draw.uniform(10, 40), draw.uniform(8, 20))
    walls = draw.uniform(0.7, 0.95, 4)
    return _surroundings(
        "courtyard",
        size,
        ((walls[0], walls[1]), (walls[2], walls[3]), (draw.uniform(0.8, 0.95), 0)),
        draw,
    )


def _passage(draw: np.random.Generator) -> Surroundings:
    size = (draw.uniform(20, 60), draw.uniform(3, 8), draw.uniform(2.5, 5))
    walls = draw.uniform(0.75, 0.95, 4)
    return _surroundings("passage", size, ((0, 0), (walls[0], walls[1]), (walls[2], walls[3])), draw)


def _hall(draw: np.random.Generator) -> Surroundings:
    size = (draw.uniform(10, 30), draw.uniform(8, 20), draw.uniform(4, 10))
    walls = draw.uniform(0.75, 0.93, 6)
    pairs = ((walls[0], walls[1]), (walls[2], walls[3]), (walls[4], walls[5]))
    return _surroundings("hall", size, pairs, draw)


def _surroundings(
    name: str,
    size: tuple[float, float, float],
    reflection: tuple[tuple[float, float], tuple[float, float], tuple[float, float]],
    draw: np.random.Generator,
) -> Surroundings:
    along, across, up = size
    microphone = (
        along * draw.uniform(0.4, 0.6),
        across * draw.uniform(0.1, 0.5),
        min(draw.uniform(1.2, 4.0), up - 2 * MARGIN),
    )
    air = Air(draw.uniform(-5, 32), draw.uniform(25, 95))
    sides = tuple((float(low), float(high)) for low, high in reflection)
    return Surroundings(name, tuple(map(float, size)), sides, tuple(map(float, microphone)), air)  # type: ignore[arg-type]


#: what a scene may be surrounded by, and how often
SURROUNDINGS: dict[str, tuple[float, Callable[[np.random.Generator], Surroundings]]] = {
    "courtyard": (0.2, _courtyard),
    "hall": (0.1, _hall),
    "open": (0.2, _open),
    "passage": (0.1, _passage),
    "street": (0.4, _street),
}


def draw_surroundings(generator: np.random.Generator) -> Surroundings:
    """Surroundings at random."""
    shares = [share for share, _ in SURROUNDINGS.values()]
    name = list(SURROUNDINGS)[int(generator.choice(len(shares), p=shares))]
    return SURROUNDINGS[name][1](generator)
