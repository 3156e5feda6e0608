"""A loss of a technique's own, or an order of samples: what it is given, what it gives, when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sentio.core.features import FrontEnd
from sentio.core.multi_exit import MultiExit
from sentio.core.task import Task

#: one exit's output and the targets -> the loss that the recipe asks for, a scalar
LabelLoss = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class TrainingBatch:
    """One training step's samples, as the network gets them.

    Args:
        inputs: features after augmentation and mixing, batch first; named tensors where there are several.
        targets: class numbers ``(batch,)``, or probabilities ``(batch, class)`` where samples were mixed.
        items: each sample's place in the training part, int64 ``(batch,)``.
        losses: exit -> weight of its loss, as the phase says.
        epoch: of the phase, from 0.
        generator: on the CPU, seeded by recipe, epoch, step and device; all that is random draws from it, so
            that a resumed training goes on as it would have.
        shares: where samples were mixed, ``(batch, batch)``, row ``i`` how much of each is in sample ``i``;
            None where they were not.
    """

    inputs: Any
    targets: Tensor
    items: Tensor
    losses: Mapping[str, float]
    epoch: int
    generator: torch.Generator
    shares: Tensor | None = None


@dataclass(frozen=True)
class TrainingPart:
    """The samples of a training part, for who looks at more of them than the network's own features.

    Args:
        targets: class numbers ``(sample,)``, or what the task makes.
        rows: the recording that each sample is a window of, ``(sample,)``.
        through: the same samples through another front end, ``(sample, ...)``; raises a ConfigError where
            that one does not take them.
    """

    targets: Any
    rows: NDArray[np.int64]
    through: Callable[[FrontEnd], Any]


@dataclass(frozen=True)
class Setting:
    """What a training is about.

    Args:
        task: what the outputs mean.
        frontend: what makes the features. Its mean and deviation may not be known yet when it is checked.
        seed: the recipe's.
        part: what is trained on, once that is known.
    """

    task: Task
    frontend: FrontEnd
    seed: int = 0
    part: TrainingPart | None = None


@runtime_checkable
class Objective(Protocol):
    """What a phase minimises, where that is more than the weighted sum of the exits' losses on labels.

    One that is an ``nn.Module`` may hold parameters: they are trained with the phase's, kept in its
    checkpoints, and left behind when it ends, so they are never part of a model.
    """

    def check(self, net: MultiExit, setting: Setting) -> None:
        """Refuse what does not fit, before any feature is computed.

        Raises:
            SentioError: in one sentence.
        """
        ...

    def prepare(self, net: MultiExit, setting: Setting, inputs: NDArray[Any]) -> None:
        """Make ready what training needs; called with the features of what will be trained on.

        They are as the data set keeps them: pixels of images, uint8, for `sentio.core.features.finished`.
        """
        ...

    def losses(self, net: MultiExit, batch: TrainingBatch, label_loss: LabelLoss) -> dict[str, Tensor]:
        """Run the network and give the parts of the loss by name, scalars; their sum is minimised."""
        ...

    def identity(self) -> str:
        """A fingerprint of what the recipe does not say: an interrupted training goes on with the same."""
        ...


class SampleOrder(Protocol):
    """Which samples a phase's batches are drawn from, where not all of them come once in every epoch."""

    def check(self, net: MultiExit, setting: Setting) -> None:
        """Refuse what does not fit, before any feature is computed.

        Raises:
            SentioError: in one sentence.
        """
        ...

    def prepare(
        self, net: MultiExit, setting: Setting, inputs: NDArray[Any], targets: NDArray[np.int64]
    ) -> None:
        """Order the samples; called when the phase begins, with the network as it then is.

        Inputs are as `Objective.prepare` gets them.
        """
        ...

    def full_from(self, batches: int) -> int:
        """The first epoch, of so many batches each, that is an ordinary one."""
        ...

    def batches(self, epoch: int, count: int, size: int, seed: Sequence[int]) -> Iterator[NDArray[np.int64]]:
        """Places of the samples of each of an epoch's batches, before it is an ordinary one."""
        ...

    def identity(self) -> str:
        """A fingerprint of what the recipe does not say."""
        ...
