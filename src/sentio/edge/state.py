"""The state of a box's streams in a file, so that they go on after a restart."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError
from sentio.core.stepping import STEPS, State


def save_state(path: str | Path, state: State) -> None:
    """Write a state as ``.npz``, whole or not at all.

    Raises:
        InputError: it cannot be written there.
    """
    target = Path(path)
    fresh = target.with_name(f".{target.name}.new")
    try:
        with fresh.open("wb") as file:
            np.savez(file, **state)
        fresh.replace(target)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise InputError(
            f"The state cannot be written to {str(path)!r}: {error.strerror or error}"
        ) from error


def load_state(path: str | Path) -> dict[str, NDArray[Any]]:
    """Read a state that `save_state` wrote; nothing in it is unpickled.

    Raises:
        InputError: no such file, or it is no state.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # As much as the file holds and no more, whatever it says.
            if sum(entry.file_size for entry in archive.infolist()) > Path(path).stat().st_size:
                raise ValueError("it is compressed, which a state is not")
            found = {}
            for entry in archive.infolist():
                with archive.open(entry) as member:
                    found[entry.filename.removesuffix(".npy")] = _array(member, entry.file_size)
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, RuntimeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise InputError(f"The state {str(path)!r} cannot be read: {reason}") from error
    if STEPS not in found:
        raise InputError(f"The file {str(path)!r} holds no state of a stream; it has no {STEPS!r}")
    return found


def _array(member: Any, size: int) -> NDArray[Any]:
    """One array, unless its header promises more than there is."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        raise ValueError("it is not as a state is written")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype.hasobject or fortran or dtype.itemsize * int(np.prod(shape, dtype=object)) > size:
        raise ValueError("it is not as a state is written")
    return np.frombuffer(member.read(), dtype).reshape(shape).copy()
