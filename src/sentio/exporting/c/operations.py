"""Operations of ONNX that are more than a formula, as the few kinds that C is written from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from sentio.exporting.c.lowering import KINDS, Lowering
from sentio.exporting.c.program import Concat, Dense, Depthwise, Product, Value, whole_axes


class Operations(Lowering):
    """One method for each operation, called as ONNX calls it in small letters.

    Each takes the node's inputs and attributes and returns its output, or a list where there are several.
    """

    def _leakyrelu(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        slope = float(facts.get("alpha", 0.01))
        return self.each(f"({{0}} < 0 ? {{0}} * (R){slope!r} : {{0}})", *inputs)

    def _elu(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        scale = float(facts.get("alpha", 1.0))
        return self.each(f"({{0}} < 0 ? (R){scale!r} * (exp_({{0}}) - 1) : {{0}})", *inputs)

    def _hardsigmoid(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        slope, shift = float(facts.get("alpha", 0.2)), float(facts.get("beta", 0.5))
        if np.float32(slope) == np.float32(1 / 6):  # a graph holds it in single precision
            slope = 1 / 6
        return self.each(f"clip_({{0}} * (R){slope!r} + (R){shift!r}, 0, 1)", *inputs)

    def _selu(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        # Those of the paper, which a graph holds in single precision.
        exact = {np.float32(value): value for value in (1.6732632423543772, 1.0507009873554805)}
        alpha, scale = (
            exact.get(np.float32(facts.get(key, value)), facts.get(key, value))
            for key, value in (("alpha", 1.6732632), ("gamma", 1.050701))
        )
        return self.each(f"((R){scale!r} * ({{0}} < 0 ? (R){alpha!r} * (exp_({{0}}) - 1) : {{0}}))", *inputs)

    def _celu(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        scale = float(facts.get("alpha", 1.0))
        return self.each(f"({{0}} < 0 ? (R){scale!r} * (exp_({{0}} / (R){scale!r}) - 1) : {{0}})", *inputs)

    def _pad(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        value, rank = inputs[0], len(inputs[0].shape)
        if facts.get("mode", b"constant") != b"constant":
            raise self.refused(f"{self.node.name!r} pads with what it finds at the edge (mode)")
        pads = self.constant(inputs[1]).tolist()
        axes = [int(axis) % rank for axis in self.constant(inputs[3])] if len(inputs) > 3 else range(rank)
        fill = self.constant(inputs[2]) if len(inputs) > 2 else np.zeros(())
        for axis, before, behind in zip(axes, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True):
            if before < 0 or behind < 0:
                start, end = max(0, -before), value.shape[axis] - max(0, -behind)
                value = self.part(value, axis, start, end)
            around = []
            for size in (max(0, before), max(0, behind)):
                shape = [size if other == axis else length for other, length in enumerate(value.shape)]
                around.append(self.held(np.full(shape, fill.reshape(-1)[0])))
            if before > 0 or behind > 0:
                value = self._concat([around[0], value, around[1]], {"axis": axis})
        return value

    def _clip(self, given: list[Value | None], facts: dict[str, Any]) -> Value:
        value, *ends = given
        assert value is not None
        text = "{0}"
        for end, sign in zip(ends, "<>", strict=False):
            if end is not None:
                limit = float(self.constant(end))
                text = f"({text} {sign} (R){limit!r} ? (R){limit!r} : {text})"
        return self.each(text, value)

    def _gelu(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        if facts.get("approximate", b"none") != b"none":
            inner = "(R)0.7978845608028654 * ({0} + (R)0.044715 * {0} * {0} * {0})"
            return self.each(f"((R)0.5 * {{0}} * (1 + tanh_({inner})))", *inputs)
        return self.each("((R)0.5 * {0} * (1 + erf_({0} * (R)0.7071067811865476)))", *inputs)

    def _cast(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        kind = KINDS.get(np.dtype(helper.tensor_dtype_to_np_dtype(facts["to"])).kind)
        text = {"real": "(R){0}", "int": "(int64_t){0}", "bool": "({0} != 0)"}.get(str(kind))
        if text is None:
            raise self.refused(f"{self.node.name!r} turns numbers into another type")
        return self.each(text, *inputs, kind=kind)

    def _transpose(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        rank = len(inputs[0].shape)
        return self.transpose(inputs[0], tuple(facts.get("perm", range(rank)[::-1])))

    def _reshape(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        value = inputs[0]
        wanted = [int(size) for size in self.constant(inputs[1])]
        if not facts.get("allowzero", 0):
            wanted = [value.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
        return self.reshape(value, np.broadcast_to(np.int8(0), value.shape).reshape(wanted).shape)

    def _flatten(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        shape, axis = inputs[0].shape, facts.get("axis", 1)
        return self.reshape(inputs[0], (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))))

    def _squeeze(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        shape = inputs[0].shape
        axes = self.constant(inputs[1]) if len(inputs) > 1 else [i for i, s in enumerate(shape) if s == 1]
        gone = {int(axis) % len(shape) for axis in axes}
        return self.reshape(inputs[0], [size for axis, size in enumerate(shape) if axis not in gone])

    def _unsqueeze(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        shape = np.expand_dims(np.broadcast_to(np.int8(0), inputs[0].shape), tuple(self.constant(inputs[1])))
        return self.reshape(inputs[0], shape.shape)

    def _expand(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        shape = np.broadcast_shapes(inputs[0].shape, tuple(int(size) for size in self.constant(inputs[1])))
        return self.view(inputs[0], lambda array: np.broadcast_to(array, shape), (None,) * len(shape))

    def _slice(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        value = inputs[0]
        starts, ends, *more = (self.constant(entry).tolist() for entry in inputs[1:])
        axes = more[0] if more else list(range(len(starts)))
        steps = more[1] if len(more) > 1 else [1] * len(starts)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            axis %= len(value.shape)
            start, end, step = slice(start, end, step).indices(value.shape[axis])
            if step < 0:
                raise self.refused(f"{self.node.name!r} runs backwards")
            value = self.part(value, axis, start, max(start, end), step)
        return value

    def _gather(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        index = self.constant(inputs[1])
        if index.ndim:
            raise self.refused(f"{self.node.name!r} picks several entries")
        value, axis = inputs[0], facts.get("axis", 0) % len(inputs[0].shape)
        where = int(index) % value.shape[axis]
        kept = [other for other in whole_axes(len(value.shape)) if other != axis]
        index_there = (slice(None),) * axis + (where,)
        return self.view(value, lambda array: array[index_there], kept)

    def _split(self, inputs: list[Value], facts: dict[str, Any]) -> list[Value]:
        value, axis = inputs[0], facts.get("axis", 0) % len(inputs[0].shape)
        if len(inputs) > 1:
            sizes = [int(size) for size in self.constant(inputs[1])]
        else:
            count = len(self.node.output)
            most = -(-value.shape[axis] // count)
            sizes = [min(most, value.shape[axis] - most * index) for index in range(count)]
        ends = np.cumsum([0, *sizes]).tolist()
        return [self.part(value, axis, a, b) for a, b in pairwise(ends)]

    def _concat(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        axis = facts["axis"] % len(inputs[0].shape)
        shape = list(inputs[0].shape)
        shape[axis] = sum(value.shape[axis] for value in inputs)
        result = self.made(Concat, inputs, shape, axis)
        result.kind = inputs[0].kind
        return result

    def _globalaveragepool(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        axes = tuple(range(2, len(inputs[0].shape)))
        return self.reduce(inputs[:1], {"axes": axes}, "mean")

    def _softmax(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        axes = {"axes": [facts.get("axis", -1)]}
        largest = self.reduce(inputs, axes, "max")
        shares = self.each("exp_({0} - {1})", inputs[0], largest)
        return self.each("({0} / {1})", shares, self.reduce([shares], axes, "sum"))

    def _layernormalization(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        value, rank = inputs[0], len(inputs[0].shape)
        axes = {"axes": list(range(facts.get("axis", -1) % rank, rank))}
        centred = self.each("({0} - {1})", value, self.reduce([value], axes, "mean"))
        spread = self.reduce([self.each("({0} * {0})", centred)], axes, "mean")
        epsilon = float(facts.get("epsilon", 1e-5))
        normed = self.each(f"({{0}} / sqrt_({{1}} + (R){epsilon!r}))", centred, spread)
        normed = self.each("({0} * {1})", normed, inputs[1])
        return self.each("({0} + {1})", normed, inputs[2]) if len(inputs) > 2 else normed

    def _batchnormalization(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        scale, shift, mean, variance = (self.constant(value).astype(np.float64) for value in inputs[1:5])
        factor = scale / np.sqrt(variance + facts.get("epsilon", 1e-5))
        shape = (-1, *(1,) * (len(inputs[0].shape) - 2))
        by = self.held(factor.reshape(shape))
        plus = self.held((shift - mean * factor).reshape(shape))
        return self.each("({0} * {1} + {2})", inputs[0], by, plus)

    def _gemm(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        weight = self.constant(inputs[1]) * facts.get("alpha", 1.0)
        bias = self.constant(inputs[2]) * facts.get("beta", 1.0) if len(inputs) > 2 else None
        value = self.transpose(inputs[0], (1, 0)) if facts.get("transA", 0) else inputs[0]
        matrix = weight.T if facts.get("transB", 0) else weight
        if bias is not None and bias.size not in (1, matrix.shape[1]):
            return self.each("({0} + {1})", self.product(value, matrix, None), self.held(bias))
        if bias is not None:
            bias = np.broadcast_to(bias.reshape(-1), matrix.shape[1])
        return self.product(value, matrix, bias)

    def _matmul(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        left, right = inputs
        if right.constant is not None and right.constant.ndim == 2 and len(left.shape) > 1:
            return self.product(left, right.constant, None)
        if min(len(left.shape), len(right.shape)) < 2:
            raise self.refused(f"{self.node.name!r} multiplies with a vector")
        outer = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        return self.made(Product, inputs, (*outer, left.shape[-2], right.shape[-1]))

    def _conv(self, given: list[Value | None], facts: dict[str, Any]) -> Value:
        value, weight = given[0], self.constant(given[1])
        assert value is not None
        bias = self.constant(given[2]) if len(given) > 2 and given[2] is not None else None
        groups, rank = facts.get("group", 1), weight.ndim - 2
        windows = self._windows(facts, rank)
        out, each, *taps = weight.shape
        shape = (1, out, *places_after(value.shape[2:], taps, *windows))
        if each == 1 and groups == out and groups > 1:
            moved = np.moveaxis(weight[:, 0], 0, -1)
            return self.made(Depthwise, [value], shape, moved, tuple(taps), bias, *windows)
        packed = weight.reshape(groups, out // groups, each, *taps)
        packed = np.moveaxis(packed, (1, 2), (-1, -2))
        packed, windows = without_idle_taps(packed, value.shape[2:], shape[2:], windows)
        axes = tuple(range(2, rank + 2))
        return self.made(Dense, [value], shape, packed, bias, *windows, axes, 1)

    def _averagepool(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        taps = tuple(facts["kernel_shape"])
        stride, dilation, begin, end = self._windows(facts, len(taps))
        if any((*begin, *end)) and not facts.get("count_include_pad", 0):
            raise self.refused(f"{self.node.name!r} takes means at an edge without what lies outside")
        weight = np.full(taps, 1 / np.prod(taps), self.real)
        return self._pool(inputs[0], facts, weight, taps, (stride, dilation, begin, end), 0.0)

    def _maxpool(self, inputs: list[Value], facts: dict[str, Any]) -> Value:
        taps = tuple(facts["kernel_shape"])
        return self._pool(inputs[0], facts, None, taps, self._windows(facts, len(taps)), -np.inf)

    def _pool(self, value: Value, facts: Any, weight: Any, taps: Any, windows: Any, fill: float) -> Value:
        shape = (*value.shape[:2], *places_after(value.shape[2:], taps, *windows))
        if facts.get("ceil_mode", 0):
            stride, *rest = windows
            reaching = [size + step - 1 for size, step in zip(value.shape[2:], stride, strict=True)]
            if tuple(places_after(reaching, taps, stride, *rest)) != shape[2:]:
                raise self.refused(f"{self.node.name!r} has windows that reach beyond the edge (ceil_mode)")
        return self.made(Depthwise, [value], shape, weight, taps, None, *windows, fill)

    def _windows(self, facts: dict[str, Any], rank: int) -> tuple[tuple[int, ...], ...]:
        if facts.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise self.refused(f"{self.node.name!r} pads by a rule (auto_pad)")
        pads = tuple(facts.get("pads", (0,) * 2 * rank))
        ones = (1,) * rank
        return (
            tuple(facts.get("strides", ones)),
            tuple(facts.get("dilations", ones)),
            pads[:rank],
            pads[rank:],
        )

    def _gru(self, given: list[Value | None], facts: dict[str, Any]) -> list[Value]:
        size = facts["hidden_size"]
        value, bias, hidden = self._recurrent(given, facts, 3 * size)
        if not facts.get("linear_before_reset", 0):
            raise self.refused(f"{self.node.name!r} resets before its product, unlike PyTorch's")
        weight, again = (self.constant(entry)[0].T for entry in given[1:3])
        fed = self.product(value, weight, bias[: 3 * size])
        states = []
        for moment in range(value.shape[0]):
            now = self._at(fed, moment)
            past = self.product(hidden, again, bias[3 * size :])
            update, reset, fresh = (
                (self.part(now, 1, i * size, (i + 1) * size), self.part(past, 1, i * size, (i + 1) * size))
                for i in range(3)
            )
            gate = self.each("sigmoid_({0} + {1})", *reset)
            candidate = self.each("tanh_({0} + {1} * {2})", fresh[0], gate, fresh[1])
            share = self.each("sigmoid_({0} + {1})", *update)
            hidden = self.each("({1} + {0} * ({2} - {1}))", share, candidate, hidden)
            states.append(hidden)
        return [self._sequence(states, size), self.reshape(hidden, (1, 1, size))]

    def _lstm(self, given: list[Value | None], facts: dict[str, Any]) -> list[Value]:
        size = facts["hidden_size"]
        value, bias, hidden = self._recurrent(given, facts, 4 * size)
        cell = self._begin(given, 6, size)
        if len(given) > 7 and given[7] is not None:
            raise self.refused(f"{self.node.name!r} has peepholes")
        weight, again = (self.constant(entry)[0].T for entry in given[1:3])
        fed = self.product(value, weight, bias[: 4 * size])
        states = []
        for moment in range(value.shape[0]):
            now = self._at(fed, moment)
            past = self.product(hidden, again, bias[4 * size :])
            whole = self.each("({0} + {1})", now, past)
            enter, out, forget, fresh = (self.part(whole, 1, i * size, (i + 1) * size) for i in range(4))
            kept = self.each("(sigmoid_({0}) * {1})", forget, cell)
            cell = self.each("({0} + sigmoid_({1}) * tanh_({2}))", kept, enter, fresh)
            hidden = self.each("(sigmoid_({0}) * tanh_({1}))", out, cell)
            states.append(hidden)
        last = [self.reshape(entry, (1, 1, size)) for entry in (hidden, cell)]
        return [self._sequence(states, size), *last]

    def _recurrent(
        self, given: list[Value | None], facts: dict[str, Any], width: int
    ) -> tuple[Value, NDArray[Any], Value]:
        if facts.get("direction", b"forward") != b"forward" or facts.get("layout", 0) or "clip" in facts:
            raise self.refused(f"{self.node.name!r} does not simply run forward")
        if len(given) > 4 and given[4] is not None:
            raise self.refused(f"{self.node.name!r} takes sequences of several lengths")
        value = given[0]
        assert value is not None
        bias = self.constant(given[3])[0] if len(given) > 3 and given[3] is not None else np.zeros(2 * width)
        return value, bias, self._begin(given, 5, facts["hidden_size"])

    def _begin(self, given: list[Value | None], index: int, size: int) -> Value:
        first = given[index] if len(given) > index else None
        return self.held(np.zeros((1, size))) if first is None else self.reshape(first, (1, size))

    def _at(self, value: Value, moment: int) -> Value:
        return self.reshape(self.part(value, 0, moment, moment + 1), (1, value.shape[2]))

    def _sequence(self, states: list[Value], size: int) -> Value:
        shaped = [self.reshape(state, (1, 1, 1, size)) for state in states]
        return shaped[0] if len(shaped) == 1 else self.made(Concat, shaped, (len(shaped), 1, 1, size), 0)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """By name; numbers, which a graph holds in single precision, as they were written."""
    facts = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return {
        name: float(str(np.float32(value))) if isinstance(value, float) else value
        for name, value in facts.items()
    }


def without_idle_taps(
    weight: NDArray[Any], sizes: Sequence[int], places: Sequence[int], windows: Sequence[Sequence[int]]
) -> tuple[NDArray[Any], tuple[tuple[int, ...], ...]]:
    """A kernel without the taps at its edges that meet nothing but padding, wherever it lies.

    Args:
        weight: ``(groups, taps..., in, out)``.
        sizes, places: of the input, and of the result.
        windows: stride, dilation, and padding before and behind.
    """
    stride, dilation, begin, end = (list(numbers) for numbers in windows)
    for axis, (size, count) in enumerate(zip(sizes, places, strict=True)):
        starts = np.arange(count) * stride[axis] - begin[axis]
        taps = np.arange(weight.shape[axis + 1]) * dilation[axis]
        meets = ((starts[:, None] + taps >= 0) & (starts[:, None] + taps < size)).any(0)
        first = int(np.argmax(meets)) if meets.any() else 0
        first = min(first, begin[axis] // dilation[axis])
        last = len(taps) - int(np.argmax(meets[::-1])) if meets.any() else len(taps)
        weight = np.moveaxis(np.moveaxis(weight, axis + 1, 0)[first:last], 0, axis + 1)
        begin[axis] -= first * dilation[axis]
        reach = int(starts[-1]) + int(taps[last - 1])
        end[axis] = max(0, reach + 1 - size)
    return weight, tuple(map(tuple, (stride, dilation, begin, end)))


def places_after(
    sizes: Sequence[int],
    taps: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
) -> list[int]:
    """How many places a kernel has along each axis."""
    return [
        (size + a + b - (tap - 1) * apart - 1) // step + 1
        for size, tap, step, apart, a, b in zip(sizes, taps, stride, dilation, begin, end, strict=True)
    ]
