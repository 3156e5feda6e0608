"""Temperatures, thresholds and impractical exits from validation outputs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sentio.core.confidence import softmax
from sentio.core.errors import ConfigError
from sentio.core.policy import Confidence, Ensemble, ExitCosts, Fixed
from sentio.training.calibrating import calibrate
from sentio.training.sections import CalibrationSection

COSTS = ExitCosts(("early", "final"), (10.0, 100.0))


def goal(**values):
    return CalibrationSection.model_validate(values)


def outputs(samples=300):
    """Logits of a fair early exit and a better final one, both three times too sure; and the targets."""
    generator = np.random.default_rng(0)
    targets = np.arange(samples) % 3
    right = np.eye(3)[targets]
    early = 3 * (1.0 * right + generator.normal(0, 1, (samples, 3)))
    final = 3 * (4.0 * right + generator.normal(0, 1, (samples, 3)))
    return {"early": early, "final": final}, targets


def nll(logits, targets):
    shifted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -shifted[np.arange(len(targets)), targets].mean()


def test_temperatures_lower_the_loss_and_the_calibration_error():
    logits, targets = outputs()
    found = calibrate(logits, targets, COSTS, goal(accuracy_drop=0.02))
    for row in found.report["exits"]:
        temperature = found.temperatures[row["name"]]
        assert row["temperature"] == temperature
        for other in (temperature * 0.9, temperature * 1.1, 1.0):
            assert nll(logits[row["name"]] / temperature, targets) < nll(logits[row["name"]] / other, targets)
    early = found.report["exits"][0]
    assert found.temperatures["early"] > 2
    assert early["ece_after"] < early["ece_before"]


def test_temperatures_may_be_left_out():
    logits, targets = outputs()
    found = calibrate(logits, targets, COSTS, goal(temperature=False, accuracy_drop=0.02))
    assert found.temperatures == {"early": 1.0, "final": 1.0}


def answered(found, logits, targets):
    """Accuracy and mean cost of the fitted policy, computed here."""
    scaled = {name: values / found.temperatures[name] for name, values in logits.items()}
    exponent = np.exp(scaled["early"] - scaled["early"].max(axis=1, keepdims=True))
    confidence = (exponent / exponent.sum(axis=1, keepdims=True)).max(axis=1)
    threshold = found.policy.threshold["early"]
    leaves = np.zeros(len(targets), bool) if threshold is None else confidence >= threshold
    choice = np.where(leaves, scaled["early"].argmax(1), scaled["final"].argmax(1))
    return (choice == targets).mean(), np.where(leaves, 10.0, 100.0).mean()


@pytest.mark.parametrize("wanted", [{"accuracy_drop": 0.05}, {"target_accuracy": 0.9}, {"mean_macs": 50.0}])
def test_thresholds_meet_their_goal_and_the_report_tells_what_they_do(wanted):
    logits, targets = outputs()
    found = calibrate(logits, targets, COSTS, goal(**wanted))
    assert isinstance(found.policy, Confidence)
    accuracy, macs = answered(found, logits, targets)
    point = found.report["operating_point"]
    assert point["goal"] == wanted
    assert (point["accuracy"], point["mean_macs"]) == (pytest.approx(accuracy), pytest.approx(macs))
    assert sum(point["share"].values()) == pytest.approx(1.0)
    best = max(row["accuracy"] for row in found.report["exits"])
    if "mean_macs" in wanted:
        assert macs <= 50
    else:
        assert accuracy >= wanted.get("target_accuracy", best - 0.05) - 1e-9
        assert macs < 100, "some leave early"


def test_exits_that_answer_together_get_thresholds_for_what_they_say_together():
    logits, targets = outputs()
    found = calibrate(logits, targets, COSTS, goal(target_accuracy=0.9, ensemble=True))
    assert isinstance(found.policy, Ensemble)
    scaled = [softmax(logits[name] / found.temperatures[name]) for name in logits]
    together = {"early": scaled[0], "final": (scaled[0] + scaled[1]) / 2}
    accuracies = [(one.argmax(1) == targets).mean() for one in together.values()]
    assert [row["together"] for row in found.report["exits"]] == pytest.approx(accuracies)
    plain = calibrate(logits, targets, COSTS, goal(target_accuracy=0.9)).report["exits"]
    for row, other in zip(found.report["exits"], plain, strict=True):
        assert {key: row[key] for key in other} == other, "what an exit says alone stays what it was"
    leaves = together["early"].max(1) >= found.policy.threshold["early"]
    choice = np.where(leaves, together["early"].argmax(1), together["final"].argmax(1))
    point = found.report["operating_point"]
    assert point["accuracy"] == pytest.approx((choice == targets).mean()) and point["accuracy"] >= 0.9
    assert calibrate(logits, targets, COSTS, goal(ensemble=True)).policy == Ensemble({})
    only = {"final": logits["final"]}
    assert calibrate(only, targets, ExitCosts(("final",), (1.0,)), goal(ensemble=True)).policy == Fixed(
        "final"
    )


def test_a_goal_out_of_reach_says_what_is_in_reach():
    logits, targets = outputs()
    with pytest.raises(ConfigError, match="ask for at most that"):
        calibrate(logits, targets, COSTS, goal(target_accuracy=1.0))
    with pytest.raises(ConfigError, match="cannot be met"):
        calibrate(logits, targets, COSTS, goal(mean_macs=1.0))


def test_one_exit_or_no_goal_answers_at_the_last_exit():
    logits, targets = outputs()
    only = {"final": logits["final"]}
    assert calibrate(only, targets, ExitCosts(("final",), (1.0,)), goal(accuracy_drop=0.1)).policy == Fixed(
        "final"
    )
    found = calibrate(logits, targets, COSTS, goal())
    assert found.policy == Fixed("final")
    assert "operating_point" not in found.report


def test_exits_not_worth_having_are_named():
    logits, targets = outputs()
    worse = {"early": logits["final"], "final": logits["early"]}
    assert calibrate(worse, targets, COSTS, goal()).report["impractical"] == ["final"]
    assert calibrate(logits, targets, COSTS, goal()).report["impractical"] == []


def test_the_report_is_plain():
    logits, targets = outputs(30)
    report = calibrate(logits, targets, COSTS, goal(accuracy_drop=0.1)).report
    assert json.loads(json.dumps(report, allow_nan=False))["samples"] == 30
