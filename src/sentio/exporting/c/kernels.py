"""The operations that take time, as C: convolutions, products, pooling and sums over axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.exporting.c.loops import Axis, at, axes_of, merged, nest
from sentio.exporting.c.places import Call, literal
from sentio.exporting.c.program import Dense, Depthwise, Product, Reduce

#: taps of a kernel that are written out one by one
WRITTEN_OUT = 32
#: cycles between a sum of products and the next that needs it
LATENCY = 4


@dataclass(frozen=True)
class Vectors:
    """What the processor computes at once.

    Args:
        lanes: numbers in its widest vector.
        registers: that hold one each.
    """

    lanes: int
    registers: int

    @property
    def is_wide(self) -> bool:
        """Whether they are of 512 bits, of which a processor computes half as many at once."""
        return self.registers > 16


@dataclass(frozen=True)
class Tile:
    """What is summed up at once: some places by some vectors of channels."""

    lanes: int
    rows: int
    columns: int
    vectors: int


def call_lines(call: Call, name: str, machine: Vectors) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """The body of the function of an operation.

    Args:
        name: its weights' names begin with this.

    Returns:
        lines, which read ``a0``, ``a1`` and write ``y``, and the weights by name.
    """
    op = call.op
    if isinstance(op, Dense):
        return _Convolution(call, op, name, machine).lines()
    if isinstance(op, Depthwise):
        return _depthwise(call, op, name)
    if isinstance(op, Product):
        return _product(call), {}
    return _reduce(call, op), {}


class _Convolution:
    """Sums over kernel and channels in registers: of a tile of places by a block of vectors of channels.

    Weights lie as they are read: block by block, in each by tap and input channel.
    """

    def __init__(self, call: Call, op: Dense, name: str, machine: Vectors) -> None:
        self.op, self.name = op, name
        source, output = call.inputs[0], call.output
        self.ins, self.outs = op.weight.shape[-2:]
        self.bias = op.bias
        self.in_stride, self.out_stride = source.strides[op.channels], output.strides[op.channels]
        steps = [source.strides[axis] for axis in op.places]
        self.start = -sum(step * before for step, before in zip(steps, op.begin, strict=True))
        places = [
            Axis(output.shape[axis], (step * apart, output.strides[axis]))
            for axis, step, apart in zip(op.places, steps, op.stride, strict=True)
        ]
        places = sorted(places, key=lambda axis: -axis.strides[1])
        self.places = merged(places)
        while len(self.places) < 2:
            self.places.insert(0, Axis(1, (0, 0)))
        taps = op.weight.shape[1:-2]
        kernel = [
            Axis(size, (step * apart,)) for size, step, apart in zip(taps, steps, op.dilation, strict=True)
        ]
        self.kernel = merged([*kernel, Axis(self.ins, (self.in_stride,))])
        self.depth = int(np.prod(taps)) * self.ins
        self.tile = self._best_tile(machine)

    def _best_tile(self, machine: Vectors) -> Tile:
        wide, high = self.places[-1].size, self.places[-2].size
        possible = []
        lanes = machine.lanes
        while lanes >= 2:
            for count in range(1, 17):
                rows, columns = (1, count) if count <= wide else (count // wide, wide)
                if rows > high or rows * columns != count:
                    continue
                for vectors in range(1, min(ceil(self.outs / lanes), 8) + 1):
                    if count * vectors + vectors + 1 < machine.registers:
                        possible.append(Tile(lanes, rows, columns, vectors))
            lanes //= 2
        return min(possible, key=lambda tile: self._cost(tile, machine))

    def _cost(self, tile: Tile, machine: Vectors) -> float:
        """Cycles for each tap and channel, roughly; the widest vectors take two halves of time and room."""
        wide, high = self.places[-1].size, self.places[-2].size
        weight = 1.0 if tile.lanes == machine.lanes and machine.is_wide else 0.5
        cost = 0.0
        for rows, times in _parts(high, tile.rows):
            for columns, more in _parts(wide, tile.columns):
                for vectors, blocks in _parts(ceil(self.outs / tile.lanes), tile.vectors):
                    count = rows * columns
                    sums = max(count * vectors * weight, LATENCY)
                    cost += times * more * blocks * (sums + vectors * weight + count / 4)
        return cost

    def lines(self) -> tuple[list[str], dict[str, NDArray[Any]]]:
        tile, groups = self.tile, self.op.weight.shape[0]
        total = ceil(self.outs / tile.lanes)
        weights, biases = self._packed(total)
        body: list[str] = []
        outer = merged(self.places[:-2])
        first = 0
        for vectors, blocks in _parts(total, tile.vectors):
            body += self._block(vectors, first, blocks, total)
            first += vectors * blocks
        where = [
            f"const R *const xo = a0 + ({at(outer, 0, 'o', self.start)}) + g * {self.ins * self.in_stride};",
            f"R *const yo = y + {at(outer, 1, 'o')} + g * {self.outs * self.out_stride};",
        ]
        body = nest(outer, [*where, *body], free=False, first="o")
        lines = [f"for (long g = 0; g < {groups}; g++) {{", *("  " + line for line in body), "}"]
        return lines, {f"{self.name}_weight": weights, f"{self.name}_bias": biases}

    def _packed(self, total: int) -> tuple[NDArray[Any], NDArray[Any]]:
        lanes, groups = self.tile.lanes, self.op.weight.shape[0]
        missing = total * lanes - self.outs
        weight = self.op.weight.reshape(groups, self.depth, self.outs)
        weight = np.pad(weight, ((0, 0), (0, 0), (0, missing)))
        blocks, start = [], 0
        for vectors, count in _parts(total, self.tile.vectors):
            for _ in range(count):
                end = start + vectors * lanes
                blocks.append(weight[:, :, start:end].reshape(groups, -1))
                start = end
        bias = np.zeros(groups * self.outs) if self.bias is None else self.bias
        bias = np.pad(np.reshape(bias, (groups, self.outs)), ((0, 0), (0, missing)))
        return np.concatenate(blocks, 1).reshape(-1), bias.reshape(-1)

    def _block(self, vectors: int, first: int, blocks: int, total: int) -> list[str]:
        """All places of blocks of channels that have the same number of vectors."""
        lanes = self.tile.lanes
        width = vectors * lanes
        group = f"g * {self.depth * total * lanes}"
        lines = [
            f"const long c = {first * lanes} + k * {width};",
            f"const R *const w0 = {self.name}_weight + {group} + c * {self.depth};",
            f"const R *const b0 = {self.name}_bias + g * {total * lanes} + c;",
        ]
        row, column = self.places[-2], self.places[-1]
        done = 0
        for rows, times in _parts(row.size, self.tile.rows):
            across, ahead = [], 0
            for columns, more in _parts(column.size, self.tile.columns):
                across += self._over(
                    "q",
                    more,
                    [f"const long n = {ahead} + q * {columns};", *self._tile(rows, columns, vectors)],
                )
                ahead += columns * more
            lines += self._over("p", times, [f"const long m = {done} + p * {rows};", *across])
            done += rows * times
        return self._over("k", blocks, lines)

    @staticmethod
    def _over(counter: str, times: int, body: Sequence[str]) -> list[str]:
        head = f"for (long {counter} = 0; {counter} < {times}; {counter}++) {{"
        return [head, *("  " + line for line in body), "}"]

    def _tile(self, rows: int, columns: int, vectors: int) -> list[str]:
        lanes = self.tile.lanes
        row, column = self.places[-2], self.places[-1]
        places = [(i, j) for i in range(rows) for j in range(columns)]
        kind = f"V{lanes}"
        lines = [
            f"const R *const x = xo + m * {row.strides[0]} + n * {column.strides[0]};",
            f"R *const z = yo + m * {row.strides[1]} + n * {column.strides[1]} + c * {self.out_stride};",
            "const R *w = w0;",
        ]
        for index in range(len(places)):
            begun = ", ".join(f"s{index}_{v} = *(const {kind} *)(b0 + {v * lanes})" for v in range(vectors))
            lines.append(f"{kind} {begun};")
        body = [f"const {kind} w{v}_ = *(const {kind} *)(w + {v * lanes});" for v in range(vectors)]
        for index, (i, j) in enumerate(places):
            offset = i * row.strides[0] + j * column.strides[0]
            body.append(f"const R e{index} = x[{at(self.kernel, 0, 'i', offset)}];")
            body.append(" ".join(f"s{index}_{v} += e{index} * w{v}_;" for v in range(vectors)))
        body.append(f"w += {vectors * lanes};")
        lines += nest(self.kernel, body, free=False)
        for index, (i, j) in enumerate(places):
            offset = i * row.strides[1] + j * column.strides[1]
            for v in range(vectors):
                value = f"s{index}_{v}"
                if self.op.clamp:
                    lines.append(f"{value} = (V{lanes})((I{lanes}){value} & ~(I{lanes})({value} < 0));")
                lines.append(self._stored(value, offset, v))
        return lines

    def _stored(self, value: str, offset: int, vector: int) -> str:
        lanes = self.tile.lanes
        here = offset + vector * lanes * self.out_stride
        rest = self.outs % lanes
        left = f"{self.outs} - c - {vector * lanes}"
        if self.out_stride == 1 and not rest:
            return f"*(V{lanes} *)(z + {here}) = {value};"
        if self.out_stride == 1:
            return (
                f"if ({left} >= {lanes}) *(V{lanes} *)(z + {here}) = {value}; "
                f"else memcpy(z + {here}, &{value}, {rest} * sizeof(R));"
            )
        return (
            f"put(z + {here}, {self.out_stride}, (const R *)&{value}, {left} < {lanes} ? {left} : {lanes});"
        )


def _parts(size: int, most: int) -> list[tuple[int, int]]:
    """How often which length: as many of the longest as fit, then what remains."""
    whole, rest = divmod(size, most)
    return [(length, times) for length, times in ((most, whole), (rest, 1)) if length and times]


def _depthwise(call: Call, op: Depthwise, name: str) -> tuple[list[str], dict[str, NDArray[Any]]]:
    source, output = call.inputs[0], call.output
    steps = source.strides[2:]
    start = -sum(step * before for step, before in zip(steps, op.begin, strict=True))
    moves = [step * apart for step, apart in zip(steps, op.stride, strict=True)]
    per_channel = op.weight is not None and op.weight.ndim > len(op.taps)
    channel = (source.strides[0], source.strides[1], *moves)
    own = (0, 1, *(0 for _ in moves))
    # Each axis by its strides in the output, the input and the weights of a tap.
    axes = merged(axes_of(output.shape, output.strides, channel, own))
    taps = list(np.ndindex(*op.taps))
    where = [
        sum(t * step * apart for t, step, apart in zip(tap, steps, op.dilation, strict=True)) for tap in taps
    ]
    weights: dict[str, NDArray[Any]] = {}
    begun = "0"
    if op.bias is not None:
        weights[f"{name}_bias"] = np.asarray(op.bias)
        begun = f"{name}_bias[{at(axes, 2)}]"
    x = [f"a0[{at(axes, 1, offset=start + offset)}]" for offset in where]
    channels = output.shape[1]
    if op.weight is None:
        body = ["R s = -INFINITY;", *(f"{{ const R e = {one}; s = e > s ? e : s; }}" for one in x)]
        if len(taps) > WRITTEN_OUT:
            body = _over_taps(name, weights, where, axes, start, "s = e > s ? e : s;", "-INFINITY")
    elif not per_channel:
        factor = literal(float(np.asarray(op.weight).reshape(-1)[0]), "real")
        body = ["R s = 0;", *(f"s += {one};" for one in x), f"s *= {factor};"]
        if len(taps) > WRITTEN_OUT:
            body = [*_over_taps(name, weights, where, axes, start, "s += e;", "0"), f"s *= {factor};"]
    else:
        weights[f"{name}_weight"] = np.reshape(op.weight, -1)
        if len(taps) > WRITTEN_OUT:
            product = f"s += {name}_weight[t * {channels} + {at(axes, 2)}] * e;"
            body = _over_taps(name, weights, where, axes, start, product, begun)
        else:
            products = [
                f"s += {name}_weight[{at(axes, 2, offset=index * channels)}] * {one};"
                for index, one in enumerate(x)
            ]
            body = [f"R s = {begun};", *products]
    if op.clamp:
        body.append("s = s < 0 ? 0 : s;")
    body.append(f"y[{at(axes, 0)}] = s;")
    return nest(axes, body), weights


def _over_taps(
    name: str,
    weights: dict[str, NDArray[Any]],
    where: Sequence[int],
    axes: Sequence[Axis],
    start: int,
    line: str,
    begun: str,
) -> list[str]:
    """A loop over the taps of a large kernel, whose places are looked up."""
    weights[f"{name}_where"] = np.array(where, np.int64)
    x = f"a0[{at(axes, 1, offset=start)} + {name}_where[t]]"
    return [
        f"R s = {begun};",
        f"for (long t = 0; t < {len(where)}; t++) {{ const R e = {x}; {line} }}",
    ]


def _product(call: Call) -> list[str]:
    """The innermost loop runs over neighbours in the result."""
    left, right = (place.cells for place in call.inputs)
    output = call.output
    inner = left.shape[-1]
    lefts = np.broadcast_to(left[..., 0][..., None], output.shape).strides
    rights = np.broadcast_to(right[..., 0, :][..., None, :], output.shape).strides
    axes = axes_of(output.shape, output.strides, lefts, rights)
    outer, last = merged(axes[:-1]), axes[-1]
    row = [
        f"R *const z = y + {at(outer, 0)};",
        f"const R *const u = a0 + {at(outer, 1)}, *const v = a1 + {at(outer, 2)};",
        f"for (long j = 0; j < {last.size}; j++) z[j * {last.strides[0]}] = 0;",
        f"for (long t = 0; t < {inner}; t++) {{",
        "  IVDEP",
        f"  for (long j = 0; j < {last.size}; j++)",
        f"    z[j * {last.strides[0]}] += u[j * {last.strides[1]} + t * {left.strides[-1]}]"
        f" * v[j * {last.strides[2]} + t * {right.strides[-2]}];",
        "}",
    ]
    return nest(outer, row, free=False)


def _reduce(call: Call, op: Reduce) -> list[str]:
    source, output = call.inputs[0], call.output
    kept = [axis for axis in range(len(source.shape)) if axis not in op.axes]
    whole = axes_of(
        [source.shape[axis] for axis in kept],
        [source.strides[axis] for axis in kept],
        [output.strides[axis] for axis in kept],
    )
    gone = axes_of([source.shape[axis] for axis in op.axes], [source.strides[axis] for axis in op.axes])
    whole, gone = merged(whole), merged(gone)
    begun = {"max": "-INFINITY", "min": "INFINITY"}.get(op.how, "0")
    step = {"max": "{1} > {0} ? {1} : {0}", "min": "{1} < {0} ? {1} : {0}"}.get(op.how, "{0} + {1}")
    x = f"a0[{at(whole, 0)} + {at(gone, 0, 'j')}]"
    z = f"y[{at(whole, 1)}]"
    inside = bool(gone) and (not whole or gone[-1].strides[0] < whole[-1].strides[0])
    if inside:
        sums = nest(gone, [f"const R e = {x};", f"s = {step.format('s', 'e')};"], free=False, first="j")
        lines = nest(whole, [f"R s = {begun};", *sums, f"{z} = s;"], free=False)
    else:
        add = nest(whole, [f"const R e = {x};", f"{z} = {step.format(z, 'e')};"])
        lines = [*nest(whole, [f"{z} = {begun};"]), *nest(gone, add, free=False, first="j")]
    if op.how == "mean":
        count = int(np.prod([source.shape[axis] for axis in op.axes]))
        lines += nest(whole, [f"{z} /= {count};"])
    return lines
