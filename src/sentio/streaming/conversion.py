"""A network that was trained on clips, as one that takes a few units of time at each step."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

import sentio.audio.streaming_frontend
import sentio.nn.frozen_graph_conv
import sentio.nn.streaming_layers
import sentio.nn.streaming_pooling
import sentio.nn.window_attention  # noqa: F401  (they say how their layers run in time)
from sentio.core.anytime import MAIN
from sentio.core.counting import Count, count
from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.core.multi_exit import MultiExit
from sentio.core.staged import Staged, copied
from sentio.core.stepping import STEPS, CatchUp
from sentio.nn.streaming import Delay, Flow, Form, Moment, Plan, Planned, State, streams
from sentio.nn.streaming_frozen import freeze, repack, runs_alike
from sentio.nn.streaming_joins import Chain
from sentio.nn.streaming_pooling import OverWindow
from sentio.streaming.arrays import TorchArrays
from sentio.streaming.exits_in_time import ExitStream, exit_stream, first_chunk, fitting_hop, refuse_training
from sentio.streaming.recorded import Records
from sentio.streaming.state import as_chunk, batch_norms, check_eval, is_warm, refuse_unfit, steps_taken


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
    squeeze: Literal["frame", "window"] | None = None,
    over_window: Collection[str] = (),
    catch_up: CatchUp = "exact",
    frozen: bool = False,
    example: Tensor | None = None,
) -> Stream | ExitStream:
    """A network that was trained on clips as one that takes a few units of time at a step, with its weights.

    Args:
        net: a `Staged` or `MultiExit` network, or a ``nn.Sequential`` or single layer of known layers; put in
            eval mode.
        axis: of time in the input, the batch being 0.
        hop: units of a step, a multiple of the network's total stride; the total stride if None.
        window: units that a pooling over the whole clip, or whatever else reads a whole clip, looks back
            on; the network's own clip if None.
        squeeze: ``frame`` lets squeeze and excitation average over each frame alone, in place of the whole
            clip, ``window`` over the last frames, as many as the clip has; both give other answers.
        over_window: modules, by name, that are run anew at each step on the last window of their input:
            exact for what mixes a whole clip, at its full cost.
        catch_up: with exits, what becomes of the steps that left early: ``exact`` computes what they skipped
            once a later step goes on, ``hold`` never does.
        frozen: whether it takes a copy of the weights in the form in which a step is fastest, batch norms
            folded into convolutions, activations computed in place, and records what a step does (see
            `sentio.streaming.recorded`). Same answers up to rounding; what is trained or loaded into ``net``
            later does not reach it, and it cannot be trained itself.
        example: an input, for a network that does not know its input's shape.

    Returns:
        A `Stream`, or an `ExitStream` of a network with exits.

    Raises:
        ConfigError: a layer cannot run on a stream exactly, which is named with the reason; or an option
            does not fit the network.
    """
    _check_options(net, window, hop, over_window, catch_up)
    shape = _shape(net, example)
    if shape is not None and not 1 <= axis <= len(shape):
        raise ConfigError(
            f"Axis {axis} cannot be time in an input of shape (batch, {', '.join(map(str, shape))})"
        )
    if squeeze not in (None, "frame", "window"):
        raise ConfigError(f"squeeze is 'frame' or 'window', or None to refuse it, got {squeeze!r}")
    names = [name for name, _ in net.named_modules() if name]
    for name in over_window:
        if name not in names:
            raise UnknownNameError("module for over_window", name, names)
    if window is None and shape is not None:
        window = shape[axis - 1]
    flow = Flow(axis=axis, ndim=None if shape is None else len(shape) + 1, frames=window)
    chosen = dict.fromkeys(over_window, OverWindow)
    if isinstance(net, MultiExit):
        return exit_stream(net, flow, hop, catch_up, shape, squeeze=squeeze, chosen=chosen, frozen=frozen)
    if frozen:
        net = copied(net).eval()
    plan = Plan(net, 1, squeeze=squeeze, chosen=chosen)
    plan.run(net, flow)
    hop = fitting_hop(hop, plan)
    plan = Plan(net, hop, squeeze=squeeze, chosen=chosen)
    form, out = _aligned(net, flow, plan)
    ndim = flow.ndim or plan.ndim
    if ndim is None:
        raise ConfigError(
            "The number of axes of the stream's input is not known here; pass example=, an input"
        )
    warm_up = out.delay // (1 if out.axis is None else plan.units(out))
    layout = Layout(form, plan, out, hop, warm_up, axis, ndim, shape)
    return FrozenStream(net, layout) if frozen else Stream(net, layout)


def _check_options(net: Any, window: Any, hop: Any, over_window: Any, catch_up: Any) -> None:
    """What `stream` is given, as far as it does not depend on the network's layers."""
    if not isinstance(net, nn.Module):
        raise ConfigError(
            f"A stream is made of a network, got {type(net).__name__}; sentio.create_network(name) and "
            "sentio.load(name).network are some"
        )
    for what, units in (("A window", window), ("A step", hop)):
        if units is not None and (isinstance(units, bool) or not isinstance(units, int) or units < 1):
            raise ConfigError(f"{what} has a whole number of units, at least 1, got {units!r}")
    if isinstance(over_window, str):
        raise ConfigError(f"over_window lists names of modules, got {over_window!r}; give [{over_window!r}]")
    if catch_up not in get_args(CatchUp):
        raise ConfigError(f"catch_up is 'exact' or 'hold', got {catch_up!r}")


