"""Every registered network on a stream: what it gives is what the clip network gives, or it is refused."""

from copy import deepcopy

import pytest
import torch
from torch import nn

import sentio
from sentio.core import registry
from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.nn.conv import InvertedResidual
from sentio.nn.squeeze_excitation import SqueezeExcitation

torch.set_num_threads(1)
NETWORKS = registry.names("network")
#: hop, delay of the features in front of the head, of networks at their small sizes
AUDIO = {
    "cnn6": (16, 45),
    "cnn10": (16, 45),
    "sp4asc": (16, 45),
    "dcase2024-baseline": (8, 39),
    "tiny-cnn": (16, 45),
    "phinet-teacher": (2, 13),
    "phinet-1d": (400, 1503),
    "phinet": (8, 7),
    "phinet-icassp": (2, 8),
    "crnn": (1, 6),
    "crnn-desed": (1, 9),
}


def build(name, dtype=torch.float64):
    entry = registry.find("network", name)
    torch.manual_seed(0)
    net = sentio.create_network(name, **entry.small)
    net.input_shapes = dict(entry.small_shapes)
    with torch.no_grad():
        for seed in range(3):
            net.train()(net.example(8, seed=seed))
    return net.to(dtype).eval()


def clip_of(net, batch=2, times=6):
    shape = list(next(iter(net.input_shapes.values())))
    shape[1] *= times
    dtype = next(net.parameters()).dtype
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype)


def squeezing(net):
    return any(isinstance(m, SqueezeExcitation) and m.gate is not None for m in net.modules())


