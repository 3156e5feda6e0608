"""Any module as one flat graph of operations, with the places where submodules end."""

from __future__ import annotations

import io
import logging
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from sentio.core.anytime import Boundary
from sentio.core.calling import Call
from sentio.core.errors import StageError

aten = torch.ops.aten


# A submodule's output passes through this operation while the graph is captured, so its place is exact:
# values could be equal by chance, and a submodule that computes nothing leaves no trace of its own.


@torch.library.custom_op(
    "sentio::boundary", mutates_args=(), schema="(Tensor value, str submodule) -> Tensor"
)
def _boundary(value: Tensor, submodule: str) -> Tensor:
    return value.clone()


@_boundary.register_fake
def _(value: Tensor, submodule: str) -> Tensor:
    return torch.empty_like(value)


def _marking(submodule: str) -> Callable[[nn.Module, Any, Any], Any]:
    def mark(module: nn.Module, arguments: Any, output: Any) -> Any:
        leaves, tree = pytree.tree_flatten(output)
        index = next(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        leaves[index] = _boundary(leaves[index], submodule)
        return pytree.tree_unflatten(leaves, tree)

    return mark


class State(NamedTuple):
    """A parameter, buffer or constant that the graph reads."""

    name: str
    tensor: Tensor
    persistent: bool


@dataclass
class Captured:
    """A module's operations in the order they run; functional, with the batch size as a symbol.

    Args:
        inputs: name -> placeholder.
        outputs: name -> value.
        ends: submodule -> its output.
        position: of each value in the order of execution; inputs and state come before all others.
        cut_position: submodule -> where it ends in that order.
        state: placeholder -> what it stands for.
        dependent: values that depend on the values of the input, not only on its shape.
        batch: symbol of the batch size.
    """

    inputs: dict[str, fx.Node]
    outputs: dict[str, fx.Node]
    ends: dict[str, fx.Node]
    position: dict[fx.Node, int]
    cut_position: dict[str, int]
    state: dict[fx.Node, State]
    dependent: set[fx.Node]
    batch: Any


class _Entry(nn.Module):
    def __init__(self, module: nn.Module, call: Call) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *tensors: Tensor) -> Boundary:
        return self.call.run(self.module, dict(zip(self.call.inputs, tensors, strict=True)))


