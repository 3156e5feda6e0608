"""May a stranger's ONNX model be opened? Read from its bytes, without the onnx package.

ONNX Runtime would look for tensors in other files, compute whatever a graph can compute from its constants
while it is being opened, and run loops without end. A stage needs none of that, so none is let in.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

#: message -> {field number: message of that field}, for every way from a model to a tensor (onnx.proto)
_FIELDS = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "tensor": {},
    "opset": {},
}
#: TensorProto.external_data and TensorProto.data_location
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
#: of ONNX, and of ONNX Runtime for quantised graphs
DOMAINS = ("", "ai.onnx", "com.microsoft")
#: ONNX Runtime's own, which names files of compiled networks
_CONTEXT = "EPContext"
#: operators that give no more values than the largest of what they take
_NO_MORE = frozenset(
    {
        "Cast",
        "Clip",
        "DequantizeLinear",
        "Identity",
        "Neg",
        "QuantizeLinear",
        "Reshape",
        "ScatterElements",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
#: operators that give no more values than the product of what they take
_AT_MOST_PRODUCT = frozenset({"Add", "Div", "Gather", "MatMul", "Mod", "Mul", "Sub"})
#: of those, operators that broadcast one input against the other
_BROADCAST = frozenset({"Add", "Div", "Mod", "Mul", "Sub"})
#: axes that a tensor may have, so the values of a shape
_AXES = 64
#: values that constants alone may come to: a GiB of float32
MAX_CONSTANT = 1 << 28


class Examined(NamedTuple):
    """What was found.

    Args:
        refusal: why the model is not let in, as the end of a sentence about it; None if it is.
        may_fold: whether ONNX Runtime may compute what is constant while it opens the model. Not where a
            tensor's size comes from other tensors' shapes: how large it is shows only then.
    """

    refusal: str | None
    may_fold: bool = True


def examine(model: bytes | memoryview) -> Examined:
    """Look through a serialised ModelProto.

    Raises:
        ValueError: the bytes are no protobuf message, or hold no graph.
    """
    pending = [("model", memoryview(model))]
    graphs: list[memoryview] = []
    while pending:
        message, data = pending.pop()
        for number, value in _fields(data):
            if message == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION) and value != 0:
                return Examined("keeps tensors in other files, which a Sentio artifact does not do")
            if isinstance(value, int):
                continue
            domain = number == (1 if message == "opset" else 7) and message in ("opset", "node")
            if domain and _text(value) not in DOMAINS:
                return Examined(f"has operators of {_text(value)[:80]!r}, which are not of ONNX")
            if message == "node" and number == 4 and _text(value) == _CONTEXT:
                return Examined("holds a compiled network of another program, which may name files")
            inner = _FIELDS[message].get(number)
            if inner == "graph" and message == "model":
                graphs.append(value)
            elif inner == "sparse tensor":
                return Examined("holds a sparse tensor, which may be of any size once it is opened")
            elif inner in ("graph", "function", "training"):
                return Examined(f"holds a {inner} inside its graph, so how long it runs cannot be known")
            if inner is not None:
                pending.append((inner, value))
    if not graphs:
        raise ValueError("it holds no graph")
    if len(graphs) > 1:
        return Examined(f"holds {len(graphs)} graphs, where one is expected")
    return _constants(graphs[0])


def _constants(graph: memoryview) -> Examined:
    """Whether what the graph computes from constants alone, and so while it is opened, may be too much."""
    sizes: dict[str, int] = {}  # of constants, and of what is made of shapes, which may be constant too
    shapes: dict[str, tuple[int, ...]] = {}  # of constants, where they are plain to see
    by_shape: set[str] = set()
    known: set[str] = set()
    may_fold = True
    for number, value in _fields(graph):
        if not isinstance(value, int) and number in (5, 11):
            if number == 11:
                known.add(_value_name(value))
                continue
            name, shape = _tensor(value)
            known.add(name)
            sizes[name], shapes[name] = prod(shape), shape
    for number, value in _fields(graph):
        if number != 1 or isinstance(value, int):
            continue
        kind, inputs, outputs, size = _node(value)
        if not known.issuperset(inputs):
            raise ValueError("its nodes do not stand in order")
        known.update(outputs)
        shaped = kind in ("Shape", "Size")
        if not shaped and not all(name in sizes for name in inputs):
            continue
        shaped = shaped or any(name in by_shape for name in inputs)
        shape = None if size else _shape(kind, [shapes.get(name) for name in inputs])
        bound = prod(shape) if shape else _bound(kind, [sizes.get(name, 0) for name in inputs], size)
        if bound is None or bound > MAX_CONSTANT:
            if not shaped:
                much = "any number of" if bound is None else f"up to {bound:,}"
                return Examined(f"computes {much} values of constants alone ({kind})")
            may_fold = False
        sizes.update(dict.fromkeys(outputs, _AXES if bound is None else bound))
        by_shape.update(outputs if shaped else ())
        if shape and len(outputs) == 1:
            shapes[outputs[0]] = shape
    return Examined(None, may_fold)


def _shape(kind: str, shapes: list[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    """The shape that an operator without attributes gives; None where that is not plain to see."""
    if len(shapes) != 2 or any(shape is None for shape in shapes):
        return None
    first, second = ((*[1] * (_AXES - len(shape)), *shape) for shape in shapes if shape is not None)
    if kind in _BROADCAST and len(first) == len(second) == _AXES:
        # Axes that do not fit are ONNX Runtime's to refuse; the larger is a bound.
        wide = tuple(max(pair) if 0 not in pair else 0 for pair in zip(first, second, strict=True))
        return wide[_AXES - max(len(shape or ()) for shape in shapes) :] or (1,)
    data, indices = shapes
    if kind == "Gather" and data:
        return (*(indices or ()), *data[1:])
    return None


def _bound(kind: str, sizes: list[int], own: int) -> int | None:
    """How many values an operator gives for inputs of these sizes at most; None if nothing says."""
    if kind in ("Shape", "Size"):
        return _AXES
    if kind == "Constant":
        return own
    if kind in _NO_MORE:
        return max(sizes, default=0)
    if kind in _AT_MOST_PRODUCT:
        return prod(max(1, size) for size in sizes)
    return sum(sizes) if kind == "Concat" else None


def _value_name(data: memoryview) -> str:
    """The name in a ValueInfoProto."""
    return next((_text(v) for number, v in _fields(data) if number == 1 and not isinstance(v, int)), "")


def _tensor(data: memoryview) -> tuple[str, tuple[int, ...]]:
    """A tensor's name, and the shape it says it has."""
    dims: list[int] = []
    name = ""
    for field, entry in _fields(data):
        if field == 1:
            dims += [entry] if isinstance(entry, int) else list(_varints(entry))
        elif field == 8 and not isinstance(entry, int):
            name = _text(entry)
    return name, tuple(dims)


def _node(data: memoryview) -> tuple[str, list[str], list[str], int]:
    """A node's operator, what it takes and gives, and the bytes of its attributes."""
    kind, size = "", 0
    inputs: list[str] = []
    outputs: list[str] = []
    for field, entry in _fields(data):
        if isinstance(entry, int):
            continue
        if field == 4:
            kind = _text(entry)
        elif field == 5:
            size += len(entry)
        elif field in (1, 2) and len(entry):
            (inputs if field == 1 else outputs).append(_text(entry))
    return kind, inputs, outputs, size


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one message: number, and an integer or the bytes inside."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        if tag >> 32:  # other readers drop what is above, and see another field
            raise ValueError("a protobuf tag is too large")
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == _LENGTH:
            length, place = _varint(data, place)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"no protobuf field is of wire type {kind}")
        if place + length > len(data):
            raise ValueError("a protobuf field goes beyond the end")
        yield number, data[place : place + length]
        place += length


def _varints(data: memoryview) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a protobuf integer does not end")


def _text(data: memoryview) -> str:
    return str(data, "utf-8", "replace")
