"""Selective prediction: how sure an answer must be, so that those accepted are seldom wrong. Plain numpy.

R. El-Yaniv, Y. Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError, InputError

Floats = NDArray[np.floating[Any]]


def least_certainty(certainty: Floats, right: NDArray[np.bool_], max_error: float) -> float | None:
    """The least certainty at and above which at most a share of the answers is wrong.

    Args:
        certainty: of each answer, larger is surer, ``(sample,)``.
        right: whether each is right, ``(sample,)``.
        max_error: the share.

    Returns:
        A certainty that occurs; None where even the surest answers are wrong too often, or there are none.

    Raises:
        InputError: there is not one certainty for each answer, or one is NaN.
        ConfigError: ``max_error`` is not from 0 to below 1.
    """
    if not 0 <= max_error < 1:
        raise ConfigError(f"The share of wrong answers is a number from 0 to below 1, got {max_error!r}")
    if not len(certainty):
        return None
    if certainty.shape != right.shape or np.isnan(certainty).any():
        raise InputError(
            f"Each answer has a certainty that is a number, got shapes {certainty.shape} and {right.shape}"
            f"{' and NaN' if np.isnan(certainty).any() else ''}"
        )
    order = np.argsort(-certainty, kind="stable")
    surest, wrong = certainty[order], np.cumsum(~right[order])
    # Answers of one certainty are accepted together.
    possible = np.append(np.diff(surest) < 0, True)
    # 29 of 100 are a share of 0.29, whose product is 28.999...
    allowed = np.round(max_error * np.arange(1, len(order) + 1), 9)
    fits = np.flatnonzero(possible & (wrong <= allowed))
    return float(surest[fits[-1]]) if len(fits) else None


def certainties_in_turn(
    certainty: Sequence[Floats], right: Sequence[NDArray[np.bool_]], max_error: float
) -> list[float | None]:
    """`least_certainty` at each of several exits, on the samples that none before has accepted.

    Args:
        certainty, right: of each sample at each exit, exits in order.
        max_error: largest share of wrong answers among those accepted at an exit.
    """
    waiting = np.ones(len(certainty[0]), bool) if certainty else np.zeros(0, bool)
    found = []
    for sure, correct in zip(certainty, right, strict=True):
        least = least_certainty(sure[waiting], correct[waiting], max_error)
        found.append(least)
        if least is not None:
            waiting &= sure < least
    return found
