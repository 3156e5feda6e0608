"""A network with exits on a stream: at each step every stream goes as far as its policy says.

What lies behind an exit was not computed on the steps that left there. ``exact`` keeps what those steps had
at the exit, up to the receptive field of everything behind it, and catches up in one call as soon as a step
goes on; answers are those of a network that never left early. ``hold`` lets the part behind see only the
steps that reach it, which is cheaper and another network than was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil, isinf, lcm
from time import perf_counter
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sentio.core.anytime import MAIN
from sentio.core.confidence import MAX_PROBABILITY, classifier_confidence
from sentio.core.counting import count
from sentio.core.errors import ConfigError
from sentio.core.multi_exit import MultiExit
from sentio.core.policy import ExitCosts, Memory, Policy, check_exits
from sentio.core.task import Task
from sentio.nn.streaming import Flow, Form, Moment, Plan, State
from sentio.nn.streaming_joins import Chain
from sentio.streaming.state import STEPS, as_chunk, is_warm, steps_taken

CatchUp = Literal["exact", "hold"]


class Answered(NamedTuple):
    """What a step with exits gives.

    Args:
        output: each stream's answer, ``(batch, ...)``.
        valid: which streams have an answer. A stream whose later exits are still warming up is answered by
            the last exit that is not.
        state: for the next step.
        exit: the index of the exit that answered each stream, ``(batch,)``, into ``ExitStream.exit_names``.
        macs: of this step for each stream, what was caught up included, ``(batch,)``.
        caught_up: steps of the past that each stream had to compute on its way, over all parts, ``(batch,)``.
    """

    output: Tensor
    valid: Tensor
    state: dict[str, Tensor]
    exit: Tensor
    macs: Tensor
    caught_up: Tensor


@dataclass(frozen=True)
class Part:
    """The stages up to an exit from the exit before it, and the exit's branch.

    Args:
        name: of the exit.
        form, branch: of the stages, and of the exit; None for the last, whose stages are the answer.
        flow: what is known of the part's input.
        keys: what it keeps in the state.
        settled: steps after which nothing in it has to be blanked.
        warm_up: steps before the exit's first valid answer.
        queue: past steps that the part, its exit and everything behind it may need of the part's input.
    """

    name: str
    form: Form
    branch: Form | None
    flow: Flow
    keys: frozenset[str]
    settled: int
    warm_up: int
    queue: int


class ExitStream(nn.Module):
    """A `MultiExit` that takes ``hop`` units of time at a step; made by `sentio.stream`.

    Each exit answers about its own window: a later exit has the longer delay. A stream leaves at an exit only
    once that exit has a valid answer.
    """

    def __init__(
        self,
        net: MultiExit,
        parts: list[Part],
        hop: int,
        catch_up: CatchUp,
        axis: int,
        ndim: int,
        shape: tuple[int, ...] | None,
    ) -> None:
        super().__init__()
        self.net, self.parts, self.hop, self.catch_up = net, parts, hop, catch_up
        self.axis, self.ndim, self.shape = axis, ndim, shape
        self.exit_names: tuple[str, ...] = tuple(part.name for part in parts)
        self._macs: dict[tuple[str, tuple[int, ...]], int] = {}
        self.eval()

    @property
    def warm_up(self) -> dict[str, int]:
        """Steps before each exit's first valid answer."""
        return {part.name: part.warm_up for part in self.parts}

    @property
    def queues(self) -> dict[str, int]:
        """For each exit but the first, how many skipped steps are kept to be caught up."""
        return {part.name: part.queue for part in self.parts[1:]}

    def step(
        self,
        x: Tensor,
        state: State | None = None,
        policy: Policy | None = None,
        *,
        task: Task | None = None,
        costs: ExitCosts | None = None,
    ) -> Answered:
        """One step of a batch of streams, without gradients.

        Args:
            x: the next ``hop`` units, ``(batch, ...)``.
            state: what the last step gave, None to begin new streams.
            policy: who leaves where; None to go to the last exit.
            task, costs: as in `MultiExit.predict`.

        Raises:
            ConfigError: it is in training mode, or the policy does not fit.
            InputError: not ``hop`` units, or a state of other streams.
        """
        if self.training:
            raise ConfigError("A stream steps in eval mode; call eval() first, and clip() to train")
        if policy is not None:
            check_exits(policy, self.exit_names)
        began = perf_counter()
        x = as_chunk(x, self.hop, self.axis, self.ndim)
        state = self.start(like=x) if state is None else state
        steps = steps_taken(state, x)
        new = {**state, STEPS: steps + 1}
        rows = torch.arange(len(x), device=x.device)
        exits, caught_up, macs = (torch.zeros_like(rows) for _ in range(3))
        valid = torch.zeros_like(rows, dtype=torch.bool)
        output: Tensor | None = None
        memory: Memory = {}
        with torch.no_grad():
            for index, part in enumerate(self.parts):
                answer, chunks, cost = self._run(index, x, state, new, rows, steps)
                caught_up[rows] += chunks - 1
                macs[rows] += chunks * cost
                here = (new[_own(part, STEPS)] if index else new[STEPS])[rows] > part.warm_up
                if index + 1 < len(self.parts) and policy is not None and policy.evaluates(part.name):
                    leave, memory = _leave(policy, part.name, answer, task, costs, began, memory)
                    leave = leave & here
                else:
                    leave = torch.full_like(here, index + 1 == len(self.parts))
                if output is None:
                    output = answer.new_zeros((len(x), *answer.shape[1:]))
                told = rows[here]  # a stream that goes on and finds no answer there keeps this one
                output[told], exits[told], valid[told] = answer[here], index, True
                rows = rows[~leave]
                if not len(rows):
                    break
                staying = (~leave).cpu().numpy()
                memory = {key: values[staying] for key, values in memory.items()}
        assert output is not None
        return Answered(output, valid, new, exits, macs, caught_up)

    forward = step

    def start(self, batch: int = 1, *, like: Tensor | None = None) -> dict[str, Tensor]:
        """The state of streams that have not begun; arguments and errors as for `Stream.start`."""
        x = first_chunk(self.net, batch, like, self.shape, self.axis, self.hop)
        steps = x.new_zeros(len(x), dtype=torch.int64)
        moment = Moment(None, steps, False)
        state: dict[str, Tensor] = {}
        with torch.no_grad():
            for index, part in enumerate(self.parts):
                if index:
                    size = list(x.shape)
                    assert part.flow.axis is not None
                    size[part.flow.axis] *= part.queue + 1
                    state[_own(part, "queue")] = x.new_zeros(size)
                    state[_own(part, STEPS)] = steps
                x = part.form.step(x, moment)
                if part.branch is not None:
                    part.branch.step(x, moment)
        return {STEPS: steps, **state, **moment.start}

    def clip(self, x: Tensor) -> dict[str, Tensor]:
        """Every exit's answers about a whole clip, with gradients, ``(batch, answer, ...)`` by name."""
        outputs, batch = {}, len(x)
        for part in self.parts:
            x = part.form.clip(x)
            answer = x if part.branch is None else part.branch.clip(x)
            outputs[part.name] = answer.unflatten(0, (batch, -1))
        return outputs

    def _run(
        self,
        index: int,
        x: Tensor,
        state: State,
        new: dict[str, Tensor],
        rows: Tensor,
        steps: Tensor,
    ) -> tuple[Tensor, Tensor, int]:
        """A part for some rows: their answers, the steps each computed, and what one of these costs.

        Streams that are equally far behind run together.
        """
        part = self.parts[index]
        if index == 0:
            groups = [(rows, 0, False)]
        else:
            lag = (steps - state[_own(part, STEPS)])[rows]
            if self.catch_up == "hold":
                lag = torch.zeros_like(lag)
            groups = [
                (rows[lag == value], min(int(value), part.queue), int(value) > part.queue)
                for value in lag.unique()
            ]
        answers, order, chunks, cost = [], [], [], 0
        for group, lag_of_group, restart in groups:
            whole = len(group) == len(steps)
            if index == 0:
                inputs, first = x, steps
            else:
                queue = _rows(new[_own(part, "queue")], group, whole)
                axis = part.flow.axis
                assert axis is not None
                units = queue.shape[axis] // (part.queue + 1) * (lag_of_group + 1)
                inputs = queue.narrow(axis, queue.shape[axis] - units, units)
                before = state[_own(part, STEPS)] if self.catch_up == "hold" else steps - lag_of_group
                first = _rows(before, group, whole)
                _put(new, state, _own(part, STEPS), group, whole, first + lag_of_group + 1)
            kept = None if restart else {key: _rows(state[key], group, whole) for key in part.keys}
            moment = Moment(kept, first, is_warm(first, part.settled))
            y = part.form.step(inputs, moment)
            answer = y if part.branch is None else part.branch.step(y, moment)
            if lag_of_group:
                answer = answer.unflatten(0, (len(group), lag_of_group + 1))[:, -1]
            for key, value in moment.new.items():
                _put(new, state, key, group, whole, value)
            if index + 1 < len(self.parts):
                behind = self.parts[index + 1]
                key, axis = _own(behind, "queue"), behind.flow.axis
                assert axis is not None
                queue = torch.cat((_rows(state[key], group, whole), y), axis)
                length = state[key].shape[axis]
                _put(new, state, key, group, whole, queue.narrow(axis, queue.shape[axis] - length, length))
            answers.append(answer)
            order.append(group)
            chunks.append(torch.full_like(group, lag_of_group + 1))
            cost = self._cost(part, inputs, lag_of_group + 1)
        if len(groups) == 1:
            return answers[0], chunks[0], cost
        # The groups' answers in the order of the rows, which ascend.
        place = torch.cat(order).argsort()
        return torch.cat(answers)[place], torch.cat(chunks)[place], cost

    def _cost(self, part: Part, inputs: Tensor, chunks: int) -> int:
        """MACs of one step of one stream in a part."""
        axis = part.flow.axis
        assert axis is not None
        shape = list(inputs.shape)
        shape[0], shape[axis] = 1, shape[axis] // chunks
        key = (part.name, tuple(shape))
        if key not in self._macs:
            self._macs[key] = count(_PartOnce(part, self.net), inputs.new_zeros(shape)).total
        return self._macs[key]


