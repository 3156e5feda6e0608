"""May a stranger's ONNX model be opened? Read from its bytes, without the onnx package.

ONNX Runtime would look for tensors in other files, compute whatever a graph can compute from its constants
while it is being opened, and run loops without end. A stage needs none of that, so none is let in.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

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
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
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
#: operators whose result is as large as a value says, not as large as what they are given
_GROWING = frozenset(
    {
        "Bernoulli",
        "BlackmanWindow",
        "CenterCropPad",
        "ConstantOfShape",
        "Expand",
        "EyeLike",
        "HammingWindow",
        "HannWindow",
        "MelWeightMatrix",
        "Multinomial",
        "OneHot",
        "Pad",
        "RandomNormal",
        "RandomUniform",
        "Range",
        "Resize",
        "Tile",
        "Upsample",
    }
)
#: values that constants alone may come to: a GiB of float32
MAX_CONSTANT = 1 << 28


def refusal(model: bytes | memoryview) -> str | None:
    """Why a serialised ModelProto is not let in, as the end of a sentence about it; None if it is.

    Raises:
        ValueError: the bytes are not a protobuf message.
    """
    pending = [("model", memoryview(model))]
    graphs: list[memoryview] = []
    while pending:
        message, data = pending.pop()
        for number, value in _fields(data):
            if message == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION) and value != 0:
                return "keeps tensors in other files, which a Sentio artifact does not do"
            if isinstance(value, int):
                continue
            domain = number == (1 if message == "opset" else 7) and message in ("opset", "node")
            if domain and _text(value) not in DOMAINS:
                return f"has operators of {_text(value)[:80]!r}, which are not of ONNX"
            if message == "node" and number == 4 and _text(value) == _CONTEXT:
                return "holds a compiled network of another program, which may name files"
            inner = _FIELDS[message].get(number)
            if inner == "graph" and message == "model":
                graphs.append(value)
            elif inner in ("graph", "function", "training"):
                return f"holds a {inner} inside its graph, so how long it runs cannot be known"
            if inner is not None:
                pending.append((inner, value))
    if len(graphs) != 1:
        return f"holds {len(graphs) or 'no'} graphs, where one is expected"
    return _constants(graphs[0])


def _constants(graph: memoryview) -> str | None:
    """Why what the graph computes from constants alone, and so while it is opened, may be too much."""
    sizes: dict[str, int] = {}
    for number, value in _fields(graph):
        if number == 5 and not isinstance(value, int):
            dims, name = [], ""
            for field, entry in _fields(value):
                if field == 1:
                    dims += [entry] if isinstance(entry, int) else list(_varints(entry))
                elif field == 8 and not isinstance(entry, int):
                    name = _text(entry)
            sizes[name] = prod(dims)
    for number, value in _fields(graph):
        if number != 1 or isinstance(value, int):
            continue
        inputs, outputs, kind, size = [], [], "", 0
        for field, entry in _fields(value):
            if isinstance(entry, int):
                continue
            if field == 1:
                inputs.append(_text(entry))
            elif field == 2:
                outputs.append(_text(entry))
            elif field == 4:
                kind = _text(entry)
            elif field == 5:
                size += len(entry)
        given = [name for name in inputs if name]
        if kind == "Shape" or kind == "Size":
            size = 64
        elif all(name in sizes for name in given):
            if kind in _GROWING:
                return f"makes {kind!r} of constants alone, which may be of any size"
            size = max(size, prod(max(1, sizes[name]) for name in given) if given else size)
            if size > MAX_CONSTANT:
                return f"computes up to {size:,} values from constants alone, more than {MAX_CONSTANT:,}"
        else:
            continue
        sizes.update(dict.fromkeys(outputs, size))
    return None


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
