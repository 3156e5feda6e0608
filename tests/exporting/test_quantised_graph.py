"""One graph in int8: a quarter of the bytes, nearly the same numbers, and ONNX Runtime's quick kernels."""

import logging
from collections import Counter

import numpy as np
import onnxruntime
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from sentio.core.errors import ConfigError  # noqa: E402
from sentio.exporting.quantised_graph import float_weights, quantise_graph, weight_bytes  # noqa: E402

WIDTH, CLASSES = 64, 5


def value(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])


def model_of(nodes, inputs, outputs, weights) -> bytes:
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def network() -> bytes:
    """Two convolutions with biases, a mean, and a linear layer to logits."""
    random = np.random.default_rng(0)

    def weight(*shape):
        scale = random.uniform(0.2, 2.0, (shape[0], *[1] * (len(shape) - 1)))  # channels of their own range
        return (scale * random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {
        "w1": weight(WIDTH, 8, 3, 3),
        "b1": weight(WIDTH, 1)[:, 0],
        "w2": weight(WIDTH, WIDTH, 3, 3),
        "b2": weight(WIDTH, 1)[:, 0],
        "w3": weight(CLASSES, WIDTH),
        "b3": weight(CLASSES, 1)[:, 0],
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["in_0", "w1", "b1"], ["c1"], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("ReduceMean", ["r2", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "w3", "b3"], ["out_0"], transB=1),
    ]
    return model_of(nodes, [value("in_0", 8, 12, 12)], [value("out_0", CLASSES)], weights)


@pytest.fixture(scope="module")
def graph():
    return network()


@pytest.fixture(scope="module")
def batches():
    random = np.random.default_rng(1)
    return [{"in_0": random.standard_normal((4, 8, 12, 12)).astype(np.float32)} for _ in range(3)]


@pytest.fixture(scope="module")
def int8(graph, batches):
    return quantise_graph(graph, batches, answers=True)


def run(graph, batch):
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, batch)[0]


def stored(graph):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(graph).graph.initializer}


def test_weights_take_a_quarter_of_their_bytes(graph, int8):
    weights = 8 * 9 * WIDTH + 9 * WIDTH**2 + CLASSES * WIDTH
    assert weight_bytes(graph) == 4 * (weights + 2 * WIDTH + CLASSES) + 16
    # Each channel of a convolution has a scale in float16 and a bias in int32; the few of the linear layer a
    # scale in float32, a zero point and a bias. Three activations have a scale and a zero point.
    assert weight_bytes(int8) == weights + 2 * WIDTH * (2 + 4) + CLASSES * (4 + 1 + 4) + 4 * (4 + 1) + 16
    assert weight_bytes(int8) < 0.27 * weight_bytes(graph)
    assert len(int8) < 0.3 * len(graph)
    assert float_weights(graph) == ["Conv", "Conv", "Gemm"]
    assert float_weights(int8) == []


def test_the_answers_are_nearly_the_same(graph, int8, batches):
    for batch in (*batches, {"in_0": batches[0]["in_0"][:1]}):
        ours, theirs = run(graph, batch), run(int8, batch)
        assert ours.shape == theirs.shape
        assert 0 < np.abs(ours - theirs).max() < 0.03 * np.abs(ours).max()


def test_weights_are_rounded_so_that_the_sums_of_kernels_are_kept(graph, int8):
    """Scales are rounded up to float16, so no weight is clipped."""
    floats, found = stored(graph), stored(int8)
    for name in ("w1", "w2"):
        (whole,) = [
            array for array in found.values() if array.dtype == np.int8 and array.shape == floats[name].shape
        ]
        largest = np.abs(floats[name]).reshape(WIDTH, -1).max(axis=1) / 127
        (scale,) = [
            array.astype(np.float64)
            for array in found.values()
            if array.dtype == np.float16 and np.allclose(array, largest, rtol=2e-3)
        ]
        assert (scale >= largest * (1 - 1e-6)).all()
        wide = scale[:, None, None, None]
        error = whole - floats[name] / wide
        assert np.abs(error).max() < 1
        # Errors of one sign in a kernel would add up on a smooth input, and so would those of all kernels.
        assert np.abs(error.sum(axis=(2, 3))).max() < 1
        assert np.abs(error.sum(axis=(1, 2, 3))).max() <= 0.5 + 1e-6
        alone = np.rint(floats[name] / wide) - floats[name] / wide
        assert np.abs(alone.sum(axis=(1, 2, 3))).max() > 2
        assert np.abs(error).mean() < 1.25 * np.abs(alone).mean()


