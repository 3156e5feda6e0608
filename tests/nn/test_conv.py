"""Convolution blocks."""

import pytest
import torch
from torch import nn

from sentio.nn.conv import InvertedResidual, conv_bn_act, round_channels
from sentio.nn.init import he_init

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("width", "rounded"), [(67.2, 64), (57.6, 56), (103.68, 104), (117.6, 120), (4, 8), (0.5, 8), (12, 16)]
)
def test_round_channels(width, rounded):
    assert round_channels(width) == rounded


@pytest.mark.parametrize(
    ("width", "rounded"), [(8.8, 8), (8.9, 16), (12, 16), (17.7, 16), (17.8, 24), (40, 40)]
)
def test_round_channels_takes_the_next_where_the_nearest_is_too_little(width, rounded):
    assert round_channels(width, at_least=0.9) == rounded


def test_conv_bn_act_keeps_the_size_and_its_input():
    block = conv_bn_act(3, 5, 5)
    x = torch.randn(2, 3, 7, 9)
    before = x.clone()
    assert block(x).shape == (2, 5, 7, 9)
    assert block(x).min() >= 0
    assert torch.equal(x, before)
    assert conv_bn_act(3, 5, act=False)(x).min() < 0


@pytest.mark.parametrize(
    ("widths", "stride", "shortcut"),
    [((8, 8), 1, nn.Identity), ((8, 8), (2, 1), nn.AvgPool2d), ((8, 16), 1, None), ((8, 16), (1, 2), None)],
)
def test_inverted_residual_shortcuts(widths, stride, shortcut):
    block = InvertedResidual(widths[0], 16, widths[1], stride=stride).eval()
    assert block.shortcut is None if shortcut is None else isinstance(block.shortcut, shortcut)
    x = torch.randn(2, 8, 9, 12)
    rows, columns = (stride, stride) if isinstance(stride, int) else stride
    assert block(x).shape == (2, widths[1], -(-9 // rows), -(-12 // columns))
    nn.init.zeros_(block.project.bn.weight)
    silent = torch.zeros(()) if shortcut is None else block.shortcut(x).relu()
    torch.testing.assert_close(block(x), silent.expand_as(block(x)))


def test_he_init_reaches_every_layer():
    torch.manual_seed(0)
    module = he_init(nn.Sequential(nn.Conv2d(8, 64, 3), nn.Sequential(nn.Linear(128, 64))))
    assert module[0].weight.std().item() == pytest.approx((2 / 72) ** 0.5, rel=0.05)
    assert module[1][0].weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert not module[0].bias.any()


def test_inverted_residual_normalises_the_sum():
    class Double(nn.Module):
        def forward(self, x):
            return 2 * x

    torch.manual_seed(0)
    block = InvertedResidual(4, 8, 4, norm=Double()).eval()
    x = torch.randn(2, 4, 5, 6)
    with torch.no_grad():
        total = block.project(block.depthwise(block.expand(x))) + x
        torch.testing.assert_close(block(x), (2 * total).clamp(min=0))
