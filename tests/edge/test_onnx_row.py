import hashlib
import json
import os

import numpy as np
import pytest

from sentio.core.errors import ArtifactError
from sentio.core.loading import load
from sentio.core.policy import Confidence, Fixed
from sentio.edge.graph_check import examine

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402


def put(folder, name, data):
    """Replace a file and make the manifest agree."""
    (folder / name).write_bytes(data)
    file = folder / "sentio.json"
    values = json.loads(file.read_text())
    values["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    file.write_text(json.dumps(values))


def tensor(external=None):
    if external is None:
        return helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
    found = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    found.external_data.add(key="location", value=external)
    return found


def scaling(weight, *, place="initializer", shape=("batch", 1, 8, 8), operator="Mul", inputs=1):
    """A graph that multiplies by a tensor, which is kept in one of several places."""
    value = helper.make_tensor_value_info
    takes = [value(f"in_{i}", TensorProto.FLOAT, shape) for i in range(inputs)]
    gives = [value("out_0", TensorProto.FLOAT, shape)]
    node = helper.make_node(operator, ["in_0", "w"], ["out_0"])
    if place == "initializer":
        graph = helper.make_graph([node], "g", takes, gives, [weight])
    elif place == "constant":
        graph = helper.make_graph(
            [helper.make_node("Constant", [], ["w"], value=weight), node], "g", takes, gives
        )
    else:
        inner = helper.make_graph(
            [helper.make_node("Identity", ["w"], ["y"])], "i", [], [value("y", 1, [1])], [weight]
        )
        branch = helper.make_node("If", ["yes"], ["w"], then_branch=inner, else_branch=inner)
        yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
        graph = helper.make_graph([branch, node], "g", takes, gives, [yes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


def test_the_row_of_an_artifact(artifact):
    row = load(artifact, runtime="edge", threads=1).row
    assert (row.runtime, row.stage_names) == ("edge", ("a", "b", "head"))
    assert row.exit_names == ("e1", "e2", "final")
    assert [(p.name, p.after, p.reads) for p in row.exit_points] == [
        ("e1", "a", (("a", "main"),)),
        ("e2", "b", (("a", "skip"), ("b", "main"))),
        ("final", "head", (("head", "main"),)),
    ]
    assert row.input_shapes == {"main": (1, 8, 8)}


def test_exits_that_are_off_are_passed(artifact, tamper, small):
    expected = load(artifact, runtime="edge").answer(small.features(4), policy=Fixed("final")).outputs
    tamper(artifact, lambda values: values["exits"][0].update(on=False))
    model = load(artifact, runtime="edge")
    assert model.exit_names == ("e2", "final")
    found = model.answer(small.features(4), policy=Confidence({"e1": 0.0, "e2": 1.0}))
    np.testing.assert_array_equal(found.outputs, expected)


def test_samples_that_leave_change_nothing_for_the_others(artifact, small):
    model = load(artifact, runtime="edge")
    x = small.features(11)
    mixed = model.answer(x)
    assert len(set(mixed.exit_names())) == 3
    for row, name in enumerate(mixed.exit_names()):
        alone = model.answer(x[row : row + 1], policy=Fixed(name))
        np.testing.assert_allclose(mixed.outputs[row], alone.outputs[0], atol=1e-6)


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\x08\x07" * 50, bytes(100), b"\xff" * 64])
def test_a_file_that_is_no_graph(artifact, capfd, data):
    put(artifact, "stages/02-b.onnx", data)
    with pytest.raises(
        ArtifactError, match=r"'stages/02-b.onnx' is (not a usable ONNX graph|damaged)"
    ) as caught:
        load(artifact, runtime="edge")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_graphs_whose_bytes_were_swapped(artifact):
    one, other = artifact / "stages/00-a.onnx", artifact / "stages/02-b.onnx"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    with pytest.raises(ArtifactError, match=r"'stages/0.-.\.onnx' (is larger than it can be|does not match)"):
        load(artifact, runtime="edge")


@pytest.mark.parametrize(
    ("one", "other"),
    [("stage:a", "stage:b"), ("stage:b", "stage:head"), ("exit:e1", "stage:head"), ("exit:e1", "exit:e2")],
)
def test_graphs_that_were_swapped_in_the_manifest(artifact, tamper, one, other):
    def swap(values):
        first, second = values["graphs"][one], values["graphs"][other]
        first["file"], second["file"] = second["file"], first["file"]

    tamper(artifact, swap)
    with pytest.raises(ArtifactError, match=r"is damaged: .*; copy or export it again"):
        load(artifact, runtime="edge")


def test_a_graph_for_another_shape_is_named(artifact):
    put(artifact, "stages/01-exit-e1.onnx", scaling(tensor(), shape=("batch", 4, 5, 5)))
    with pytest.raises(
        ArtifactError,
        match=r"'stages/01-exit-e1.onnx' takes shape \(batch, 4, 5, 5\) where it is given \(batch, 4, 6, 6\)",
    ):
        load(artifact, runtime="edge")


def test_a_graph_with_other_inputs_is_named(artifact):
    put(artifact, "stages/01-exit-e1.onnx", scaling(tensor(), inputs=2))
    with pytest.raises(
        ArtifactError, match="takes in_0, in_1 and gives out_0, where in_0 and out_0 are expected"
    ):
        load(artifact, runtime="edge")


def test_a_graph_that_fails_when_it_runs(artifact, small, capfd):
    # shapes that are left open are only found out by running
    data = scaling(tensor(), shape=("batch", "c", "t", "f"), operator="MatMul")
    put(artifact, "stages/01-exit-e1.onnx", data)
    model = load(artifact, runtime="edge")
    with pytest.raises(ArtifactError, match=r"'stages/01-exit-e1.onnx' cannot be run: ") as caught:
        model.answer(small.features(2))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


OUTSIDE = "keeps tensors in other files, which a Sentio artifact does not do"


@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph"])
def test_tensors_in_other_files_are_refused(artifact, tmp_path, monkeypatch, place):
    np.array([2.0], dtype=np.float32).tofile(tmp_path / "secret.bin")
    np.array([2.0], dtype=np.float32).tofile(artifact / "stages" / "secret.bin")
    monkeypatch.chdir(tmp_path)
    for location in ("secret.bin", "../secret.bin", os.fspath(tmp_path / "secret.bin"), "stages/secret.bin"):
        put(artifact, "stages/00-a.onnx", scaling(tensor(location), place=place))
        with pytest.raises(ArtifactError, match=r"is refused: 'stages/00-a.onnx' (keeps|holds a graph)"):
            load(artifact, runtime="edge")


@pytest.mark.parametrize(
    ("place", "sound", "odd"),
    [
        ("initializer", None, OUTSIDE),
        ("constant", None, OUTSIDE),
        ("subgraph", "holds a graph inside its graph, so how long it runs cannot be known", None),
    ],
)
def test_external_data_is_found_wherever_it_is(place, sound, odd):
    assert examine(scaling(tensor(), place=place)).refusal == sound
    assert examine(scaling(tensor("x"), place=place)).refusal in (sound, odd)
    assert examine(scaling(tensor("x"), place=place)).refusal is not None


def test_external_data_in_sparse_tensors_and_attributes():
    inside = tensor("x")
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.graph.node.append(helper.make_node("Custom", [], ["y"], several=[tensor(), inside]))
    assert examine(model.SerializeToString()).refusal == OUTSIDE
    model = helper.make_model(helper.make_graph([], "g", [], []))
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor())
    sparse.indices.CopyFrom(inside)
    assert "holds a sparse tensor" in examine(model.SerializeToString()).refusal


def test_functions_and_graphs_for_training_are_refused():
    model = helper.make_model(helper.make_graph([], "g", [], []))
    node = helper.make_node("Custom", [], ["y"], several=[tensor("x")])
    model.functions.append(helper.make_function("d", "f", [], ["y"], [node], [helper.make_opsetid("", 18)]))
    assert "holds a function" in examine(model.SerializeToString()).refusal
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.training_info.add().initialization.initializer.append(tensor("x"))
    assert "holds a training" in examine(model.SerializeToString()).refusal


def test_words_that_look_like_external_data_are_not(artifact):
    found = onnx.load_from_string(scaling(tensor()))
    found.doc_string = found.graph.node[0].name = "\x0a\x08location\x12\x05x.bin"
    assert examine(found.SerializeToString()).refusal is None
    for file in (artifact / "stages").iterdir():
        assert examine(file.read_bytes()).refusal is None


def test_exporting_external_data_is_seen_as_onnx_writes_it(tmp_path):
    found = onnx.load_from_string(scaling(onnx.numpy_helper.from_array(np.ones(4096, np.float32), "w")))
    onnx.save(
        found, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, convert_attribute=True
    )
    assert examine((tmp_path / "m.onnx").read_bytes()).refusal == OUTSIDE


@pytest.mark.parametrize("data", [b"\x08", b"\x0a\xff\x01", b"\x0b", b"\x80" * 20])
def test_bytes_that_are_no_protobuf(data):
    with pytest.raises(ValueError, match="protobuf"):
        examine(data)
