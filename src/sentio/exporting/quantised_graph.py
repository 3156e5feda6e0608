"""One ONNX graph in int8: ONNX Runtime's static quantisation, stored in as few bytes as it can be."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError
from sentio.core.onnx_exporter import reason

Method = Literal["minmax", "entropy", "percentile"]
Batch = dict[str, NDArray[Any]]

# fmt: off
#: layers whose arithmetic becomes int8 unless they are named in ``float_layers``
LAYERS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul",
    "Relu", "LeakyRelu", "Clip", "Sigmoid", "Softmax",
    "MaxPool", "AveragePool", "GlobalAveragePool",
    "BatchNormalization", "InstanceNormalization", "LayerNormalization",
    "Concat", "Split", "Slice", "Pad", "Gather", "Resize", "Where",
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten",
)
# fmt: on
#: layers that weigh most, by their ONNX names
WEIGHTY = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
#: what ONNX Runtime appends to the name of a tensor that it quantises
_SUFFIX = "_quantized"
#: fewer scales would gain less as float16 than the node that makes them float32 again takes
_FEWEST = 16
#: smallest normal number of float16; scales below it would lose digits
_SMALLEST = 6.2e-5


def quantise_graph(
    graph: bytes,
    batches: Sequence[Batch],
    *,
    method: Method = "minmax",
    symmetric: bool = False,
    reduce_range: bool = False,
    float_layers: Collection[str] = (),
    answers: bool = False,
) -> bytes:
    """The graph with int8 weights, one scale per channel, and 8-bit activations between its layers.

    Inputs and outputs stay float32, so that a graph takes the place of its float form.

    Args:
        graph: an ONNX model with inputs of float32 and a dynamic batch.
        batches: what reaches it, in batches: input name -> array.
        method: how the range of an activation is found from the batches.
        symmetric: ranges of activations are symmetric about zero (int8) and not as they are (uint8).
        reduce_range: weights take 7 bits and not 8, for x86 processors without VNNI.
        float_layers: ONNX names of layers that stay in float32.
        answers: the output is logits, which are not rounded to 8 bits.

    Raises:
        ConfigError: ONNX Runtime cannot quantise it; the message is its reason alone.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    model = onnx.load_from_string(graph)
    # It says so of itself, or ONNX Runtime advises a preparation that has nothing left to do.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "sentio"})
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    try:
        with tempfile.TemporaryDirectory() as scratch, _silence():
            file = Path(scratch) / "int8.onnx"
            quantize_static(
                model,
                file,
                _reader(batches),
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=[layer for layer in LAYERS if layer not in float_layers],
                calibrate_method=methods[method],
                extra_options={"ActivationSymmetric": symmetric, "CalibStridedMinMax": 1},
            )
            quantised = onnx.load(file)
    except Exception as error:  # its tools raise whatever they met
        raise ConfigError(reason(error)) from error
    if answers:
        _keep_outputs_whole(quantised)
    _shrink(quantised, onnx.load_from_string(graph))
    return quantised.SerializeToString()


def weight_bytes(graph: bytes) -> int:
    """Bytes of the values that a graph holds: weights, scales, and constants of shapes."""
    import onnx

    tensors = onnx.load_from_string(graph).graph.initializer
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in tensors)


def float_weights(graph: bytes) -> list[str]:
    """The ONNX names of layers whose weights are float32 or float16 in this graph, one entry each."""
    import onnx

    model = onnx.load_from_string(graph).graph
    floats = {
        tensor.name
        for tensor in model.initializer
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16) and len(tensor.dims) > 1
    }
    return [node.op_type for node in model.node if node.op_type in WEIGHTY and floats & set(node.input)]


