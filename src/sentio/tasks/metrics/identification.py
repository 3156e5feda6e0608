"""Who it is, by the nearest embedding. Plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError
from sentio.tasks.metrics.verification import unit_length

#: samples compared with all others at once
PIECE = 512


def leave_one_out_accuracy(
    embeddings: NDArray[np.floating[Any]], identities: NDArray[Any], *, normalise: bool = True
) -> float:
    """Share of samples whose nearest other sample is of the same identity.

    Those that are the only ones of theirs are left out of the share, but may be nearest to others.

    Args:
        embeddings: ``(sample, dimension)``.
        identities: whom each shows, ``(sample,)``.
        normalise: whether embeddings are scaled to length 1 before.

    Raises:
        InputError: the arrays do not fit each other, no identity occurs twice, or embeddings are not finite.
    """
    if embeddings.ndim != 2 or identities.shape != embeddings.shape[:1]:
        raise InputError(
            "Identification needs embeddings (sample, dimension) and an identity for each, got "
            f"{embeddings.shape} and {identities.shape}"
        )
    if not np.isfinite(embeddings).all():
        raise InputError("Embeddings hold NaN or infinite values")
    _, group, counts = np.unique(identities, return_inverse=True, return_counts=True)
    asked = np.flatnonzero(counts[group] > 1)
    if not len(asked):
        raise InputError("No identity occurs twice, so nearest others say nothing; give several samples each")
    all_of_them = np.asarray(embeddings, np.float64)
    if normalise:
        all_of_them = unit_length(all_of_them)
    lengths = np.square(all_of_them).sum(1)
    right = 0
    for start in range(0, len(asked), PIECE):
        rows = asked[start : start + PIECE]
        square = lengths - 2 * all_of_them[rows] @ all_of_them.T
        square[np.arange(len(rows)), rows] = np.inf
        right += int((group[square.argmin(1)] == group[rows]).sum())
    return right / len(asked)
