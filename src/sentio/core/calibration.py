"""Calibration on validation data, in numpy: temperatures, thresholds, and exits not worth having."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.confidence import softmax
from sentio.core.errors import ConfigError, InputError
from sentio.core.threshold_search import ThresholdSearch

Floats = NDArray[np.floating[Any]]


def negative_log_likelihood(logits: Floats, targets: NDArray[np.integer[Any]]) -> float:
    """Mean negative log-likelihood of the targets; logits ``(sample, class)``."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]).mean())


def expected_calibration_error(logits: Floats, targets: NDArray[np.integer[Any]], *, bins: int = 15) -> float:
    """ECE with bins of equal width over the largest probability (Guo et al., ICML 2017).

    Args:
        logits: ``(sample, class)``.
        targets: class indices, ``(sample,)``.
    """
    return binned_calibration_error(softmax(logits.astype(np.float64)), targets, bins=bins)


def binned_calibration_error(
    probabilities: Floats, targets: NDArray[np.integer[Any]], *, bins: int = 15
) -> float:
    """`expected_calibration_error` of probabilities, ``(sample, class)``, in place of logits."""
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == targets) - confidence
    # Bins are closed on the right, as in the paper.
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(place, weights=gap, minlength=bins)).sum() / len(targets))


def fit_temperature(
    logits: Floats, targets: NDArray[np.integer[Any]], *, limits: tuple[float, float] = (0.05, 20.0)
) -> float:
    """The temperature that minimises the negative log-likelihood (Guo et al., ICML 2017).

    The loss is convex in 1/T, so its minimum is where the slope changes sign, and bisection finds it. Where
    all samples are right it would fall towards T = 0, as sure as can be on no evidence; there one sample in
    n + 2 counts as wrong (Platt's targets, 1999). 1.0 is given where no temperature is better than none.

    Args:
        logits: ``(sample, class)``.
        targets: class indices, ``(sample,)``.
        limits: the temperatures between which to search.

    Raises:
        ConfigError: there are no samples.
        InputError: logits are NaN or infinite, or there is not one class of theirs for each sample.
    """
    if not len(logits):
        raise ConfigError("A temperature cannot be fitted: the validation set is empty")
    if not np.isfinite(logits).all():
        raise InputError("A temperature cannot be fitted: the logits hold NaN or infinite values")
    if targets.shape != logits.shape[:1] or targets.min() < 0 or targets.max() >= logits.shape[-1]:
        raise InputError(
            f"A temperature is fitted to logits (sample, class) and a class for each, got {logits.shape} and "
            f"{targets.shape}; leave out samples without a class"
        )
    wide = logits.astype(np.float64)
    samples, classes = wide.shape
    target_mean = wide[np.arange(samples), targets].mean()
    if classes > 1 and (wide.argmax(axis=1) == targets).all():
        other_mean = (wide.sum(axis=1).mean() - target_mean) / (classes - 1)
        target_mean -= (target_mean - other_mean) / (samples + 2)
    low, high = np.log(limits[0]), np.log(limits[1])
    for _ in range(40):
        middle = (low + high) / 2.0
        # d NLL / d(1/T): the mean expected logit minus the mean logit of the target; positive: too sharp.
        if (softmax(wide / np.exp(middle)) * wide).sum(axis=1).mean() > target_mean:
            low = middle
        else:
            high = middle
    found = float(np.exp((low + high) / 2.0))
    better = negative_log_likelihood(wide / found, targets) < negative_log_likelihood(wide, targets)
    return found if better else 1.0


@dataclass(frozen=True)
class Operating:
    """Where a set of thresholds lands on the data it was fitted on.

    Args:
        thresholds: one per exit but the last; None where nobody leaves.
        accuracy: share of samples answered rightly.
        mean_macs: mean multiply-accumulates per sample.
        share: share of samples leaving at each exit, the last included.
    """

    thresholds: tuple[float | None, ...]
    accuracy: float
    mean_macs: float
    share: tuple[float, ...]


