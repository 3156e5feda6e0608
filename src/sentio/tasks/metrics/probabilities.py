"""What a classifier's probabilities are worth: log loss, calibration error, macro accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.calibration import binned_calibration_error
from sentio.core.errors import ConfigError, InputError
from sentio.core.numeric import whole

#: probabilities are taken to be at least this, so that one sure mistake does not make a log loss infinite
LEAST = 1e-15
#: by which the rounding of a softmax in half precision may take a probability above 1
SLACK = 1e-2

Floats = NDArray[np.floating[Any]]
Classes = NDArray[np.integer[Any]]


def log_loss(probabilities: Floats, targets: Classes, *, by_class: bool = False) -> float:
    """Mean of ``-log p`` of the right class, in nats; ln(class) for one who knows nothing.

    Args:
        probabilities: ``(sample, class)``, rows summing to 1; clipped to `LEAST` from below.
        targets: class numbers, ``(sample,)``.
        by_class: the mean over the classes present of each class's own mean, as DCASE's Task 1 has it; the
            same where all classes have as many samples.

    Raises:
        InputError: there is no sample, the two do not fit each other, a probability is none, or a target is
            no class.
    """
    _check(probabilities, targets)
    loss = -np.log(np.maximum(probabilities[np.arange(len(targets)), targets].astype(np.float64), LEAST))
    return _mean(loss, targets, by_class)


def expected_calibration_error(probabilities: Floats, targets: Classes, *, bins: int = 15) -> float:
    """How far confidence and accuracy lie apart, in bins of equal width (ECE; Guo et al., ICML 2017).

    0 for sure answers that are right; 1 - a for sure answers of accuracy a.

    Args:
        probabilities: ``(sample, class)``.
        targets: class numbers, ``(sample,)``.
        bins: number of bins, closed on the right.

    Raises:
        ConfigError: the number of bins is none.
        InputError: there is no sample, the two do not fit each other, a probability is none, or a target is
            no class.
    """
    _check(probabilities, targets)
    if not whole(bins) or bins < 1:
        raise ConfigError(f"A calibration error needs at least 1 bin, got {bins!r}")
    return binned_calibration_error(probabilities, targets, bins=bins)


def macro_accuracy(answers: Classes, targets: Classes) -> float:
    """Mean over the classes present of the share answered rightly; every class counts the same.

    Args:
        answers: class numbers, ``(sample,)``; one that no target has is wrong.
        targets: class numbers, ``(sample,)``.

    Raises:
        InputError: there is no sample, or not an answer for each.
    """
    if not len(targets):
        raise InputError("There is no sample to measure")
    if answers.shape != targets.shape:
        raise InputError(f"Each target has an answer, got shapes {answers.shape} and {targets.shape}")
    return _mean((answers == targets).astype(np.float64), targets, True)


def _mean(values: NDArray[np.float64], targets: Classes, by_class: bool) -> float:
    if not by_class:
        return float(values.mean())
    return float(np.mean([values[targets == label].mean() for label in np.unique(targets)]))


def _check(probabilities: Floats, targets: Classes) -> None:
    if probabilities.ndim != 2 or targets.shape != probabilities.shape[:1] or not len(targets):
        raise InputError(
            "Probabilities are (sample, class) with one target for each of at least one sample, got "
            f"{probabilities.shape} and {targets.shape}"
        )
    if not ((probabilities >= 0) & (probabilities <= 1 + SLACK)).all():
        raise InputError(
            f"Probabilities lie in 0..1, got {probabilities.min()} to {probabilities.max()}; softmax makes "
            "them of logits"
        )
    classes = probabilities.shape[1]
    integers = np.issubdtype(targets.dtype, np.integer)
    if not integers or targets.min() < 0 or targets.max() >= classes:
        raise InputError(
            f"Targets are class numbers from 0 to {classes - 1}, got {targets.dtype} from {targets.min()} to "
            f"{targets.max()}; leave out samples without a class"
        )
