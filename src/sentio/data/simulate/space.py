"""How a sound travels: from a point source, standing or moving along a line, to one microphone.

Delay, spreading and Doppler follow from geometry alone: what is heard at a moment was sent when the source
was where it then was. The air takes high tones away after ISO 9613-1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sentio.data.simulate.signals import fast_length

Array = NDArray[np.float64]

#: a moving source's sound is interpolated on a grid this many times finer than its samples
OVERSAMPLING = 4
#: no source is taken to be nearer than this, m
NEAREST = 0.25
#: samples of an impulse response before the direct sound, for the ringing of its fractional delay
LEAD = 64


@dataclass(frozen=True)
class Air:
    """The air between source and microphone.

    Args:
        temperature: degrees Celsius.
        humidity: relative, percent.
        pressure: kPa.
    """

    temperature: float = 15.0
    humidity: float = 60.0
    pressure: float = 101.325

    @property
    def speed_of_sound(self) -> float:
        """m/s, after ISO 9613-1."""
        return 343.2 * math.sqrt((self.temperature + 273.15) / 293.15)


def absorption(frequencies: ArrayLike, air: Air) -> Array:
    """What the air takes from a pure tone, in dB per metre (ISO 9613-1:1993, equations 3 to 6).

    Args:
        frequencies: hertz, any shape.
        air: its temperature, humidity and pressure.
    """
    squared = np.square(np.asarray(frequencies, dtype=np.float64))
    kelvin = air.temperature + 273.15
    relative = kelvin / 293.15
    pressure = air.pressure / 101.325
    saturation = 10 ** (-6.8346 * (273.16 / kelvin) ** 1.261 + 4.6151)
    vapour = air.humidity * saturation / pressure
    oxygen = pressure * (24 + 4.04e4 * vapour * (0.02 + vapour) / (0.391 + vapour))
    nitrogen = pressure * relative**-0.5 * (9 + 280 * vapour * math.exp(-4.170 * (relative ** (-1 / 3) - 1)))
    classical = 1.84e-11 / pressure * relative**0.5
    of_oxygen = 0.01275 * math.exp(-2239.1 / kelvin) * oxygen / (oxygen**2 + squared)
    of_nitrogen = 0.1068 * math.exp(-3352.0 / kelvin) * nitrogen / (nitrogen**2 + squared)
    return 8.686 * squared * (classical + relative**-2.5 * (of_oxygen + of_nitrogen))


def emission_times(times: Array, offsets: Array, velocities: Array, speed_of_sound: float) -> Array:
    """When what is heard was sent, for sources on straight lines.

    Solves ``|offset + velocity s| = c (t - s)`` for ``s``.

    Args:
        times: when it is heard, s, shape ``(time,)``.
        offsets: where the sources are at time 0 as seen from the microphone, m, shape ``(source, 3)``.
        velocities: m/s, slower than sound, shape ``(source, 3)``.
        speed_of_sound: m/s.

    Returns:
        Seconds, shape ``(source, time)``.
    """
    c2 = speed_of_sound**2
    away = np.sum(offsets * velocities, axis=1)[:, None]
    distance2 = np.sum(offsets**2, axis=1)[:, None]
    slow = c2 - np.sum(velocities**2, axis=1)[:, None]
    half = c2 * times + away
    return (half - np.sqrt(half**2 - slow * (c2 * times**2 - distance2))) / slow


def impulse_response(distances: Array, gains: Array, air: Air, rate: int) -> Array:
    """What a microphone hears of a click, from standing sources that click together.

    Args:
        distances: m, shape ``(source,)``; the first is the direct sound's.
        gains: factors at 1 m, shape ``(source,)``.

    Returns:
        Shape ``(time,)``; the direct sound arrives at sample `LEAD`.
    """
    distances = np.maximum(distances, NEAREST)
    late = (distances - distances[0]) / air.speed_of_sound
    length = fast_length(2 * LEAD + math.ceil(float(late.max()) * rate))
    frequencies = np.fft.rfftfreq(length, 1 / rate)
    decibels = absorption(frequencies, air)
    phase = np.exp(-2j * np.pi * np.outer(late + LEAD / rate, frequencies))
    loss = np.exp(np.outer(distances, decibels * (-math.log(10) / 20)))
    spectrum = np.sum((gains / distances)[:, None] * loss * phase, axis=0)
    return np.fft.irfft(spectrum * _roll_off(len(frequencies)), length)


def convolve(sound: Array, response: Array) -> Array:
    """Their full convolution, by FFT."""
    length = len(sound) + len(response) - 1
    size = fast_length(length)
    return np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(response, size), size)[:length]


def moving(sound: Array, offsets: Array, velocities: Array, gains: Array, air: Air, rate: int) -> Array:
    """What a microphone hears of a sound from sources that move together, mirror images for example.

    The absorption of the air is that at each source's mean distance.

    Args:
        sound: at 1 m, from time 0 on, shape ``(time,)``.
        offsets, velocities: as for `emission_times`; the first is the direct sound's.
        gains: factors at 1 m, shape ``(source,)``.

    Returns:
        Shape ``(time,)``; its first sample is when the direct sound's first sample arrives, and it ends when
        the last source's end has arrived.
    """
    c = air.speed_of_sound
    seconds = len(sound) / rate
    ends = np.linalg.norm(offsets + velocities * seconds, axis=1)
    first = float(np.linalg.norm(offsets[0])) / c
    count = math.ceil((seconds + float(ends.max()) / c - first) * rate) + 1
    times = first + np.arange(count) / rate
    sent = emission_times(times, offsets, velocities, c)
    distances = np.maximum((times - sent) * c, NEAREST)
    heard = np.zeros(count)
    for group in _alike(0.5 * (np.linalg.norm(offsets, axis=1) + ends)):
        fine = _finer(sound, float(np.mean(distances[group])), air, rate)
        for source in group:
            heard += gains[source] / distances[source] * _at(fine, sent[source] * rate * OVERSAMPLING)
    return heard


def _alike(distances: Array) -> list[list[int]]:
    """Sources whose distances are within a quarter of each other share one filter for the air."""
    groups: list[list[int]] = []
    for source in np.argsort(distances, kind="stable"):
        if groups and distances[source] <= 1.25 * distances[groups[-1][0]]:
            groups[-1].append(int(source))
        else:
            groups.append([int(source)])
    return groups


def _finer(sound: Array, distance: float, air: Air, rate: int) -> Array:
    """The sound on the finer grid, with the air's absorption over a distance."""
    size = fast_length(len(sound) + 2 * LEAD)
    spectrum = np.fft.rfft(sound, size)
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    spectrum *= np.exp(absorption(frequencies, air) * (-math.log(10) / 20 * distance))
    spectrum *= OVERSAMPLING * _roll_off(len(frequencies))
    return np.fft.irfft(spectrum, size * OVERSAMPLING)


def _at(fine: Array, places: Array) -> Array:
    """Values between samples by the cubic through the four around each; zero outside."""
    whole = np.floor(places).astype(np.int64)
    x = places - whole
    inside = (whole >= 1) & (whole < len(fine) - 2)
    whole = np.where(inside, whole, 1)
    before, here, after, beyond = (fine[whole + step] for step in (-1, 0, 1, 2))
    # Lagrange's cubic in Newton's form.
    second = after - 2 * here + before
    third = beyond - 3 * after + 3 * here - before
    value = here + x * (after - here + (x - 1) / 2 * (second + (x + 1) / 3 * third))
    return np.where(inside, value, 0.0)


def _roll_off(bins: int) -> Array:
    """A gentle end of the spectrum, so that what is delayed by parts of a sample rings little."""
    place = np.linspace(0, 1, bins)
    return np.where(place < 0.95, 1.0, 0.5 + 0.5 * np.cos(np.pi * (place - 0.95) / 0.05))
