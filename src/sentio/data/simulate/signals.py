"""What event sounds are built of: noise of any spectrum, tones, decaying modes, filters and envelopes.

Every function works on float64 arrays of shape ``(time,)`` at ``rate`` Hz and makes nothing above
``HIGHEST * rate``, so no sound aliases at any rate. Filters are responses on the frequency axis (Hz), applied
by FFT: `band`, `tilt` and `resonances` give responses, and products and sums of them are responses too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil, log10
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

Signal = NDArray[np.float64]
#: gains at frequencies in Hz, real or complex
Response = Callable[[Signal], NDArray[np.float64] | NDArray[np.complex128]]

#: partials above this share of the rate are left out
HIGHEST = 0.45
#: below this the microphones of a street hear nothing (Hz)
LOWEST = 25.0
#: points of one period in `periodic`
TABLE = 16384
#: strikes up to this many are added one by one, more by FFT
FEW_STRIKES = 48


@overload
def log_uniform(generator: np.random.Generator, low: float, high: float) -> float: ...
@overload
def log_uniform(generator: np.random.Generator, low: float, high: float, size: int) -> Signal: ...
def log_uniform(
    generator: np.random.Generator, low: float, high: float, size: int | None = None
) -> float | Signal:
    """Draws evenly in the logarithm: octaves are equally likely. A float, or an array of ``size``."""
    drawn = np.exp(generator.uniform(np.log(low), np.log(high), size))
    return float(drawn) if size is None else drawn


@lru_cache(maxsize=256)
def fast_length(samples: int) -> int:
    """The next length with no prime factor above 5, which an FFT takes quickly."""
    best = 1 << max(samples - 1, 0).bit_length()
    fives = 1
    while fives < best:
        threes = fives
        while threes < best:
            fitting = threes << max(ceil(samples / threes) - 1, 0).bit_length()
            best = min(best, fitting)
            threes *= 3
        fives *= 5
    return best


def seconds_axis(seconds: float, rate: int) -> Signal:
    """The time of each sample (s)."""
    return np.arange(round(seconds * rate)) / rate


# Responses


def band(low: float, high: float, order: int = 2) -> Response:
    """A band-pass with Butterworth magnitude and no phase: -3 dB at ``low`` and ``high``."""

    def response(frequencies: Signal) -> Signal:
        f = np.maximum(frequencies, 1.0)
        below, above = np.square(low / f), np.square(f / high)
        for _ in range(order - 1):  # whole powers by products: numpy's own take ten times as long
            below, above = below * np.square(low / f), above * np.square(f / high)
        return 1 / np.sqrt((1 + below) * (1 + above))

    return response


def tilt(slope: float, pivot: float = 1000.0) -> Response:
    """``slope`` dB per octave, 0 dB at ``pivot`` Hz; flat below 50 Hz, where it would grow without end."""
    exponent = slope / (20 * log10(2))
    return lambda frequencies: np.exp(exponent * np.log(np.maximum(frequencies, 50.0) / pivot))


def resonances(centres: ArrayLike, bandwidths: ArrayLike, gains: ArrayLike) -> Response:
    """Causal second-order resonators in parallel, each with its gain at its centre.

    Args:
        centres: Hz.
        bandwidths: Hz; a resonator rings for about ``1 / bandwidth`` s.
        gains: at the centre; neighbours take turns in sign, as in the parallel formant synthesizer of Klatt
            (1980), so that there is no hole between them.
    """
    rows = list(zip(*np.broadcast_arrays(*map(np.atleast_1d, (centres, bandwidths, gains))), strict=True))

    def response(frequencies: Signal) -> NDArray[np.complex128]:
        total = np.zeros(frequencies.shape, np.complex128)
        squares = frequencies * frequencies
        for place, (centre, bandwidth, gain) in enumerate(rows):
            # j r / (s + j r), in real numbers
            resisted, sprung = bandwidth * frequencies, centre**2 - squares
            part = resisted * (((-1) ** place * gain) / (sprung * sprung + resisted * resisted + 1e-9))
            total.real += part * resisted
            total.imag += part * sprung
        return total

    return response


def filtered(sound: Signal, rate: int, response: Response, ringing: float = 0.1) -> Signal:
    """The sound through a filter that may ring for ``ringing`` s; same length."""
    size = fast_length(len(sound) + round(ringing * rate))
    spectrum = np.fft.rfft(sound, size)
    return np.fft.irfft(spectrum * response(np.fft.rfftfreq(size, 1 / rate)), size)[: len(sound)]


# Noise


def noise(generator: np.random.Generator, samples: int, rate: int, response: Response) -> Signal:
    """Gaussian noise with the given magnitude spectrum, RMS 1."""
    size = fast_length(samples)
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    spectrum = generator.standard_normal((2, len(frequencies)))
    shape = np.abs(response(frequencies)) * ((frequencies >= LOWEST) & (frequencies <= HIGHEST * rate))
    sound = np.fft.irfft((spectrum[0] + 1j * spectrum[1]) * shape, size)[:samples]
    return sound / max(float(np.sqrt(np.mean(sound**2))), 1e-12)


def wander(generator: np.random.Generator, samples: int, rate: int, speed: float) -> Signal:
    """A slow random curve: zero mean, about unit variance, ``speed`` independent values a second."""
    place = generator.uniform() + np.arange(samples) * (speed / rate)
    knots = 1.2 * generator.standard_normal(int(place[-1]) + 2)
    left = place.astype(np.int64)
    return knots[left] + (place - left) * np.diff(knots)[left]


# Tones


def turns(frequency: Signal, rate: int, start: float = 0.0) -> Signal:
    """The phase, in cycles, of a tone whose frequency (Hz) moves."""
    return start + np.cumsum(frequency) / rate


def harmonics(frequency: Signal, amplitudes: ArrayLike, rate: int) -> Signal:
    """A tone of moving frequency with the given amplitudes of its harmonics 1, 2, 3, ...

    A harmonic fades out while it is above ``HIGHEST * rate``; for tones that sweep far. `periodic` is faster
    where there are many.
    """
    angle = 2 * np.pi * turns(frequency, rate)
    twice, now, before = 2 * np.cos(angle), np.sin(angle), np.zeros(len(angle))
    limit, top = HIGHEST * rate, float(np.max(frequency))
    total = np.zeros(len(angle))
    for number, amplitude in enumerate(np.asarray(amplitudes), start=1):
        if number > 1:
            now, before = twice * now - before, now
        if number * top <= limit:
            total += amplitude * now
        elif number * float(np.min(frequency)) < limit:
            total += amplitude * now * np.clip((limit - number * frequency) / (0.03 * limit), 0, 1)
    return total


def periodic(cycles: Signal, partials: NDArray[np.complex128]) -> Signal:
    """One period read over and over: ``partials`` are harmonics 1, 2, 3, ... of ``cycles`` >= 0.

    See `turns` for the cycles. The caller leaves out partials above ``HIGHEST * rate``: see `allowed`.
    """
    spectrum = np.zeros(TABLE // 2 + 1, np.complex128)
    count = min(len(partials), TABLE // 8)
    spectrum[1 : count + 1] = partials[:count]
    table = np.fft.irfft(spectrum, TABLE) * (TABLE / 2)
    steps = np.roll(table, -1) - table
    place = cycles * TABLE
    left = place.astype(np.int64)
    between = place - left
    left &= TABLE - 1
    return table[left] + between * steps[left]


def allowed(highest: float, rate: int, most: int = 1500) -> Signal:
    """The numbers 1, 2, 3, ... of harmonics that stay in range of a fundamental of up to ``highest`` Hz."""
    return np.arange(1.0, min(int(HIGHEST * rate / highest), most) + 1)


# Things that are struck


def modes(frequencies: ArrayLike, fall: ArrayLike, amplitudes: ArrayLike, samples: int, rate: int) -> Signal:
    """Decaying sines that all start at once: what a struck body does.

    Args:
        frequencies: Hz; those above ``HIGHEST * rate`` are left out.
        fall: the time in which each loses 60 dB (s).
        amplitudes: of each at the start.
    """
    f, t60, a = np.broadcast_arrays(*map(np.atleast_1d, (frequencies, fall, amplitudes)))
    kept = f <= HIGHEST * rate
    poles = (-np.log(1000) / t60[kept] + 2j * np.pi * f[kept]) / rate
    # exp(p * (i * block + j)) is a product, so all modes are one matrix product and no loop
    block = int(np.sqrt(samples)) + 1
    coarse = np.exp(np.outer(np.arange(0, samples, block), poles))
    fine = a[kept, None] * np.exp(np.outer(poles, np.arange(block)))
    return (coarse.real @ fine.imag + coarse.imag @ fine.real).ravel()[:samples]


def struck(times: ArrayLike, gains: ArrayLike, kernel: Signal, samples: int, rate: int) -> Signal:
    """The kernel added at each time (s) with its gain, cut at ``samples``."""
    places = np.round(np.asarray(times) * rate).astype(np.int64)
    gains = np.broadcast_to(np.asarray(gains, np.float64), places.shape)
    inside = (places >= 0) & (places < samples)
    places, gains = places[inside], gains[inside]
    if len(places) <= FEW_STRIKES:
        total = np.zeros(samples)
        for place, gain in zip(places, gains, strict=True):
            part = kernel[: samples - place]
            total[place : place + len(part)] += gain * part
        return total
    impulses = np.bincount(places, gains, minlength=samples)
    size = fast_length(samples + len(kernel))
    return np.fft.irfft(np.fft.rfft(impulses, size) * np.fft.rfft(kernel, size), size)[:samples]


# Envelopes


def swell(times: Signal, start: float, end: float, rise: float, fall: float) -> Signal:
    """0 before ``start``, 1 in between, 0 after ``end``, with smooth flanks of ``rise`` and ``fall`` s."""
    flanks = np.minimum((times - start) / max(rise, 1e-3), (end - times) / max(fall, 1e-3))
    return np.sin(np.pi / 2 * np.clip(flanks, 0, 1)) ** 2


def pulse(samples: int, rate: int, rise: float, fall: float) -> Signal:
    """A blow: grows over ``rise`` s, then loses 60 dB in ``fall`` s."""
    times = np.arange(samples) / rate
    grown = np.minimum(times / max(rise, 1 / rate), 1.0)
    return grown * np.exp(-np.log(1000) / fall * np.maximum(times - rise, 0))


def paced(generator: np.random.Generator, seconds: float, period: float, jitter: float) -> Signal:
    """Times (s) of something regular: from near 0 up to ``seconds``, each gap off by ``jitter`` of itself."""
    count = ceil(seconds / period) + 1
    gaps = period * np.clip(1 + jitter * generator.standard_normal(count), 0.4, 1.8)
    times = generator.uniform(0, 0.3) * period + np.cumsum(gaps) - gaps[0]
    return times[times < seconds]


def finished(sound: Signal, rate: int, response: Response | None = None, fade: float = 0.004) -> Signal:
    """The sound through a last filter, with only what a microphone hears.

    That is: no DC, nothing above ``HIGHEST * rate``, and soft ends of ``fade`` s.
    """
    limit = HIGHEST * rate

    def heard(frequencies: Signal) -> NDArray[np.float64] | NDArray[np.complex128]:
        low = np.clip(frequencies / LOWEST - 1, 0, 1)
        gain = low * np.clip((limit - frequencies) / (0.03 * limit), 0, 1)
        return gain if response is None else gain * response(frequencies)

    sound = filtered(sound, rate, heard)
    edge = min(max(round(fade * rate), 1), len(sound) // 2)
    ramp = np.sin(np.pi / 2 * (np.arange(edge) + 0.5) / edge) ** 2
    window = np.ones(len(sound))
    window[:edge], window[len(sound) - edge :] = ramp, ramp[::-1]
    sound = sound * window
    return sound - window * (sound.sum() / window.sum())
