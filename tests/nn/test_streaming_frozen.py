"""Frozen streams: weights folded and layers merged, and the answers that the network gives."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import sentio
from sentio.core.errors import ConfigError
from sentio.networks.st_gcn import STARRED
from sentio.nn.streaming import FORMS, PerFrame, streams
from sentio.nn.streaming_frozen_conv import columns, flat, product
from sentio.nn.streaming_joins import Chain, Sum
from sentio.nn.streaming_windows import Pad

torch.set_num_threads(1)
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SKELETON = {"classes": 4, "joints": 5, "links": ((1, 0), (2, 1), (3, 0), (4, 3)), "channels": (8, 8, 12)}


def settled(net):
    """With statistics, weights and maps of which none is what it begins with."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in net.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith(("running_var", "mask")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bias")) or tensor.ndim == 1:
            tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype), alpha=0.3)
    return net.double().eval()


@settings(deadline=None, max_examples=60)
@given(
    dims=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 5),
    other=st.sampled_from([1, 3]),
    dilation=st.integers(1, 3),
    stride=st.integers(1, 2),
    padded=st.booleans(),
    bias=st.booleans(),
    act=st.sampled_from([nn.ReLU, nn.SiLU, nn.ReLU6, nn.Hardswish, nn.Sigmoid, nn.Tanh, nn.GELU]),
    norms=st.integers(0, 2),
    rows=st.integers(1, 2),
    size=st.sampled_from([4, 9, 40]),
)
def test_a_convolution_with_what_follows_it(
    on_stream, dims, groups, kernel, other, dilation, stride, padded, bias, act, norms, rows, size
):
    sizes = [size, 3][: dims - 1]
    conv = CONVS[dims](
        4,
        4,
        (kernel, *[other] * (dims - 1)),
        stride=(stride, *[1] * (dims - 1)),
        padding=(dilation * (kernel - 1) // 2 if padded else 0, *[other // 2] * (dims - 1)),
        dilation=(dilation, *[1] * (dims - 1)),
        groups=groups,
        bias=bias,
    )
    layers = [conv, *[NORMS[dims](4) for _ in range(norms)], nn.Dropout(0.5), act(), NORMS[dims](4)]
    net = settled(nn.Sequential(*layers))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn([rows, 4, 24, *sizes], generator=generator, dtype=torch.float64)
    got = on_stream(sentio.stream(net, example=x, frozen=True), x)
    want = net(x)[:, :, : got.shape[2]]
    assert got.shape[2] >= 5
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()


NETWORKS = {
    "cnn6": {"width": 8},
    "tiny-cnn": {},
    "sp4asc": {},
    "dcase2024-baseline": {},
    "phinet-1d": {},
    "x3d-s": {"squeeze": "frame"},
    "slow": {},
    "st-gcn": {**SKELETON, "strides": (1, 2, 1)},
    "agcn": {**SKELETON, "strides": (1, 1, 1), "padded": False, "similarity": "frame"},
    "st-bln": {},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_frozen_network_answers_as_the_live_one(name, on_stream):
    from sentio.core import registry

    entry = registry.find("network", name)
    torch.manual_seed(0)
    net = settled(sentio.create_network(name, **{**entry.small, **NETWORKS[name]}))
    shape = dict(entry.small_shapes)["main"]
    squeeze = "frame" if name == "phinet-1d" else None
    options = {"squeeze": squeeze, "example": torch.zeros(1, *shape), "window": max(32, shape[1])}
    live, frozen = sentio.stream(net, **options), sentio.stream(net, frozen=True, **options)
    assert (frozen.hop, frozen.delay, frozen.warm_up) == (live.hop, live.delay, live.warm_up)
    assert frozen.macs(rule="ptflops").total < live.macs(rule="ptflops").total
    for rows in (1, 2):
        generator = torch.Generator().manual_seed(rows)
        units = (live.warm_up + 3) * live.hop
        x = torch.randn(rows, shape[0], units, *shape[2:], generator=generator, dtype=torch.float64)
        got, want = on_stream(frozen, x), on_stream(live, x)
        assert (got - want).abs().max() <= 1e-10 * want.abs().max()
    clip = frozen.clip(x)
    assert (clip - live.clip(x)).abs().max() <= 1e-10 * clip.abs().max()


def test_the_published_skeleton_network_freezes(on_stream):
    """All maps of a graph in one product, at the published size; the first 20 features."""
    torch.manual_seed(0)
    features = settled(sentio.create_network("st-gcn", **STARRED).before("layer2"))
    x = torch.randn(1, 3, 36, 25, 2, dtype=torch.float64)
    got = on_stream(sentio.stream(features, frozen=True), x)
    want = features(x)
    assert got.shape == want.shape
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()


def test_its_weights_are_its_own():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 2, 3), nn.BatchNorm1d(2), nn.ReLU(), nn.PReLU(2)).eval()
    x = torch.randn(1, 2, 9)
    frozen = sentio.stream(net, frozen=True, hop=9, example=x)
    before = frozen.step(x).output
    kept = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    assert torch.equal(frozen.step(x).output, before)
    net.load_state_dict(kept)
    assert all(not parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert frozen.eval() is frozen
    with pytest.raises(ConfigError, match="frozen stream cannot be trained"):
        frozen.train()


def test_an_activation_does_not_overwrite_what_others_read(on_stream):
    """Behind a pool, a shortcut or the input, a ReLU takes room of its own; states stay as they were."""
    net = nn.Sequential(nn.ReLU(), nn.MaxPool1d(3, stride=1), nn.ReLU(), nn.Conv1d(2, 2, 3), nn.ReLU())
    net = net.double()
    x = torch.randn(1, 2, 12, dtype=torch.float64)
    frozen, given = sentio.stream(net, frozen=True, example=x), x.clone()
    assert torch.allclose(on_stream(frozen, x), net(x), rtol=0, atol=1e-12)
    assert torch.equal(x, given)
    state = frozen.step(x[:, :, :1]).state
    before = {name: tensor.clone() for name, tensor in state.items()}
    frozen.step(x[:, :, 1:2], state)
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


@settings(deadline=None, max_examples=20)
@given(dims=st.integers(1, 3), kernel=st.integers(1, 3), stride=st.integers(1, 3), dilation=st.integers(1, 2))
def test_columns_are_what_a_convolution_reads(dims, kernel, stride, dilation):
    conv = CONVS[dims](3, 4, kernel, stride=stride, dilation=dilation, bias=False).double()
    x = torch.randn([2, 3, *[7] * dims], dtype=torch.float64).transpose(2, -1)
    each = [(size,) * dims for size in (kernel, stride, dilation)]
    want = conv(x)
    rows = columns(x, *each).reshape(want[:, 0].numel(), -1)
    got = product(flat(conv.weight), None, rows).view(2, *want.shape[2:], 4).movedim(-1, 1)
    assert torch.allclose(got, want, rtol=0, atol=1e-12)


class Scaled(nn.Module):
    """Counts on channels that lie first."""

    def forward(self, x):
        return x.view(len(x), x.shape[1], -1).mul(2.0).view(x.shape)


def test_a_module_from_elsewhere_finds_its_input_as_it_expects_it(on_stream):
    streams(Scaled)(PerFrame)
    try:
        net = nn.Sequential(nn.Conv2d(2, 3, 3), Scaled(), nn.Conv2d(3, 2, 1), Scaled()).double()
        x = torch.randn(2, 2, 12, 6, dtype=torch.float64)
        got = on_stream(sentio.stream(net, frozen=True, example=x), x)
        assert torch.allclose(got, net(x), rtol=0, atol=1e-12)
    finally:
        del FORMS[Scaled]


def test_a_norm_behind_a_sum_goes_into_its_convolutions(on_stream):
    alone = settled(nn.ModuleList([nn.Conv1d(2, 4, 3), nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4)]))
    wide, narrow, norm = alone

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = alone

        def forward(self, x):
            return norm(wide(x) + narrow(x)[:, :, 2:])

    streams(Both)(lambda module: Chain(Sum(wide, Chain(Pad((-2, 0)), narrow)), norm))
    try:
        net = nn.Sequential(Both()).double().eval()
        x = torch.randn(1, 2, 12, dtype=torch.float64)
        frozen = sentio.stream(net, frozen=True, example=x)
        assert not any("Affine" in type(module).__name__ for module in frozen.modules())
        assert torch.allclose(on_stream(frozen, x), net(x), rtol=0, atol=1e-12)
    finally:
        del FORMS[Both]


