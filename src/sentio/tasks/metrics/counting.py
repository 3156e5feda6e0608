"""How far counts are off."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean_absolute_error(counts: NDArray[Any], truth: NDArray[Any]) -> float:
    """Mean of ``|count - truth|``: how accurate a counter is, in persons."""
    return float(np.abs(np.asarray(counts, float) - np.asarray(truth, float)).mean())


def root_mean_square_error(counts: NDArray[Any], truth: NDArray[Any]) -> float:
    """Root of the mean of ``(count - truth)²``: how robust it is. Papers on crowds call it MSE."""
    return float(np.sqrt(np.square(np.asarray(counts, float) - np.asarray(truth, float)).mean()))