def fit_thresholds(
    confidence: Floats,
    right: NDArray[np.bool_],
    macs: Sequence[float],
    *,
    target_accuracy: float | None = None,
    mean_macs: float | None = None,
    certainty: float = 0.5,
    against: int | None = None,
    groups: NDArray[np.integer[Any]] | None = None,
    candidates: int = 64,
    seed: int = 0,
) -> Operating:
    """Thresholds that are cheapest at a target accuracy, or most accurate at a mean cost.

    A local search over quantiles of each exit's confidences that moves two thresholds at a time, from
    single exits, shared thresholds and seeded random starts: with up to three exits it finds the best
    combination of those quantiles. The result always meets the goal on this data.

    Few samples say little: where early exits happen to be right on them, everybody would leave there.
    ``certainty`` asks that the goal is met on new data with this probability too, as far as the normal
    approximation of a mean goes. Compared with an exit sample by sample (``against``), answers that agree
    with that exit's bring no doubt, and those that leave where the exits disagree do.

    Args:
        confidence: of each sample at each exit, ``(exit, sample)``, exits in order, the last included.
        right: whether each exit answers each sample rightly, ``(exit, sample)``.
        macs: cumulative cost of each exit, the exits before it included.
        target_accuracy: between 0 and 1; give this or ``mean_macs``.
        mean_macs: upper bound on the mean cost per sample.
        certainty: that ``target_accuracy`` holds beyond these samples, from 0.5 (as likely as not) to 1.
        against: the exit whose accuracy less a drop ``target_accuracy`` is, by its place; None for a target
            that stands by itself.
        groups: what samples belong together, such as the recording of each window, ``(sample,)``. They are
            right and wrong together, so for ``certainty`` a group counts as one sample, and as less where
            another is much larger. All by themselves if None.
        candidates: thresholds tried per exit.
        seed: of the random starts.

    Raises:
        ConfigError: both or neither goal is given, the arrays do not fit each other, or the goal cannot be
            met; says what can.
    """
    if (target_accuracy is None) == (mean_macs is None):
        raise ConfigError("Give either target_accuracy or mean_macs, to fit thresholds for")
    if confidence.ndim != 2 or right.shape != confidence.shape or len(macs) != len(confidence):
        raise ConfigError(
            "Thresholds need confidence and right of one shape (exit, sample) and a cost for each exit, "
            f"got {confidence.shape}, {right.shape} and {len(macs)} costs"
        )
    if max(macs) <= 0:
        raise ConfigError("Thresholds cannot be fitted: the exits cost nothing; count their MACs first")
    if not confidence.shape[1]:
        raise ConfigError("Thresholds cannot be fitted: the validation set is empty")
    if not 0.5 <= certainty < 1.0:
        raise ConfigError(f"Thresholds can be certain from 0.5 to below 1, got {certainty!r}")
    if groups is not None and groups.shape != confidence.shape[1:]:
        raise ConfigError(f"Groups name one for each of {confidence.shape[1]} samples, got {groups.shape}")
    independent = None if groups is None else _independent(groups)
    search = ThresholdSearch(confidence, right, macs, candidates, against=against, independent=independent)
    starts = search.starts(seed)
    if mean_macs is not None:
        point = search.most_accurate(starts, max_cost=mean_macs / max(macs))
        if point is None:
            raise ConfigError(
                f"A mean of {mean_macs:,.0f} MACs cannot be met: the cheapest exit alone costs "
                f"{min(macs):,.0f}, so ask for at least that"
            )
    else:
        assert target_accuracy is not None
        errors = NormalDist().inv_cdf(certainty)
        point = search.cheapest(starts, min_accuracy=target_accuracy, errors=errors)
        if point is None:  # every start misses it, but exits together may be better than each of them
            best = search.most_accurate(starts)
            assert best is not None
            point = search.cheapest([best], min_accuracy=target_accuracy, errors=errors)
            if point is None:
                top = right[search.leaves(best), np.arange(right.shape[1])].mean()
                less = "less" if errors else "at most that"
                sure = f" with a certainty of {certainty:g}" if errors else ""
                raise ConfigError(
                    f"No thresholds reach the target accuracy {target_accuracy:.4f} on the validation data"
                    f"{sure}; the most accurate have {top:.4f}, so ask for {less}"
                )
    leaves = search.leaves(point)
    share = tuple(float((leaves == exit).mean()) for exit in range(len(macs)))
    return Operating(
        tuple(value if part else None for value, part in zip(search.thresholds(point), share, strict=False)),
        float(right[leaves, np.arange(right.shape[1])].mean()),
        float(np.asarray(macs, dtype=np.float64)[leaves].mean()),
        share,
    )


def _independent(groups: NDArray[np.integer[Any]]) -> float:
    """How many samples by themselves are worth as much to a mean as these, if a group all says the same.

    Kish's effective sample size: the number of groups where they are of one size, less where one outweighs
    the others.
    """
    sizes = np.unique(groups, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def impractical(names: Sequence[str], accuracy: Sequence[float], macs: Sequence[float]) -> tuple[str, ...]:
    """Exits that are not strictly better than every cheaper one (Bakhtiarnia et al. 2022: "impractical").

    Of two exits of the same cost the less accurate one is impractical too; of two that are the same in both,
    neither is.

    Args:
        names, accuracy, macs: of each exit, in any order.
    """
    exits = list(zip(names, accuracy, macs, strict=True))
    return tuple(
        name
        for name, score, cost in exits
        if any(
            (other_cost < cost and other_score >= score) or (other_cost == cost and other_score > score)
            for _, other_score, other_cost in exits
        )
    )
