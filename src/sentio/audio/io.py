"""Sound files to samples and back.

Whatever libsndfile reads is read by it (WAV, FLAC, OGG, MP3, AIFF, ...); containers it does not know (M4A,
MP4, WebM, ...) go through PyAV where that is installed. Input that cannot be used is an `InputError` of one
sentence; input that is odd but usable is used, and a note says what was odd.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sentio.audio.decoding import Decoded, describe, file_name, opened
from sentio.core.errors import InputError

Samples = NDArray[np.float32]
AnyPath = str | PathLike[str]

#: the largest magnitude that 16-bit sound can hold; anything at or above it is at full scale
FULL_SCALE = 32767 / 32768
#: share of samples at full scale above which a recording counts as clipped
CLIPPED = 0.01
#: share of the channels' peak below which their mix is next to nothing
CANCELLED = 1e-3
#: no sound, however badly scaled, reaches this; beyond it float32 spectra overflow
ABSURD_PEAK = 1e10
#: more channels than this, and more than samples, means that the axes are swapped
MANY_CHANNELS = 64
#: resampling by more than this is a mistake in a header or an argument, not a wish
MOST_RESAMPLING = 1000
#: integer types that hold sound, and the value that stands for full scale
INTEGER_SCALE = {"int8": 2**7, "int16": 2**15, "int32": 2**31, "uint8": 2**7}


@dataclass(frozen=True, eq=False)
class Sound:
    """Samples with their rate.

    Args:
        samples: float32, full scale at 1, shape ``(channel, time)``.
        rate: samples per second.
        notes: what was odd about the input and how it was met, one sentence each.
    """

    samples: Samples
    rate: int
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return self.samples.shape[-1] / self.rate


def read(path: AnyPath, *, rate: int | None = None, mono: bool = False) -> Sound:
    """Read a sound file whole.

    Args:
        path: the file.
        rate: resample to this many samples per second (soxr, high quality); the file's own rate if None.
        mono: mix the channels down to their mean.

    Raises:
        InputError: there is no such file, it is no sound, it holds none, or its samples are not finite.
        MissingExtraError: the format needs PyAV, which is not installed.
    """
    rate = None if rate is None else _checked_rate(rate)
    notes: list[str] = []
    with opened(Path(path)) as decoded:
        pieces = list(_sound_pieces(path, decoded, notes, mono))
        found = Sound(np.concatenate(pieces, axis=1), decoded.rate, tuple(notes))
    return _at_rate(found, rate, str(path))


def blocks(path: AnyPath, *, seconds: float, rate: int | None = None, mono: bool = False) -> Iterator[Sound]:
    """Read a sound file block by block, in constant memory.

    Joined, the blocks are what `read` gives. Each is ``seconds`` long but the last, which may be shorter and
    carries the notes: what is odd about a file is known only at its end.

    Args:
        path, rate, mono: as for `read`.
        seconds: length of a block.

    Raises:
        InputError, MissingExtraError: as for `read`, when the iteration gets there.
    """
    rate = None if rate is None else _checked_rate(rate)
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"A block must be longer than 0 seconds, got {seconds!r}")
    notes: list[str] = []
    with opened(Path(path)) as decoded:
        target = rate or decoded.rate
        length = max(1, round(seconds * target))
        mixed = _sound_pieces(path, decoded, notes, mono)
        if target != decoded.rate:
            mixed = _resampled_pieces(str(path), mixed, decoded.rate, target)
        waiting: list[Samples] = []
        held = 0
        for piece in mixed:
            waiting.append(piece)
            held += piece.shape[1]
            # One sample always stays behind, so that the last block can be told from the others.
            while held > length:
                joined = np.concatenate(waiting, axis=1)
                yield Sound(joined[:, :length], target)
                waiting, held = [joined[:, length:]], held - length
        last = np.concatenate(waiting, axis=1)
        if not last.size:
            raise _too_short(str(path), decoded.rate, target)
        yield Sound(last, target, tuple(notes))


def duration(path: AnyPath) -> float:
    """The length of a sound file in seconds, from its header where that says it.

    Raises:
        InputError, MissingExtraError: as for `read`.
    """
    with opened(Path(path)) as decoded:
        if decoded.seconds:
            return decoded.seconds
        return sum(piece.shape[1] for piece in _sound_pieces(path, decoded, [])) / decoded.rate


def from_array(samples: Any, rate: int, *, what: str = "The array") -> Sound:
    """Samples from an array.

    Args:
        samples: floats with full scale at 1, or int8, int16, int32 or uint8, which are scaled; shape
            ``(time,)`` or ``(channel, time)``.
        rate: samples per second.
        what: the name under which messages speak of the array.

    Raises:
        InputError: the shape, the type or the rate is no sound's, or a sample is not finite.
    """
    rate = _checked_rate(rate)
    array = np.asarray(samples.detach().cpu() if hasattr(samples, "detach") else samples)
    if array.ndim not in (1, 2):
        raise InputError(f"{what} has shape {array.shape}; sound is (time,) or (channel, time)")
    if 0 in array.shape:
        raise InputError(f"{what} holds no samples: its shape is {array.shape}")
    if array.ndim == 2 and array.shape[0] > max(array.shape[1], MANY_CHANNELS):
        raise InputError(
            f"{what} has shape {array.shape}, which would be {array.shape[0]} channels; "
            "transpose it to (channel, time)"
        )
    scale = INTEGER_SCALE.get(array.dtype.name)
    if scale is None and array.dtype.kind != "f":
        raise InputError(f"{what} is of type {array.dtype}; sound is of floats, int8, int16, int32 or uint8")
    found = array.reshape(-1, array.shape[-1])
    if scale is not None:
        zero = scale if array.dtype.kind == "u" else 0
        found = (found.astype(np.float64) - zero) / scale
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(found, dtype=np.float32)
    tally = _Tally(rate, 1 - 1 / scale if scale == 2**7 else FULL_SCALE)
    tally.add(found)
    tally.raise_if_unusable(what)
    return Sound(found, rate, tuple(tally.notes(what)))


def write(path: AnyPath, samples: Any, rate: int, *, subtype: str | None = None) -> None:
    """Write a sound file; its format follows from the suffix (.wav, .flac, .ogg, .mp3, ...).

    Args:
        path: the file; its folder must exist.
        samples: as for `from_array`. Formats of whole numbers clip what is beyond full scale.
        rate: samples per second.
        subtype: the coding of samples as libsndfile names it, e.g. "PCM_24" or "FLOAT"; if None the
            format's usual one (16 bits for WAV and FLAC).

    Raises:
        InputError: the samples are no sound, or the file cannot be written.
    """
    sound = from_array(samples, rate)
    if not Path(path).parent.is_dir():
        raise InputError(f"Cannot write {path}: its folder does not exist")
    channels = len(sound.samples)
    try:
        with soundfile.SoundFile(file_name(path), "w", sound.rate, channels, subtype) as file:
            # Piece by piece: libsndfile's Vorbis encoder keeps a whole call's samples on the stack.
            for start in range(0, sound.samples.shape[1], 65536):
                file.write(sound.samples[:, start : start + 65536].T)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise InputError(f"Cannot write {path}: {describe(error)}") from error


def resample(sound: Sound, rate: int | None) -> Sound:
    """The same sound at another rate (soxr, high quality); as it is if ``rate`` is None or its own.

    Raises:
        InputError: the rate is no rate, or more than a thousand times another, or nothing is left.
    """
    return _at_rate(sound, rate, "The sound")


def _at_rate(sound: Sound, rate: int | None, what: str) -> Sound:
    if rate is None or rate == sound.rate:
        return sound
    _check_ratio(what, sound.rate, _checked_rate(rate))
    samples = soxr.resample(sound.samples.T, sound.rate, rate, quality="HQ").T
    if not samples.size:
        raise _too_short(what, sound.rate, rate)
    return Sound(np.ascontiguousarray(samples, dtype=np.float32), rate, sound.notes)


def to_mono(sound: Sound) -> Sound:
    """The mean of the channels, shape ``(1, time)``."""
    mixed = _mixed(sound.samples)
    notes = sound.notes
    if _cancelled(_peak(sound.samples), _peak(mixed)):
        notes = (*notes, "The sound is silent as one channel: its channels cancel each other")
    return Sound(mixed, sound.rate, notes)


def _sound_pieces(path: AnyPath, decoded: Decoded, notes: list[str], mono: bool = False) -> Iterator[Samples]:
    """A file's pieces, ``(channel, time)``, mixed if asked; at the end ``notes`` holds what was odd.

    Raises:
        InputError: at the end, if nothing was decoded or samples are not finite.
    """
    tally = _Tally(decoded.rate, decoded.full_scale)
    heard = 0.0
    for piece in decoded.pieces:
        tally.add(piece)
        if not tally.bad:
            given = _mixed(piece) if mono else piece
            heard = max(heard, _peak(given))
            yield given
    if not tally.frames:
        if decoded.damage:
            raise InputError(f"{path} is damaged: nothing in it can be decoded")
        raise InputError(f"{path} holds no sound: its length is 0")
    tally.raise_if_unusable(str(path))
    got = tally.frames / decoded.rate
    if decoded.promised - got > decoded.slack:
        notes.append(f"{path} is cut short: it promises {decoded.promised:.2f} s and {got:.2f} s were read")
    elif decoded.damage:
        notes.append(f"{path} is damaged or cut short: the {got:.2f} s before that were read")
    notes.extend(tally.notes(str(path)))
    if _cancelled(tally.peak, heard):
        notes.append(f"{path} is silent as one channel: its channels cancel each other")


class _Tally:
    """What has to be counted over all pieces of a sound to say whether it is odd."""

    def __init__(self, rate: int, full_scale: float) -> None:
        self.rate, self.full_scale = rate, full_scale
        self.frames = self.samples = self.clipped = self.bad = 0
        self.first_bad = 0
        self.peak = 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, piece: Samples) -> None:
        if not piece.size:
            return
        low, high = float(piece.min()), float(piece.max())
        peak = max(high, -low)
        if not math.isfinite(peak):
            finite = np.isfinite(piece)
            if not self.bad:
                self.first_bad = self.frames + int(np.argmin(finite.all(axis=0)))
            self.bad += int(piece.size - np.count_nonzero(finite))
        elif peak >= self.full_scale:
            self.clipped += int(np.count_nonzero(np.abs(piece) >= self.full_scale))
        self.peak, self.low, self.high = max(self.peak, peak), min(self.low, low), max(self.high, high)
        self.frames += piece.shape[1]
        self.samples += piece.size

    def raise_if_unusable(self, what: str) -> None:
        if self.bad:
            raise InputError(
                f"{what} holds {self.bad} samples that are NaN or infinite, the first at "
                f"{self.first_bad / self.rate:.3f} s; repair or replace it"
            )
        if self.peak > ABSURD_PEAK:
            raise InputError(f"{what} reaches {self.peak:.3g}; sound has its full scale at 1, so rescale it")

    def notes(self, what: str) -> Iterator[str]:
        if self.peak == 0:
            yield f"{what} is digital silence: every sample is 0"
        elif self.low == self.high and self.samples > 1:
            yield f"{what} is constant: every sample is {self.low:.4g}, as of a microphone that hangs"
        if self.clipped > CLIPPED * self.samples:
            share = 100 * self.clipped / self.samples
            yield f"{what} is clipped: {share:.1f} % of its samples are at full scale"
        if self.peak > 2:
            yield f"{what} reaches {self.peak:.4g} times full scale, so it may not be scaled to -1..1"


def _peak(samples: Samples) -> float:
    return max(float(samples.max()), -float(samples.min())) if samples.size else 0.0


def _cancelled(peak: float, mixed: float) -> bool:
    """Whether next to nothing of the channels is left in their mix."""
    return mixed < CANCELLED * peak


def _mixed(samples: Samples) -> Samples:
    return samples if len(samples) == 1 else samples.mean(axis=0, keepdims=True, dtype=np.float32)


def _resampled_pieces(what: str, pieces: Iterator[Samples], rate: int, target: int) -> Iterator[Samples]:
    _check_ratio(what, rate, target)
    stream = None
    for piece in pieces:
        stream = stream or soxr.ResampleStream(rate, target, len(piece), dtype="float32", quality="HQ")
        shape = piece.shape
        yield stream.resample_chunk(np.ascontiguousarray(piece.T)).T
    if stream is not None:
        yield stream.resample_chunk(np.empty((0, shape[0]), np.float32), last=True).T


def _checked_rate(rate: Any) -> int:
    whole = isinstance(rate, int | float | np.integer | np.floating) and not isinstance(rate, bool)
    if not whole or not math.isfinite(rate) or rate != int(rate) or rate <= 0:
        raise InputError(f"A rate is a whole number of samples per second above 0, got {rate!r}")
    return int(rate)


def _check_ratio(what: str, rate: int, target: int) -> None:
    if max(rate, target) > MOST_RESAMPLING * min(rate, target):
        raise InputError(
            f"{what} is at {rate} Hz, and resampling to {target} Hz is refused: a factor above "
            f"{MOST_RESAMPLING} means that one of the two is wrong"
        )


def _too_short(what: str, rate: int, target: int) -> InputError:
    return InputError(f"{what} is too short: at {rate} Hz it has less than one sample at {target} Hz")
