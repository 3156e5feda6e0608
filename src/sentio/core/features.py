"""What a front end is: a user's file or array in, windows of features out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prepared:
    """A recording as a network takes it: one row per window.

    Args:
        inputs: float32, ``(window, channel, time, frequency)`` for sound; uint8 where the front end
            standardises them later, see `finished`; by name where there are several.
        starts, ends: seconds from the start of the recording, shape ``(window,)``; ``ends`` stays inside it.
        silent: windows that hold no signal, shape ``(window,)``.
        notes: what was odd about the input and how it was met, one sentence each.
    """

    inputs: Any
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    silent: NDArray[np.bool_]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.starts)


class FrontEnd(Protocol):
    """Turns a source (a path, or samples with their rate) into windows of features.

    One that takes no sound has a method ``noise`` too, which gives a source of one window, to be timed on.
    """

    name: str

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The features' shape for the network, without the batch axis."""
        ...

    def settings(self) -> dict[str, Any]:
        """Plain values from which the registry builds it again."""
        ...

    def prepare(self, source: Any, *, hop: float | None = None) -> Prepared:
        """Read a source and compute its windows; ``hop`` is their distance in seconds."""
        ...


def finished(frontend: FrontEnd | None, inputs: Any) -> Any:
    """Features as the network takes them.

    A front end of images gives pixels, uint8, and has a method ``finish`` that makes them float32 and
    standardises them. Whoever holds many of them does so batch by batch, since pixels are a quarter as large.

    Args:
        frontend: what made the features; None where nothing did.
        inputs: batch first, by name where there are several; returned as they are if there are no pixels
            among them.
    """
    finish = getattr(frontend, "finish", None)
    if finish is None or not _has_pixels(inputs):
        return inputs
    return finish(inputs)


def _has_pixels(inputs: Any) -> bool:
    return any(array.dtype == np.uint8 for array in arrays_of(inputs))


def each(values: Any, change: Callable[[Any], Any]) -> Any:
    """An array or a tensor changed; of several by name each, as inputs and targets may come."""
    if isinstance(values, Mapping):
        return {name: change(value) for name, value in values.items()}
    return change(values)


def rows_of(values: Any, rows: Any) -> Any:
    """Some rows, a slice or places, of an array or a tensor; of several by name of each."""
    return each(values, lambda array: array[rows])


def arrays_of(values: Any) -> list[Any]:
    """An array or a tensor in a list; of several by name all of them."""
    return list(values.values()) if isinstance(values, Mapping) else [values]


def first_of(values: Any) -> Any:
    """An array or a tensor; of several by name the first."""
    return arrays_of(values)[0]
