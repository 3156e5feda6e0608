"""The video front end: a file in, clips of cropped and normalised frames out.

Frames are taken at even times, each the one that is shown then. The shorter side is scaled (bilinear, pixel
centres aligned, as in the public code of X3D), the middle is cut out, and colours are normalised. A video
that is shorter than a clip stays on its last frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sentio.core.anytime import MAIN
from sentio.core.errors import ConfigError, InputError
from sentio.core.features import Prepared
from sentio.core.registry import register
from sentio.vision.decoding import Frame, frames

#: a clip whose values all lie within this is one colour: there is nothing to see
ONE_COLOUR = 2 / 255
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class VideoFrontEnd:
    """Clips of a video; implements `sentio.core.features.FrontEnd`.

    Args:
        frames: of a clip.
        rate: frames taken per second.
        side: of the square that is cut out of the middle, in pixels.
        short_side: what the shorter side of a frame is scaled to, in pixels; ``side`` if None.
        clips: ``all`` that follow each other, or only the one in the ``centre`` of the video.
        mean, std: of the three colours between 0 and 1: ``(x - mean) / std``.

    Raises:
        ConfigError: a setting is not possible.
    """

    name: ClassVar[str] = "video"

    frames: int = 13
    rate: float = 5.0
    side: int = 160
    short_side: int | None = None
    clips: Literal["all", "centre"] = "all"
    mean: tuple[float, ...] = (0.45, 0.45, 0.45)
    std: tuple[float, ...] = (0.225, 0.225, 0.225)

    def __post_init__(self) -> None:
        for key in ("mean", "std"):
            value = getattr(self, key)
            values = (value,) * 3 if isinstance(value, int | float) else tuple(value)
            object.__setattr__(self, key, values)
        if self.short_side is None:
            object.__setattr__(self, "short_side", self.side)
        problem = _problem(self)
        if problem:
            raise ConfigError(f"Video settings: {problem}")

    @property
    def window(self) -> float:
        """Length of a clip in seconds."""
        return self.frames / self.rate

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """A clip's shape: ``(3, time, height, width)``."""
        return {MAIN: (3, self.frames, self.side, self.side)}

    def settings(self) -> dict[str, Any]:
        """Plain values that the builder takes as options, fit for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    def picture(self, pixels: NDArray[np.uint8]) -> Floats:
        """One frame as a network takes it: RGB uint8 ``(height, width, 3)`` to float32 ``(3, side, side)``.

        What a stream is fed, one at a time.

        Raises:
            InputError: it is no such array.
        """
        if getattr(pixels, "dtype", None) != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise InputError(
                "A frame is RGB, uint8 of shape (height, width, 3), got "
                f"{getattr(pixels, 'dtype', type(pixels).__name__)} {getattr(pixels, 'shape', '')}"
            )
        assert self.short_side is not None
        cut = _scaled_middle(pixels, self.short_side, self.side)
        scaled = (cut / np.float32(255) - np.asarray(self.mean, np.float32)) / np.asarray(
            self.std, np.float32
        )
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32)

    def noise(self) -> tuple[NDArray[np.uint8], float]:
        """Random frames of one window, ``(time, side, side, 3)``, and how many there are in a second."""
        side = max(self.side, self.short_side or 0)
        shape = (self.frames, side, side, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8), self.rate

    def prepare(self, source: Any, *, hop: float | None = None) -> Prepared:
        """Clips of a video.

        Args:
            source: the path of a video file, or ``(frames, rate)`` with frames uint8
                ``(time, height, width, 3)`` and their number per second.
            hop: distance of clips in seconds, rounded to whole frames; a clip's length if None.

        Returns:
            Inputs float32 ``(clip, 3, time, side, side)``. A last clip is put so that it ends with the video.

        Raises:
            InputError: the source cannot be read, or is none.
            ConfigError: the hop is not above 0.
        """
        if hop is not None and not (math.isfinite(hop) and hop > 0):
            raise ConfigError(f"hop must be a number of seconds above 0, got {hop!r}")
        step = self.frames if hop is None else max(1, round(hop * self.rate))
        pictures = np.stack([self.picture(frame.pixels) for frame in self._sampled(_opened(source))], axis=1)
        seen, notes = pictures.shape[1], []
        if seen < self.frames:
            missing = self.frames - seen
            notes.append(
                f"The video of {seen / self.rate:.3f} s stays on its last frame up to {self.window:g} s"
            )
            pictures = np.concatenate((pictures, np.repeat(pictures[:, -1:], missing, 1)), 1)
        last = pictures.shape[1] - self.frames
        starts = [last // 2] if self.clips == "centre" else list(range(0, last + 1, step))
        if self.clips == "all" and starts[-1] < last:
            starts.append(last)
        inputs = np.stack([pictures[:, start : start + self.frames] for start in starts])
        span = inputs * np.asarray(self.std, np.float32)[:, None, None, None]
        flat = span.reshape(len(span), 3, -1)
        silent = (flat.max(2) - flat.min(2)).max(1) <= ONE_COLOUR
        begins = np.asarray(starts) / self.rate
        ends = np.minimum(np.asarray(starts) + self.frames, seen) / self.rate
        return Prepared(inputs, begins, ends, silent, tuple(notes))

    def _sampled(self, shown: Iterable[Frame]) -> Iterator[Frame]:
        """At each of the even times, the frame that is shown then; the first at least."""
        place, current = 0, None
        for frame in shown:
            while current is not None and place / self.rate < frame.start - 1e-6:
                yield current
                place += 1
            current = frame
        while current is not None and (place == 0 or place / self.rate < current.end - 1e-6):
            yield current
            place += 1


def _opened(source: Any) -> Iterator[Frame]:
    if isinstance(source, str | PathLike):
        return frames(source)
    if isinstance(source, tuple) and len(source) == 2:
        pixels, rate = np.asarray(source[0]), source[1]
        if pixels.ndim != 4 or not len(pixels):
            raise InputError(f"Frames have the shape (time, height, width, 3), got {pixels.shape}")
        if not (isinstance(rate, int | float) and math.isfinite(rate) and rate > 0):
            raise InputError(f"The rate of frames is a number above 0, got {rate!r}")
        return (Frame(each, place / rate, (place + 1) / rate) for place, each in enumerate(pixels))
    raise InputError(
        f"A video is a path or (frames, rate), got {type(source).__name__}; give frames with their rate"
    )


def _scaled_middle(pixels: NDArray[np.uint8], short_side: int, side: int) -> Floats:
    """The middle square of a frame scaled to ``short_side``: float32 ``(side, side, 3)`` from 0 to 255.

    Only what is cut out is computed.
    """
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    axes = []
    for length in (height, width):
        scaled = length * short_side // shorter
        first = (scaled - side) // 2
        at = (np.arange(first, first + side) + 0.5) * (length / scaled) - 0.5
        at = np.clip(at, 0, length - 1)
        low = at.astype(np.int64)
        axes.append((low, np.minimum(low + 1, length - 1), (at - low).astype(np.float32)))
    (top, bottom, down), (left, right, across) = axes
    across, down = across[None, :, None], down[:, None, None]
    rows = pixels.astype(np.float32) if pixels.size < 4 * side * side else pixels
    upper = rows[top][:, left] * (1 - across) + rows[top][:, right] * across
    lower = rows[bottom][:, left] * (1 - across) + rows[bottom][:, right] * across
    return upper * (1 - down) + lower * down


def _problem(s: VideoFrontEnd) -> str | None:
    """The first thing that is wrong with settings, as half a sentence."""
    for key in ("frames", "side", "short_side"):
        value = getattr(s, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            return f"{key} must be a whole number from 1 on, got {value!r}"
    if s.short_side is not None and s.short_side < s.side:
        return f"a square of {s.side} does not fit into a shorter side of {s.short_side}"
    if not (isinstance(s.rate, int | float) and math.isfinite(s.rate) and s.rate > 0):
        return f"rate must be a number of frames per second above 0, got {s.rate!r}"
    if s.clips not in ("all", "centre"):
        return f"clips must be 'all' or 'centre', got {s.clips!r}"
    if len(s.mean) != 3 or len(s.std) != 3 or not all(map(math.isfinite, (*s.mean, *s.std))):
        return "mean and std are one number, or three"
    return None if min(s.std) > 0 else "std must be above 0"


@register("frontend", "video")
def video_clips(
    *,
    frames: int = VideoFrontEnd.frames,
    rate: float = VideoFrontEnd.rate,
    side: int = VideoFrontEnd.side,
    short_side: int | None = VideoFrontEnd.short_side,
    clips: Literal["all", "centre"] = VideoFrontEnd.clips,
    mean: float | list[float] | tuple[float, ...] = VideoFrontEnd.mean,
    std: float | list[float] | tuple[float, ...] = VideoFrontEnd.std,
) -> VideoFrontEnd:
    """Clips of a video for networks such as X3D.

    Args:
        frames, ...: the settings of `VideoFrontEnd`.

    Raises:
        ConfigError: a setting is not possible.
    """
    settings: dict[str, Any] = dict(locals())
    return VideoFrontEnd(**settings)
