"""The waveform itself as features, for networks with a filter bank of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sentio.audio.checking import check_samples, counts_problem, make_plain
from sentio.audio.windows import AudioFrontEnd
from sentio.core.errors import ConfigError, InputError
from sentio.core.registry import register


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """Settings of a waveform, and the function itself: ``Waveform(rate=16000)(samples)``.

    Args:
        rate: samples per second of the input.
        peak: divide a window by its largest absolute value, so that loudness does not matter; silence stays.

    Raises:
        ConfigError: a setting is not possible.
    """

    NAME: ClassVar[str] = "waveform"
    CENTRED: ClassVar[bool] = True
    #: the step between two numbers of the features, in samples
    hop_length: ClassVar[int] = 1

    rate: int = 16_000
    peak: bool = True

    def __post_init__(self) -> None:
        make_plain(self)
        problem = counts_problem(self, ("rate",))
        if problem is None and self.peak not in (True, False):
            problem = f"peak must be True or False, got {self.peak!r}"
        if problem:
            raise ConfigError(f"Waveform settings: {problem}")

    def shape(self, samples: int) -> tuple[int]:
        """The features' shape for that many samples: ``(time,)``."""
        return (samples,)

    def check_length(self, samples: int) -> None:
        """Raise an `InputError` if there is not one sample."""
        if samples < 1:
            raise InputError(f"A clip of {samples} samples is too short: the front end needs 1")

    def __call__(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Scaled clips: float32 or float64 ``(..., time)`` to the same shape and type.

        Raises:
            InputError: the samples are of another type, or there are none.
        """
        samples = check_samples(samples)
        self.check_length(samples.shape[-1] if samples.ndim else 0)
        if not self.peak:
            return samples.copy()
        peak = np.abs(samples).max(axis=-1, keepdims=True)
        scaled: NDArray[Any] = samples / np.where(peak > 0, peak, 1)
        return scaled


@register("frontend", "waveform")
def waveform_windows(
    *,
    window: float = 4.0,
    hop: float | None = None,
    quiet: float | None = None,
    rate: int = Waveform.rate,
    peak: bool = Waveform.peak,
) -> AudioFrontEnd:
    """The samples of windows of a recording, each scaled to its peak, for `phinet-1d`.

    A recording shorter than a window stands in its middle, with zeros on either side. The defaults are those
    of PhiNet 1D (Paissan et al., ICASSP 2022).

    Args:
        window, hop, quiet: length and distance of windows in seconds, and what is silent, see
            `AudioFrontEnd`.
        rate, peak: the settings of `Waveform`.

    Raises:
        ConfigError: a setting is not possible.
    """
    return AudioFrontEnd(Waveform(rate=rate, peak=peak), window, hop, quiet)
