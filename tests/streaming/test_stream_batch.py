"""Streams that join, leave and are late give what they give alone; states travel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sentio
from sentio.core.errors import ConfigError, InputError
from sentio.core.policy import Fixed
from sentio.streaming.batch import Answer, SingleStream, StreamBatch, Warming
from sentio.streaming.state import load_state, save_state, stack, take

torch.set_num_threads(1)


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d((2, 1))]
    layers += [
        nn.Conv2d(4, 4, (5, 3), padding=(2, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def stream():
    return sentio.stream(network(), window=8, example=torch.zeros(1, 1, 16, 5))


def signal(seed, time=60):
    return torch.randn(1, time, 5, generator=torch.Generator().manual_seed(seed))


def same(left, right, tolerance):
    if isinstance(left.output, Warming) or isinstance(right.output, Warming):
        return left == right
    return (left.output - right.output).abs().max() <= tolerance * right.output.abs().max()


@settings(deadline=None, max_examples=25)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["join", "push", "push", "push", "run", "run", "leave"]), st.integers(0, 4)
        ),
        min_size=10,
        max_size=60,
    ),
    pieces=st.integers(1, 5),
)
def test_any_coming_and_going_equals_each_stream_alone(stream, events, pieces):
    batch = StreamBatch(stream)
    alone, together, given_so_far, away = {}, {}, {}, {}
    for what, name in events:
        if what == "join" and name not in batch.names:
            batch.join(name, away.pop(name, None))
            if name not in alone:
                alone[name], together[name], given_so_far[name] = SingleStream(stream), [], 0
        elif what == "push" and name in batch.names:
            units = signal(name)[:, given_so_far[name] : given_so_far[name] + pieces * stream.hop]
            given_so_far[name] += units.shape[1]
            if units.shape[1]:
                batch.push(name, units)
        elif what == "run":
            for found, answer in batch.run().items():
                together[found].append(answer)
        elif what == "leave" and name in batch.names and name not in batch.ready:
            away[name] = batch.leave(name)
    while batch.ready:
        for found, answer in batch.run().items():
            together[found].append(answer)
    for name, answers in together.items():
        # What was pushed has been answered, wherever the stream has been in between.
        want = alone[name].push(signal(name)[:, : given_so_far[name]]) if given_so_far[name] else []
        assert len(answers) == len(want)
        assert all(same(one, other, 1e-6) for one, other in zip(answers, want, strict=True))


def test_stepped_one_at_a_time_they_are_equal_bit_for_bit(stream):
    batch = StreamBatch(stream)
    for name in "abc":
        batch.join(name)
        batch.push(name, signal(ord(name), 40))
    found = {name: [] for name in "abc"}
    while batch.ready:
        for name in batch.ready:
            found[name] += batch.run([name]).values()
    for name, answers in found.items():
        want = SingleStream(stream).push(signal(ord(name), 40))
        assert len(answers) == len(want) == 20
        for one, other in zip(answers, want, strict=True):
            if isinstance(other.output, Warming):
                assert one == other
            else:
                assert torch.equal(one.output, other.output)


def test_warming_up_says_how_long(stream):
    single = SingleStream(stream)
    answers = single.push(signal(0, stream.hop * (stream.warm_up + 2)))
    lefts = [answer.output.steps_left for answer in answers[: stream.warm_up]]
    assert stream.warm_up >= 3
    assert lefts == list(range(stream.warm_up, 0, -1))
    assert all(isinstance(answer.output, torch.Tensor) for answer in answers[stream.warm_up :])


def test_pieces_of_any_length_make_no_difference(stream):
    whole = SingleStream(stream).push(signal(0))
    single = SingleStream(stream)
    pieces = [answer for part in signal(0).split([1, 7, 2, 3, 20, 27], 1) for answer in single.push(part)]
    assert len(pieces) == len(whole) == 30
    assert all(same(one, other, 0.0) for one, other in zip(pieces, whole, strict=True))


def test_a_state_on_disk_goes_on_where_it_was(stream, tmp_path):
    single = SingleStream(stream)
    single.push(signal(0)[:, :20])
    save_state(tmp_path / "state.safetensors", single.state)
    loaded = load_state(tmp_path / "state.safetensors")
    assert {k: v.dtype for k, v in loaded.items()} == {k: v.dtype for k, v in single.state.items()}
    resumed = SingleStream(sentio.stream(network(), window=8, example=torch.zeros(1, 1, 16, 5)), loaded)
    got, want = resumed.push(signal(0)[:, 20:]), single.push(signal(0)[:, 20:])
    assert len(got) == 20
    assert all(torch.equal(one.output, other.output) for one, other in zip(got, want, strict=True))


def test_states_are_stacked_and_taken_apart(stream):
    states = []
    for seed in range(3):
        single = SingleStream(stream)
        single.push(signal(seed)[:, :20])
        states.append(single.state)
    both = take(stack(states), [2, 0])
    x = torch.stack([signal(2)[:, 20:22], signal(0)[:, 20:22]])
    want = [stream.step(x[row : row + 1], states[which]).output for row, which in enumerate((2, 0))]
    assert torch.allclose(stream.step(x, both).output, torch.cat(want), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="of one network"):
        stack([states[0], {}])


def test_streams_with_exits_share_a_batch():
    net = sentio.create_network("tiny-cnn", width=8, classes=4).eval()
    net.input_shapes = {"main": (1, 32, 16)}
    stream = sentio.stream(sentio.add_exits(net, "pooled-linear", at=["block2"], classes=4))
    batch = StreamBatch(stream, policy=Fixed("block2"))
    for name in ("a", "b"):
        batch.join(name)
        batch.push(name, torch.randn(1, 16 * 4, 16))
    first = batch.run()
    assert first == {"a": Answer(Warming(2)), "b": Answer(Warming(2))}
    batch.run()
    last = batch.run()
    assert {answer.exit for answer in last.values()} == {"block2"}
    assert last["a"].output.shape == (4,)


def test_what_cannot_be_is_said(stream, tmp_path):
    batch = StreamBatch(stream)
    batch.join("a")
    with pytest.raises(ConfigError, match="called 'a' is in the batch already"):
        batch.join("a")
    with pytest.raises(InputError, match="No stream called 'b'"):
        batch.push("b", signal(0))
    with pytest.raises(InputError, match="No stream called 'b'"):
        batch.leave("b")
    with pytest.raises(InputError, match="'a' has no whole hop waiting"):
        batch.run(["a"])
    assert batch.run() == {}
    with pytest.raises(InputError, match="have 3 axes, without the batch"):
        batch.push("a", signal(0).unsqueeze(0))
    batch.push("a", signal(0))
    with pytest.raises(InputError, match="a stream keeps its size"):
        batch.push("a", signal(0)[:, :, :4])
    with pytest.raises(InputError, match="'steps' has shape None"):
        batch.join("c", {k: v for k, v in stream.start(1).items() if k != "steps"})
    with pytest.raises(InputError, match="or several streams"):
        batch.join("c", stream.start(2))
    (tmp_path / "no").write_text("nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load_state(tmp_path / "no")
    with pytest.raises(InputError, match="cannot be read"):
        load_state(tmp_path / "missing")
    with pytest.raises(InputError, match="cannot be written"):
        save_state(tmp_path / "folder" / "state", stream.start(1))


@pytest.mark.parametrize(
    ("name", "options"), [("x3d-s", {"classes": 4, "side": 32, "squeeze": "frame"}), ("crnn", {})]
)
def test_company_changes_nothing_but_rounding(name, options):
    """In single precision these differ by more than 1e-6, since rounding grows from layer to layer."""
    torch.manual_seed(0)
    net = sentio.create_network(name, **options).double().eval()
    stream = sentio.stream(net)
    channels, _, *others = net.input_shapes["main"]
    x = torch.randn(2, channels, stream.hop * (stream.warm_up + 3), *others, dtype=torch.float64)
    state, alone = None, [None, None]
    for units in x.split(stream.hop, 2):
        output, valid, state = stream.step(units, state)
        for row in range(2):
            one, _, alone[row] = stream.step(units[row : row + 1], alone[row])
            if valid.all():
                assert (output[row] - one[0]).abs().max() <= 1e-10 * one.abs().max()
    assert valid.all()
