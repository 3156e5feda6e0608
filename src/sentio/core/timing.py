"""How long each exit takes on this machine."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np

from sentio.core.anytime import Row, anytime
from sentio.core.policy import ExitCosts

#: runs before the first that counts: memory is taken and code is loaded there
WARMING = 3


def timed_costs(row: Row, inputs: Any, costs: ExitCosts | None, *, repeats: int) -> ExitCosts:
    """The milliseconds to each exit that is switched on, the median over some runs.

    Args:
        row: the network, in PyTorch or as exported stages.
        inputs: of one sample, as the row takes them.
        costs: whose MACs are kept; zero where they are not known.
        repeats: runs that count.
    """
    laps: list[list[float]] = []
    for _ in range(WARMING + repeats):
        begun, lap = perf_counter(), []
        for step in anytime(row, inputs):
            row.to_numpy(step.output)
            lap.append((perf_counter() - begun) * 1000.0)
        laps.append(lap)
    names = tuple(point.name for point in row.exit_points)
    macs = (0.0,) * len(names) if costs is None else costs.only(names).macs
    return ExitCosts(names, macs, tuple(np.median(laps[WARMING:], axis=0).tolist()))
