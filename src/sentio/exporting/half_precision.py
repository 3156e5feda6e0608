"""ONNX graphs that store their weights as float16 and compute in float32."""

from __future__ import annotations

import numpy as np

#: smaller tensors would gain less than the node that makes them float32 again takes
FEWEST = 64


def store_as_float16(graph: bytes) -> bytes:
    """The same graph, with each weight that float16 holds exactly stored as that.

    A cast in front of the graph makes them float32 again; ONNX Runtime computes it once, when the graph is
    opened. Weights that float16 does not hold exactly stay as they are, so that the answers are the same, bit
    for bit: round the network before it is exported.

    Args:
        graph: an ONNX model.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(graph)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size >= FEWEST and np.array_equal(half.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.float16"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()
