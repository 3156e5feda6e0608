"""Muon against its equations: what is a matrix, how long a step is, and what AdamW does beside it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sentio.training.muon import ROOT_MEAN_SQUARE, Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 144), (64, 64), (128, 10), (1, 9)])
def test_the_orthogonal_part_has_singular_values_near_one(shape):
    """The quintic leaves them between 0.7 and 1.2 (Jordan et al. 2024), whatever the scale was."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    for scale in (1e-3, 1.0, 1e3):
        found = orthogonal(scale * matrix)
        values = torch.linalg.svdvals(found)
        # Square random matrices have singular values near zero, which five rounds do not lift all the way.
        assert values.max() < 1.25 and (shape[0] == shape[1] or values.min() > 0.65)
        # The singular vectors stay.
        middle = left.T @ found @ right.T
        assert (middle - torch.diag(middle.diagonal())).abs().max() < 1e-6


def test_of_nothing_comes_nothing():
    assert not orthogonal(torch.zeros(3, 5)).any()


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Flatten(),
        nn.Linear(8 * 16, 4),
    )


def test_what_is_no_matrix_is_trained_by_adamw():
    """Biases, norms and depthwise weights move as AdamW alone moves them, bit for bit."""
    ours, theirs = network(), network()
    muon = Muon([ours], 0.01, weight_decay=0.1)
    others = [p for name, p in theirs.named_parameters() if name not in ("0.weight", "4.weight")]
    adamw = torch.optim.AdamW(others, 0.01, weight_decay=0.1)
    for net, optimiser in ((ours, muon), (theirs, adamw)):
        for seed in range(3):
            for parameter in net.parameters():
                parameter.grad = torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(seed + parameter.numel())
                )
            optimiser.step()
    assert len(others) == 6
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(a, b) == (name not in ("0.weight", "4.weight")), name
    assert all(parameter.grad is not None for parameter in ours.parameters())


def test_the_first_step_is_as_long_as_one_of_adamw():
    """RMS 0.2 times the rate for a matrix of full rank (Liu et al. 2025), decay beside it."""
    layer = nn.Linear(300, 40, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(40, 300, generator=torch.Generator().manual_seed(1))
    Muon([layer], 0.01, weight_decay=0.5).step()
    moved = layer.weight.detach() - before * (1 - 0.01 * 0.5)
    assert moved.square().mean().sqrt().item() == pytest.approx(0.01 * ROOT_MEAN_SQUARE, rel=0.15)


def test_the_layout_of_a_weight_does_not_matter():
    plain, last = nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3)
    last.load_state_dict(plain.state_dict())
    last.to(memory_format=torch.channels_last)
    gradient = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    for layer in (plain, last):
        optimiser = Muon([layer], 0.1)
        for _ in range(2):
            layer.weight.grad = gradient.to(memory_format=torch.channels_last) if layer is last else gradient
            layer.bias.grad = torch.zeros(6)
            optimiser.step()
    assert torch.allclose(plain.weight, last.weight, atol=1e-6)


def test_a_resumed_training_goes_on_bit_for_bit():
    def steps(optimiser, net, seeds):
        for seed in seeds:
            for parameter in net.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            optimiser.step()

    whole = network()
    steps(Muon([whole], 0.01), whole, range(4))
    first = network()
    stopped = Muon([first], 0.01)
    steps(stopped, first, range(2))
    second = network()
    second.load_state_dict(first.state_dict())
    resumed = Muon([second], 0.01)
    resumed.load_state_dict(stopped.state_dict())
    steps(resumed, second, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_a_closure_is_evaluated_with_gradients():
    layer = nn.Linear(3, 2)
    optimiser = Muon([layer], 0.1)
    x = torch.ones(1, 3)

    def closure():
        optimiser.zero_grad()
        loss = layer(x).square().sum()
        loss.backward()
        return loss

    first = optimiser.step(closure)
    assert first is not None and layer(x).square().sum() < first


def test_a_network_of_matrices_alone_needs_no_adamw_group():
    optimiser = Muon([nn.Linear(3, 2, bias=False)], 0.1)
    assert len(optimiser.param_groups) == 1
    with pytest.raises(ValueError, match="empty"):
        Muon([nn.ReLU()], 0.1)
