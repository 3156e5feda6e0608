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
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sentio.core.anytime import MAIN
from sentio.core.counting import count
from sentio.core.errors import ConfigError, InputError
from sentio.core.manifest import StreamFacts
from sentio.core.multi_exit import MultiExit
from sentio.core.policy import ExitCosts, Policy
from sentio.core.staged import copied
from sentio.core.stepping import QUEUE, STEPS, Answered, CatchUp, Ran, own_key, step_with_exits
from sentio.core.task import Task
from sentio.nn.streaming import Flow, Form, Moment, Plan, State
from sentio.nn.streaming_frozen import freeze, repack, runs_alike
from sentio.nn.streaming_joins import Chain
from sentio.streaming.arrays import TorchArrays
from sentio.streaming.recorded import Records
from sentio.streaming.state import as_chunk, batch_norms, check_eval, is_warm, refuse_unfit, steps_taken


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
        delay: input units after the one an answer is about on which it depends.
        queue: past steps that the part, its exit and everything behind it may need of the part's input.
    """

    name: str
    form: Form
    branch: Form | None
    flow: Flow
    keys: frozenset[str]
    settled: int
    warm_up: int
    delay: int
    queue: int

    @property
    def axis(self) -> int:
        """Of time in the part's input."""
        assert self.flow.axis is not None
        return self.flow.axis


