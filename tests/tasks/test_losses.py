"""Losses of classifiers against the figures of the sheets, and against PyTorch's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sentio.tasks.losses import ClassifierLoss, focal_loss, inverse_weights, scaled_weights

torch = pytest.importorskip("torch")


def logits_of(*probabilities):
    return torch.tensor([[math.log(p) for p in row] for row in probabilities], dtype=torch.float64)


@pytest.fixture
def cases():
    """20,000 random cases of ten classes: logits ``(20000, 10)`` and targets."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 10, generator=generator, dtype=torch.float64)
    return logits, torch.randint(10, (20_000,), generator=generator)


@pytest.mark.parametrize(
    ("p", "entropy", "focal"),
    [(0.1, 2.302585, 2.072327), (0.5, 0.693147, 0.346574), (0.9, 0.105361, 0.010536)],
)
def test_values_of_the_sheet(p, entropy, focal):
    logits, target = logits_of([p, 1 - p]), torch.tensor([0])
    assert focal_loss(logits, target, gamma=0).item() == pytest.approx(entropy, abs=5e-7)
    assert focal_loss(logits, target, gamma=1).item() == pytest.approx(focal, abs=5e-7)


def test_gamma_zero_is_the_cross_entropy(cases):
    logits, targets = cases
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    assert focal_loss(logits, targets, gamma=0, label_smoothing=0.1).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("p", [math.exp(-2), math.exp(-1), 0.05, 0.3, 0.7, 0.999])
def test_gradient_against_that_of_the_cross_entropy(p):
    """Ratio ``(1 - p) - p ln p``: 1 at 1/e, at most 1 + e^-2 at e^-2."""
    found = []
    for gamma in (1, 0):
        logits = logits_of([p, 1 - p]).requires_grad_()
        focal_loss(logits, torch.tensor([0]), gamma=gamma).backward()
        found.append(logits.grad[0, 0].item())
    ratio = found[0] / found[1]
    assert ratio == pytest.approx((1 - p) - p * math.log(p), rel=1e-9)
    if p == math.exp(-1):
        assert ratio == pytest.approx(1.0)
    if p == math.exp(-2):
        assert ratio == pytest.approx(1.135335, abs=5e-7)
    assert ratio <= 1 + math.exp(-2) + 1e-12


def test_focal_is_at_least_cross_entropy_minus_entropy(cases):
    logits, targets = cases
    log_p = torch.log_softmax(logits, 1)
    own = log_p[torch.arange(len(targets)), targets]
    focal = -(1 - own.exp()) * own
    assert focal_loss(logits, targets, gamma=1).item() == pytest.approx(focal.mean().item())
    entropy = -(log_p.exp() * log_p).sum(1)
    assert (focal >= -own - entropy - 1e-12).all()
    assert (focal < -own).all()


def test_soft_targets_are_summed_over_classes():
    p = [0.2, 0.5, 0.3]
    y = torch.tensor([[0.6, 0.4, 0.0]], dtype=torch.float64)
    expected = -sum(t * (1 - q) ** 2 * math.log(q) for t, q in zip([0.6, 0.4, 0.0], p, strict=True))
    assert focal_loss(logits_of(p), y, gamma=2).item() == pytest.approx(expected)
    hard = torch.tensor([1])
    one_hot = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    assert focal_loss(logits_of(p), hard).item() == pytest.approx(focal_loss(logits_of(p), one_hot).item())


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_what_is_entirely_sure_has_finite_gradients(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]), gamma=gamma)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_class_weights_against_pytorch(cases):
    """PyTorch divides by the sum of the weights of a batch; ours have a mean of one over all samples."""
    logits, targets = cases
    weights = torch.arange(1.0, 11.0, dtype=torch.float64)
    every = torch.nn.functional.cross_entropy(logits, targets, weights, reduction="none", label_smoothing=0.1)
    found = focal_loss(logits, targets, gamma=0, label_smoothing=0.1, weights=weights.tolist())
    assert found.item() == pytest.approx(every.mean().item())


def test_inverse_weights_with_the_floor_of_the_sheet():
    counts = np.array([500, 10_000, 40_000, 200_000])
    weights = inverse_weights(counts, 10_000)
    assert (weights / weights[-1]).tolist() == pytest.approx([20, 20, 5, 1])
    scaled = np.array(scaled_weights(weights, counts))
    assert (scaled * counts).sum() == pytest.approx(counts.sum())
    assert (scaled / scaled[-1]).tolist() == pytest.approx([20, 20, 5, 1])
    assert inverse_weights(np.array([0, 4])).tolist() == [1.0, 0.25]


def test_the_plain_loss_is_pytorchs_bit_for_bit(cases):
    logits, targets = (part[:64] for part in cases)
    expected = torch.nn.functional.cross_entropy(logits.float(), targets, label_smoothing=0.2)
    assert torch.equal(ClassifierLoss(label_smoothing=0.2)(logits, targets), expected)
