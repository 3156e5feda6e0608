"""Windows put together to recordings: what each is answered, the surest mistakes, and the trade-off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.confidence import softmax
from sentio.tasks.classification import NO_EXIT

#: how many mistakes are named, and at how many thresholds the trade-off is looked at
NAMED, POINTS = 20, 40


@dataclass(frozen=True)
class Mistake:
    """A recording that was answered wrongly.

    Args:
        name: as the data set calls it; None where there are features and no files.
        truth: its label.
        answer: what it was answered; None for "none of these".
        score: the probability of the best class.
        exit: the deepest that its windows needed, ``none`` where all are silent.
    """

    name: str | None
    truth: str
    answer: str | None
    score: float
    exit: str


@dataclass(frozen=True)
class TradeoffPoint:
    """What one confidence threshold for all exits comes to.

    Args:
        threshold: leave where the largest probability reaches it; None where nobody leaves early.
        mean_macs: per window; None where costs are unknown.
        accuracy: of recordings.
    """

    threshold: float | None
    mean_macs: float | None
    accuracy: float


class Recordings:
    """The recordings that windows belong to.

    Args:
        rows: the recording of every window, silent ones included, ``(window,)``.
        targets: its class, ``(window,)``.
        heard: the places of the windows that are not silent, ``(heard,)``.
        none_below: answer "none of these" below this probability.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        targets: NDArray[np.int64],
        heard: NDArray[np.intp],
        none_below: float | None,
    ) -> None:
        self.rows, first = np.unique(rows, return_index=True)
        self.truth: NDArray[np.int64] = targets[first]
        #: for each window that is heard the place of its recording, ``(heard,)``
        self.place = np.searchsorted(self.rows, rows[heard])
        # A recording of nothing but silence has no probability at all, so it is always none of these.
        self._least = max(none_below or 0.0, np.finfo(float).tiny)
        self._windows = np.maximum(np.bincount(self.place, minlength=len(self.rows)), 1)[:, None]

    def answers(self, logits: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Class and score of each recording, by the mean of its windows' probabilities.

        Args:
            logits: of the windows that are heard, ``(heard, class)``.

        Returns:
            ``(recording,)`` each; the class is the number of classes for "none of these".
        """
        return self._answers(softmax(logits.astype(np.float64)))

    def probabilities(self, logits: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The mean probabilities of the recordings that are heard, and their classes.

        Args:
            logits: of the windows that are heard, ``(heard, class)``.

        Returns:
            ``(recording, class)`` and ``(recording,)``, without the recordings that are nothing but silence:
            those have no probabilities.
        """
        known = np.unique(self.place)
        return self._means(softmax(logits.astype(np.float64)))[known], self.truth[known]

    def accuracy(self, probabilities: NDArray[np.float64]) -> float:
        """Share of recordings answered rightly; probabilities as `answers` takes logits."""
        return float((self._answers(probabilities)[0] == self.truth).mean())

    def deepest(self, exits: NDArray[np.intp]) -> NDArray[np.intp]:
        """The deepest exit of each recording's windows, ``(recording,)``; -1 where all are silent."""
        found = np.full(len(self.rows), -1, dtype=np.intp)
        np.maximum.at(found, self.place, exits)
        return found

    def _answers(self, probabilities: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        means = self._means(probabilities)
        score = means.max(axis=1)
        return np.where(score < self._least, probabilities.shape[1], means.argmax(axis=1)), score

    def _means(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.zeros((len(self.rows), probabilities.shape[1]))
        np.add.at(sums, self.place, probabilities)
        means: NDArray[np.float64] = sums / self._windows
        return means


def mistakes(
    recordings: Recordings,
    guess: NDArray[np.int64],
    score: NDArray[np.float64],
    left: NDArray[np.intp],
    exits: Sequence[str],
    labels: Sequence[str],
    names: Sequence[str] | None,
) -> tuple[Mistake, ...]:
    """The wrong answers, the surest first, at most `NAMED`.

    Args:
        recordings: with their truth.
        guess, score: as `Recordings.answers` gives them.
        left: the exit at which each window left, ``(heard,)``.
        exits: the names of the exits.
        labels: the names of the classes.
        names: of all items of the data set; None where there are none.
    """
    deepest = recordings.deepest(left)
    wrong = np.flatnonzero(guess != recordings.truth)
    found = []
    for place in wrong[np.argsort(-score[wrong], kind="stable")][:NAMED]:
        found.append(
            Mistake(
                None if names is None else names[recordings.rows[place]],
                labels[recordings.truth[place]],
                labels[guess[place]] if guess[place] < len(labels) else None,
                float(score[place]),
                NO_EXIT if deepest[place] < 0 else exits[deepest[place]],
            )
        )
    return tuple(found)


def tradeoff(
    recordings: Recordings,
    outputs: Sequence[NDArray[Any]],
    confidence: Sequence[NDArray[np.floating[Any]] | None],
    macs: Sequence[float] | None,
) -> tuple[TradeoffPoint, ...]:
    """Cost and accuracy as one threshold moves: from everything at the first exit to everything at the last.

    Args:
        recordings: with their truth.
        outputs: of each exit, ``(heard, class)``.
        confidence: of each exit but the last, ``(heard,)``; None where the task has no such notion.
        macs: cumulative cost of each exit; None where unknown.

    Returns:
        points with rising thresholds, thus rising costs; none where there is no confidence.
    """
    known = [row for row in confidence if row is not None]
    if len(known) < len(confidence):
        return ()
    thresholds: list[float | None] = [0.0]
    if known:
        # Quantiles of what is there lie closer where more windows would leave.
        shares = np.linspace(0.0, 1.0, POINTS)[1:-1]
        thresholds += np.unique(np.quantile(np.concatenate(known), shares, method="lower")).tolist()
    thresholds.append(None)
    probabilities = np.stack([softmax(output.astype(np.float64)) for output in outputs])
    windows = np.arange(probabilities.shape[1])
    last = len(outputs) - 1
    points = []
    for threshold in thresholds:
        left = np.full(len(windows), last, dtype=np.intp)
        for exit in reversed(range(last if threshold is not None else 0)):
            left[known[exit] >= threshold] = exit
        cost = None if macs is None else float(np.asarray(macs, dtype=np.float64)[left].mean())
        points.append(TradeoffPoint(threshold, cost, recordings.accuracy(probabilities[left, windows])))
    return tuple(points)