def test_onnx_runtime_joins_the_layers_with_their_roundings(int8, tmp_path):
    """Also without the zero points and scales that are not stored."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(int8, options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["QLinearConv"] == 2 and kinds["QGemm"] == 1
    assert not {"Conv", "Gemm", "Cast"} & kinds.keys()


def test_logits_are_not_rounded_unless_they_are_no_answers(graph, int8, batches):
    assert onnx.load_from_string(int8).graph.node[-1].op_type == "Gemm"
    rounded = quantise_graph(graph, batches)
    assert onnx.load_from_string(rounded).graph.node[-1].op_type == "DequantizeLinear"
    assert len(np.unique(run(rounded, batches[0]))) < len(np.unique(run(int8, batches[0])))


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_ranges_are_found_in_three_ways(graph, batches, method, capfd):
    found = quantise_graph(graph, batches, method=method, answers=True)
    ours, theirs = run(graph, batches[0]), run(found, batches[0])
    assert np.abs(ours - theirs).max() < 0.1 * np.abs(ours).max()
    assert capfd.readouterr() == ("", "")


def test_minmax_takes_all_that_was_seen(graph, int8, batches):
    nodes = onnx.load_from_string(int8).graph.node
    (first,) = [node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] == "in_0"]
    seen = np.concatenate([batch["in_0"] for batch in batches])
    assert stored(int8)[first.input[1]] == pytest.approx((seen.max() - seen.min()) / 255, rel=1e-5)


def test_symmetric_activations_and_weights_of_seven_bits(graph, batches):
    found = quantise_graph(graph, batches, symmetric=True, reduce_range=True)
    given = [a for a in stored(found).values() if a.ndim == 0 and a.dtype.kind in "iu"]
    assert {array.dtype for array in given} == {np.dtype(np.int8)} and not any(given)
    weights = [array for array in stored(found).values() if array.dtype == np.int8 and array.ndim > 1]
    assert len(weights) == 3
    assert max(np.abs(array.astype(int)).max() for array in weights) == 64


def test_layers_that_are_named_stay_in_float(graph, batches):
    found = quantise_graph(graph, batches, float_layers=["Gemm"])
    assert float_weights(found) == ["Gemm"]
    np.testing.assert_array_equal(
        next(a for a in stored(found).values() if a.shape == (CLASSES, WIDTH)), stored(graph)["w3"]
    )


def test_a_recurrent_layer_stays_as_it_is():
    """ONNX Runtime's static quantisation knows no GRU; `quantise_row` says so."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.standard_normal((1, 48, 8)).astype(np.float32),
        "r": random.standard_normal((1, 48, 16)).astype(np.float32),
        "order": np.array([1, 0, 2]),
    }
    nodes = [
        helper.make_node("Transpose", ["in_0"], ["t"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["t", "w", "r"], ["", "out_0"], hidden_size=16),
    ]
    graph = model_of(
        nodes,
        [value("in_0", 6, 8)],
        [helper.make_tensor_value_info("out_0", TensorProto.FLOAT, [1, "batch", 16])],
        weights,
    )
    batch = {"in_0": random.standard_normal((2, 6, 8)).astype(np.float32)}
    found = quantise_graph(graph, [batch])
    assert float_weights(found) == ["GRU"]
    np.testing.assert_array_equal(
        stored(graph)["w"], next(a for a in stored(found).values() if a.shape == (1, 48, 8))
    )


def test_a_failure_is_its_reason_alone(graph, batches, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("the very reason\nand more")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", fail)
    handlers = list(logging.root.handlers)
    with pytest.raises(ConfigError, match=r"^the very reason$"):
        quantise_graph(graph, batches)
    assert logging.root.handlers == handlers and logging.root.manager.disable == 0
