"""Files of face landmarks: 68 points for each frame, numbered as by dlib and in iBUG 300-W."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError

LANDMARKS = 68
#: what a column of a table may be called: ``x0``, ``x_0``, ``X0``
COLUMN = re.compile(r"([xy])_?(\d{1,2})", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Landmarks of one face over time.

    Args:
        points: float32, pixels or any other unit, ``(time, 68, 2)``; only frames in which there is a face.
        notes: what was odd about the file and how it was met, one sentence each.
    """

    points: NDArray[np.float32]
    notes: tuple[str, ...] = ()


def read_landmarks(path: str | PathLike[str]) -> Landmarks:
    """Read a sequence of landmarks; frames without a face (numbers missing, or not finite) are left out.

    Args:
        path: an ``.npz`` with one array ``(time, 68, 2)``, called ``landmarks`` if there are more; or a
            ``.csv`` with a row for each frame and columns ``x0`` … ``x67`` and ``y0`` … ``y67``.

    Raises:
        InputError: the file cannot be read, holds something else, or shows no face.
    """
    file = Path(path)
    try:
        points = _from_table(file) if file.suffix.lower() == ".csv" else _from_arrays(file)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return checked(points, str(path))


def checked(points: NDArray[np.floating], what: str) -> Landmarks:
    """Landmarks as they are used: frames that are not finite left out.

    Raises:
        InputError: another shape, or no frame with a face.
    """
    if points.ndim != 3 or points.shape[1:] != (LANDMARKS, 2) or points.dtype.kind not in "fiu":
        raise InputError(f"{what} holds {points.dtype} of shape {points.shape}, not (time, {LANDMARKS}, 2)")
    with np.errstate(over="ignore"):  # what is no float32 is not finite, so no face
        points = points.astype(np.float32)
    seen = np.isfinite(points).all(axis=(1, 2))
    if not seen.any():
        raise InputError(f"{what} shows no face in any of its {len(points)} frames; leave it out")
    lost = int((~seen).sum())
    notes = (f"{what} shows no face in {lost} of {len(points)} frames, which were left out",) if lost else ()
    return Landmarks(points[seen], notes)


def _from_arrays(file: Path) -> NDArray[np.floating]:
    import tokenize
    import zipfile
    import zlib

    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            if not hasattr(arrays, "files"):
                raise InputError(f"{file} is one bare array; save it with numpy.savez")
            names = list(arrays.files)
            name = "landmarks" if "landmarks" in names else names[0] if len(names) == 1 else None
            if name is None:
                raise InputError(
                    f"{file} holds arrays {', '.join(names) or 'none'}; call the points 'landmarks'"
                )
            found: NDArray[np.floating] = arrays[name]
            return found
    except (
        ValueError,
        EOFError,
        NotImplementedError,  # of a compression or a version that zipfile does not know
        zipfile.BadZipFile,
        zlib.error,
        tokenize.TokenError,  # numpy reads the header of an array as Python
    ) as error:
        raise InputError(f"{file} is no file of landmarks: {error}") from error


def _from_table(file: Path) -> NDArray[np.floating]:
    try:
        rows = [
            row for row in csv.reader(file.read_text("utf-8-sig").splitlines()) if any(map(str.strip, row))
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is no table of landmarks: {error}") from error
    places: dict[tuple[str, int], int] = {}
    for place, name in enumerate(rows[0] if rows else []):
        match = COLUMN.fullmatch(name.strip())
        if match:
            places[match[1].lower(), int(match[2])] = place
    wanted = [(axis, number) for number in range(LANDMARKS) for axis in "xy"]
    missing = [f"{axis}{number}" for axis, number in wanted if (axis, number) not in places]
    if missing:
        raise InputError(
            f"{file} has no column {missing[0]!r} ({len(missing)} are missing); landmarks are columns x0 to "
            f"x{LANDMARKS - 1} and y0 to y{LANDMARKS - 1}"
        )
    values = np.full((len(rows) - 1, len(wanted)), np.nan)
    for line, row in enumerate(rows[1:]):
        if len(row) != len(rows[0]):
            raise InputError(
                f"{file} row {line + 1} has {len(row)} cells where the header has {len(rows[0])}"
            )
        for column, key in enumerate(wanted):
            cell = row[places[key]].strip()
            try:
                values[line, column] = float(cell) if cell else np.nan
            except ValueError as error:
                raise InputError(f"{file} row {line + 1} has {cell!r} for {key[0]}{key[1]}") from error
    return values.reshape(len(values), LANDMARKS, 2)
