"""A log-mel front end as one ONNX graph: samples in, features out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.audio.frontend import LogMel, hann_window, mel_filters
from sentio.audio.windows import AudioFrontEnd
from sentio.core.errors import ConfigError
from sentio.core.onnx_exporter import OPSET


def front_end_graph(front_end: Any) -> bytes:
    """The front end's features of one window, as `sentio.audio.frontend.LogMel` computes them.

    Input ``in_0`` holds windows of samples at the front end's rate, float32 ``(batch, time)``; output
    ``out_0`` the features, float32 ``(batch, 1, time, frequency)``. Reading, resampling and cutting a
    recording into windows are not part of it. The Fourier transform is a convolution with one kernel for
    each bin that a band touches, in ONNX Runtime quicker than its own transforms; the kernels are
    looked up in a table of cosines when the graph is opened, so the file stays small.

    Args:
        front_end: of an audio model.

    Raises:
        ConfigError: it is another front end than a log-mel.
    """
    if not isinstance(front_end, AudioFrontEnd) or not isinstance(front_end.features, LogMel):
        name = "none" if front_end is None else repr(front_end.name)
        raise ConfigError(f"Only the front end 'log-mel' can be written as a graph; the model's is {name}")
    settings, samples = front_end.features, front_end.window_samples
    graph = _Nodes()
    features = _logarithm(graph, settings, _bands(graph, settings, samples))
    graph.node("Unsqueeze", features, graph.whole([1]), output="out_0")
    return graph.model(samples, settings.shape(samples))


class _Nodes:
    """Nodes and constants as they are added; each node gives the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def number(self, value: Any) -> str:
        return self._constant(np.asarray(value, dtype=np.float32))

    def whole(self, value: Any) -> str:
        return self._constant(np.asarray(value, dtype=np.int64))

    def place(self, value: Any) -> str:
        return self._constant(np.asarray(value, dtype=np.int32))

    def _constant(self, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def model(self, samples: int, shape: tuple[int, ...]) -> bytes:
        import onnx
        from onnx import TensorProto, helper

        given = helper.make_tensor_value_info("in_0", TensorProto.FLOAT, ["batch", samples])
        found = helper.make_tensor_value_info("out_0", TensorProto.FLOAT, ["batch", 1, *shape])
        graph = helper.make_graph(self.nodes, "front end", [given], [found], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString()
        return data


def _bands(graph: _Nodes, s: LogMel, samples: int) -> str:
    """Band powers or magnitudes, ``(batch, time, mel)``."""
    x = "in_0"
    if s.pre_emphasis is not None:
        later = graph.node("Slice", x, graph.whole([1]), graph.whole([samples]), graph.whole([1]))
        earlier = graph.node("Slice", x, graph.whole([0]), graph.whole([samples - 1]), graph.whole([1]))
        x = graph.node("Sub", later, graph.node("Mul", earlier, graph.number(s.pre_emphasis)))
    if s.center:
        half = s.n_fft // 2
        x = graph.node("Pad", x, graph.whole([0, half, 0, half]), mode=s.pad_mode)
    window = hann_window(s.win_length or s.n_fft, symmetric=s.symmetric)
    length = len(window)
    first = 0 if not s.center and s.frames_of == "window" else (s.n_fft - length) // 2
    end = first + (s.frames(samples) - 1) * s.hop_length + length
    x = graph.node("Slice", x, graph.whole([first]), graph.whole([end]), graph.whole([1]))
    x = graph.node("Unsqueeze", x, graph.whole([1]))

    filters = mel_filters(s)
    touched = np.flatnonzero(filters.any(axis=0))
    touched = np.arange(touched[0], touched[-1] + 1)
    parts = [
        graph.node("Conv", x, kernels, strides=[s.hop_length])
        for kernels in _kernels(graph, s.n_fft, touched, window)
    ]
    squares = [graph.node("Mul", part, part) for part in parts]
    power = graph.node("Add", *squares)
    if s.power == 1:
        power = graph.node("Sqrt", power)
    mel = graph.node("MatMul", _sparse(graph, filters[:, touched]), power)
    return graph.node("Transpose", mel, perm=[0, 2, 1])


def _kernels(graph: _Nodes, n_fft: int, bins: NDArray[Any], window: NDArray[Any]) -> list[str]:
    """The windowed cosines and sines of some bins, ``(bin, 1, time)`` each; constants, so computed once."""
    # As numbers of 32 bits, of which the largest product is far from full.
    products = graph.node("Mul", graph.place(bins[:, None, None]), graph.place(np.arange(len(window))))
    rest, weights = graph.node("Mod", products, graph.place(n_fft)), graph.number(window)
    angles = 2 * np.pi * np.arange(n_fft) / n_fft
    tables = [graph.number(part(angles)) for part in (np.cos, np.sin)]
    return [graph.node("Mul", graph.node("Gather", table, rest), weights) for table in tables]


def _sparse(graph: _Nodes, matrix: NDArray[Any]) -> str:
    """A matrix that is mostly zero: a bin lies in two bands at most."""
    places = np.flatnonzero(matrix)
    rows, columns = matrix.shape
    zeros = graph.node("Mul", graph.number(np.zeros((rows, 1))), graph.number(np.zeros((1, columns))))
    zeros = graph.node("Reshape", zeros, graph.whole([-1]))
    flat = graph.node("ScatterElements", zeros, graph.place(places), graph.number(matrix.flat[places]))
    return graph.node("Reshape", flat, graph.whole(matrix.shape))


def _logarithm(graph: _Nodes, s: LogMel, mel: str) -> str:
    if s.log == "ln":
        mel = graph.node("Log", graph.node("Add", mel, graph.number(s.offset)))
    else:
        mel = graph.node("Log", graph.node("Max", mel, graph.number(s.amin ** (s.power / 2))))
        if s.log == "db":
            mel = graph.node("Mul", mel, graph.number(20 / s.power / np.log(10)))
            if s.ref == "max":
                mel = graph.node("Sub", mel, _largest(graph, mel))
            if s.top_db is not None:
                least = graph.node("Sub", _largest(graph, mel), graph.number(s.top_db))
                mel = graph.node("Max", mel, least)
    if s.frame_peak:
        peak = graph.node("ReduceMax", graph.node("Abs", mel), graph.whole([2]), keepdims=1)
        some = graph.node("Greater", peak, graph.number(0.0))
        mel = graph.node("Div", mel, graph.node("Where", some, peak, graph.number(1.0)))
    if s.mean is not None:
        mel = graph.node("Div", graph.node("Sub", mel, graph.number(s.mean)), graph.number(s.std))
    return mel


def _largest(graph: _Nodes, mel: str) -> str:
    return graph.node("ReduceMax", mel, graph.whole([1, 2]), keepdims=1)
