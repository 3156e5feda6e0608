"""Log-mel frames of streams of samples in numpy, as the front end of record computes those of a clip.

The twin for PyTorch is `sentio.audio.streaming_frontend`; both give the frames of a clip that never ends.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from sentio.audio.frontend import LogMel, log_mel_frames
from sentio.core.errors import ConfigError, InputError

#: samples of each stream: what comes from a stranger must not fill the memory
MOST_KEPT = 1 << 26


def stream_problem(settings: LogMel) -> str | None:
    """Why frames cannot be made while samples come, as half a sentence; None if they can."""
    if settings.log == "db" and (settings.ref == "max" or settings.top_db is not None):
        return "ref='max' and top_db measure by the loudest moment of the clip; use a fixed reference"
    if settings.center and settings.pad_mode != "constant":
        return (
            f"center=True with pad_mode={settings.pad_mode!r} mirrors samples that have not come yet; "
            "use center=False or pad_mode='constant'"
        )
    return None


def frame_span(settings: LogMel) -> tuple[int, int]:
    """Samples that frame ``t`` reads, and how many of them lie before sample ``t * hop_length``.

    With pre-emphasis both are of emphasised samples, of which each needs the sample after it too.
    """
    span = settings.win_length or settings.n_fft
    lead = 0 if settings.frames_of == "window" else (settings.n_fft - span) // 2
    return span, (settings.n_fft // 2 if settings.center else 0) - lead


class LogMelStream:
    """Frames of many streams, a whole number of them at each step.

    It holds no state: the last samples of each stream go in and come out. Frame ``t`` of a stream is frame
    ``t`` of a clip of all its samples, but for the clip's last ones: they see padding where a stream goes on.

    Args:
        settings: of the front end.
        frames: of a step.

    Raises:
        ConfigError: the settings need the whole clip, or too much would be kept.
    """

    def __init__(self, settings: LogMel, frames: int) -> None:
        problem = stream_problem(settings)
        if problem is not None:
            raise ConfigError(f"The front end {settings.NAME!r} cannot run on a stream: {problem}")
        self.settings, self.frames = settings, frames
        span, before = frame_span(settings)
        # An emphasised sample needs the one after it, so it is a sample late.
        early = int(settings.pre_emphasis is not None)
        late = max(0, ceil((early + span - before) / settings.hop_length) - 1)
        self._span, self._early = span, early
        #: steps before the first whose frames are valid; that one begins with frame 0
        self.warm_up = ceil(late / frames)
        #: samples that must have come after the one a frame begins at, before it is given
        self.delay = max(0, early + span - before - 1)
        kept = self.warm_up * frames * settings.hop_length + before
        self.keep, self._skip = max(0, kept), max(0, -kept)
        if self.keep > MOST_KEPT:
            raise ConfigError(
                f"The front end {settings.NAME!r} would keep {self.keep:,} samples of each stream, more than "
                f"{MOST_KEPT:,}; take fewer frames at a step"
            )

    @property
    def rate(self) -> int:
        """Of the samples, in hertz."""
        return self.settings.rate

    @property
    def hop(self) -> int:
        """Samples of a step."""
        return self.frames * self.settings.hop_length

    @property
    def shape(self) -> tuple[int, int]:
        """Of what a step gives for each stream, ``(time, frequency)``."""
        return self.frames, self.settings.n_mels

    def start(self, batch: int = 1) -> NDArray[np.float32]:
        """The samples before streams that have not begun: silence, ``(batch, keep)``."""
        return np.zeros((batch, self.keep), np.float32)

    def step(
        self, samples: NDArray[np.float32], kept: NDArray[np.float32], steps: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The frames that the next samples bring.

        Args:
            samples: the next ``hop`` of each stream, float32 ``(batch, hop)``.
            kept: what the last step gave, ``(batch, keep)``; it is not changed.
            steps: that each stream has taken, ``(batch,)``. Frames are valid from ``warm_up`` on.

        Returns:
            frames ``(batch, frames, frequency)``, and the samples to keep.

        Raises:
            InputError: arrays of other sizes.
        """
        if samples.shape[1:] != (self.hop,) or kept.shape != (len(samples), self.keep):
            raise InputError(
                f"A step takes {self.hop} samples of each stream and the {self.keep} before them; got shapes "
                f"{samples.shape} and {kept.shape}"
            )
        heard = np.concatenate((kept, samples), axis=1)
        after = heard[:, heard.shape[1] - self.keep :]
        if self._early:
            emphasis = np.float32(self.settings.pre_emphasis)
            emphasised = heard[:, 1:] - emphasis * heard[:, :-1]
            # Nothing is there before the second sample of a stream, where a clip is padded.
            age = steps[:, None] * self.hop - self.keep + np.arange(emphasised.shape[1])
            heard = np.where(age < 0, np.float32(0), emphasised)
        wanted = self.hop - self.settings.hop_length + self._span
        window = heard[:, self._skip : self._skip + wanted]
        cut = np.lib.stride_tricks.sliding_window_view(window, self._span, axis=1)
        frames = cut[:, :: self.settings.hop_length]
        return log_mel_frames(self.settings, frames), np.ascontiguousarray(after)
