"""Layers on a stream: what is known of a tensor in time, and which layer runs how.

A stream takes a fixed number of input units at each step, the *hop*: a multiple of every stride in the
network, so that each layer gets the same number of units each time and no stream has a phase of its own. A
layer's output is the clip layer's output, later: the *delay* says how many units of it lie before the first
one. What lies before a stream's start is garbage that no valid output depends on, or is blanked where a
layer pads.

A `Form` is a layer's way to run like that, and ``@streams(Class)`` says which form a module has. Blocks of
several layers are put together in `sentio.nn.streaming_joins`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sentio.core.errors import ConfigError, InputError
from sentio.nn.streaming_buffers import Order, append, joined, pays

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Flow:
    """What is known of a tensor before anything runs.

    Args:
        axis: of time; None behind a pooling over time, where each step has one value.
        ndim: number of axes, the batch's included; None where nothing has said so yet.
        frames: units of it that a clip of the network's window has; None if no window is known.
        stride: input units from one unit to the next.
        delay: units of the first step's chunk that lie before the stream's start. Below zero behind padding,
            where the first units are never given: they are ``lead``.
        lead: what stands in units that are never given.
        before, after: input units that unit 0 depends on, before and after input unit 0.
        past: input units before a step's chunk on which the step's output depends; infinite if recurrent.
    """

    axis: int | None = 2
    ndim: int | None = None
    frames: int | None = None
    stride: int = 1
    delay: int = 0
    lead: float = 0.0
    before: int = 0
    after: int = 0
    past: float = 0


class Form:
    """A layer as it runs on a stream: planned once, then stepped.

    A form holds no state of its own; what it keeps from step to step it reads from and writes to the moment.
    """

    #: whether it can do without the first units of a flow whose delay is below zero
    takes_lead = False

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        """Work out delays and buffers for an input like ``flow``; what the output is like.

        Raises:
            ConfigError: it cannot run on such a stream (`Plan.refusal`).
        """
        raise NotImplementedError

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        """The output that belongs to one chunk."""
        raise NotImplementedError

    def clip(self, x: Tensor) -> Tensor:
        """The same for a whole clip from the stream's start: zero start padding, no end padding.

        Unit 0 of input and output is the stream's first; behind a pooling over time, windows follow each
        other in the batch.
        """
        raise NotImplementedError


Item = nn.Module | Form


class Moment:
    """One step of a batch of streams: their states, before and after.

    Args:
        state: what the last step gave; None if the streams begin.
        steps: taken so far, int64 ``(batch,)``.
        warm: whether no stream is so young that a chunk anywhere reaches back before its start.
        repeats: whether streams begin as if the first unit of each chunk had been there forever.
    """

    __slots__ = ("new", "repeats", "start", "state", "steps", "warm")

    def __init__(self, state: State | None, steps: Tensor, warm: bool, *, repeats: bool = False) -> None:
        self.state, self.steps, self.warm, self.repeats = state, steps, warm, repeats
        self.new: dict[str, Tensor] = {}
        self.start: dict[str, Tensor] = {}

    def buffer(self, key: str, x: Tensor, shape: Iterable[int], fill: float = 0.0) -> Tensor:
        """What was kept under ``key``, or a new buffer like ``x`` where streams begin."""
        if self.repeats:
            raise InputError(f"A stream cannot begin settled: what {key!r} tends to is not known; start() it")
        if self.state is None:
            self.start[key] = x.new_full(tuple(shape), fill)
            return self.start[key]
        try:
            kept = self.state[key]
        except KeyError:
            raise InputError(
                f"The state has no {key!r}; it is of another network or was cut, start the stream again"
            ) from None
        if not torch.compiler.is_exporting() and kept.shape != tuple(shape):
            raise InputError(
                f"The state does not fit: {key!r} has shape {tuple(kept.shape)}, and {tuple(shape)} is "
                "needed; it is of another network, another size or other streams"
            )
        return kept.to(x.dtype) if x.is_floating_point() else kept

    def window(
        self,
        key: str,
        x: Tensor,
        axis: int,
        size: int,
        fill: float = 0.0,
        *,
        sparse: bool = False,
        lies: Order | None = None,
    ) -> Tensor:
        """The ``size`` units before ``x``, then ``x``; the last ``size`` of them are kept.

        Args:
            sparse: whether the units need not lie side by side, so that they are better not copied.
            lies: how the window's axes lie in memory; as they come if None, which is how they are exported.
        """
        if not size:
            return x
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        if self.repeats:  # cloned: the caller may write the next unit where this one lies
            first = x.narrow(axis, 0, 1).expand(shape)
            before = self.start[key] = first.clone(memory_format=torch.contiguous_format)
        else:
            before = self.buffer(key, x, shape, fill)
        if sparse and pays(before):
            window, self.new[key] = append(before, x, axis, lies)
            return window
        window = joined(before, x, axis, None if torch.compiler.is_exporting() else lies)
        self.new[key] = window.narrow(axis, window.shape[axis] - size, size)
        return window

    def lived(self, count: int, units: int, delay: int) -> Tensor:
        """Which of a chunk's units do not lie before their stream's start: booleans ``(batch, count)``."""
        return self._lived((-1, count), count, units, delay)

    def _lived(self, shape: Sequence[int], count: int, units: int, delay: int) -> Tensor:
        """The same in a shape that begins with the batch and holds ``count`` in one of its axes."""
        # The age from which a unit does not is a constant, so an exported graph has only to compare.
        ages = [max(0, -((place - delay) // units)) for place in range(count)]
        born = torch.tensor(ages, device=self.steps.device).view(1, *shape[1:])
        return self.steps.view(-1, *(1 for _ in shape[1:])) >= born

    def blank(self, x: Tensor, axis: int, units: int, delay: int, fill: float = 0.0) -> Tensor:
        """``x`` with ``fill`` for what lies before a stream's start."""
        if self.warm or delay <= 0:
            return x
        count = x.shape[axis]
        shape = [1] * x.ndim
        shape[0], shape[axis] = -1, count
        return torch.where(self._lived(shape, count, units, delay), x, fill)


