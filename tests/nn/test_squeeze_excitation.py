import pytest
import torch
from torch import nn

from sentio.nn.squeeze_excitation import SqueezeExcitation

torch.set_num_threads(1)


@pytest.mark.parametrize("bias", [True, False])
def test_the_gate_is_between_0_and_1_and_one_per_channel(bias):
    torch.manual_seed(0)
    layer = SqueezeExcitation(6, 3, act=nn.Hardswish, bias=bias)
    x = torch.randn(4, 6, 5, 7)
    with torch.no_grad():
        gate = layer(x) / x
    assert gate.min() > 0
    assert gate.max() < 1
    torch.testing.assert_close(gate, gate[:, :, :1, :1].expand_as(gate))
    assert sum(p.numel() for p in layer.parameters()) == 2 * 6 * 3 + (9 if bias else 0)


def test_without_weights_the_gate_is_a_half():
    layer = SqueezeExcitation(6, 3)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(layer(x), 0.5 * x)


def test_without_hidden_units_the_gate_is_a_half():
    layer = SqueezeExcitation(4, 0)
    x = torch.randn(2, 4, 9, 1)
    assert torch.equal(layer(x), 0.5 * x)
    assert list(layer.parameters()) == []


def test_by_the_frame_each_frame_is_a_clip_of_its_own():
    torch.manual_seed(0)
    layer = SqueezeExcitation(6, 3, scope="frame")
    x = torch.randn(2, 6, 4, 5, 7)
    with torch.no_grad():
        together = layer(x)
        layer.scope = "clip"
        apart = torch.cat([layer(frame) for frame in x.split(1, dim=2)], 2)
        assert not torch.allclose(layer(x), together)
    torch.testing.assert_close(together, apart)
