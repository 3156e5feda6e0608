"""SP4ASC against the figures of its sheet and paper, trained and folded."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from sentio.core.counting import count
from sentio.core.errors import InputError
from sentio.core.staged import create_network
from sentio.nn.normalisation import ChannelAffine
from sentio.techniques.batch_norm_folding import fold_batch_norm

torch.set_num_threads(1)


def numbers(net):
    return sum(p.numel() for p in net.parameters())


@pytest.fixture(scope="module")
def net():
    with torch.device("meta"):
        return create_network("sp4asc").eval()


@pytest.fixture(scope="module")
def folded(net):
    return fold_batch_norm(net)


@cache
def small(frames=33):
    """A narrow one with any statistics, in double precision, and its folded form."""
    torch.manual_seed(0)
    net = create_network("sp4asc", width=8, bands=32, classes=4)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.05, 2)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    net.double().eval()
    return net, fold_batch_norm(net, torch.randn(2, 1, frames, 32).double())


def test_numbers_in_training(net):
    statistics = sum(b.numel() for name, b in net.named_buffers() if "running" in name)
    assert numbers(net) == 62_922
    assert statistics == 1_408
    assert numbers(net) + statistics == 64_330
    assert sum(value.numel() for value in net.state_dict().values()) == 64_335


def test_every_row_of_the_table_at_test_time(folded):
    norm = numbers(folded.stage("block1").norm)
    rows = [numbers(folded.stage(name)) for name in folded.stage_names]
    assert norm == 512
    assert [rows[0] - norm, *rows[1:]] == [512, 9_088, 17_280, 17_280, 17_802]
    assert numbers(folded) == 62_474
    assert sum(b.numel() for b in folded.buffers()) == 0
    assert 2 * numbers(folded) == 124_948 < 128 * 1024


def test_separable_weights(net):
    weights = [p.numel() for name, p in net.named_parameters() if ".conv." in name]
    widths = (1, 64, 128, 128, 128)
    assert sum(weights) == sum((a + 6) * b for a, b in pairwise(widths)) == 43_712
    assert sum(25 * a * b for a, b in pairwise(widths)) == 1_025_600


@pytest.mark.parametrize("form", ["net", "folded"])
def test_macs(form, request):
    given = request.getfixturevalue(form)
    by_layer = count(given, torch.empty(1, 1, 431, 256, device="meta"))
    rows = [by_layer.of(f"stages.{name}") for name in given.stage_names]
    assert rows == [49_430_528, 246_579_200, 117_456_896, 29_089_792, 17_664]
    assert by_layer.total == 442_574_080
    assert count(given, torch.empty(1, 1, 44, 256, device="meta")).total == 45_114_624


def test_shapes(net):
    shapes = {name: boundary["main"] for name, boundary in net.boundary_shapes().items()}
    assert shapes == {
        "block1": (64, 215, 128),
        "block2": (128, 107, 64),
        "block3": (128, 53, 32),
        "block4": (128, 26, 16),
        "head": (10,),
    }


@pytest.mark.parametrize(("frames", "left"), [(16, 1), (416, 26), (431, 26), (432, 27)])
def test_any_number_of_frames_from_16(net, frames, left):
    example = torch.empty(2, 1, frames, 256, device="meta")
    assert net.boundary_shapes(example)["block4"]["main"] == (128, left, 16)


def test_15_frames_are_too_few():
    with pytest.raises(InputError, match="too small"):
        small()[0](torch.zeros(1, 1, 15, 32).double())


def test_other_bands_are_refused_in_one_sentence():
    for form in small():
        with pytest.raises(InputError, match=r"each of 32 bands, got features with 40; .* bands=40") as error:
            form(torch.zeros(1, 1, 33, 40).double())
        assert ". " not in str(error.value)


@pytest.mark.parametrize("frames", [32, 33, 47])
def test_folding_is_exact_on_whole_maps_borders_included(frames):
    net, folded = small()
    x = torch.randn(3, 1, frames, 32).double()
    with torch.no_grad():
        for (name, ours), (_, theirs) in zip(folded.boundaries(x), net.boundaries(x), strict=True):
            assert (ours["main"] - theirs["main"]).abs().max() < 1e-12, name


def test_folding_in_single_precision():
    net, _ = small()
    torch.manual_seed(1)
    single = create_network("sp4asc", width=8, bands=32, classes=4).eval()
    single.load_state_dict(net.state_dict())
    x = torch.randn(3, 1, 33, 32)
    with torch.no_grad():
        torch.testing.assert_close(fold_batch_norm(single, x)(x), single(x), rtol=1e-5, atol=1e-5)


def test_the_norm_of_the_bands_stays_a_layer_of_its_own():
    net, folded = small()
    kept = folded.stage("block1").norm.bn
    norm = net.stage("block1").norm.bn
    assert isinstance(kept, ChannelAffine)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(kept.weight, scale, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kept.bias, norm.bias - scale * norm.running_mean, rtol=1e-12, atol=1e-12)
    # One shift a channel, in one of the two branches.
    for number in range(1, 5):
        conv = folded.stage(f"block{number}").conv
        assert [conv.pointwise.bias, conv.time.bias] == [None, None]
        assert conv.frequency.bias is not None


def cross(conv):
    """The two depthwise kernels as one 5×5."""
    kernel = torch.zeros(len(conv.time.weight), 1, 5, 5).double()
    kernel[:, :, ::2, 2:3] += conv.time.weight.detach()
    kernel[:, :, 2:3, ::2] += conv.frequency.weight.detach()
    return kernel


def test_the_convolution_is_a_cross_in_a_dense_5x5():
    conv = small()[0].stage("block2").conv
    x = torch.randn(2, 8, 11, 9).double()
    kernel = cross(conv)
    assert (kernel != 0).sum() == 5 * 16
    dense = kernel * conv.pointwise.weight.detach()
    assert dense.shape == (16, 8, 5, 5)
    with torch.no_grad():
        ours = conv(x)
        assert (conv2d(conv.pointwise(x), kernel, padding=2, groups=16) - ours).abs().max() < 1e-12
        assert (conv2d(x, dense, padding=2) - ours).abs().max() < 1e-12


def positive():
    """All weights positive, so that no influence cancels and no ReLU is closed."""
    net = create_network("sp4asc", width=2, bands=128, classes=2).double().eval()
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.5)
    return net


def test_receptive_field_of_a_final_cell():
    x = torch.ones(1, 1, 128, 128).double().requires_grad_()
    positive().before("block4")(x)[0, 0, 4, 4].backward()
    reached = x.grad[0, 0] != 0
    rows, columns = reached.any(1).nonzero(), reached.any(0).nonzero()
    assert rows.max() - rows.min() + 1 == 76
    assert columns.max() - columns.min() + 1 == 76
    assert reached.sum() == 3_856


def test_frames_dropped_by_pooling_still_count():
    x = torch.rand(1, 1, 431, 128).double().requires_grad_()
    net = positive()
    net(x).sum().backward()
    assert x.grad.any(dim=3).all()


def test_clip_head_is_maximum_plus_mean():
    net, _ = small()
    head = net.stage("head")
    x = torch.randn(3, 16, 5, 2).double()
    pooled = x.mean(3).max(2).values + x.mean(3).mean(2)
    with torch.no_grad():
        expected = head.fc2(head.fc1(pooled).clamp(min=0))
        torch.testing.assert_close(head(x), expected, rtol=1e-12, atol=1e-12)


def test_weights_survive_half_precision():
    _, folded = small()
    x = torch.randn(8, 1, 33, 32).double()
    with torch.no_grad():
        full = folded(x).softmax(1)
        state = {key: value.half().double() for key, value in folded.state_dict().items()}
        half = torch.func.functional_call(folded, state, (x,)).softmax(1)
    assert not torch.equal(half, full)
    assert (half - full).abs().max() < 5e-3
