"""Single-label classification: one class of a fixed list, or none of these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.confidence import classifier_confidence, softmax
from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.numeric import within
from sentio.core.prediction import Label
from sentio.core.registry import register
from sentio.core.task import Batch
from sentio.tasks.losses import ClassifierLoss
from sentio.tasks.metrics.probabilities import macro_accuracy

#: the exit of an answer for which no network was run
NO_EXIT = "none"


class Classification:
    """One label per sample; outputs are logits, ``(batch, class)``.

    Args:
        labels: the classes, in the order of the logits.
        none_below: answer "none of these" where the best probability is lower; None never does.
        label_smoothing: of the training loss.

    Raises:
        ConfigError: fewer than two labels, a label twice or empty, or a number out of range.
    """

    name = "classification"

    def __init__(
        self, labels: Sequence[str], *, none_below: float | None = None, label_smoothing: float = 0.0
    ) -> None:
        self.labels = () if isinstance(labels, str) or not isinstance(labels, Iterable) else tuple(labels)
        texts = all(isinstance(label, str) and label for label in self.labels)
        if not texts or len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"Classification needs a list of two or more different names, got {labels!r}")
        if none_below is not None and not within(none_below, 0, 1):
            raise ConfigError(f"none_below is a probability between 0 and 1, got {none_below!r}")
        if not within(label_smoothing, 0, 1) or label_smoothing == 1:
            raise ConfigError(f"label_smoothing lies between 0 and 1, 1 excluded, got {label_smoothing!r}")
        self.none_below = none_below
        self.label_smoothing = label_smoothing
        self.training_loss = ClassifierLoss(label_smoothing=label_smoothing)

    @property
    def outputs(self) -> int:
        """One logit per label."""
        return len(self.labels)

    def confidence(self, output: NDArray[Any], measure: str) -> NDArray[np.floating[Any]]:
        return classifier_confidence(output, measure)

    def choice(self, output: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(output.argmax(axis=-1))

    def decode(
        self, output: NDArray[Any], *, exit: str, milliseconds: float, only: Sequence[str] | None = None
    ) -> Label:
        self._check_only(only)
        return self._label(softmax(output.astype(np.float64)), exit, milliseconds, only)

    def merge(self, parts: Sequence[Label], *, exit: str, only: Sequence[str] | None = None) -> Label:
        """The mean of the windows' probabilities; silent windows count only if all are silent."""
        self._check_only(only)
        heard = [part for part in parts if part.scores]
        spent = sum(part.milliseconds for part in parts)
        if heard:
            mean = np.mean([[part.scores[label] for label in self.labels] for part in heard], axis=0)
            merged = self._label(mean, exit, spent, only)
        else:
            merged = replace(self.silence(), milliseconds=spent)
        windows = tuple(parts) if len(parts) > 1 else ()
        return replace(merged, start=parts[0].start, end=parts[-1].end, windows=windows)

    def silence(self) -> Label:
        """None of these, from no exit."""
        return Label(None, 0.0, NO_EXIT, 0.0)

    def settings(self) -> dict[str, Any]:
        return {
            "labels": list(self.labels),
            "none_below": self.none_below,
            "label_smoothing": self.label_smoothing,
        }

    def score(self, output: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """Accuracy, and accuracy averaged over the classes present (macro)."""
        answers = self.choice(output)
        right = float((answers == targets).mean())
        return {"accuracy": right, "macro_accuracy": macro_accuracy(answers, targets)}

    def loss(self, output: Any, batch: Batch) -> Any:
        """``training_loss``; targets are class indices ``(batch,)`` or probabilities ``(batch, class)``."""
        return self.training_loss(output, batch.targets)

    def with_loss(self, loss: ClassifierLoss) -> Classification:
        """The same task, trained on another loss; the loss is no part of the settings."""
        task = Classification(self.labels, none_below=self.none_below, label_smoothing=self.label_smoothing)
        task.training_loss = loss
        return task

    def _label(
        self, probabilities: NDArray[Any], exit: str, milliseconds: float, only: Sequence[str] | None
    ) -> Label:
        order = np.argsort(-probabilities, kind="stable")
        scores = {self.labels[i]: float(probabilities[i]) for i in order}
        best = self.labels[order[0]]
        score = scores[best]
        unwanted = only is not None and best not in only
        unsure = self.none_below is not None and score < self.none_below
        return Label(None if unwanted or unsure else best, score, exit, milliseconds, scores)

    def _check_only(self, only: Sequence[str] | None) -> None:
        if isinstance(only, str):
            raise ConfigError(f"only takes a list of labels, got the text {only!r}")
        for label in only or ():
            if label not in self.labels:
                raise UnknownNameError("label", label, self.labels)


@register("task", "classification")
def build(
    labels: Sequence[str], none_below: float | None = None, label_smoothing: float = 0.0
) -> Classification:
    """One class of a fixed list, or none of these."""
    return Classification(labels, none_below=none_below, label_smoothing=label_smoothing)
