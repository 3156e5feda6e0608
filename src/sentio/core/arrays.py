"""What streams need of arrays, so that one loop steps PyTorch's tensors and numpy's arrays alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]


class Arrays(Protocol):
    """Operations on one library's arrays; rows are those of the first axis."""

    #: what they are called
    kind: str

    def knows(self, array: Any) -> bool:
        """Whether it is one of them."""
        ...

    def take(self, array: Any, rows: Rows) -> Any:
        """A copy of some rows."""
        ...

    def put(self, array: Any, rows: Rows, values: Any) -> None:
        """Set some rows in place."""
        ...

    def narrow(self, array: Any, axis: int, start: int, length: int) -> Any:
        """Part of an axis, without a copy where that is possible."""
        ...

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any: ...

    def copy(self, array: Any) -> Any: ...

    def zeros(self, like: Any, shape: tuple[int, ...]) -> Any:
        """Of the type and the device of ``like``."""
        ...

    def to_numpy(self, array: Any) -> NDArray[Any]: ...

    def from_numpy(self, array: NDArray[Any], like: Any) -> Any:
        """On the device of ``like``."""
        ...


class NumpyArrays:
    """Arrays of numpy."""

    kind = "numpy array"

    def knows(self, array: Any) -> bool:
        return isinstance(array, np.ndarray)

    def take(self, array: NDArray[Any], rows: Rows) -> NDArray[Any]:
        return array[rows]

    def put(self, array: NDArray[Any], rows: Rows, values: NDArray[Any]) -> None:
        array[rows] = values

    def narrow(self, array: NDArray[Any], axis: int, start: int, length: int) -> NDArray[Any]:
        return array[(slice(None),) * axis + (slice(start, start + length),)]

    def concatenate(self, arrays: Sequence[NDArray[Any]], axis: int) -> NDArray[Any]:
        return np.concatenate(arrays, axis)

    def copy(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.copy()

    def zeros(self, like: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        return np.zeros(shape, like.dtype)

    def to_numpy(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def from_numpy(self, array: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
        return array


def put_rows(
    arrays: Arrays, new: dict[str, Any], old: Mapping[str, Any], key: str, rows: Rows | None, values: Any
) -> None:
    """Set some rows, or all where ``rows`` is None, of a tensor of the new state; the old one stays."""
    if rows is None:
        new[key] = values
        return
    if new[key] is old[key]:
        new[key] = arrays.copy(old[key])
    arrays.put(new[key], rows, values)
