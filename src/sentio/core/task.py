"""What a task is: how outputs become confidences, answers, losses and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class TargetMaker(Task, Protocol):
    """A task whose targets are more than class numbers; what a training and an evaluation ask it beside.

    Classifiers are none: their targets are the numbers of the data set's labels, they have confidences,
    temperatures and thresholds. Everything else states here what it learns from and how it is judged.
    """

    #: what a data set must know, as `sentio.data.dataset.Dataset.truth` says it
    truth: str
    #: figures of `score` that are shown, the main one first, with their headings
    figures: Mapping[str, str]
    #: keys of a recipe's ``augment`` that leave the targets right
    follows: frozenset[str]
    #: targets that lie over the picture, ``(batch, height, width)``, and are mirrored with it
    maps: tuple[str, ...]

    def target(self, item: Any, frontend: Any, span: tuple[float, float]) -> dict[str, NDArray[Any]]:
        """What is learnt of one window of an item of a data set, by name, without a batch axis.

        Args:
            item: a `sentio.data.dataset.Item`.
            frontend: what makes its features, which the targets have to follow.
            span: start and end of the window in the item's recording, in seconds.

        Raises:
            InputError: what is known about the item cannot be used.
            ConfigError: the front end is of another kind, see `takes`.
        """
        ...

    def takes(self, frontend: Any) -> str | None:
        """What is wrong with a front end for this task, as half a sentence; None if it fits."""
        ...

    def fits(self, shape: tuple[int, ...], inputs: Mapping[str, tuple[int, ...]]) -> str | None:
        """What is wrong with an exit that gives ``shape`` for each sample; None if it fits.

        Args:
            shape: without the batch axis.
            inputs: the shapes of the network's inputs, without the batch axis.
        """
        ...

    def reduced(self, output: NDArray[Any]) -> NDArray[Any]:
        """What `score` needs of many samples' outputs, which may be less than there is, batch first."""
        ...
