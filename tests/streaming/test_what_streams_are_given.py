"""Inputs, states and modes that are not as a stream expects them: right all the same, or refused by name."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

import sentio
from sentio.core.errors import ConfigError, InputError
from sentio.nn.streaming import streams
from sentio.nn.streaming_joins import Chain, Identity, Sum
from sentio.streaming.batch import SingleStream, StreamBatch
from sentio.streaming.state import load_state, save_state, stack, take
from sentio.streaming.step_graph import export_step

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
    with pytest.raises(ConfigError, match="A window has a whole number of units, at least 1, got 0"):
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


def on_stream(stream, x):
    """Every valid output, ``(batch, ..., time)``."""
    state, found = None, []
    for unit in x.split(stream.hop, 2):
        output, valid, state = stream.step(unit, state)
        if valid.all():
            found.append(output)
    return torch.cat(found, 2) if found[0].ndim == x.ndim else torch.stack(found, 1)


@pytest.mark.parametrize("frozen", [False, True])
def test_an_activation_in_place_writes_neither_into_the_state_nor_into_what_was_given(frozen):
    act = nn.SiLU(inplace=True)
    settled = stream_of(nn.Sequential(nn.ConstantPad1d((2, 1), 0.0), act).eval(), frozen=frozen)
    state = None
    for _ in range(5):
        x = torch.ones(1, 1, 1)
        state = settled.step(x, state).state
        assert x.item() == 1.0
    inner = nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Conv1d(4, 4, 3), nn.AdaptiveAvgPool1d(1))
    net = nn.Sequential(nn.Conv1d(4, 4, 1), inner, nn.Flatten()).double().eval()
    x = torch.randn(1, 4, 20, dtype=torch.float64)
    stream = sentio.stream(net, example=x[:, :, :12], over_window=["1"], frozen=frozen)
    want = torch.stack([net(x[:, :, at : at + 12]) for at in range(9)], 1)
    assert torch.allclose(on_stream(stream, x), want, rtol=0, atol=1e-12)
    if not frozen:
        assert torch.allclose(stream.clip(x), want, rtol=0, atol=1e-12)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv1d(4, 4, 5, padding=2), nn.SiLU(inplace=True)

    def forward(self, x):
        return x + self.conv(self.act(x))


streams(Residual)(lambda block: Sum(Identity(), Chain(block.act, block.conv)))


def test_a_branch_that_overwrites_what_others_get_is_refused():
    """The shortcut would be what it was before or behind the activation, by which branch came first."""
    net = nn.Sequential(Residual()).double().eval()
    x = torch.randn(1, 4, 20, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"begins with an activation in place.*set its inplace to False"):
        sentio.stream(net, example=x)
    net[0].act.inplace = False
    stream = sentio.stream(net, example=x)
    found = on_stream(stream, x)
    assert torch.allclose(found, net(x)[:, :, : found.shape[2]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("exits", [False, True])
def test_a_batch_norm_alone_in_training_mode_is_not_stepped(exits):
    net = with_exits() if exits else sentio.create_network("tiny-cnn", classes=4, width=8)
    stream = sentio.stream(net)
    norm = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    norm.train()
    with pytest.raises(ConfigError, match="steps in eval mode"):
        stream.step(torch.randn(1, 1, stream.hop, 64))
    assert torch.equal(norm.running_mean, before)


def test_a_forward_hook_that_would_not_be_called_is_refused():
    net = conv()
    hook = net[0].register_forward_hook(lambda module, inputs, output: output * 0)
    with pytest.raises(ConfigError, match=r"Layer '0' \(Conv1d\) .* has a forward hook"):
        stream_of(net)
    hook.remove()
    stream_of(net)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("exits", [False, True])
def test_input_of_another_type_or_size_is_said_in_a_sentence(exits, frozen):
    net = with_exits() if exits else sentio.create_network("tiny-cnn", classes=4, width=8)
    stream = sentio.stream(net, frozen=frozen)
    x = torch.randn(1, 1, stream.hop, 64)
    takes = rf"takes float32 of shape \(batch, 1, {stream.hop}, 64\), got "
    for wrong, got in (
        (x.double(), "float64"),
        (x.half(), "float16"),
        (x.long(), "int64"),
        (x.to(torch.complex64), "complex64"),
    ):
        with pytest.raises(InputError, match=takes + got):
            stream.step(wrong)
    with pytest.raises(InputError, match=r"A step takes 1 channels, got shape \(1, 2, "):
        stream.step(x.repeat(1, 2, 1, 1))
    with pytest.raises(InputError, match=r"at least one stream .* not of \(0, 1"):
        stream.start(0)
    with pytest.raises(InputError, match=r"at least one stream .* not of \(1,\)"):
        stream.start(like=torch.zeros(1))
    if exits:
        return
    for wrong in (x.numpy(), x[:0], x.double()):
        with pytest.raises(InputError):
            stream.begin(wrong)
    if frozen:
        return
    for wrong in (x.numpy(), x[:, :, :0], x[:, 0], x[:, :, :3], x.double()):
        with pytest.raises(InputError, match=r"takes float32 of shape|too short|takes tensors"):
            stream.clip(wrong)


def test_options_that_cannot_be_are_refused():
    net = conv()
    for options, message in (
        ({"window": 8.5}, "A window has a whole number of units, at least 1, got 8.5"),
        ({"hop": "a"}, "A step has a whole number of units, at least 1, got 'a'"),
        ({"hop": True}, "A step has a whole number of units"),
        ({"catch_up": "never"}, "catch_up is 'exact' or 'hold', got 'never'"),
        ({"over_window": "branches"}, r"give \['branches'\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            stream_of(net, **options)
    with pytest.raises(ConfigError, match="A stream is made of a network, got str"):
        sentio.stream("tiny-cnn")
    with pytest.raises(ConfigError, match=r"takes a stream, as sentio\.stream makes it, got Sequential"):
        export_step(net, "step.onnx")


def test_a_step_is_not_written_into_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"The step cannot be written to .*: No such file"):
        export_step(stream_of(conv()), tmp_path / "none" / "step.onnx")


def test_what_is_no_state_is_refused(tmp_path):
    state = stream_of(conv()).start(3)
    for rows in ([3], [-1], [0.7], [[0]], [True]):
        with pytest.raises(InputError, match="take\\(\\) is given the numbers of rows"):
            take(state, rows)
    assert take(state, [])["steps"].shape == (0,)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    for wrong in ([1], arrays):
        with pytest.raises(InputError, match="A state is a dict of tensors"):
            save_state(tmp_path / "a", wrong)
    with pytest.raises(InputError, match="A state is a dict of tensors, as a step gives it, got list"):
        stream_of(conv()).step(torch.ones(1, 1, 1), [1])


def test_a_push_that_fails_leaves_a_stream_as_it_was():
    one = SingleStream(stream_of(conv(padding=1)))
    with pytest.raises(InputError):
        one.push(torch.ones(3, 2))
    one.push(torch.ones(1, 2))
    state = one.state
    with pytest.raises(InputError, match="units come as one tensor, got list"):
        one.push([1.0])
    with pytest.raises(InputError, match="a stream keeps its size"):
        one.push(torch.ones(3, 2))
    assert one.state is state
    want = conv(padding=1)(torch.ones(1, 1, 5))[0, :, 1:4]
    assert torch.allclose(torch.cat([answer.output for answer in one.push(torch.ones(1, 3))], 1), want)


def test_a_batch_made_in_inference_mode_goes_on_outside_of_it():
    with torch.inference_mode():
        many = StreamBatch(stream_of(conv()), like=torch.zeros(1, 1, 1))
        many.join("a")
    many.join("b")
    with pytest.raises(InputError, match="A state is a dict of tensors, got list"):
        many.join("c", [1])
    for name in "ab":
        many.push(name, torch.ones(1, 1))
    with torch.inference_mode():
        assert len(many.run()) == 2
    for name in "ab":
        many.push(name, torch.ones(1, 1))
    assert len(many.run()) == 2


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["tiny-cnn", "crnn", "sp4asc", "phinet-1d", None])
def test_a_stream_can_be_stored(name, frozen):
    net = with_exits() if name is None else sentio.create_network(name).eval()
    stream = sentio.stream(net, frozen=frozen, squeeze="frame")
    again = pickle.loads(pickle.dumps(stream))
    x = torch.randn(1, *next(iter(net.input_shapes.values())) if name else (1, 64, 64))
    x = x[:, :, : stream.hop]
    for _ in range(2):
        assert torch.equal(again.step(x).output, stream.step(x).output)
