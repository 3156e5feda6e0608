"""What a step in a file gives, and where such a file says what it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: what an exported step's metadata are called
STREAM = "sentio.stream"


class Stepped(NamedTuple):
    """What a step gives.

    Args:
        output: ``(batch, ...)``; rows that are not valid hold nothing of use.
        valid: which streams have an answer, ``(batch,)``; those that have none are warming up.
        state: for the next step.
    """

    output: NDArray[Any]
    valid: NDArray[np.bool_]
    state: dict[str, NDArray[Any]]
