"""Streams on a box: what PyTorch's streams answer, from the same exits, for streams that come and go."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from sentio import edge
from sentio.core.confidence import softmax
from sentio.core.errors import ConfigError, InputError
from sentio.core.policy import Confidence, Ensemble, Fixed
from sentio.core.stepping import STEPS

onnx = pytest.importorskip("onnx")


class Scripted:
    """Leaves where a table says: (time, stream)."""

    measure = None

    def __init__(self, table):
        self.table, self.time = table, 0

    def evaluates(self, exit):
        return True

    def decide(self, confidence, prediction, exit, costs, elapsed, memory):
        return self.table[self.time, : len(prediction)], memory


# exported from PyTorch


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network with an exit in time, its artifact with steps and weights in half the bytes."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    torch.set_num_threads(1)
    from torch import nn

    import sentio
    from sentio.core.torch_row import TorchRow
    from sentio.tasks.classification import Classification

    def network():
        torch.manual_seed(0)
        first = [nn.Conv2d(1, 4, 3, stride=(2, 1), padding=1), nn.BatchNorm2d(4), nn.ReLU()]
        second = [nn.Conv2d(4, 4, (5, 3), padding=(2, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        stages = {"a": nn.Sequential(*first), "b": nn.Sequential(*second, nn.Linear(4, 3))}
        net = sentio.Staged(stages, input_shapes=(1, 16, 5))
        return sentio.add_exits(net, "pooled-linear", at=["a"], names=["e"], classes=3).eval()

    net = network()
    stream = sentio.stream(net)
    clip = torch.randn(3, 1, 40, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sure = (stream.clip(clip)["e"] / 0.05).softmax(-1).amax(-1)
    model = sentio.Model(
        TorchRow(net),
        Classification(["cat", "dog", "owl"]),
        policy=Confidence(float(sure.median())),
        temperatures={"e": 0.05, "final": 0.5},
        name="in time",
    )
    before = {key: value.clone() for key, value in net.state_dict().items()}
    written = sentio.export(model, tmp_path_factory.mktemp("stream") / "box", dtype="float16", stream=stream)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    again = sentio.load(written.path, runtime="torch", network=network())
    return written, again, sentio.stream(again.network)


def signal(stream, batch, steps, seed=1):
    shape = (batch, *stream.shape[:1], steps * stream.hop, *stream.shape[2:])
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def chunks(stream, x):
    return np.split(x, x.shape[stream.axis] // stream.hop, axis=stream.axis)


def test_a_box_steps_as_pytorch_does(exported):
    import torch

    written, model, theirs = exported
    assert set(written.bytes) == {"stage:a", "exit:e", "stage:b", "step:e", "step:final"}
    assert written.difference < 1e-4
    box = edge.load(written.path, threads=1)
    ours = box.stream()
    assert (ours.hop, ours.axis, ours.exit_names) == (theirs.hop, theirs.axis, theirs.exit_names)
    assert (ours.warm_up, ours.queues) == (theirs.warm_up, theirs.queues)
    assert ours.delay == {part.name: part.delay for part in theirs.parts}
    steps, batch = 30, 4
    policy = Scripted(np.random.default_rng(0).random((steps, batch)) < np.linspace(0.2, 0.95, batch))
    options = {"task": model.task, "temperatures": model.temperatures}
    state = there = None
    caught_up = 0
    for time, chunk in enumerate(chunks(ours, signal(ours, batch, steps))):
        policy.time = time
        found, want = (
            ours.step(chunk, state, policy),
            theirs.step(torch.from_numpy(chunk), there, policy, **options),
        )
        state, there = found.state, want.state
        assert isinstance(found.output, np.ndarray)
        for name in ("exit", "valid", "macs", "caught_up"):
            np.testing.assert_array_equal(getattr(found, name), getattr(want, name).numpy())
        np.testing.assert_allclose(found.output[found.valid], want.output.numpy()[found.valid], atol=1e-4)
        caught_up = max(caught_up, int(found.caught_up.max()))
        assert state.keys() == there.keys()
        for name, tensor in there.items():
            np.testing.assert_allclose(state[name], tensor.numpy(), atol=1e-4)
    assert found.valid.all()
    assert caught_up == sum(ours.queues.values()), "someone was away for longer than the queue"
    assert set(found.exit.tolist()) == {0, 1}


def test_the_models_own_policy_decides(exported):
    written, model, theirs = exported
    import torch

    box = edge.load(written.path, threads=1)
    state = there = None
    exits = set()
    options = {"task": model.task, "temperatures": model.temperatures}
    for chunk in chunks(theirs, signal(box.stream(), 3, 16)):
        found = box.step(chunk, state)
        want = theirs.step(torch.from_numpy(chunk), there, model.policy, **options)
        state, there = found.state, want.state
        assert found.exit.tolist() == want.exit.tolist()
        exits.update(found.exit[found.valid].tolist())
    assert exits == {0, 1}
    assert box.step(chunk, state, policy=Fixed("final")).exit.tolist() == [1, 1, 1]


def test_exits_of_a_step_answer_together_once_they_are_warm(exported):
    written, _, _ = exported
    box = edge.load(written.path, threads=1)
    steps = box.stream()
    early = together = last = None
    for time, chunk in enumerate(chunks(steps, signal(steps, 3, 16))):
        one, other, both = (
            steps.step(chunk, state, policy)
            for state, policy in ((early, Confidence(0.0)), (last, Fixed("final")), (together, Ensemble({})))
        )
        early, last, together = one.state, other.state, both.state
        mean = (softmax(one.output) + softmax(other.output)) / 2
        if both.exit.any():
            assert time >= steps.warm_up["final"] and both.exit.tolist() == [1, 1, 1]
            np.testing.assert_allclose(softmax(both.output), mean, atol=1e-6)
        elif both.valid.all():
            np.testing.assert_allclose(softmax(both.output), softmax(one.output), atol=1e-6)
    assert both.exit.all()


def test_pytorch_says_where_its_streams_are(exported):
    _, model, _ = exported
    with pytest.raises(ConfigError, match=r"runs in PyTorch, where sentio.stream\(model.network\) makes its"):
        model.step(np.zeros((1, 1, 2, 5)))


def test_a_stream_of_another_network_is_refused(exported, tmp_path):
    import copy

    import sentio

    _, model, theirs = exported
    other = copy.deepcopy(model.network)
    for stream in (sentio.stream(other), "stream"):
        with pytest.raises(ConfigError, match="not of the network of model 'in time'; make it with"):
            sentio.export(model, tmp_path / "box", stream=stream)
    assert theirs.net is model.network


# made by hand


@pytest.fixture(scope="module")
def ours(by_hand):
    return edge.load(by_hand, threads=1).stream(policy=Fixed("final"))


def test_each_step_answers_about_its_chunk_and_the_one_before(ours, graphs):
    x = signal(ours, 2, 6)
    weight = graphs.weights(2, graphs.BANDS, 3)
    answers = []
    state = None
    for chunk in chunks(ours, x):
        found = ours.step(chunk, state)
        state = found.state
        answers.append(found.output)
        assert found.macs.tolist() == [110, 110]
    mean = 2 * np.stack([chunk.mean((1, 2)) for chunk in chunks(ours, x)]) @ weight
    want = (mean[1:] + mean[:-1]) / 2.0  # the temperature of the last exit
    # The first step of the last part is still warming up, so the first exit answered.
    np.testing.assert_allclose(answers[1:], want, atol=1e-5)
    np.testing.assert_allclose(
        answers[0], x[:, :, :2].mean((1, 2)) @ graphs.weights(1, graphs.BANDS, 3), atol=1e-5
    )


def test_what_left_early_is_caught_up_or_with_hold_is_not(own_box, ours, tamper):
    def hold(values):
        stream = values["stream"]
        stream["catch_up"] = "hold"
        stream["parts"][1]["queue"] = 0
        stream["state"]["final.queue"]["shape"] = [1, 2, 8]

    tamper(own_box, hold)
    other = edge.load(own_box, threads=1).stream()
    states, results = [None, None], []
    for time, chunk in enumerate(chunks(ours, signal(ours, 1, 6))):
        policy = Fixed("final") if time in (0, 1, 5) else Fixed("e")
        results = [s.step(chunk, state, policy) for s, state in zip((ours, other), states, strict=True)]
        states = [result.state for result in results]
    assert [int(result.caught_up[0]) for result in results] == [2, 0]
    assert [int(result.macs[0]) for result in results] == [310, 110]
    whole = None
    for chunk in chunks(ours, signal(ours, 1, 6)):
        whole = ours.step(chunk, None if whole is None else whole.state)
    np.testing.assert_allclose(results[0].output, whole.output, atol=1e-6)
    assert not np.allclose(results[1].output, whole.output)


def test_a_step_does_not_change_the_state_it_is_given(ours):
    state = ours.step(signal(ours, 3, 1)).state
    before = {key: value.copy() for key, value in state.items()}
    ours.step(signal(ours, 3, 1, seed=2), state, Scripted(np.array([[True, False, True]])))
    for key, value in before.items():
        np.testing.assert_array_equal(state[key], value)


def test_streams_that_come_and_go_give_what_they_give_alone(ours):
    batch = edge.StreamBatch(ours)
    x = {name: signal(ours, 1, 9, seed=seed)[0] for seed, name in enumerate("abc")}
    together = {name: [] for name in x}
    away = None
    for time in range(9):
        if time == 0:
            batch.join("a")
            batch.join("b")
        if time == 3:
            batch.join("c")
            away = batch.leave("b")
        if time == 6:
            batch.join("b", away)
        for name in batch.names:
            done = len(together[name])
            batch.push(name, x[name][:, done * 2 : done * 2 + 2])
        for name, answer in batch.run().items():
            together[name].append(answer)
    assert [len(together[name]) for name in "abc"] == [9, 6, 6]
    for name, answers in together.items():
        alone = edge.SingleStream(ours).push(x[name][:, : 2 * len(answers)])
        for one, other in zip(answers, alone, strict=True):
            assert one.exit == other.exit
            np.testing.assert_allclose(one.output, other.output, atol=1e-6)


def test_before_the_first_answer_it_says_how_long(own_box, tamper):
    def late(values):
        for part, steps in zip(values["stream"]["parts"], (2, 3), strict=True):
            part["warm_up"] = steps

    tamper(own_box, late)
    single = edge.SingleStream(edge.load(own_box, threads=1).stream(policy=Fixed("e")))
    answers = single.push(np.zeros((1, 8, 8), np.float32))
    assert [answer.output for answer in answers[:2]] == [edge.Warming(2), edge.Warming(1)]
    assert answers[2].exit == "e"
    assert answers[2].output.shape == (3,)


def test_a_state_on_disk_goes_on_where_it_was(ours, tmp_path):
    x = chunks(ours, signal(ours, 2, 4))
    state = ours.step(x[0]).state
    edge.save_state(tmp_path / "state.npz", state)
    loaded = edge.load_state(tmp_path / "state.npz")
    assert {key: value.dtype for key, value in loaded.items()} == {k: v.dtype for k, v in state.items()}
    np.testing.assert_array_equal(ours.step(x[1], loaded).output, ours.step(x[1], state).output)
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: None, "No such file"),
        (lambda file: file.write_bytes(b"nothing"), "cannot be read"),
        (lambda file: np.savez(file, other=np.zeros(3)), "holds no state of a stream; it has no 'steps'"),
        (lambda file: np.savez_compressed(file, steps=np.zeros(10**6)), "is compressed"),
        (lambda file: np.savez(file, steps=np.array([{}], dtype=object)), "not as a state is written"),
        (lambda file: lying(file), "not as a state is written"),
    ],
)
def test_a_file_that_is_no_state(tmp_path, make, words):
    file = tmp_path / "state.npz"
    make(file)
    with pytest.raises(InputError, match=words) as caught:
        edge.load_state(file)
    assert "\n" not in str(caught.value)


def lying(file):
    """An array that promises a million million values."""
    np.save(file.with_suffix(".npy"), np.zeros(3))
    data = file.with_suffix(".npy").read_bytes()
    data = data.replace(b"(3,), }" + 12 * b" ", b"(1000000000000,), }")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("steps.npy", data)


def test_a_state_cannot_be_written_where_there_is_no_folder(ours, tmp_path):
    with pytest.raises(InputError, match=r"cannot be written to .*: No such file or directory"):
        edge.save_state(tmp_path / "none" / "state.npz", ours.start())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("kept"), "of another network: it lacks 'kept'"),
        (lambda state: state.update(more=np.zeros(2)), "of another network: it holds 'more'"),
        (lambda state: state.update(kept=np.zeros((2, 4), np.float32)), r"'kept' has shape \(2, 4\)"),
        (lambda state: state.update(kept=np.zeros((3, 3), np.float32)), "or of other streams"),
        (lambda state: state.update(kept=np.zeros((2, 3))), "'kept' is float64, not float32"),
        (lambda state: state.update({"final.steps": np.full(2, 9)}), "is ahead of 'steps'"),
    ],
)
def test_a_state_that_does_not_fit(ours, change, words):
    state = ours.start(2)
    change(state)
    with pytest.raises(InputError, match=words):
        ours.step(np.zeros((2, 1, 2, 8), np.float32), state)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (
            np.zeros((2, 1, 3, 8)),
            r"takes 2 units of .* shape \(batch, 1, 2, 8\); got \(2, 1, 3, 8\)",
        ),
        (np.zeros((0, 1, 2, 8)), "takes 2 units"),
        (np.zeros((1, 2, 8)), "takes 2 units"),
        (np.full((1, 1, 2, 8), np.nan), "NaN or infinite"),
        (np.full((1, 1, 2, 8), 1e300), "NaN or infinite"),
        (np.full((1, 1, 2, 8), "x"), "takes numbers"),
    ],
)
def test_units_that_do_not_fit(ours, x, words):
    with pytest.raises(InputError, match=words):
        ours.step(x)


def test_a_box_without_steps_says_how_to_write_them(artifact):
    with pytest.raises(ConfigError, match="no steps of streams; write them with: sentio export --stream"):
        edge.load(artifact, threads=1).step(np.zeros((1, 1, 2, 8)))


def test_the_state_begins_as_the_manifest_says(own_box, tamper):
    tamper(own_box, lambda values: values["stream"]["state"]["kept"].update(begins_with="-inf"))
    state = edge.load(own_box, threads=1).stream().start(2)
    assert np.isneginf(state["kept"]).all()
    assert state[STEPS].tolist() == [0, 0]
    assert state[STEPS].dtype == np.int64
