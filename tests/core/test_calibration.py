from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentio.core.calibration import (
    expected_calibration_error,
    fit_temperature,
    fit_thresholds,
    impractical,
    negative_log_likelihood,
)
from sentio.core.confidence import softmax
from sentio.core.errors import ConfigError, InputError


def exits_of(seed, *, exits=3, samples=60, classes=4):
    """Confidence and rightness of exits that get better, ``(exit, sample)``, and their costs."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(classes, size=samples)
    ease = generator.exponential(size=samples)
    logits = generator.normal(size=(exits, samples, classes))
    for index in range(exits):
        logits[index, np.arange(samples), targets] += (1 + index) * ease
    right = logits.argmax(axis=-1) == targets
    return softmax(logits).max(axis=-1), right, [100.0 * (1 + index) ** 2 for index in range(exits)]


def operate(confidence, right, macs, thresholds):
    """Accuracy and mean cost at given thresholds, sample by sample."""
    hits, spent = [], []
    for sample in range(confidence.shape[1]):
        exit = next(
            (e for e, t in enumerate(thresholds) if t is not None and confidence[e, sample] >= t),
            len(macs) - 1,
        )
        hits.append(right[exit, sample])
        spent.append(macs[exit])
    return float(np.mean(hits)), float(np.mean(spent))


def all_points(confidence, right, macs, values=None):
    """Accuracy and mean cost of every combination of thresholds; by default at every sample's confidence."""
    grids = [[*(np.unique(row) if values is None else values), np.inf] for row in confidence[:-1]]
    for chosen in product(*grids):
        leaves = np.full(confidence.shape[1], len(macs) - 1)
        for exit in reversed(range(len(chosen))):
            leaves[confidence[exit] >= chosen[exit]] = exit
        yield right[leaves, np.arange(len(leaves))].mean(), np.asarray(macs)[leaves].mean()


# temperature


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5, 7.0])
def test_a_known_temperature_is_recovered(true):
    generator = np.random.default_rng(0)
    calibrated = generator.normal(scale=2.0, size=(20_000, 5))
    drawn = (softmax(calibrated).cumsum(axis=1) < generator.random((20_000, 1))).sum(axis=1)
    assert fit_temperature((calibrated * true).astype(np.float32), drawn) == pytest.approx(true, rel=0.04)


def test_the_minimum_is_found_as_closely_as_a_fine_grid_finds_it():
    generator = np.random.default_rng(1)
    logits, targets = generator.normal(scale=3.0, size=(200, 4)), generator.integers(4, size=200)
    logits[np.arange(200), targets] += 1.0
    found = fit_temperature(logits, targets)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20.0), 4001))
    best = min(negative_log_likelihood(logits / value, targets) for value in grid)
    assert negative_log_likelihood(logits / found, targets) <= best + 1e-12


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 50.0), classes=st.integers(2, 6))
def test_the_likelihood_is_never_worse_after_fitting(seed, scale, classes):
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=scale, size=(30, classes))
    targets = generator.integers(classes, size=30)
    temperature = fit_temperature(logits, targets)
    assert 0.05 <= temperature <= 20.0
    before = negative_log_likelihood(logits, targets)
    assert negative_log_likelihood(logits / temperature, targets) <= before


@pytest.mark.parametrize("samples", [2, 9, 100])
def test_all_right_is_as_sure_as_so_many_samples_allow(samples):
    logits, targets = np.tile([[0.5, 0.0], [0.0, 0.5]], (samples, 1))[:samples], np.arange(samples) % 2
    # Two classes: the surest answer is right n + 1 times in n + 2.
    assert fit_temperature(logits, targets) == pytest.approx(0.5 / np.log(samples + 1))


def test_the_limit_is_given_where_all_are_wrong():
    logits, targets = np.array([[4.0, 0.0], [0.0, 4.0]]), np.array([1, 0])
    assert fit_temperature(logits, targets) == pytest.approx(20.0)


def test_without_a_better_temperature_it_stays_one():
    assert fit_temperature(np.zeros((5, 3)), np.zeros(5, dtype=int)) == 1.0


