"""Weights packed for oneDNN: the answers of PyTorch's own operations, and where it is left to them."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import sentio
from sentio.nn import streaming_packed
from sentio.nn.streaming_packed import LARGE, MOST, Packed

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN in this PyTorch")

ONES = ((1, 1), (0, 0), (1, 1))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def large(cin=128, cout=192, kernel=(3, 3)):
    """Input, weights and bias of a convolution that is worth packing."""
    generator = torch.Generator().manual_seed(0)
    draw = [
        torch.randn(shape, generator=generator) for shape in ((2, cin, 6, 9), (cout, cin, *kernel), (cout,))
    ]
    return draw[0].contiguous(memory_format=torch.channels_last), draw[1] / 30, draw[2]


def same(found, expected):
    assert found is not None
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


# 96 and its multiples are the channels that oneDNN, not told the size, puts into another order at each call.
@pytest.mark.parametrize("cout", [96, 192, 200, 256])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [ONES, ((1, 2), (0, 1), (1, 1)), ((2, 1), (1, 2), (1, 2))]
)
@pytest.mark.parametrize("biased", [True, False])
def test_a_convolution_gives_what_pytorchs_own_gives(cout, stride, padding, dilation, biased):
    x, weight, bias = large(160, cout)
    bias = bias if biased else None
    settings = (stride, padding, dilation)
    found = Packed().convolution(x, weight, bias, *settings)
    same(found, F.conv2d(x, weight, bias, *settings))


def test_one_over_space_and_time_and_a_window_that_is_a_view():
    packed = Packed()
    x, weight = torch.randn(1, 72, 3, 6, 6), torch.randn(72, 72, 3, 3, 3) / 40
    x = x.contiguous(memory_format=torch.channels_last_3d)
    settings = ((1, 1, 1), (0, 1, 1), (1, 1, 1))
    same(packed.convolution(x, weight, None, *settings), F.conv3d(x, weight, None, *settings))
    x, weight, bias = large()
    same(Packed().convolution(x[:, :, 1:5], weight, bias, *ONES), F.conv2d(x[:, :, 1:5], weight, bias))


def test_weights_that_change_or_are_replaced_are_packed_anew():
    packed = Packed()
    x, weight, bias = large()
    packed.convolution(x, weight, bias, *ONES)
    weight.mul_(2)
    same(packed.convolution(x, weight, bias, *ONES), F.conv2d(x, weight, bias))
    other = weight.flip(0)
    same(packed.convolution(x, other, bias, *ONES), F.conv2d(x, other, bias))


def test_batches_of_any_size_and_no_more_orders_than_are_kept():
    packed = Packed()
    x, weight, bias = large()
    for batch in range(1, MOST + 3):
        many = x[:1].expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        same(packed.convolution(many, weight, bias, *ONES), F.conv2d(many, weight, bias))
        assert len(packed._made[2]) == min(batch, MOST)
    same(packed.convolution(x, weight, bias, *ONES), F.conv2d(x, weight, bias))  # no longer kept, made again


def test_small_layers_and_what_onednn_does_not_take_are_left_to_pytorch():
    x, weight, bias = large()

    def tried():
        return Packed().convolution(x, weight, bias, *ONES)

    assert tried() is not None
    assert Packed().convolution(x[:, :8], weight[:, :8], bias, *ONES) is None
    assert weight[:, :8].numel() < LARGE
    assert Packed().convolution(x.double(), weight.double(), bias.double(), *ONES) is None
    with torch.enable_grad():
        assert tried() is None
    with torch.autocast("cpu"):
        assert tried() is None
    with torch.backends.mkldnn.flags(enabled=False):
        assert tried() is None


class Following(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_nobody_who_follows_operations_is_misled():
    x, weight, bias = large()
    with Following():
        assert Packed().convolution(x, weight, bias, *ONES) is None
    net = nn.Sequential(nn.Conv2d(96, 192, 3, padding=1), nn.ReLU()).eval()
    example = torch.zeros(1, 96, 8, 6)
    frozen = sentio.stream(net, example=example, frozen=True)
    live = sentio.stream(net, example=example)
    assert frozen.macs().total == live.macs().total


def test_tangents_are_not_dropped():
    """Forward differentiation follows operations though gradients are off."""
    net = nn.Sequential(nn.Conv2d(64, 256, (3, 3), padding=(0, 1))).eval()
    x, towards = torch.randn(2, 1, 64, 9, 4).unbind()
    stream = sentio.stream(net, example=x, frozen=True)
    expected = torch.func.jvp(net, (x,), (towards,))[1]
    with torch.no_grad(), forward_ad.dual_level():
        parts = zip(x.split(1, dim=2), towards.split(1, dim=2), strict=True)
        state, found = None, []
        for part in parts:
            output, _, state = stream.step(forward_ad.make_dual(*part), state)
            found.append(forward_ad.unpack_dual(output).tangent)
    torch.testing.assert_close(torch.cat(found[2:], dim=2), expected)


def test_a_copy_is_empty():
    packed = Packed()
    packed.convolution(*large(), *ONES)
    assert packed._made[2]
    assert not copy.deepcopy(packed)._made[2]


def test_a_size_that_another_thread_packs_meanwhile_is_no_error(monkeypatch):
    packed = Packed()
    x, weight, bias = large()
    found, met = iter(range(100)), []

    def order(tensor):  # each is another one; while the first is compared, another size is packed
        if tensor is met[0]:
            met[0] = None
            packed.convolution(x[:, :, :4], weight, bias, *ONES)
        return torch.tensor([next(found)])

    packed.convolution(x[:, :, :5], weight, bias, *ONES)
    met += packed._made[2].values()
    monkeypatch.setattr(streaming_packed, "_order", order)
    same(packed.convolution(x, weight, bias, *ONES), F.conv2d(x, weight, bias))
    assert len(packed._made[2]) == 3


def frozen_stream():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(96, 192, 3, padding=1), nn.ReLU(), nn.Conv2d(192, 96, (3, 1))).eval()
    return sentio.stream(net, example=torch.zeros(1, 96, 8, 6), frozen=True)


def last_of(stream, x):
    """The last of a clip's answers, step by step."""
    state = None
    for chunk in x.split(1, 2):
        output, valid, state = stream.step(chunk, state)
    assert valid.all()
    return output


