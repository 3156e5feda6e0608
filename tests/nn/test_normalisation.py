"""Normalisation of features and of channels."""

import pytest
import torch

from sentio.core.errors import InputError
from sentio.nn.normalisation import BandNorm, ChannelAffine

torch.set_num_threads(1)


def test_each_band_has_statistics_of_its_own():
    norm = BandNorm(5)
    x = torch.randn(3, 2, 7, 5) * torch.arange(1, 6) + torch.arange(5)
    y = norm(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y.mean(dim=(0, 1, 2)), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(norm.bn.running_mean, 0.1 * x.mean(dim=(0, 1, 2)))


def test_other_bands_are_refused():
    with pytest.raises(InputError, match="each of 5 bands, got features with 6"):
        BandNorm(5)(torch.zeros(1, 1, 4, 6))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_an_affine_has_two_numbers_a_channel(shape):
    layer = ChannelAffine(3)
    x = torch.randn(shape)
    assert torch.equal(layer(x), x)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, -3.0]))
        layer.bias.copy_(torch.tensor([0.0, 10.0, 1.0]))
        y = layer(x)
    assert y.shape == x.shape
    assert torch.equal(y[:, 0], x[:, 0])
    assert torch.equal(y[:, 1], x[:, 1] * 2 + 10)
    assert torch.equal(y[:, 2], x[:, 2] * -3 + 1)
