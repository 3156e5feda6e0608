"""Where each number of a step lies, and what is done in which order.

Every value gets a place in a buffer: the input, the state, the output, or memory for work, in which places
are used again once nothing reads them. Channels lie next to each other, so that a vector of them is read at
once. What can lie in its place from the beginning does: what is joined to a past lies behind it, and what a
convolution pads has its margin around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sentio.exporting.c.places import Buffer, Call, Each, Place, Plan, arrange, literal
from sentio.exporting.c.program import (
    Concat,
    Dense,
    Depthwise,
    Elementwise,
    Kind,
    Op,
    Product,
    Program,
    Reduce,
    Value,
    View,
    whole_axes,
)


def plan_program(program: Program) -> Plan:
    """Give every value of a program its place."""
    return _Planner(program).plan()


class _Planner:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.parts: list[Each | Call] = []
        self.buffers: list[Buffer] = []
        self.places: dict[int, Place] = {}
        self.orders: dict[int, tuple[int, ...]] = {}
        #: what lies within another value from the beginning: that value, the axis and where along it
        self.within: dict[int, tuple[Value, int, int]] = {}
        self.margins: dict[int, dict[int, tuple[int, int]]] = {}
        self.fills: dict[int, float] = {}
        #: the values that buffers were made for
        self.owners: dict[int, Buffer] = {}
        self.inner = {id(op) for op in program.ops if self._is_inner(op)}

    def plan(self) -> Plan:
        program = self.program
        self._find_orders()
        for op in reversed(program.ops):
            if isinstance(op, Concat):
                self._join(op)
        for op in program.ops:
            if isinstance(op, Dense | Depthwise):
                self._ask_for_margins(op)
        self._give("x", program.x, whole_axes(len(program.x.shape)))
        steps = Buffer("steps", "int", np.zeros(1, np.int8))
        self.places[id(program.steps)] = Place(steps, steps.cells.reshape(program.steps.shape))
        kept = self._give_state()
        for op in program.ops:
            self._do(op)
        self._hand_over()
        output = self._outside("output", program.output.shape)
        self._copy(self._place(program.output), output)
        state = {name: self.places[id(value)] for name, value in program.state.items()}
        valid = self._place(program.valid)
        work = arrange(self.parts, self.buffers)
        return Plan(self.parts, self.buffers, state, output, valid, kept, work)

    # which axis lies next to which

    def _find_orders(self) -> None:
        """For each value its axes from the outermost to the innermost, as they lie best."""
        for op in self.program.ops:
            self.orders[id(op.output)] = self._order(op)

    def _order(self, op: Op) -> tuple[int, ...]:
        rank = len(op.output.shape)
        whole = whole_axes(rank)
        if isinstance(op, View):
            try:
                return _order_of(op.look(_cells(op.inputs[0].shape, self._known(op.inputs[0]))))
            except ValueError:  # it has to be copied
                return whole
        if isinstance(op, Dense):
            return (*(axis for axis in whole if axis != op.channels), op.channels)
        if isinstance(op, Depthwise):
            return (0, *whole[2:], 1)
        own = [value for value in op.inputs if id(value) in self.orders and len(value.shape) == rank]
        if own:
            return self.orders[id(max(own, key=lambda value: int(np.prod(value.shape))))]
        return (0, *whole[2:], 1) if isinstance(op, Concat) and rank > 2 else whole

    def _known(self, value: Value) -> tuple[int, ...]:
        return self.orders.get(id(value), whole_axes(len(value.shape)))

    # what lies within something else

    def _join(self, op: Concat) -> None:
        start = 0
        for value in op.inputs:
            made = value.op is not None and not isinstance(value.op, View)
            if made and id(value) not in self.within and id(value.op) not in self.inner:
                self.within[id(value)] = (op.output, op.axis, start)
            start += value.shape[op.axis]

    def _ask_for_margins(self, op: Dense | Depthwise) -> None:
        fill = op.fill if isinstance(op, Depthwise) else 0.0
        for axis, before, behind in _padding(op):
            value: Value | None = op.inputs[0]
            here: int | None = axis
            while value is not None and here is not None and self.fills.get(id(value), fill) == fill:
                self.fills[id(value)] = fill
                asked = self.margins.setdefault(id(value), {})
                most = asked.get(here, (0, 0))
                asked[here] = (max(most[0], before), max(most[1], behind))
                value, here = self._outward(value, here)

    def _outward(self, value: Value, axis: int) -> tuple[Value | None, int | None]:
        """The value that this one is a part of, and the axis there if it is that as a whole."""
        if id(value) in self.within:
            parent, joined, _ = self.within[id(value)]
            return parent, None if joined == axis else axis
        if isinstance(value.op, View):
            return value.op.inputs[0], value.op.kept[axis]
        return None, None

    def _has_margin(self, value: Value | None, axis: int | None, need: tuple[int, int], fill: float) -> bool:
        while value is not None and axis is not None:
            buffer = self.owners.get(id(value))
            if buffer is not None:
                has = buffer.margins.get(axis, (0, 0))
                return buffer.fill == fill and has[0] >= need[0] and has[1] >= need[1]
            value, axis = self._outward(value, axis)
        return False

    # memory

    def _outside(self, name: str, shape: Sequence[int]) -> Place:
        """Memory that is given to the step."""
        cells = np.zeros(shape, np.int8)
        buffer = Buffer(name, "real", cells)
        return Place(buffer, cells)

    def _give(self, name: str, value: Value, order: Sequence[int]) -> None:
        place = self._outside(name, [value.shape[axis] for axis in order])
        self.places[id(value)] = place.seen(place.cells.transpose(np.argsort(order)))

    def _give_state(self) -> int:
        """Each tensor of the state lies as what it will be next does."""
        program = self.program
        sizes = {name: int(np.prod(value.shape)) for name, value in program.state.items()}
        kept = Buffer("kept", "real", np.zeros(sum(sizes.values()), np.int8))
        start = 0
        for name, value in program.state.items():
            order = self._known(program.after[name])
            cells = kept.cells[start : start + sizes[name]].reshape([value.shape[axis] for axis in order])
            self.places[id(value)] = Place(kept, cells.transpose(np.argsort(order)))
            start += sizes[name]
        return start

    def _make(self, value: Value) -> Place:
        """A place for a result: in what it is a part of, or in a buffer of its own."""
        if id(value) in self.within:
            parent, axis, start = self.within[id(value)]
            whole = self._place(parent)
            index = (slice(None),) * axis + (slice(start, start + value.shape[axis]),)
            place = whole.seen(whole.cells[index])
        else:
            margins = self.margins.get(id(value), {})
            place = self._buffer(value, self._known(value), margins, self.fills.get(id(value), 0.0))
        self.places[id(value)] = place
        return place

    def _buffer(
        self,
        value: Value,
        order: Sequence[int],
        margins: dict[int, tuple[int, int]],
        fill: float,
    ) -> Place:
        before = [margins.get(axis, (0, 0))[0] for axis in order]
        behind = [margins.get(axis, (0, 0))[1] for axis in order]
        sizes = [value.shape[axis] for axis in order]
        whole = np.zeros([a + size + b for a, size, b in zip(before, sizes, behind, strict=True)], np.int8)
        buffer = Buffer(f"b{len(self.buffers)}", value.kind, whole, is_work=True)
        buffer.margins, buffer.fill = dict(margins), fill
        self.buffers.append(buffer)
        self.owners[id(value)] = buffer
        for axis, (a, size, b) in enumerate(zip(before, sizes, behind, strict=True)):
            ahead = (slice(None),) * axis
            for part in (slice(0, a), slice(a + size, a + size + b)):
                self._fill(Place(buffer, whole[(*ahead, part)]), fill)
        index = tuple(slice(a, a + size) for a, size in zip(before, sizes, strict=True))
        return Place(buffer, whole[index].transpose(np.argsort(order)))

    def _place(self, value: Value) -> Place:
        place = self.places.get(id(value))
        if place is None and value.constant is not None:
            cells = np.zeros(value.shape, np.int8)
            buffer = Buffer(f"c{len(self.buffers)}", value.kind, cells, value.constant)
            self.buffers.append(buffer)
            place = self.places[id(value)] = Place(buffer, cells)
        return self._make(value) if place is None else place

    # what is done

    def _do(self, op: Op) -> None:
        if id(op) in self.inner:
            return
        if isinstance(op, View):
            self._see(op)
        elif isinstance(op, Concat):
            self._gather(op)
        elif isinstance(op, Elementwise):
            self._each(op)
        elif isinstance(op, Dense | Depthwise):
            source = self._padded(op)
            self.parts.append(Call(op, self._place(op.output), [source]))
        elif isinstance(op, Product | Reduce):
            sources = [self._place(value) for value in op.inputs]
            self.parts.append(Call(op, self._place(op.output), sources))

    def _see(self, op: View) -> None:
        source = self._place(op.inputs[0])
        try:
            self.places[id(op.output)] = source.seen(op.look(source.cells))
        except ValueError:  # not without a copy
            value = op.output
            place = self._buffer(value, whole_axes(len(value.shape)), {}, 0.0)
            self.places[id(value)] = place
            self._copy(source, place.seen(place.cells.reshape(source.shape)))

    def _gather(self, op: Concat) -> None:
        whole = self._place(op.output)
        start = 0
        for value in op.inputs:
            size = value.shape[op.axis]
            if self.within.get(id(value)) != (op.output, op.axis, start):
                index = (slice(None),) * op.axis + (slice(start, start + size),)
                self._copy(self._place(value), whole.seen(whole.cells[index]))
            start += size

    def _is_inner(self, op: Op) -> bool:
        """Whether its numbers are computed where the one operation that needs them is."""
        user = op.output.only_user
        return (
            isinstance(op, Elementwise)
            and isinstance(user, Elementwise)
            and user.output.shape == op.output.shape
            and not self.program.is_given(op.output)
        )

    def _each(self, op: Elementwise) -> None:
        inputs: list[Place] = []
        names: dict[int, str] = {}
        lines: list[tuple[Kind, str]] = []

        def said(value: Value) -> str:
            if value.constant is not None and value.constant.size == 1:
                return literal(value.constant.item(), value.kind)
            if id(value) in names:
                return names[id(value)]
            if value.op is not None and id(value.op) in self.inner:
                names[id(value)] = compute(value.op)
            else:
                names[id(value)] = f"a{len(inputs)}"
                place = self._place(value)
                inputs.append(place.seen(np.broadcast_to(place.cells, op.output.shape)))
            return names[id(value)]

        def compute(inner: Op) -> str:
            assert isinstance(inner, Elementwise)
            lines.append((inner.output.kind, inner.text.format(*map(said, inner.inputs))))
            return f"t{len(lines) - 1}"

        compute(op)
        self.parts.append(Each(self._place(op.output), inputs, lines))

    def _padded(self, op: Dense | Depthwise) -> Place:
        """The input of a convolution or pooling, with the margin that it reads."""
        value = op.inputs[0]
        source = self._place(value)
        fill = op.fill if isinstance(op, Depthwise) else 0.0
        need = {axis: (before, behind) for axis, before, behind in _padding(op)}
        if all(self._has_margin(value, axis, most, fill) for axis, most in need.items()):
            return source
        padded = self._buffer(Value("padded", value.shape, value.kind), self._known(value), need, fill)
        self._copy(source, padded)
        return padded

    def _copy(self, source: Place, output: Place) -> None:
        if output.cells.size:
            self.parts.append(Each(output, [source], [(output.buffer.kind, "a0")]))

    def _fill(self, output: Place, value: float) -> None:
        if output.cells.size:
            self.parts.append(Each(output, [], [(output.buffer.kind, literal(value, output.buffer.kind))]))

    def _hand_over(self) -> None:
        """The state after the step where that before it was; nothing reads that any more by then."""
        moves = []
        for name, value in self.program.state.items():
            before, after = self.places[id(value)], self._place(self.program.after[name])
            if after.buffer is before.buffer:
                if after.offset == before.offset and after.strides == before.strides:
                    continue
                copy = self._buffer(Value(name, value.shape, value.kind), whole_axes(len(value.shape)), {}, 0)
                self._copy(after, copy)
                after = copy
            moves.append((after, before))
        for after, before in moves:
            self._copy(after, before)


def _padding(op: Dense | Depthwise) -> Iterable[tuple[int, int, int]]:
    """Axis of the input, entries before and behind, of each axis that is padded."""
    places = op.places if isinstance(op, Dense) else range(2, len(op.inputs[0].shape))
    for axis, before, behind in zip(places, op.begin, op.end, strict=True):
        if before or behind:
            yield axis, before, behind


def _cells(shape: Sequence[int], order: Sequence[int]) -> NDArray[np.int8]:
    return np.zeros([shape[axis] for axis in order], np.int8).transpose(np.argsort(order))


def _order_of(cells: NDArray[np.int8]) -> tuple[int, ...]:
    """Axes from the one with the longest stride on; those of one entry could be anywhere."""
    whole = whole_axes(cells.ndim)
    for order in ((0, *whole[2:], 1), whole):
        if cells.ndim > 1 and _falls([cells.strides[axis] for axis in order if cells.shape[axis] > 1]):
            return order
    return tuple(sorted(whole, key=lambda axis: -cells.strides[axis]))


def _falls(strides: Sequence[int]) -> bool:
    return all(a > b for a, b in pairwise(strides))
