"""Video files to frames, one after the other, through PyAV (extra ``video``)."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError, MissingExtraError

#: frames per second of a file that does not say
USUAL_RATE = 25.0


class Frame(NamedTuple):
    """One picture of a video.

    Args:
        pixels: RGB, uint8 ``(height, width, 3)``.
        start, end: when it is shown, in seconds from the first frame; ``end`` is a guess, one frame later.
    """

    pixels: NDArray[np.uint8]
    start: float
    end: float


def frames(path: str | PathLike[str]) -> Iterator[Frame]:
    """The frames of a video file in the order in which they are shown, turned as its camera was held.

    Raises:
        InputError: there is no such file, it is no video, it is damaged, or it holds no frame.
        MissingExtraError: PyAV is not installed.
    """
    av = _av()
    shown = Path(path)
    if not shown.is_file():
        raise InputError(f"There is no video file {shown}; check the path")
    if not shown.stat().st_size:
        raise InputError(f"{shown} is empty; copy or download the video again")
    count = 0
    try:
        with av.open(str(shown)) as container:
            if not container.streams.video:
                raise InputError(f"{shown} holds no video stream; give a file with pictures in it")
            stream = container.streams.video[0]
            length = 1 / float(stream.average_rate or USUAL_RATE)
            first = last = 0.0
            for picture in container.decode(stream):
                time = picture.time
                if count == 0:
                    first = time or 0.0
                # A time that is missing or does not go on would make frames disappear.
                start = 0.0 if count == 0 else last + length
                if time is not None and count and time - first > last:
                    start = time - first
                yield Frame(_upright(picture), start, start + length)
                last, count = start, count + 1
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        where = f"is damaged behind its frame {count}" if count else "cannot be read as video"
        raise InputError(f"{shown} {where} ({reason}); copy or convert it again") from error
    if not count:
        raise InputError(f"{shown} holds a video stream without a single frame; copy or convert it again")


def _upright(picture: Any) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = picture.to_ndarray(format="rgb24")
    # Degrees counterclockwise; of a telephone's video they are quarters of a turn. Older PyAV cannot say.
    quarters, rest = divmod(round(getattr(picture, "rotation", 0)), 90)
    return pixels if rest or not quarters else np.ascontiguousarray(np.rot90(pixels, quarters))


def _av() -> Any:
    try:
        import av
        import av.error
    except ModuleNotFoundError as error:
        raise MissingExtraError("PyAV, which video files need,", "video") from error
    return av
