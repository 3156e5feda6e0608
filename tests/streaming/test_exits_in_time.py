"""Exits on a stream: exact whatever left early before, cheaper where much does; and hold, cheaper still."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import sentio
from sentio.core.errors import ConfigError
from sentio.core.policy import Confidence, Fixed
from sentio.core.staged import Staged
from sentio.streaming.exits_in_time import ExitStream
from sentio.streaming.state import take

torch.set_num_threads(1)
EXITS = ("e1", "e2")


class Scripted:
    """Leaves as a table says: (time, stream, exit)."""

    measure = None

    def __init__(self, table):
        self.table, self.time = table, 0

    def evaluates(self, exit):
        return True

    def decide(self, confidence, prediction, exit, costs, elapsed, memory):
        rows = memory.get("rows", np.arange(len(prediction)))
        return self.table[self.time, rows, EXITS.index(exit)], {"rows": rows}


def network(name="tiny-cnn", dtype=torch.float64):
    torch.manual_seed(0)
    net = sentio.create_network(name, width=8, classes=4, **({"bands": 32} if name == "cnn6" else {}))
    net.input_shapes = {"main": (1, 32, 32)}
    with torch.no_grad():
        for seed in range(3):
            net.train()(net.example(8, seed=seed))
    exits = sentio.add_exits(net, "pooled-linear", at=["block1", "block3"], names=EXITS, classes=4)
    return exits.to(dtype).eval()


def signal(stream, batch, steps, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, steps * stream.hop, 32, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", ["tiny-cnn", "cnn6"])
@pytest.mark.parametrize("share", [0.3, 0.8, 0.97])
def test_answers_are_those_of_a_network_that_never_left_early(name, share):
    """Short absences are caught up from where the tail was, long ones from the queue alone."""
    stream = sentio.stream(network(name))
    assert isinstance(stream, ExitStream)
    steps, batch = 40, 4
    x = signal(stream, batch, steps)
    want = stream.clip(x)
    policy = Scripted(np.random.default_rng(0).random((steps, batch, 2)) < share)
    state, told, caught_up, longest = None, set(), 0, 0
    away = np.zeros(batch, int)
    for time, chunk in enumerate(x.split(stream.hop, 2)):
        policy.time = time
        result = stream.step(chunk, state, policy)
        state = result.state
        caught_up += int(result.caught_up.sum())
        for row in range(batch):
            if not result.valid[row]:
                assert time < min(stream.warm_up.values())
                continue
            exit = stream.exit_names[result.exit[row]]
            told.add(exit)
            clip = want[exit][row, time - stream.warm_up[exit]]
            assert (result.output[row] - clip).abs().max() <= 1e-10 * want[exit].abs().max()
            away[row] = away[row] + 1 if exit == "e1" else 0
        longest = max(longest, away.max())
    assert told == {"e1", "e2", "final"}
    assert caught_up > 0
    if share > 0.9:
        assert longest > max(stream.queues.values())


@pytest.mark.parametrize("ran", [False, True])
def test_a_frozen_stream_of_a_pruned_network(ran):
    """Its weights are made anew by hooks, and PyTorch copies no tensor that was made."""
    net = network("tiny-cnn")
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            prune.l1_unstructured(module, "weight", 0.3)
    x = signal(sentio.stream(net), 2, 30)
    if ran:
        net(x)  # the weights are of its graph now
    else:
        net.backbone.boundary_shapes(x)  # and here they hold no values
    stream, frozen = sentio.stream(net), sentio.stream(net, frozen=True)
    state = other = None
    for chunk in x.split(stream.hop, 2):
        want, got = stream.step(chunk, state), frozen.step(chunk, other)
        state, other = want.state, got.state
    assert want.valid.all()
    torch.testing.assert_close(got.output, want.output)


@pytest.mark.parametrize("name", ["tiny-cnn", "cnn6"])
def test_a_frozen_stream_gives_the_same_and_keeps_its_weights(name):
    net = network(name)
    stream, frozen = sentio.stream(net), sentio.stream(net, frozen=True)
    x = signal(stream, 3, 30)
    table = np.random.default_rng(0).random((30, 3, 2)) < 0.7
    state = other = None
    for step, chunk in enumerate(x.split(stream.hop, 2)):
        if step == 20:  # what is trained later does not reach the frozen one
            plain, net = stream, network(name)
            with torch.no_grad():
                for parameter in plain.net.parameters():
                    parameter.mul_(2.0)
            stream = sentio.stream(net)
        left, right = Scripted(table), Scripted(table)
        left.time = right.time = step
        want, got = stream.step(chunk, state, left), frozen.step(chunk, other, right)
        state, other = want.state, got.state
        assert torch.equal(want.valid, got.valid) and torch.equal(want.exit, got.exit)
        torch.testing.assert_close(got.output[got.valid], want.output[want.valid], rtol=1e-10, atol=1e-10)
    assert torch.equal(want.macs, got.macs) and frozen.warm_up == stream.warm_up
    with pytest.raises(ConfigError, match="A frozen stream cannot be trained"):
        frozen.train()


def test_a_row_in_a_batch_equals_the_stream_alone():
    stream = sentio.stream(network(dtype=torch.float32))
    x = signal(stream, 3, 16, torch.float32)
    sure = stream.clip(x)["e1"].softmax(-1).amax(-1)
    policy = Confidence(float(sure.median()))
    state, alone = None, [None] * 3
    exits = set()
    for chunk in x.split(stream.hop, 2):
        result = stream.step(chunk, state, policy)
        state = result.state
        for row in range(3):
            one = stream.step(chunk[row : row + 1], alone[row], policy)
            alone[row] = one.state
            exits.add(int(one.exit[0]))
            assert one.exit[0] == result.exit[row] and one.macs[0] == result.macs[row]
            assert torch.allclose(one.output[0], result.output[row], rtol=0, atol=1e-6)
            for name, tensor in take(state, [row]).items():
                assert torch.allclose(tensor, one.state[name], rtol=1e-5, atol=1e-5)
    assert len(exits) > 1


def test_what_is_skipped_costs_nothing_and_what_is_caught_up_is_counted():
    stream = sentio.stream(network())
    chunks = signal(stream, 1, 20).split(stream.hop, 2)
    state, macs = None, []
    for time, chunk in enumerate(chunks):
        result = stream.step(chunk, state, None if time in (0, 1, 2, 3, 4, 5, 8) else Fixed("e1"))
        state = result.state
        macs.append(int(result.macs[0]))
    whole = macs[5]
    early = macs[6]
    assert early < whole / 2
    # Two steps were skipped behind e1, by both parts behind it.
    assert macs[8] == early + 3 * (whole - early)
    assert macs[9] == early


def test_a_long_absence_costs_no_more_than_the_queue():
    stream = sentio.stream(network())
    queue = stream.queues["e2"]
    chunks = signal(stream, 1, queue + 30).split(stream.hop, 2)
    state = None
    for chunk in chunks[:-1]:
        state = stream.step(chunk, state, Fixed("e1")).state
    last = stream.step(chunks[-1], state)
    # The part between e1 and e2 takes all that is kept, the last part what it can use of it.
    assert int(last.caught_up[0]) == queue + stream.queues["final"]


def test_hold_skips_what_left_early():
    net = network()
    exact, hold = sentio.stream(net), sentio.stream(net, catch_up="hold")
    assert set(hold.queues.values()) == {0}
    chunks = signal(hold, 1, 24).split(hold.hop, 2)
    states = [None, None]
    for time, chunk in enumerate(chunks):
        policy = None if time % 3 == 2 else Fixed("e1")
        results = [s.step(chunk, state, policy) for s, state in zip((exact, hold), states, strict=True)]
        states = [result.state for result in results]
        assert int(results[1].caught_up[0]) == 0
    assert results[1].macs[0] < results[0].macs[0]
    assert results[1].exit[0] == results[0].exit[0] == 2
    assert not torch.allclose(results[0].output, results[1].output)
    # Where nothing leaves early the two are one.
    states = [None, None]
    for chunk in chunks[:8]:
        results = [s.step(chunk, state) for s, state in zip((exact, hold), states, strict=True)]
        states = [result.state for result in results]
    assert torch.equal(results[0].output, results[1].output)


def test_exits_are_switched_off_on_streams_too():
    net = network()
    net.switch("e1", on=False)
    stream = sentio.stream(net)
    assert stream.exit_names == ("e2", "final")
    result = stream.step(signal(stream, 2, 1))
    assert result.valid.tolist() == [False, False]


def test_an_exit_that_mixes_its_map_runs_over_the_window():
    net = network()
    net = sentio.add_exits(net.backbone, "cnn-ee", at=["block2"], names=["e1"], classes=4).double().eval()
    with pytest.raises(ConfigError, match=r"Layer 'branches\.e1' \(CNNExit\).*over_window="):
        sentio.stream(net)
    stream = sentio.stream(net, over_window=["branches.e1"])
    x = signal(stream, 2, 6)
    want = stream.clip(x)["e1"]
    maps = net.backbone.before("block2")(x)
    frames = net.backbone.boundary_shapes()["block2"]["main"][1]
    units = stream.hop // 4
    first = net.branch("e1")(maps[:, :, :frames])
    assert torch.allclose(want[:, 0], first, rtol=0, atol=1e-10)
    state, outputs = None, []
    for chunk in x.split(stream.hop, 2):
        result = stream.step(chunk, state, Fixed("e1"))
        state = result.state
        if result.valid.all():
            outputs.append(result.output)
    assert units == 4 and len(outputs) >= 2
    got = torch.stack(outputs, 1)
    assert torch.allclose(got, want[:, : got.shape[1]], rtol=0, atol=1e-10)


def test_what_cannot_be_caught_up_is_refused():
    class Tokens(nn.Module):
        def forward(self, x):
            return self.gru(x)[0]

        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(4, 4, batch_first=True)

    from sentio.nn.streaming import streams
    from sentio.nn.streaming_joins import Chain

    streams(Tokens)(lambda module: Chain(module.gru))
    net = Staged({"a": nn.Linear(3, 4), "b": Tokens(), "c": nn.Linear(4, 4)}, input_shapes=(10, 3))
    exits = sentio.add_exits(net, "pooled-linear", at=["a"], classes=4)
    with pytest.raises(ConfigError, match="gives an answer for each unit of time"):
        sentio.stream(exits, axis=1)
    from sentio.exits.pooled_linear import PooledLinearExit

    net = Staged(
        {"a": nn.Linear(3, 4), "b": Tokens(), "c": PooledLinearExit(((1,),), nn.Sequential(nn.Linear(4, 4)))},
        input_shapes=(10, 3),
    )
    exits = sentio.add_exits(net, "pooled-linear", at=["a"], classes=4)
    with pytest.raises(ConfigError, match="a recurrent layer depends on every step; pass catch_up='hold'"):
        sentio.stream(exits, axis=1)
    assert sentio.stream(exits, axis=1, catch_up="hold").queues == {"final": 0}
    with pytest.raises(ConfigError, match="catch_up is 'exact' or 'hold', got 'never'"):
        sentio.stream(exits, axis=1, catch_up="never")


def test_it_steps_in_eval_mode():
    stream = sentio.stream(network()).train()
    with pytest.raises(ConfigError, match="steps in eval mode"):
        stream.step(signal(stream, 1, 1))
