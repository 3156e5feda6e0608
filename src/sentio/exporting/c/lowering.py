"""What operations of a graph are put together from: views, numbers at their places, products and sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sentio.core.errors import ConfigError
from sentio.exporting.c.program import (
    Dense,
    Elementwise,
    Kind,
    Op,
    Reduce,
    Value,
    View,
    reshaped_axes,
    whole_axes,
)

KINDS: dict[str, Kind] = {"f": "real", "i": "int", "u": "int", "b": "bool"}


class Lowering:
    """A graph that is read, and the operations found in it so far.

    Args:
        model: of the file.
        what: the file, for messages.
    """

    #: of the input
    real: np.dtype[Any]
    #: the one that is read
    node: onnx.NodeProto

    def __init__(self, model: onnx.ModelProto, what: str) -> None:
        self.model, self.what = model, what
        self.opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.ops: list[Op] = []
        self.values: dict[str, Value] = {}
        for tensor in model.graph.initializer:
            self.hold(tensor.name, numpy_helper.to_array(tensor))

    def refused(self, why: str) -> ConfigError:
        return ConfigError(f"{self.what} cannot be written as C: {why}; run it with sentio.edge.ExportedStep")

    def hold(self, name: str, array: NDArray[Any]) -> Value:
        """A constant."""
        kind = KINDS.get(array.dtype.kind)
        if kind is None or (kind == "real" and array.dtype.itemsize < 4):
            raise self.refused(f"its constant {name!r} is of {array.dtype}")
        value = Value(name, array.shape, kind, array)
        self.values[name] = value
        return value

    def made(self, kind: type[Op], inputs: Sequence[Value], shape: Sequence[int], *more: Any) -> Value:
        """The result of an operation."""
        result = Value(f"value {len(self.ops)}", tuple(int(size) for size in shape))
        if kind is View:
            result.kind = inputs[0].kind
        result.op = kind(list(inputs), result, *more)
        self.ops.append(result.op)
        return result

    def view(self, value: Value, look: Callable[[Any], Any], kept: Sequence[int | None]) -> Value:
        # A stand-in without memory tells the shape.
        shape = look(np.broadcast_to(np.zeros((), np.int8), value.shape)).shape
        return self.made(View, [value], shape, look, tuple(kept))

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        sizes = tuple(int(size) for size in shape)

        def look(array: NDArray[Any]) -> NDArray[Any]:
            return array.reshape(sizes, copy=False)

        return self.made(View, [value], sizes, look, reshaped_axes(value.shape, sizes))

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        return self.view(value, lambda array: array.transpose(order), order)

    def part(self, value: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
        index = (slice(None),) * axis + (slice(start, end, step),)
        kept: list[int | None] = list(whole_axes(len(value.shape)))
        if (start, end, step) != (0, value.shape[axis], 1):
            kept[axis] = None
        return self.view(value, lambda array: array[index], kept)

    def each(self, text: str, *inputs: Value, kind: Kind | None = None) -> Value:
        shape = np.broadcast_shapes(*(value.shape for value in inputs))
        result = self.made(Elementwise, inputs, shape, text)
        result.kind = kind or max((value.kind for value in inputs), key=("bool", "int", "real").index)
        return result

    def product(self, value: Value, weight: NDArray[Any], bias: NDArray[Any] | None) -> Value:
        """``(..., k)`` by ``(k, n)``."""
        rank = len(value.shape)
        shape = (*value.shape[:-1], weight.shape[1])
        axes = tuple(range(rank - 1))
        ones, none = (1,) * len(axes), (0,) * len(axes)
        packed = weight.reshape(1, *ones, *weight.shape)
        more = (packed, bias, ones, ones, none, none, axes, rank - 1)
        return self.made(Dense, [value], shape, *more)

    def constant(self, value: Value | None) -> NDArray[Any]:
        if value is None or value.constant is None:
            raise self.refused(f"{self.node.op_type!r} of {self.node.name!r} has weights that are computed")
        return value.constant

    def held(self, array: NDArray[Any]) -> Value:
        return Value("constant", array.shape, "real", array.astype(self.real))

    def reduce(self, inputs: list[Value], facts: dict[str, Any], how: str) -> Value:
        value = inputs[0]
        rank = len(value.shape)
        axes = facts["axes"] if "axes" in facts else self.constant(inputs[1]) if len(inputs) > 1 else None
        if axes is None or not len(axes):
            if facts.get("noop_with_empty_axes", 0):
                return value
            axes = range(rank)
        gone = tuple(sorted(int(axis) % rank for axis in axes))
        shape = [1 if axis in gone else size for axis, size in enumerate(value.shape)]
        result = self.made(Reduce, [value], shape, gone, how)
        if facts.get("keepdims", 1):
            return result
        return self.reshape(result, [size for axis, size in enumerate(value.shape) if axis not in gone])