def test_weights_that_were_rounded_are_packed_anew():
    frozen, x = frozen_stream(), torch.randn(1, 96, 9, 6)
    before = last_of(frozen, x)
    rounded = frozen.bfloat16().float()  # other data in the same parameters
    expected = rounded.clip(x)[:, :, -1:]
    found = last_of(rounded, x)
    with torch.backends.mkldnn.flags(enabled=False):
        same(found, last_of(copy.deepcopy(rounded), x))
    same(found, expected)
    assert (found - before).abs().max() > 1e-4 * before.abs().max()


@pytest.mark.parametrize("exits", [False, True])
def test_weights_loaded_in_inference_mode_are_packed_anew(exits):
    def made():
        if not exits:
            return frozen_stream()
        net = sentio.create_network("cnn6", classes=2)
        net = sentio.add_exits(net, "pooled-linear", at=["block2"], classes=2)
        return sentio.stream(net.eval(), frozen=True)

    def answers(stream):
        state = None
        for chunk in x.split(stream.hop, 2):
            state = (found := stream.step(chunk, state)).state
        return found.output

    with torch.inference_mode():
        frozen = made()
        x = torch.randn(1, 1, 8 * frozen.hop, 64) if exits else torch.randn(1, 96, 8, 6)
        before = answers(frozen)
        halved = {name: tensor / 2 for name, tensor in frozen.state_dict().items()}
        other = copy.deepcopy(frozen)
        frozen.load_state_dict(halved)
        other.load_state_dict(halved)
        found = answers(frozen)
        same(found, answers(other))
        assert (found - before).abs().max() > 0.1 * before.abs().max()


def test_nothing_is_kept_of_weights_that_went_elsewhere():
    frozen, x = frozen_stream(), torch.randn(1, 96, 9, 6)
    last_of(frozen, x)
    packed = frozen.layout.form.forms[0].form.packed
    assert packed._made[2]
    last_of(frozen.double(), x.double())
    assert packed._made[0] is None and not packed._made[2]


def test_a_recorded_stream_can_be_stored():
    frozen, x = frozen_stream(), torch.randn(1, 96, 9, 6)
    expected = last_of(frozen, x)
    assert any(frozen._records._found.values())
    same(last_of(pickle.loads(pickle.dumps(frozen)), x), expected)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_stream_of_large_layers_is_packed_and_recorded(batch):
    frozen = frozen_stream()
    x = torch.randn(batch, 96, 14, 6)
    for other in (2, batch):  # a record of one size of batch does not stand in the way of another
        state, given = None, []
        for chunk in x[:1].expand(other, -1, -1, -1).split(1, 2) if other != batch else x.split(1, 2):
            output, valid, state = frozen.step(chunk, state)
            given += [output] if valid.all() else []
    expected = frozen.clip(x)
    found = torch.cat(given, 2)
    same(found, expected[:, :, : found.shape[2]])
    recorded = [record for record in frozen._records._found.values() if record is not None]
    assert len(recorded) == len({2, batch})
    code = recorded[-1].forward.__self__.code
    assert "mkldnn._convolution_pointwise" in code
