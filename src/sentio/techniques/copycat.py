"""Copycat: a trained teacher labels what nobody has labelled, and exits learn from both.

A. Bakhtiarnia, Q. Zhang, A. Iosifidis, "Single-Layer Vision Transformers for More Accurate Early Exits with
Less Overhead", Neural Networks 2022, after Correia-Silva et al., "Copycat CNN", IJCNN 2018.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from sentio.core.errors import ConfigError, InputError, SentioError
from sentio.core.features import FrontEnd, finished
from sentio.core.multi_exit import MultiExit
from sentio.core.registry import register
from sentio.techniques.distillation_objective import base_phases
from sentio.techniques.distillation_teacher import CHUNK, Ensemble
from sentio.techniques.objective import LabelLoss, Setting, TrainingBatch
from sentio.techniques.phases import Phase

#: files that the message about unreadable ones names
NAMED = 3


class Copycat:
    """The objective: beside each batch, ``ratio`` times as many samples that the teacher has labelled.

    Args:
        pool: a folder of files without labels, anywhere inside.
        teacher: labels them with its most probable class.
        ratio: of them to labelled samples.
    """

    def __init__(self, pool: Path, teacher: Ensemble, ratio: float) -> None:
        self.pool, self.teacher, self.ratio = pool, teacher, ratio
        self.frontend: FrontEnd | None = None
        self.inputs: NDArray[Any] | None = None
        self.labels: Tensor | None = None

    def check(self, net: MultiExit, setting: Setting) -> None:
        self.teacher.check(setting, net.backbone.example(2))
        if not self.pool.is_dir():
            raise ConfigError(f"There is no folder {self.pool} of files to label; check the technique's pool")

    def prepare(self, net: MultiExit, setting: Setting, inputs: NDArray[Any]) -> None:
        if self.labels is not None:
            return
        for member in self.teacher.members:  # the front end's mean and deviation are known now
            member.fit(setting)
        self.frontend = setting.frontend
        self.inputs = _prepared(self.pool, setting.frontend)
        parts = (self.inputs[at : at + CHUNK] for at in range(0, len(self.inputs), CHUNK))
        answers = [self.teacher.logits(self._finished(part), 1.0).argmax(1).cpu() for part in parts]
        self.labels = torch.cat(answers)

    def losses(self, net: MultiExit, batch: TrainingBatch, label_loss: LabelLoss) -> dict[str, Tensor]:
        assert self.inputs is not None and self.labels is not None, "prepare the pool first"
        count = round(self.ratio * len(batch.targets))
        drawn = torch.randint(len(self.inputs), (count,), generator=batch.generator)
        more = self._finished(self.inputs[drawn.numpy()]).to(batch.inputs)
        labels = self.labels[drawn].to(batch.targets.device)
        if batch.targets.ndim > 1:
            labels = one_hot(labels, batch.targets.shape[1]).to(batch.targets)
        outputs = net(torch.cat([batch.inputs, more]), batch.losses)
        targets = torch.cat([batch.targets, labels])
        return {
            "labels": torch.stack(
                [weight * label_loss(outputs[name], targets) for name, weight in batch.losses.items()]
            ).sum()
        }

    def identity(self) -> str:
        files = [(path.relative_to(self.pool).as_posix(), path.stat().st_size) for path in _files(self.pool)]
        return f"{self.teacher.identity()} {hashlib.sha256(repr(files).encode()).hexdigest()}"

    def _finished(self, inputs: NDArray[Any]) -> Tensor:
        return torch.from_numpy(finished(self.frontend, inputs))


def _files(folder: Path) -> list[Path]:
    inside = (path for path in folder.rglob("*") if path.is_file())
    return sorted(
        path for path in inside if not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def _prepared(folder: Path, frontend: FrontEnd) -> NDArray[Any]:
    """The windows of all files that hold a signal.

    Raises:
        InputError: a file cannot be read, or nothing is left.
    """
    found, bad = [], []
    for path in _files(folder):
        try:
            prepared = frontend.prepare(path)
        except SentioError as error:
            bad.append(str(error))
            continue
        found.append(prepared.inputs[~prepared.silent])
    if bad:
        more = f", and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise InputError(
            f"{len(bad)} files of the pool {folder} cannot be used: {'; '.join(bad[:NAMED])}{more}; "
            "correct or remove them"
        )
    if not any(map(len, found)):
        raise InputError(f"The pool {folder} holds no file with anything in it; give one that does")
    return np.concatenate(found)


@register("technique", "copycat", paper="Bakhtiarnia et al., Neural Networks 2022, section 4")
def build(
    net: MultiExit,
    /,
    *,
    teacher: Any = None,
    pool: str | None = None,
    ratio: float = 2.0,
    phases: str | Mapping[str, Any] | None = None,
) -> list[Phase]:
    """Exits learn from labelled samples and from others that a teacher has labelled.

    Meant to go on with exits that are trained already: start from their model. Samples of the pool are not
    augmented.

    Args:
        net: the network.
        teacher: an artifact's path or a shipped model's name, a list of them, or in Python models and
            networks.
        pool: a folder of files without labels, of the same kind as the data; they may show anything.
        ratio: of such samples to labelled ones in a batch.
        phases: the technique that says what is trained when; by default ``classifier-wise`` on the backbone
            as it is.

    Raises:
        ArtifactError: no artifact of that name.
        UnknownNameError, ConfigError: an option cannot be.
    """
    if pool is None:
        raise ConfigError("Copycat needs files for its teacher to label: give their folder as option pool")
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < math.inf:
        raise ConfigError(f"The ratio of samples without labels to those with is above 0, got {ratio!r}")
    base = base_phases(net, phases or {"name": "classifier-wise", "options": {"train_backbone": False}})
    copycat = Copycat(Path(pool).expanduser(), Ensemble(teacher), ratio)
    return [replace(phase, objective=copycat) for phase in base]