class _PartOnce(nn.Module):
    """One step of a part of a new stream, to be counted."""

    def __init__(self, part: Part, net: nn.Module) -> None:
        super().__init__()
        self.part, self.net = part, net

    def forward(self, x: Tensor) -> Tensor:
        moment = Moment(None, x.new_zeros(len(x), dtype=torch.int64), True)
        y = self.part.form.step(x, moment)
        return y if self.part.branch is None else self.part.branch.step(y, moment)


def exit_stream(
    net: MultiExit,
    flow: Flow,
    hop: int | None,
    catch_up: CatchUp,
    shape: tuple[int, ...] | None,
    *,
    squeeze: Literal["frame", "window"] | None,
    chosen: Mapping[str, Callable[[Any], Form]],
) -> ExitStream:
    """The stream of a network with exits; arguments as for `sentio.stream`.

    Raises:
        ConfigError: a layer cannot run on a stream; an exit gives several answers a step, reads more than the
            boundary where it sits, or has a recurrent layer behind it that would have to be caught up.
    """
    if catch_up not in ("exact", "hold"):
        raise ConfigError(f"catch_up is 'exact' or 'hold', got {catch_up!r}")
    if flow.axis is None or flow.ndim is None:
        raise ConfigError("The network does not know its input's shape; pass example=, an input")
    first = Plan(net, 1, squeeze=squeeze, chosen=chosen)
    _planned_parts(net, flow, [first] * len(net.exit_points))
    hop = fitting_hop(hop, first)
    plans = [Plan(net, hop, squeeze=squeeze, chosen=chosen) for _ in net.exit_points]
    for plan in plans[1:]:
        plan.keys = plans[0].keys
    parts = _with_queues(_planned_parts(net, flow, plans), hop, catch_up)
    return ExitStream(net, parts, hop, catch_up, flow.axis, flow.ndim, shape)


