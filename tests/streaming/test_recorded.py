"""Steps that were recorded: the numbers of those that were not, and what is never recorded."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import sentio
from sentio.core.errors import InputError
from sentio.streaming.recorded import MOST
from sentio.streaming.state import load_state, save_state

torch.set_num_threads(1)


class Doubtful(nn.Module):
    """Decides by what it sees."""

    def forward(self, x):
        return x if x.mean() > 0 else -x


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 4, (3, 1), stride=(2, 1)),
        nn.MaxPool2d((2, 2)),
        nn.Sigmoid(),
    ).eval()


def frozen_and_plain(net, example):
    """The same frozen stream twice, one that records and one that does not."""
    recorded = sentio.stream(net, example=example, frozen=True)
    plain = copy.deepcopy(recorded)
    plain._records = None
    return recorded, plain


def records(stream):
    if isinstance(stream._records, dict):  # of a network with exits: of each part and each branch
        parts = stream._records.values()
        return [record for part in parts for record in part._found.values() if record is not None]
    return [record for record in stream._records._found.values() if record is not None]


@pytest.mark.parametrize("name", ["tiny-cnn", "phinet-1d", "dcase2024-baseline", "crnn", "sp4asc"])
def test_a_recorded_step_gives_the_same_numbers(name):
    from sentio.core import registry

    entry = registry.find("network", name)
    torch.manual_seed(0)
    net = sentio.create_network(name, **entry.small).eval()
    shape = dict(entry.small_shapes)["main"]
    squeeze = "frame" if name == "phinet-1d" else None
    stream = sentio.stream(net, frozen=True, squeeze=squeeze, window=max(32, shape[1]))
    plain = copy.deepcopy(stream)
    plain._records = None
    states = [None, None]
    for _ in range(stream.warm_up + 12):
        x = torch.randn(2, shape[0], stream.hop, *shape[2:])
        found = [one.step(x, state) for one, state in zip((stream, plain), states, strict=True)]
        states = [one.state for one in found]
        assert torch.equal(found[0].output, found[1].output)
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    assert records(stream)


def test_batches_of_any_size_and_inputs_of_any_order_in_memory():
    net, example = network(), torch.zeros(1, 2, 32, 8)
    stream, plain = frozen_and_plain(net, example)
    for rows in (1, 3):
        states = [None, None]
        long = torch.randn(rows, 2, 40, 8)
        for step in range(40 // stream.hop):
            x = long[:, :, step * stream.hop : (step + 1) * stream.hop]
            if step % 3 == 0:
                x = x.contiguous()
            elif step % 3 == 1:
                x = x.contiguous(memory_format=torch.channels_last)
            found = [one.step(x, state) for one, state in zip((stream, plain), states, strict=True)]
            states = [one.state for one in found]
            assert torch.equal(found[0].output, found[1].output)
    assert len(records(stream)) > 2


def test_a_state_can_be_stepped_twice_saved_and_resumed(tmp_path):
    stream, plain = frozen_and_plain(network(), torch.zeros(1, 2, 32, 8))
    chunks = torch.randn(16, 2, 2, stream.hop, 8)
    state = None
    for chunk in chunks[:12]:
        state = stream.step(chunk, state).state
    assert records(stream)
    before = {name: tensor.clone() for name, tensor in state.items()}
    first = stream.step(chunks[12], state)
    stream.step(chunks[13], state)
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    again = stream.step(chunks[12], state)
    assert torch.equal(first.output, again.output)
    save_state(tmp_path / "state", state)
    resumed = load_state(tmp_path / "state")
    for chunk in chunks[12:]:
        found, want = stream.step(chunk, resumed), plain.step(chunk, state)
        resumed, state = found.state, want.state
        assert torch.equal(found.output, want.output)


def test_a_record_of_inference_mode_serves_outside_of_it():
    stream, plain = frozen_and_plain(network(), torch.zeros(1, 2, 32, 8))
    chunks = torch.randn(14, 1, 2, stream.hop, 8)
    state = None
    with torch.inference_mode():
        for chunk in chunks[:12]:
            state = stream.step(chunk, state).state
    assert records(stream)
    found, want = stream.step(chunks[12], state), plain.step(chunks[12], state)
    assert torch.equal(found.output, want.output)
    assert torch.equal(stream.step(chunks[13], found.state).output, plain.step(chunks[13], want.state).output)


def test_weights_of_another_kind_are_recorded_anew():
    stream, _ = frozen_and_plain(network(), torch.zeros(1, 2, 32, 8))

    def run(dtype):
        torch.manual_seed(1)
        state = None
        for _ in range(10):
            output, _, state = stream.step(torch.randn(1, 2, stream.hop, 8).to(dtype), state)
        return output

    first = run(torch.float32)
    assert records(stream)
    stream.double()
    assert not records(stream)
    second = run(torch.float64)
    assert second.dtype == torch.float64
    assert torch.allclose(first.double(), second, atol=1e-6)
    with torch.no_grad():  # weights that change where they are reach the record
        for parameter in stream.parameters():
            parameter.zero_()
    assert torch.equal(run(torch.float64), torch.full_like(second, 0.5))


def test_what_decides_by_its_input_is_never_recorded():
    net = nn.Sequential(nn.Conv1d(2, 2, 3), Doubtful(), nn.ReLU())
    with pytest.raises(sentio.core.errors.ConfigError):
        sentio.stream(net, example=torch.zeros(1, 2, 9))
    from sentio.nn.streaming import FORMS, PerFrame, streams

    streams(Doubtful)(PerFrame)
    try:
        stream = sentio.stream(net, example=torch.zeros(1, 2, 9), frozen=True)
        assert stream._records is None
    finally:
        del FORMS[Doubtful]


def test_long_windows_are_appended_to_and_not_recorded():
    net = nn.Conv2d(32, 8, 3, dilation=(40, 1), padding=(0, 1)).eval()
    stream, _ = frozen_and_plain(net, torch.zeros(1, 32, 81, 16))
    state = None
    for _ in range(5):
        state = stream.step(torch.randn(1, 32, 1, 16), state).state
    assert stream._records._found
    assert not records(stream)


def test_modes_around_a_step_reach_its_operations():
    stream, plain = frozen_and_plain(nn.Sequential(nn.Conv1d(2, 3, 4)), torch.zeros(1, 2, 9))
    state = None
    for _ in range(5):
        state = stream.step(torch.randn(1, 2, 1), state).state
    assert records(stream)
    with torch.autocast("cpu", torch.bfloat16):
        low = stream.step(torch.ones(1, 2, 1), state).output
        want = plain.step(torch.ones(1, 2, 1), state).output
    assert low.dtype == want.dtype
    assert torch.equal(low, want)


def test_what_does_not_fit_is_refused_as_ever_and_records_are_bounded():
    stream, _ = frozen_and_plain(network(), torch.zeros(1, 2, 32, 8))
    state = None
    for _ in range(10):
        state = stream.step(torch.randn(1, 2, stream.hop, 8), state).state
    name = next(name for name in state if name != "steps")
    renamed = {("other" if key == name else key): tensor for key, tensor in state.items()}
    short = {key: tensor for key, tensor in state.items() if key != name}
    for broken in (renamed, short):
        with pytest.raises(InputError, match="has no"):
            stream.step(torch.randn(1, 2, stream.hop, 8), broken)
    for rows in range(2, MOST + 8):
        state = None
        for _ in range(6):
            state = stream.step(torch.randn(rows, 2, stream.hop, 8), state).state
    assert len(stream._records._found) <= MOST


def test_weights_that_are_put_in_place_of_others_are_recorded_anew():
    streams = []
    for seed in range(2):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3, groups=2)).eval()
        streams.append(sentio.stream(net, example=torch.zeros(1, 2, 9), frozen=True))
    stream, other = streams
    x = torch.randn(12, 1, 2, 1)

    def run(stream):
        state = None
        for chunk in x:
            output, _, state = stream.step(chunk, state)
        return output

    assert not torch.allclose(run(stream), want := run(other))
    assert records(stream)
    stream.load_state_dict(other.state_dict(), assign=True)
    assert torch.allclose(run(stream), want)


class Drawn:
    """A policy that lets streams leave by a row of numbers drawn beforehand."""

    measure = "max-probability"

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)

    def evaluates(self, exit):
        return True

    def decide(self, confidence, prediction, exit, costs, elapsed, memory):
        return self.generator.random(len(confidence)) < 0.4, memory


@pytest.mark.parametrize("catch_up", ["exact", "hold"])
def test_parts_between_exits_are_recorded(catch_up):
    torch.manual_seed(0)
    net = sentio.create_network("dcase2024-baseline", classes=3)
    net = sentio.add_exits(net, "pooled-linear", at=["block2", "block4"], classes=3).eval()
    stream = sentio.stream(net, frozen=True, catch_up=catch_up)
    plain = copy.deepcopy(stream)
    plain._records = {}
    states, policies = [None, None], [Drawn(1), Drawn(1)]
    exits, caught_up = set(), 0
    for _ in range(max(stream.warm_up.values()) + 20):
        x = torch.randn(3, 1, stream.hop, 64)
        given = zip((stream, plain), states, policies, strict=True)
        found = [one.step(x, state, policy) for one, state, policy in given]
        states = [one.state for one in found]
        assert all(torch.equal(a, b) for a, b in zip(found[0][:2], found[1][:2], strict=True))
        assert torch.equal(found[0].exit, found[1].exit)
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
        exits |= set(found[0].exit[found[0].valid].tolist())
        caught_up += int(found[0].caught_up.sum())
    assert exits == {0, 1, 2} and (caught_up > 0) == (catch_up == "exact")
    assert len(records(stream)) > 5 and not records(plain)


def test_parts_with_other_weights_are_recorded_anew():
    streams = []
    for seed in range(2):
        torch.manual_seed(seed)
        net = sentio.create_network("tiny-cnn", classes=3)
        net = sentio.add_exits(net, "pooled-linear", at=["block2"], classes=3).eval()
        streams.append(sentio.stream(net, frozen=True))
    stream, other = streams
    x = torch.randn(12, 1, 1, stream.hop, 64)

    def run(stream, kind=torch.float32):
        state = None
        for chunk in x:
            found = stream.step(chunk.to(kind), state)
            state = found.state
        return found.output

    assert not torch.allclose(run(stream), want := run(other))
    assert records(stream)
    stream.load_state_dict(other.state_dict(), assign=True)
    assert not records(stream)
    assert torch.equal(run(stream), want)
    assert torch.allclose(run(stream.double(), torch.float64).float(), want, atol=1e-5)