class Branches(nn.Module):
    """A sum with a branch that does nothing in eval mode, and a norm behind it."""

    def __init__(self, first):
        super().__init__()
        self.first = first
        self.drop, self.conv, self.norm = nn.Dropout(0.5), nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2)
        nn.init.normal_(self.norm.weight)

    def forward(self, x):
        return self.norm(self.drop(x) + self.conv(x))


@streams(Branches)
def _branches(block):
    return Chain(
        Sum(block.drop, block.conv) if block.first else Sum(block.conv, block.drop, nn.Identity()), block.norm
    )


@pytest.mark.parametrize("first", [False, True])
def test_a_branch_of_which_nothing_is_left_freezes(on_stream, first):
    net = nn.Sequential(Branches(first), nn.ReLU(), nn.Conv1d(2, 2, 1)).double().eval()
    x = torch.randn(2, 2, 12, dtype=torch.float64)
    got = on_stream(sentio.stream(net, example=x, frozen=True), x)
    want = on_stream(sentio.stream(net, example=x), x)
    assert torch.allclose(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("made", [weight_norm, spectral_norm])
def test_parametrised_weights_freeze_as_they_are(on_stream, made):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3)
    nn.init.constant_(norm.weight, 3.0)
    net = nn.Sequential(made(nn.Conv1d(2, 3, 3)), norm, nn.ReLU(), made(nn.Conv1d(3, 3, 1))).double().eval()
    x = torch.randn(2, 2, 12, dtype=torch.float64)
    want = net(x)
    stream = sentio.stream(net, example=x, frozen=True)
    assert torch.allclose(on_stream(stream, x), want, rtol=0, atol=1e-12)
    assert torch.equal(net(x), want)
