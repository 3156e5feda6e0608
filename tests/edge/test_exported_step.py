"""A step in a file, run in ONNX Runtime: PyTorch's answers, any streams, and refusals of what is no step."""

import numpy as np
import pytest
import torch
from torch import nn

import sentio
from sentio import edge
from sentio.core.errors import ArtifactError, ConfigError, InputError
from sentio.core.onnx_exporter import to_program
from sentio.streaming.step_graph import export_step

torch.set_num_threads(1)
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def stream():
    """Padding behind a bias, a stride, a maximum that begins at minus infinity and a window of means."""
    torch.manual_seed(0)
    net = sentio.create_network("tiny-cnn", classes=3, width=4).eval()
    layers = [net.stage("block1"), nn.MaxPool2d(3, 2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers.append(nn.Linear(4, 3))
    return sentio.stream(nn.Sequential(*layers), window=24, example=torch.zeros(1, 1, 24, 8))


@pytest.fixture(scope="module")
def file(stream, tmp_path_factory):
    return export_step(stream, tmp_path_factory.mktemp("step") / "step.onnx")


@pytest.fixture
def step(file):
    return edge.ExportedStep(file, threads=1)


def chunks(count, batch=1, seed=0):
    return np.random.default_rng(seed).standard_normal((count, batch, 1, 4, 8)).astype(np.float32)


def test_it_steps_as_pytorch_does(step, stream):
    assert (step.hop, step.axis, step.warm_up, step.shape) == (4, 2, stream.warm_up, (1, 4, 8))
    ours, theirs = None, None
    for x in chunks(stream.warm_up + 4, batch=3):
        before = None if ours is None else {name: value.copy() for name, value in ours.items()}
        output, valid, after = step.step(x, ours)
        expected = stream.step(torch.from_numpy(x), theirs)
        assert valid.tolist() == expected.valid.tolist()
        if valid.all():
            np.testing.assert_allclose(output, expected.output.numpy(), rtol=0, atol=1e-5)
        if before is not None:
            assert all((ours[name] == value).all() for name, value in before.items())
        ours, theirs = after, expected.state
    assert valid.all()


@pytest.mark.parametrize("batch", [1, 2])
def test_in_place_the_answers_are_the_same(step, batch):
    given, state = chunks(step.warm_up + 5, batch=batch), None
    own = step.in_place(batch)
    kept = []
    for x in given:
        result = step.step(x, state)
        state = result.state
        kept.append((own.step(x), result))
    # Outputs are the caller's: later steps do not write over them.
    for (output, valid), result in kept:
        assert valid.tolist() == result.valid.tolist()
        np.testing.assert_array_equal(output[valid], result.output[valid])
    for name, value in own.state.items():
        np.testing.assert_array_equal(value, state[name])


def test_in_place_it_goes_on_from_a_state_and_leaves_that_alone(step, tmp_path):
    given, state = chunks(step.warm_up + 4), None
    for x in given[:3]:
        state = step.step(x, state).state
    edge.save_state(tmp_path / "state.npz", state)
    kept = edge.load_state(tmp_path / "state.npz")
    own = step.in_place(state=kept)
    for x in given[3:]:
        output, _ = own.step(x)
        result = step.step(x, state)
        state = result.state
    np.testing.assert_array_equal(output, result.output)
    assert kept["steps"].tolist() == [3]
    # What it gives as its state steps on elsewhere.
    np.testing.assert_array_equal(step.step(given[0], own.state).output, own.step(given[0])[0])


def test_a_step_in_half_precision(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU()).half().eval()
    example = torch.zeros(1, 2, 8, dtype=torch.float16)
    stream = sentio.stream(net, example=example)
    step = edge.ExportedStep(export_step(stream, tmp_path / "half.onnx", like=example[:, :, :1]))
    own, state = step.in_place(), None
    for x in torch.randn(4, 1, 2, 1).half():
        output, valid, state = step.step(x.numpy(), state)
        np.testing.assert_array_equal(own.step(x.numpy())[0], output)
    assert output.dtype == np.float16 and valid.all()


def test_streams_that_come_and_go_take_it(step):
    given = chunks(step.warm_up + 6)[:, 0]
    alone = edge.SingleStream(step)
    expected = [answer.output for x in given for answer in alone.push(x)]
    batch = edge.StreamBatch(step)
    batch.join("early")
    found = []
    for index, x in enumerate(given):
        if index == 2:
            batch.join("late")
            batch.push("late", given[0])
        batch.push("early", x)
        found.append(batch.run()["early"].output)
    assert isinstance(found[0], edge.Warming)
    for mine, other in zip(found, expected, strict=True):
        if isinstance(other, edge.Warming):
            assert mine == other
        else:
            np.testing.assert_allclose(mine, other, rtol=1e-6)
    assert isinstance(found[0], edge.Warming)
    assert not isinstance(found[-1], edge.Warming)


def test_bad_units_and_states_are_said_and_lose_nothing(step):
    x = chunks(1)[0]
    state = step.step(x).state
    own = step.in_place(2)
    for give in (step.step, own.step):
        with pytest.raises(InputError, match=r"takes 4 units of each stream.*\(2, 1, 3, 8\)"):
            give(np.zeros((2, 1, 3, 8), np.float32))
        with pytest.raises(InputError, match="NaN or infinite"):
            give(np.full((2, 1, 4, 8), np.nan, np.float32))
        with pytest.raises(InputError, match="takes numbers"):
            give(np.full((2, 1, 4, 8), "a"))
    with pytest.raises(InputError, match="There are 2 streams here; got units of 1"):
        own.step(x)
    assert own.state["steps"].tolist() == [0, 0]
    for give in (step.step, own.step):
        with pytest.raises(InputError, match="an array of units, got what makes none"):
            give([[1.0], [1.0, 2.0]])
    with pytest.raises(InputError, match="A state is a dict of arrays, as a step gives it, got Stepped"):
        step.step(x, step.step(x))
    with pytest.raises(InputError, match="A state is a dict of arrays, as a step gives it, got Stepped"):
        step.in_place(state=step.step(x))
    with pytest.raises(InputError, match="At least one stream can be stepped, not 0"):
        step.in_place(0)
    with pytest.raises(InputError, match="lacks 'steps'"):
        step.step(x, {name: value for name, value in state.items() if name != "steps"})
    with pytest.raises(InputError, match="holds 'more'"):
        step.in_place(state={**state, "more": state["steps"]})
    with pytest.raises(InputError, match=r"has shape \(1, 1, 1, 8\), and \(2, 1, 1, 8\) is needed"):
        step.step(np.repeat(x, 2, 0), state)
    with pytest.raises(InputError, match="'steps' is int32, not int64"):
        step.step(x, {**state, "steps": state["steps"].astype(np.int32)})


def test_what_is_no_step_is_refused(file, tmp_path):
    def write(change):
        model = onnx.load(file)
        change(model)
        (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
        return tmp_path / "changed.onnx"

    def said(text):
        def change(model):
            model.metadata_props[0].value = text

        return change

    def other_hop(model):
        model.metadata_props[0].value = model.metadata_props[0].value.replace('"hop": 4', '"hop": 2')

    def outside(model):
        weight = model.graph.initializer[0]
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="/etc/passwd")

    with pytest.raises(ArtifactError, match=r"none\.onnx' cannot be read: No such file"):
        edge.ExportedStep(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ArtifactError, match=r"text\.onnx' is not a usable ONNX graph"):
        edge.ExportedStep(tmp_path / "text.onnx")
    whole = file.read_bytes()
    for name in (b"sentio.stream", b"output", b"state.steps"):
        (tmp_path / "names.onnx").write_bytes(whole.replace(name, b"\xff" + name[1:]))
        with pytest.raises(ArtifactError, match=r"names\.onnx' is not a usable ONNX graph"):
            edge.ExportedStep(tmp_path / "names.onnx")
    net = nn.Linear(2, 2).eval()
    to_program(net, {"x": torch.zeros(1, 2)}, ["y"], dynamic_shapes=None).save(str(tmp_path / "net.onnx"))
    with pytest.raises(ArtifactError, match=r"'sentio\.stream' in its metadata, so it is no step"):
        edge.ExportedStep(tmp_path / "net.onnx")
    no_number = '{"hop": 4, "axis": 2, "warm_up": 1, "begins_with": {"steps": "a"}}'
    endless = no_number.replace('"a"', "0").replace("4", "Infinity", 1)
    for text in ("{", "[]", '{"hop": 4}', no_number, endless, "[" * 100_000):
        with pytest.raises(ArtifactError, match="metadata that cannot be read"):
            edge.ExportedStep(write(said(text)))
    for old, new in (('"hop": 4', '"hop": 0'), ('"steps": 0', '"steps": "-inf"')):
        text = no_number.replace('"a"', "0").replace(old, new)
        with pytest.raises(ArtifactError, match="say nothing of use"):
            edge.ExportedStep(write(said(text)))
    with pytest.raises(ArtifactError, match="not take and give what its metadata say; export it again"):
        edge.ExportedStep(write(other_hop))
    with pytest.raises(ArtifactError, match="is refused: it keeps"):
        edge.ExportedStep(write(outside))
    with pytest.raises(ConfigError, match="at least one thread"):
        edge.ExportedStep(file, threads=0)
    with pytest.raises(ConfigError, match="no execution provider 'warp'"):
        edge.ExportedStep(file, provider="warp")
