"""Inputs, states and modes that are not as a stream expects them: right all the same, or refused by name."""

import numpy as np
import pytest
import torch
from torch import nn

import sentio
from sentio.core.errors import ConfigError, InputError
from sentio.streaming.batch import SingleStream, StreamBatch
from sentio.streaming.state import load_state, save_state, stack, take

torch.set_num_threads(1)


def conv(kernel=3, channels=1, **options):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(channels, 1, kernel, **options)).eval()


def stream_of(net, channels=1, **options):
    return sentio.stream(net, example=torch.zeros(1, channels, 9), **options)


def with_exits():
    torch.manual_seed(0)
    net = sentio.create_network("tiny-cnn", classes=4, width=8)
    return sentio.add_exits(
        net, "pooled-linear", at=["block1", "block2"], names=["early", "middle"], classes=4
    ).eval()


@pytest.mark.parametrize("exits", [False, True])
def test_a_network_left_in_training_mode_is_not_stepped(exits):
    """Batch norms would take the streams' units for their statistics, and keep them."""
    net = with_exits() if exits else sentio.create_network("tiny-cnn", classes=4, width=8)
    stream = sentio.stream(net)
    state = stream.start(1)
    for trained in (net, stream):
        trained.train()
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        with pytest.raises(ConfigError, match="steps in eval mode"):
            stream.step(torch.randn(1, 1, stream.hop, 64), state)
        with pytest.raises(ConfigError, match="steps in eval mode"):
            stream.start(1)
        if not exits:
            with pytest.raises(ConfigError, match="steps in eval mode"):
                stream.begin(torch.randn(1, 1, stream.hop, 64))
        assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
        stream.eval()
    stream.step(torch.randn(1, 1, stream.hop, 64), state)


def test_a_camera_may_write_the_next_frame_where_the_first_lay():
    net = conv(kernel=2)
    stream = stream_of(net)
    frame = torch.ones(1, 1, 1)
    state = stream.begin(frame)
    frame.zero_()
    assert torch.allclose(stream.step(torch.ones(1, 1, 1), state).output, net(torch.ones(1, 1, 2)))


@pytest.mark.parametrize("hop", [1, 2])
def test_an_activation_in_place_comes_first_and_a_stream_begins_settled(hop):
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv1d(1, 1, 3)).eval()
    stream = sentio.stream(net, example=torch.zeros(1, 1, 9), hop=hop)
    frame = torch.tensor([[[-1.0]]])
    state = stream.begin(frame)
    assert frame.item() == -1.0
    assert torch.allclose(stream.step(-torch.ones(1, 1, hop), state).output[..., 0], net[1].bias)


