"""Distillation of logits: each exit of a student learns what a teacher says, beside the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

from sentio.core.anytime import FINAL, Read
from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.multi_exit import MultiExit
from sentio.core.registry import register
from sentio.techniques.distillation_objective import Comparison, Distillation, base_phases
from sentio.techniques.distillation_teacher import Average, Ensemble
from sentio.techniques.objective import LabelLoss, Setting
from sentio.techniques.phases import Phase

#: the student's last exit as the teacher of the others
SELF = "self"


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
        student, teacher: logits, ``(batch, class)`` or with more axes behind; halves are widened. The
            gradient goes to both, so detach the teacher's.
        temperature: ``tau``, above 0.
        form: ``hinton`` as above (Hinton et al. 2015); ``phinet`` for the cross-entropy of ``p`` under
            ``q`` without ``tau**2``; ``cp-jku-2022`` for ``KL`` without ``tau**2`` and averaged over
            classes too; ``cp-jku-2023`` likewise with ``tau**2``. An average over classes is the sum over
            their number.

    Returns:
        A scalar.

    Raises:
        ConfigError: a temperature that is not above 0, or no such form.
    """
    how = _form(form)
    _check_temperature(temperature)
    student, teacher = (x if x.dtype == torch.float64 else x.float() for x in (student, teacher))
    log_p = log_softmax(student / temperature, 1)
    if how.entropy:
        each = -softmax(teacher / temperature, 1) * log_p
    else:
        log_q = log_softmax(teacher / temperature, 1)
        each = kl_div(log_p, log_q, log_target=True, reduction="none")
    loss = (each.mean(1) if how.class_mean else each.sum(1)).mean()
    return loss * temperature**2 if how.squared else loss


class LogitTerm:
    """The exits' losses on labels, and how far each is from the teacher.

    Args:
        weights: exit -> weight of the distillation loss; exits that are not named learn from labels alone.
        label_weights: exit -> weight of the loss on labels.
        temperature, form: see `distillation_loss`.
        self_taught: the student's own last exit is the teacher.
    """

    taps: Sequence[Read] = ()
    teacher_taps: Sequence[Read] = ()

    def __init__(
        self,
        weights: Mapping[str, float],
        label_weights: Mapping[str, float],
        temperature: float,
        form: str,
        *,
        self_taught: bool = False,
    ) -> None:
        self.weights, self.label_weights = weights, label_weights
        self.temperature, self.form, self.self_taught = temperature, form, self_taught

    def exits(self, losses: Mapping[str, float]) -> set[str]:
        return {*losses, FINAL} if self.self_taught and self.asks(losses) else set(losses)

    def asks(self, losses: Mapping[str, float]) -> bool:
        return any(self.weights[name] > 0 for name in losses)

    def check(self, net: MultiExit, teachers: Ensemble | None, setting: Setting) -> None:
        pass

    def parts(self, seen: Comparison, label_loss: LabelLoss) -> dict[str, Tensor]:
        labels = seen.batch.targets.new_zeros((), dtype=torch.float32)
        taught = labels
        for name, weight in seen.batch.losses.items():
            output = seen.outputs[name]
            if self.label_weights[name] > 0:
                loss = label_loss(output, seen.batch.targets)
                labels = labels + weight * self.label_weights[name] * loss
            if self.weights[name] > 0:
                teacher = seen.outputs[FINAL].detach() if self.self_taught else seen.asked()
                far = distillation_loss(output, teacher, self.temperature, self.form)
                taught = taught + weight * self.weights[name] * far
        return {"labels": labels, "distillation": taught}


@register(
    "technique", "distillation", paper="Hinton et al., Distilling the Knowledge in a Neural Network, 2015"
)
def build(
    net: MultiExit,
    /,
    *,
    teacher: Any = None,
    temperature: float = 2.0,
    weight: float | Mapping[str, float] = 0.8,
    label_weight: float | None = None,
    form: str = "hinton",
    average: Average = "logits",
    cache: bool = False,
    phases: str | Mapping[str, Any] = "end-to-end",
) -> list[Phase]:
    """Every exit on labels and on a teacher's softened answers about the same batch.

    Exit ``e`` minimises ``w_e * ((1 - weight_e) * l_e + weight_e * tau**2 * KL(teacher || e))``, where
    ``w_e`` and ``l_e`` are its weight and loss in ``phases``.

    Args:
        net: the student.
        teacher: an artifact's path or a shipped model's name, a list of them, or in Python models and
            networks; ``self`` for the student's own last exit, which then learns from labels alone.
        temperature: ``tau``.
        weight: of the distillation loss, from 0 to 1, one for all exits or by exit; exits without one learn
            from labels alone. With ``label_weight`` any number from 0 up.
        label_weight: of the loss on labels of exits that are taught; by default what is missing to 1.
        form: see `distillation_loss`.
        average: of several teachers, their ``logits`` or ``probabilities``.
        cache: ask the teacher about every training sample once, before training and without augmentation.
        phases: the technique that says what is trained when.

    Raises:
        ArtifactError: no artifact of that name.
        UnknownNameError, ConfigError: an option cannot be.
    """
    _form(form)
    _check_temperature(temperature)
    self_taught = isinstance(teacher, str) and teacher == SELF
    weights = _weights(net, weight, most=1.0 if label_weight is None else float("inf"))
    if self_taught:
        weights[FINAL] = 0.0
        if not any(weights.values()):
            raise ConfigError(
                "The last exit has no other exit to teach; add exits, give them a weight, or name a teacher"
            )
        if cache:
            raise ConfigError("A network that teaches itself changes as it learns; take cache out")
    if label_weight is not None:
        _check_weight("label_weight", label_weight)
    given = {name: 1.0 - w if label_weight is None else label_weight for name, w in weights.items()}
    label_weights = {name: given[name] if weights[name] > 0 else 1.0 for name in weights}
    teachers = None if self_taught else Ensemble(teacher, average)
    return [
        replace(
            phase,
            objective=Distillation(
                teachers,
                [LogitTerm(weights, label_weights, temperature, form, self_taught=self_taught)],
                temperature=temperature,
                cache=cache,
            ),
        )
        for phase in base_phases(net, phases)
    ]


def _weights(net: MultiExit, weight: float | Mapping[str, float], most: float) -> dict[str, float]:
    """A weight for every exit, ``final`` included; 0 for those that a mapping does not name."""
    names = net.exit_names
    given = dict(weight) if isinstance(weight, Mapping) else dict.fromkeys(names, weight)
    for name, value in given.items():
        if name not in names:
            raise UnknownNameError("exit", name, names)
        _check_weight(f"The distillation loss of exit {name!r}", value, most)
    return {name: float(given.get(name, 0.0)) for name in names}


def _check_weight(what: str, value: Any, most: float = float("inf")) -> None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not 0 <= value <= most or value == float("inf"):
        upto = f"to {most:g}, or more where label_weight is given" if most < float("inf") else "up"
        raise ConfigError(f"{what} has weight {value!r}; it takes a number from 0 {upto}")


def _check_temperature(temperature: Any) -> None:
    numeric = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not numeric or not 0 < temperature < float("inf"):
        raise ConfigError(f"The temperature of distillation is a number above 0, got {temperature!r}")


def _form(name: Any) -> Form:
    if not isinstance(name, str) or name not in FORMS:
        raise UnknownNameError("form of distillation", str(name), tuple(FORMS))
    return FORMS[name]