def _shape(net: nn.Module, example: Tensor | None) -> tuple[int, ...] | None:
    """Of the input, without the batch."""
    if example is not None:
        return tuple(example.shape[1:])
    shapes = getattr(net.backbone if isinstance(net, MultiExit) else net, "input_shapes", None)
    if not shapes:
        return None
    if set(shapes) != {MAIN}:
        raise ConfigError(f"A stream has one input, and this network takes {', '.join(shapes)}")
    return tuple(shapes[MAIN])


def _aligned(net: nn.Module, flow: Flow, plan: Plan) -> tuple[Form, Flow]:
    """The planned network, delayed so that the first valid step holds the first output as its first unit."""
    form, out = plan.run(net, flow)
    lag = -out.delay if out.delay < 0 else -out.delay % (1 if out.axis is None else plan.units(out))
    if not lag:
        return form, out
    delayed, out = plan.run(Delay(lag, out.lead), out)
    return Planned(form, delayed), out


class Stream(nn.Module):
    """A network that takes ``hop`` units of time at a step and gives what the clip network would give, later.

    It holds no state and shares the network's weights: the state goes in and comes out, so any number of
    streams can be stepped in one batch, each at its own age. Made by `stream`.

    Outputs keep the axis of time where the network pools nothing, ``hop / stride`` units a step; behind a
    pooling over time a step gives one value. In eval mode outputs equal `clip`'s, in order, from the first
    valid one on.
    """

    arrays = TorchArrays()

    def __init__(self, net: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.net = net
        self.layout = layout
        self.norms = batch_norms(net)
        self.eval()

    @property
    def hop(self) -> int:
        """Input units that a step takes."""
        return self.layout.hop

    @property
    def axis(self) -> int:
        """Of time in the input, the batch being 0."""
        return self.layout.axis

    @property
    def ndim(self) -> int:
        """Number of axes of the input."""
        return self.layout.ndim

    @property
    def stride(self) -> int:
        """Input units from one output to the next."""
        return self.layout.out.stride

    @property
    def delay(self) -> int:
        """Input units after the one an output is about on which it depends.

        It is given with the step that brings the last of them. Only where a layer pads by more than its
        kernel reaches, and the next has to wait for that padding, is it given later.
        """
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
            ConfigError: it or its network is in training mode.
            InputError: not ``hop`` units, not of the network's type and size, or a state of other streams.
        """
        check_eval(self, self.net)
        layout = self.layout
        x = as_chunk(x, layout.hop, layout.axis, layout.ndim, layout.shape)
        steps = x.new_zeros(len(x), dtype=torch.int64) if state is None else steps_taken(state, x)
        moment = Moment(state, steps, is_warm(steps, layout.plan.settled))
        output = self._stepped(x, moment, self._run)
        moment.new[STEPS] = steps + 1
        return Stepped(output, steps >= self.warm_up, moment.new)

    forward = step

    def _run(self, x: Tensor, moment: Moment) -> Tensor:
        return self.layout.form.step(x, moment)

    def _stepped(self, x: Tensor, moment: Moment, run: Callable[[Tensor, Moment], Tensor]) -> Tensor:
        try:
            with torch.no_grad():
                return run(x, moment)
        except RuntimeError:
            refuse_unfit(x, self.net, self.layout.shape, self.layout.axis, self.layout.hop)
            raise

    def start(self, batch: int = 1, *, like: Tensor | None = None) -> dict[str, Tensor]:
        """The state of streams that have not begun: what ``state=None`` stands for.

        Args:
            batch: number of streams.
            like: an input of their size and type, where the network does not know its own.

        Raises:
            ConfigError: the size is not known, or it is in training mode.
            InputError: no stream at all, or ``like`` is not of the network's size and type.
        """
        check_eval(self, self.net)
        layout = self.layout
        x = first_chunk(self.net, batch, like, layout.shape, layout.axis, layout.hop)
        moment = Moment(None, x.new_zeros(len(x), dtype=torch.int64), False)
        self._stepped(x, moment, layout.form.step)
        return {**moment.start, STEPS: moment.steps}

    def begin(self, x: Tensor) -> dict[str, Tensor]:
        """The state of streams that have seen the first unit of ``x`` forever; answers are valid at once.

        In place of the zeros that `start` and ``state=None`` begin with, whose traces the first answers show.
        Each layer is filled with what it gives for that unit, in one step.

        Args:
            x: ``(batch, ...)``, the first units of the streams, at least one.

        Raises:
            InputError: not an input of the stream; or a layer that has to be run forever to settle, such as a
                recurrent one.
            ConfigError: it is in training mode.
        """
        check_eval(self, self.net)
        layout = self.layout
        if isinstance(x, Tensor) and x.ndim == layout.ndim - 1:
            x = x.unsqueeze(layout.axis)
        if not isinstance(x, Tensor):
            raise InputError(f"A stream begins with a tensor, got {type(x).__name__}")
        sizes = list(x.shape)
        if len(sizes) != layout.ndim or not sizes[layout.axis] or not len(x):
            raise InputError(f"A stream of {layout.ndim} axes cannot begin with shape {tuple(x.shape)}")
        sizes[layout.axis] = layout.hop
        # Of its own, since an activation in place may come first.
        chunk = x.narrow(layout.axis, 0, 1).expand(sizes).clone(memory_format=torch.contiguous_format)
        steps = torch.full((len(x),), max(self.warm_up, layout.plan.settled), device=x.device)
        moment = Moment(None, steps, True, repeats=True)
        self._stepped(chunk, moment, layout.form.step)
        return {**moment.start, STEPS: steps}

    def clip(self, x: Tensor) -> Tensor:
        """The whole clip at once, with gradients: what a stream that begins with it gives from first to last.

        Layers are padded with zeros at the start as in the network, and not at the end. Dropout and batch
        norm do as the mode says, so a network can be trained for streams with it.

        Args:
            x: ``(batch, ...)``, of more than `delay` units: as many as the first answer is about.

        Returns:
            ``(batch, ..., time, ...)``, or behind a pooling over time ``(batch, answer, ...)``, an answer
            every ``hop`` units.

        Raises:
            InputError: not of the network's type and size, or too short for one answer.
        """
        layout = self.layout
        try:
            output = layout.form.clip(x)
        except (RuntimeError, TypeError, ValueError, IndexError):
            refuse_unfit(x, self.net, layout.shape, layout.axis, None)
            if x.shape[layout.axis] < self.receptive_field:
                raise InputError(
                    f"A clip of {x.shape[layout.axis]} units is too short for an answer of this stream"
                ) from None
            raise
        if layout.out.axis is None:
            output = output.unflatten(0, (len(x), -1))
        return output

    def macs(self, *, batch: int = 1, rule: str = "macs") -> Count:
        """The arithmetic of one step of one stream, layer by layer (see `sentio.core.counting`)."""
        state = self.start(batch)
        layout = self.layout
        x = first_chunk(self.net, batch, None, layout.shape, layout.axis, layout.hop)
        return count(_Bound(self, state), x, rule=rule)

    def extra_repr(self) -> str:
        return f"hop={self.hop}, delay={self.delay}, warm_up={self.warm_up}"


class FrozenStream(Stream):
    """A stream with a copy of the weights in the form in which a step is fastest; made by `stream`."""

    def __init__(self, net: nn.Module, layout: Layout) -> None:
        with torch.no_grad():
            form, folded = freeze(layout.form)
        super().__init__(net.requires_grad_(False), layout._replace(form=form))
        self.folded = folded
        self._records = Records() if runs_alike(form) else None

    def _run(self, x: Tensor, moment: Moment) -> Tensor:
        records, form = self._records, self.layout.form
        return form.step(x, moment) if records is None else records.step(form, x, moment)

    def _apply(self, *args: Any, **kwargs: Any) -> FrozenStream:
        if self._records is not None:
            self._records = Records()  # its weights are others from now on
        repack(self.layout.form)
        return super()._apply(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        if self._records is not None:
            self._records = Records()  # assign=True puts other tensors where its weights were
        repack(self.layout.form)
        return super().load_state_dict(*args, **kwargs)

    def train(self, mode: bool = True) -> FrozenStream:
        """Nothing changes in eval mode.

        Raises:
            ConfigError: training mode.
        """
        refuse_training(mode)
        super().train(False)
        return self


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
