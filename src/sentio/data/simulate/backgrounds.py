"""What is always there: traffic hum, wind, a park, ventilation, a distant crowd. Coloured, restless noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sentio.data.simulate import loudness
from sentio.data.simulate.signals import fast_length

Array = NDArray[np.float64]
Make = Callable[[np.random.Generator, int, int], Array]

#: levels that backgrounds have, dB(A)
LEVELS = (40.0, 62.0)


def background(name: str, level: float, generator: np.random.Generator, length: int, rate: int) -> Array:
    """A background at a level.

    Args:
        name: one of `BACKGROUNDS`.
        level: dB(A).
        generator: draws everything.
        length: samples.
        rate: samples per second.

    Returns:
        Shape ``(length,)``.
    """
    return at_level(BACKGROUNDS[name](generator, length, rate), level, rate)


def at_level(sound: Array, level: float, rate: int) -> Array:
    """The sound with a constant factor that brings it to a level in dB(A); silence stays."""
    found = loudness.level(sound, rate)
    return sound * loudness.amplitude(level - found) if np.isfinite(found) else sound


def coloured(
    generator: np.random.Generator, length: int, rate: int, shape: Callable[[Array], Array]
) -> Array:
    """Gaussian noise whose spectrum has the amplitude ``shape(frequencies)``."""
    size = fast_length(length)
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    spectrum = np.fft.rfft(generator.standard_normal(size))
    return np.fft.irfft(spectrum * shape(frequencies), size)[:length]


def restless(
    generator: np.random.Generator, length: int, rate: int, seconds: float, decibels: float
) -> Array:
    """A slowly varying factor: random levels every ``seconds``, with this standard deviation."""
    knots = max(4, int(np.ceil(length / rate / seconds)) + 3)
    levels = np.cumsum(generator.normal(0, decibels, knots)) * 0.5 + generator.normal(0, decibels, knots)
    levels = np.clip(levels - levels.mean(), -2.5 * decibels, 2.5 * decibels)
    places = np.arange(length) / (rate * seconds) + generator.uniform(0, 1)
    whole = places.astype(np.int64)
    # A raised cosine between knots has no corners that would be heard.
    part = 0.5 - 0.5 * np.cos(np.pi * (places - whole))
    smooth = levels[whole] * (1 - part) + levels[np.minimum(whole + 1, knots - 1)] * part
    return np.asarray(10 ** (smooth / 20))


def _bump(frequencies: Array, centre: float, octaves: float) -> Array:
    return np.exp(-0.5 * np.square(np.log2(np.maximum(frequencies, 1.0) / centre) / octaves))


def _high_pass(frequencies: Array, edge: float) -> Array:
    power = np.square(frequencies / edge)
    return power / (1 + power)


def _traffic(draw: np.random.Generator, length: int, rate: int) -> Array:
    slope, tyres = draw.uniform(0.7, 1.3), draw.uniform(0.02, 0.25)
    rumble, hiss = draw.uniform(50, 110), draw.uniform(600, 1300)

    def hum(f: Array) -> Array:
        return _high_pass(f, 35) * (np.maximum(f, 30) / 100) ** -slope + _bump(f, rumble, 0.5)

    noise = coloured(draw, length, rate, hum) * restless(draw, length, rate, draw.uniform(1.5, 4), 2.0)
    road = coloured(draw, length, rate, lambda f: tyres * _bump(f, hiss, 1.1))
    return noise + road * restless(draw, length, rate, draw.uniform(1.5, 3.5), 4.5)


def _wind(draw: np.random.Generator, length: int, rate: int) -> Array:
    slope, edge = draw.uniform(1.2, 1.9), draw.uniform(50, 160)
    noise = coloured(
        draw,
        length,
        rate,
        lambda f: _high_pass(f, 25) / (1 + (f / edge) ** slope),
    )
    gusts = noise * restless(draw, length, rate, draw.uniform(0.4, 1.2), 4.0)
    whistle = draw.uniform(350, 1000)
    leaves = coloured(
        draw, length, rate, lambda f: 0.05 * _bump(f, whistle, 0.7) + 0.03 * _bump(f, 4000, 1.0)
    )
    return gusts + leaves * restless(draw, length, rate, draw.uniform(0.6, 1.6), 5.0)


def _park(draw: np.random.Generator, length: int, rate: int) -> Array:
    slope = draw.uniform(0.5, 0.9)
    far = coloured(draw, length, rate, lambda f: _high_pass(f, 40) * (np.maximum(f, 30) / 100) ** -slope)
    leaves = coloured(draw, length, rate, lambda f: draw.uniform(0.05, 0.2) * _bump(f, 3500, 1.0))
    noise = far * restless(draw, length, rate, 3.0, 1.5) + leaves * restless(draw, length, rate, 1.2, 4.0)
    return noise + draw.uniform(0.3, 1.5) * np.sqrt(np.mean(noise**2)) * _birds(draw, length, rate)


def _birds(draw: np.random.Generator, length: int, rate: int) -> Array:
    """Short whistles that glide, a phrase of them every few seconds."""
    total = np.zeros(length)
    for _ in range(draw.poisson(0.35 * length / rate)):
        start, gap = draw.uniform(-0.5, length / rate), draw.uniform(0.09, 0.25)
        centre, glide = draw.uniform(2200, min(6500, 0.42 * rate)), draw.uniform(-0.25, 0.25)
        strength, seconds = draw.uniform(0.1, 0.6), draw.uniform(0.04, 0.14)
        time = np.arange(round(seconds * rate)) / rate
        sweep = centre * (time + 0.5 * glide * time**2 / seconds)
        chirp = strength * np.sin(2 * np.pi * sweep) * np.sin(np.pi * time / seconds) ** 2
        for number in range(int(draw.integers(2, 7))):
            place = round((start + number * gap) * rate)
            if 0 <= place < length:
                piece = chirp[: length - place]
                total[place : place + len(piece)] += piece
    return total


def _ventilation(draw: np.random.Generator, length: int, rate: int) -> Array:
    slope, mains = draw.uniform(0.6, 1.1), draw.choice([50.0, 60.0])
    duct, width = draw.uniform(150, 600), draw.uniform(0.3, 0.8)

    def air(f: Array) -> Array:
        return _high_pass(f, 40) * (np.maximum(f, 30) / 100) ** -slope + 0.6 * _bump(f, duct, width)

    noise = coloured(draw, length, rate, air)
    time = np.arange(length) / rate
    scale = np.sqrt(np.mean(noise**2))
    blades = draw.uniform(70, 240) * (1 + 0.002 * draw.standard_normal())
    for tone in (2 * mains, 4 * mains, blades, 2 * blades):
        noise += scale * draw.uniform(0.02, 0.35) * np.sin(2 * np.pi * (tone * time + draw.uniform()))
    return noise * restless(draw, length, rate, 4.0, 0.7)


def _crowd(draw: np.random.Generator, length: int, rate: int) -> Array:
    """Many voices far away: bands of speech, each with a rhythm of syllables of its own."""
    total = np.zeros(length)
    for centre in (250.0, 500.0, 900.0, 1500.0, 2400.0):
        band = coloured(draw, length, rate, lambda f, centre=centre: _bump(f, centre, 0.4))  # type: ignore[misc]
        syllables = restless(draw, length, rate, draw.uniform(0.08, 0.2), 2.5)
        total += band * syllables * (centre / 250) ** -draw.uniform(0.4, 0.8)
    slope = draw.uniform(0.8, 1.2)
    hum = coloured(draw, length, rate, lambda f: _high_pass(f, 40) * (np.maximum(f, 30) / 100) ** -slope)
    return total / np.std(total) * draw.uniform(0.5, 1.2) + hum / np.std(hum)


BACKGROUNDS: dict[str, Make] = {
    "crowd": _crowd,
    "park": _park,
    "traffic": _traffic,
    "ventilation": _ventilation,
    "wind": _wind,
}