class ExitStream(nn.Module):
    """A `MultiExit` that takes ``hop`` units of time at a step; made by `sentio.stream`.

    Each exit answers about its own window: a later exit has the longer delay. A stream leaves at an exit only
    once that exit has a valid answer.
    """

    arrays = TorchArrays()

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
        self.norms = batch_norms(net)
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
        temperatures: Mapping[str, float] | None = None,
    ) -> Answered:
        """One step of a batch of streams, without gradients.

        Args:
            x: the next ``hop`` units, ``(batch, ...)``.
            state: what the last step gave, None to begin new streams.
            policy: who leaves where; None to go to the last exit.
            task, costs: as in `MultiExit.predict`.
            temperatures: exit -> temperature by which its output is divided.

        Raises:
            ConfigError: it or its network is in training mode, or the policy does not fit.
            InputError: not ``hop`` units, or a state of other streams.
        """
        check_eval(self, self.net)
        x = as_chunk(x, self.hop, self.axis, self.ndim, self.shape)
        state = self.start(like=x) if state is None else state
        steps_taken(state, x)
        self._check(state)
        if x.is_floating_point() and any(_other(kept, x.dtype) for kept in state.values()):
            state = {
                name: kept.to(x.dtype) if _other(kept, x.dtype) else kept for name, kept in state.items()
            }
        try:
            with torch.no_grad():
                return step_with_exits(
                    self, x, state, policy, task=task, costs=costs, temperatures=temperatures
                )
        except RuntimeError:
            refuse_unfit(x, self.net, self.shape, self.axis, self.hop)
            raise

    forward = step

    def _check(self, state: State) -> None:
        """A state is one of this network, as far as its parts do not look themselves.

        Raises:
            InputError: it is not.
        """
        for index, part in enumerate(self.parts):
            own = [own_key(part.name, QUEUE), own_key(part.name, STEPS)] if index else []
            for key in (*own, *part.keys):
                if key not in state:
                    raise InputError(f"The state has no {key!r}; it is of another network or was cut")
            if index:
                length = (part.queue + 1) * (self.hop // part.flow.stride)
                if state[own[0]].shape[part.axis] != length:
                    raise InputError(
                        f"The state does not fit: {own[0]!r} has shape {tuple(state[own[0]].shape)} where "
                        f"{length} units are kept; it is of another network or window"
                    )

    def start(self, batch: int = 1, *, like: Tensor | None = None) -> dict[str, Tensor]:
        """The state of streams that have not begun; arguments and errors as for `Stream.start`."""
        check_eval(self, self.net)
        x = first_chunk(self.net, batch, like, self.shape, self.axis, self.hop)
        try:
            with torch.no_grad():
                return self._started(x)
        except RuntimeError:
            refuse_unfit(x, self.net, self.shape, self.axis, self.hop)
            raise

    def _started(self, x: Tensor) -> dict[str, Tensor]:
        steps = x.new_zeros(len(x), dtype=torch.int64)
        moment = Moment(None, steps, False)
        state: dict[str, Tensor] = {}
        for index, part in enumerate(self.parts):
            if index:
                size = list(x.shape)
                size[part.axis] *= part.queue + 1
                state[own_key(part.name, QUEUE)] = x.new_zeros(size)
                state[own_key(part.name, STEPS)] = steps
            x = part.form.step(x, moment)
            if part.branch is not None:
                part.branch.step(x, moment)
        return {STEPS: steps, **state, **moment.start}

    def graphs(self) -> tuple[StreamFacts, dict[str, bytes]]:
        """Each part's step as an ONNX graph, see `sentio.streaming.step_graph.export_parts`."""
        from sentio.streaming.step_graph import export_parts

        return export_parts(self)

    def clip(self, x: Tensor) -> dict[str, Tensor]:
        """Every exit's answers about a whole clip, with gradients, ``(batch, answer, ...)`` by name."""
        outputs, batch = {}, len(x)
        for part in self.parts:
            x = part.form.clip(x)
            answer = x if part.branch is None else part.branch.clip(x)
            outputs[part.name] = answer.unflatten(0, (batch, -1))
        return outputs

    def run_part(
        self, index: int, inputs: Tensor, state: State | None, first: NDArray[np.int64], steps: int
    ) -> Ran:
        """Consecutive steps of a part in one call, see `sentio.core.stepping`."""
        part = self.parts[index]
        begin = torch.from_numpy(first).to(inputs.device)
        warm = is_warm(begin, part.settled)
        moment, asked = Moment(state, begin, warm), Moment(state, begin, warm)
        behind = self._run(part.form, inputs, moment)
        answer = behind if part.branch is None else self._run(part.branch, behind, asked)
        if steps > 1:
            answer = answer.unflatten(0, (len(first), steps))[:, -1]
        return Ran(answer, behind, moment.new | asked.new)

    def _run(self, form: Form, x: Tensor, moment: Moment) -> Tensor:
        """A part's stages or branch; `FrozenExitStream` has records of them."""
        return form.step(x, moment)

    def part_macs(self, index: int, inputs: Tensor, steps: int) -> int:
        """MACs of one step of one stream in a part."""
        part = self.parts[index]
        shape = list(inputs.shape)
        shape[0], shape[part.axis] = 1, shape[part.axis] // steps
        key = (part.name, tuple(shape))
        if key not in self._macs:
            self._macs[key] = count(_PartOnce(part, self.net), inputs.new_zeros(shape)).total
        return self._macs[key]


def _other(kept: Tensor, dtype: torch.dtype) -> bool:
    """Whether something kept is of another floating-point type than the input."""
    return kept.dtype != dtype and kept.is_floating_point()


class FrozenExitStream(ExitStream):
    """An `ExitStream` with a copy of the weights in the form in which a step is fastest; made by `stream`."""

    def __init__(self, net: MultiExit, parts: list[Part], *layout: Any) -> None:
        folded, frozen = nn.ModuleList(), []
        with torch.no_grad():
            for part in parts:
                form, weights = freeze(part.form)
                folded.append(weights)
                branch = part.branch
                if branch is not None:
                    branch, weights = freeze(branch)
                    folded.append(weights)
                frozen.append(replace(part, form=form, branch=branch))
        super().__init__(net.requires_grad_(False), frozen, *layout)
        self.folded = folded
        self._records = self._no_records()

    def _run(self, form: Form, x: Tensor, moment: Moment) -> Tensor:
        records = self._records.get(form)
        return form.step(x, moment) if records is None else records.step(form, x, moment)

    def _no_records(self) -> dict[Form, Records]:
        """Where to begin with other weights: nothing recorded, nothing packed."""
        forms = [form for part in self.parts for form in (part.form, part.branch) if form is not None]
        for form in forms:
            repack(form)
        return {form: Records() for form in forms if runs_alike(form)}

    def _apply(self, *args: Any, **kwargs: Any) -> FrozenExitStream:
        self._records = self._no_records()  # its weights are others from now on
        return super()._apply(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._records = self._no_records()  # assign=True puts other tensors where its weights were
        return super().load_state_dict(*args, **kwargs)

    def train(self, mode: bool = True) -> FrozenExitStream:
        """Nothing changes in eval mode.

        Raises:
            ConfigError: training mode.
        """
        refuse_training(mode)
        super().train(False)
        return self


def refuse_training(mode: bool) -> None:
    """What a frozen stream does when it is put into training mode.

    Raises:
        ConfigError: it is.
    """
    if mode:
        raise ConfigError("A frozen stream cannot be trained; train the network and freeze it again")


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
    frozen: bool = False,
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
    if frozen:
        net = copied(net).eval()
    first = Plan(net, 1, squeeze=squeeze, chosen=chosen)
    _planned_parts(net, flow, [first] * len(net.exit_points))
    hop = fitting_hop(hop, first)
    plans = [Plan(net, hop, squeeze=squeeze, chosen=chosen) for _ in net.exit_points]
    for plan in plans[1:]:
        plan.keys = plans[0].keys
    parts = _with_queues(_planned_parts(net, flow, plans), hop, catch_up)
    made = FrozenExitStream if frozen else ExitStream
    return made(net, parts, hop, catch_up, flow.axis, flow.ndim, shape)


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
        InputError: no stream at all, or ``like`` has no axis of time.
    """
    if like is None and shape is None:
        raise ConfigError("The size of the stream's input is not known here; pass like=, one of its inputs")
    sizes = list(like.shape) if like is not None else [batch, *(shape or ())]
    if len(sizes) <= axis or sizes[0] < 1:
        raise InputError(f"A state is of at least one stream with time on axis {axis}, not of {tuple(sizes)}")
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
        delay = max(0, answer.after)
        part = Part(point.name, form, branch, flow, keys, plan.settled, answer.delay, delay, 0)
        parts.append((part, extent))
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
