"""What all distillation shares: student and teacher run once on the same batch, and terms compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor, nn

from sentio.core import registry
from sentio.core.anytime import Read
from sentio.core.errors import ConfigError
from sentio.core.multi_exit import MultiExit
from sentio.techniques.distillation_patchout import SharedPatchout
from sentio.techniques.distillation_teacher import Ensemble
from sentio.techniques.objective import LabelLoss, Setting, TrainingBatch
from sentio.techniques.phases import Phase


@dataclass
class Comparison:
    """What student and teacher say about a batch.

    Args:
        net: the student.
        batch: the samples.
        outputs: of the student's exits.
        taps: tensors at the student's boundaries.
        teacher: logits ``(batch, class)`` in the student's order of classes; None where no term asks.
        teacher_taps: tensors at the teacher's boundaries.
        grid: of the patches that both kept, where patches were left out.
    """

    net: MultiExit
    batch: TrainingBatch
    outputs: Mapping[str, Tensor]
    taps: Mapping[Read, Tensor]
    teacher: Tensor | None = None
    teacher_taps: Mapping[Read, Tensor] = field(default_factory=dict)
    grid: tuple[int, int] | None = None

    def asked(self) -> Tensor:
        """The teacher's logits, where a term has asked for them."""
        assert self.teacher is not None
        return self.teacher


class Term(Protocol):
    """One comparison; one that is an ``nn.Module`` has parameters for training only."""

    def exits(self, losses: Mapping[str, float]) -> set[str]:
        """The student's exits that it reads, in a phase with these losses."""
        ...

    def asks(self, losses: Mapping[str, float]) -> bool:
        """Whether it reads the teacher's logits, in a phase with these losses."""
        ...

    def taps(self, losses: Mapping[str, float]) -> set[Read]:
        """Tensors that it reads at the student's boundaries, in a phase with these losses."""
        ...

    def teacher_taps(self, losses: Mapping[str, float]) -> set[Read]:
        """Tensors that it reads at the teacher's boundaries."""
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
        terms: what is compared; parts of the same name are added.
        temperature: at which the teachers' logits are asked for.
        cache: ask the teachers about every training sample once, before training and without augmentation.
        patchout: the patches that student and teachers leave out.

    Raises:
        ConfigError: what is kept beforehand cannot be what the terms read.
    """

    def __init__(
        self,
        teachers: Ensemble | None,
        terms: Sequence[Term],
        *,
        temperature: float = 1.0,
        cache: bool = False,
        patchout: SharedPatchout | None = None,
    ) -> None:
        super().__init__()
        self.teachers, self.temperature, self.cache = teachers, temperature, cache
        self.patchout = patchout
        self.terms = tuple(terms)
        self.trained = nn.ModuleList(term for term in terms if isinstance(term, nn.Module))
        if cache and (patchout is not None or len(self.trained)):
            raise ConfigError(
                "With cache the teacher's answers about whole clips are kept, and neither its features nor "
                "answers about some patches; take cache out"
            )

    def check(self, net: MultiExit, setting: Setting) -> None:
        if self.teachers is not None:
            self.teachers.check(setting, net.backbone.example(2))
            if self.patchout is not None:
                for teacher in self.teachers.members:
                    self.patchout.check(net, teacher.net, teacher.name)
        for term in self.terms:
            term.check(net, self.teachers, setting)

    def prepare(self, net: MultiExit, setting: Setting, inputs: NDArray[Any]) -> None:
        if self.teachers is None:
            return
        for teacher in self.teachers.members:  # the front end's mean and deviation are known now
            teacher.fit(setting)
        if self.cache:
            self.teachers.keep(inputs, self.temperature, setting)

    def losses(self, net: MultiExit, batch: TrainingBatch, label_loss: LabelLoss) -> dict[str, Tensor]:
        inputs, grid = batch.inputs, None
        if self.patchout is not None:
            inputs, grid = self.patchout.draw(net, inputs, batch.generator)
        exits = set[str]().union(*(term.exits(batch.losses) for term in self.terms))
        taps = set[Read]().union(*(term.taps(batch.losses) for term in self.terms))
        outputs, found = net.tapped(inputs, exits, taps)
        teacher, theirs = self._ask(inputs, batch)
        seen = Comparison(net, batch, outputs, found, teacher, theirs, grid)
        parts: dict[str, Tensor] = {}
        for term in self.terms:
            for name, part in term.parts(seen, label_loss).items():
                parts[name] = parts[name] + part if name in parts else part
        return parts

    def identity(self) -> str:
        return "self" if self.teachers is None else self.teachers.identity()

    def _ask(self, inputs: Any, batch: TrainingBatch) -> tuple[Tensor | None, Mapping[Read, Tensor]]:
        """What the teachers say, as far as a term reads it."""
        teachers = self.teachers
        asks = any(term.asks(batch.losses) for term in self.terms)
        taps = set[Read]().union(*(term.teacher_taps(batch.losses) for term in self.terms))
        if teachers is None or not (asks or taps):
            return None, {}
        if self.cache:
            return teachers.kept(batch.items, batch.shares), {}
        if taps:
            (teacher,) = teachers.members
            return teacher.run(inputs, taps)
        return teachers.logits(inputs, self.temperature), {}


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
