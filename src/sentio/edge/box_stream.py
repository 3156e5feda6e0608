"""The step function of a box: many streams in one call, with early exits, in ONNX Runtime and numpy.

The loop is that of PyTorch's streams (`sentio.core.stepping`); here a part is a graph, and what was skipped
is caught up step by step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.arrays import NumpyArrays
from sentio.core.artifact import ArtifactFiles
from sentio.core.errors import ArtifactError
from sentio.core.manifest import StateFacts, StepFacts
from sentio.core.policy import ExitCosts, Policy
from sentio.core.stepping import STEPS, Answered, Ran, State, step_with_exits
from sentio.core.task import Task
from sentio.edge.sessions import Session, Settings, fits
from sentio.edge.step_input import check_state, checked_units, shown

_FLOAT = np.dtype(np.float32)
_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}


@dataclass(frozen=True)
class _Part:
    """A part as the loop sees it."""

    name: str
    axis: int
    queue: int
    warm_up: int
    keys: tuple[str, ...]
    macs: int
    session: Session


class BoxStream:
    """A model's network on streams: takes ``hop`` units of time of each stream at a step.

    It holds no state: the state, a flat dict of numpy arrays with one row for each stream, goes in and comes
    out. May be used from several threads.

    Args:
        files: the artifact, with steps of streams.
        settings: how graphs are run.
        policy, task, costs, temperatures: of the model, see `sentio.core.answering.answer`.

    Raises:
        ArtifactError: a graph is damaged, is refused, or does not fit the manifest.
    """

    arrays = NumpyArrays()

    def __init__(
        self,
        files: ArtifactFiles,
        settings: Settings,
        *,
        policy: Policy | None = None,
        task: Task | None = None,
        costs: ExitCosts | None = None,
        temperatures: Mapping[str, float] | None = None,
    ) -> None:
        facts = files.manifest.stream
        if facts is None:
            raise ArtifactError(f"Artifact {files.path} holds no steps of streams")
        self.hop, self.catch_up, self._state = facts.hop, facts.catch_up, facts.state
        # Of the manifest; made once, for every step is checked.
        self._kept = {name: (tuple(fact.shape), np.dtype(fact.dtype)) for name, fact in facts.state.items()}
        self.axis, self.shape = facts.parts[0].axis, tuple(facts.parts[0].takes)
        self.ndim = len(self.shape) + 1
        self.exit_names = tuple(part.exit for part in facts.parts)
        self.delay = {part.exit: part.delay for part in facts.parts}
        self._defaults = {"policy": policy, "task": task, "costs": costs, "temperatures": temperatures}
        self.parts = tuple(
            _part(files, settings, facts.parts, index, self._state) for index in range(len(facts.parts))
        )

    @property
    def warm_up(self) -> dict[str, int]:
        """Steps before each exit's first valid answer."""
        return {part.name: part.warm_up for part in self.parts}

    @property
    def queues(self) -> dict[str, int]:
        """For each exit but the first, how many skipped steps are kept to be caught up."""
        return {part.name: part.queue for part in self.parts[1:]}

    def start(self, batch: int = 1, *, like: Any = None) -> dict[str, NDArray[Any]]:
        """The state of streams that have not begun.

        Args:
            batch: number of streams.
            like: as for PyTorch's streams; a box knows its size, so only the number of rows counts.
        """
        count = batch if like is None else len(like)
        return {
            name: np.full((count, *facts.shape), float(facts.begins_with), dtype=facts.dtype)
            for name, facts in self._state.items()
        }

    def step(self, x: Any, state: State | None = None, policy: Policy | None = None) -> Answered:
        """One step of a batch of streams.

        Args:
            x: the next ``hop`` units, float32 ``(batch, *shape)``.
            state: what the last step gave, one row for each stream; None to begin new ones. It is not
                changed.
            policy: instead of the model's own; ``Fixed("final")`` goes to the last exit.

        Raises:
            ConfigError: the policy does not fit.
            InputError: not ``hop`` units, values that are not finite, or a state of other streams.
            ArtifactError: a graph cannot be run.
        """
        values = checked_units(x, self.shape, self.axis, self.hop, _FLOAT)
        if state is None:
            state = self.start(len(values))
        else:
            self.check_state(state, len(values))
        chosen = {**self._defaults, **({} if policy is None else {"policy": policy})}
        return step_with_exits(self, values, state, chosen.pop("policy"), **chosen)

    def check_state(self, state: State, batch: int | None = None) -> None:
        """A state is one of this network.

        Args:
            state: as a step gives it.
            batch: of how many streams; any number of them, but all alike, if None.

        Raises:
            InputError: it is not.
        """
        if batch is None and isinstance(state, Mapping) and np.ndim(state.get(STEPS)):
            batch = len(state[STEPS])
        check_state(state, self._kept, batch)

    def run_part(
        self, index: int, inputs: NDArray[Any], state: State | None, first: NDArray[np.int64], steps: int
    ) -> Ran:
        """Consecutive steps of a part, one after the other, see `sentio.core.stepping`."""
        part = self.parts[index]
        units = inputs.shape[part.axis] // steps
        kept = self.start(len(first)) if state is None else state
        behind: list[NDArray[Any]] = []
        for step in range(steps):
            chunk = self.arrays.narrow(inputs, part.axis, step * units, units)
            given = {"x": np.ascontiguousarray(chunk), STEPS: first + step}
            given |= {f"state.{key}": np.ascontiguousarray(kept[key]) for key in part.keys}
            answer, *rest = part.session.run(given)
            if index + 1 < len(self.parts):
                behind.append(rest.pop(0))
            kept = dict(zip(part.keys, rest, strict=True))
        axis = self.parts[index + 1].axis if behind else 0
        return Ran(answer, np.concatenate(behind, axis) if len(behind) > 1 else (behind or [None])[0], kept)

    def part_macs(self, index: int, inputs: Any, steps: int) -> int:
        """As counted when the box was written."""
        return self.parts[index].macs


def _part(
    files: ArtifactFiles,
    settings: Settings,
    parts: list[StepFacts],
    index: int,
    state: Mapping[str, StateFacts],
) -> _Part:
    """A part with its graph, which takes and gives what the manifest says."""
    facts, last = parts[index], index + 1 == len(parts)
    inputs = ["x", f"{STEPS}?", *(f"state.{name}" for name in facts.state)]
    outputs = ["output", *([] if last else ["behind"]), *(f"next.{name}" for name in facts.state)]
    session = Session(files, facts.file, settings, inputs, outputs)
    session.check("x", facts.takes, "tensor(float)")
    if STEPS in session.shapes:
        session.check(STEPS, [], "tensor(int64)")
    for name in facts.state:
        session.check(f"state.{name}", state[name].shape, _TYPES[state[name].dtype])
        _gives(session, f"next.{name}", state[name].shape, _TYPES[state[name].dtype])
    if not last:
        _gives(session, "behind", parts[index + 1].takes, "tensor(float)")
    return _Part(facts.exit, facts.axis, facts.queue, facts.warm_up, tuple(facts.state), facts.macs, session)


def _gives(session: Session, name: str, shape: list[int], kind: str) -> None:
    found, given = session.given_shapes[name], session.given_types[name]
    if not fits(found, shape) or given != kind:
        raise session.damaged(
            f"gives {name!r} of shape {shown(found)} ({given}), where {shown([None, *shape])} ({kind}) is "
            "expected"
        )
