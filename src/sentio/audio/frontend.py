"""Log-mel spectrograms in numpy: the front end of record.

An artifact stores a front end as settings, and this file is what they mean; tests hold it to librosa, and the
torch twin (`sentio.audio.torch_frontend`) to it. Only numpy is needed. Where SciPy is installed its FFT is
used, which is faster: it transforms several frames at once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError, InputError

Array = NDArray[Any]

#: the smallest floor that float32 still tells from zero after scaling
SMALLEST_FLOOR = 1e-30
#: samples of windowed frames computed at once, so that a chunk stays in the processor's cache
CHUNK = 2**17
#: bands multiplied at once: few enough that they touch few bins, enough that a product is worth a call
BANDS = 16


@dataclass(frozen=True, kw_only=True)
class LogMel:
    """Settings of a log-mel spectrogram, and the function itself: ``LogMel(rate=16000)(samples)``.

    The window is a periodic Hann window; where it is shorter than the FFT it stands in its middle.

    Args:
        rate: samples per second of the input.
        n_fft: length of the FFT, in samples.
        win_length: length of the window, in samples; ``n_fft`` if None.
        hop_length: distance of frames, in samples.
        n_mels: number of mel bands.
        f_min, f_max: lower and upper edge of the bands, in hertz; ``f_max`` is half the rate if None.
        mel_scale: "slaney" (linear below 1 kHz; Slaney, Auditory Toolbox, 1998) or "htk" (O'Shaughnessy,
            1987).
        norm: "slaney" divides each band's filter by its width in hertz; None leaves its peak at 1.
        power: 2.0 sums powers in each band, 1.0 magnitudes.
        center: frame ``t`` is centred at sample ``t * hop_length``, the clip padded by half an FFT on either
            side; if False it starts there and nothing is padded.
        pad_mode: "constant" (zeros) or "reflect".
        log: "db" gives decibels, ``10 log10(power)`` or ``20 log10(magnitude)``; "ln" gives
            ``ln(mel + offset)``.
        ref: what 0 dB is: "one", or "max", the clip's own maximum, so that loudness does not matter.
        amin: floor of "db", as a power (so 1e-10 is -100 dB with either ``power``).
        top_db: with "db", raise what is more than this below the clip's maximum; None leaves it.
        offset: what "ln" adds before the logarithm.
        mean, std: applied last, ``(x - mean) / std``; numbers, or one per band; None for neither.

    Raises:
        ConfigError: a setting is not possible, or two do not fit each other.
    """

    rate: int = 32_000
    n_fft: int = 1024
    win_length: int | None = None
    hop_length: int = 320
    n_mels: int = 64
    f_min: float = 0.0
    f_max: float | None = None
    mel_scale: Literal["slaney", "htk"] = "slaney"
    norm: Literal["slaney"] | None = "slaney"
    power: float = 2.0
    center: bool = True
    pad_mode: Literal["constant", "reflect"] = "constant"
    log: Literal["db", "ln"] = "db"
    ref: Literal["one", "max"] = "one"
    amin: float = 1e-10
    top_db: float | None = None
    offset: float = 1e-5
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        # What was left open is filled in, so that stored settings say everything.
        if self.win_length is None:
            object.__setattr__(self, "win_length", self.n_fft)
        if self.f_max is None:
            object.__setattr__(self, "f_max", self.rate / 2)
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, list | np.ndarray):
                object.__setattr__(self, name, tuple(float(entry) for entry in value))
        problem = _problem(self)
        if problem:
            raise ConfigError(f"Log-mel settings: {problem}")

    def frames(self, samples: int) -> int:
        """How many time frames that many samples give; 0 where they are too few for one."""
        padded = samples + 2 * (self.n_fft // 2) if self.center else samples
        return 1 + (padded - self.n_fft) // self.hop_length if padded >= self.n_fft else 0

    def __call__(self, samples: Array) -> Array:
        """Log-mel spectrograms of clips.

        Args:
            samples: float32 or float64 at ``rate``, shape ``(..., time)``.

        Returns:
            Shape ``(..., time, mel)``, of the samples' type; all arithmetic is done in that type.

        Raises:
            InputError: the samples are of another type, or too few for one frame.
        """
        samples = np.asarray(samples)
        if samples.dtype not in (np.float32, np.float64):
            raise InputError(
                f"The front end takes float32 or float64 samples, got {samples.dtype}; "
                "sentio.audio.io.from_array converts them"
            )
        self.check_length(samples.shape[-1] if samples.ndim else 0)
        clips = samples.reshape(-1, samples.shape[-1])
        tables = _tables(self, samples.dtype)
        mel = np.empty((len(clips), self.frames(clips.shape[1]), self.n_mels), samples.dtype)
        for clip, out in zip(clips, mel, strict=True):
            _mel_spectrogram(self, tables, clip, out)
        return self._logarithm(mel, tables).reshape(*samples.shape[:-1], *mel.shape[1:])

    def check_length(self, samples: int) -> None:
        """Raise an `InputError` if clips of that many samples are too short for one frame."""
        least = 1 if self.center else self.n_fft
        if self.center and self.pad_mode == "reflect":
            least = self.n_fft // 2 + 1
        if samples < least:
            raise InputError(f"A clip of {samples} samples is too short: the front end needs {least}")

    def _logarithm(self, mel: Array, tables: _Tables) -> Array:
        if self.log == "ln":
            mel += self.offset
            np.log(mel, out=mel)
        else:
            np.maximum(mel, self.amin ** (self.power / 2), out=mel)
            np.log10(mel, out=mel)
            mel *= 20 / self.power
            if self.ref == "max":
                mel -= mel.max(axis=(-2, -1), keepdims=True)
            if self.top_db is not None:
                np.maximum(mel, mel.max(axis=(-2, -1), keepdims=True) - self.top_db, out=mel)
        if tables.mean is not None:
            mel -= tables.mean
            mel /= tables.std
        return mel


def hz_to_mel(hertz: Array, scale: str) -> Array:
    """Frequencies in mel, on the "slaney" or the "htk" scale."""
    hertz = np.asarray(hertz, dtype=np.float64)
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hertz / 700.0)
    # 3 mel for every 200 Hz up to 1 kHz, then 27 mel for every factor of 6.4.
    above = 15.0 + 27.0 * np.log(np.maximum(hertz, 1000.0) / 1000.0) / np.log(6.4)
    return np.where(hertz < 1000.0, hertz * 3.0 / 200.0, above)


def mel_to_hz(mel: Array, scale: str) -> Array:
    """The inverse of `hz_to_mel`."""
    mel = np.asarray(mel, dtype=np.float64)
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    above = 1000.0 * np.exp(np.log(6.4) * (np.maximum(mel, 15.0) - 15.0) / 27.0)
    return np.where(mel < 15.0, mel * 200.0 / 3.0, above)


def mel_filters(settings: LogMel) -> Array:
    """The bands' triangular filters, float64, shape ``(mel, frequency)`` with ``n_fft // 2 + 1`` bins.

    Band ``m`` rises from edge ``m`` to edge ``m + 1`` and falls to edge ``m + 2``; edges lie evenly on the
    mel scale. Warns where a band is so narrow that it falls between two bins and stays empty.
    """
    f_max = settings.f_max or settings.rate / 2
    ends = hz_to_mel(np.array([settings.f_min, f_max]), settings.mel_scale)
    edges = mel_to_hz(np.linspace(ends[0], ends[1], settings.n_mels + 2), settings.mel_scale)
    bins = np.arange(settings.n_fft // 2 + 1) * settings.rate / settings.n_fft
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - lower) / (centre - lower), (upper - bins) / (upper - centre)
    filters: Array = np.maximum(0.0, np.minimum(rising, falling))
    empty = int(np.count_nonzero(filters.max(axis=1) == 0))
    if empty:
        warnings.warn(
            f"{empty} of the {settings.n_mels} mel bands are empty: they lie between bins of the "
            f"{settings.n_fft}-point FFT; use a longer FFT or fewer bands",
            stacklevel=2,
        )
    if settings.norm == "slaney":
        filters *= 2.0 / (upper - lower)
    return filters


def hann_window(length: int) -> Array:
    """The periodic Hann window, float64, shape ``(length,)``."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


