"""Weights stored as float16: half the bytes, the same answers in both runtimes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
from safetensors.torch import load as load_tensors  # noqa: E402

from sentio.core.artifact import ArtifactFiles  # noqa: E402
from sentio.core.confidence import softmax  # noqa: E402
from sentio.core.errors import ArtifactError, ConfigError  # noqa: E402
from sentio.core.loading import load  # noqa: E402
from sentio.core.model import Model  # noqa: E402
from sentio.core.multi_exit import MultiExit  # noqa: E402
from sentio.core.staged import create_network  # noqa: E402
from sentio.core.torch_artifact import rounded, save  # noqa: E402
from sentio.core.torch_row import TorchRow  # noqa: E402
from sentio.exporting.half_precision import store_as_float16  # noqa: E402
from sentio.exporting.onnx import export  # noqa: E402
from sentio.tasks.classification import Classification  # noqa: E402
from sentio.techniques.batch_norm_folding import fold_batch_norm  # noqa: E402


def network():
    """Batch norm is folded: the exporter would fold it too, into weights that float16 does not hold."""
    torch.manual_seed(0)
    return MultiExit(fold_batch_norm(create_network("tiny-cnn", classes=4, width=16).eval()))


@pytest.fixture(scope="module")
def folded():
    return Model(TorchRow(network()), Classification(list("abcd")), name="half")


@pytest.fixture(scope="module")
def box(folded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    return export(folded, folder / "half", dtype="float16"), export(folded, folder / "whole")


def largest(first, second, x):
    ours, theirs = first.outputs(x), second.outputs(x)
    return max(np.abs(softmax(ours[name]) - softmax(theirs[name])).max() for name in ours)


@pytest.fixture(scope="module")
def x(folded):
    return folded.network.backbone.example(5).numpy()


def test_the_bytes_of_sp4asc_folded(tmp_path):
    """62,474 parameters, 124,948 bytes: below the 128 KiB of DCASE 2021 Task 1A."""
    torch.manual_seed(0)
    net = fold_batch_norm(create_network("sp4asc").eval())
    assert sum(p.numel() for p in net.parameters()) == 62_474
    model = Model(TorchRow(net), Classification([str(i) for i in range(10)]))
    path = save(model, tmp_path / "half", dtype="float16")
    stored = load_tensors(ArtifactFiles(path).read("weights.safetensors"))
    assert sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) == 124_948
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    again = load(path, network=MultiExit(fold_batch_norm(create_network("sp4asc").eval())))
    assert {p.dtype for p in again.network.parameters()} == {torch.float32}
    features = np.random.default_rng(0).standard_normal((2, 1, 40, 256)).astype(np.float32)
    model.network.backbone.input_shapes = again.network.backbone.input_shapes = {"main": (1, 40, 256)}
    found, plain = again.outputs(features)["final"], model.outputs(features)["final"]
    # The sheet's 2.5e-3 in probability is of released checkpoints; untrained logits are in the thirties.
    assert np.abs(found - plain).max() < 2e-3 * np.abs(plain).max()
    np.testing.assert_array_equal(found.argmax(1), plain.argmax(1))


def test_both_runtimes_give_the_same_answers(box, folded, x):
    half = box[0]
    ours = load(half.path, runtime="torch", network=network())
    theirs = load(half.path, runtime="edge")
    assert largest(ours, theirs, x) < 1e-5
    assert largest(ours, rounded(folded), x) == 0.0
    assert 0 < largest(ours, folded, x) < 2e-3
    assert half.difference < 1e-4
    assert 0 < half.rounding < 2e-3
    assert box[1].rounding is None


def test_the_artifact_is_about_half_as_large(box):
    sizes = []
    for exported in box:
        files = ArtifactFiles(exported.path)
        sizes.append([len(files.read("weights.safetensors")), max(exported.bytes.values())])
    assert sizes[0][0] < 0.6 * sizes[1][0]
    assert sizes[0][1] < 0.6 * sizes[1][1]


def test_graphs_are_valid_and_compute_in_float32(box):
    for path in (box[0].path / "stages").iterdir():
        graph = onnx.load(path)
        onnx.checker.check_model(graph, full_check=True)
        kinds = {value.type.tensor_type.elem_type for value in [*graph.graph.input, *graph.graph.output]}
        assert kinds == {onnx.TensorProto.FLOAT}
        halves = [t.name for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
        casts = [node.input[0] for node in graph.graph.node if node.op_type == "Cast"]
        assert set(halves) <= set(casts)


def test_what_float16_does_not_hold_exactly_stays_float32():
    exact, other = np.arange(100, dtype=np.float32), np.full(100, 0.1, np.float32)
    large = np.full(100, 1e6, np.float32)
    values = {"exact": exact, "other": other, "large": large, "few": exact[:3]}
    nodes = [onnx.helper.make_node("Identity", [name], [f"{name}_out"]) for name in values]
    outputs = [
        onnx.helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, array.shape)
        for name, array in values.items()
    ]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in values.items()]
    graph = onnx.helper.make_graph(nodes, "g", [], outputs, stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    found = onnx.load_from_string(store_as_float16(model.SerializeToString()))
    halves = [t.name for t in found.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert halves == ["exact.float16"]
    import onnxruntime

    session = onnxruntime.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
    for array, value in zip(values.values(), session.run(None, {}), strict=True):
        np.testing.assert_array_equal(value, array)


def test_the_manifest_says_so_and_older_versions_are_told(box, tmp_path):
    values = [json.loads((exported.path / "sentio.json").read_text()) for exported in box]
    # Both say what shapes their graphs give, which no older version knows.
    assert [each["version"] for each in values] == [4, 4]
    assert [each["storage"] for each in values] == ["float16", "float32"]
    assert load(box[1].path).runtime == "edge"
    damaged = shutil.copytree(box[0].path, tmp_path / "damaged")
    (damaged / "sentio.json").write_text(json.dumps({**values[0], "version": 1}))
    with pytest.raises(ArtifactError, match="version 1 does not know weights stored as float16"):
        load(damaged)


def test_running_statistics_stay_as_they_are(small, tmp_path):
    model = small.model()
    with torch.no_grad():
        model.network.backbone.stage("a").norm.running_var.fill_(1e-10)  # float16 would make it 0
    again = load(save(model, tmp_path / "half", dtype="float16"), runtime="torch").network
    assert torch.equal(again.backbone.stage("a").norm.running_var, torch.full((4,), 1e-10))


def test_a_weight_too_large_is_one_sentence(small, tmp_path):
    model = small.model()
    with torch.no_grad():
        model.network.backbone.stage("b").conv.weight[0, 0, 0, 0] = 7e4
    with pytest.raises(ConfigError, match=r"Parameter 'backbone.stages.b.conv.weight' reaches 70000, and"):
        save(model, tmp_path / "half", dtype="float16")
    with pytest.raises(ConfigError, match="stored as float32 or float16, got 'bfloat16'"):
        save(model, tmp_path / "half", dtype="bfloat16")
    assert not (tmp_path / "half").exists()


def test_the_model_that_is_rounded_stays_as_it_is(small):
    model = small.model()
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    twin = rounded(model)
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())
    weight = twin.network.backbone.stage("b").conv.weight
    assert torch.equal(weight, before["backbone.stages.b.conv.weight"].half().float())