class Plan:
    """How a network is laid out in time: names, keys of the state, and what was chosen.

    Args:
        net: the whole network, for the names of its modules.
        hop: input units of a step; 1 while strides are being collected.
        squeeze: ``frame`` if squeeze and excitation may average over the frame alone, ``window`` if over the
            last frames.
        chosen: forms for single modules, by name, in place of their class's.
    """

    def __init__(
        self,
        net: nn.Module,
        hop: int,
        *,
        squeeze: Literal["frame", "window"] | None = None,
        chosen: Mapping[str, Callable[[Any], Form]] | None = None,
    ) -> None:
        self.hop, self.squeeze, self.chosen = hop, squeeze, dict(chosen or {})
        self.strides: set[int] = {1}
        #: steps after which nothing has to be blanked any more
        self.settled = 0
        #: axes of the network's input, once something has said so
        self.ndim: int | None = None
        self.keys: set[str] = set()
        self._names = {id(module): name for name, module in net.named_modules()}
        self._path: list[tuple[str, str]] = [("", type(net).__name__)]

    def run(self, item: Item, flow: Flow) -> tuple[Form, Flow]:
        """The planned form of a module or form, and what it gives for ``flow``."""
        with self._at(item):
            form = item if isinstance(item, Form) else self._find(item, flow)
            if flow.delay < 0 and not form.takes_lead:
                lead = Delay(-flow.delay, flow.lead)
                out = form.plan(lead.plan(flow, self), self)
                form = Planned(lead, form)
            else:
                out = form.plan(flow, self)
        self.strides.add(out.stride)
        self.ndim = self.ndim or flow.ndim or out.ndim
        return form, out

    def units(self, flow: Flow) -> int:
        """Units of a step's chunk."""
        return max(1, self.hop // flow.stride)

    def blanks(self, flow: Flow) -> None:
        """Note that what lies before the start of ``flow`` has to be blanked."""
        self.settled = max(self.settled, -(-flow.delay // self.units(flow)))

    def key(self, label: str) -> str:
        """A name in the state for the module that is being planned."""
        base = ".".join(part for part in (self._path[-1][0], label) if part)
        key, number = base, 2
        while key in self.keys:
            key, number = f"{base}_{number}", number + 1
        self.keys.add(key)
        return key

    def refusal(self, reason: str) -> ConfigError:
        """The error that names the module being planned and says why it cannot run on a stream."""
        name, kind = self._path[-1]
        where = f"Layer {name!r} ({kind})" if name else kind
        return ConfigError(f"{where} cannot run on a stream: {reason}")

    @contextmanager
    def _at(self, item: Item) -> Iterator[None]:
        name = self._names.get(id(item)) if isinstance(item, nn.Module) else None
        if isinstance(item, nn.Module):
            self._path.append((self._path[-1][0] if name is None else name, type(item).__name__))
        try:
            yield
        finally:
            if isinstance(item, nn.Module):
                self._path.pop()

    def _find(self, module: nn.Module, flow: Flow) -> Form:
        name = self._path[-1][0]
        if name in self.chosen and flow.axis is not None:
            return self.chosen[name](module)
        kind = type(module)
        if parametrize.is_parametrized(module):
            kind = kind.__bases__[0]
        if flow.axis is None:  # one value for each step: nothing is left that time could mix
            return PerFrame(module)
        if kind in FORMS:
            return FORMS[kind](module)
        raise self.refusal(
            "nothing says how it runs in time; declare it with @streams (sentio.nn.streaming), or name it in "
            "over_window= to run it anew at each step on the last window of its input"
        )


class Delay(Form):
    """The input ``units`` later, and ``lead`` until then."""

    def __init__(self, units: int, lead: float = 0.0) -> None:
        self.units, self.lead = units, lead

    takes_lead = True
    #: how what it keeps lies in memory
    lies: Order | None = None

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        if flow.axis is None:
            raise plan.refusal("a branch behind a pooling over time cannot be delayed; pool behind the join")
        self.axis, self.ndim = flow.axis, flow.ndim
        self.key = plan.key("delay")
        return replace(flow, delay=flow.delay + self.units, past=flow.past + self.units * flow.stride)

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        sparse = self.units > x.shape[self.axis]  # else all that is kept is new at each step
        window = moment.window(self.key, x, self.axis, self.units, self.lead, sparse=sparse, lies=self.lies)
        return window.narrow(self.axis, 0, x.shape[self.axis])

    def clip(self, x: Tensor) -> Tensor:
        return x


class Planned(Form):
    """Forms that are planned already, one after the other."""

    def __init__(self, *forms: Form) -> None:
        self.forms = forms

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        for form in self.forms:
            x = form.step(x, moment)
        return x

    def clip(self, x: Tensor) -> Tensor:
        for form in self.forms:
            x = form.clip(x)
        return x


#: class of a module -> its form
FORMS: dict[type, Callable[[Any], Form]] = {}


def streams(*kinds: type) -> Callable[[Callable[[Any], Form]], Callable[[Any], Form]]:
    """Decorator: a module of one of these classes runs on a stream as the form that the function gives.

    The classes themselves are meant, not what derives from them, since that may compute something else.
    """

    def add(make: Callable[[Any], Form]) -> Callable[[Any], Form]:
        FORMS.update(dict.fromkeys(kinds, make))
        return make

    return add


def refuses(reason: str, *kinds: type) -> None:
    """Modules of these classes cannot run on a stream exactly; ``reason`` ends the sentence that says so."""
    FORMS.update(dict.fromkeys(kinds, lambda module: _Refused(reason)))


class _Refused(Form):
    def __init__(self, reason: str) -> None:
        self.reason = reason

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        raise plan.refusal(self.reason)


class PerFrame(Form):
    """What treats each unit of time by itself, unchanged: norms in eval mode, activations, 1×1 convolutions.

    Args:
        run: tensor to tensor of the same time axis.
        check: given the flow, why it would not treat each unit by itself; None if it does.
        ndim: number of axes of the input, where the module says so.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        *,
        check: Callable[[Flow], str | None] | None = None,
        ndim: int | None = None,
    ) -> None:
        self.run, self.check, self.ndim = run, check, ndim
        self.overwrites = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "check": None}  # it is asked while planning, and often cannot be stored

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        self.overwrites = bool(getattr(self.run, "inplace", False))
        if flow.axis is None:
            return flow
        reason = self.check(flow) if self.check else None
        if reason:
            raise plan.refusal(reason)
        return replace(flow, ndim=self.ndim or flow.ndim)

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        # What it is given may be a state's, or the caller's.
        return self.run(x.clone() if self.overwrites else x)

    def clip(self, x: Tensor) -> Tensor:
        return self.run(x)
