"""Verification and identification that leave early: thresholds from validation data, and pairs under them.

Early exits after N. Passalis, A. Tefas, EUSIPCO 2021, who measure exits one by one; that a pair or a probe
leaves where it is sure enough is ours. Works in PyTorch and on the box alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError, InputError
from sentio.core.model import Model
from sentio.core.policy import Confidence, Policy
from sentio.tasks.embedding import EmbeddingTask
from sentio.tasks.metrics.selective import certainties_in_turn
from sentio.tasks.metrics.verification import Verification, best_threshold, pair_distances, verify

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class VerifiedPairs:
    """What was found of each pair.

    Args:
        same: whether it is of one person, ``(pair,)``.
        distance: of the two embeddings at the exit that decided, ``(pair,)``.
        exits: the names of the exits, in order.
        exit: for each pair the index into ``exits``, ``(pair,)``.
        ms: milliseconds from the call to the decision, ``(pair,)``.
    """

    same: NDArray[np.bool_]
    distance: NDArray[np.float64]
    exits: tuple[str, ...]
    exit: NDArray[np.intp]
    ms: NDArray[np.float64]

    def exit_names(self) -> list[str]:
        """The exit of each pair, by name."""
        return [self.exits[index] for index in self.exit]


def verify_pairs(model: Model, first: Any, second: Any, *, policy: Policy | None = None) -> VerifiedPairs:
    """Whether pairs of samples are of one person, each decided as soon as that is clear.

    A pair is decided at an exit where its distance is at least the task's margin away from the task's
    threshold; by the last exit at the latest. What is decided is not computed further.

    Args:
        model: whose task is an `EmbeddingTask` with thresholds.
        first, second: the samples, as `Model.answer` takes them, equally many.
        policy: instead of margins, one that answers all samples at the same exit, such as
            `sentio.core.frame_budget.exit_within` gives.

    Raises:
        ConfigError: another task, no threshold for an exit, or a policy that parts the samples.
        InputError: the two sides differ in number or shape, or cannot be used.
    """
    task = _task(model)
    both, pairs = _together(first, second)
    begun = perf_counter()
    if policy is not None:
        answers = model.answer(both, policy=policy)
        if len(set(answers.exit.tolist())) > 1:
            raise ConfigError(
                f"{policy} sends the two of a pair out at different exits; use Fixed, Budget or Deadline"
            )
        name = answers.exit_names()[0]
        same, distance = task.verify(answers.outputs[:pairs], answers.outputs[pairs:], exit=name)
        return VerifiedPairs(same, distance, answers.exits, answers.exit[:pairs], answers.ms[:pairs])
    exits = model.exit_names
    same, distance = np.zeros(pairs, bool), np.zeros(pairs)
    left, ms = np.zeros(pairs, np.intp), np.zeros(pairs)
    task.threshold(exits[-1])  # said before anything is computed
    for step in model.anytime(both):
        last = step.exit == exits[-1]
        if not last and step.exit not in task.margins:
            continue
        half = len(step.samples) // 2  # both of a pair leave together, so what is left stays in this order
        here = step.samples[:half]
        answer, found = task.verify(step.output[:half], step.output[half:], exit=step.exit)
        leave = np.ones(half, bool)
        if not last:
            leave = np.abs(found - task.threshold(step.exit)) >= task.margins[step.exit]
        rows = here[leave]
        same[rows], distance[rows] = answer[leave], found[leave]
        left[rows], ms[rows] = exits.index(step.exit), (perf_counter() - begun) * 1000.0
        step.drop(np.concatenate([leave, leave]))
    return VerifiedPairs(same, distance, exits, left, ms)


def exit_distances(
    first: Mapping[str, Floats], second: Mapping[str, Floats] | Floats, *, normalise: bool = True
) -> dict[str, NDArray[np.float64]]:
    """Distances of pairs of embeddings, exit by exit.

    Args:
        first: exit -> embeddings ``(pair, dimension)``, as `Model.outputs` gives them.
        second: the same of the other side; or embeddings that each exit is compared with, such as the last
            layer's.
        normalise: whether each is scaled to length 1 before.

    Raises:
        InputError: they do not pair up.
    """
    others = second if isinstance(second, Mapping) else dict.fromkeys(first, second)
    return {name: pair_distances(each, others[name], normalise=normalise) for name, each in first.items()}


def fit_verification(
    distances: Mapping[str, Floats], same: NDArray[np.bool_], *, max_error: float = 0.01
) -> tuple[dict[str, float], dict[str, float]]:
    """Each exit's best threshold, and the margin beyond which it may decide.

    Margins are found in the order of the exits, on the pairs that no exit before has decided, so that of
    those decided at an exit at most a share is wrong.

    Args:
        distances: exit -> distances ``(pair,)`` of validation pairs, exits in order, the last one last.
        same: whether each pair is of one person, ``(pair,)``.
        max_error: the share.

    Returns:
        thresholds of all exits, and margins of those that may decide, the last one aside: options of
        `EmbeddingTask`.

    Raises:
        InputError: the arrays do not fit each other.
        ConfigError: a share that cannot be.
    """
    thresholds = {name: best_threshold(found, same)[0] for name, found in distances.items()}
    early = list(distances)[:-1]
    certainty = [np.abs(distances[name] - thresholds[name]) for name in early]
    right = [(distances[name] < thresholds[name]) == same for name in early]
    margins = certainties_in_turn(certainty, right, max_error)
    return thresholds, {name: m for name, m in zip(early, margins, strict=True) if m is not None}


def fit_identification(
    task: EmbeddingTask, outputs: Mapping[str, Floats], names: Sequence[str], *, max_error: float = 0.01
) -> Confidence:
    """Thresholds on the ratio of nearest and second nearest, as a policy.

    Found like margins, see `fit_verification`: of the probes that leave at an exit at most a share is given
    a wrong name. `Confidence` goes by 1 minus the ratio.

    Args:
        task: with a gallery.
        outputs: exit -> embeddings ``(probe, dimension)`` of validation probes, the last exit last.
        names: whom each probe shows.
        max_error: the share.

    Raises:
        ConfigError: the task has no gallery, or a share that cannot be.
        InputError: the probes do not fit.
    """
    if task.gallery is None:
        raise ConfigError("Identification needs a gallery; set task.gallery")
    known = {name: place for place, name in enumerate(task.gallery.names)}
    wanted = np.array([known.get(name, -1) for name in names])
    early = list(outputs)[:-1]
    nearest = [task.gallery.nearest(outputs[name]) for name in early]
    if any(len(found.place) != len(wanted) for found in nearest):
        raise InputError(f"There are {len(wanted)} names and another number of probes; give one for each")
    certainty = [1.0 - found.ratio for found in nearest]
    least = certainties_in_turn(certainty, [found.place == wanted for found in nearest], max_error)
    return Confidence(dict(zip(early, least, strict=True)))


def evaluate_pairs(
    distances: Mapping[str, Floats], same: NDArray[np.bool_], folds: NDArray[np.integer[Any]]
) -> dict[str, Verification]:
    """Accuracy of verification at each exit, each fold with the threshold of the others.

    Args:
        distances: exit -> distances ``(pair,)``, see `exit_distances`.
        same, folds: of the pairs, as `sentio.data.face_pairs` reads them, ``(pair,)``.

    Raises:
        InputError: the arrays do not fit each other.
    """
    return {name: verify(found, same, folds) for name, found in distances.items()}


def _task(model: Model) -> EmbeddingTask:
    if not isinstance(model.task, EmbeddingTask):
        raise ConfigError(f"Model {model.name!r} gives no embeddings, so it cannot verify pairs")
    return model.task


def _together(first: Any, second: Any) -> tuple[Any, int]:
    """Both sides as one batch, and the number of pairs."""
    sides = [dict(side) if isinstance(side, Mapping) else {"": np.asarray(side)} for side in (first, second)]
    shapes = [{name: part.shape for name, part in side.items()} for side in sides]
    if not shapes[0] or shapes[0] != shapes[1] or not all(shape for shape in shapes[0].values()):
        said = [", ".join(str(shape) for shape in each.values()) or "nothing" for each in shapes]
        raise InputError(f"The two sides of pairs need the same shape, batch first, got {' and '.join(said)}")
    both = {name: np.concatenate([part, sides[1][name]]) for name, part in sides[0].items()}
    count = len(next(iter(sides[0].values())))
    return (both[""] if both.keys() == {""} else both), count
