"""The search behind `sentio.core.calibration.fit_thresholds`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
#: for each exit but the last, the place of its threshold in its grid; the place behind the grid is "nobody"
Point = list[int]
#: the means of the search's figures to two that are compared in turn, larger is better; -inf breaks a bound
Worth = Callable[..., tuple[Any, Any]]

#: figures closer than this are the same: shares of samples, and costs as shares of the largest
EQUAL = 1e-9


class ThresholdSearch:
    """Local search over thresholds that moves two of them at a time.

    A move sets a pair of thresholds to the best of all their combinations, which two histograms give at
    once. A single threshold gets stuck where the goal allows no step of one without a step of another.

    Args:
        confidence: of each sample at each exit, ``(exit, sample)``, exits in order, the last included.
        right: whether each exit answers each sample rightly, ``(exit, sample)``.
        macs: cumulative cost of each exit.
        candidates: thresholds tried per exit: quantiles of its confidences.
        against: the exit that accuracy is compared with, sample by sample, where it has to be certain that
            it does not fall further below; None to compare with nothing.
        independent: as many samples by themselves would be worth as much to a mean; all if None.
    """

    def __init__(
        self,
        confidence: Floats,
        right: NDArray[np.bool_],
        macs: Sequence[float],
        candidates: int,
        *,
        against: int | None = None,
        independent: float | None = None,
    ) -> None:
        self.exits, self.samples = confidence.shape
        self.independent = independent or self.samples
        self.right = right.astype(np.float64)
        self.cost = np.asarray(macs, dtype=np.float64) / max(macs)
        other = np.zeros(self.samples) if against is None else self.right[against]
        self.other = float(other.mean())
        cost = np.broadcast_to(self.cost[:, None], self.right.shape)
        #: of each sample at each exit, in the order in which a `Worth` takes their means
        self.figures = (self.right, cost, (self.right - other) ** 2)
        shares = np.linspace(0.0, 1.0, candidates)
        wide = confidence.astype(np.float64)
        self.grids = [np.unique(np.quantile(row, shares, method="lower")) for row in wide[:-1]]
        # A sample leaves at an exit if its count of reached candidates is above the place of the threshold.
        self.reached = [
            np.searchsorted(grid, row, side="right") for grid, row in zip(self.grids, wide[:-1], strict=True)
        ]

    def starts(self, seed: int) -> list[Point]:
        """Everybody at one exit, for each; one threshold for all exits; seeded random ones."""
        nobody = [len(grid) for grid in self.grids]
        single = [[*nobody[:exit], *([0] * (self.exits - 1 - exit))] for exit in range(self.exits)]
        shared = [
            [int(np.searchsorted(grid, level)) for grid in self.grids]
            for level in np.linspace(0.0, 1.0, 10)[1:-1]
        ]
        generator = np.random.default_rng(seed)
        drawn = [[int(generator.integers(last + 1)) for last in nobody] for _ in range(8)]
        return [*single, *shared, *drawn]

    def most_accurate(self, starts: Sequence[Point], *, max_cost: float = np.inf) -> Point | None:
        """The most accurate point found whose mean cost, in MACs over the largest, is at most a bound."""
        return self._best(
            starts, lambda right, cost, _: (np.where(cost <= max_cost + EQUAL, right, -np.inf), -cost)
        )

    def cheapest(self, starts: Sequence[Point], *, min_accuracy: float, errors: float = 0.0) -> Point | None:
        """The cheapest point found that is at least so accurate.

        Args:
            starts: where to climb from.
            min_accuracy: on these samples.
            errors: how many standard errors, of the mean difference from the exit compared with, the
                accuracy has to be above that.
        """

        def worth(right: Any, cost: Any, squared: Any) -> tuple[Any, Any]:
            variance = np.maximum(squared - (right - self.other) ** 2, 0.0) / self.independent
            sure = right - errors * np.sqrt(variance) >= min_accuracy - EQUAL
            return np.where(sure, -cost, -np.inf), right

        return self._best(starts, worth)

    def leaves(self, point: Point) -> NDArray[np.intp]:
        """For each sample the exit at which it leaves."""
        return self._first_reached(point, 0, self.exits - 1)

    def thresholds(self, point: Point) -> list[float | None]:
        """The thresholds themselves; None where nobody leaves."""
        return [
            float(grid[place]) if place < len(grid) else None
            for grid, place in zip(self.grids, point, strict=True)
        ]

    def _best(self, starts: Sequence[Point], worth: Worth) -> Point | None:
        """The best point that a climb from one of the starts reaches; None where no start keeps the bound."""
        best: tuple[tuple[float, float], Point] | None = None
        for start in starts:
            found = self._climb(start, worth)
            if found is not None and (best is None or _better(found[0], best[0])):
                best = found
        return None if best is None else best[1]

    def _climb(self, point: Point, worth: Worth) -> tuple[tuple[float, float], Point] | None:
        value = self._worth(point, worth)
        moved = True
        while moved and np.isfinite(value[0]):
            moved = False
            for first, second in self._pairs():
                trial = self._best_pair(point, first, second, worth)
                reached = self._worth(trial, worth)
                if _better(reached, value):
                    point, value, moved = trial, reached, True
        return (value, point) if np.isfinite(value[0]) else None

    def _worth(self, point: Point, worth: Worth) -> tuple[float, float]:
        leaves, samples = self.leaves(point), np.arange(self.samples)
        first, second = worth(*(figure[leaves, samples].mean() for figure in self.figures))
        return float(first), float(second)

    def _pairs(self) -> list[tuple[int, int]]:
        """The exits whose thresholds move together; the last exit stands in where there is only one."""
        last = self.exits - 1
        return [(0, 1)] if last == 1 else list(combinations(range(last), 2))

    def _best_pair(self, point: Point, first: int, second: int, worth: Worth) -> Point:
        values = worth(*self._tables(point, first, second))
        tied = np.where(values[0] >= values[0].max() - EQUAL, values[1], -np.inf)
        place_first, place_second = np.unravel_index(tied.argmax(), tied.shape)
        trial = list(point)
        trial[first] = int(place_first)
        if second < self.exits - 1:
            trial[second] = int(place_second)
        return trial

    def _tables(self, point: Point, first: int, second: int) -> list[Floats]:
        """The mean of each figure for all combinations of two thresholds, the others as they are.

        Going from "all who get here leave at ``first``", each sample that stays there brings a difference,
        and another if it stays at ``second`` as well; cumulative sums add them up in order of the places.
        """
        before = self._first_reached(point, 0, first)
        here = np.flatnonzero(before == first)
        between = self._first_reached(point, first + 1, second)[here]
        beyond = self._first_reached(point, second + 1, self.exits - 1)[here]
        places_first = len(self.grids[first]) + 1
        row = self.reached[first][here]
        on = between == second
        if second < self.exits - 1:
            places_second = len(self.grids[second]) + 1
            cell = row[on] * places_second + self.reached[second][here[on]]
        tables = []
        for figure in self.figures:
            base = figure[before, np.arange(self.samples)].sum()
            stay = figure[between, here] - figure[first, here]
            table = base + np.cumsum(np.bincount(row, stay, places_first))[:, None]
            if second < self.exits - 1:
                stay = figure[beyond[on], here[on]] - figure[second, here[on]]
                both = np.bincount(cell, stay, places_first * places_second)
                table = table + both.reshape(places_first, -1).cumsum(axis=0).cumsum(axis=1)
            tables.append(table / self.samples)
        return tables

    def _first_reached(self, point: Point, start: int, stop: int) -> NDArray[np.intp]:
        """For each sample the first exit from ``start`` on whose threshold it reaches, else ``stop``."""
        found = np.full(self.samples, stop, dtype=np.intp)
        for exit in reversed(range(start, stop)):
            found[self.reached[exit] > point[exit]] = exit
        return found


def _better(value: tuple[float, float], than: tuple[float, float]) -> bool:
    """Compared in turn; figures that differ by rounding only are the same."""
    if abs(value[0] - than[0]) > EQUAL:
        return value[0] > than[0]
    return value[1] > than[1] + EQUAL
