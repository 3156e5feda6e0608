"""Log loss, calibration error and macro accuracy: limiting cases, and other people's programs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sentio.core.errors import ConfigError, InputError
from sentio.tasks.metrics.probabilities import expected_calibration_error, log_loss, macro_accuracy


@pytest.fixture
def drawn():
    """400 samples of five classes, unevenly many of each: probabilities and targets."""
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.full(5, 0.5), 400)
    return probabilities, np.minimum(generator.geometric(0.5, 400) - 1, 4)


def one_hot(answers, classes=10):
    return np.eye(classes)[answers]


def test_log_loss_of_one_who_knows_nothing():
    uniform = np.full((7, 10), 0.1)
    assert log_loss(uniform, np.arange(7)) == pytest.approx(2.302585, abs=5e-7)
    assert log_loss(uniform, np.arange(7), by_class=True) == pytest.approx(math.log(10))


def test_log_loss_of_sure_answers():
    answers = np.arange(10)
    assert log_loss(one_hot(answers), answers) == 0.0
    assert log_loss(one_hot(answers), (answers + 1) % 10) == pytest.approx(-math.log(1e-15))


def test_log_loss_by_class_counts_every_class_the_same():
    probabilities = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.9, 0.1]])
    targets = np.array([0, 0, 0, 1])
    low, high = math.log(2), -math.log(0.1)
    assert log_loss(probabilities, targets) == pytest.approx((3 * low + high) / 4)
    assert log_loss(probabilities, targets, by_class=True) == pytest.approx((low + high) / 2)


def test_log_loss_is_the_same_either_way_on_balanced_samples(drawn):
    probabilities, targets = drawn[0], np.arange(400) % 5
    assert log_loss(probabilities, targets) == pytest.approx(log_loss(probabilities, targets, by_class=True))


def test_calibration_error_of_sure_answers_is_their_error():
    targets = np.arange(200) % 10
    assert expected_calibration_error(one_hot(targets), targets) == 0.0
    answers = np.where(np.arange(200) % 4 == 0, (targets + 1) % 10, targets)
    assert expected_calibration_error(one_hot(answers), targets) == pytest.approx(0.25)


def test_calibration_error_of_one_who_is_as_right_as_he_is_sure():
    probabilities = np.tile([0.75, 0.25], (400, 1))
    assert expected_calibration_error(probabilities, (np.arange(400) % 4 == 0).astype(int)) == pytest.approx(
        0
    )


def test_against_torchmetrics(drawn):
    torchmetrics = pytest.importorskip("torchmetrics")
    import torch
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    assert torchmetrics
    probabilities, targets = drawn
    p, t = torch.from_numpy(probabilities), torch.from_numpy(targets)
    expected = multiclass_calibration_error(p, t, num_classes=5, n_bins=15, norm="l1")
    assert expected_calibration_error(probabilities, targets) == pytest.approx(float(expected), abs=1e-6)
    expected = multiclass_accuracy(p, t, num_classes=5, average="macro")
    assert macro_accuracy(probabilities.argmax(1), targets) == pytest.approx(float(expected), abs=1e-6)


def test_against_scikit_learn(drawn):
    metrics = pytest.importorskip("sklearn.metrics")
    probabilities, targets = drawn
    assert log_loss(probabilities, targets) == pytest.approx(metrics.log_loss(targets, probabilities))
    weight = 1 / np.bincount(targets)[targets]
    expected = metrics.log_loss(targets, probabilities, sample_weight=weight)
    assert log_loss(probabilities, targets, by_class=True) == pytest.approx(expected)


def test_what_does_not_fit_is_one_sentence():
    for probabilities, targets in ((np.ones((0, 3)), np.zeros(0, int)), (np.ones((2, 3)), np.zeros(3, int))):
        for figure in (log_loss, expected_calibration_error):
            with pytest.raises(InputError, match=r"Probabilities are \(sample, class\)"):
                figure(probabilities, targets)
    with pytest.raises(InputError, match="no sample"):
        macro_accuracy(np.zeros(0, int), np.zeros(0, int))


@pytest.mark.parametrize("targets", [np.array([0, -1]), np.array([3, 0]), np.array([0.0, 1.0])])
def test_a_target_that_is_no_class_is_refused(targets):
    for figure in (log_loss, expected_calibration_error):
        with pytest.raises(InputError, match="Targets are class numbers from 0 to 2, got"):
            figure(np.full((2, 3), 1 / 3), targets)


def test_every_target_needs_an_answer():
    with pytest.raises(InputError, match=r"got shapes \(3,\) and \(2,\)"):
        macro_accuracy(np.array([0, 1, 2]), np.array([0, 1]))


@pytest.mark.parametrize("bad", [float("nan"), -0.5, 3.0])
def test_what_is_no_probability_is_refused(bad):
    probabilities = np.full((2, 3), 1 / 3)
    probabilities[1, 2] = bad
    for measure in (log_loss, expected_calibration_error):
        with pytest.raises(InputError, match=r"Probabilities lie in 0\.\.1, got .*; softmax makes them"):
            measure(probabilities, np.array([0, 1]))


@pytest.mark.parametrize("bins", [0, 2.5, "15"])
def test_a_calibration_error_needs_bins(bins):
    with pytest.raises(ConfigError, match="needs at least 1 bin"):
        expected_calibration_error(np.eye(2), np.arange(2), bins=bins)