def fitting_hop(hop: int | None, plan: Plan) -> int:
    """The hop that was asked for if it fits, or the total stride.

    Raises:
        ConfigError: it is no multiple of the total stride.
    """
    total = lcm(*plan.strides)
    if hop is None:
        return total
    if hop < 1 or hop % total:
        raise ConfigError(
            f"A step of {hop} units does not fit a network of stride {total}; use a multiple of it"
        )
    return hop


def first_chunk(
    net: nn.Module, batch: int, like: Tensor | None, shape: tuple[int, ...] | None, axis: int, hop: int
) -> Tensor:
    """Zeros of the size of a step's input.

    Raises:
        ConfigError: the size is not known.
    """
    if like is None and shape is None:
        raise ConfigError("The size of the stream's input is not known here; pass like=, one of its inputs")
    sizes = list(like.shape) if like is not None else [batch, *(shape or ())]
    if like is None:
        like = next(net.parameters(), torch.empty(0))
    sizes[axis] = hop
    return like.new_zeros(sizes)


@dataclass(frozen=True)
class _Extent:
    """How many past steps a part and its exit need of the part's input."""

    part: float
    exit: float


def _planned_parts(net: MultiExit, flow: Flow, plans: list[Plan]) -> list[tuple[Part, _Extent]]:
    specs = {spec.name: spec for spec in net.specs}
    parts, begin = [], 0
    for point, plan in zip(net.exit_points, plans, strict=True):
        if point.reads != ((point.after, MAIN),):
            raise ConfigError(
                f"Exit {point.name!r} cannot run on a stream: it reads other boundaries than "
                f"{point.after!r}, where it sits"
            )
        if flow.axis is None:
            raise ConfigError(
                f"Exit {point.name!r} cannot run on a stream: an exit before it sits behind the pooling over "
                "time; switch that one off"
            )
        known = set(plan.keys)
        end = net.stage_names.index(point.after) + 1
        stages = [net.backbone.stage(name) for name in net.stage_names[begin:end]]
        flow = replace(flow, past=0)  # each part's past is its own
        form, out = plan.run(Chain(*stages), flow)
        branch, answer = (None, replace(out, past=0))
        if point.name in specs:
            branch, answer = plan.run(net.branch(point.name), replace(out, past=0))
        if answer.axis is not None:
            raise ConfigError(
                f"Exit {point.name!r} cannot run on a stream: it gives an answer for each unit of time; pool "
                "over time, or stream the network without exits"
            )
        extent = _Extent(out.past / plan.hop, answer.past / plan.hop)
        keys = frozenset(plan.keys - known)
        parts.append((Part(point.name, form, branch, flow, keys, plan.settled, answer.delay, 0), extent))
        flow, begin = out, end
    return parts


