"""Scalograms in numpy: the magnitude of a continuous wavelet transform with Morlet wavelets, over time.

Held to the direct sum by tests, and the torch twin (`sentio.audio.torch_frontend`) to it. It costs many times
what a log-mel spectrogram costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sentio.audio.checking import (
    SMALLEST_FLOOR,
    check_samples,
    counts_problem,
    is_number,
    make_plain,
    standardisation_problem,
)
from sentio.audio.windows import AudioFrontEnd
from sentio.core.errors import ConfigError, InputError
from sentio.core.registry import register

Array = NDArray[Any]

#: a wavelet is nothing beyond this many of its scales, to either side: exp(-x^2 / 2) is below 2e-11
REACH = 7.0
#: scales transformed at once, so that memory stays small
SCALES = 8


@dataclass(frozen=True, kw_only=True)
class Scalogram:
    """Settings of a scalogram, and the function itself: ``Scalogram(rate=32000)(samples)``.

    The wavelet is Morlet's, ``psi(t) = exp(-t^2 / 2) exp(i omega t)``. At scale ``a``, in samples, it is
    ``psi(n / a)`` times ``a^(-1/2)`` ("l2") or ``1 / a`` ("l1"); ``omega rate / (2 pi a)`` is its frequency.
    The clip is taken to be silent beyond its ends.

    Args:
        rate: samples per second of the input.
        n_scales: number of scales; their frequencies form a geometric row, lowest first.
        f_min, f_max: lowest and highest of them, in hertz.
        hop_length: magnitudes are averaged over so many samples; samples beyond the last whole column are
            left out.
        omega: oscillations of the wavelet, in radians for each scale; from 5 on its mean is as good as zero.
        norm: "l1" gives a tone of any frequency the same magnitude, and its peak is at that frequency; "l2"
            gives white noise the same power at every scale, and a tone's peak is at its frequency times
            ``2 omega / (omega + sqrt(omega^2 + 2))``, which is 0.98648 for omega 6.
        amin: floor of the averaged magnitude before decibels ``20 log10`` are taken.
        mean, std: applied last, ``(x - mean) / std``; numbers, or one per scale; None for neither.

    Raises:
        ConfigError: a setting is not possible, or two do not fit each other.
    """

    NAME: ClassVar[str] = "scalogram"
    CENTRED: ClassVar[bool] = False

    rate: int = 32_000
    n_scales: int = 128
    f_min: float = 50.0
    f_max: float = 15_500.0
    hop_length: int = 320
    omega: float = 6.0
    norm: Literal["l1", "l2"] = "l1"
    amin: float = 1e-5
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        problem = _problem(self)
        if problem:
            raise ConfigError(f"Scalogram settings: {problem}")

    def frequencies(self) -> Array:
        """Centre frequency of each scale in hertz, float64, ascending."""
        if self.n_scales == 1:
            return np.array([float(self.f_min)])
        return np.geomspace(self.f_min, self.f_max, self.n_scales)

    def shape(self, samples: int) -> tuple[int, int]:
        """The features' shape for that many samples: ``(time, scale)``."""
        return samples // self.hop_length, self.n_scales

    def check_length(self, samples: int) -> None:
        """Raise an `InputError` if clips of that many samples are too short for one column."""
        if samples < self.hop_length:
            raise InputError(
                f"A clip of {samples} samples is too short: the front end needs {self.hop_length}"
            )

    def __call__(self, samples: Array) -> Array:
        """Scalograms of clips.

        Args:
            samples: float32 or float64 at ``rate``, shape ``(..., time)``.

        Returns:
            Decibels, shape ``(..., time, scale)``, of the samples' type; all arithmetic is done in that type.

        Raises:
            InputError: the samples are of another type, or too few for one column.
        """
        samples = check_samples(samples)
        self.check_length(samples.shape[-1] if samples.ndim else 0)
        length = samples.shape[-1]
        clips = samples.reshape(-1, length)
        columns, _ = self.shape(length)
        filters = _filters(self, length, samples.dtype)
        fft = _fft()
        out = np.empty((len(clips), columns, self.n_scales), samples.dtype)
        for clip, features in zip(clips, out, strict=True):
            spectrum = fft.forward(clip, filters.shape[1])
            for first in range(0, self.n_scales, SCALES):
                rows = filters[first : first + SCALES]
                magnitude = np.abs(fft.back(spectrum * rows)[:, : columns * self.hop_length])
                means = magnitude.reshape(len(rows), columns, self.hop_length).mean(axis=2)
                features[:, first : first + SCALES] = means.T
        np.maximum(out, self.amin, out=out)
        np.log10(out, out=out)
        out *= 20
        if self.mean is not None:
            out -= np.asarray(self.mean, samples.dtype)
            out /= np.asarray(self.std, samples.dtype)
        return out.reshape(*samples.shape[:-1], *out.shape[1:])


