"""Progress on the terminal: one bar per job."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from sentio.training.progress import Progress as Step

#: figures beside the bar
SHOWN = ("train_loss", "val_loss")


class Bars:
    """A progress callback that draws on standard error, where that is a terminal."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description:20}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._bars = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._jobs: dict[str, int] = {}

    def __call__(self, step: Step) -> None:
        if step.job not in self._jobs:
            self._jobs[step.job] = self._bars.add_task(step.job, total=step.total, figures="")
        losses = (f"{name} {step.figures[name]:.3g}" for name in SHOWN if name in step.figures)
        self._bars.update(
            self._jobs[step.job],  # type: ignore[arg-type]
            completed=step.done,
            total=step.total,
            figures="  ".join(losses),
        )

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
