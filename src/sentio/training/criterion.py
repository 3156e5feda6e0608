"""The loss that a recipe asks for, on a task."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.task import Task
from sentio.tasks.losses import ClassifierLoss, inverse_weights, scaled_weights
from sentio.training.sections import LossSection


def with_loss(task: Task, section: LossSection, targets: NDArray[np.int64]) -> Task:
    """The task with the loss that a recipe asks for.

    Args:
        task: as the recipe's ``task`` builds it.
        section: the recipe's ``loss``.
        targets: class numbers of the training samples, ``(sample,)``.

    Raises:
        ConfigError: the task has a loss of its own, smooths labels already, or no training sample has a class
            that weighs anything.
        UnknownNameError: a weight for a label that is not there.
    """
    for problem in problems(task, section):
        raise ConfigError(f"loss: {problem}")
    if section.is_default:
        return task
    classifier: Any = task
    loss = ClassifierLoss(
        gamma=section.gamma if section.name == "focal" else 0.0,
        label_smoothing=section.label_smoothing or classifier.label_smoothing,
        weights=_weights(section, classifier.labels, targets),
    )
    found: Task = classifier.with_loss(loss)
    return found


def problems(task: Task, section: LossSection) -> list[str]:
    """What of a recipe's ``loss`` does not fit its task, as far as it shows without data."""
    if section.is_default:
        return []
    if not hasattr(task, "with_loss"):
        return [f"task {task.name!r} has a loss of its own; take loss out"]
    if section.label_smoothing and getattr(task, "label_smoothing", 0.0):
        return ["label_smoothing stands in task.options too; take one of them out"]
    return []


def _weights(
    section: LossSection, labels: tuple[str, ...], targets: NDArray[np.int64]
) -> tuple[float, ...] | None:
    given = section.class_weights
    if given == "none":
        return None
    counts = np.bincount(targets, minlength=len(labels))
    if isinstance(given, str):
        return scaled_weights(inverse_weights(counts, section.class_floor), counts)
    for label in given:
        if label not in labels:
            raise UnknownNameError("label", label, labels)
    weights = np.array([given.get(label, 1.0) for label in labels], dtype=np.float64)
    if not (weights * counts).sum() > 0:
        raise ConfigError("loss: no training sample has a class that weighs anything; give larger weights")
    return scaled_weights(weights, counts)