def _reader(batches: Sequence[Batch]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Batches in turn; ONNX Runtime asks for a range of them at a time."""

        def __init__(self) -> None:
            self.set_range(0, len(batches))

        def __len__(self) -> int:
            return len(batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.pending = iter(batches[start_index:end_index])

        def get_next(self) -> Any:
            return next(self.pending, None)

    return Reader()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """ONNX Runtime's tools print, and log to the root logger, which then prints for the whole program."""
    root, handler, level = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
        root.removeHandler(handler)


def _keep_outputs_whole(model: Any) -> None:
    """Take out the rounding of each output where a layer gives it as float anyway."""
    nodes = model.graph.node
    made_by = {name: node for node in nodes for name in node.output}
    for output in model.graph.output:
        last = made_by[output.name]
        first = made_by.get(last.input[0])
        if last.op_type != "DequantizeLinear" or first is None or first.op_type != "QuantizeLinear":
            continue
        made = made_by.get(first.input[0])
        if made is None:
            continue
        made.output[list(made.output).index(first.input[0])] = output.name
        nodes.remove(first)
        nodes.remove(last)


def _shrink(model: Any, original: Any) -> None:
    """Store what ONNX Runtime computes again when it opens the graph in as few bytes as possible.

    Zero points of zero are what is meant where there is none. A bias has the scale of input times weight,
    which a multiplication gives. Scales of many channels are rounded up to float16, and weight and bias are
    quantised anew with them. Weights are rounded anew in any case, see `_rounded_together`. Names are made
    short.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    floats = {tensor.name: numpy_helper.to_array(tensor) for tensor in original.graph.initializer}
    unpacked = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    constants = [node for node in unpacked.values() if node.input[0] in stored]
    # Of these, ONNX Runtime joins only those with zero points to their weights.
    products = {name for node in graph.node if node.op_type in ("Gemm", "MatMul") for name in node.input[:2]}
    given = dict(stored)  # by their names, also where another form of them is stored
    first: list[Any] = []
    for node in constants:
        if len(node.input) > 2 and node.output[0] not in products and not given[node.input[2]].any():
            node.input.pop()
        weight, scale = node.input[:2]
        source = floats.get(weight.removesuffix(_SUFFIX))
        if given[weight].dtype != np.int8 or source is None or f"{scale}.float16" in stored:
            continue
        half = _rounded_up(given[scale])
        if half is not None:
            given[scale], stored[f"{scale}.float16"] = half.astype(np.float32), half
            first.append(helper.make_node("Cast", [f"{scale}.float16"], [scale], to=onnx.TensorProto.FLOAT))
        if given[scale].size > 1:
            axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
            stored[weight] = _rounded_together(source, given[scale], axis)
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3:
            continue
        x, weight, bias = (unpacked.get(name) for name in node.input[:3])
        if x is None or weight is None or bias is None or x.input[1] not in given:
            continue
        product = given[x.input[1]] * given[weight.input[1]]
        source = floats.get(bias.input[0].removesuffix(_SUFFIX))
        # The two differ by the rounding of scales, or by a factor of the layer's own.
        if source is None or not np.allclose(given[bias.input[1]], product, rtol=2e-3, atol=0):
            continue
        stored[bias.input[0]] = _quantised(source, product)
        first.append(helper.make_node("Mul", [x.input[1], weight.input[1]], [bias.input[1]]))
    computed = {name for node in first for name in node.output}
    used = {name for node in (*first, *graph.node) for name in node.input} - computed
    kept = [numpy_helper.from_array(array, name) for name, array in stored.items() if name in used]
    for field, values in ((graph.initializer, kept), (graph.node, [*first, *graph.node])):
        del field[:]
        field.extend(values)
    del graph.value_info[:], model.metadata_props[:]
    model.ClearField("doc_string")
    _shorten_names(graph)
    onnx.checker.check_model(model, full_check=True)


def _rounded_up(scale: NDArray[Any]) -> NDArray[np.float16] | None:
    """The next float16 from each scale on, so that no weight is clipped; None where that saves nothing."""
    if scale.size < _FEWEST or scale.min() < _SMALLEST or scale.max() >= np.finfo(np.float16).max:
        return None
    half = scale.astype(np.float16)
    return np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)


def _quantised(bias: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.int32]:
    largest = np.iinfo(np.int32).max
    whole = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    return np.clip(whole, -largest, largest).astype(np.int32)


def _rounded_together(weight: NDArray[Any], scale: NDArray[Any], axis: int) -> NDArray[np.int8]:
    """Weights as int8 such that every kernel's sum is kept, and that of all kernels of an output channel.

    What reaches a layer is mostly smooth and not about zero, so errors of a kernel's weights add up there;
    rounded each to its nearest they come to several steps in a kernel of 25.

    Args:
        weight: float.
        scale: of each output channel.
        axis: of the output channels in ``weight``.
    """
    steps = np.moveaxis(weight, axis, 0).astype(np.float64)
    steps /= scale.astype(np.float64).reshape(-1, *[1] * (steps.ndim - 1))
    kernels = steps.reshape(len(steps), steps.shape[1], -1)
    down = np.floor(kernels)
    rest = kernels - down
    whole = down + _first(rest, _whole(rest.sum(axis=-1)))
    # As far as the range goes: 127 steps, or 64 where weights take 7 bits.
    largest = np.rint(np.abs(kernels).max())
    whole = np.moveaxis(np.clip(whole, -largest, largest).reshape(steps.shape), 0, axis)
    return np.ascontiguousarray(whole.astype(np.int8))


def _whole(values: NDArray[Any]) -> NDArray[Any]:
    """Each value rounded up or down, so that their sum over the last axis is rounded to its nearest."""
    down = np.floor(values)
    rest = values - down
    return down + _first(rest, np.rint(rest.sum(axis=-1)))


def _first(rest: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.bool_]:
    """Which are the so many largest of the last axis."""
    ranks = np.argsort(np.argsort(-rest, axis=-1, kind="stable"), axis=-1, kind="stable")
    return ranks < counts[..., None]


def _shorten_names(graph: Any) -> None:
    """Tensors inside a small graph have names that take more bytes than some of its weights."""
    fixed = {value.name for value in (*graph.input, *graph.output)} | {""}
    names: dict[str, str] = {}

    def short(name: str) -> str:
        return name if name in fixed else names.setdefault(name, f"{len(names):x}")

    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    for node in graph.node:
        node.name = ""
        for field in (node.input, node.output):
            field[:] = [short(name) for name in field]
