"""Log-mel spectrograms in numpy: the front end of record.

An artifact stores a front end as settings, and this file is what they mean; tests hold it to librosa, and the
torch twin (`sentio.audio.torch_frontend`) to it. Only numpy is needed. Where SciPy is installed its FFT is
used, which is faster: it transforms several frames at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sentio.audio.checking import check_samples, is_number, log_mel_problem, make_plain
from sentio.core.errors import ConfigError, InputError

Array = NDArray[Any]

#: samples of windowed frames computed at once: many enough for a call, few enough for the processor's cache
CHUNK = 2**18
#: bands multiplied at once: few enough that they touch few bins, enough that a product is worth a call
BANDS = 16


@dataclass(frozen=True, kw_only=True)
class LogMel:
    """Settings of a log-mel spectrogram, and the function itself: ``LogMel(rate=16000)(samples)``.

    The window is a Hann window; where it is shorter than the FFT it stands in its middle.

    Args:
        rate: samples per second of the input.
        pre_emphasis: comes first, ``y[n] = x[n + 1] - pre_emphasis * x[n]``, which leaves one sample fewer;
            None for none.
        n_fft: length of the FFT, in samples.
        win_length: length of the window, in samples; ``n_fft`` if None.
        symmetric: the window ends on zero as it begins; if False it is periodic, one sample short of that.
        hop_length: distance of frames, in samples.
        n_mels: number of mel bands.
        f_min, f_max: lower and upper edge of the bands, in hertz; ``f_max`` is half the rate if None.
        mel_scale: "slaney" (linear below 1 kHz; Slaney, Auditory Toolbox, 1998) or "htk" (O'Shaughnessy,
            1987).
        triangles: axis on which a band's filter is a triangle, "hertz" or, as in Kaldi, "mel".
        norm: "slaney" divides each band's filter by its width in hertz; "sum" by the sum of its weights, as
            in Essentia, so that a band is a mean over bins; None leaves its peak at 1.
        power: 2.0 sums powers in each band, 1.0 magnitudes.
        center: frame ``t`` is centred at sample ``t * hop_length``, the clip padded by half an FFT on either
            side; if False it starts there and nothing is padded.
        frames_of: what must fit into the clip where nothing is padded, a whole "fft" or, as in Kaldi, a
            "window".
        drop_last: with ``center``, leave out the last frame, so that a second gives ``rate / hop_length``.
        pad_mode: "constant" (zeros) or "reflect".
        log: "db" gives decibels, ``10 log10(power)`` or ``20 log10(magnitude)``; "ln" gives
            ``ln(mel + offset)``, and "ln-floor" ``ln(max(mel, floor))`` with the floor of "db".
        ref: what 0 dB is: "one", or "max", the clip's own maximum, so that loudness does not matter.
        amin: floor of "db" and "ln-floor", as a power (so 1e-10 is -100 dB with either ``power``).
        top_db: with "db", raise what is more than this below the clip's maximum; None leaves it.
        offset: what "ln" adds before the logarithm.
        frame_peak: divide each frame by its own largest absolute value.
        mean, std: applied last, ``(x - mean) / std``; numbers, or one per band; None for neither.

    Raises:
        ConfigError: a setting is not possible, or two do not fit each other.
    """

    NAME: ClassVar[str] = "log-mel"
    #: where a recording shorter than a window stands in it
    CENTRED: ClassVar[bool] = False

    rate: int = 32_000
    n_fft: int = 1024
    win_length: int | None = None
    hop_length: int = 320
    n_mels: int = 64
    f_min: float = 0.0
    f_max: float | None = None
    mel_scale: Literal["slaney", "htk"] = "slaney"
    norm: Literal["slaney", "sum"] | None = "slaney"
    power: float = 2.0
    center: bool = True
    pad_mode: Literal["constant", "reflect"] = "constant"
    log: Literal["db", "ln", "ln-floor"] = "db"
    ref: Literal["one", "max"] = "one"
    amin: float = 1e-10
    top_db: float | None = None
    offset: float = 1e-5
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    pre_emphasis: float | None = None
    symmetric: bool = False
    triangles: Literal["hertz", "mel"] = "hertz"
    frames_of: Literal["fft", "window"] = "fft"
    drop_last: bool = False
    frame_peak: bool = False

    def __post_init__(self) -> None:
        make_plain(self)
        # What was left open is filled in, so that stored settings say everything.
        if self.win_length is None:
            object.__setattr__(self, "win_length", self.n_fft)
        if self.f_max is None and is_number(self.rate):
            object.__setattr__(self, "f_max", self.rate / 2)
        problem = log_mel_problem(self)
        if problem:
            raise ConfigError(f"Log-mel settings: {problem}")

    def frames(self, samples: int) -> int:
        """How many time frames that many samples give; 0 where they are too few for one."""
        samples = samples - int(self.pre_emphasis is not None)
        padded = samples + 2 * (self.n_fft // 2) if self.center else samples
        if samples < int(self.center) or padded < self._frame_length:
            return 0
        frames = 1 + (padded - self._frame_length) // self.hop_length
        return max(1, frames - 1) if self.drop_last else frames

    def shape(self, samples: int) -> tuple[int, int]:
        """The features' shape for that many samples: ``(time, mel)``."""
        return self.frames(samples), self.n_mels

    def __call__(self, samples: Array) -> Array:
        """Log-mel spectrograms of clips.

        Args:
            samples: float32 or float64 at ``rate``, shape ``(..., time)``.

        Returns:
            Shape ``(..., time, mel)``, of the samples' type; all arithmetic is done in that type.

        Raises:
            InputError: the samples are of another type, or too few for one frame.
        """
        return log_mel(self, samples, _library())

    def check_length(self, samples: int) -> None:
        """Raise an `InputError` if clips of that many samples are too short for one frame."""
        least = 1 if self.center else self._frame_length
        if self.center and self.pad_mode == "reflect":
            least = self.n_fft // 2 + 1
        least += int(self.pre_emphasis is not None)
        if samples < least:
            raise InputError(f"A clip of {samples} samples is too short: the front end needs {least}")

    @property
    def _frame_length(self) -> int:
        """Samples of one frame."""
        whole = self.center or self.frames_of == "fft"
        return self.n_fft if whole else _window_length(self)

    def _logarithm(self, mel: Array, tables: _Tables) -> Array:
        if self.log == "ln":
            mel += self.offset
            np.log(mel, out=mel)
        else:
            np.maximum(mel, self.amin ** (self.power / 2), out=mel)
            if self.log == "ln-floor":
                np.log(mel, out=mel)
            else:
                np.log10(mel, out=mel)
                mel *= 20 / self.power
            if self.ref == "max":
                mel -= mel.max(axis=(-2, -1), keepdims=True)
            if self.top_db is not None:
                np.maximum(mel, mel.max(axis=(-2, -1), keepdims=True) - self.top_db, out=mel)
        if self.frame_peak:
            peak = np.abs(mel).max(axis=-1, keepdims=True)
            mel /= np.where(peak > 0, peak, 1)
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

    Band ``m`` rises from edge ``m`` to edge ``m + 1`` and falls to edge ``m + 2``, in a straight line over
    hertz or over mel; edges lie evenly on the mel scale. Warns where a band is so narrow that it falls
    between two bins and stays empty.
    """
    f_max = settings.f_max or settings.rate / 2
    ends = hz_to_mel(np.array([settings.f_min, f_max]), settings.mel_scale)
    in_mel = np.linspace(ends[0], ends[1], settings.n_mels + 2)
    edges = in_hertz = mel_to_hz(in_mel, settings.mel_scale)
    bins = np.arange(settings.n_fft // 2 + 1) * settings.rate / settings.n_fft
    if settings.triangles == "mel":
        edges, bins = in_mel, hz_to_mel(bins, settings.mel_scale)
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
        filters *= 2.0 / (in_hertz[2:, None] - in_hertz[:-2, None])
    elif settings.norm == "sum":
        sums = filters.sum(axis=1, keepdims=True)
        filters /= np.where(sums > 0, sums, 1.0)
    return filters


def hann_window(length: int, *, symmetric: bool = False) -> Array:
    """The Hann window, periodic or symmetric, float64, shape ``(length,)``."""
    period = max(1, length - 1) if symmetric else length
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / period)


class Library(NamedTuple):
    """What most of the time is spent in, as a library has it that is there anyway."""

    #: frames ``(time, window)`` times a window, into the third
    multiply: Callable[[Array, Array, Array], object]
    #: the FFT of real frames ``(time, n_fft)`` over their last axis
    rfft: Callable[[Array], Array]


def log_mel(settings: LogMel, samples: Array, library: Library) -> Array:
    """What ``settings(samples)`` gives, by way of another library than numpy and SciPy."""
    samples = check_samples(samples)
    settings.check_length(samples.shape[-1] if samples.ndim else 0)
    clips = samples.reshape(-1, samples.shape[-1])
    tables = _tables(settings, samples.dtype)
    mel = np.empty((len(clips), settings.frames(clips.shape[1]), settings.n_mels), samples.dtype)
    for clip, out in zip(clips, mel, strict=True):
        _mel_spectrogram(settings, tables, clip, out, library)
    return settings._logarithm(mel, tables).reshape(*samples.shape[:-1], *mel.shape[1:])


def log_mel_frames(settings: LogMel, frames: Array) -> Array:
    """The bands of frames that are cut out already, pre-emphasis done: ``(..., time, window)`` to
    ``(..., time, mel)``, of the frames' type. What depends on a whole clip is that of these frames.
    """
    tables = _tables(settings, frames.dtype)
    flat = frames.reshape(-1, frames.shape[-1])
    mel = np.empty((len(flat), settings.n_mels), frames.dtype)
    _bands(settings, tables, flat, mel, _library())
    return settings._logarithm(mel.reshape(*frames.shape[:-1], settings.n_mels), tables)


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
    window = hann_window(_window_length(settings), symmetric=settings.symmetric)
    return _Tables(window.astype(dtype), tuple(bands), mean, std)


def _mel_spectrogram(settings: LogMel, tables: _Tables, clip: Array, out: Array, library: Library) -> None:
    """Band powers (or magnitudes) of one clip ``(time,)`` into ``out``, shape ``(time, mel)``."""
    length = _window_length(settings)
    if settings.pre_emphasis is not None:
        clip = clip[1:] - clip.dtype.type(settings.pre_emphasis) * clip[:-1]
    # The window stands in the middle of its frame; where in the FFT only turns phases, so the windowed
    # samples go to its start and the rest stays zero.
    padded = _padded(settings, clip)[(settings._frame_length - length) // 2 :]
    assert (len(out) - 1) * settings.hop_length + length <= len(padded)
    step = padded.strides[0]
    strides = (settings.hop_length * step, step)
    frames = np.lib.stride_tricks.as_strided(padded, (len(out), length), strides)
    _bands(settings, tables, frames, out, library)


def _bands(settings: LogMel, tables: _Tables, frames: Array, out: Array, library: Library) -> None:
    """Band powers (or magnitudes) of as many frames ``(time, window)`` as ``out`` has."""
    size = max(1, CHUNK // settings.n_fft)
    room = np.empty((min(size, len(out)), settings.n_fft), out.dtype)
    length = frames.shape[1]
    room[:, length:] = 0
    for start in range(0, len(out), size):
        count = min(size, len(out) - start)
        library.multiply(frames[start : start + count], tables.window, room[:count, :length])
        spectrum = library.rfft(room[:count])
        power = np.square(spectrum.real)
        power += np.square(spectrum.imag)
        if settings.power == 1:
            np.sqrt(power, out=power)
        # numpy before 2.0 computes every FFT in double precision.
        power = power.astype(out.dtype, copy=False)
        for band in tables.bands:
            np.matmul(power[:, band.bins], band.filters, out=out[start : start + count, band.mels])


def _padded(settings: LogMel, clip: Array) -> Array:
    if not settings.center:
        return clip
    half = settings.n_fft // 2
    padded = np.empty(len(clip) + 2 * half, clip.dtype)
    padded[half : half + len(clip)] = clip
    reflect = settings.pad_mode == "reflect" and half
    padded[:half] = clip[half:0:-1] if reflect else 0
    padded[half + len(clip) :] = clip[-2 : -half - 2 : -1] if reflect else 0
    return padded


@lru_cache(maxsize=1)
def _library() -> Library:
    """numpy, with SciPy's FFT where there is one."""
    try:
        from scipy.fft import rfft
    except ModuleNotFoundError:
        from numpy.fft import rfft
    return Library(np.multiply, rfft)


def _window_length(settings: LogMel) -> int:
    return settings.win_length or settings.n_fft