def capture(module: nn.Module, at: Sequence[str], call: Call, inputs: Boundary) -> Captured:
    """The graph of a module in eval mode.

    Args:
        module: in eval mode.
        at: submodules whose ends are wanted; each runs once.
        call: how the module is called.
        inputs: its inputs by name, batch of two.

    Raises:
        StageError: the module cannot be captured; the message says why.
    """
    hooks = [module.get_submodule(name).register_forward_hook(_marking(name)) for name in at]
    batch = torch.export.Dim("batch", min=2)
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(
                _Entry(module, call),
                tuple(inputs.values()),
                dynamic_shapes={"tensors": tuple({0: batch} for _ in inputs)},
                strict=False,
            )
            # Without in-place operations a value is the same wherever it is read.
            program = program.run_decompositions({})
    except Exception as error:  # export lets through whatever tracing the user's code raised
        raise StageError(f"{type(module).__name__} cannot be cut: {_reason(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return _read(module, at, call, program)


@contextmanager
def _quiet() -> Iterator[None]:
    """What export prints about a failure is for its own users; the error's message says what ours need."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = disabled


def _reason(error: Exception) -> str:
    text = str(error)
    place = re.findall(r'File "([^"]+)", line (\d+), in \w+\n\s*(\S.*)', text)
    where = " (line {1} of {0}: {2})".format(Path(place[-1][0]).name, *place[-1][1:]) if place else ""
    if "specialized it to be a constant" in text:
        return f"it works only for the example's batch size{where}; use x.shape[0] where a number is written"
    if "Constraints violated" in text:
        return f"it works only for some batch sizes{where}, and samples leave one by one"
    if "data-dependent" in text:
        return f"which operations run depends on the values of its input{where}; use torch.where there"
    return f"torch.export cannot follow it{where}: {text.strip().splitlines()[0][:200].rstrip('.')}"


def _read(
    module: nn.Module, at: Sequence[str], call: Call, program: torch.export.ExportedProgram
) -> Captured:
    label, specs = type(module).__name__, program.graph_signature
    changed = [
        repr(_plain(str(spec.target)))
        for spec in specs.output_specs
        if spec.kind.name in ("BUFFER_MUTATION", "PARAMETER_MUTATION")
    ]
    if changed:
        raise StageError(
            f"{label} cannot be cut: it changes {', '.join(changed)} of its own while it "
            "answers, and stages keep no memory"
        )
    marks, ends = {}, {}
    for node in list(program.graph.nodes):
        if node.op == "get_attr":
            raise StageError(
                f"{label} cannot be cut: it has control flow as an operation ({node.target}), "
                "which stages do not take apart"
            )
        if node.op != "call_function":
            continue
        if node.target is torch.ops.sentio.boundary.default:
            marks[node.args[1]], ends[node.args[1]] = node, node.args[0]
            node.replace_all_uses_with(node.args[0])
        elif node.target is aten.clone.default and not node.kwargs:
            node.replace_all_uses_with(node.args[0])  # dropout in eval mode; a copy changes no value
        elif node.target in (aten.view.default, aten._unsafe_view.default):
            # What crosses a boundary may arrive with other strides, on which a view is impossible.
            node.target = aten.reshape.default
        elif node.target in _FILLED:
            _fill(program.graph, node)
    unused = [name for name in at if name not in marks]
    if unused:
        raise StageError(f"{label} cannot be cut at {unused[0]!r}: nothing uses the output of that submodule")
    position = {node: i for i, node in enumerate(program.graph.nodes)}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            position[node] = -1
        elif node.target is operator.getitem:
            position[node] = position[node.args[0]]
    state = _state(module, program)
    placeholders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    inputs = {
        name: placeholders[str(node)] for name, node in zip(call.inputs, specs.user_inputs, strict=True)
    }
    values = [
        value
        for value, spec in zip(program.graph.output_node().args[0], specs.output_specs, strict=True)
        if spec.kind.name == "USER_OUTPUT"
    ]
    assert program.call_spec.out_spec is not None
    return Captured(
        inputs=inputs,
        outputs=pytree.tree_unflatten(values, program.call_spec.out_spec),
        ends=ends,
        position=position,
        cut_position={name: position[mark] for name, mark in marks.items()},
        state=state,
        dependent=_dependent(program.graph, set(inputs.values())),
        batch=next(iter(inputs.values())).meta["val"].shape[0].node.expr,
    )


def _plain(name: str) -> str:
    """A qualified name without the wrapper under which the module was captured."""
    return name.removeprefix("module.")


def _state(module: nn.Module, program: torch.export.ExportedProgram) -> dict[fx.Node, State]:
    specs = program.graph_signature
    state = {}
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        if node.name in specs.inputs_to_parameters:
            name = _plain(specs.inputs_to_parameters[node.name])
            state[node] = State(name, module.get_parameter(name), True)
        elif node.name in specs.inputs_to_buffers:
            full = specs.inputs_to_buffers[node.name]
            name = _plain(full)
            state[node] = State(name, module.get_buffer(name), full not in specs.non_persistent_buffers)
        elif node.name in specs.inputs_to_lifted_tensor_constants:
            full = specs.inputs_to_lifted_tensor_constants[node.name]
            state[node] = State(_plain(full), program.constants[full].detach().clone(), False)
    return state


def _dependent(graph: fx.Graph, inputs: set[fx.Node]) -> set[fx.Node]:
    sizes = (aten.sym_size.int, aten.sym_stride.int, aten.sym_numel.default)
    found = set(inputs)
    for node in graph.nodes:
        if node.target not in sizes and not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


# Tensors made in the shape of another one do not depend on its values: written as what they are, they can
# be made anew behind a boundary without the tensor that they were modelled on.
_FILLED: dict[Any, Any] = {
    aten.zeros_like.default: 0,
    aten.ones_like.default: 1,
    aten.empty_like.default: 0,
    aten.full_like.default: None,
    aten.new_zeros.default: 0,
    aten.new_ones.default: 1,
    aten.new_empty.default: 0,
    aten.new_full.default: None,
}


def _fill(graph: fx.Graph, node: fx.Node) -> None:
    made, value = node.meta["val"], _FILLED[node.target]
    like = node.args[0]
    with graph.inserting_before(node):
        size = (
            node.args[1]
            if str(node.target).startswith("aten.new_")
            else [n if isinstance(n, int) else _size(graph, like, i) for i, n in enumerate(made.shape)]
        )
        filled = graph.call_function(
            aten.full.default,
            (size, node.args[-1] if value is None else value),
            {"dtype": made.dtype, "device": made.device},
        )
    filled.meta = dict(node.meta)
    node.replace_all_uses_with(filled)


def _size(graph: fx.Graph, tensor: Any, axis: int) -> fx.Node:
    size = graph.call_function(aten.sym_size.int, (tensor, axis))
    size.meta = {"val": tensor.meta["val"].shape[axis]}
    return size
