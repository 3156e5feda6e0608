import json
from types import MappingProxyType

import numpy as np
import pytest

from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.policy import (
    POLICIES,
    Budget,
    Confidence,
    Deadline,
    Ensemble,
    Entropy,
    ExitCosts,
    Fixed,
    Patience,
    check_exits,
    policy_from_dict,
    policy_to_dict,
)

COSTS = ExitCosts(("e1", "e2", "final"), (100.0, 300.0, 900.0), (1.0, 3.0, 9.0))


def leaves(policy, exit, confidence=None, prediction=None, *, elapsed=0.0, costs=COSTS):
    """Which samples leave, by a rule that remembers nothing."""
    mask, memory = policy.decide(
        None if confidence is None else np.asarray(confidence, dtype=np.float32),
        None if prediction is None else np.asarray(prediction),
        exit,
        costs,
        elapsed,
        {},
    )
    assert memory == {}
    return np.asarray(mask).tolist()


def test_confidence_at_or_above_one_threshold_for_all_exits():
    assert leaves(Confidence(0.5), "e1", [0.4, 0.5, 0.6]) == [False, True, True]
    assert leaves(Confidence(0.5), "any", [0.4, 0.5, 0.6]) == [False, True, True]


def test_confidence_by_exit_passes_exits_with_none_or_no_threshold():
    policy = Confidence({"e1": 0.5, "e2": None})
    assert leaves(policy, "e1", [0.4, 0.6]) == [False, True]
    assert leaves(policy, "e2", [0.4, 1.0]) is False
    assert leaves(policy, "e3", [0.4, 1.0]) is False
    assert leaves(Confidence({"e1": 0.0}), "e1", [0.0]) == [True]


def test_entropy_leaves_where_the_scaled_entropy_is_at_most_the_threshold():
    # confidence by entropy is one minus the scaled entropy
    assert leaves(Entropy(0.25), "e1", [0.5, 0.75, 1.0]) == [False, True, True]
    policy = Entropy({"e1": 0.25, "e2": None})
    assert leaves(policy, "e1", [0.5, 0.75]) == [False, True]
    assert leaves(policy, "e2", [1.0]) is False


@pytest.mark.parametrize("policy", [Confidence(0.5), Entropy(0.5)])
def test_rules_about_confidence_need_one(policy):
    with pytest.raises(ConfigError, match="needs a confidence, which this task does not have; use Fixed"):
        leaves(policy, "e1")