@pytest.mark.parametrize("batched", [False, True])
def test_a_microphone_may_write_the_next_block_where_the_first_lay(batched):
    net = conv(kernel=2, stride=2)
    one = SingleStream(stream_of(net))
    many = StreamBatch(stream_of(net), like=torch.zeros(1, 1, 2))
    many.join("a")
    block, answers = torch.empty(1, 1), []
    for unit in (1.0, 2.0, 3.0, 4.0):
        block.fill_(unit)
        if batched:
            many.push("a", block)
            answers += many.run().values()
        else:
            answers += one.push(block)
    want = net(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    assert torch.allclose(torch.cat([answer.output for answer in answers], 1), want[0])


@pytest.mark.parametrize("frozen", [False, True])
def test_no_streams_and_no_tensors_are_refused(frozen):
    stream = stream_of(conv(padding=1), frozen=frozen)
    with pytest.raises(InputError, match=r"at least one stream, got shape \(0, 1, 1\)"):
        stream.step(torch.zeros(0, 1, 1))
    with pytest.raises(InputError, match=r"A step takes a tensor, got ndarray"):
        stream.step(np.zeros((1, 1, 1), np.float32))
    with pytest.raises(ConfigError, match="A window has at least 1 unit, got 0"):
        stream_of(nn.Sequential(nn.AdaptiveAvgPool1d(1)), window=0)


@pytest.mark.parametrize("other", [conv(kernel=5), conv(kernel=2), conv(channels=2)])
def test_a_state_of_another_network_with_the_same_names_is_refused(other):
    """A longer window was cut in silence, and the step answered about the wrong units."""
    channels = other[0].in_channels
    state = stream_of(other, channels).step(torch.ones(1, channels, 1)).state
    with pytest.raises(InputError, match=r"'0\.window' has shape \(1, . 1, 2\)|of another network"):
        stream_of(conv()).step(torch.ones(1, 1, 1), state)


def test_a_state_of_other_precision_goes_on_in_the_stream_s_own():
    stream, x = stream_of(conv()), torch.randn(1, 1, 4)
    state = None
    for unit in x[:, :, :3].split(1, 2):
        state = stream.step(unit, state).state
    want = stream.step(x[:, :, 3:], state)
    double = {name: t.double() if t.is_floating_point() else t for name, t in state.items()}
    found = stream.step(x[:, :, 3:], double)
    assert torch.equal(found.output, want.output)
    assert found.state["0.window"].dtype == torch.float32
    exits = sentio.stream(with_exits())
    x = torch.randn(2, 1, 1, exits.hop, 64)
    state = exits.step(x[0], None).state
    double = {name: t.double() if t.is_floating_point() else t for name, t in state.items()}
    assert torch.equal(exits.step(x[1], double).output, exits.step(x[1], state).output)


def test_a_state_of_a_stream_without_exits_or_of_another_window_is_refused():
    net = with_exits()
    stream = sentio.stream(net)
    x = torch.randn(1, 1, stream.hop, 64)
    with pytest.raises(InputError, match=r"The state has no '.*'; it is of another network or was cut"):
        stream.step(x, sentio.stream(net.backbone).start(1))
    longer = sentio.stream(net, window=400).start(1)
    with pytest.raises(InputError, match=r"The state does not fit: 'middle\.queue' has shape"):
        stream.step(x, longer)


def test_the_state_of_streams_that_have_not_begun_can_be_saved(tmp_path):
    """Each part's age was the same tensor, which safetensors refuses."""
    stream = sentio.stream(with_exits())
    state = stream.start(2)
    save_state(tmp_path / "state", state)
    found = load_state(tmp_path / "state")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_mask_is_not_taken_for_row_numbers():
    state = {"steps": torch.tensor([5, 6, 7])}
    assert take(state, torch.tensor([2, 0]))["steps"].tolist() == [7, 5]
    for mask in (torch.tensor([False, False, True]), [False, False, True]):
        with pytest.raises(InputError, match="numbers of rows"):
            take(state, mask)


def test_states_of_other_sizes_are_not_stacked():
    states = [{"steps": torch.tensor([1]), "kept": torch.zeros(1, size)} for size in (2, 3)]
    with pytest.raises(InputError, match="of one network and size"):
        stack(states)


def test_exits_that_answer_together_keep_the_precision_of_the_network():
    net = with_exits().double()
    stream, state = sentio.stream(net), None
    x = torch.randn(1, 1, stream.hop * 12, 64, dtype=torch.float64)
    for chunk in x.split(stream.hop, 2):
        output, valid, state, *_ = stream.step(chunk, state, sentio.Ensemble(1.0))
    assert valid.all()
    clips = stream.clip(x)
    want = torch.stack([clips[name][:, -1].softmax(-1) for name in stream.exit_names])
    assert output.dtype == torch.float64
    assert torch.allclose(output, want.mean(0).log(), rtol=0, atol=1e-10)


def test_a_stream_that_is_named_twice_is_stepped_once():
    net = conv()
    batch = StreamBatch(stream_of(net), like=torch.zeros(1, 1, 1))
    batch.join("a")
    x = torch.randn(1, 4)
    batch.push("a", x)
    outputs = [batch.run(["a", "a"])["a"].output for _ in range(4)]
    assert torch.allclose(torch.cat(outputs[2:], 1), net(x[None])[0])


def test_a_step_that_fails_takes_nothing_from_the_others():
    """What the others had waiting was gone, and they went on with a gap."""
    net = conv()
    batch = StreamBatch(stream_of(net), like=torch.zeros(1, 1, 1))
    batch.join("good")
    batch.join("bad")
    x = torch.randn(1, 5)
    batch.push("good", x)
    batch.push("bad", torch.zeros(2, 1))
    with pytest.raises(InputError, match=r"a step of 'good' is \(1, 1\), of 'bad' \(2, 1\)"):
        batch.run()
    batch.push("good", torch.zeros(1, 0))
    batch.leave("bad")
    outputs = [batch.run()["good"].output for _ in range(5)]
    assert torch.allclose(torch.cat(outputs[2:], 1), net(x[None])[0])


def test_a_clip_of_more_units_than_the_delay_has_an_answer():
    stream = sentio.stream(sentio.create_network("tiny-cnn", classes=4, width=8))
    assert stream.clip(torch.zeros(1, 1, stream.delay + 1, 64)).shape == (1, 1, 4)
    with pytest.raises(InputError, match="give a longer one"):
        stream.clip(torch.zeros(1, 1, stream.delay, 64))
