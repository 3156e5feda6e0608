"""Same or not, from distances: thresholds, accuracy across folds, and the ROC. Plain numpy.

The protocol is that of Labelled Faces in the Wild (Huang et al., 2007): a threshold is chosen on all folds
but one and used on that one, in turn. A pair is taken as the same where its distance is below the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Verification:
    """Accuracy of verification across folds.

    Args:
        accuracy, deviation: mean and standard deviation over the folds, as shares.
        folds: accuracy of each.
        thresholds: the distance used on each.
    """

    accuracy: float
    deviation: float
    folds: tuple[float, ...]
    thresholds: tuple[float, ...]


def pair_distances(first: Floats, second: Floats, *, normalise: bool = True) -> NDArray[np.float64]:
    """Euclidean distance of each pair of embeddings.

    Args:
        first, second: ``(pair, dimension)``.
        normalise: whether each is scaled to length 1 before; one of length 0 stays.

    Returns:
        ``(pair,)``, float64.

    Raises:
        InputError: they do not pair up, or are not finite.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise InputError(f"Embeddings pair up as (pair, dimension), got {first.shape} and {second.shape}")
    ends = [np.asarray(each, np.float64) for each in (first, second)]
    if not all(np.isfinite(each).all() for each in ends):
        raise InputError("Embeddings hold NaN or infinite values")
    if normalise:
        ends = [unit_length(each) for each in ends]
    found: NDArray[np.float64] = np.linalg.norm(ends[0] - ends[1], axis=1)
    return found


def unit_length(embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Embeddings ``(sample, dimension)`` scaled to length 1; one of length 0 stays."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    found: NDArray[np.float64] = embeddings / np.where(lengths > 0, lengths, 1)
    return found


def best_threshold(distances: Floats, same: NDArray[np.bool_]) -> tuple[float, float]:
    """The distance below which most pairs are rightly taken as the same, and the share that is right.

    Between two distances that part pairs otherwise it is their middle; the smallest of several that are as
    good. Below all and above all it lies half as far again beyond them.

    Args:
        distances: of the pairs, ``(pair,)``.
        same: whether each is of one person, ``(pair,)``.

    Raises:
        InputError: there is no pair, or they do not fit each other.
    """
    _check(distances, same)
    order = np.argsort(distances, kind="stable")
    sorted_distances = np.asarray(distances, np.float64)[order]
    right_of_same = np.concatenate([[0], np.cumsum(same[order])])
    wrong_of_others = np.concatenate([[0], np.cumsum(~same[order])])
    right = right_of_same + (~same).sum() - wrong_of_others
    # A threshold cannot part pairs of one distance.
    possible = np.concatenate([[True], np.diff(sorted_distances) > 0, [True]])
    place = int(np.flatnonzero(possible)[np.argmax(right[possible])])
    low, high = sorted_distances[0], sorted_distances[-1]
    if place == 0:
        threshold = low / 2
    elif place == len(order):
        threshold = high * 1.5 if high > 0 else 1.0
    else:
        below, above = sorted_distances[place - 1], sorted_distances[place]
        # The middle of two neighbours among floats is one of them; below the upper one both fall right.
        threshold = middle if (middle := (below + above) / 2) > below else above
    return float(threshold), float(right[place] / len(order))


def verify(distances: Floats, same: NDArray[np.bool_], folds: NDArray[np.integer[Any]]) -> Verification:
    """Accuracy on each fold with the threshold of the others.

    Args:
        distances: of the pairs, ``(pair,)``.
        same: whether each is of one person, ``(pair,)``.
        folds: the fold of each, ``(pair,)``, at least two.

    Raises:
        InputError: the arrays do not fit each other, or there is one fold only.
    """
    _check(distances, same)
    names = np.unique(folds)
    if folds.shape != distances.shape or len(names) < 2:
        raise InputError(f"Verification needs a fold for each pair and at least two folds, got {len(names)}")
    accuracies, thresholds = [], []
    for fold in names:
        held = folds == fold
        threshold, _ = best_threshold(distances[~held], same[~held])
        accuracies.append(float(((distances[held] < threshold) == same[held]).mean()))
        thresholds.append(threshold)
    return Verification(
        float(np.mean(accuracies)), float(np.std(accuracies)), tuple(accuracies), tuple(thresholds)
    )


def roc(distances: Floats, same: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """False and true accept rates as the threshold rises, and the area under the curve.

    Args:
        distances: of the pairs, ``(pair,)``.
        same: whether each is of one person, ``(pair,)``.

    Returns:
        Both rates ``(point,)`` from 0 to 1, one point for each distance that occurs, and the area; pairs of
        one distance count half.

    Raises:
        InputError: the arrays do not fit each other, or all pairs are of one kind.
    """
    _check(distances, same)
    if same.all() or not same.any():
        raise InputError("A ROC needs pairs of the same person and pairs of two")
    order = np.argsort(distances, kind="stable")
    last = np.append(np.diff(np.asarray(distances)[order]) > 0, True)
    true = np.concatenate([[0.0], np.cumsum(same[order])[last] / same.sum()])
    false = np.concatenate([[0.0], np.cumsum(~same[order])[last] / (~same).sum()])
    area = float(((true[1:] + true[:-1]) / 2 * np.diff(false)).sum())
    return false, true, area


def _check(distances: Floats, same: NDArray[np.bool_]) -> None:
    if distances.ndim != 1 or distances.shape != same.shape or same.dtype != np.bool_ or not len(same):
        raise InputError(
            "Verification needs distances (pair,) and booleans (pair,), at least one, got "
            f"{distances.shape} and {same.dtype} {same.shape}"
        )
    if not np.isfinite(distances).all():
        raise InputError("The distances hold NaN or infinite values")
