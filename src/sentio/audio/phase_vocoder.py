"""Time stretching by a phase vocoder (Flanagan and Golden, 1966; Dolson, 1986), in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.audio.frontend import hann_window

Array = NDArray[Any]

#: frames overlap by three quarters, as a squared Hann window needs at least
OVERLAP = 4


def stretched(x: Array, rate: float, n_fft: int) -> Array:
    """The sound at another tempo and the same pitch.

    The magnitudes of two neighbouring frames are interpolated at every ``rate``-th part of a hop; each bin's
    phase advances by what was measured between them.

    Args:
        x: floats, ``(..., time)``.
        rate: above 1 is faster.
        n_fft: samples in a frame.

    Returns:
        ``(..., round(time / rate))``, of the samples' type.
    """
    hop = n_fft // OVERLAP
    spectrum = _stft(x, n_fft, hop)
    frames = spectrum.shape[-2]
    steps = np.arange(0, frames, rate)
    first = steps.astype(np.int64)
    share = (steps - first).astype(x.dtype)[:, None]
    spectrum = np.concatenate([spectrum, np.zeros_like(spectrum[..., :2, :])], axis=-2)
    magnitude = np.abs(spectrum)
    magnitude = (1 - share) * magnitude[..., first, :] + share * magnitude[..., first + 1, :]
    # Sums of phases grow with the clip, and single precision would lose them.
    phase = np.angle(spectrum).astype(np.float64)
    expected = 2 * np.pi * hop * np.arange(n_fft // 2 + 1) / n_fft
    deviation = phase[..., first + 1, :] - phase[..., first, :] - expected
    advance = expected + deviation - 2 * np.pi * np.round(deviation / (2 * np.pi))
    advance = np.concatenate([phase[..., :1, :], advance[..., :-1, :]], axis=-2)
    turned = np.exp(1j * (np.cumsum(advance, axis=-2) % (2 * np.pi)))
    return _istft(magnitude * turned.astype(spectrum.dtype), n_fft, hop, round(x.shape[-1] / rate), x.dtype)


def _stft(x: Array, n_fft: int, hop: int) -> Array:
    """Spectra of centred frames, the ends padded with silence, ``(..., time, frequency)``."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(n_fft // 2, n_fft // 2)])
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=-1)[..., ::hop, :]
    return np.fft.rfft(frames * hann_window(n_fft).astype(x.dtype), axis=-1)


def _istft(spectrum: Array, n_fft: int, hop: int, length: int, dtype: np.dtype[Any]) -> Array:
    """The least-squares inverse of `_stft` (Griffin and Lim, 1984), ``(..., length)``."""
    window = hann_window(n_fft)
    frames = (np.fft.irfft(spectrum, n_fft, axis=-1) * window).astype(dtype, copy=False)
    count = frames.shape[-2]
    # Frames that lie OVERLAP apart do not overlap: each such set is one reshaped copy.
    total = math.ceil((count + OVERLAP) / OVERLAP) * n_fft + n_fft
    out = np.zeros((*frames.shape[:-2], total), np.float64)
    weight = np.zeros(total)
    for offset in range(min(OVERLAP, count)):
        part = frames[..., offset::OVERLAP, :]
        span = slice(offset * hop, offset * hop + part.shape[-2] * n_fft)
        out[..., span] += part.reshape(*part.shape[:-2], -1)
        weight[span] += np.tile(window**2, part.shape[-2])
    out = out[..., n_fft // 2 : n_fft // 2 + length]
    weight = weight[n_fft // 2 : n_fft // 2 + length]
    found = out / np.where(weight > np.finfo(np.float32).tiny, weight, 1.0)
    missing = length - found.shape[-1]
    return np.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, max(missing, 0))]).astype(dtype)
