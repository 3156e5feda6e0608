"""A captured graph in consecutive pieces, and the tensors that cross between them."""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from sentio.core.anytime import MAIN
from sentio.core.errors import StageError
from sentio.core.graph import Captured, State
from sentio.core.staged import as_boundary, as_value

aten = torch.ops.aten

#: Operations that only look at a tensor in another way: the tensor crosses, and is looked at again behind.
_VIEWS = {
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.expand.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.alias.default,
    aten.detach.default,
    aten.clone.default,
    aten.contiguous.default,
}


class Layout(NamedTuple):
    """Where a tensor has its batch: in which axis, and how many rows of it belong to one sample.

    A tensor crosses as ``(batch, ...)``, or as ``(batch, rows, ...)`` where a sample has several rows, as
    the patches of MobileViT and the windows of Swin have.
    """

    axis: int = 0
    rows: int = 1

    def pack(self, x: Any) -> Any:
        """As it crosses; ``x`` is a tensor or a proxy of one."""
        if self.axis:
            x = x.movedim(self.axis, 0)
        return x.unflatten(0, (-1, self.rows)) if self.rows > 1 else x

    def unpack(self, x: Any) -> Any:
        """As the module itself has it."""
        if self.rows > 1:
            x = x.flatten(0, 1)
        return x.movedim(0, self.axis) if self.axis else x


class Crossing(NamedTuple):
    """One tensor of a boundary."""

    value: fx.Node
    layout: Layout


class Cut(NamedTuple):
    """A boundary: the stage that ends there, and the submodule whose output crosses there as ``main``."""

    stage: str
    submodule: str
    layout: Layout


