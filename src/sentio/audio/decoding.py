"""The two decoders behind `sentio.audio.io`: libsndfile and, for video containers, PyAV."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from sentio.core.errors import InputError, MissingExtraError

#: suffixes of formats that libsndfile does not read and PyAV does
SOUND_CONTAINERS = {".aac", ".ac3", ".amr", ".ape", ".m4a", ".m4b", ".mka", ".mp2", ".tta", ".wma", ".wv"}
VIDEO_CONTAINERS = {".3gp", ".asf", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm"}
#: magnitude at which a coding's samples are at full scale, where that is not 16-bit sound's
FULL_SCALES = {"PCM_S8": 127 / 128, "PCM_U8": 127 / 128, "ULAW": 32124 / 32768, "ALAW": 32256 / 32768}
#: a header's length in bytes as libsndfile logs it, and what it found instead
ANNOUNCED = re.compile(r"^\s*(?:data|SSND|Data [Ss]ize)\s*:\s*(\d+)(?: \(should be (\d+)\))?", re.MULTILINE)
#: writers that cannot seek back announce this or more, and mean that they do not know
UNKNOWN_LENGTH = 0x7FFFF000


@dataclass
class Decoded:
    """An open sound file.

    Args:
        rate: samples per second.
        seconds: the length that can be read, 0 where only reading tells.
        promised: the length that the header announces, in seconds; 0 where it announces none.
        slack: by how many seconds such a promise may be wrong in a sound file of this format.
        full_scale: the largest magnitude of its coding.
        damage: whether decoding ended at something that cannot be decoded; final when ``pieces`` has ended.
        pieces: float32 ``(channel, time)``.
    """

    rate: int
    seconds: float
    promised: float
    slack: float
    full_scale: float
    damage: bool = False
    pieces: Iterator[NDArray[np.float32]] = field(default_factory=lambda: iter(()))


@contextmanager
def opened(path: Path) -> Iterator[Decoded]:
    """Open a sound file for decoding.

    Raises:
        InputError: there is no such file, or it is no sound.
        MissingExtraError: its format needs PyAV, which is not installed.
    """
    _check_file(path)
    try:
        # RAW is how libsndfile calls whatever it cannot identify in a file with such a suffix.
        file = None if path.suffix.lower() == ".raw" else soundfile.SoundFile(file_name(path))
    except soundfile.LibsndfileError:
        file = None
    if file is not None and file.format == "RAW":
        file.close()
        file = None
    if file is not None:
        with file:
            yield _from_sndfile(path, file)
    elif path.suffix.lower() in SOUND_CONTAINERS | VIDEO_CONTAINERS:
        with _container(path) as container:
            yield _from_container(path, container)
    else:
        raise InputError(f"{path} is not a sound file that can be read: it is damaged or of another kind")


def file_name(path: str | os.PathLike[str]) -> str | bytes:
    """A path as libsndfile takes it: elsewhere than on Windows a name may be no text, and is bytes."""
    return os.fspath(path) if os.name == "nt" else os.fsencode(path)


def describe(error: Exception) -> str:
    """What a library says went wrong, as the end of a sentence of ours."""
    text = getattr(error, "error_string", "") or str(error)
    return text.strip().rstrip(".")


def _check_file(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a sound file in it")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from error
    if empty:
        raise InputError(f"{path} is empty: it holds 0 bytes")


def _from_sndfile(path: Path, file: soundfile.SoundFile) -> Decoded:
    seconds = file.frames / file.samplerate
    found = Decoded(
        rate=file.samplerate,
        seconds=seconds,
        promised=max(seconds, seconds * _announced(path, file.extra_info)),
        # MP3 headers may only estimate; everything else counts its frames.
        slack=0.1 if file.format == "MP3" else 0.5 / file.samplerate,
        full_scale=FULL_SCALES.get(file.subtype, 32767 / 32768),
        damage=file.format == "OGG" and not _ogg_ends(path),
    )
    found.pieces = _sndfile_pieces(file, found)
    return found


def _sndfile_pieces(file: soundfile.SoundFile, decoded: Decoded) -> Iterator[NDArray[np.float32]]:
    # A damaged FLAC frame spoils the whole call that meets it, so calls are as small as its frames.
    size = 4096 if file.format == "FLAC" else 65536
    while True:
        try:
            piece = file.read(size, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            decoded.damage = True
            return
        if not len(piece):
            return
        yield np.ascontiguousarray(piece.T)


def _announced(path: Path, log: str) -> float:
    """How many times longer than what is there the header says the sound is; 1 where it is all there."""
    size = path.stat().st_size
    for announced, there in ANNOUNCED.findall(log):
        found = int(there or size)
        if found and size < int(announced) < UNKNOWN_LENGTH:
            return int(announced) / found
    return 1.0


def _ogg_ends(path: Path) -> bool:
    """Whether an Ogg file ends with a page marked as the last: nothing else in it tells its length."""
    with path.open("rb") as file:
        # Two pages of the largest possible size are sure to hold the start of the last one.
        file.seek(max(0, path.stat().st_size - 2 * 65307))
        tail = file.read()
    page = tail.rfind(b"OggS")
    return page >= 0 and len(tail) > page + 5 and bool(tail[page + 5] & 4)


@contextmanager
def _container(path: Path) -> Iterator[Any]:
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"PyAV, which reading {path.suffix} files needs,", "video") from error
    try:
        container = av.open(str(path))
    except av.FFmpegError as error:
        raise InputError(
            f"{path} is not a sound file that can be read: it is damaged or of another kind"
        ) from error
    with container:
        if not container.streams.audio:
            raise InputError(f"{path} has no sound track")
        yield container


def _from_container(path: Path, container: Any) -> Decoded:
    stream = container.streams.audio[0]
    if not stream.codec_context.sample_rate:
        raise InputError(f"{path} is damaged: nothing in it can be decoded")
    if stream.duration:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (container.duration or 0) / 1e6
    found = Decoded(stream.codec_context.sample_rate, seconds, seconds, 0.25, 32767 / 32768)
    found.pieces = _container_pieces(container, stream, found)
    return found


def _container_pieces(container: Any, stream: Any, decoded: Decoded) -> Iterator[NDArray[np.float32]]:
    import av

    planar = av.AudioResampler(format="fltp")
    try:
        for frame in container.decode(stream):
            for converted in planar.resample(frame):
                yield np.asarray(converted.to_ndarray(), np.float32)
        for converted in planar.resample(None):
            yield np.asarray(converted.to_ndarray(), np.float32)
    except av.FFmpegError:
        decoded.damage = True
