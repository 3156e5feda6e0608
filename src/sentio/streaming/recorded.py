"""A step's operations, recorded once and run again without the Python around them.

A step of a small network is some hundred calls of a few microseconds, and as long again passes in the forms
and modules that make them. So a frozen stream writes down what PyTorch is asked to do for an input and a
state of one size, and asks for just that from then on: the same operations on the same weights, so the same
numbers. Views are not made one from the other but each in one step, and those of weights once.

Recorded is only what depends on sizes alone: not the first steps of a stream, where something is blanked, not
windows so long that they are not copied (`sentio.nn.streaming_buffers`), and no module from elsewhere, which
may decide by what it sees.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from sentio.core.stepping import STEPS
from sentio.nn.following import is_followed
from sentio.nn.streaming import Form, Moment
from sentio.nn.streaming_buffers import is_appended

#: records that a stream keeps, one for each size of batch and order in memory
MOST = 16
#: what PyTorch calls for Python under names of its own, which takes less than a call by the operator
_DIRECT: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.addmm.default: torch.addmm,
    torch.ops.aten.mm.default: torch.mm,
    torch.ops.aten.bmm.default: torch.bmm,
    torch.ops.aten.baddbmm.default: torch.baddbmm,
    torch.ops.aten.cat.default: torch.cat,
    torch.ops.aten.convolution.default: torch.convolution,
    torch.ops.aten.relu.default: torch.relu,
    torch.ops.aten.relu_.default: torch.relu_,
    torch.ops.aten.sigmoid.default: torch.sigmoid,
    torch.ops.aten.add.Tensor: torch.add,
    torch.ops.aten.mul.Tensor: torch.mul,
    torch.ops.aten.mean.dim: torch.mean,
    torch.ops.aten.sum.dim_IntList: torch.sum,
    torch.ops.aten.addcmul.default: torch.addcmul,
}
_Mode: Any = TorchDispatchMode  # untyped in PyTorch


class Records:
    """The records of a stream, by the sizes of its input and state."""

    def __init__(self) -> None:
        self._found: dict[Any, _Record | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(Records())  # a copy has weights of its own, and what is packed cannot be stored

    def step(self, form: Form, x: Tensor, moment: Moment) -> Tensor:
        """What ``form`` gives for a chunk, from its record where there is one."""
        if moment.state is None or moment.repeats or not moment.warm or not _plainly(x):
            return form.step(x, moment)
        state = moment.state
        key = (x.shape, x.stride(), x.dtype, *((t.shape, t.stride(), t.dtype) for t in state.values()))
        if key in self._found:
            record = self._found[key]
            if record is None or not state.keys() >= record.takes:
                return form.step(x, moment)
            return record.run(x, moment)
        if len(self._found) >= MOST:
            return form.step(x, moment)
        output, self._found[key] = _record(form, x, moment)
        return output


class _Record:
    """A graph of operations, from an input and the tensors of a state to an output and those of the next."""

    def __init__(self, module: fx.GraphModule, takes: list[str], gives: list[str]) -> None:
        self.forward, self.order, self.takes, self.gives = module.forward, takes, frozenset(takes), gives

    def run(self, x: Tensor, moment: Moment) -> Tensor:
        state = moment.state
        assert state is not None
        output, *after = self.forward(x, *[state[name] for name in self.order])
        moment.new.update(zip(self.gives, after, strict=True))
        return output


class _RefusedError(Exception):
    """What was asked for depends on more than sizes."""


def _plainly(x: Tensor) -> bool:
    """Whether nobody follows the operations or changes them, and there is a processor's memory under them."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not is_followed()


def _record(form: Form, x: Tensor, moment: Moment) -> tuple[Tensor, _Record | None]:
    """What ``form`` gives for a chunk, and its record, None if there can be none."""
    state: Mapping[str, Tensor] = moment.state or {}
    takes = [name for name in state if name != STEPS]
    tape = _Tape([x, *(state[name] for name in takes)], moment.steps)
    with tape:
        output = form.step(x, moment)
    moved = any(is_appended(tensor) for tensor in moment.new.values())
    if tape.refused or moved:
        return output, None
    gives = list(moment.new)
    try:
        module = tape.module([output, *moment.new.values()])
    except _RefusedError:
        return output, None
    return output, _Record(module, takes, gives)


