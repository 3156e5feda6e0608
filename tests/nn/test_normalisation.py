"""Normalisation of features and of channels."""

import pytest
import torch

from sentio.core.errors import InputError
from sentio.nn.normalisation import BandNorm, ChannelAffine, GlobalResponseNorm, SubSpectralNorm

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


def test_global_response_norm_changes_nothing_at_first():
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(GlobalResponseNorm()(x), x)


def test_global_response_norm_by_hand():
    norm = GlobalResponseNorm()
    with torch.no_grad():
        norm.weight.fill_(0.5)
        norm.bias.fill_(0.25)
    x = torch.tensor([3.0, 4.0, 0.0, 1.0]).view(1, 2, 1, 2)  # energies 5 and 1, their mean 3
    expected = (
        torch.tensor([3 + 0.5 * 3 * 5 / 3, 4 + 0.5 * 4 * 5 / 3, 0, 1 + 0.5 / 3]).view(1, 2, 1, 2) + 0.25
    )
    torch.testing.assert_close(norm(x), expected)


def test_global_response_norm_of_silence_has_a_finite_gradient():
    norm = GlobalResponseNorm()
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad.isfinite().all()


def test_sub_spectral_norm_is_a_batch_norm_in_each_range():
    torch.manual_seed(0)
    norm = SubSpectralNorm(3, 2)
    x = torch.randn(4, 3, 5, 6) * torch.arange(1, 7)
    y = norm.train()(x)
    for channel in range(3):
        for half in (slice(0, 3), slice(3, 6)):
            part = y[:, channel, :, half]
            assert part.mean().abs() < 1e-5
            torch.testing.assert_close(part.var(unbiased=False), torch.tensor(1.0), rtol=1e-3, atol=1e-3)
    norm.eval()
    with torch.no_grad():
        norm.bn.bias[2 * 1 + 1] = 7.0  # channel 1, upper half
        levels = norm(norm.bn.running_mean.view(1, 3, 1, 2).repeat_interleave(3, dim=3))
    assert torch.allclose(levels[0, 1, 0], torch.tensor([0.0, 0, 0, 7, 7, 7]), atol=1e-5)


def test_sub_spectral_norm_refuses_what_does_not_divide():
    with pytest.raises(InputError, match="5 equally wide frequency ranges, got features 8 wide"):
        SubSpectralNorm(2, 5)(torch.zeros(1, 2, 3, 8))
