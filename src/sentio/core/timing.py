"""How long each exit takes on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.answering import Answers, answer
from sentio.core.anytime import FINAL, Row, anytime
from sentio.core.confidence import MAX_PROBABILITY
from sentio.core.errors import SentioError
from sentio.core.policy import ExitCosts, Fixed, Mask, Memory, Policy
from sentio.core.task import Task

#: runs before the first that counts: memory is taken and code is loaded there
WARMING = 3


def timed_costs(
    row: Row,
    inputs: Any,
    costs: ExitCosts | None,
    *,
    repeats: int,
    task: Task | None = None,
    temperatures: Mapping[str, float] | None = None,
) -> ExitCosts:
    """The milliseconds to each exit that is switched on, the median over some runs.

    They are of whole answers, from the call until the answer is given back, as those of a profile are: a
    deadline counts from there, and around a small network the call takes a good part of the time.

    Args:
        row: the network, in PyTorch or as exported stages.
        inputs: of one sample, as the row takes them.
        costs: whose MACs are kept; zero where they are not known.
        repeats: runs that count.
        task, temperatures: of the answers, see `sentio.core.answering.answer`.
    """

    def lap() -> list[float]:
        try:
            return answer_lap(lambda policy: answer(row, inputs, policy, task, temperatures=temperatures))
        except SentioError:  # exits of unlike shapes, which can be asked one by one only
            return _bare_lap(row, inputs)

    laps = [lap() for _ in range(WARMING + repeats)]
    names = tuple(point.name for point in row.exit_points)
    macs = (0.0,) * len(names) if costs is None else costs.only(names).macs
    return ExitCosts(names, macs, tuple(np.median(laps[WARMING:], axis=0).tolist()))


def answer_lap(answering: Callable[[Policy], Answers]) -> list[float]:
    """Milliseconds until each exit's answer is given back, from one call in which nobody leaves early."""
    watch, begun = _Watch(), perf_counter()
    answers = answering(watch)
    whole = (perf_counter() - begun) * 1000.0
    around = whole - float(answers.ms[0])
    return [*(elapsed + around for elapsed in watch.elapsed), whole]


class _Watch:
    """A policy that lets nobody leave early and takes down when it was asked."""

    measure = MAX_PROBABILITY

    def __init__(self) -> None:
        self.elapsed: list[float] = []

    def evaluates(self, exit: str) -> bool:
        return True

    def decide(
        self,
        confidence: NDArray[np.floating[Any]] | None,
        prediction: NDArray[Any] | None,
        exit: str,
        costs: ExitCosts | None,
        elapsed: float,
        memory: Memory,
    ) -> tuple[Mask, Memory]:
        self.elapsed.append(elapsed)
        return Fixed(FINAL).decide(confidence, prediction, exit, costs, elapsed, memory)


def _bare_lap(row: Row, inputs: Any) -> list[float]:
    """Milliseconds until each exit's output is there."""
    begun, lap = perf_counter(), []
    for step in anytime(row, inputs):
        row.to_numpy(step.output)
        lap.append((perf_counter() - begun) * 1000.0)
    return lap
