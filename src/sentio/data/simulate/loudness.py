"""How loud a sound is for a listener: A-weighted power (IEC 61672-1) in short frames."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: the sound pressure level whose RMS is 1 in samples, dB
FULL_SCALE = 100.0
#: distance of frames in seconds; a frame is twice as long
HOP = 0.016


def hop_length(rate: int) -> int:
    """Samples between frames."""
    return round(HOP * rate)


def a_weighting(frequencies: Array) -> Array:
    """IEC 61672-1's A-weighting as an amplitude, 1 at 1 kHz; frequencies in hertz."""
    squared = np.square(frequencies)
    top = 12194.0**2 * squared**2
    bottom = (
        (squared + 20.6**2) * np.sqrt((squared + 107.7**2) * (squared + 737.9**2)) * (squared + 12194.0**2)
    )
    return top / bottom * 10 ** (2.0 / 20)


@lru_cache(maxsize=8)
def _window_and_weights(rate: int) -> tuple[Array, Array]:
    length = 2 * hop_length(rate)
    window = np.hanning(length + 1)[:-1]
    weights = np.square(a_weighting(np.fft.rfftfreq(length, 1 / rate)))
    # Each bin but the first and the last stands for two of the whole spectrum (Parseval).
    weights[1:-1] *= 2
    return window, weights / (length * np.sum(window**2))


def frame_power(samples: Array, rate: int) -> Array:
    """Mean A-weighted power of each frame.

    Args:
        samples: shape ``(time,)``.
        rate: samples per second.

    Returns:
        Shape ``(frames,)``; frame ``i`` is centred at sample ``(i + 0.5) * hop_length(rate)``, and the
        frames together cover all samples.
    """
    hop = hop_length(rate)
    window, weights = _window_and_weights(rate)
    frames = max(1, -(-len(samples) // hop))
    padded = np.zeros((frames + 1) * hop)
    start = hop // 2
    padded[start : start + len(samples)] = samples
    cut = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop]
    spectrum = np.fft.rfft(cut * window, axis=1)
    return (np.square(spectrum.real) + np.square(spectrum.imag)) @ weights


def level(samples: Array, rate: int) -> float:
    """A-weighted level of a whole sound in dB(A); minus infinity for silence."""
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.mean(frame_power(samples, rate)))) + FULL_SCALE


def amplitude(decibels: float) -> float:
    """Decibels as a factor on samples."""
    return float(10 ** (decibels / 20))
