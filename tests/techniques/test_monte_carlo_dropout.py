"""Monte Carlo dropout: what it must give for layers whose answer is known, and what it leaves alone."""

from math import log

import pytest
import torch
from torch import nn

from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.multi_exit import add_exits
from sentio.core.staged import create_network
from sentio.techniques.monte_carlo_dropout import dropping, monte_carlo, uncertainty

torch.set_num_threads(1)


def net(dropout=0.2, seed=0):
    torch.manual_seed(seed)
    return create_network("st-bln", edges=8, classes=3, widths=(8, 8), dropout=dropout)


X = torch.randn(5, 2, 12, 8, generator=torch.Generator().manual_seed(1))


def test_without_a_rate_every_pass_is_the_answer():
    found = monte_carlo(net(0.0), X, passes=4)
    with torch.no_grad():
        want = net(0.0).eval()(X).double().softmax(-1)
    assert torch.allclose(found.mean, want, rtol=0, atol=1e-7)
    assert found.spread.max() < 1e-9
    assert found.mutual_information.max() < 1e-9


def test_a_seed_gives_the_same_passes_and_the_callers_generator_stays():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again = monte_carlo(net(), X, passes=6, seed=3), monte_carlo(net(), X, passes=6, seed=3)
    torch.manual_seed(5)
    monte_carlo(net().train(), X, passes=2)
    other = monte_carlo(net(), X, passes=6, seed=4)
    assert torch.equal(first.passes, again.passes)
    assert not torch.equal(first.passes, other.passes)
    network = net()
    torch.manual_seed(5)
    monte_carlo(network, X, passes=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_statistics_and_modes_stay():
    network = net().train()
    network.stage("layer1").eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    monte_carlo(network, X, passes=3)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training
    assert not network.stage("layer1").training
    assert network.stage("layer2").training


def test_bounds():
    found = monte_carlo(net(0.5), X, passes=50)
    assert torch.allclose(found.mean.sum(-1), torch.ones(5).double())
    assert 0 < found.spread.max() <= 0.5
    assert (found.mutual_information > 0).all()
    assert (found.mutual_information <= found.entropy).all()
    assert (found.entropy <= log(3) + 1e-12).all()
    targets = torch.tensor([0, 1, 2, 0, 1])
    accuracies = found.accuracies(targets)
    assert accuracies.shape == (50,)
    assert accuracies[7] == (found.passes[7].argmax(-1) == targets).double().mean()


def test_mean_and_variance_of_a_linear_layer_behind_dropout():
    """Inverted dropout: the mean is w·x, the variance p / (1 - p) · sum of (w x)²."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 1, bias=False)).double()
    x = torch.randn(1, 16).double()
    torch.manual_seed(0)
    with dropping(layer), torch.no_grad():
        drawn = torch.stack([layer(x)[0, 0] for _ in range(20_000)])
    weighed = layer[1].weight[0].detach() * x[0]
    assert drawn.mean() == pytest.approx(weighed.sum().item(), abs=0.02)
    assert drawn.var() == pytest.approx(0.25 * weighed.square().sum().item(), rel=0.04)


def test_two_passes_by_hand():
    logits = torch.tensor([[[0.9, 0.1]], [[0.3, 0.7]]]).double().log()
    found = uncertainty(logits)
    assert found.mean.tolist() == [pytest.approx([0.6, 0.4])]
    assert found.spread.tolist() == [pytest.approx([0.3, 0.3])]
    entropy = -0.6 * log(0.6) - 0.4 * log(0.4)
    each = (-0.9 * log(0.9) - 0.1 * log(0.1) - 0.3 * log(0.3) - 0.7 * log(0.7)) / 2
    assert found.entropy.item() == pytest.approx(entropy)
    assert found.mutual_information.item() == pytest.approx(entropy - each)
    # The mean of logits is another one: the root of the products of probabilities.
    by_logits = uncertainty(logits, average="logits").mean[0]
    assert by_logits[0] / by_logits[1] == pytest.approx((0.27 / 0.07) ** 0.5)


def test_any_network_and_any_exit():
    torch.manual_seed(0)
    backbone = create_network("cnn6", width=4, bands=16, classes=3)
    backbone.input_shapes = {"main": (1, 32, 16)}
    exits = add_exits(backbone, "pooled-linear", at=["block1"], names=["early"], classes=3, dropout=0.5)
    x = backbone.example(2)
    early, final = monte_carlo(exits, x, passes=5, exit="early"), monte_carlo(exits, x, passes=5)
    assert early.spread.max() > 0
    assert final.mean.shape == (2, 3)
    with pytest.raises(UnknownNameError, match="exit 'late'"):
        monte_carlo(exits, x, passes=1, exit="late")


def test_a_network_without_dropout_is_refused():
    with pytest.raises(ConfigError, match="needs a network with dropout layers, and this one has none"):
        monte_carlo(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(ConfigError, match="needs a pass or more, got 0"):
        monte_carlo(net(), X, passes=0)
    with pytest.raises(ConfigError, match="averages 'probabilities' or 'logits', got 'votes'"):
        monte_carlo(net(), X, average="votes")
