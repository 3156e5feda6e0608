"""Images that a data set keeps as records in one file, written out as files of their own.

Every item of a data set is a file that a front end reads; records become portable any-maps, which are their
pixels behind a line of text, in a temporary folder that goes with the data set.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError
from sentio.data.archive import Unpacked


def temporary_folder() -> Unpacked:
    """An empty folder that is removed together with the object."""
    return Unpacked(Path(tempfile.mkdtemp(prefix="sentio-")))


def write_pictures(
    pixels: NDArray[np.uint8], folder: Path, names: Sequence[str], source: Path, shown: Path
) -> list[Path]:
    """One file for each image, of the source's time, so that a cache that goes by times stays good.

    Args:
        pixels: ``(image, height, width, channel)`` of one or three channels.
        folder: where they go.
        names: of the files, without their ending.
        source: what the pixels were read from.
        shown: what messages call it.

    Raises:
        InputError: the disk does not take them.
    """
    grey = pixels.shape[3] == 1
    header = f"P{5 if grey else 6} {pixels.shape[2]} {pixels.shape[1]} 255\n".encode()
    time = source.stat().st_mtime_ns
    found = []
    try:
        for name, image in zip(names, np.ascontiguousarray(pixels), strict=True):
            path = folder / f"{name}.{'pgm' if grey else 'ppm'}"
            path.write_bytes(header + image.tobytes())
            os.utime(path, ns=(time, time))
            found.append(path)
    except OSError as error:
        raise InputError(
            f"Cannot write the images of {shown} to {folder}: {error.strerror or error}; "
            "make room or set TMPDIR"
        ) from error
    return found
