"""Timing for the benchmarks: pairs of calls, laps that the system disturbed, and what a figure depends on."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import sentio

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Run = Callable[[Any], Any]


class Lap(NamedTuple):
    """One timed call, and whether the system put the process aside during it."""

    ms: float
    disturbed: bool


@dataclass(frozen=True)
class Ratio:
    """Two runs compared: medians in milliseconds, median and 95th percentile of the ratios of pairs.

    Args:
        calm: share of the pairs that were not disturbed.
    """

    ms: float
    reference_ms: float
    ratio: float
    p95: float
    calm: float


def compare(
    run: Run, reference: Run, inputs: Sequence[Any], repeats: int, *, processor: bool = False
) -> Ratio:
    """Time two runs on the same input, right after each other, first one first and then the other.

    Pairs that were disturbed are left out where enough others remain.

    Args:
        processor: count the processor's time and not the clock's, so that a call which is long enough to be
            disturbed every time is measured too; for what runs in one thread.
    """
    pairs: list[tuple[Lap, Lap]] = []
    for turn in range(-4, repeats):
        x = inputs[turn // 2 % len(inputs)]
        order = (0, 1) if turn % 2 else (1, 0)
        laps = {which: timed((run, reference)[which], x, processor=processor) for which in order}
        if turn >= 0:
            pairs.append((laps[0], laps[1]))
    calm = [pair for pair in pairs if not pair[0].disturbed and not pair[1].disturbed]
    counted = calm if len(calm) >= max(4, len(pairs) // 10) else pairs
    ratios = [mine.ms / other.ms for mine, other in counted]
    return Ratio(
        median(mine.ms for mine, _ in counted),
        median(other.ms for _, other in counted),
        median(ratios),
        float(np.percentile(ratios, 95)),
        len(calm) / len(pairs),
    )


def timed(run: Run, x: Any, *, processor: bool = False) -> Lap:
    """One call, by the clock or by the processor's time."""
    clock = process_time if processor else perf_counter
    switches, begun = _switches(), clock()
    run(x)
    ms = (clock() - begun) * 1000.0
    return Lap(ms, _switches() > switches)


def laps(
    run: Run, reference: Run, inputs: Sequence[Any], *, processor: bool = False
) -> tuple[list[float], list[float]]:
    """For each input the median undisturbed lap of two runs in alternating order, in milliseconds.

    Args:
        processor: as for `compare`.
    """
    found: list[tuple[list[Lap], list[Lap]]] = [([], []) for _ in inputs]
    for turn in range(-1, 5):
        for x, pair in zip(inputs, found, strict=True):
            for which in (0, 1) if turn % 2 else (1, 0):
                lap = timed((run, reference)[which], x, processor=processor)
                if turn >= 0:
                    pair[which].append(lap)
    mine, theirs = ([median(undisturbed(pair[which])) for pair in found] for which in (0, 1))
    return mine, theirs


def _switches() -> int:
    """How often the system has put this process aside; always 0 where it does not say."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def undisturbed(laps: list[Lap]) -> list[float]:
    """The milliseconds of undisturbed laps; of all where there are none."""
    calm = [lap.ms for lap in laps if not lap.disturbed]
    return calm or [lap.ms for lap in laps]


def plain_text(table: Table) -> str:
    """A table without colours or trailing spaces."""
    console = Console(width=160, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()) if hasattr(os, "getloadavg") else "?",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sentio": sentio.__version__,
    }
