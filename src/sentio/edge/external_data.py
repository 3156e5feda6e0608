"""Does an ONNX model keep tensors in other files? Read from its bytes, without the onnx package.

ONNX Runtime looks such files up beside the working directory when a model comes from memory, so a stranger's
graph could name files of the machine it runs on.
"""

from __future__ import annotations

from collections.abc import Iterator

#: message -> {field number: message of that field}, for every way from a model to a tensor (onnx.proto)
_FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
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
}
#: TensorProto.external_data and TensorProto.data_location
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def has_external_data(model: bytes) -> bool:
    """Whether any tensor of a serialised ModelProto says that its values are in another file.

    Raises:
        ValueError: the bytes are not a protobuf message.
    """
    pending = [("model", memoryview(model))]
    while pending:
        message, data = pending.pop()
        for number, value in _fields(data):
            if message == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION) and value != 0:
                return True
            inner = _FIELDS[message].get(number)
            if inner is not None and not isinstance(value, int):
                pending.append((inner, value))
    return False


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one message: number, and an integer or the bytes inside."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
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
