"""Bag-of-Features pooling: the sheet's worked example, what a histogram is, limits of its width."""

import pytest
import torch

from sentio.core.counting import count
from sentio.nn.bag_of_features import BagOfFeatures, local_features

torch.set_num_threads(1)


def bag(channels=5, codewords=7, sigma=1.0, seed=0):
    torch.manual_seed(seed)
    layer = BagOfFeatures(channels, codewords).double()
    with torch.no_grad():
        layer.log_sigma.fill_(sigma).log_()
    return layer


def maps(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_worked_example():
    layer = bag(2, 2)
    with torch.no_grad():
        layer.codewords.copy_(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    x = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64).reshape(1, 2, 1, 2)
    expected = torch.tensor([[[0.8807970780, 0.1192029220], [0.5, 0.5]]], dtype=torch.float64)
    torch.testing.assert_close(layer.memberships(x), expected, rtol=0, atol=5e-11)
    histogram = torch.tensor([[0.6903985390, 0.3096014610]], dtype=torch.float64)
    torch.testing.assert_close(layer(x), histogram, rtol=0, atol=5e-11)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_memberships_are_the_quotient_of_kernels(sigma):
    layer, x = bag(sigma=sigma), maps(3, 5, 4, 6)
    kernels = (-torch.cdist(local_features(x), layer.codewords).square() / (2 * sigma**2)).exp()
    found = layer.memberships(x)
    torch.testing.assert_close(found, kernels / kernels.sum(-1, keepdim=True), rtol=0, atol=1e-12)
    assert found.shape == (3, 24, 7) and (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 24).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(x).sum(-1), torch.ones(3).double(), rtol=0, atol=1e-12)


def test_features_of_ordinary_size_do_not_underflow():
    """Where each kernel by itself is zero in single precision."""
    layer = bag(256, 8).float()
    x = 10 * maps(2, 256, 3, 3).float()
    kernels = (-torch.cdist(local_features(x), layer.codewords).square() / 2).exp()
    assert not kernels.any()
    histogram = layer(x)
    assert histogram.isfinite().all()
    torch.testing.assert_close(histogram.sum(1), torch.ones(2))


def test_limits_of_the_width():
    x = maps(2, 5, 3, 4)
    torch.testing.assert_close(
        bag(sigma=1e6)(x), torch.full((2, 7), 1 / 7, dtype=torch.float64), rtol=0, atol=1e-9
    )
    narrow = bag(sigma=1e-3)
    nearest = torch.cdist(local_features(x), narrow.codewords).argmin(-1)
    hard = torch.nn.functional.one_hot(nearest, 7).double().mean(1)
    torch.testing.assert_close(narrow(x), hard, rtol=0, atol=1e-9)
    assert torch.equal(bag(codewords=1)(x), torch.ones(2, 1).double())


def test_places_have_no_order_and_any_number():
    layer, x = bag().float(), maps(2, 5, 3, 4).float()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    moved = x.flatten(2)[:, :, order].reshape(2, 5, 4, 3)
    for other in (moved, x.repeat(1, 1, 2, 2), local_features(x)):
        torch.testing.assert_close(layer(other), layer(x), rtol=0, atol=1e-6)
    assert layer(x.mean((2, 3))).shape == (2, 7)


def test_costs():
    with torch.device("meta"):
        layer = BagOfFeatures(128, 512)
    assert count(layer, torch.empty(1, 128, 28, 28, device="meta")).total == 51_380_224
    assert sum(p.numel() for p in layer.parameters()) == 128 * 512 + 1
