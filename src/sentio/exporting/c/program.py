"""What a step computes, as the few kinds of operations that C is written from.

An ONNX graph is read for one stream. Values that do not depend on the input are computed here; what only
looks at numbers in another way (slices, transpositions, most reshapes) is a view and no operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["real", "int", "bool"]
#: the elementwise operation that lets no negative number pass, and whatever is no number
CLAMP = "({0} < 0 ? 0 : {0})"


@dataclass(eq=False)
class Value:
    """A tensor of the step.

    Args:
        name: as the graph has it.
        shape: for one stream.
        kind: of its numbers.
        constant: what it holds, if that does not depend on the input.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind = "real"
    constant: NDArray[Any] | None = None
    op: Op | None = None
    users: list[Op] = field(default_factory=list)

    @property
    def only_user(self) -> Op | None:
        return self.users[0] if len(self.users) == 1 else None


@dataclass(eq=False)
class Op:
    """An operation with one result."""

    inputs: list[Value]
    output: Value


@dataclass(eq=False)
class View(Op):
    """The same numbers, seen in another way.

    Args:
        look: what numpy does to see them so; raises if they would have to be copied.
        kept: for each axis of the result, the axis of the input that it is as a whole; None if it is none.
    """

    look: Callable[[NDArray[Any]], NDArray[Any]]
    kept: tuple[int | None, ...]


@dataclass(eq=False)
class Elementwise(Op):
    """Each number out of the numbers at its place.

    Args:
        text: in C, with ``{0}``, ``{1}``, ... for the inputs' numbers.
    """

    text: str


@dataclass(eq=False)
class Concat(Op):
    """Values one after another along an axis."""

    axis: int


@dataclass(eq=False)
class Dense(Op):
    """Sums of products over channels and the places of a kernel: convolutions and products with weights.

    Args:
        weight: ``(groups, taps..., in, out)`` of a group.
        bias: ``(out of all groups,)`` or None.
        stride, dilation, begin, end: one number for each axis of places, as of a convolution.
        places: the axes of input and result that are places.
        channels: the axis of input and result that holds channels.
        clamp: whether negative results become 0.
    """

    weight: NDArray[Any]
    bias: NDArray[Any] | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    places: tuple[int, ...]
    channels: int
    clamp: bool = False


@dataclass(eq=False)
class Depthwise(Op):
    """Each channel by itself, over the places of a kernel: its weighted sum, or its largest number.

    Args:
        weight: ``(taps..., channels)``, or ``(taps...,)`` if all channels have the same; None for the
            largest number.
        bias: ``(channels,)`` or None.
        fill: what lies outside the input.
    """

    weight: NDArray[Any] | None
    taps: tuple[int, ...]
    bias: NDArray[Any] | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    fill: float = 0.0
    clamp: bool = False


@dataclass(eq=False)
class Product(Op):
    """A product of matrices, ``(..., m, k)`` by ``(..., k, n)``, that is none of channels with weights."""


@dataclass(eq=False)
class Reduce(Op):
    """A sum, mean, largest or smallest number over axes, which stay with one entry."""

    axes: tuple[int, ...]
    how: Literal["sum", "mean", "max", "min"]


@dataclass(eq=False)
class Program:
    """A step of one stream.

    Args:
        ops: in their order.
        x, output, valid: what goes in and comes out.
        state, after: the state before and after, by name, without the number of steps.
        steps: how many steps the stream has had.
        real: the type of its numbers.
    """

    ops: list[Op]
    x: Value
    steps: Value
    state: dict[str, Value]
    output: Value
    valid: Value
    after: dict[str, Value]
    real: np.dtype[Any]

    def __post_init__(self) -> None:
        self.drop_unused()
        if self._clamp():
            self.drop_unused()

    def drop_unused(self) -> None:
        """Leave out what nothing needs, and note who uses what."""
        wanted = {id(value) for value in (self.output, self.valid, *self.after.values())}
        kept = []
        for op in reversed(self.ops):
            if id(op.output) in wanted:
                kept.append(op)
                wanted.update(id(value) for value in op.inputs)
        self.ops = kept[::-1]
        for op in self.ops:
            for value in (op.output, *op.inputs):
                value.users = []
        for op in self.ops:
            for value in {id(value): value for value in op.inputs}.values():
                value.users.append(op)

    def _clamp(self) -> bool:
        """Let convolutions and pooling give no negative results where only those are wanted."""
        found = False
        for op in self.ops:
            before = op.inputs[0].op if isinstance(op, Elementwise) and op.text == CLAMP else None
            alone = before is not None and before.output.only_user is op and not self.is_given(before.output)
            if alone and isinstance(before, Dense | Depthwise):
                before.clamp, before.output = True, op.output
                op.output.op, op.output, found = before, Value("nothing", ()), True
        return found

    def is_given(self, value: Value) -> bool:
        """Whether the value goes out of the step."""
        return any(value is given for given in (self.output, self.valid, *self.after.values()))


def whole_axes(rank: int) -> tuple[int, ...]:
    return tuple(range(rank))


def reshaped_axes(before: Sequence[int], after: Sequence[int]) -> tuple[int | None, ...]:
    """For each axis after a reshape, the axis before that it is as a whole."""
    kept: list[int | None] = []
    for axis, size in enumerate(after):
        ahead = int(np.prod(after[:axis], dtype=np.int64))
        same = [
            other
            for other, length in enumerate(before)
            if length == size and int(np.prod(before[:other], dtype=np.int64)) == ahead
        ]
        kept.append(same[0] if size > 1 and same else None)
    return tuple(kept)