def test_patience_counts_exits_that_agree_with_the_one_before():
    policy, memory = Patience(2), {}
    answers = [[1, 1, 1], [1, 2, 1], [1, 2, 2], [1, 2, 2], [1, 2, 2]]
    gone = []
    for prediction in answers:
        mask, memory = policy.decide(None, np.array(prediction), "e", None, 0.0, memory)
        gone.append(mask.tolist())
    assert gone == [
        [False, False, False],
        [False, False, False],
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_patience_remembers_row_by_row_when_the_batch_shrinks():
    policy = Patience(1)
    _, memory = policy.decide(None, np.array([5, 6, 7]), "e1", None, 0.0, {})
    memory = {key: values[[0, 2]] for key, values in memory.items()}
    mask, memory = policy.decide(None, np.array([6, 7]), "e2", None, 0.0, memory)
    assert mask.tolist() == [False, True]
    assert memory["prediction"].tolist() == [6, 7]


def test_patience_needs_answers_to_compare():
    with pytest.raises(ConfigError, match="Patience compares answers between exits"):
        leaves(Patience(1), "e1")


def test_fixed_computes_one_exit_only():
    policy = Fixed("e2")
    assert [policy.evaluates(name) for name in ("e1", "e2", "final")] == [False, True, False]
    assert leaves(policy, "e2") is True


@pytest.mark.parametrize(
    "policy", [Confidence(0.5), Entropy(0.5), Ensemble(0.5), Patience(1), Deadline(1.0), Budget(1.0)]
)
def test_the_other_rules_look_at_every_exit(policy):
    assert policy.evaluates("e1")
    assert policy.evaluates("final")


@pytest.mark.parametrize(
    ("elapsed", "exit", "late"),
    [
        (1.0, "e1", False),  # e2 is expected at 1 + 2 = 3
        (0.5, "e1", False),  # faster than measured is not counted on: 0.5 + 2
        (2.0, "e1", False),  # twice as slow as measured: 2 + 4 = 6
        (2.1, "e1", True),  # 2.1 + 4.2 = 6.3
        (6.0, "e1", True),  # the deadline has passed
        (3.0, "e2", True),  # final at 3 + 6 = 9
        (5.0, "final", False),
    ],
)
def test_deadline_stretches_measured_times_by_how_slow_the_call_is(elapsed, exit, late):
    assert leaves(Deadline(6.0), exit, elapsed=elapsed) is late


def test_deadline_without_a_measured_time_at_an_exit_takes_the_others_as_they_are():
    costs = ExitCosts(("e1", "final"), (0.0, 1.0), (0.0, 4.0))
    assert leaves(Deadline(6.0), "e1", elapsed=2.0, costs=costs) is False
    assert leaves(Deadline(6.0), "e1", elapsed=2.1, costs=costs) is True


@pytest.mark.parametrize("costs", [None, ExitCosts(("e1", "final"), (1.0, 2.0))])
def test_deadline_needs_measured_times(costs):
    with pytest.raises(ConfigError, match="Deadline needs measured milliseconds of each exit; profile"):
        leaves(Deadline(6.0), "e1", costs=costs)


@pytest.mark.parametrize(
    ("macs", "stops"), [(50, "e1"), (100, "e1"), (299, "e1"), (300, "e2"), (899, "e2"), (900, None)]
)
def test_budget_stops_at_the_last_exit_it_can_pay(macs, stops):
    stopped = next((exit for exit in ("e1", "e2", "final") if leaves(Budget(macs), exit)), None)
    assert stopped == stops


def test_budget_needs_costs():
    with pytest.raises(ConfigError, match="Budget needs the multiply-accumulates of each exit; profile"):
        leaves(Budget(1.0), "e1", costs=None)


def test_costs_of_an_exit_that_is_not_listed():
    with pytest.raises(UnknownNameError, match="Unknown exit 'e3'"):
        leaves(Budget(1.0), "e3")


def test_costs_of_some_exits():
    assert COSTS.only(("final", "e1")) == ExitCosts(("e1", "final"), (100.0, 900.0), (1.0, 9.0))
    assert ExitCosts(("a",), (1.0,)).only(()).names == ()


def test_costs_come_one_for_each_exit():
    with pytest.raises(ConfigError, match=r"Costs of 2 exits \(a, b\) come with 1 figures of MACs"):
        ExitCosts(("a", "b"), (1.0,))
    with pytest.raises(ConfigError, match="3 figures of milliseconds"):
        ExitCosts(("a", "b"), (1.0, 2.0), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    "policy",
    [
        Confidence(0.9),
        Confidence({"e1": 0.9, "e2": None}),
        Entropy(0.1),
        Entropy({"e1": 0.1}),
        Ensemble({"e1": 0.9, "e2": None}),
        Patience(2),
        Fixed("final"),
        Deadline(12.5),
        Budget(1e6),
    ],
)
def test_through_plain_values_and_back(policy):
    values = json.loads(json.dumps(policy_to_dict(policy)))
    assert policy_from_dict(values) == policy
    assert values["name"] in POLICIES


def test_plain_values_hold_no_numpy():
    thresholds = MappingProxyType({"e1": np.float32(0.5)})
    assert json.dumps(policy_to_dict(Confidence(thresholds))) == (
        '{"name": "confidence", "threshold": {"e1": 0.5}}'
    )
    assert json.dumps(policy_to_dict(Patience(np.int64(3)))) == '{"name": "patience", "tolerance": 3}'


def test_a_policy_of_ones_own_cannot_be_stored():
    class Mine(Fixed):
        pass

    with pytest.raises(ConfigError, match="A policy of type Mine cannot be stored; use one of: confidence"):
        policy_to_dict(Mine("final"))


def test_an_unknown_policy_is_named():
    with pytest.raises(UnknownNameError, match="Unknown policy 'confidense'; did you mean 'confidence'"):
        policy_from_dict({"name": "confidense", "threshold": 0.5})
    with pytest.raises(UnknownNameError, match="Unknown policy ''; choose one of: confidence"):
        policy_from_dict({})


@pytest.mark.parametrize(
    "values", [{"name": "budget"}, {"name": "budget", "macs": 1.0, "ms": 2.0}, {"name": "budget", "ms": 2.0}]
)
def test_arguments_that_are_missing_or_unknown(values):
    with pytest.raises(ConfigError, match="Policy 'budget' takes macs; got"):
        policy_from_dict(values)


@pytest.mark.parametrize(
    "threshold", [-0.1, 1.1, float("nan"), None, "0.5", True, {"e1": 2.0}, {"e1": [0.5]}]
)
@pytest.mark.parametrize("kind", [Confidence, Entropy])
def test_thresholds_out_of_range(kind, threshold):
    with pytest.raises(ConfigError, match="thresholds are numbers between 0 and 1"):
        kind(threshold)


def test_thresholds_go_by_names():
    with pytest.raises(ConfigError, match="Confidence thresholds by exit go by its name"):
        Confidence({1: 0.5})


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Patience, 0, "at least 1 exit, got 0"),
        (Patience, 1.5, "a whole number of exits, got 1.5"),
        (Patience, True, "a whole number of exits"),
        (Fixed, 3, "the name of an exit, got 3"),
        (Deadline, 0, "a positive number of milliseconds, got 0"),
        (Deadline, float("inf"), "a positive number of milliseconds"),
        (Deadline, "5", "a positive number of milliseconds, got '5'"),
        (Budget, -1.0, "a positive number of multiply-accumulates, got -1.0"),
        (Budget, float("nan"), "a positive number of multiply-accumulates"),
    ],
)
def test_values_out_of_range(kind, value, message):
    with pytest.raises(ConfigError, match=message):
        kind(value)


@pytest.mark.parametrize("policy", [Fixed("e9"), Confidence({"e1": 0.5, "e9": 0.5}), Entropy({"e9": None})])
def test_exits_that_a_policy_names_are_checked(policy):
    with pytest.raises(UnknownNameError, match="Unknown exit 'e9'"):
        check_exits(policy, ("e1", "final"))


@pytest.mark.parametrize("policy", [Fixed("final"), Confidence(0.5), Entropy({"e1": 0.5}), Patience(1)])
def test_exits_that_exist_pass(policy):
    assert check_exits(policy, ("e1", "final")) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "9", None])
def test_costs_are_numbers(bad):
    for figures in (((1.0, bad), None), ((1.0, 2.0), (1.0, bad))):
        with pytest.raises(ConfigError, match=r"Costs are finite numbers, got .* of exit 'final'"):
            ExitCosts(("e1", "final"), *figures)
