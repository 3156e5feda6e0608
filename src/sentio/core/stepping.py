"""One step of a network with exits on streams: the loop that PyTorch and exported steps share.

No PyTorch here: the loop moves rows of named arrays between the parts of a network, a part being the stages
from one exit to the next with that exit's branch, and asks the row of parts to run them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sentio.core.answering import combining, judged
from sentio.core.arrays import Arrays, Rows, put_rows
from sentio.core.errors import InputError
from sentio.core.policy import ExitCosts, Memory, Policy, check_exits
from sentio.core.task import Task

CatchUp = Literal["exact", "hold"]
#: what a state calls the number of steps that a stream has taken
STEPS = "steps"
#: and, behind a part's name, what that part's skipped steps took
QUEUE = "queue"
State = Mapping[str, Any]


class Answered(NamedTuple):
    """What a step with exits gives, in the arrays of its runtime.

    Args:
        output: each stream's answer, ``(batch, ...)``.
        valid: which streams have an answer. A stream whose later exits are still warming up is answered by
            the last exit that is not.
        state: for the next step.
        exit: the index of the exit that answered each stream, ``(batch,)``, into the stream's ``exit_names``.
        macs: of this step for each stream, what was caught up included, ``(batch,)``.
        caught_up: steps of the past that each stream had to compute on its way, over all parts, ``(batch,)``.
    """

    output: Any
    valid: Any
    state: dict[str, Any]
    exit: Any
    macs: Any
    caught_up: Any


class PartOfSteps(Protocol):
    """What the loop knows of a part.

    ``axis`` is that of time in the part's input, ``queue`` how many skipped steps of that input are kept,
    ``keys`` what the part keeps in the state, and ``warm_up`` the steps before its first valid answer.
    """

    @property
    def name(self) -> str: ...
    @property
    def axis(self) -> int: ...
    @property
    def queue(self) -> int: ...
    @property
    def warm_up(self) -> int: ...
    @property
    def keys(self) -> Sequence[str] | frozenset[str]: ...


class Ran(NamedTuple):
    """What a part gives for one or several consecutive steps.

    Args:
        answer: of the last step.
        behind: what the next part takes, of all steps; of no meaning behind the last part.
        state: what is new in it.
    """

    answer: Any
    behind: Any
    state: Mapping[str, Any]


class StepRow(Protocol):
    """A network on streams as the loop sees it."""

    @property
    def arrays(self) -> Arrays: ...
    @property
    def parts(self) -> Sequence[PartOfSteps]: ...
    @property
    def catch_up(self) -> CatchUp: ...

    def run_part(
        self, index: int, inputs: Any, state: State | None, first: NDArray[np.int64], steps: int
    ) -> Ran:
        """Run consecutive steps of a part, for streams that have taken ``first`` steps; no state begins."""
        ...

    def part_macs(self, index: int, inputs: Any, steps: int) -> int:
        """Of one step of one stream."""
        ...


def own_key(part: str, label: str) -> str:
    """What a state calls the queue of a part, or the steps it has taken."""
    return f"{part}.{label}"


def step_with_exits(
    row: StepRow,
    x: Any,
    state: State,
    policy: Policy | None,
    *,
    task: Task | None = None,
    costs: ExitCosts | None = None,
    temperatures: Mapping[str, float] | None = None,
) -> Answered:
    """One step of a batch of streams, each as far as its policy says.

    Args:
        row: the network.
        x: the step's input, ``(batch, ...)``.
        state: of as many streams.
        policy: who leaves where; None to go to the last exit.
        task, costs, temperatures: as in `sentio.core.answering.answer`.

    Raises:
        ConfigError: the policy does not fit.
        InputError: the state is none that a step gave.
    """
    began = perf_counter()
    arrays, names = row.arrays, [part.name for part in row.parts]
    if policy is not None:
        check_exits(policy, tuple(names))
        asked = policy.evaluates
        costs = None if costs is None else costs.only([n for n in names if n == names[-1] or asked(n)])
    steps = arrays.to_numpy(state[STEPS])
    work = _Work(row, x, state, {**state, STEPS: arrays.from_numpy(steps + 1, x)}, steps)
    rows = np.arange(len(steps))
    exits, macs, caught_up = (np.zeros(len(steps), dtype=np.int64) for _ in range(3))
    valid = np.zeros(len(steps), dtype=bool)
    output: Any = None
    memory: Memory = {}
    combine = combining(policy, task)
    for index, name in enumerate(names):
        answer, count, cost = work.run(index, rows)
        caught_up[rows] += count - 1
        macs[rows] += count * cost
        if temperatures and name in temperatures:
            answer = answer / float(temperatures[name])
        here = work.taken(index)[rows] > row.parts[index].warm_up
        if combine is not None:
            values, memory = combine(arrays.to_numpy(answer), memory, here)
            answer = arrays.from_numpy(values, x)
        if index + 1 < len(names) and policy is not None and policy.evaluates(name):
            values = arrays.to_numpy(answer)
            sure, choice = judged(values, policy, task)
            elapsed = (perf_counter() - began) * 1000.0
            mask, memory = policy.decide(sure, choice, name, costs, elapsed, memory)
            leave = np.broadcast_to(mask, len(values)) & here
        else:
            leave = np.full_like(here, index + 1 == len(names))
        if output is None:
            output = arrays.zeros(answer, (len(steps), *answer.shape[1:]))
        told = rows[here]  # a stream that goes on and finds no answer there keeps this one
        arrays.put(output, told, arrays.take(answer, here.nonzero()[0]))
        exits[told], valid[told] = index, True
        rows = rows[~leave]
        if not len(rows):
            break
        memory = {key: kept[~leave] for key, kept in memory.items()}
    given = (arrays.from_numpy(values, x) for values in (valid, exits, macs, caught_up))
    valid, exits, macs, caught_up = given
    return Answered(output, valid, work.new, exits, macs, caught_up)


@dataclass
class _Work:
    """A step under way: the states before and after, and the streams' ages."""

    row: StepRow
    x: Any
    state: State
    new: dict[str, Any]
    steps: NDArray[np.int64]
    arrays: Arrays = field(init=False)

    def __post_init__(self) -> None:
        self.arrays = self.row.arrays

    def taken(self, index: int) -> NDArray[np.int64]:
        """Steps that each stream has taken in a part, this one included."""
        key = own_key(self.row.parts[index].name, STEPS) if index else STEPS
        return self.arrays.to_numpy(self.new[key])

    def run(self, index: int, rows: Rows) -> tuple[Any, NDArray[np.int64], int]:
        """A part for some rows: their answers, the steps each computed, and what one of these costs.

        Streams that are equally far behind run together.
        """
        answers, order, counts, cost = [], [], np.empty(len(rows), np.int64), 0
        part = self.row.parts[index]
        for places, lag in self._groups(index, rows):
            group = rows[places]
            whole = None if len(group) == len(self.steps) else group
            inputs, first = self._inputs(index, group, whole, min(lag, part.queue))
            count = min(lag, part.queue) + 1
            kept = (
                None if lag > part.queue else {key: self._rows(self.state[key], whole) for key in part.keys}
            )
            ran = self.row.run_part(index, inputs, kept, first, count)
            for key, value in ran.state.items():
                self._put(key, whole, value)
            if index + 1 < len(self.row.parts):
                self._queue(index + 1, whole, ran.behind)
            answers.append(ran.answer)
            order.append(places)
            counts[places] = count
            cost = self.row.part_macs(index, inputs, count)
        if len(answers) == 1:
            return answers[0], counts, cost
        back = np.concatenate(order).argsort()
        return self.arrays.take(self.arrays.concatenate(answers, 0), back), counts, cost

    def _groups(self, index: int, rows: Rows) -> list[tuple[Rows, int]]:
        """Places in ``rows`` of streams that have skipped equally many steps of a part, and how many."""
        if index == 0 or self.row.catch_up == "hold":
            return [(np.arange(len(rows)), 0)]
        key = own_key(self.row.parts[index].name, STEPS)
        lag = (self.steps - self.arrays.to_numpy(self.state[key]))[rows]
        if (lag < 0).any():
            raise InputError(f"The state is none that a step gave: {key!r} is ahead of {STEPS!r}")
        values = np.unique(lag) if len(lag) > 1 else lag
        return [((lag == value).nonzero()[0], int(value)) for value in values]

    def _inputs(self, index: int, group: Rows, whole: Rows | None, lag: int) -> tuple[Any, NDArray[np.int64]]:
        """What a part takes, skipped steps first, and the steps taken before them."""
        if index == 0:
            return self.x, self.steps
        part = self.row.parts[index]
        queue = self._rows(self.new[own_key(part.name, QUEUE)], whole)
        units = queue.shape[part.axis] // (part.queue + 1) * (lag + 1)
        key = own_key(part.name, STEPS)
        hold = self.row.catch_up == "hold"
        first = (self.arrays.to_numpy(self.state[key]) if hold else self.steps - lag)[group]
        self._put(key, whole, self.arrays.from_numpy(first + lag + 1, self.x))
        return self.arrays.narrow(queue, part.axis, queue.shape[part.axis] - units, units), first

    def _queue(self, index: int, whole: Rows | None, given: Any) -> None:
        """Keep what the part before gave for a part, as much of it as can still be needed."""
        part = self.row.parts[index]
        key = own_key(part.name, QUEUE)
        queue = self.arrays.concatenate((self._rows(self.state[key], whole), given), part.axis)
        length = self.state[key].shape[part.axis]
        self._put(key, whole, self.arrays.narrow(queue, part.axis, queue.shape[part.axis] - length, length))

    def _rows(self, array: Any, whole: Rows | None) -> Any:
        return array if whole is None else self.arrays.take(array, whole)

    def _put(self, key: str, whole: Rows | None, values: Any) -> None:
        put_rows(self.arrays, self.new, self.state, key, whole, values)
