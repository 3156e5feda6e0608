"""How long the stages and exits of a network take one by one, and whole answers; see `profiling.profile`."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sentio.core.anytime import FINAL, Boundary, ExitPoint
from sentio.core.confidence import classifier_confidence
from sentio.core.errors import SentioError
from sentio.core.features import FrontEnd, finished
from sentio.core.multi_exit import MultiExit
from sentio.core.policy import Fixed
from sentio.core.staged import evaluating
from sentio.core.timing import answer_lap


def row_times(
    net: MultiExit, inputs: Boundary, repeats: int, warmup: int
) -> tuple[list[list[float]], dict[str, list[float]]]:
    """Milliseconds of every stage and exit in order of execution, one list per row, and of whole answers.

    Rows and answers take turns, so that what disturbs the machine for a while disturbs both.
    """
    rows: list[list[float]] = []
    answers: list[list[float]] = []
    with torch.inference_mode(), evaluating(net):
        for turn in range(warmup + repeats):
            laps, whole = _row_lap(net, inputs), _answer_lap(net, inputs)
            if turn >= warmup:
                rows.append(laps)
                answers.append(whole or _sums(net, laps))
    names = [point.name for point in net.exit_points]
    return _turned(rows), dict(zip(names, _turned(answers), strict=True))


def _turned(laps: list[list[float]]) -> list[list[float]]:
    return [list(row) for row in zip(*laps, strict=True)]


def _row_lap(net: MultiExit, inputs: Boundary) -> list[float]:
    """Milliseconds of every stage and exit, run one by one."""
    laps: list[float] = []
    boundary = inputs
    seen: dict[tuple[str, str], Tensor] = {}
    for name in net.stage_names:
        boundary, ms = _timed(net.run_stage, name, boundary)
        laps.append(ms)
        seen |= {(name, key): tensor for key, tensor in boundary.items()}
        for point in due(net, name):
            tensors = [seen[read] for read in point.reads]
            _, ms = _timed(_answer_at, net, point, tensors)
            laps.append(ms)
    return laps


def _answer_lap(net: MultiExit, inputs: Boundary) -> list[float]:
    """Milliseconds until each exit's answer is given back; empty if the network has none to give."""
    try:
        return answer_lap(lambda policy: net.predict(inputs, policy))
    except (SentioError, KeyError):
        return []  # NaN, exits of unlike shapes, an end without a main tensor: its stages run all the same


def _sums(net: MultiExit, laps: list[float]) -> list[float]:
    """The milliseconds until each exit as the sum of the rows before it."""
    sums = iter(np.cumsum(laps).tolist())
    found, total = [], 0.0
    for name in net.stage_names:
        total = next(sums)
        for _ in due(net, name):
            total = next(sums)
            found.append(total)
    return [*found, total]


def _answer_at(net: MultiExit, point: ExitPoint, tensors: list[Tensor]) -> None:
    """What it takes to ask an exit: its branch, and the decision of a policy on its output."""
    output = net.to_numpy(net.run_exit(point.name, tensors))
    confidence = classifier_confidence(output) if output.ndim == 2 else None
    Fixed(FINAL).decide(confidence, output, point.name, None, 0.0, {})


def _timed(run: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    begun = perf_counter()
    output = run(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return output, (perf_counter() - begun) * 1000.0


def frontend_times(frontend: FrontEnd, repeats: int, warmup: int) -> list[float]:
    """Milliseconds of preparing one window of noise as the network takes it, for each timed run.

    The noise is what the front end's method ``noise`` gives, sound at its own rate where it has none.
    """

    def prepared() -> Any:
        return finished(frontend, frontend.prepare(source).inputs)

    own = getattr(frontend, "noise", None)
    source = _sound(frontend) if own is None else own()
    laps = [_timed(prepared)[1] for _ in range(warmup + repeats)]
    return laps[warmup:]


def _sound(frontend: FrontEnd) -> tuple[NDArray[np.float32], int]:
    """Noise of one window, and samples per second."""
    settings = frontend.settings()
    rate, seconds = int(settings.get("rate", 16_000)), float(settings.get("window", 1.0))
    length = round(rate * seconds)
    return np.random.default_rng(0).normal(0.0, 0.1, length).astype(np.float32), rate


def due(net: MultiExit, stage: str) -> list[ExitPoint]:
    """The exits with a branch that are evaluated right behind a stage."""
    return [point for point in net.exit_points if point.after == stage and point.name != FINAL]
