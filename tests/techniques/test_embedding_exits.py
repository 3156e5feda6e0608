"""Exits fitted to the last layer: closed form, the order of the methods, what stays as it was, refusals."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.core.multi_exit import add_exits
from sentio.core.staged import Staged
from sentio.exits.bag_of_features import BagOfFeaturesExit
from sentio.techniques.embedding_exits import fit_embedding_exits
from sentio.techniques.linear_regression import NormalEquations

torch.set_num_threads(1)
EXITS = ("linear", "bag")
WIDTH = 24


def backbone(channels=16, width=WIDTH):
    """Two convolutions that are tapped, then the rest, random and frozen."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, 2, padding=1)
    tap = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
    rest = nn.Sequential(nn.Conv2d(channels, 32, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(128, width))
    return Staged({"tap": tap, "head": rest}, input_shapes=(3, 12, 12))


def with_exits(net, codewords=48, width=WIDTH):
    net = add_exits(net, "linear-regressor", at=["tap"], names=["linear"], classes=width)
    options = {"classes": width, "codewords": codewords}
    return add_exits(net, "bag-of-features", at=["tap"], names=["bag"], **options).eval()


def pictures(count):
    """Blobs of colour, weak and strong, in noise: places differ from each other, pictures too."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 4, 4, generator=generator)
    fine = torch.randn(count, 3, 12, 12, generator=generator)
    weight = torch.rand(count, 1, 1, 1, generator=generator)
    return weight * nn.functional.interpolate(coarse, (12, 12), mode="bilinear") + 0.5 * fine


def loss_of(net, x, name):
    with torch.no_grad():
        outputs = net(x)
    return (outputs[name] - outputs["final"]).square().sum(1).mean().item()


#: channels of the tap, width, codewords, pictures and iterations: in small, and as the sheet has them
SIZES = [(16, WIDTH, 48, 500, 300), pytest.param((32, 32, 64, 2000, 2000), marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=SIZES, ids=str)
def fitted(request):
    """The sheet's end-to-end run."""
    channels, width, codewords, count, iterations = request.param
    net = with_exits(backbone(channels, width), codewords, width)
    before = copy.deepcopy(net.state_dict())
    x = pictures(count)
    found = fit_embedding_exits(net, x, iterations=iterations, seed=0)
    return net, x, found, before


def test_the_proposed_exit_is_closest_to_the_last_layer(fitted):
    net, x, found, _ = fitted
    assert list(found) == list(EXITS)
    assert found["bag"].loss <= found["bag"].closed_form <= found["linear"].loss
    assert found["bag"].loss <= found["bag"].tuned, "the closed form is the best there is for a codebook"
    assert found["linear"].tuned is None and found["linear"].loss == found["linear"].closed_form
    for name in EXITS:
        assert loss_of(net, x, name) == pytest.approx(found[name].loss, rel=1e-4)
    with torch.no_grad():
        variance = net(x)["final"].var(0, correction=0).sum().item()
    assert found["bag"].loss < variance, "better than the mean of all embeddings"


def test_the_backbone_stays_as_it_was_and_the_exits_do_not(fitted):
    net, _, _, before = fitted
    after = net.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("branches.")}
    assert all(parameter.grad is None for parameter in net.parameters())


def test_gradients_reach_codebook_width_and_regressor_and_no_other(fitted):
    net, x, _, _ = fitted
    net = copy.deepcopy(net)
    with torch.no_grad():
        tap = net.backbone.before("tap")(x[:8])
        target = net.backbone.after("tap")(tap)
    (net.branch("bag")(tap) - target).square().sum(1).mean().backward()
    names = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert names == {
        f"branches.bag.{part}" for part in ("bag.codewords", "bag.log_sigma", "regressor.weight")
    }
    assert all(parameter.grad.any() for parameter in net.branch("bag").parameters())


def test_the_same_seed_gives_the_same_exits_and_0_iterations_the_plain_bag():
    x = pictures(64)
    nets = [with_exits(backbone()) for _ in range(3)]
    found = [
        fit_embedding_exits(net, x, iterations=turns, seed=seed)
        for net, turns, seed in zip(nets, (3, 3, 0), (1, 1, 1), strict=True)
    ]
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)
    assert found[0] == found[1]
    assert found[2]["bag"].tuned is None and found[2]["bag"].loss == found[0]["bag"].closed_form


def test_codewords_are_local_features_and_the_width_is_their_mean_distance():
    net = with_exits(backbone())
    x = pictures(32)
    fit_embedding_exits(net, x, exits=["bag"], iterations=0)
    bag = net.branch("bag").bag
    with torch.no_grad():
        places = net.backbone.before("tap")(x).flatten(2).transpose(1, 2).flatten(0, 1)
        apart = torch.cdist(places, bag.codewords)
    assert bag.log_sigma.exp().item() == pytest.approx(apart.mean().item(), rel=1e-5)
    spread = (places - places.mean(0)).norm(dim=1).mean()
    assert apart.min(1).values.mean() < 0.8 * spread


def test_arrays_pixels_and_named_inputs_are_taken():
    class Pixels:
        def finish(self, inputs):
            return inputs.astype(np.float32) / 255 - 0.5

    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 12, 12)).astype(np.uint8)
    nets = [with_exits(backbone()) for _ in range(3)]
    floats = Pixels().finish(pixels)
    fit_embedding_exits(nets[0], pixels, iterations=2, frontend=Pixels())
    fit_embedding_exits(nets[1], torch.from_numpy(floats), iterations=2)
    fit_embedding_exits(nets[2], {"main": floats}, iterations=2)
    for other in nets[1:]:
        for one, two in zip(nets[0].parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two)


