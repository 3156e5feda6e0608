"""How far counts are off."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError


def mean_absolute_error(counts: NDArray[Any], truth: NDArray[Any]) -> float:
    """Mean of ``|count - truth|``: how accurate a counter is, in persons.

    Raises:
        InputError: there is no count, or not one for each of the truth.
    """
    return float(np.abs(_differences(counts, truth)).mean())


def root_mean_square_error(counts: NDArray[Any], truth: NDArray[Any]) -> float:
    """Root of the mean of ``(count - truth)²``: how robust it is. Papers on crowds call it MSE.

    Raises:
        InputError: there is no count, or not one for each of the truth.
    """
    return float(np.sqrt(np.square(_differences(counts, truth)).mean()))


def _differences(counts: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    given, true = np.asarray(counts, np.float64), np.asarray(truth, np.float64)
    # Shapes such as (n,) and (n, 1) would give the difference of each with every other.
    if given.shape != true.shape or not given.size:
        raise InputError(
            f"Counts are compared with as many true ones, at least one, got {given.shape} and {true.shape}"
        )
    return given - true
