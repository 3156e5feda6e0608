"""Which values are numbers, so that another is refused in a sentence instead of by what it is compared to."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np

_REAL = (float, int, np.floating, np.integer)
_WHOLE = (int, np.integer)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, Python's or numpy's, and no truth value."""
    return isinstance(value, _REAL) and not isinstance(value, bool) and isfinite(value)


def within(value: Any, low: float, high: float) -> bool:
    """Whether a value is a finite number from ``low`` to ``high``."""
    return is_number(value) and bool(low <= value <= high)


def whole(value: Any) -> bool:
    """Whether a value is a whole number, Python's or numpy's, and no truth value."""
    return isinstance(value, _WHOLE) and not isinstance(value, bool)
