"""What a task is: how outputs become confidences, answers, losses and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sentio.core.prediction import Label


@dataclass(frozen=True)
class Batch:
    """Samples with what is known about them; tensors in training, arrays elsewhere.

    Args:
        inputs: as the network takes them, batch first.
        targets: as the task takes them, batch first; None where unknown.
        mask: which time steps hold data, ``(batch, time)``; None for all.
        times: start and end of each sample in its recording in seconds, ``(batch, 2)``; None if unknown.
    """

    inputs: Any
    targets: Any = None
    mask: Any = None
    times: Any = None


class Task(Protocol):
    """The meaning of a network's output. The numpy side runs on the box, the torch side only in training."""

    name: str

    @property
    def outputs(self) -> int:
        """Width of the output that a network needs for this task."""
        ...

    # numpy side

    def confidence(self, output: NDArray[Any], measure: str) -> NDArray[np.floating[Any]] | None:
        """Between 0 and 1 for each sample, ``(batch,)``; None if the task has no such notion."""
        ...

    def choice(self, output: NDArray[Any]) -> NDArray[Any] | None:
        """The bare answer, ``(batch,)``, for comparing exits; None if answers cannot be compared."""
        ...

    def decode(
        self, output: NDArray[Any], *, exit: str, milliseconds: float, only: Sequence[str] | None = None
    ) -> Label:
        """One sample's output, without the batch axis, as a typed prediction."""
        ...

    def merge(self, parts: Sequence[Label], *, exit: str, only: Sequence[str] | None = None) -> Label:
        """The predictions of a recording's windows as one; ``exit`` is the deepest one used."""
        ...

    def silence(self) -> Label | None:
        """The answer to a window without signal; None to ask the network all the same."""
        ...

    def settings(self) -> dict[str, Any]:
        """Plain values from which the registry builds it again."""
        ...

    def score(self, output: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """Figures of merit over many samples; the first is the one to select by, larger is better."""
        ...

    # torch side

    def loss(self, output: Any, batch: Batch) -> Any:
        """Mean loss of one exit's output, a scalar tensor."""
        ...
