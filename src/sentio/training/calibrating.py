"""After training: temperatures, costs, thresholds and the exits not worth having, from validation data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.calibration import (
    expected_calibration_error,
    fit_temperature,
    fit_thresholds,
    impractical,
)
from sentio.core.confidence import classifier_confidence
from sentio.core.features import first_of
from sentio.core.policy import Confidence, Ensemble, ExitCosts, Fixed, Memory, Policy
from sentio.core.task import TargetMaker
from sentio.training.sections import CalibrationSection


@dataclass(frozen=True)
class Calibrated:
    """What was fitted.

    Args:
        temperatures: by exit.
        policy: thresholds for the goal, or the last exit where there is only one.
        report: figures for the card, plain values.
    """

    temperatures: dict[str, float]
    policy: Policy
    report: dict[str, Any]


def measure(
    outputs: dict[str, NDArray[Any]], targets: Any, costs: ExitCosts, task: TargetMaker
) -> Calibrated:
    """Figures of each exit of a task that has no confidence: nothing is fitted, the last exit answers.

    Args:
        outputs: of every exit on validation data, in order, as ``task.score`` takes them.
        targets: as the task makes them.
        costs: of the exits.
        task: scores them.
    """
    scores = {name: task.score(output, targets) for name, output in outputs.items()}
    macs = [costs.macs[costs.index(name)] for name in outputs]
    report = {
        "samples": len(first_of(targets)),
        "figures": dict(task.figures),
        "unit": getattr(task, "unit", None),
        "exits": [
            {"name": name, **{key: scores[name][key] for key in task.figures}, "macs": cost}
            for name, cost in zip(outputs, macs, strict=True)
        ],
        "impractical": list(
            impractical(list(outputs), [next(iter(s.values())) for s in scores.values()], macs)
        ),
    }
    return Calibrated({}, Fixed(list(outputs)[-1]), report)


def calibrate(
    outputs: dict[str, NDArray[Any]],
    targets: NDArray[np.int64],
    costs: ExitCosts,
    goal: CalibrationSection,
    *,
    recordings: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Calibrated:
    """Fit temperatures and thresholds.

    Args:
        outputs: logits of every exit on validation data, ``{exit: (sample, class)}``, in order.
        targets: class numbers, ``(sample,)``.
        costs: of the exits, in the same order.
        goal: what the thresholds are for.
        recordings: which each sample is a window of, ``(sample,)``; each of its own if None.
        seed: of the threshold search.

    Raises:
        ConfigError: the goal cannot be met on this data; says what can.
    """
    names = list(outputs)
    temperatures = {
        name: fit_temperature(outputs[name], targets) if goal.temperature else 1.0 for name in names
    }
    alone = {name: outputs[name] / temperatures[name] for name in names}
    scaled = _together(alone) if goal.ensemble else alone
    right = np.stack([scaled[name].argmax(axis=1) == targets for name in names])
    accuracy = right.mean(axis=1)
    macs = [costs.macs[costs.index(name)] for name in names]
    report: dict[str, Any] = {
        "samples": len(targets),
        **({} if recordings is None else {"recordings": len(np.unique(recordings))}),
        "exits": [
            {
                "name": name,
                "accuracy": float((alone[name].argmax(axis=1) == targets).mean()),
                **({"together": float(accuracy[index])} if goal.ensemble else {}),
                "macs": macs[index],
                "temperature": temperatures[name],
                "ece_before": expected_calibration_error(outputs[name], targets),
                "ece_after": expected_calibration_error(alone[name], targets),
            }
            for index, name in enumerate(names)
        ],
        "impractical": list(impractical(names, accuracy.tolist(), macs)),
    }
    goals = goal.goals()
    if len(names) == 1 or not goals:
        together = goal.ensemble and len(names) > 1
        return Calibrated(temperatures, Ensemble({}) if together else Fixed(names[-1]), report)
    target, against = goal.target_accuracy, None
    if goal.accuracy_drop is not None:
        against = int(accuracy.argmax())
        target = float(accuracy[against]) - goal.accuracy_drop
    confidence = np.stack([classifier_confidence(scaled[name]) for name in names])
    found = fit_thresholds(
        confidence,
        right,
        macs,
        target_accuracy=target,
        mean_macs=goal.mean_macs,
        certainty=goal.certainty,
        against=against,
        groups=recordings,
        seed=seed,
    )
    report["operating_point"] = {
        "goal": goals,
        "accuracy": found.accuracy,
        "mean_macs": found.mean_macs,
        "share": dict(zip(names, found.share, strict=True)),
    }
    thresholds = dict(zip(names[:-1], found.thresholds, strict=True))
    policy = Ensemble(thresholds) if goal.ensemble else Confidence(thresholds)
    return Calibrated(temperatures, policy, report)


def _together(outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What each exit says together with those before it."""
    policy, found = Ensemble({}), {}
    memory: Memory = {}
    for name, output in outputs.items():
        found[name], memory = policy.combine(output, memory, np.ones(len(output), bool))
    return found
