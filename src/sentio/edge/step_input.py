"""What a step is given, checked: the next units of each stream, and a state that is of its network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError

#: of each tensor of a state its shape, without the batch, and its type
Kept = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


def checked_units(x: Any, shape: tuple[int, ...], axis: int, hop: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A step's input as its graph takes it.

    Args:
        x: the next ``hop`` units, ``(batch, *shape)``; where that is one, it may lack the axis of time.
        shape: of the units of a stream.
        axis: of time, the batch being 0.
        hop: units of a step.
        dtype: that the graph takes.

    Raises:
        InputError: another shape, no numbers, or values that are not finite.
    """
    try:
        values = np.asarray(x)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"A step takes an array of units, got what makes none: {error}") from error
    if values.ndim == len(shape) and hop == 1:
        values = np.expand_dims(values, axis)
    if values.shape[1:] != shape or not len(values):
        raise InputError(
            f"A step takes {hop} units of each stream, shape {shown([None, *shape])}; got {values.shape}"
        )
    if values.dtype.kind not in "fiub":
        raise InputError(f"A step takes numbers, got {values.dtype}")
    if values.dtype != dtype:
        with np.errstate(over="ignore"):
            values = values.astype(dtype)
    values = np.ascontiguousarray(values)
    if not np.isfinite(values).all():
        raise InputError("The units of a step hold NaN or infinite values")
    return values


def check_state(state: Any, kept: Kept, rows: int | None) -> None:
    """A state is one of a network.

    Args:
        state: as a step gives it.
        kept: what the network keeps.
        rows: of how many streams.

    Raises:
        InputError: it is not.
    """
    if not isinstance(state, Mapping):
        raise InputError(f"A state is a dict of arrays, as a step gives it, got {type(state).__name__}")
    if state.keys() != kept.keys():
        odd = sorted(state.keys() ^ kept.keys())[0]
        lacks = "lacks" if odd in kept else "holds"
        raise InputError(f"The state is of another network: it {lacks} {odd!r}")
    for name, (shape, dtype) in kept.items():
        value = state[name]
        if not isinstance(value, np.ndarray) or value.shape != (rows, *shape):
            raise InputError(
                f"The state does not fit: {name!r} has shape {np.shape(value)}, and {(rows, *shape)} is "
                "needed; it is of another network or of other streams"
            )
        if value.dtype != dtype:
            raise InputError(f"The state does not fit: {name!r} is {value.dtype}, not {dtype}")


def shown(shape: Sequence[Any]) -> str:
    """A shape with its batch, as messages give it."""
    return "(" + ", ".join("batch" if index == 0 else str(size) for index, size in enumerate(shape)) + ")"
