"""A network that was trained on clips, as one that takes a few units of time at each step."""

from __future__ import annotations

from collections.abc import Collection
from math import lcm
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

import sentio.audio.streaming_frontend
import sentio.nn.streaming_layers
import sentio.nn.streaming_pooling
import sentio.nn.window_attention  # noqa: F401  (they say how their layers run in time)
from sentio.core.anytime import MAIN
from sentio.core.counting import Count, count
from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.core.staged import Staged
from sentio.nn.streaming import Flow, Form, Moment, Plan, State, streams
from sentio.nn.streaming_joins import Chain, Delay, Planned
from sentio.nn.streaming_pooling import OverWindow

#: what a state calls the number of steps taken
STEPS = "steps"


class Stepped(NamedTuple):
    """What a step gives.

    Args:
        output: ``(batch, ...)``; rows that are not valid hold nothing of use.
        valid: which streams have an answer, ``(batch,)``; those that have none are warming up.
        state: for the next step.
    """

    output: Tensor
    valid: Tensor
    state: dict[str, Tensor]


def stream(
    net: nn.Module,
    *,
    axis: int = 2,
    hop: int | None = None,
    window: int | None = None,
    squeeze: Literal["frame"] | None = None,
    over_window: Collection[str] = (),
    example: Tensor | None = None,
) -> Stream:
    """A network that was trained on clips as one that takes a few units of time at a step, with its weights.

    Args:
        net: a `Staged` network, or a ``nn.Sequential`` or single layer of known layers; put in eval mode.
        axis: of time in the input, the batch being 0.
        hop: units of a step, a multiple of the network's total stride; the total stride if None.
        window: units that a pooling over the whole clip, or whatever else reads a whole clip, looks back
            on; the network's own clip if None.
        squeeze: ``frame`` lets squeeze and excitation average over each frame alone, in place of the whole
            clip, which gives other answers.
        over_window: modules, by name, that are run anew at each step on the last window of their input:
            exact for what mixes a whole clip, at its full cost.
        example: an input, for a network that does not know its input's shape.

    Raises:
        ConfigError: a layer cannot run on a stream exactly, which is named with the reason; or an option
            does not fit the network.
    """
    shape = _shape(net, example)
    if shape is not None and not 1 <= axis <= len(shape):
        raise ConfigError(
            f"Axis {axis} cannot be time in an input of shape (batch, {', '.join(map(str, shape))})"
        )
    names = [name for name, _ in net.named_modules() if name]
    for name in over_window:
        if name not in names:
            raise UnknownNameError("module for over_window", name, names)
    if window is None and shape is not None:
        window = shape[axis - 1]
    flow = Flow(axis=axis, ndim=None if shape is None else len(shape) + 1, frames=window)
    chosen = dict.fromkeys(over_window, OverWindow)
    hop = _hop(net, flow, hop, squeeze, chosen)
    plan = Plan(net, hop, squeeze=squeeze, chosen=chosen)
    form, out = _aligned(net, flow, plan)
    ndim = flow.ndim or plan.ndim
    if ndim is None:
        raise ConfigError(
            "The number of axes of the stream's input is not known here; pass example=, an input"
        )
    warm_up = out.delay // (1 if out.axis is None else plan.units(out))
    return Stream(net, Layout(form, plan, out, hop, warm_up, axis, ndim, shape))


def _shape(net: nn.Module, example: Tensor | None) -> tuple[int, ...] | None:
    """Of the input, without the batch."""
    if example is not None:
        return tuple(example.shape[1:])
    shapes = getattr(net, "input_shapes", None)
    if not shapes:
        return None
    if set(shapes) != {MAIN}:
        raise ConfigError(f"A stream has one input, and this network takes {', '.join(shapes)}")
    return tuple(shapes[MAIN])


def _hop(net: nn.Module, flow: Flow, hop: int | None, squeeze: Any, chosen: Any) -> int:
    """The hop: what was asked for if it fits, or the total stride."""
    plan = Plan(net, 1, squeeze=squeeze, chosen=chosen)
    plan.run(net, flow)
    total = lcm(*plan.strides)
    if hop is None:
        return total
    if hop < 1 or hop % total:
        raise ConfigError(
            f"A step of {hop} units does not fit a network of stride {total}; use a multiple of it"
        )
    return hop


def _aligned(net: nn.Module, flow: Flow, plan: Plan) -> tuple[Form, Flow]:
    """The planned network, delayed so that the first valid step holds the first output as its first unit."""
    form, out = plan.run(net, flow)
    units = 1 if out.axis is None else plan.units(out)
    lag = -out.delay % units
    if not lag:
        return form, out
    delayed, out = plan.run(Delay(lag), out)
    return Planned(form, delayed), out


