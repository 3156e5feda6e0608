"""Per-frame layers, recurrent layers, squeeze and excitation, joins; and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sentio
from sentio.core.errors import ConfigError
from sentio.nn.squeeze_excitation import SqueezeExcitation
from sentio.nn.streaming import Form, PerFrame, streams
from sentio.nn.streaming_joins import Chain, Concat, Identity, Product, Sum

torch.set_num_threads(1)


def randn(*sizes, seed=0):
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Tokens(nn.Module):
    """(batch, channel, time) to (batch, time, channel)."""

    def forward(self, x):
        return x.transpose(1, 2)


@streams(Tokens)
class StreamedTokens(PerFrame):
    def plan(self, flow, plan):
        from dataclasses import replace

        return replace(flow, axis=1, ndim=3)


class Last(nn.Module):
    """A recurrent layer without its final state, as a clip network would use it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


@streams(Last)
def _last(module: Last) -> Form:
    return Chain(module.layer)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("hop", [1, 3])
def test_recurrent_layers_begin_with_the_stream(on_stream, kind, hop):
    """Behind a convolution there are units before the start; they must leave the hidden state alone."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(3, 4, 5, padding=2), Tokens(), Last(kind(4, 6, 2, batch_first=True)))
    net = net.double().eval()
    x = randn(2, 3, 24)
    stream = sentio.stream(net, hop=hop, example=x)
    assert stream.receptive_field == float("inf")
    got = on_stream(stream, x)
    assert got.shape[1] >= 18
    assert torch.allclose(got, net(x)[:, : got.shape[1]], rtol=0, atol=1e-12)
    assert torch.allclose(stream.clip(x), net(x)[:, :22], rtol=0, atol=1e-12)


def test_a_projected_lstm_has_a_narrower_hidden_state(on_stream):
    net = nn.Sequential(Last(nn.LSTM(3, 6, proj_size=2, batch_first=True))).double()
    x = randn(2, 9, 3)
    got = on_stream(sentio.stream(net, axis=1, example=x), x)
    assert torch.allclose(got, net(x), rtol=0, atol=1e-12)


def per_frame_squeeze(module, x):
    frames = [module(x[:, :, t : t + 1]) for t in range(x.shape[2])]
    return torch.cat(frames, 2)


@pytest.mark.parametrize("hidden", [0, 3])
def test_squeeze_and_excitation_by_the_frame(on_stream, hidden):
    module = SqueezeExcitation(4, hidden).double()
    x = randn(2, 4, 9, 5)
    stream = sentio.stream(nn.Sequential(module), squeeze="frame", example=x)
    assert torch.allclose(on_stream(stream, x), per_frame_squeeze(module, x), rtol=0, atol=1e-12)
    assert torch.allclose(stream.clip(x), per_frame_squeeze(module, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("hop", [1, 3])
@pytest.mark.parametrize("before", [nn.Identity(), nn.Conv2d(4, 4, (5, 3), padding=(2, 1))])
def test_squeeze_and_excitation_over_the_last_frames(on_stream, before, hop):
    """Over all there are while a stream is younger, behind a delay too; a whole window as the clip has it."""
    torch.manual_seed(0)
    before, module = before.double(), SqueezeExcitation(4, 3).double()
    x = randn(2, 4, 21, 5)
    stream = sentio.stream(nn.Sequential(before, module), squeeze="window", window=6, hop=hop, example=x)
    maps = before(x)
    frames = [module(maps[:, :, max(0, t - 5) : t + 1])[:, :, -1:] for t in range(21)]
    want, got = torch.cat(frames, 2), on_stream(stream, x)
    assert got.shape[2] >= 18
    assert torch.allclose(got, want[:, :, : got.shape[2]], rtol=0, atol=1e-12)
    clip = stream.clip(x)
    assert torch.allclose(clip, want[:, :, : clip.shape[2]], rtol=0, atol=1e-12)
    assert stream.receptive_field == (10 if isinstance(before, nn.Conv2d) else 6)


def test_squeeze_and_excitation_over_the_clip_is_refused():
    with pytest.raises(ConfigError, match=r"Layer '0' \(SqueezeExcitation\).*pass squeeze='frame'"):
        sentio.stream(nn.Sequential(SqueezeExcitation(4, 2)), example=torch.zeros(1, 4, 8, 8))


class Branched(nn.Module):
    """Three branches of different lengths and one stride, joined in one way or another."""

    def __init__(self, how, kernels, stride):
        super().__init__()
        self.how, self.stride = how, stride
        self.convs = nn.ModuleList(nn.Conv1d(3, 3, k, stride=stride, padding=k // 2) for k in kernels)
        self.shortcut = nn.Conv1d(3, 3, 1, stride=stride)

    def forward(self, x):
        branches = [conv(x) for conv in self.convs] + [self.shortcut(x) if self.stride > 1 else x]
        if self.how is Concat:
            return torch.cat(branches, 1)
        total = branches[0]
        for branch in branches[1:]:
            total = total + branch if self.how is Sum else total * branch
        return total


@streams(Branched)
def _branched(block: Branched) -> Form:
    return block.how(*block.convs, block.shortcut if block.stride > 1 else Identity())


@settings(deadline=None, max_examples=30)
@given(
    how=st.sampled_from([Sum, Product, Concat]),
    kernels=st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=3),
    stride=st.integers(1, 3),
    hops=st.integers(1, 2),
)
def test_branches_wait_for_the_slowest(on_stream, how, kernels, stride, hops):
    torch.manual_seed(0)
    channels = 3 * (len(kernels) + 1) if how is Concat else 3
    net = nn.Sequential(
        nn.Conv1d(3, 3, 3), Branched(how, kernels, stride), nn.Conv1d(channels, 2, 3, padding=1)
    )
    net = net.double().eval()
    x = randn(2, 3, 60)
    got = on_stream(sentio.stream(net, hop=hops * stride, example=x), x)
    want = net(x)[:, :, : got.shape[2]]
    assert got.shape[2] >= 8
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()


def test_a_residual_is_delayed_by_its_branch():
    """By d(k - 1) - p: by 1 for a padded kernel of three, by 2 if it is dilated, too."""
    for dilation in (1, 2):
        conv = nn.Conv1d(3, 3, 3, padding=dilation, dilation=dilation)

        class Residual(nn.Module):
            pass

        FormOf = streams(Residual)
        FormOf(lambda block, conv=conv: Sum(conv, Identity()))
        stream = sentio.stream(nn.Sequential(Residual()), example=torch.zeros(1, 3, 9))
        assert stream.delay == dilation
        (delay,) = [size for name, size in stream.start().items() if name.endswith("delay")]
        assert delay.shape == (1, 3, dilation)


def test_branches_of_different_strides_are_refused():
    class Uneven(nn.Module):
        pass

    streams(Uneven)(lambda block: Sum(nn.Conv1d(3, 3, 1, stride=2), Identity()))
    with pytest.raises(ConfigError, match=r"Layer '0' \(Uneven\).*different strides in time: 2, 1"):
        sentio.stream(nn.Sequential(Uneven()), example=torch.zeros(1, 3, 9))


PER_FRAME = [
    nn.BatchNorm1d(4),
    nn.PReLU(4),
    nn.GELU(),
    nn.Softmax(dim=1),
    nn.GLU(dim=1),
    nn.Dropout(0.5),
]


@pytest.mark.parametrize("module", PER_FRAME, ids=lambda module: type(module).__name__)
def test_per_frame_layers_are_themselves(on_stream, module):
    module = module.double().eval()
    x = randn(2, 4, 7)
    stream = sentio.stream(nn.Sequential(module), example=x)
    assert stream.delay == 0
    assert torch.equal(on_stream(stream, x), module(x))


@pytest.mark.parametrize("module", [nn.Linear(4, 3), nn.LayerNorm(4), nn.RMSNorm(4)])
def test_layers_of_the_last_axis(on_stream, module):
    module = module.double()
    x = randn(2, 7, 4)
    got = on_stream(sentio.stream(nn.Sequential(module), axis=1, example=x), x)
    assert torch.allclose(got, module(x), rtol=0, atol=1e-12)
    with pytest.raises(ConfigError, match="and time is among them"):
        sentio.stream(nn.Sequential(module), axis=2, example=x)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.GroupNorm(2, 4), "statistics are over the whole clip"),
        (nn.InstanceNorm1d(4), "statistics are over the whole clip"),
        (nn.BatchNorm1d(4, track_running_stats=False), "track_running_stats=True"),
        (nn.GRU(4, 4, batch_first=True, bidirectional=True), "backward half begins at the end"),
        (nn.GRU(4, 4), "batch_first=True"),
        (nn.MultiheadAttention(4, 2), "WindowAttention"),
        (nn.TransformerEncoderLayer(4, 2), "WindowAttention"),
        (nn.Softmax(dim=2), "goes along axis 2, which is time"),
        (nn.Softmax(dim=-1), "goes along axis 2, which is time"),
        (nn.Flatten(), "flattens time"),
        (nn.AdaptiveAvgPool1d(3), "output_size"),
        (nn.Bilinear(4, 4, 4), "nothing says how it runs in time; declare it"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_mixes_the_clip_is_refused_by_name(module, reason):
    with pytest.raises(ConfigError) as caught:
        sentio.stream(nn.Sequential(nn.ReLU(), module), example=torch.zeros(1, 4, 4))
    assert str(caught.value).startswith(f"Layer '1' ({type(module).__name__}) cannot run on a stream: ")
    assert reason in str(caught.value)


def test_a_class_of_ones_own_is_not_taken_for_its_parent():
    class Loud(nn.ReLU):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ConfigError, match=r"\(Loud\).*nothing says how it runs in time"):
        sentio.stream(nn.Sequential(Loud()), example=torch.zeros(1, 4, 4))


@pytest.mark.parametrize(
    "pool",
    [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.AdaptiveAvgPool2d((1, 1))],
)
def test_global_pooling_is_over_the_last_window(on_stream, pool):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(3, 4)).double()
    x = randn(2, 2, 20, 6)
    stream = sentio.stream(net, window=9, example=x)
    assert (stream.warm_up, stream.receptive_field, stream.delay) == (8, 9, 8)
    got = on_stream(stream, x)
    want = torch.stack([net(x[:, :, t : t + 9]) for t in range(12)], 1)
    assert got.shape == want.shape
    assert torch.allclose(got, want, rtol=0, atol=1e-12)
    assert torch.allclose(stream.clip(x), want, rtol=0, atol=1e-12)


def test_pooling_of_other_axes_leaves_time(on_stream):
    net = nn.Sequential(nn.AdaptiveAvgPool2d((None, 2))).double()
    x = randn(2, 3, 8, 6)
    assert torch.allclose(on_stream(sentio.stream(net, example=x), x), net(x), rtol=0, atol=1e-12)


def test_the_last_frames_of_squeeze_and_excitation_need_a_window():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), SqueezeExcitation(4, 2))
    with pytest.raises(ConfigError, match=r"\(SqueezeExcitation\).*say how many with window="):
        sentio.stream(net, squeeze="window")


def test_a_pool_over_the_clip_needs_a_window():
    with pytest.raises(ConfigError, match=r"it reads a whole clip; say how much .* window="):
        sentio.stream(nn.Sequential(nn.Conv1d(2, 2, 3), nn.AdaptiveAvgPool1d(1)))


class PaddedBranch(nn.Module):
    """Padding by other numbers than zero, beside the input or beside padding by zeros."""

    def __init__(self, beside):
        super().__init__()
        self.beside = beside
        self.conv, self.pad = nn.Conv1d(2, 2, 3), nn.ConstantPad1d((3, 0), 5.0)
        self.zeros, self.fives = nn.ZeroPad1d((2, 0)), nn.ConstantPad1d((2, 0), 5.0)

    def forward(self, x):
        return (
            self.pad(self.conv(x))[:, :, : x.shape[2]] + x if self.beside else self.zeros(x) + self.fives(x)
        )


@streams(PaddedBranch)
def _padded_branch(block):
    if block.beside:
        return Sum(Chain(block.conv, block.pad), Identity())
    return Sum(block.zeros, block.fives)


@pytest.mark.parametrize("beside", [False, True])
def test_branches_wait_with_what_was_padded(on_stream, beside):
    torch.manual_seed(0)
    net = nn.Sequential(PaddedBranch(beside), nn.Conv1d(2, 2, 3)).double()
    x = randn(1, 2, 14)
    got = on_stream(sentio.stream(net, example=x), x)
    assert got.shape[2] >= 10
    assert torch.allclose(got, net(x)[:, :, : got.shape[2]], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("module", "size", "reason"),
    [
        (nn.AdaptiveAvgPool1d(1), (9, 6), "time is axis 1, over which it does not slide"),
        (nn.AdaptiveMaxPool2d(1), (9, 6, 5), "time is axis 1, over which it does not slide"),
        (nn.BatchNorm1d(9), (9, 6), "its channels are axis 1, and that is time"),
        (nn.PReLU(9), (9, 6), "its channels are axis 1, and that is time"),
        (nn.Softmax2d(), (9, 6, 5), "its channels are axis 1, and that is time"),
    ],
)
def test_a_layer_that_takes_axis_1_for_channels_is_refused_where_it_is_time(module, size, reason):
    with pytest.raises(ConfigError, match=rf"{type(module).__name__} cannot run on a stream: {reason}"):
        sentio.stream(module, axis=1, window=9, example=torch.zeros(1, *size))


@pytest.mark.parametrize("sizes", [(3, None), (None, 3), (2, 3)])
def test_pooling_of_the_last_axes_leaves_time_before_them(on_stream, sizes):
    net, x = nn.AdaptiveAvgPool2d(sizes), randn(2, 9, 6, 6)
    assert torch.equal(on_stream(sentio.stream(net, axis=1, example=x), x), net(x))


def test_branches_side_by_side_in_time_are_refused_however_the_axis_is_counted():
    class Doubled(nn.Module):
        def forward(self, x):
            return torch.cat((x, x), -1)

    streams(Doubled)(lambda module: Concat(Identity(), Identity(), dim=-1))
    with pytest.raises(ConfigError, match="it joins its branches on axis 2, which is time"):
        sentio.stream(nn.Sequential(Doubled()), example=torch.zeros(1, 2, 9))