class _Band(NamedTuple):
    """Neighbouring mel bands, the bins they touch, and their filters ``(bin, mel)``."""

    mels: slice
    bins: slice
    filters: Array


class _Tables(NamedTuple):
    window: Array
    bands: tuple[_Band, ...]
    mean: Array | None
    std: Array | None


@lru_cache(maxsize=32)
def _tables(settings: LogMel, dtype: np.dtype[Any]) -> _Tables:
    filters = mel_filters(settings)
    bands = []
    for start in range(0, settings.n_mels, BANDS):
        block = filters[start : start + BANDS]
        touched = np.flatnonzero(block.any(axis=0))
        bins = slice(touched[0], touched[-1] + 1) if len(touched) else slice(0, 1)
        bands.append(_Band(slice(start, start + len(block)), bins, block[:, bins].T.astype(dtype)))
    mean, std = (None if v is None else np.asarray(v, dtype) for v in (settings.mean, settings.std))
    return _Tables(hann_window(_window_length(settings)).astype(dtype), tuple(bands), mean, std)


def _mel_spectrogram(settings: LogMel, tables: _Tables, clip: Array, out: Array) -> None:
    """Band powers (or magnitudes) of one clip ``(time,)`` into ``out``, shape ``(time, mel)``."""
    n_fft, length = settings.n_fft, _window_length(settings)
    # The window stands in the middle of the FFT's frame; where in the frame only turns phases, so the
    # windowed samples go to its start and the rest stays zero.
    padded = _padded(settings, clip)[(n_fft - length) // 2 :]
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[:: settings.hop_length]
    rfft = _rfft()
    size = max(1, CHUNK // n_fft)
    buffer = np.zeros((min(size, len(out)), n_fft), clip.dtype)
    for start in range(0, len(out), size):
        count = min(size, len(out) - start)
        np.multiply(frames[start : start + count], tables.window, out=buffer[:count, :length])
        spectrum = rfft(buffer[:count])
        power = np.square(spectrum.real)
        power += np.square(spectrum.imag)
        if settings.power == 1:
            np.sqrt(power, out=power)
        # numpy before 2.0 computes every FFT in double precision.
        power = power.astype(clip.dtype, copy=False)
        for band in tables.bands:
            np.matmul(power[:, band.bins], band.filters, out=out[start : start + count, band.mels])


def _padded(settings: LogMel, clip: Array) -> Array:
    if not settings.center:
        return clip
    half = settings.n_fft // 2
    padded = np.zeros(len(clip) + 2 * half, clip.dtype)
    padded[half : half + len(clip)] = clip
    if settings.pad_mode == "reflect" and half:
        padded[:half] = clip[half:0:-1]
        padded[-half:] = clip[-2 : -half - 2 : -1]
    return padded


@lru_cache(maxsize=1)
def _rfft() -> Callable[[Array], Array]:
    """An FFT over the last axis of real frames."""
    try:
        from scipy.fft import rfft
    except ModuleNotFoundError:
        from numpy.fft import rfft
    found: Callable[[Array], Array] = rfft
    return found


def _window_length(settings: LogMel) -> int:
    return settings.win_length or settings.n_fft


def _problem(s: LogMel) -> str | None:
    """The first thing that is wrong with settings, as half a sentence."""
    for name in ("rate", "n_fft", "win_length", "hop_length", "n_mels"):
        value = getattr(s, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return f"{name} must be a whole number above 0, got {value!r}"
    for name in ("f_min", "f_max", "power", "amin", "offset"):
        if not _is_number(getattr(s, name)):
            return f"{name} must be a number, got {getattr(s, name)!r}"
    if _window_length(s) > s.n_fft:
        return f"win_length {s.win_length} is longer than n_fft {s.n_fft}; raise n_fft or shorten the window"
    if s.n_fft < 2:
        return "n_fft must be at least 2"
    if not 0 <= s.f_min < (s.f_max or 0.0) <= s.rate / 2:
        return (
            f"the bands must lie between 0 and half the rate ({s.rate / 2:g} Hz), lower edge first, "
            f"got f_min {s.f_min:g} and f_max {s.f_max:g}"
        )
    choices: dict[str, tuple[Any, ...]] = {
        "mel_scale": ("slaney", "htk"),
        "norm": ("slaney", None),
        "power": (1.0, 2.0),
        "center": (True, False),
        "pad_mode": ("constant", "reflect"),
        "log": ("db", "ln"),
    }
    for name, allowed in choices.items():
        if getattr(s, name) not in allowed:
            return f"{name} must be {' or '.join(map(repr, allowed))}, got {getattr(s, name)!r}"
    name = "amin" if s.log == "db" else "offset"
    if getattr(s, name) < SMALLEST_FLOOR:
        return f"{name} must be at least {SMALLEST_FLOOR:g}, so that silence has a finite logarithm"
    if s.ref not in ("one", "max") or (s.ref == "max" and s.log == "ln"):
        return f"ref must be 'one', or with log 'db' 'max', got {s.ref!r} with {s.log!r}"
    if s.top_db is not None and (s.log == "ln" or not _is_number(s.top_db) or s.top_db <= 0):
        return f"top_db goes with log 'db' and must be above 0, got {s.top_db!r} with {s.log!r}"
    return _standardisation_problem(s)


def _standardisation_problem(s: LogMel) -> str | None:
    if (s.mean is None) != (s.std is None):
        return "mean and std belong together: give both or neither"
    for name, value in (("mean", s.mean), ("std", s.std)):
        if value is None:
            continue
        entries = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) and len(value) != s.n_mels:
            return f"{name} needs one number, or one per band ({s.n_mels}), got {len(value)}"
        if not all(_is_number(entry) and (name == "mean" or entry > 0) for entry in entries):
            return f"{name} must hold finite numbers{'' if name == 'mean' else ' above 0'}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
