"""MATLAB's files of version 5, as far as annotations need them: numbers, cells and structures.

The format is that of MathWorks, *MAT-File Format*: elements of a type, a length and data, some compressed.
Nothing in such a file is run. Version 7.3 is HDF5 and is refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError

#: type of an element -> what its numbers are
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT = 1, 2
#: classes of arrays that hold plain numbers
_NUMERIC = range(6, 16)
_DEEPEST = 32


def read_mat(path: str | Path) -> dict[str, Any]:
    """The variables of a file: arrays, lists for cells, dictionaries (in lists) for structures.

    Numbers are arrays of float64 in MATLAB's shape. A cell is a list in MATLAB's order (columns first), a
    structure a list of dictionaries, one for each element; text and other kinds are left out.

    Raises:
        InputError: the file is not there, of another version, or damaged.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror or error}") from error
    if data[:8] == b"\x89HDF\r\n\x1a\n" or data.startswith(b"MATLAB 7.3"):
        raise InputError(f"{file} is a MATLAB file of version 7.3 (HDF5); save it with '-v7' and read that")
    if len(data) < 128 or data[126:128] not in (b"IM", b"MI"):
        raise InputError(
            f"{file} is not a MATLAB file of version 5; give a .mat file saved with '-v7' or '-v6'"
        )
    order = "<" if data[126:128] == b"IM" else ">"
    found: dict[str, Any] = {}
    try:
        for kind, body in _elements(data[128:], order):
            if kind == _COMPRESSED:
                kind, body = next(_elements(zlib.decompress(body), order))
            if kind == _MATRIX:
                name, value = _matrix(body, order, 0)
                found[name] = value
    # A matrix that lacks its later parts, or a part that lacks its number, shows in an index.
    except (struct.error, zlib.error, ValueError, StopIteration, LookupError, RecursionError) as error:
        raise InputError(f"{file} is damaged: {error or type(error).__name__}; get it again") from error
    return found


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, data) of each element; short ones have both in eight bytes."""
    place = 0
    while place + 8 <= len(data):
        kind, length = struct.unpack_from(order + "II", data, place)
        if kind >> 16:
            length, kind = kind >> 16, kind & 0xFFFF
            if length > 4:
                raise ValueError("a short element of more than four bytes")
            yield kind, data[place + 4 : place + 4 + length]
            place += 8
            continue
        if place + 8 + length > len(data):
            raise ValueError("an element reaches beyond the end")
        yield kind, data[place + 8 : place + 8 + length]
        place += 8 + (length if kind == _COMPRESSED else -(-length // 8) * 8)


def _matrix(data: bytes, order: str, depth: int) -> tuple[str, Any]:
    """(name, value) of an array, a cell or a structure."""
    if depth > _DEEPEST:
        raise ValueError("cells lie too deep in each other")
    parts = list(_elements(data, order))
    if not parts:
        return "", np.zeros((0, 0))
    kind = struct.unpack_from(order + "I", parts[0][1])[0] & 0xFF
    shape = tuple(int(side) for side in _array(*parts[1], order))
    name = parts[2][1].decode("utf-8", "replace")
    rest = parts[3:]
    if kind in _NUMERIC:
        values = _array(*rest[0], order)
        if len(values) != prod(shape):
            raise ValueError(f"{len(values)} numbers for an array of shape {shape}")
        return name, values.astype(np.float64).reshape(shape, order="F")
    if kind == _CELL:
        return name, [_matrix(body, order, depth + 1)[1] for _, body in rest]
    if kind == _STRUCT:
        width = int(_array(*rest[0], order)[0])
        raw = rest[1][1]
        fields = [
            raw[start : start + width].split(b"\0")[0].decode("utf-8", "replace")
            for start in range(0, len(raw), max(width, 1))
        ]
        values_ = [_matrix(body, order, depth + 1)[1] for _, body in rest[2:]]
        rows = len(values_) // max(len(fields), 1)
        return name, [
            dict(zip(fields, values_[row * len(fields) : (row + 1) * len(fields)], strict=True))
            for row in range(rows)
        ]
    return name, None


def _array(kind: int, data: bytes, order: str) -> NDArray[Any]:
    return np.frombuffer(data, dtype=order + _NUMBERS[kind])
