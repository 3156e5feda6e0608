"""Memory of a step, the places of numbers in it, and what is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.exporting.c.program import Dense, Depthwise, Kind, Product, Reduce

#: numbers that buffers begin at multiples of: 64 bytes of float32
ALIGNED = 16


@dataclass(eq=False)
class Buffer:
    """Memory of a step.

    Args:
        name: what C calls its beginning.
        cells: a stand-in with a byte for each number, whose views are the places in it.
        margins: of the value that it was made for: for each axis the entries before and behind.
        fill: what the margins hold.
    """

    name: str
    kind: Kind
    cells: NDArray[np.int8]
    constant: NDArray[Any] | None = None
    is_work: bool = False
    margins: dict[int, tuple[int, int]] = field(default_factory=dict)
    fill: float = 0.0
    first: int = -1
    last: int = -1
    offset: int = 0


@dataclass(eq=False)
class Place:
    """Numbers in a buffer."""

    buffer: Buffer
    cells: NDArray[np.int8]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.cells.shape

    @property
    def strides(self) -> tuple[int, ...]:
        return self.cells.strides

    @property
    def offset(self) -> int:
        return self.cells.ctypes.data - self.buffer.cells.ctypes.data

    def seen(self, cells: NDArray[np.int8]) -> Place:
        return Place(self.buffer, cells)


@dataclass(eq=False)
class Each:
    """Numbers at their places out of others at theirs.

    Args:
        lines: type and text of what is computed one after another, ``a0`` being the first input and ``t0``
            the first line's result; the last is the output.
    """

    output: Place
    inputs: list[Place]
    lines: list[tuple[Kind, str]]


@dataclass(eq=False)
class Call:
    """An operation that is more than a loop over places."""

    op: Dense | Depthwise | Product | Reduce
    output: Place
    inputs: list[Place]


@dataclass(eq=False)
class Plan:
    """What C is written from.

    Args:
        parts: in their order.
        buffers: all that parts use.
        state: where each tensor of the state lies in what is kept.
        valid: the place of the answer's being one.
        kept, work: how many numbers they take.
    """

    parts: list[Each | Call]
    buffers: list[Buffer]
    state: dict[str, Place]
    output: Place
    valid: Place
    kept: int
    work: int


def arrange(parts: Sequence[Each | Call], buffers: Sequence[Buffer]) -> int:
    """Give buffers for work their places, where no other is that is needed at the same time.

    Returns:
        how many numbers the memory for work takes.
    """
    for index, part in enumerate(parts):
        for place in (part.output, *part.inputs):
            buffer = place.buffer
            buffer.first = index if buffer.first < 0 else buffer.first
            buffer.last = index
    settled: list[Buffer] = []
    most = 0
    for buffer in sorted(buffers, key=lambda one: one.first):
        if not buffer.is_work or buffer.kind != "real" or buffer.first < 0:
            continue
        size = -(-buffer.cells.size // ALIGNED) * ALIGNED
        start = 0
        for other in sorted(settled, key=lambda one: one.offset):
            if other.last < buffer.first:
                continue
            if start + size <= other.offset:
                break
            start = max(start, other.offset + -(-other.cells.size // ALIGNED) * ALIGNED)
        buffer.offset = start
        settled.append(buffer)
        most = max(most, start + size)
    return most


def literal(value: float | int | bool, kind: Kind) -> str:
    """A number as C has it."""
    if kind != "real":
        return str(int(value))
    if np.isnan(value):
        return "(R)NAN"
    if np.isinf(value):
        return "(R)INFINITY" if value > 0 else "(R)-INFINITY"
    return f"(R){float(value)!r}"
