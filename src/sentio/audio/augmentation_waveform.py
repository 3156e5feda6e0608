"""Augmentation of sound itself: functions of samples at any rate, each usable alone, in numpy.

Samples are float32 or float64, ``(time,)`` or ``(channel, time)``; a result has the same type and number of
channels, and the input is never changed in place. What is drawn is drawn from the generator that is given;
`sentio.audio.augmentation_chain` draws the strengths too.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import soxr
from numpy.typing import NDArray

from sentio.audio.phase_vocoder import stretched
from sentio.core.errors import ConfigError, InputError
from sentio.core.numeric import whole, within

Array = NDArray[Any]

#: rates of stretching and speed beyond this leave nothing that can be recognised
FASTEST = 4.0
#: a change of pitch beyond two octaves leaves nothing that can be recognised
MOST_SEMITONES = 24.0
#: edges of a removed band rise over this share of its width, so that it does not ring
EDGE = 0.1


def time_shift(x: Array, samples: int, *, edge: Literal["roll", "discard"] = "roll") -> Array:
    """Move the sound to a later time.

    Args:
        x: ``(time,)`` or ``(channel, time)``.
        samples: by how many; below 0 to an earlier time.
        edge: "roll" lets what leaves re-enter at the other end; "discard" leaves silence there.

    Raises:
        InputError: ``x`` is no sound.
        ConfigError: there is no such edge, or the shift is no whole number.
    """
    x = checked(x)
    if not whole(samples):
        raise ConfigError(f"A shift is a whole number of samples, got {samples!r}")
    if edge not in ("roll", "discard"):
        raise ConfigError(f"edge is 'roll' or 'discard', got {edge!r}")
    moved = np.roll(x, samples, axis=-1)
    if edge == "discard":
        vacated = slice(0, max(samples, 0)) if samples >= 0 else slice(samples, None)
        moved[..., vacated] = 0
    return moved


def time_stretch(x: Array, rate: float, *, n_fft: int = 2048) -> Array:
    """Change the tempo and keep the pitch (phase vocoder).

    Args:
        x: ``(time,)`` or ``(channel, time)``. Channels are stretched one by one, so delays between them
            are kept only roughly.
        rate: above 1 is faster, from 1/4 to 4.
        n_fft: samples in a frame; 64 ms suit most sounds.

    Returns:
        ``round(time / rate)`` samples; see `fit_length`.

    Raises:
        InputError: ``x`` is no sound.
        ConfigError: a rate or a frame that is not possible.
    """
    return _vocoded(checked(x), rate, 0.0, n_fft)


def pitch_shift(x: Array, semitones: float, *, n_fft: int = 2048) -> Array:
    """Change the pitch and keep the duration: stretched, then resampled.

    Args:
        x: ``(time,)`` or ``(channel, time)``.
        semitones: twelve are an octave; from -24 to 24.
        n_fft: samples in a frame of the phase vocoder.

    Returns:
        As many samples.

    Raises:
        InputError: ``x`` is no sound.
        ConfigError: a shift or a frame that is not possible.
    """
    x = checked(x)
    return fit_length(_vocoded(x, 1.0, semitones, n_fft), x.shape[-1])


def stretch_and_shift(x: Array, rate: float, semitones: float, *, n_fft: int = 2048) -> Array:
    """`time_stretch` and `pitch_shift` at once, which blurs the sound only once.

    Args and errors as for these; ``round(time / rate)`` samples.
    """
    return _vocoded(checked(x), rate, semitones, n_fft)


def speed(x: Array, factor: float) -> Array:
    """Play faster or slower, pitch and tempo together (speed perturbation; Ko et al., 2015).

    Args:
        x: ``(time,)`` or ``(channel, time)``.
        factor: above 1 is faster and higher, from 1/4 to 4.

    Returns:
        About ``time / factor`` samples; see `fit_length`.

    Raises:
        InputError: ``x`` is no sound.
        ConfigError: the factor is not possible.
    """
    x = checked(x)
    _check_rate(factor)
    return _resampled(x, factor)


def fit_length(x: Array, samples: int) -> Array:
    """Cut the end off, or go on with the sound reflected at its end, to get so many samples.

    Raises:
        InputError: ``x`` is no sound.
        ConfigError: the length is not above 0.
    """
    x = checked(x)
    if not whole(samples) or samples < 1:
        raise ConfigError(f"A length must be whole and above 0 samples, got {samples!r}")
    missing = samples - x.shape[-1]
    if missing <= 0:
        return x[..., :samples]
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)], mode="reflect")


def time_mask(
    x: Array, width: int, generator: np.random.Generator, *, fill: Literal["zeros", "mean"] = "zeros"
) -> Array:
    """Hide a span at a random place.

    Args:
        x: ``(time,)`` or ``(channel, time)``.
        width: samples, 0 to all.
        generator: source of the place.
        fill: "zeros", or "mean", each channel's mean over the span.

    Raises:
        InputError: ``x`` is no sound.
        ConfigError: the width is not in 0..time, or there is no such fill.
    """
    x = checked(x).copy()
    if not (whole(width) and 0 <= width <= x.shape[-1]):
        raise ConfigError(f"A mask of {width!r} samples does not fit in {x.shape[-1]}")
    if fill not in ("zeros", "mean"):
        raise ConfigError(f"fill is 'zeros' or 'mean', got {fill!r}")
    start = int(generator.integers(0, x.shape[-1] - width + 1))
    span = x[..., start : start + width]
    if width:
        span[...] = 0 if fill == "zeros" else span.mean(axis=-1, keepdims=True)
    return x


def band_mask(x: Array, low: float, high: float) -> Array:
    """Remove a band of frequencies: frequency masking, for sound that is stored as sound.

    Args:
        x: ``(time,)`` or ``(channel, time)``.
        low, high: the band's edges as shares of half the rate, in 0..1.

    Raises:
        InputError: ``x`` is no sound.
        ConfigError: the edges are not in order within 0..1.
    """
    x = checked(x)
    if not (within(low, 0, 1) and within(high, low, 1)):
        raise ConfigError(f"A band needs edges in order within 0..1, got {low!r} to {high!r}")
    if low == high:
        return x.copy()
    spectrum = np.fft.rfft(x.astype(np.float64), axis=-1)
    places = np.linspace(0, 1, spectrum.shape[-1])
    inside = np.minimum(places - low, high - places) / (EDGE * (high - low))
    found: Array = np.fft.irfft(spectrum * (1 - np.clip(inside, 0, 1)), x.shape[-1], axis=-1).astype(x.dtype)
    return found


def add_noise(x: Array, snr: float, generator: np.random.Generator) -> Array:
    """Add white Gaussian noise at a ratio to the sound's own power; silence stays silent.

    Args:
        x: ``(time,)`` or ``(channel, time)``.
        snr: signal-to-noise ratio in dB.
        generator: source of the noise.

    Raises:
        InputError: ``x`` is no sound.
        ConfigError: the ratio is not finite.
    """
    x = checked(x)
    if not within(snr, -math.inf, math.inf):
        raise ConfigError(f"A signal-to-noise ratio must be a finite number of dB, got {snr!r}")
    level = float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) * 10 ** (-snr / 20)
    found: Array = (x + level * generator.standard_normal(x.shape)).astype(x.dtype)
    return found


def gain(x: Array, decibels: float) -> Array:
    """Make it louder or, below 0 dB, softer.

    Raises:
        InputError: ``x`` is no sound.
        ConfigError: the gain is not finite.
    """
    x = checked(x)
    if not within(decibels, -math.inf, math.inf):
        raise ConfigError(f"A gain must be a finite number of dB, got {decibels!r}")
    found: Array = x * np.asarray(10 ** (decibels / 20), x.dtype)
    return found


def impulse_response(x: Array, response: Array) -> Array:
    """The sound as a device hears it: ``(x * response)[0..time-1]``, by FFT.

    Args:
        x: ``(time,)`` or ``(channel, time)``.
        response: the device's impulse response at the same rate, ``(taps,)``;
            see `sentio.audio.impulse_responses`.

    Raises:
        InputError: ``x`` or the response is no sound.
    """
    x = checked(x)
    if checked(response, "An impulse response").ndim != 1:
        raise InputError(f"An impulse response has shape (taps,), got {response.shape}")
    size = x.shape[-1] + len(response) - 1
    # A length that the FFT likes: a power of two is at most twice what is needed.
    size = 1 << (size - 1).bit_length()
    product = np.fft.rfft(x.astype(np.float64), size, axis=-1) * np.fft.rfft(
        response.astype(np.float64), size
    )
    found: Array = np.fft.irfft(product, size, axis=-1)[..., : x.shape[-1]].astype(x.dtype)
    return found


def rechunk(x: Array, length: int, *, offset: int | None = None, wrapped: bool = False) -> Array:
    """Cut a recording into pieces again, from a later start.

    Args:
        x: the whole recording, ``(time,)`` or ``(channel, time)``.
        length: samples in a piece.
        offset: first sample of the first piece; half a piece if None.
        wrapped: also give the piece that begins before the end and goes on at the start.

    Returns:
        ``(piece, time)`` or ``(piece, channel, time)``: ten pieces of a recording that held ten, or nine
        where it is not wrapped.

    Raises:
        InputError: ``x`` is no sound.
        ConfigError: the length or the offset is not possible.
    """
    x = checked(x)
    if not whole(length) or not (offset is None or whole(offset)):
        raise ConfigError(f"A length and an offset are whole numbers, got {length!r} and {offset!r}")
    begin = length // 2 if offset is None else offset
    if length < 1 or not 0 <= begin < max(length, 1):
        raise ConfigError(f"Pieces need a length above 0 and an offset below it, got {length} and {begin}")
    if wrapped:
        x, begin = np.roll(x, -begin, axis=-1), 0
    count = max(0, (x.shape[-1] - begin) // length)
    pieces = x[..., begin : begin + count * length].reshape(*x.shape[:-1], count, length)
    return np.moveaxis(pieces, -2, 0).copy()


def checked(x: Array, what: str = "The sound") -> Array:
    """Samples as these functions take them.

    Raises:
        InputError: another type or shape, or none at all.
    """
    x = np.asarray(x)
    if x.dtype not in (np.float32, np.float64) or x.ndim not in (1, 2) or 0 in x.shape:
        raise InputError(
            f"{what} must be float32 or float64 samples, (time,) or (channel, time), got {x.dtype} of shape "
            f"{x.shape}"
        )
    return x


def _vocoded(x: Array, rate: float, semitones: float, n_fft: int) -> Array:
    _check_rate(rate)
    if not within(semitones, -MOST_SEMITONES, MOST_SEMITONES):
        raise ConfigError(f"A shift of pitch is from -24 to 24 semitones, got {semitones!r}")
    if not whole(n_fft) or n_fft < 16 or n_fft % 4:
        raise ConfigError(f"A frame must be at least 16 samples and a multiple of 4, got {n_fft!r}")
    if rate == 1 and semitones == 0:
        return x.copy()
    factor = 2 ** (semitones / 12)
    found = stretched(x, rate / factor, n_fft)
    # One frame of the vocoder may be longer than all of a very short sound.
    return found if semitones == 0 else fit_length(_resampled(found, factor), round(x.shape[-1] / rate))


def _resampled(x: Array, factor: float) -> Array:
    """As if recorded at a rate ``factor`` times higher than it is played at."""
    found: Array = soxr.resample(np.ascontiguousarray(x.T), 16000.0 * factor, 16000.0, quality="HQ").T
    if not found.size:
        raise InputError(f"The sound of {x.shape[-1]} samples is too short to be resampled by {factor:g}")
    return np.ascontiguousarray(found)


def _check_rate(rate: float) -> None:
    if not within(rate, 1 / FASTEST, FASTEST):
        raise ConfigError(f"A rate is from 1/4 to 4, got {rate!r}")