class Stream(nn.Module):
    """A network that takes ``hop`` units of time at a step and gives what the clip network would give, later.

    It holds no state and shares the network's weights: the state goes in and comes out, so any number of
    streams can be stepped in one batch, each at its own age. Made by `stream`.

    Outputs keep the axis of time where the network pools nothing, ``hop / stride`` units a step; behind a
    pooling over time a step gives one value. In eval mode outputs equal `clip`'s, in order, from the first
    valid one on.
    """

    def __init__(self, net: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.net = net
        self.layout = layout
        self.eval()

    @property
    def hop(self) -> int:
        """Input units that a step takes."""
        return self.layout.hop

    @property
    def stride(self) -> int:
        """Input units from one output to the next."""
        return self.layout.out.stride

    @property
    def delay(self) -> int:
        """Input units that must have come after the one an output is about, before it is given."""
        return max(0, self.layout.out.after)

    @property
    def receptive_field(self) -> float:
        """Input units that an output depends on; infinite behind a recurrent layer."""
        out = self.layout.out
        return float("inf") if out.past == float("inf") else out.before + out.after + 1

    @property
    def warm_up(self) -> int:
        """Steps without an answer at the start of a stream."""
        return self.layout.warm_up

    def step(self, x: Tensor, state: State | None = None) -> Stepped:
        """One step of a batch of streams, without gradients.

        Args:
            x: the next ``hop`` units, ``(batch, ...)`` with time where the clip has it; with a hop of 1 the
                axis of time may be left out.
            state: what the last step gave, one row for each stream; None to begin new streams.

        Returns:
            output, which rows of it are valid, and the state for the next step. ``state`` is not changed.

        Raises:
            ConfigError: it is in training mode.
            InputError: not ``hop`` units, or a state of other streams.
        """
        if self.training:
            raise ConfigError("A stream steps in eval mode; call eval() first, and clip() to train")
        x = self._chunk(x)
        steps, warm = age(state, x, self.layout.plan.settled)
        moment = Moment(state, steps, warm)
        with torch.no_grad():
            output = self.layout.form.step(x, moment)
        moment.new[STEPS] = steps + 1
        return Stepped(output, steps >= self.warm_up, moment.new)

    forward = step

    def start(self, batch: int = 1, *, like: Tensor | None = None) -> dict[str, Tensor]:
        """The state of streams that have not begun: what ``state=None`` stands for.

        Args:
            batch: number of streams.
            like: an input of their size and type, where the network does not know its own.

        Raises:
            ConfigError: the size is not known.
        """
        if like is None and self.layout.shape is None:
            raise ConfigError(
                "The size of the stream's input is not known here; pass like=, one of its inputs"
            )
        sizes = list(like.shape) if like is not None else [1, *self.layout.shape]  # type: ignore[misc]
        sizes[0], sizes[self.layout.axis] = batch, self.hop
        given = next(self.net.parameters(), torch.empty(0)) if like is None else like
        x = given.new_zeros(sizes)
        moment = Moment(None, torch.zeros(batch, dtype=torch.int64, device=x.device), False)
        with torch.no_grad():
            self.layout.form.step(x, moment)
        return {**moment.start, STEPS: moment.steps}

    def clip(self, x: Tensor) -> Tensor:
        """The whole clip at once, with gradients: what a stream that begins with it gives from first to last.

        Layers are padded with zeros at the start as in the network, and not at the end. Dropout and batch
        norm do as the mode says, so a network can be trained for streams with it.

        Args:
            x: ``(batch, ...)``, at least as long as the network's window.

        Returns:
            ``(batch, ..., time, ...)``, or behind a pooling over time ``(batch, answer, ...)``, an answer
            every ``hop`` units.
        """
        output = self.layout.form.clip(x)
        if self.layout.out.axis is None:
            output = output.unflatten(0, (len(x), -1))
        return output

    def macs(self, *, batch: int = 1, rule: str = "macs") -> Count:
        """The arithmetic of one step of one stream, layer by layer (see `sentio.core.counting`)."""
        state = self.start(batch)
        shape = [batch, *self.layout.shape]  # type: ignore[misc]
        shape[self.layout.axis] = self.hop
        x = next(self.net.parameters(), torch.empty(0)).new_zeros(shape)
        return count(_Bound(self, state), x, rule=rule)

    def extra_repr(self) -> str:
        return f"hop={self.hop}, delay={self.delay}, warm_up={self.warm_up}"

    def _chunk(self, x: Tensor) -> Tensor:
        axis, ndim = self.layout.axis, self.layout.ndim
        if self.hop == 1 and x.ndim == ndim - 1:
            x = x.unsqueeze(axis)
        if x.ndim != ndim or x.shape[axis] != self.hop:
            raise InputError(
                f"A step takes {self.hop} units on axis {axis} of {ndim}, got shape {tuple(x.shape)}"
            )
        return x


def age(state: State | None, x: Tensor, settled: int) -> tuple[Tensor, bool]:
    """Steps taken by each stream, and whether none is so young that something has to be blanked.

    Raises:
        InputError: the state is not of as many streams as ``x``, or not a state.
    """
    if state is None:
        steps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return steps, settled == 0
    if STEPS not in state:
        raise InputError("The state has no 'steps'; pass what the last step gave, or None to begin")
    steps = state[STEPS]
    if len(steps) != len(x):
        raise InputError(
            f"The state is of {len(steps)} streams and the input of {len(x)}; give as many of both"
        )
    if settled == 0 or torch.compiler.is_exporting() or steps.device.type != "cpu":
        return steps, settled == 0  # elsewhere asking would wait for the device
    return steps, int(steps.min()) >= settled


class Layout(NamedTuple):
    """A planned network, or part of one.

    Args:
        form: what runs.
        plan: what was noted on the way.
        out: what is known of the output.
        hop: input units of a step.
        warm_up: steps before the first valid output.
        axis, ndim: of time, and how many there are in the input.
        shape: of the input without the batch, None if it is not known.
    """

    form: Form
    plan: Plan
    out: Flow
    hop: int
    warm_up: int
    axis: int
    ndim: int
    shape: tuple[int, ...] | None


class _Bound(nn.Module):
    """A step with a state, as a module of one input."""

    def __init__(self, stream: Stream, state: State) -> None:
        super().__init__()
        self.stream, self.state = stream, state

    def forward(self, x: Tensor) -> Tensor:
        return self.stream.step(x, self.state).output


@streams(Staged)
def _staged(net: Staged) -> Form:
    return Chain(*net.stages.values())