def test_no_validation_data_for_a_temperature():
    with pytest.raises(ConfigError, match="the validation set is empty"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=int))


def test_likelihood_of_known_probabilities():
    logits = np.log([[0.5, 0.5], [0.9, 0.1]]) + 7.0
    assert negative_log_likelihood(logits, np.array([0, 1])) == pytest.approx(-np.log([0.5, 0.1]).mean())


# calibration error


def test_calibration_error_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.92, 0.08], [0.7, 0.3], [0.68, 0.32], [0.55, 0.45]])
    targets = np.array([0, 1, 0, 0, 1])
    # ten bins: 2 samples in (0.9, 1], half right, mean 0.935; 2 in (0.6, 0.7], right, 0.69; 1 in (0.5, 0.6]
    expected = 2 / 5 * abs(0.5 - 0.935) + 2 / 5 * abs(1.0 - 0.69) + 1 / 5 * abs(0.0 - 0.55)
    found = expected_calibration_error(np.log(probabilities), targets, bins=10)
    assert found == pytest.approx(expected, abs=1e-12)


def test_certain_and_right_has_no_calibration_error():
    assert expected_calibration_error(np.array([[900.0, 0.0]] * 3), np.zeros(3, dtype=int)) == 0.0


# thresholds


@pytest.mark.parametrize("exits", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_cheapest_at_an_accuracy_as_brute_force_finds_it(exits, seed):
    confidence, right, macs = exits_of(seed, exits=exits, samples=60)
    for target in (right[-1].mean(), right[-1].mean() - 0.05, right[0].mean()):
        found = fit_thresholds(confidence, right, macs, target_accuracy=target)
        best = min(c for a, c in all_points(confidence, right, macs) if a >= target - 1e-12)
        assert found.accuracy >= target - 1e-12
        assert found.mean_macs == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("exits", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_most_accurate_at_a_cost_as_brute_force_finds_it(exits, seed):
    confidence, right, macs = exits_of(seed, exits=exits, samples=60)
    for budget in (macs[0], 1.5 * macs[0], 0.5 * macs[-1], macs[-1]):
        found = fit_thresholds(confidence, right, macs, mean_macs=budget)
        best = max(a for a, c in all_points(confidence, right, macs) if c <= budget + 1e-9)
        assert found.mean_macs <= budget + 1e-9
        assert found.accuracy == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_with_four_exits_no_coarse_brute_force_beats_it(seed):
    confidence, right, macs = exits_of(seed, exits=4, samples=300)
    points = list(all_points(confidence, right, macs, values=np.linspace(0.2, 1.0, 17)))
    target = float(right[-1].mean()) - 0.02
    found = fit_thresholds(confidence, right, macs, target_accuracy=target)
    assert found.mean_macs <= min(c for a, c in points if a >= target) * 1.001
    found = fit_thresholds(confidence, right, macs, mean_macs=500.0)
    assert found.accuracy >= max(a for a, c in points if c <= 500.0) - 0.001


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exits=st.integers(1, 5), budget=st.floats(1.0, 25.0))
def test_the_goal_holds_and_the_figures_are_those_of_the_thresholds(seed, exits, budget):
    confidence, right, macs = exits_of(seed, exits=exits, samples=40)
    mean_macs = min(100.0 * budget, macs[-1]) if exits > 1 else macs[0]
    found = fit_thresholds(confidence, right, macs, mean_macs=mean_macs)
    assert found.mean_macs <= mean_macs + 1e-9
    assert len(found.thresholds) == exits - 1
    assert all(value is None or 0.0 <= value <= 1.0 for value in found.thresholds)
    assert (found.accuracy, found.mean_macs) == pytest.approx(
        operate(confidence, right, macs, found.thresholds)
    )
    assert sum(found.share) == pytest.approx(1.0)
    for value, share in zip(found.thresholds, found.share, strict=False):
        assert (value is None) == (share == 0.0)


def test_the_same_seed_gives_the_same_thresholds():
    confidence, right, macs = exits_of(3, exits=5, samples=200)
    assert fit_thresholds(confidence, right, macs, mean_macs=600.0, seed=4) == fit_thresholds(
        confidence, right, macs, mean_macs=600.0, seed=4
    )


def test_exits_together_may_beat_each_of_them():
    # each exit alone is right on half; leaving where the first is sure is right on all
    confidence = np.array([[0.9, 0.9, 0.1, 0.1], [0.5] * 4])
    right = np.array([[True, True, False, False], [False, False, True, True]])
    found = fit_thresholds(confidence, right, [1.0, 2.0], target_accuracy=1.0)
    assert (found.accuracy, found.mean_macs, found.share) == (1.0, 1.5, (0.5, 0.5))
    assert found.thresholds == (pytest.approx(0.9),)


def paired_bound(confidence, right, thresholds, other, errors):
    """The mean difference from another exit's answers, less so many standard errors."""
    leaves = [
        next((e for e, t in enumerate(thresholds) if t is not None and c[e] >= t), len(thresholds))
        for c in confidence.T
    ]
    apart = right[leaves, np.arange(right.shape[1])].astype(float) - other
    return apart.mean() - errors * apart.std() / np.sqrt(len(apart))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("paired", [True, False])
def test_certain_thresholds_are_the_cheapest_that_keep_the_bound(seed, paired):
    confidence, right, macs = exits_of(seed, exits=3, samples=60)
    best = int(right.mean(axis=1).argmax())
    against, other = (best, right[best].astype(float)) if paired else (None, np.zeros(60))
    drop = -0.05 if paired else right[best].mean() - 0.2
    target = float(right[best].mean()) + drop if paired else drop
    found = fit_thresholds(confidence, right, macs, target_accuracy=target, certainty=0.95, against=against)
    assert paired_bound(confidence, right, found.thresholds, other, 1.6448536) >= drop - 1e-9
    likely = fit_thresholds(confidence, right, macs, target_accuracy=target)
    assert found.mean_macs >= likely.mean_macs
    for values in product(*([*np.unique(row), None] for row in confidence[:-1])):
        if operate(confidence, right, macs, values)[1] < found.mean_macs * (1 - 1e-9):
            assert paired_bound(confidence, right, values, other, 1.6448536) < drop + 1e-9


def test_windows_that_say_the_same_are_no_more_evidence_than_one():
    confidence, right, macs = exits_of(3, exits=3, samples=60)
    best = int(right.mean(axis=1).argmax())
    goal = {"target_accuracy": float(right[best].mean()) - 0.04, "certainty": 0.95, "against": best}
    once = fit_thresholds(confidence, right, macs, **goal)
    wide, often = confidence.repeat(5, axis=1), right.repeat(5, axis=1)
    assert fit_thresholds(wide, often, macs, groups=np.arange(60).repeat(5), **goal) == once
    assert fit_thresholds(wide, often, macs, **goal).mean_macs < once.mean_macs
    with pytest.raises(ConfigError, match=r"one for each of 300 samples, got \(60,\)"):
        fit_thresholds(wide, often, macs, groups=np.arange(60), **goal)


def test_one_long_recording_is_not_as_good_as_many():
    """Early exit wrong on every tenth recording, all windows of one alike: a goal of 95 % must not be met."""
    generator, broken = np.random.default_rng(0), 0
    sizes = np.array([400] + [1] * 59)
    for _ in range(40):
        early = generator.random(60) < 0.9
        right = np.stack([early, np.ones(60, bool)]).repeat(sizes, axis=1)
        confidence = np.full(right.shape, 0.5)
        found = fit_thresholds(
            confidence,
            right,
            [1.0, 10.0],
            target_accuracy=0.95,
            certainty=0.95,
            groups=np.arange(60).repeat(sizes),
        )
        broken += found.share[0] == 1.0
    assert broken <= 6


def test_a_few_lucky_samples_do_not_send_everybody_out():
    # Both exits are right on 38 of 40, each wrong on two that the other gets right.
    right = np.ones((2, 40), bool)
    right[0, :2], right[1, 2:4] = False, False
    confidence = np.concatenate([np.linspace(0.5, 0.6, 4), np.linspace(0.7, 1.0, 36)])[None].repeat(2, 0)
    goal = {"target_accuracy": 0.94, "against": 1}
    assert fit_thresholds(confidence, right, [1.0, 10.0], **goal).share == (1.0, 0.0)
    sure = fit_thresholds(confidence, right, [1.0, 10.0], certainty=0.95, **goal)
    assert sure.share == pytest.approx((0.95, 0.05)), "the two on whom it errs go on"
    assert sure.accuracy == 1.0
    with pytest.raises(ConfigError, match=r"with a certainty of 0\.95; the most accurate have 1\.0000"):
        fit_thresholds(confidence, right, [1.0, 10.0], target_accuracy=1.01, certainty=0.95)
    for certainty in (0.4, 1.0):
        with pytest.raises(ConfigError, match=r"certain from 0\.5 to below 1"):
            fit_thresholds(confidence, right, [1.0, 10.0], certainty=certainty, **goal)


def test_an_accuracy_that_cannot_be_reached_says_what_can():
    confidence, right, macs = exits_of(0)
    best = max(a for a, _ in all_points(confidence, right, macs))
    with pytest.raises(ConfigError, match=f"the most accurate have {best:.4f}, so ask for at most that"):
        fit_thresholds(confidence, right, macs, target_accuracy=1.0)


def test_a_cost_that_cannot_be_met_says_what_can():
    confidence, right, macs = exits_of(0)
    with pytest.raises(
        ConfigError, match="A mean of 99 MACs cannot be met: the cheapest exit alone costs 100"
    ):
        fit_thresholds(confidence, right, macs, mean_macs=99.0)


@pytest.mark.parametrize("goals", [{}, {"target_accuracy": 0.5, "mean_macs": 100.0}])
def test_one_goal_is_needed(goals):
    confidence, right, macs = exits_of(0)
    with pytest.raises(ConfigError, match="Give either target_accuracy or mean_macs"):
        fit_thresholds(confidence, right, macs, **goals)


def test_arrays_that_do_not_fit():
    confidence, right, macs = exits_of(0)
    with pytest.raises(ConfigError, match=r"a cost for each exit, got \(3, 60\), \(3, 60\) and 2 costs"):
        fit_thresholds(confidence, right, macs[:2], mean_macs=100.0)
    with pytest.raises(ConfigError, match="one shape"):
        fit_thresholds(confidence, right[:, 1:], macs, mean_macs=100.0)
    with pytest.raises(ConfigError, match="the validation set is empty"):
        fit_thresholds(confidence[:, :0], right[:, :0], macs, mean_macs=100.0)
    with pytest.raises(ConfigError, match="the exits cost nothing"):
        fit_thresholds(confidence, right, [0.0] * 3, mean_macs=100.0)


# exits not worth having


def test_impractical_exits():
    names, accuracy, macs = ["A", "C", "D", "B"], [0.80, 0.85, 0.84, 0.90], [3, 4, 5, 6]
    assert impractical(names, accuracy, macs) == ("D",)
    assert impractical(names[::-1], accuracy[::-1], macs[::-1]) == ("D",)


def test_impractical_exits_with_ties():
    assert impractical(["cheap", "dear"], [0.8, 0.8], [1, 2]) == ("dear",)
    assert impractical(["better", "worse"], [0.9, 0.8], [2, 2]) == ("worse",)
    assert impractical(["one", "other"], [0.8, 0.8], [2, 2]) == ()
    assert impractical(["only"], [0.1], [5]) == ()


def test_a_temperature_needs_finite_logits_and_a_class_for_each():
    logits, targets = np.eye(3), np.arange(3)
    with pytest.raises(InputError, match="NaN or infinite"):
        fit_temperature(np.where(logits == 1, np.nan, logits), targets)
    for wrong in (targets + 1, targets - 1, targets[:2]):
        with pytest.raises(InputError, match="a class for each"):
            fit_temperature(logits, wrong)
