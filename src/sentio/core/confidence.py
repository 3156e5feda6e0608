"""How sure a classifier's output is: softmax and the two usual measures, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import UnknownNameError

MAX_PROBABILITY = "max-probability"
ENTROPY = "entropy"


def softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Softmax over the last axis, stable for large logits; same shape and dtype."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    exponents = np.exp(shifted)
    result: NDArray[np.floating] = exponents / exponents.sum(axis=-1, keepdims=True)
    return result


def classifier_confidence(
    logits: NDArray[np.floating], measure: str = MAX_PROBABILITY
) -> NDArray[np.floating]:
    """Confidence between 0 and 1 of each row of logits.

    Args:
        logits: ``(batch, class)``.
        measure: ``max-probability``, or ``entropy`` for one minus the entropy over its maximum, log(class)
            (BranchyNet's measure, Teerapittayanon et al. 2016, turned so that larger is surer).

    Returns:
        ``(batch,)``.

    Raises:
        UnknownNameError: there is no such measure.
    """
    if measure not in (MAX_PROBABILITY, ENTROPY):
        raise UnknownNameError("measure of confidence", measure, (MAX_PROBABILITY, ENTROPY))
    if measure == MAX_PROBABILITY:
        # softmax(logits).max(), whose numerator is exp(0)
        return np.asarray(1.0 / np.exp(logits - logits.max(axis=-1, keepdims=True)).sum(axis=-1))
    probabilities = softmax(logits)
    classes = logits.shape[-1]
    if classes < 2:
        return np.ones(len(logits), dtype=logits.dtype)
    logs = np.log(np.maximum(probabilities, np.finfo(probabilities.dtype).tiny))
    entropy = -(probabilities * logs).sum(axis=-1)
    return np.asarray(np.clip(1.0 - entropy / np.log(classes), 0.0, 1.0))
