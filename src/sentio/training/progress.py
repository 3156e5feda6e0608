"""How a long job tells its caller where it is, and how the caller stops it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sentio.core.errors import CancelledError


@dataclass(frozen=True)
class Progress:
    """One step forward.

    Args:
        job: what is being done: ``features``, ``train`` with the phase's name, ``evaluate``.
        done, total: steps; ``done`` never falls within a job, and a job that ends early does not reach
            ``total``.
        figures: losses, accuracies and the learning rate of the last epoch.
    """

    job: str
    done: int
    total: int
    figures: Mapping[str, float] = field(default_factory=dict)


Report = Callable[[Progress], None]
Cancel = Callable[[], bool]


def stop_if(cancel: Cancel | None, what: str) -> None:
    """Raise `CancelledError` if the caller wants to stop."""
    if cancel is not None and cancel():
        raise CancelledError(f"{what} was stopped on request")


def counter(report: Report, job: str) -> Callable[[int, int], None]:
    """A plain (done, total) callback that reports a job's steps."""
    return lambda done, total: report(Progress(job, done, total))


def main_process() -> bool:
    """Whether this process writes and talks: with several devices the same command runs once for each."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))