def _with_queues(parts: list[tuple[Part, _Extent]], hop: int, catch_up: CatchUp) -> list[Part]:
    """The parts with the length of their queues, worked out from the last to the first."""
    done: list[Part] = []
    behind = 0.0
    for part, extent in reversed(parts):
        past = extent.part + max(extent.exit, behind)
        if catch_up == "hold":
            past = 0.0
        first = len(done) + 1 == len(parts)
        if isinf(past) and not first:
            raise ConfigError(
                f"What lies before exit {part.name!r} cannot be caught up exactly: a recurrent layer "
                "depends on every step; pass catch_up='hold', or switch the exits before it off"
            )
        behind = past if isinf(past) else ceil(past)
        done.append(replace(part, queue=0 if first else int(behind)))
    return done[::-1]


def _leave(
    policy: Policy,
    exit: str,
    answer: Tensor,
    task: Task | None,
    costs: ExitCosts | None,
    began: float,
    memory: Memory,
) -> tuple[Tensor, Memory]:
    """Whom the policy lets leave, and what it wants to remember."""
    output = answer.float().numpy(force=True)
    measure = policy.measure or MAX_PROBABILITY
    sure = classifier_confidence(output, measure) if task is None else task.confidence(output, measure)
    choice = output.argmax(axis=-1) if task is None else task.choice(output)
    elapsed = (perf_counter() - began) * 1000.0
    mask, memory = policy.decide(sure, choice, exit, costs, elapsed, memory)
    return torch.from_numpy(np.broadcast_to(mask, len(output)).copy()).to(answer.device), memory


def _own(part: Part, label: str) -> str:
    return f"{part.name}.{label}"


def _rows(tensor: Tensor, rows: Tensor, whole: bool) -> Tensor:
    return tensor if whole else tensor.index_select(0, rows)


def _put(new: dict[str, Tensor], state: State, key: str, rows: Tensor, whole: bool, value: Tensor) -> None:
    """Set some rows of a tensor of the new state; the old state stays as it is."""
    if whole:
        new[key] = value
    else:
        if new[key] is state[key]:
            new[key] = state[key].clone()
        new[key].index_copy_(0, rows, value)
