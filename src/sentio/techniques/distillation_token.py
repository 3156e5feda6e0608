"""DeiT's distillation token: one head for the labels, one for the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sentio.core.anytime import FINAL, MAIN, Read
from sentio.core.errors import ConfigError
from sentio.core.multi_exit import MultiExit
from sentio.core.staged import evaluating
from sentio.techniques.distillation_logits import distillation_loss, total
from sentio.techniques.distillation_objective import Comparison
from sentio.techniques.distillation_teacher import Ensemble
from sentio.techniques.objective import LabelLoss, Setting

#: what a head's ``separate`` gives: logits that labels teach, and logits that a teacher teaches
CLASS, DISTILLATION = "class", "distillation"
SOFT, HARD = "soft", "hard"


class TokenTerm:
    """The last stage's class logits on the labels, its distillation logits on the teacher.

    The last stage has a method ``separate`` that takes what the stage takes and gives logits
    ``{"class": (batch, class), "distillation": (batch, class)}``; its output is made of both. H. Touvron et
    al., *Training Data-Efficient Image Transformers & Distillation through Attention*, ICML 2021.

    Args:
        net: the student.
        kind: ``soft`` for `distillation_loss`; ``hard`` for the cross-entropy with the class that the
            teacher finds likeliest.
        weight: of the teacher's part.
        label_weight: of the labels' part.
        temperature, form: of the soft loss, see `distillation_loss`.

    Raises:
        ConfigError: no such kind, or the last stage has no such method.
    """

    def __init__(
        self, net: MultiExit, kind: str, weight: float, label_weight: float, temperature: float, form: str
    ) -> None:
        if kind not in (SOFT, HARD):
            raise ConfigError(f"A distillation token learns {SOFT} or {HARD}, got {kind!r}")
        stages = net.stage_names
        if len(stages) < 2 or not hasattr(net.backbone.stage(stages[-1]), "separate"):
            raise ConfigError(
                f"Stage {stages[-1]!r} has no logits of a distillation token; build a network that has one "
                "(head: deit), or take token out"
            )
        self.read: Read = (stages[-2], MAIN)
        self.kind, self.weight, self.label_weight = kind, weight, label_weight
        self.temperature, self.form = temperature, form

    def exits(self, losses: Mapping[str, float]) -> set[str]:
        return set()

    def asks(self, losses: Mapping[str, float]) -> bool:
        return FINAL in losses and self.weight > 0

    def taps(self, losses: Mapping[str, float]) -> set[Read]:
        return {self.read} if FINAL in losses else set()

    def teacher_taps(self, losses: Mapping[str, float]) -> set[Read]:
        return set()

    def check(self, net: MultiExit, teachers: Ensemble | None, setting: Setting) -> None:
        with evaluating(net), torch.no_grad():
            _, taps = net.tapped(net.backbone.example(2), (), (self.read,))
            found = self._separate(net, taps[self.read])
        for name in (CLASS, DISTILLATION):
            shape = tuple(found[name].shape[1:]) if name in found else None
            if shape != (setting.task.outputs,):
                raise ConfigError(
                    f"The last stage gives {name} logits of shape {shape} for each sample and the data has "
                    f"{setting.task.outputs} classes; build the network with as many"
                )

    def parts(self, seen: Comparison, label_loss: LabelLoss) -> dict[str, Tensor]:
        weight = seen.batch.losses.get(FINAL)
        if weight is None:
            return {}
        logits = self._separate(seen.net, seen.taps[self.read])
        labels, taught = [], []
        if self.label_weight > 0:
            loss = label_loss(logits[CLASS], seen.batch.targets)
            labels.append(weight * self.label_weight * loss)
        if self.weight > 0:
            taught.append(weight * self.weight * self._far(logits[DISTILLATION], seen.asked()))
        return {"labels": total(labels, seen), "distillation": total(taught, seen)}

    def _far(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.kind == HARD:
            return cross_entropy(student.float(), teacher.argmax(1))
        return distillation_loss(student, teacher, self.temperature, self.form)

    def _separate(self, net: MultiExit, tokens: Tensor) -> dict[str, Tensor]:
        head: Any = net.backbone.stage(net.stage_names[-1])
        found: dict[str, Tensor] = head.separate(tokens)
        return found
