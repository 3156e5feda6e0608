"""The audio front end: a recording in, windows of features out.

How a recording is cut: windows start every ``hop`` seconds as long as they fit; where the last of them does
not reach the end of the recording, one more is put so that it ends there; a rest shorter than the step of
the frames, which no frame would show, is left out. So nothing is padded and all is heard (by a ``hop`` no
longer than the window). Only a recording shorter than one window is padded, with zeros at its end, or on
either side where its features say so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from os import PathLike
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from sentio.audio.checking import is_number
from sentio.audio.frontend import LogMel
from sentio.audio.io import Sound, from_array, read, resample, to_mono
from sentio.audio.log_mel_stream import LogMelStream
from sentio.audio.presets import with_presets
from sentio.core.anytime import MAIN
from sentio.core.errors import ConfigError, InputError
from sentio.core.features import Prepared
from sentio.core.registry import register

#: peak below which a window counts as silent: -80 dB re full scale
SILENT_PEAK = 1e-4


class Features(Protocol):
    """What makes features of a clip: a frozen dataclass of settings."""

    #: name of the front end in the registry
    NAME: ClassVar[str]
    #: whether a recording shorter than a window stands in its middle, and not at its start
    CENTRED: ClassVar[bool]
    rate: int
    hop_length: int

    def shape(self, samples: int) -> tuple[int, ...]:
        """The features' shape for that many samples."""
        ...

    def check_length(self, samples: int) -> None:
        """Raise an `InputError` where that is too short."""
        ...

    def __call__(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Samples ``(time,)`` to features."""
        ...


@dataclass(frozen=True)
class AudioFrontEnd:
    """Features of windows; implements `sentio.core.features.FrontEnd`.

    Args:
        features: what they are, `LogMel`, `Scalogram` or `Waveform`.
        window: length of a window in seconds.
        hop: distance of windows in seconds where nothing else is asked for; the window's length if None. A
            shorter one gives training more windows, and answers that are the mean of more of them.
        quiet: a window whose peak is this many dB below the recording's counts as silent too: between the
            barks of a dog there is nothing to learn or to say. None for no such rule.

    Raises:
        ConfigError: the window is too short for one frame, or the hop or ``quiet`` is not above 0.
    """

    features: Any  # a `Features`
    window: float
    hop: float | None = None
    quiet: float | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.window, int | float) and math.isfinite(self.window) and self.window > 0):
            raise ConfigError(f"window must be a number of seconds above 0, got {self.window!r}")
        try:
            self.features.check_length(self.window_samples)
        except InputError as error:
            raise ConfigError(f"window of {self.window} s is too short: {error}") from error
        if self.hop is not None:
            _samples(self.hop, self.features.rate)
        if self.quiet is not None and not (is_number(self.quiet) and self.quiet > 0):
            raise ConfigError(f"quiet must be a number of decibels above 0, got {self.quiet!r}")

    @property
    def name(self) -> str:
        """The name by which the registry builds it."""
        name: str = self.features.NAME
        return name

    @property
    def log_mel(self) -> Any:
        """The features, by the name they had when all were log-mel."""
        return self.features

    @property
    def window_samples(self) -> int:
        return round(self.window * self.features.rate)

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The features' shape: ``(1, time, frequency)``, of a waveform ``(1, time)``."""
        return {MAIN: (1, *self.features.shape(self.window_samples))}

    def frames_of_streams(self, frames: int) -> LogMelStream:
        """The front end on streams of samples, some frames at a step.

        Raises:
            ConfigError: the features need a whole clip, or are no log-mels.
        """
        if not isinstance(self.features, LogMel):
            raise ConfigError(
                f"The front end {self.name!r} makes no frames of samples as they come; only 'log-mel' does"
            )
        return LogMelStream(self.features, frames)

    def settings(self) -> dict[str, Any]:
        """Plain values that the builder of this name takes as options, fit for JSON."""
        values = {"window": self.window, "hop": self.hop, "quiet": self.quiet, **asdict(self.features)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def prepare(self, source: Any, *, hop: float | None = None) -> Prepared:
        """Features of a recording's windows.

        Args:
            source: the path of a sound file, a `Sound`, or ``(samples, rate)`` with samples as for
                `sentio.audio.io.from_array`. Any rate and number of channels: it is mixed to mono and
                resampled.
            hop: distance of windows in seconds; the front end's own if None.

        Returns:
            Inputs float32, ``(window, 1, time, frequency)``, of a waveform ``(window, 1, time)``.

        Raises:
            InputError: the source cannot be read, or is none.
            ConfigError: the hop is not above 0.
        """
        rate, length = self.features.rate, self.window_samples
        hop = self.hop if hop is None else hop
        step = length if hop is None else _samples(hop, rate)
        sound = self._sound(source)
        heard = sound.samples.shape[-1]
        return self._windows(sound, window_starts(heard, length, step, self.features.hop_length))

    def middle(self, source: Any) -> Prepared:
        """Features of the one window in the middle of a recording; of a short one as `prepare` gives it.

        Args:
            source: as for `prepare`.

        Returns:
            Inputs float32, ``(1, 1, time, frequency)``, of a waveform ``(1, 1, time)``.

        Raises:
            InputError: the source cannot be read, or is none.
        """
        sound = self._sound(source)
        before = max(sound.samples.shape[-1] - self.window_samples, 0) // 2
        return self._windows(sound, np.array([before]), float(np.abs(sound.samples).max()))

    def _windows(self, sound: Sound, starts: NDArray[np.int64], loudest: float = 0.0) -> Prepared:
        """The windows that begin at these samples of a mono sound at the front end's rate.

        ``loudest`` is the peak of what lies beside them, where there is more than they hold.
        """
        rate, length = self.features.rate, self.window_samples
        samples, notes = sound.samples[0], list(sound.notes)
        heard = len(samples)
        if heard < length:
            notes.append(f"The recording of {heard / rate:.3f} s is padded with silence to {self.window:g} s")
            before = (length - heard) // 2 if self.features.CENTRED else 0
            samples = np.pad(samples, (before, length - heard - before))
        features = np.empty((len(starts), *self.input_shapes[MAIN]), np.float32)
        peaks = np.empty(len(starts))
        for index, start in enumerate(starts):
            part = samples[start : start + length]
            features[index, 0] = self.features(part)
            peaks[index] = max(part.max(), -part.min())
        loudest = max(loudest, float(peaks.max()))
        least = 0.0 if self.quiet is None else loudest * 10 ** (-self.quiet / 20)
        silent = peaks < max(SILENT_PEAK, least)
        ends = np.minimum(starts + length, heard)
        return Prepared(features, starts / rate, ends / rate, silent, tuple(notes))

    def _sound(self, source: Any) -> Sound:
        rate = self.features.rate
        if isinstance(source, str | PathLike):
            return read(source, rate=rate, mono=True)
        if isinstance(source, Sound):
            given, earlier = (source.samples, source.rate), source.notes
        elif isinstance(source, tuple) and len(source) == 2:
            given, earlier = source, ()
        else:
            raise InputError(
                f"A recording is a path, a Sound or (samples, rate), got {type(source).__name__}; "
                "give samples together with their rate"
            )
        sound = from_array(*given, what="The recording")
        return resample(to_mono(replace(sound, notes=earlier or sound.notes)), rate)


def window_starts(samples: int, length: int, step: int, rest: int = 1) -> NDArray[np.int64]:
    """First samples of the windows of a recording, as this module cuts it; at least one.

    Args:
        samples, length, step: of the recording, of a window, and between windows, in samples.
        rest: fewer samples than this at the end are left out.
    """
    last = max(samples - length, 0)
    starts = np.arange(0, last + 1, step, dtype=np.int64)
    return starts if last - starts[-1] < rest else np.append(starts, last)


def fit_standardisation(frontend: AudioFrontEnd, sources: Iterable[Any]) -> AudioFrontEnd:
    """A copy that standardises with the mean and deviation of the given recordings' features.

    Measured over all values of all windows, one recording in memory at a time.

    Args:
        frontend: of log-mels or scalograms; a standardisation it has already is replaced.
        sources: training recordings, each as for `AudioFrontEnd.prepare`.

    Raises:
        InputError: there are no recordings, or their features do not vary.
    """
    plain = replace(frontend, features=replace(frontend.features, mean=None, std=None))
    count, mean, squares = 0, 0.0, 0.0
    for source in sources:
        values = plain.prepare(source).inputs.astype(np.float64)
        # The parallel form of Welford's method (Chan et al., 1979): sums of squares would cancel.
        shift = float(values.mean()) - mean
        total = count + values.size
        squares += float(values.var()) * values.size + shift**2 * count * values.size / total
        mean += shift * values.size / total
        count = total
    if not count:
        raise InputError("Standardisation needs at least one recording; none were given")
    std = math.sqrt(squares / count)
    # Nothing but rounding is left where all recordings are silent.
    if std < 1e-6 * max(1.0, abs(mean)):
        raise InputError("Standardisation needs features that vary; every recording given is silent")
    return replace(plain, features=replace(plain.features, mean=mean, std=std))


@register("frontend", "log-mel")
@with_presets
def log_mel_windows(
    *,
    window: float = 1.0,
    hop: float | None = None,
    quiet: float | None = None,
    rate: int = LogMel.rate,
    n_fft: int = LogMel.n_fft,
    win_length: int | None = LogMel.win_length,
    hop_length: int = LogMel.hop_length,
    n_mels: int = LogMel.n_mels,
    f_min: float = LogMel.f_min,
    f_max: float | None = LogMel.f_max,
    mel_scale: str = LogMel.mel_scale,
    norm: str | None = LogMel.norm,
    power: float = LogMel.power,
    center: bool = LogMel.center,
    pad_mode: str = LogMel.pad_mode,
    log: str = LogMel.log,
    ref: str = LogMel.ref,
    amin: float = LogMel.amin,
    top_db: float | None = LogMel.top_db,
    offset: float = LogMel.offset,
    mean: float | list[float] | tuple[float, ...] | None = LogMel.mean,
    std: float | list[float] | tuple[float, ...] | None = LogMel.std,
    pre_emphasis: float | None = LogMel.pre_emphasis,
    symmetric: bool = LogMel.symmetric,
    triangles: str = LogMel.triangles,
    frames_of: str = LogMel.frames_of,
    drop_last: bool = LogMel.drop_last,
    frame_peak: bool = LogMel.frame_peak,
) -> AudioFrontEnd:
    """Log-mel spectrograms of windows of a recording.

    Args:
        preset: name of options in `sentio.audio.presets.PRESETS`, changed by those given beside it.
        window, hop, quiet: length and distance of windows in seconds, and what is silent, see
            `AudioFrontEnd`.
        rate, ...: the settings of `LogMel`.

    Raises:
        ConfigError: a setting is not possible.
    """
    settings: dict[str, Any] = dict(locals())
    del settings["window"], settings["hop"], settings["quiet"]
    return AudioFrontEnd(LogMel(**settings), window, hop, quiet)


def _samples(hop: float, rate: int) -> int:
    if not (isinstance(hop, int | float) and math.isfinite(hop) and hop > 0):
        raise ConfigError(f"hop must be a number of seconds above 0, got {hop!r}")
    return max(1, round(hop * rate))