class _Tape(_Mode):  # type: ignore[misc]
    """Writes down operations as a graph; what none of them made and is no input is a constant."""

    #: for `sentio.nn.streaming_packed`: weights that lie packed may go through it
    knows_packed = True

    def __init__(self, inputs: list[Tensor], steps: Tensor) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.refused = False
        self.root = torch.nn.Module()
        self._steps = _place(steps)
        self._kept: list[Any] = []  # or another tensor might come to lie where one lay
        #: by where a tensor's memory lies: the node that made it, and that tensor
        self._made: dict[int, tuple[fx.Node, Tensor]] = {}
        self._inputs = {_place(tensor) for tensor in inputs}
        self._constants: dict[int, fx.Node] = {}
        #: views that were made, by what they are of, sizes, steps and place
        self._looks: dict[Any, fx.Node] = {}
        for index, tensor in enumerate(inputs):
            self._made[_place(tensor)] = (self.graph.placeholder(f"input_{index}"), tensor)
        # Inputs in one memory could not be told from each other.
        self.refused = len(self._inputs) != len(inputs)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found = function(*args, **kwargs)
        if not self.refused:
            try:
                self._write(function, args, kwargs, found)
            except _RefusedError:
                self.refused = True
        return found

    def module(self, outputs: list[Tensor]) -> fx.GraphModule:
        """All of it, with these results."""
        self.graph.output(tuple(self._node(tensor) for tensor in outputs))
        return fx.GraphModule(self.root, self.graph)

    def _write(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], found: Any) -> None:
        several = isinstance(found, tuple | list)
        outputs = list(found) if several else [found]
        if not all(isinstance(output, Tensor) for output in outputs):
            raise _RefusedError
        self._kept.append((args, kwargs, found))
        if self._views(function, given := _tensors((args, kwargs)), outputs):
            return
        if any(_place(tensor) == self._steps for tensor in given):
            raise _RefusedError  # it depends on the streams' age
        named = {key: self._put(value) for key, value in kwargs.items()}
        node = self.graph.call_function(_DIRECT.get(function, function), tuple(self._put(args)), named)
        for index, output in enumerate(outputs):
            if _place(output) in self._made or not output.numel():  # in place, or nothing is there
                continue
            single = self.graph.call_function(operator.getitem, (node, index)) if several else node
            self._made[_place(output)] = (single, output)

    def _views(self, function: Any, given: list[Tensor], outputs: list[Tensor]) -> bool:
        """Whether the operation only looks at memory that is there, or at constants."""
        if function._schema.is_mutable:
            if not all(_place(tensor) in self._made for tensor in given[:1]):
                raise _RefusedError  # writes into a constant
            return False
        if not given:
            return False
        places = {_place(tensor) for tensor in given}
        if all(_place(output) in places for output in outputs):
            if any(output.dtype != given[0].dtype for output in outputs):
                raise _RefusedError
            return True
        # Not made again, since weights do not change: what is made of them becomes a constant too.
        return places.isdisjoint(self._made) and self._steps not in places

    def _put(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._node(value)
        if isinstance(value, list | tuple):
            return [self._put(part) for part in value]
        return value

    def _node(self, tensor: Tensor) -> fx.Node:
        """Of a tensor as it is now: what was made, a view of it, or a constant."""
        if _place(tensor) not in self._made:
            return self._constant(tensor)
        node, base = self._made[_place(tensor)]
        looks = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
        if looks == (base.shape, base.stride(), base.storage_offset()):
            return node
        if (node, looks) not in self._looks:
            sizes, steps, place = looks
            start: Any = place
            if _place(tensor) in self._inputs:  # which may lie elsewhere in their memory the next time
                begin = self.graph.call_method("storage_offset", (node,))
                start = self.graph.call_function(operator.add, (begin, place - base.storage_offset()))
            view = self.graph.call_function(torch.as_strided, (node, sizes, steps, start))
            self._looks[node, looks] = view
        return self._looks[node, looks]

    def _constant(self, tensor: Tensor) -> fx.Node:
        if id(tensor) not in self._constants:
            self._kept.append(tensor)
            name = f"constant_{len(self._constants)}"
            kept = tensor if tensor.is_mkldnn else tensor.detach()
            self.root.register_buffer(name, kept, persistent=False)
            self._constants[id(tensor)] = self.graph.get_attr(name)
        return self._constants[id(tensor)]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors(part)]
    return []


def _place(tensor: Tensor) -> int:
    """Where a tensor's memory begins; below zero for weights packed for oneDNN, whose memory nobody sees."""
    return -id(tensor) if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()