def test_the_target_may_have_length_1():
    net = with_exits(backbone())
    x = pictures(200)
    found = fit_embedding_exits(net, x, iterations=0, normalise=True)
    with torch.no_grad():
        outputs = net(x)
    unit = nn.functional.normalize(outputs["final"])
    apart = (outputs["linear"] - unit).square().sum(1).mean().item()
    assert apart == pytest.approx(found["linear"].loss, rel=1e-4)


def test_a_bias_helps_the_linear_regressor():
    x = pictures(200)
    losses = []
    for bias in (False, True):
        net = add_exits(backbone(), "linear-regressor", at=["tap"], classes=WIDTH, bias=bias)
        (found,) = fit_embedding_exits(net, x).values()
        assert loss_of(net, x, "tap") == pytest.approx(found.loss, rel=1e-4)
        losses.append(found.loss)
    assert losses[1] < losses[0]


# Least squares


def test_the_residual_is_orthogonal_and_the_gradient_vanishes():
    generator = torch.Generator().manual_seed(0)
    s = torch.rand(300, 20, generator=generator, dtype=torch.float64).softmax(1)
    y = torch.randn(300, 6, generator=generator, dtype=torch.float64)
    equations = NormalEquations()
    for rows in torch.arange(300).split(70):
        equations.add(s[rows], y[rows])
    w = equations.solve(0.0)
    assert (s.T @ (s @ w - y)).abs().max() < 1e-12
    free = w.clone().requires_grad_()
    loss = (y - s @ free).square().sum(1).mean()
    (gradient,) = torch.autograd.grad(loss, free)
    assert gradient.abs().max() < 1e-14
    assert equations.loss(w) == pytest.approx(loss.item(), rel=1e-12)
    for other in (equations.solve(1e-2), w + 1e-3, torch.zeros_like(w)):
        assert equations.loss(other) > equations.loss(w)


def test_histograms_need_no_bias():
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(200, 9, generator=generator, dtype=torch.float64).softmax(1)
    constant = torch.randn(5, generator=generator, dtype=torch.float64)
    equations = NormalEquations()
    equations.add(s, constant.expand(200, 5))
    w = equations.solve(0.0)
    assert (s @ w - constant).abs().max() < 1e-13
    assert (w - constant).abs().max() < 1e-10, "all rows are equal"


def test_unused_codewords_do_no_harm():
    s = torch.eye(4).double()[torch.tensor([0, 1, 0, 1])]
    y = torch.tensor([[1.0], [3.0], [1.0], [3.0]]).double()
    equations = NormalEquations()
    equations.add(s, y)
    for ridge in (0.0, 1e-6):
        torch.testing.assert_close(s @ equations.solve(ridge), y, rtol=1e-5, atol=0)


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"exits": ["bags"]}, UnknownNameError, "Unknown exit 'bags'; did you mean 'bag'"),
        ({"iterations": -1}, ConfigError, "iterations as a whole number from 0 up, got -1"),
        ({"batch": 0}, ConfigError, "batch as a whole number from 1 up"),
        ({"lr": 0}, ConfigError, "lr as a number above 0"),
        ({"ridge": -1}, ConfigError, "ridge as a number from 0 up"),
        ({"lr": 1e30, "iterations": 5}, ConfigError, "diverged; give a smaller lr"),
        ({"local": 5}, InputError, "Exit 'bag' has 48 codewords, and the inputs have 5 local features"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(options, error, message):
    with pytest.raises(error, match=message) as found:
        fit_embedding_exits(with_exits(backbone()), pictures(8), **options)
    assert ". " not in str(found.value)


def test_exits_and_inputs_that_do_not_fit_are_refused():
    net = backbone()
    with pytest.raises(ConfigError, match="has no exit to fit; add some of kind"):
        fit_embedding_exits(add_exits(net, "raw", at=["tap"], classes=WIDTH), pictures(8))
    with pytest.raises(ConfigError, match="Exit 'tap' is no 'linear-regressor'"):
        fit_embedding_exits(add_exits(net, "raw", at=["tap"], classes=WIDTH), pictures(8), exits=["tap"])
    with pytest.raises(ConfigError, match="gives 5 values and the last layer 24; add it with classes=24"):
        fit_embedding_exits(add_exits(net, "linear-regressor", at=["tap"], classes=5), pictures(8))
    with pytest.raises(InputError, match="at least one; got 0"):
        fit_embedding_exits(with_exits(net), pictures(0))
    with pytest.raises(InputError, match="NaN or infinite embeddings"):
        fit_embedding_exits(with_exits(net), pictures(8) * float("nan"))
    head = nn.Sequential(nn.Flatten(), nn.Linear(432, WIDTH))
    same = Staged({"tap": nn.Identity(), "head": head}, input_shapes=(3, 12, 12))
    with pytest.raises(InputError, match="All features that exit 'bag' reads are alike"):
        fit_embedding_exits(with_exits(same), torch.ones(8, 3, 12, 12))


def test_a_bag_is_what_it_says():
    branch = with_exits(backbone()).branch("bag")
    assert isinstance(branch, BagOfFeaturesExit) and branch.regressor.bias is None
