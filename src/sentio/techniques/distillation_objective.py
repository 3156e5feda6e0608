"""What all distillation shares: student and teacher run once on the same batch, and terms compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sentio.core import registry
from sentio.core.anytime import Read
from sentio.core.errors import ConfigError
from sentio.core.multi_exit import MultiExit
from sentio.techniques.distillation_teacher import Ensemble
from sentio.techniques.objective import LabelLoss, Setting, TrainingBatch
from sentio.techniques.phases import Phase


@dataclass
class Comparison:
    """What student and teacher say about a batch.

    Args:
        batch: the samples.
        outputs: of the student's exits.
        taps: tensors at the student's boundaries.
        teacher: logits ``(batch, class)`` in the student's order of classes; None where no term asks.
        teacher_taps: tensors at the teacher's boundaries.
    """

    batch: TrainingBatch
    outputs: Mapping[str, Tensor]
    taps: Mapping[Read, Tensor]
    teacher: Tensor | None = None
    teacher_taps: Mapping[Read, Tensor] = field(default_factory=dict)

    def asked(self) -> Tensor:
        """The teacher's logits, where a term has asked for them."""
        assert self.teacher is not None
        return self.teacher


class Term(Protocol):
    """One comparison; one that is an ``nn.Module`` has parameters for training only."""

    #: tensors it reads at the student's and the teacher's boundaries
    taps: Sequence[Read]
    teacher_taps: Sequence[Read]

    def exits(self, losses: Mapping[str, float]) -> set[str]:
        """The student's exits that it reads, in a phase with these losses."""
        ...

    def asks(self, losses: Mapping[str, float]) -> bool:
        """Whether it reads the teacher's logits, in a phase with these losses."""
        ...

    def check(self, net: MultiExit, teachers: Ensemble | None, setting: Setting) -> None:
        """Refuse what does not fit, and make parameters where there are any; teachers are loaded."""
        ...

    def parts(self, seen: Comparison, label_loss: LabelLoss) -> dict[str, Tensor]:
        """Parts of the loss by name."""
        ...


class Distillation(nn.Module):
    """The objective of a phase in which a network learns from others.

    Args:
        teachers: None where the student teaches itself.
        terms: what is compared; the names of their parts differ.
        temperature: at which the teachers' logits are asked for.
        cache: ask the teachers about every training sample once, before training and without augmentation.
    """

    def __init__(
        self,
        teachers: Ensemble | None,
        terms: Sequence[Term],
        *,
        temperature: float = 1.0,
        cache: bool = False,
    ) -> None:
        super().__init__()
        self.teachers, self.temperature, self.cache = teachers, temperature, cache
        self.terms = tuple(terms)
        self.trained = nn.ModuleList(term for term in terms if isinstance(term, nn.Module))
        if cache and any(term.teacher_taps for term in terms):
            raise ConfigError(
                "Only the teacher's logits are kept with cache: true, and here its features are compared; "
                "take cache out"
            )

    def check(self, net: MultiExit, setting: Setting) -> None:
        if self.teachers is not None:
            self.teachers.check(setting, net.backbone.example(2))
        for term in self.terms:
            term.check(net, self.teachers, setting)

    def prepare(self, net: MultiExit, setting: Setting, inputs: NDArray[np.float32]) -> None:
        if self.teachers is None:
            return
        for teacher in self.teachers.members:  # the front end's mean and deviation are known now
            teacher.fit(setting)
        if self.cache:
            self.teachers.keep(inputs, self.temperature)

    def losses(self, net: MultiExit, batch: TrainingBatch, label_loss: LabelLoss) -> dict[str, Tensor]:
        exits = set[str]().union(*(term.exits(batch.losses) for term in self.terms))
        taps = {tap for term in self.terms for tap in term.taps}
        seen = self._teach(Comparison(batch, *net.tapped(batch.inputs, exits, taps)))
        found: dict[str, Tensor] = {}
        for term in self.terms:
            found |= term.parts(seen, label_loss)
        return found

    def identity(self) -> str:
        return "self" if self.teachers is None else self.teachers.identity()

    def _teach(self, seen: Comparison) -> Comparison:
        batch, teachers = seen.batch, self.teachers
        asks = any(term.asks(batch.losses) for term in self.terms)
        taps = {tap for term in self.terms for tap in term.teacher_taps}
        if teachers is None or not (asks or taps):
            return seen
        if self.cache:
            if batch.targets.ndim > 1:
                raise ConfigError(
                    "The teacher's answers are kept for each clip, and the batch mixes clips; take mixup out "
                    "of augment, or cache out of the technique's options"
                )
            return replace(seen, teacher=teachers.kept(batch.items))
        if taps:
            (teacher,) = teachers.members
            logits, found = teacher.run(batch.inputs, taps)
            return replace(seen, teacher=logits, teacher_taps=found)
        return replace(seen, teacher=teachers.logits(batch.inputs, self.temperature))


def base_phases(net: MultiExit, technique: str | Mapping[str, Any]) -> list[Phase]:
    """The phases of another technique, for distillation to give each its objective.

    Args:
        net: the student.
        technique: a name, or ``{"name": ..., "options": {...}}``.

    Raises:
        ConfigError: it is neither, or has a loss of its own.
    """
    given = {"name": technique} if isinstance(technique, str) else technique
    if not isinstance(given, Mapping) or not {"name"} <= set(given) <= {"name", "options"}:
        raise ConfigError(f"phases names a technique, with options where it has any; got {technique!r}")
    phases: list[Phase] = registry.build("technique", given["name"], net, **given.get("options") or {})
    if any(phase.objective is not None for phase in phases):
        raise ConfigError(
            f"Technique {given['name']!r} has a loss of its own and cannot give the phases of another one; "
            "choose end-to-end, classifier-wise or layer-wise"
        )
    return phases