class GraphStage(nn.Module):
    """One piece of a module's graph, with the parameters and buffers that it reads under their own names.

    Takes and gives a tensor, or named tensors where several cross, batch first. It computes what the module
    computes in eval mode, whatever mode it is in itself.
    """

    def __init__(
        self, graph: fx.Graph, state: Sequence[State], inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        super().__init__()
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._run = fx.GraphModule(nn.Module(), graph)
        # Owners in a tuple: they are registered where their names say.
        self._state = tuple(hold(self, entry) for entry in state)

    def forward(self, value: Any) -> Any:
        boundary = as_boundary(value)
        missing = [name for name in self._inputs if name not in boundary]
        if missing:
            raise StageError(
                f"The stage reads tensor {missing[0]!r}, which the boundary before it does not hold; "
                f"it holds {', '.join(boundary) or 'nothing'}"
            )
        state = [getattr(owner, name) for owner, name in self._state]
        tensors = self._run(*state, *(boundary[name] for name in self._inputs))
        return as_value(dict(zip(self._outputs, tensors, strict=True)))


def hold(owner: nn.Module, entry: State) -> tuple[nn.Module, str]:
    """Give a stage a tensor under its qualified name; returns the module that holds it and its name there."""
    path, _, name = entry.name.rpartition(".")
    for part in path.split(".") if path else ():
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if isinstance(entry.tensor, nn.Parameter):
        owner.register_parameter(name, entry.tensor)
    else:
        owner.register_buffer(name, entry.tensor, persistent=entry.persistent)
    return owner, name


def partition(
    captured: Captured, cuts: Sequence[tuple[str, str]], rest: str
) -> tuple[dict[str, GraphStage], list[Cut]]:
    """Cut a graph behind submodules.

    Args:
        captured: the graph.
        cuts: (stage, submodule) pairs in the order of execution.
        rest: name of the stage behind the last cut; left out where nothing is computed there.

    Returns:
        the stages by name, and the cuts between them.

    Raises:
        StageError: something would have to cross that has no batch axis of its own.
    """
    for (_, earlier), (_, later) in pairwise(cuts):
        if captured.ends[earlier] is captured.ends[later]:
            raise StageError(f"{earlier!r} and {later!r} end in the same place; leave one of them out")
    for name, value in captured.outputs.items():
        if _layout(captured, value) != Layout():
            raise StageError(
                f"Output {name!r} is not batch first (its shape is {_shape(captured, value)}), "
                "so samples cannot leave"
            )
    owners = {captured.ends[submodule]: stage for stage, submodule in cuts}
    names: dict[fx.Node, str] = {}
    plain = Layout()
    before = {name: Crossing(value, plain) for name, value in captured.inputs.items()}
    last = {name: Crossing(value, plain) for name, value in captured.outputs.items()}
    stages, placed = {}, []
    for stage, submodule in cuts:
        after = _crossing(captured, submodule, owners, names)
        stages[stage] = _build(captured, stage, before, after)
        placed.append(Cut(stage, submodule, after[MAIN].layout))
        before = after
    if before != last:
        stages[rest] = _build(captured, rest, before, last)
    return stages, placed


def _crossing(
    captured: Captured, submodule: str, owners: Mapping[fx.Node, str], names: dict[fx.Node, str]
) -> dict[str, Crossing]:
    """What crosses behind a submodule: its output, and all that was made before and is read behind it."""
    main, cut = captured.ends[submodule], captured.cut_position[submodule]
    later = [end for name, end in captured.ends.items() if captured.cut_position[name] > cut]
    found: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    pending = [*captured.outputs.values(), *later]
    while pending:
        node = pending.pop()
        if node in seen or node not in captured.dependent:
            continue
        seen.add(node)
        behind = captured.position[node] > cut
        if node is not main and (behind or node.target in _VIEWS or _cheaper_again(captured, node)):
            pending += node.all_input_nodes
        elif node is not main:
            found.add(node)
    tensors = {MAIN: Crossing(main, _must_cross(captured, submodule, main))}
    for node in sorted(found, key=lambda value: captured.position[value]):
        name = _name(captured, node, owners, names)
        tensors[name] = Crossing(node, _must_cross(captured, submodule, node))
    return tensors


def _cheaper_again(captured: Captured, node: fx.Node) -> bool:
    """Whether a value is made from inputs alone, without weights, and is larger than they are.

    The attention mask of every head and position is; the mask that was given is what should cross.
    """
    sources = _sources(captured, node)
    return bool(sources) and sum(_bytes(captured, s) for s in sources) < _bytes(captured, node)


def _sources(captured: Captured, node: fx.Node) -> set[fx.Node]:
    """The inputs from which a value is made without weights; none for an input, or where weights are read."""
    sources: set[fx.Node] = set()
    pending, seen = [node], {node}
    while pending:
        for parent in pending.pop().all_input_nodes:
            if parent in captured.state:
                return set()
            if parent in seen or _count(captured, parent):
                continue
            seen.add(parent)
            if parent.op == "placeholder":
                sources.add(parent)
            else:
                pending.append(parent)
    return sources


def _bytes(captured: Captured, node: fx.Node) -> int:
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        return 0
    return prod(_multiple(n, captured.batch) or int(n) for n in value.shape) * value.element_size()


def _name(captured: Captured, node: fx.Node, owners: Mapping[fx.Node, str], names: dict[fx.Node, str]) -> str:
    """A tensor's name wherever it crosses: the stage, input or submodule that it came from."""
    if node in names:
        return names[node]
    given = {value: "input" if name == MAIN else name for name, value in captured.inputs.items()}
    sources = _sources(captured, node)
    if node in owners:
        name = owners[node]
    elif node in given:
        name = given[node]
    elif len(sources) == 1:
        name = f"{given[sources.pop()]}.{node.name}"
    else:
        name = _origin(captured, node)
    taken = {*names.values(), *owners.values(), MAIN} - {owners.get(node)}
    names[node] = f"{name}.{node.name}" if name in taken else name
    return names[node]


def _origin(captured: Captured, node: fx.Node) -> str:
    """The innermost submodule that computes a value; for the module's own operations, the one they follow."""
    path = _submodule(node)
    if path:
        return path
    made = node.args[0] if node.target is operator.getitem else node
    operation = str(getattr(made, "target", "")).removeprefix("aten.").partition(".")[0]
    while not path and node.op != "placeholder":
        node = next(parent for parent in node.all_input_nodes if parent in captured.dependent)
        path = _submodule(node)
    return f"{path}.{operation}" if path else operation


def _submodule(node: fx.Node) -> str:
    """The innermost submodule in which a value is computed; empty for the module itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = re.sub(r"@\d+", "", str(stack[-1][0])) if stack else ""
    return path.removeprefix("module").removeprefix(".")


def _layout(captured: Captured, node: fx.Node) -> Layout | None:
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        return None
    multiples = [_multiple(size, captured.batch) for size in value.shape]
    axes = [axis for axis, rows in enumerate(multiples) if rows != 0]
    return Layout(axes[0], rows) if len(axes) == 1 and (rows := multiples[axes[0]]) else None


def _must_cross(captured: Captured, submodule: str, node: fx.Node) -> Layout:
    layout = _layout(captured, node)
    if layout is not None:
        return layout
    what = (
        "its output" if node is captured.ends[submodule] else f"what {_submodule(node) or node.name!r} gives"
    )
    if not isinstance(node.meta["val"], Tensor):
        raise StageError(
            f"No cut at {submodule!r}: {what} is no tensor but a number read out of one ({node.name}), and "
            "it is needed behind the cut"
        )
    raise StageError(
        f"No cut at {submodule!r}: {what} has shape {_shape(captured, node)} and would have to cross, but "
        "only a tensor with one batch axis can, so that samples can leave"
    )


def _shape(captured: Captured, node: fx.Node) -> str:
    sizes = [str(size).replace(str(captured.batch), "batch") for size in node.meta["val"].shape]
    return f"({', '.join(sizes)})"


def _multiple(size: int | torch.SymInt, batch: Any) -> int | None:
    """``k`` where a size is ``k`` times the batch, 0 where it does not depend on it, else None."""
    if isinstance(size, int):
        return 0
    expression = size.node.expr
    if not expression.free_symbols:
        return 0
    if expression.free_symbols != {batch}:
        return None
    quotients = {expression.subs(batch, n) / n for n in (2, 3, 5)}
    quotient = quotients.pop()
    return int(quotient) if not quotients and quotient.is_Integer else None


def _count(captured: Captured, node: fx.Node) -> int | None:
    """``k`` where a value is the number ``k`` times the batch, else None."""
    value = node.meta.get("val")
    return (_multiple(value, captured.batch) or None) if isinstance(value, torch.SymInt) else None


def _build(
    captured: Captured, stage: str, before: Mapping[str, Crossing], after: Mapping[str, Crossing]
) -> GraphStage:
    """The stage that computes the tensors ``after`` it from those ``before`` it."""
    given = {crossing.value for crossing in before.values()}
    needed = _needed(captured, stage, [crossing.value for crossing in after.values()], given)
    graph = fx.Graph()
    env: dict[fx.Node, Any] = {}
    state = [entry for node, entry in captured.state.items() if node in needed]
    for node in captured.state:
        if node in needed:
            env[node] = graph.placeholder(node.name)
    holders = {name: graph.placeholder(re.sub(r"\W", "_", f"in_{name}")) for name in before}
    anchor = next(iter(holders.values()))
    for name, crossing in before.items():
        env[crossing.value] = crossing.layout.unpack(fx.Proxy(holders[name])).node
    # Counts and devices follow what arrives, so a stage runs with any batch and on any device.
    batch = graph.call_function(aten.sym_size.int, (anchor, 0))
    device = graph.call_function(getattr, (anchor, "device"))

    def moved(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return env[argument]
        return device if isinstance(argument, torch.device) else argument

    for node in sorted(needed - env.keys(), key=_order(captured, needed)):
        count = _count(captured, node)
        if count:
            env[node] = batch if count == 1 else graph.call_function(operator.mul, (batch, count))
        else:
            arguments, options = map_aggregate(node.args, moved), map_aggregate(node.kwargs, moved)
            env[node] = graph.create_node("call_function", node.target, arguments, options, node.name)
    results = [crossing.layout.pack(fx.Proxy(env[crossing.value])).node for crossing in after.values()]
    graph.output(tuple(results))
    graph.eliminate_dead_code()
    return GraphStage(graph, state, list(before), list(after))


def _needed(
    captured: Captured, stage: str, targets: Collection[fx.Node], given: Collection[fx.Node]
) -> set[fx.Node]:
    """All values from which ``targets`` are computed, back to those that are given."""
    found: set[fx.Node] = set()
    pending = list(targets)
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        if node in given or node in captured.state or _count(captured, node):
            continue
        if node.op == "placeholder":
            raise StageError(
                f"Stage {stage!r} needs a size that follows neither from the batch nor from what crosses; "
                "cut elsewhere"
            )
        pending += node.all_input_nodes
    return found


def _order(captured: Captured, needed: Collection[fx.Node]) -> Any:
    places = {node: i for i, node in enumerate(next(iter(needed)).graph.nodes)}
    return places.__getitem__
