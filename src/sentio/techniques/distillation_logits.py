"""Distillation of logits: the loss, and each exit of a student on it beside its labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from sentio.core.anytime import FINAL, Read
from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.core.multi_exit import MultiExit
from sentio.techniques.distillation_objective import Comparison
from sentio.techniques.distillation_teacher import Ensemble
from sentio.techniques.objective import LabelLoss, Setting


class Form(NamedTuple):
    """How a soft loss is written where papers differ.

    ``squared`` multiplies it by the temperature's square; ``class_mean`` averages over classes instead of
    summing; ``entropy`` leaves the teacher's own entropy in, which has no gradient.
    """

    squared: bool
    class_mean: bool
    entropy: bool


FORMS = {
    "hinton": Form(squared=True, class_mean=False, entropy=False),
    "phinet": Form(squared=False, class_mean=False, entropy=True),
    "cp-jku-2022": Form(squared=False, class_mean=True, entropy=False),
    "cp-jku-2023": Form(squared=True, class_mean=True, entropy=False),
}


def distillation_loss(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, form: str = "hinton"
) -> Tensor:
    """How far a student's answers are from a teacher's, softened.

    With ``q`` and ``p`` the softmax of the teacher's and the student's logits divided by ``tau``:
    ``tau**2 * KL(q || p)``, summed over classes, averaged over the batch. Its gradient by the student's
    logits is ``tau * (p - q) / batch``.

    Args:
        student, teacher: logits, ``(batch, class)`` or with more axes behind, of any precision. The
            gradient goes to both, so detach the teacher's.
        temperature: ``tau``, above 0.
        form: ``hinton`` as above (Hinton et al. 2015); ``phinet`` for the cross-entropy of ``p`` under
            ``q`` without ``tau**2``; ``cp-jku-2022`` for ``KL`` without ``tau**2`` and averaged over
            classes too; ``cp-jku-2023`` likewise with ``tau**2``. An average over classes is the sum over
            their number.

    Returns:
        A scalar, float32 or, as the student's logits, float64.

    Raises:
        InputError: the two are not of one shape, hold no sample or class, or have no axis of classes.
        ConfigError: a temperature that is not above 0, or no such form.
    """
    how = find_form(form)
    check_temperature(temperature)
    if student.shape != teacher.shape:
        raise InputError(
            f"Student and teacher answer about the same samples and classes, got logits of shapes "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if student.dim() < 2 or not student.numel():
        raise InputError(
            f"Distillation compares logits of shape (batch, class), got {tuple(student.shape)}; give at "
            "least one sample and one class"
        )
    given = student.dtype if student.dtype == torch.float64 else torch.float32
    # tau**2 takes rounding with it: at 10,000 a loss in single precision would be three times too large.
    wide = torch.float32 if student.device.type == "mps" else torch.float64
    student, teacher = student.to(wide), teacher.to(wide)
    q = softmax(teacher / temperature, 1)
    # A class that the teacher rules out costs nothing, whatever its logarithms are, and has no gradient but
    # the softmax's.
    ruled_out = q == 0
    log_p = log_softmax(student / temperature, 1).masked_fill(ruled_out, 0.0)
    log_q = 0.0 if how.entropy else log_softmax(teacher / temperature, 1).masked_fill(ruled_out, 0.0)
    each = q * (log_q - log_p)
    loss = (each.mean(1) if how.class_mean else each.sum(1)).mean()
    return (loss * temperature**2 if how.squared else loss).to(given)


def check_temperature(temperature: Any) -> None:
    """Raise a `ConfigError` unless it is a number above 0."""
    numeric = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not numeric or not 0 < temperature < float("inf"):
        raise ConfigError(f"The temperature of distillation is a number above 0, got {temperature!r}")


def find_form(name: Any) -> Form:
    """The form of that name; raises an `UnknownNameError` where there is none."""
    if not isinstance(name, str) or name not in FORMS:
        raise UnknownNameError("form of distillation", str(name), tuple(FORMS))
    return FORMS[name]


class LogitTerm:
    """The exits' losses on labels, and how far each is from the teacher.

    Args:
        weights: exit -> weight of the distillation loss, for all exits.
        label_weights: exit -> weight of the loss on labels, for all exits.
        temperature, form: see `distillation_loss`.
        within: where the teacher is in the student: ``self`` for its last exit, ``exits`` for the mean logits
            of the exits that have a loss.
        leave: exits that another term sees to.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        label_weights: Mapping[str, float],
        temperature: float,
        form: str,
        *,
        within: str | None = None,
        leave: Collection[str] = (),
    ) -> None:
        self.weights, self.label_weights = weights, label_weights
        self.temperature, self.form = temperature, form
        self.within, self.leave = within, frozenset(leave)

    def exits(self, losses: Mapping[str, float]) -> set[str]:
        mine = set(losses) - self.leave
        return mine | {FINAL} if self.within == "self" and self.asks(losses) else mine

    def asks(self, losses: Mapping[str, float]) -> bool:
        return bool(self._taught(losses))

    def taps(self, losses: Mapping[str, float]) -> set[Read]:
        return set()

    def teacher_taps(self, losses: Mapping[str, float]) -> set[Read]:
        return set()

    def check(self, net: MultiExit, teachers: Ensemble | None, setting: Setting) -> None:
        """Any exits, and any teacher of as many classes, fit."""

    def parts(self, seen: Comparison, label_loss: LabelLoss) -> dict[str, Tensor]:
        labels, parts = [], []
        taught = self._taught(seen.batch.losses)
        teacher = self._teacher(seen) if taught else None
        for name, weight in seen.batch.losses.items():
            if name in self.leave:
                continue
            output = seen.outputs[name]
            label_weight = self.label_weights[name] if name in taught else 1.0
            if label_weight > 0:
                labels.append(weight * label_weight * label_loss(output, seen.batch.targets))
            if name in taught and teacher is not None:
                far = distillation_loss(output, teacher, self.temperature, self.form)
                parts.append(weight * self.weights[name] * far)
        return {"labels": total(labels, seen), "distillation": total(parts, seen)}

    def _taught(self, losses: Mapping[str, float]) -> set[str]:
        """The exits that learn from the teacher in a phase with these losses."""
        if self.within == "exits" and len(losses) < 2:  # one exit has nobody but itself
            return set()
        return {name for name in losses if self.weights[name] > 0 and name not in self.leave}

    def _teacher(self, seen: Comparison) -> Tensor:
        """The teacher's logits, without gradient."""
        if self.within is None:
            return seen.asked()
        if self.within == "self":
            return seen.outputs[FINAL].detach()
        return torch.stack([seen.outputs[name].detach() for name in seen.batch.losses]).mean(0)


def total(losses: Sequence[Tensor], seen: Comparison) -> Tensor:
    """The sum of scalars; zero, on the batch's device, where there are none."""
    return torch.stack(list(losses)).sum() if losses else torch.zeros((), device=seen.batch.targets.device)