class ByFrame(nn.Module):
    """Squeeze and excitation as the stream is asked to do it, written the slow way."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return torch.cat([self.module(x[:, :, t : t + 1]) for t in range(x.shape[2])], 2)


def per_frame(net):
    """The clip network with squeeze and excitation by the frame, to compare with."""
    net = deepcopy(net)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SqueezeExcitation) and not isinstance(parent, ByFrame):
                setattr(parent, name, ByFrame(child))
    return net


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_streams_or_is_refused_by_name(name, on_stream):
    """The features in front of the head are the clip network's own, padding, strides, shortcuts and all."""
    net = build(name)
    squeeze = "frame" if squeezing(net) else None
    features = net.before(net.stage_names[-2])
    if name not in AUDIO:
        try:
            sentio.stream(net, squeeze=squeeze)
        except ConfigError as error:
            assert " cannot run on a stream: " in str(error) or "one input" in str(error)
            return
    stream = sentio.stream(features, squeeze=squeeze)
    x = clip_of(net)
    got = on_stream(stream, x)
    want = per_frame(features)(x)
    count = got.shape[2]
    assert count > want.shape[2] / 2
    assert (got - want[:, :, :count]).abs().max() <= 1e-10 * want.abs().max()
    if name in AUDIO:
        assert (stream.hop, stream.delay) == AUDIO[name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", AUDIO)
def test_predictions_equal_the_clip_form(name, dtype, on_stream):
    """The head over the last window of features, one answer a step."""
    net = build(name, dtype)
    squeeze = "frame" if squeezing(net) else None
    stream = sentio.stream(net, squeeze=squeeze)
    x = clip_of(net)
    got, clip = on_stream(stream, x), stream.clip(x)
    tolerance = (1e-5 if dtype is torch.float32 else 1e-10) * clip.abs().max()
    count = min(got.shape[1], clip.shape[1])
    assert count >= 2
    assert (got[:, :count] - clip[:, :count]).abs().max() <= tolerance
    # And by the network's own modules: the window slides over the clip network's features.
    last = net.stage_names[-1]
    maps = per_frame(net.before(net.stage_names[-2]))(x)
    frames = net.before(net.stage_names[-2])(clip_of(net, 1, 1)).shape[2]
    units = stream.hop // sentio.stream(net.before(net.stage_names[-2]), squeeze=squeeze).stride
    want = torch.stack([net.stage(last)(maps[:, :, t * units : t * units + frames]) for t in range(count)], 1)
    assert (got[:, :count] - want).abs().max() <= tolerance


@pytest.mark.parametrize("name", ["phinet", "phinet-icassp", "phinet-1d"])
def test_squeeze_and_excitation_has_to_be_asked_for(name):
    with pytest.raises(ConfigError, match=r"\(SqueezeExcitation\) cannot run on a stream: .*squeeze='frame'"):
        sentio.stream(build(name))


def test_an_unpadded_network_answers_as_for_each_window(on_stream):
    """The stream's n-th answer is the clip network's answer to the n-th window of the input."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, (5, 3))]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double().eval()
    x = torch.randn(2, 1, 80, 20, dtype=torch.float64)
    stream = sentio.stream(net, window=30, example=x)
    got = on_stream(stream, x)
    want = torch.stack([net(x[:, :, t : t + 30]) for t in range(0, 80 - 29, stream.hop)], 1)
    assert got.shape == want.shape == (2, 26, 3)
    assert torch.allclose(got, want, rtol=0, atol=1e-12)


def test_a_longer_window_needs_no_training(on_stream):
    net = build("tiny-cnn")
    short, long = sentio.stream(net), sentio.stream(net, window=96)
    assert long.receptive_field - short.receptive_field == 64
    assert long.warm_up - short.warm_up == 4
    assert long.macs().total == short.macs().total


def test_a_step_costs_a_fraction_of_the_clip():
    from sentio.core.counting import count

    net = sentio.create_network("cnn6")
    clip = count(net, net.example()).total
    # A hop is 16 frames of the window of 50.
    assert sentio.stream(net).macs().total < 0.4 * clip


def test_gradients_flow_through_the_clip():
    net = build("tiny-cnn")
    stream = sentio.stream(net).train()
    stream.clip(clip_of(net)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    with pytest.raises(ConfigError, match="steps in eval mode"):
        stream.step(clip_of(net)[:, :, : stream.hop])


def test_a_step_leaves_the_state_it_was_given(on_stream):
    net = build("sp4asc")
    stream = sentio.stream(net)
    x = clip_of(net)
    _, _, state = stream.step(x[:, :, : stream.hop])
    before = {name: tensor.clone() for name, tensor in state.items()}
    first = stream.step(x[:, :, stream.hop : 2 * stream.hop], state)
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    again = stream.step(x[:, :, stream.hop : 2 * stream.hop], state)
    assert all(torch.equal(first.state[name], tensor) for name, tensor in again.state.items())


def test_the_age_of_each_row_is_its_own():
    """A row that starts later is blanked by its own steps, and valid by them."""
    net = build("dcase2024-baseline")
    stream = sentio.stream(net)
    x = clip_of(net)
    chunks = x.split(stream.hop, 2)
    state = stream.start(2)
    alone = []
    for _ in range(3):  # row 0 is three steps ahead
        _, _, state = stream.step(chunks[len(alone)], state)
        alone.append(None)
    young = {name: torch.cat((tensor[:1], stream.start(1)[name])) for name, tensor in state.items()}
    one, other = {k: v[:1] for k, v in state.items()}, None
    for step in range(5):
        both = torch.cat((chunks[3 + step][:1], chunks[step][1:]))
        y, valid, young = stream.step(both, young)
        y0, valid0, one = stream.step(both[:1], one)
        y1, valid1, other = stream.step(both[1:], other)
        assert valid.tolist() == [*valid0.tolist(), *valid1.tolist()]
        assert torch.allclose(y, torch.cat((y0, y1)), rtol=0, atol=1e-12)
    assert stream.warm_up == 5 or valid.tolist() == [True, False]


def test_over_window_runs_what_cannot_stream(on_stream):
    torch.manual_seed(0)
    attention = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)

    class Pooled(nn.Module):
        def forward(self, x):
            return x.mean(1)

    net = nn.Sequential(nn.Linear(6, 6), attention, Pooled(), nn.Linear(6, 2)).double().eval()
    x = torch.randn(2, 15, 6, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"Layer '1' \(TransformerEncoderLayer\)"):
        sentio.stream(net, axis=1, window=5, example=x)
    stream = sentio.stream(net, axis=1, window=5, over_window=["1"], example=x)
    want = torch.stack([net(x[:, t : t + 5]) for t in range(11)], 1)
    net[2].forward = lambda y: y.mean(1)
    got = on_stream(stream, x)
    assert got.shape == want.shape
    assert torch.allclose(got, want, rtol=0, atol=1e-12)
    with pytest.raises(UnknownNameError, match="over_window"):
        sentio.stream(net, axis=1, over_window=["7"], example=x)


def test_what_is_asked_has_to_fit():
    net = build("tiny-cnn")
    stream = sentio.stream(net)
    with pytest.raises(InputError, match=r"A step takes 16 units on axis 2 of 4, got shape \(1, 1, 15, 32\)"):
        stream.step(torch.zeros(1, 1, 15, 32, dtype=torch.float64))
    with pytest.raises(InputError, match="The state is of 2 streams and the input of 1"):
        stream.step(torch.zeros(1, 1, 16, 32, dtype=torch.float64), stream.start(2))
    with pytest.raises(InputError, match="has no 'steps'"):
        stream.step(torch.zeros(1, 1, 16, 32, dtype=torch.float64), {})
    with pytest.raises(InputError, match=r"The state has no 'stages\.block1"):
        stream.step(torch.zeros(1, 1, 16, 32, dtype=torch.float64), {"steps": torch.zeros(1).long()})
    with pytest.raises(ConfigError, match="Axis 4 cannot be time"):
        sentio.stream(net, axis=4)
    with pytest.raises(ConfigError, match="use a multiple of it"):
        sentio.stream(net, hop=24)
    with pytest.raises(ConfigError, match="squeeze is 'frame' or 'window', or None to refuse it, got 'clip'"):
        sentio.stream(net, squeeze="clip")


def test_a_frame_needs_no_axis_of_time_where_the_hop_is_one():
    conv = nn.Conv2d(2, 3, 3).double()
    stream = sentio.stream(nn.Sequential(conv))
    x = torch.randn(1, 2, 5, 7, dtype=torch.float64)
    state = None
    for frame in x.unbind(2):
        y, valid, state = stream.step(frame, state)
    assert valid.all()
    assert torch.allclose(y, conv(x)[:, :, -1:], rtol=0, atol=1e-12)


def test_a_block_streams_with_its_norm_or_not_at_all(on_stream):
    """The norm behind an inverted residual's sum was left out; CP-Mobile's reads the whole clip."""
    with pytest.raises(ConfigError, match=r"'stages\.block1\.norm' \(GlobalResponseNorm\) cannot run"):
        sentio.stream(build("cp-mobile"))
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    block = InvertedResidual(4, 8, 4, norm=norm).double().eval()
    x = torch.randn(1, 4, 20, 8, dtype=torch.float64)
    for frozen in (False, True):
        got = on_stream(sentio.stream(block, example=x, frozen=frozen), x)
        assert torch.allclose(got, block(x)[:, :, : got.shape[2]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", ["MaxMeanHead", "BandsHead"])
def test_a_head_that_pools_time_alone_is_refused_where_time_is_another_axis(head):
    from sentio.nn import pooling

    sizes = {"bands": 5} if head == "BandsHead" else {}
    module = getattr(pooling, head)(3, classes=2, dropout=0.0, **sizes)
    x = torch.zeros(1, 3, 5, 5)
    assert sentio.stream(module, window=5, example=x).hop == 1
    with pytest.raises(ConfigError, match=rf"{head} cannot run on a stream: .* and time is axis 3"):
        sentio.stream(module, axis=3, window=5, example=x)


@pytest.mark.parametrize(
    ("over", "axis", "reason"),
    [
        ("first", 1, "reads the first token"),
        ("all", 2, r"averages axes \(1,\) of one tensor, and time is axis 2"),
    ],
)
def test_an_exit_that_averages_something_else_than_time_is_refused(over, axis, reason):
    """On a stream it averaged time all the same."""
    net = sentio.Staged({"a": nn.Identity(), "b": nn.Identity()}, input_shapes={"main": (8, 8)})
    net = sentio.add_exits(net, "pooled-linear", at=["a"], names=["early"], classes=3, over=over)
    with pytest.raises(ConfigError, match=rf"PooledLinearExit cannot run on a stream: .*{reason}"):
        sentio.stream(net.branch("early"), axis=axis, window=8, example=torch.zeros(1, 8, 8))