def wavelet(settings: Scalogram, frequency: float, times: Array) -> Array:
    """The wavelet of one frequency in hertz at times in samples, complex128, with its normalisation."""
    scale = settings.omega * settings.rate / (2 * np.pi * frequency)
    scaled = np.asarray(times, np.float64) / scale
    factor = 1 / scale if settings.norm == "l1" else scale**-0.5
    return factor * np.exp(-(scaled**2) / 2 + 1j * settings.omega * scaled)


def filter_bank(settings: Scalogram, samples: int) -> Array:
    """What a clip's FFT is multiplied by for each scale: float64, ``(scale, frequency)``.

    The FFT is long enough that a wavelet which reaches beyond the clip's end does not come round to its
    beginning. The transform of sampled wavelets repeats every ``rate`` hertz, so what lies beyond half of it
    is there too, folded back.
    """
    scales = settings.omega * settings.rate / (2 * np.pi * settings.frequencies())[:, None]
    size = _fast_length(samples + int(np.ceil(REACH * scales.max())))
    radians = 2 * np.pi * np.fft.fftfreq(size)
    filters = np.zeros((settings.n_scales, size))
    for turn in (-1, 0, 1):
        filters += np.exp(-((scales * (radians + 2 * np.pi * turn) - settings.omega) ** 2) / 2)
    filters *= np.sqrt(2 * np.pi) * (1 if settings.norm == "l1" else np.sqrt(scales))
    return filters


@lru_cache(maxsize=4)
def _filters(settings: Scalogram, samples: int, dtype: np.dtype[Any]) -> Array:
    return filter_bank(settings, samples).astype(dtype)


class _Transforms(NamedTuple):
    """A complex FFT over the last axis to a length, and back."""

    forward: Callable[[Array, int], Array]
    back: Callable[[Array], Array]


@lru_cache(maxsize=1)
def _fft() -> _Transforms:
    try:
        from scipy.fft import fft, ifft
    except ModuleNotFoundError:
        from numpy.fft import fft, ifft
    return _Transforms(fft, ifft)


def _fast_length(least: int) -> int:
    """The smallest length from ``least`` on whose only prime factors are 2, 3 and 5."""
    length = least
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def _problem(s: Scalogram) -> str | None:
    """The first thing that is wrong with settings, as half a sentence."""
    problem = counts_problem(s, ("rate", "n_scales", "hop_length"))
    if problem:
        return problem
    for name in ("f_min", "f_max", "omega", "amin"):
        if not is_number(getattr(s, name)):
            return f"{name} must be a number, got {getattr(s, name)!r}"
    if not 0 < s.f_min < s.f_max <= s.rate / 2:
        return (
            f"the frequencies must lie above 0 and up to half the rate ({s.rate / 2:g} Hz), lowest first, "
            f"got f_min {s.f_min:g} and f_max {s.f_max:g}"
        )
    if s.omega < 5:
        return f"omega must be at least 5, so that the wavelet has no mean, got {s.omega:g}"
    if s.norm not in ("l1", "l2"):
        return f"norm must be 'l1' or 'l2', got {s.norm!r}"
    if s.amin < SMALLEST_FLOOR:
        return f"amin must be at least {SMALLEST_FLOOR:g}, so that silence has a finite logarithm"
    return standardisation_problem(s.mean, s.std, s.n_scales)


@register("frontend", "scalogram")
def scalogram_windows(
    *,
    window: float = 1.0,
    hop: float | None = None,
    quiet: float | None = None,
    rate: int = Scalogram.rate,
    n_scales: int = Scalogram.n_scales,
    f_min: float = Scalogram.f_min,
    f_max: float = Scalogram.f_max,
    hop_length: int = Scalogram.hop_length,
    omega: float = Scalogram.omega,
    norm: str = Scalogram.norm,
    amin: float = Scalogram.amin,
    mean: float | list[float] | tuple[float, ...] | None = Scalogram.mean,
    std: float | list[float] | tuple[float, ...] | None = Scalogram.std,
) -> AudioFrontEnd:
    """Scalograms of windows of a recording.

    Args:
        window, hop, quiet: length and distance of windows in seconds, and what is silent, see
            `AudioFrontEnd`.
        rate, ...: the settings of `Scalogram`.

    Raises:
        ConfigError: a setting is not possible.
    """
    settings: dict[str, Any] = dict(locals())
    del settings["window"], settings["hop"], settings["quiet"]
    return AudioFrontEnd(Scalogram(**settings), window, hop, quiet)
