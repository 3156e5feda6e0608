"""Curriculum learning: samples come in order of difficulty, more of them as training goes on.

A. Bakhtiarnia, Q. Zhang, A. Iosifidis, "Improving the Accuracy of Early Exits in Multi-Exit Architectures via
Curriculum Learning", IJCNN 2021; G. Hacohen, D. Weinshall, ICML 2019.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from sentio.core.anytime import FINAL
from sentio.core.errors import ConfigError
from sentio.core.features import finished
from sentio.core.multi_exit import MultiExit
from sentio.core.registry import register
from sentio.core.staged import evaluating
from sentio.techniques.distillation_objective import base_phases
from sentio.techniques.distillation_teacher import CHUNK, Ensemble
from sentio.techniques.objective import Setting
from sentio.techniques.pacing import Pacing, find_pacing
from sentio.techniques.phases import Phase

Order = Literal["easy-first", "hard-first", "random"]
ORDERS = ("easy-first", "hard-first", "random")
#: the network's own last exit, as it is when the phase begins, as the teacher
SELF = "self"
Places = NDArray[np.int64]


def difficulty(logits: Tensor, targets: Tensor) -> Tensor:
    """How hard samples are for whoever gave the logits: ``logsumexp(z) - z_y``, ``(batch,)``.

    Args:
        logits: ``(batch, class)``.
        targets: class numbers, ``(batch,)``.
    """
    return cross_entropy(logits, targets, reduction="none")


def sample_order(
    scores: NDArray[Any],
    order: Order = "easy-first",
    *,
    targets: NDArray[Any] | None = None,
    seed: int = 0,
) -> Places:
    """The places of samples in the order in which they become available.

    Args:
        scores: difficulty of each, ``(sample,)``. Equal ones keep the order of their places.
        order: ``easy-first``, ``hard-first`` (anti-curriculum, the exact reversal), or ``random``, one
            permutation that ignores the scores.
        targets: class numbers, to take classes in turn, so that every beginning of the order is balanced
            as far as there are samples; None to go by scores alone.
        seed: of the random order.

    Raises:
        ConfigError: no such order.
    """
    if order not in ORDERS:
        raise ConfigError(f"The order of samples is one of {', '.join(ORDERS)}, got {order!r}")
    if order == "random":
        return np.random.Generator(np.random.PCG64(seed)).permutation(len(scores))
    found = np.argsort(scores, kind="stable")
    if order == "hard-first":
        found = found[::-1]
    if targets is None:
        return found
    classes = targets[found]
    # Rank within the class, as a share of it: the easiest part of each class comes first.
    share = np.empty(len(found))
    for label in np.unique(classes):
        of_it = np.flatnonzero(classes == label)
        share[of_it] = np.arange(len(of_it)) / len(of_it)
    return found[np.argsort(share, kind="stable")]


class Curriculum:
    """Which samples a phase's batches are drawn from; implements `sentio.techniques.objective.SampleOrder`.

    Args:
        scores: the difficulty of each training sample; None where a teacher says it.
        teacher: of the scores; None for the network itself, as it is when the phase begins.
        order: see `sample_order`.
        pacing: the share of samples by batch.
        balanced: whether every beginning of the order holds the same share of each class.
    """

    def __init__(
        self,
        scores: NDArray[Any] | None,
        teacher: Ensemble | None,
        order: Order,
        pacing: Pacing,
        balanced: bool,
    ) -> None:
        self.scores, self.teacher, self.order = scores, teacher, order
        self.pacing, self.balanced = pacing, balanced
        self.places: Places | None = None

    def check(self, net: MultiExit, setting: Setting) -> None:
        """Load the teacher and see that it fits.

        Raises:
            SentioError: it does not.
        """
        if self.teacher is not None:
            self.teacher.check(setting, net.backbone.example(2))

    def prepare(
        self, net: MultiExit, setting: Setting, inputs: NDArray[Any], targets: NDArray[np.int64]
    ) -> None:
        """Score and order the samples, without augmentation.

        Raises:
            ConfigError: as many scores were given as there are samples not.
        """
        if self.teacher is not None:
            for member in self.teacher.members:  # the front end's mean and deviation are known now
                member.fit(setting)
        scores = self.scores
        if self.order == "random":
            scores = np.zeros(len(targets))
        elif scores is None:
            scores = self._asked(net, setting, inputs, targets)
        if len(scores) != len(targets):
            raise ConfigError(
                f"There are {len(scores)} scores and {len(targets)} samples to train on; give one for each"
            )
        classes = targets if self.balanced else None
        self.places = sample_order(scores, self.order, targets=classes, seed=setting.seed)

    def full_from(self, batches: int) -> int:
        """The first epoch of ``batches`` each in which everything is available throughout; large if none."""
        for epoch in range(10_000):
            if self.pacing(epoch * batches) >= 1:
                return epoch
        return 10_000

    def available(self, batch: int, size: int) -> int:
        """How many samples a batch of this size is drawn from."""
        assert self.places is not None, "prepare the order first"
        samples = len(self.places)
        # A share such as 0.04 may be a little less than it says, as a float.
        return min(samples, max(size, int(self.pacing(batch) * samples + 1e-9)))

    def batches(self, epoch: int, count: int, size: int, seed: Sequence[int]) -> Iterator[Places]:
        """The samples of each batch of an epoch in which not everything is available from the start.

        Each is drawn from the first ``floor(share * samples)`` of the order, at least one batch of them, none
        twice in a batch.

        Args:
            epoch: from 0.
            count: batches in an epoch.
            size: of a batch.
            seed: numbers that differ where batches are to differ.
        """
        assert self.places is not None, "prepare the order first"
        for place in range(count):
            available = self.available(epoch * count + place, size)
            generator = np.random.default_rng([*seed, epoch, place])
            chosen = generator.choice(available, min(size, available), replace=False)
            yield self.places[chosen]

    def identity(self) -> str:
        """A fingerprint of what the recipe does not say."""
        given = b"" if self.scores is None else np.asarray(self.scores, np.float64).tobytes()
        teacher = SELF if self.teacher is None else self.teacher.identity()
        return f"{teacher} {hashlib.sha256(given).hexdigest()}"

    def _asked(
        self, net: MultiExit, setting: Setting, inputs: NDArray[Any], targets: NDArray[np.int64]
    ) -> NDArray[Any]:
        found = []
        with torch.no_grad(), evaluating(net):
            for at in range(0, len(inputs), CHUNK):
                x = torch.from_numpy(finished(setting.frontend, inputs[at : at + CHUNK]))
                logits = net(x, (FINAL,))[FINAL] if self.teacher is None else self.teacher.logits(x, 1.0)
                found.append(difficulty(logits, torch.from_numpy(targets[at : at + CHUNK])))
        return torch.cat(found).numpy()


@register(
    "technique",
    "curriculum",
    paper="Bakhtiarnia et al., IJCNN 2021; Hacohen and Weinshall, ICML 2019",
)
def build(
    net: MultiExit,
    /,
    *,
    teacher: Any = SELF,
    order: Order = "easy-first",
    pacing: str | Mapping[str, Any] = "fixed-exponential",
    balanced: bool = False,
    scores: Sequence[float] | None = None,
    phases: str | Mapping[str, Any] | None = None,
) -> list[Phase]:
    """Batches from the samples that are easiest for a teacher at first, and from ever more of them.

    Once everything is available, epochs are those of any other training.

    Args:
        net: the network.
        teacher: who says what is hard: an artifact's path or a shipped model's name, a list of them, or in
            Python models and networks; ``self`` for the network's own last exit as it is when a phase begins.
        order: ``easy-first`` (curriculum), ``hard-first`` (anti-curriculum), or ``random``, the control in
            which the pacing alone counts.
        pacing: a name of `sentio.techniques.pacing.PACINGS`, with options:
            ``{name: fixed-exponential, start: 0.04, growth: 1.9, every: 100}``.
        balanced: whether the easiest of every class come first, and not the easiest of all.
        scores: in place of a teacher, the difficulty of each training sample, in their order.
        phases: the technique that says what is trained when; by default ``classifier-wise``.

    Raises:
        ArtifactError: no artifact of that name.
        UnknownNameError, ConfigError: an option cannot be.
    """
    if order not in ORDERS:
        raise ConfigError(f"The order of samples is one of {', '.join(ORDERS)}, got {order!r}")
    own = isinstance(teacher, str) and teacher == SELF
    given = None if scores is None else np.asarray(scores, np.float64)
    if given is not None and (given.ndim != 1 or not np.isfinite(given).all()):
        raise ConfigError("The scores of samples are finite numbers, one for each")
    if given is not None and not own:
        raise ConfigError("Scores stand in place of a teacher; give one of the two")
    asked = None if own or order == "random" else Ensemble(teacher)
    pace = find_pacing(pacing)
    base = base_phases(net, phases or "classifier-wise")
    # A backbone that is trained first has nobody to learn an order from but a teacher.
    ordered = [phase for phase in base if asked or given is not None or order == "random" or not phase.stages]
    if not ordered:
        raise ConfigError(
            "A network that is not trained yet cannot say what is hard; name a "
            "teacher, give scores, or train "
            "classifier-wise"
        )
    return [
        replace(phase, order=Curriculum(given, asked, order, pace, balanced)) if phase in ordered else phase
        for phase in base
    ]
