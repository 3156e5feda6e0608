"""Answers under a policy: the anytime loop, with samples leaving when the policy says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sentio.core.anytime import Row, Step, anytime
from sentio.core.confidence import MAX_PROBABILITY, classifier_confidence
from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.core.numeric import is_number
from sentio.core.policy import Combine, ExitCosts, Memory, Policy, check_exits, combine_of
from sentio.core.task import Task


@dataclass(frozen=True)
class Answers:
    """One answer for each sample of a batch, from the exit where it left.

    Args:
        outputs: calibrated outputs (logits over the exit's temperature), ``(batch, ...)``.
        exits: the names of the exits that were evaluated, in order.
        exit: for each sample the index into ``exits``, ``(batch,)``.
        confidence: by the task's measure, ``(batch,)``; None if the task has none.
        ms: milliseconds from the call until the sample's answer was there, ``(batch,)``.
    """

    outputs: NDArray[Any]
    exits: tuple[str, ...]
    exit: NDArray[np.intp]
    confidence: NDArray[np.floating[Any]] | None
    ms: NDArray[np.float64]

    def exit_names(self) -> list[str]:
        """The exit of each sample, by name."""
        return [self.exits[index] for index in self.exit]


def answer(
    row: Row,
    inputs: Any,
    policy: Policy,
    task: Task | None = None,
    *,
    costs: ExitCosts | None = None,
    temperatures: Mapping[str, float] | None = None,
) -> Answers:
    """Run a row under a policy; every sample is answered by the exit where it leaves.

    A sample that never leaves is answered by the last exit. Samples that have left are not computed further.

    Args:
        row: the network, in PyTorch or as exported stages.
        inputs: an array or named arrays, batch first.
        policy: who leaves when.
        task: says what confidence means; None for a classifier with logits as outputs.
        costs: of the exits; the policies `Deadline` and `Budget` need them.
        temperatures: exit -> temperature by which its output is divided (Guo et al. 2017).

    Raises:
        UnknownNameError: a temperature is of no exit of this row.
        ConfigError: the policy is none, needs what the task or the costs do not offer, or names no exit of
            this row; the exits' outputs do not fit the task or each other.
        InputError: the batch is empty; the network gives NaN or infinite values.
    """
    if isinstance(policy, type) or not callable(getattr(policy, "decide", None)):
        raise ConfigError(f"A policy is an object such as sentio.Confidence(0.9), got {policy!r}")
    known = row.exit_names
    check_exits(policy, known)
    check_temperatures(temperatures or {})
    for name in temperatures or ():
        if name not in known:
            raise UnknownNameError("exit", name, known)
    start = perf_counter()
    points = [point.name for point in row.exit_points]
    evaluated = tuple(name for name in points if policy.evaluates(name))
    if not evaluated:
        raise ConfigError(
            f"{policy} evaluates none of the exits that are switched on: {', '.join(points)}; "
            "switch its exit on, or choose another policy"
        )
    # The next exit is the next that is evaluated: one that is switched off must not count as a way out.
    costs = None if costs is None else costs.only(evaluated)
    memory: Memory = {}
    combine = combining(policy, task)
    leavers: list[_Leavers] = []
    shape: tuple[int, ...] | None = None
    for step in anytime(row, inputs, evaluates=policy.evaluates):
        output = calibrated_output(row, step, task, temperatures)
        if combine is not None:
            output, memory = combine(output, memory, np.ones(len(output), bool))
        confidence, choice = judged(output, policy, task)
        elapsed = (perf_counter() - start) * 1000.0
        index = evaluated.index(step.exit)
        if not len(output):
            raise InputError("The batch is empty; give at least one sample")
        if shape is None:
            shape = output.shape[1:]
        elif output.shape[1:] != shape:
            raise ConfigError(
                f"Exit {step.exit!r} gives outputs of shape {output.shape[1:]} and exit {evaluated[0]!r} of "
                f"{shape}; all exits of a network need the same"
            )
        here = _Leavers(step.samples, output, index, confidence, elapsed)
        if index + 1 == len(evaluated):
            leavers.append(here)
            break
        leave, memory = policy.decide(confidence, choice, step.exit, costs, elapsed, memory)
        told = np.asarray(leave)  # a policy of the user's own may say a plain True
        mask = told if told.ndim else np.full(len(output), told)
        leaving = mask.nonzero()[0]
        if len(leaving):
            step.drop(mask)
            memory = {key: values[~mask] for key, values in memory.items()}
            leavers.append(here if len(leaving) == len(output) else here.only(leaving))
    return _gather(leavers, evaluated)


def combining(policy: Policy | None, task: Task | None) -> Combine | None:
    """How the policy makes one answer of several exits' outputs, None if it answers with one exit's.

    Raises:
        ConfigError: the task's outputs are no logits of classes, of which alone means are taken.
    """
    combine = combine_of(policy)
    if combine is not None and task is not None and not getattr(task, "labels", ()):
        raise ConfigError(
            f"{type(policy).__name__} averages probabilities of classes, and task {task.name!r} has none; "
            "use Fixed, Deadline or Budget"
        )
    return combine


def judged(
    output: NDArray[Any], policy: Policy, task: Task | None
) -> tuple[NDArray[np.floating[Any]] | None, NDArray[Any] | None]:
    """How sure each output is, by the measure the policy goes by, and what it says; ``(batch,)`` each."""
    measure = policy.measure or MAX_PROBABILITY
    if task is None:
        return classifier_confidence(output, measure), output.argmax(axis=-1)
    return task.confidence(output, measure), task.choice(output)


class _Leavers(NamedTuple):
    """The samples that leave at one exit, with their answers."""

    samples: NDArray[np.intp]
    outputs: NDArray[Any]
    exit: int
    confidence: NDArray[np.floating[Any]] | None
    ms: float

    def only(self, rows: NDArray[np.intp]) -> _Leavers:
        sure = None if self.confidence is None else self.confidence[rows]
        return _Leavers(self.samples[rows], self.outputs[rows], self.exit, sure, self.ms)


def _gather(leavers: list[_Leavers], exits: tuple[str, ...]) -> Answers:
    """All answers, in the order of the samples in the batch."""
    if len(leavers) == 1:
        part = leavers[0]
        return Answers(
            part.outputs.copy(),
            exits,
            np.array([part.exit] * len(part.samples), dtype=np.intp),
            None if part.confidence is None else part.confidence.astype(np.float64),
            np.array([part.ms] * len(part.samples)),
        )
    sizes = [len(part.samples) for part in leavers]
    order = np.concatenate([part.samples for part in leavers]).argsort()
    sure = [part.confidence for part in leavers if part.confidence is not None]
    return Answers(
        np.concatenate([part.outputs for part in leavers])[order],
        exits,
        np.repeat([part.exit for part in leavers], sizes)[order],
        np.concatenate(sure, dtype=np.float64)[order] if sure else None,
        np.repeat([part.ms for part in leavers], sizes)[order],
    )


def calibrated_output(
    row: Row, step: Step, task: Task | None, temperatures: Mapping[str, float] | None
) -> NDArray[Any]:
    """A step's output as numpy, divided by its exit's temperature.

    Raises:
        ConfigError: the task takes outputs of another width.
        InputError: it holds NaN or infinite values.
    """
    output = row.to_numpy(step.output)
    if temperatures and step.exit in temperatures:
        output = output / float(temperatures[step.exit])
    if task is not None and (output.ndim < 2 or output.shape[1] != task.outputs):
        raise ConfigError(
            f"Exit {step.exit!r} gives outputs of shape {output.shape}; task {task.name!r} takes "
            f"{task.outputs} values for each sample"
        )
    # One sum is quicker than asking every value, and finite only if all of them are.
    if not isfinite(np.add.reduce(output, axis=None)) and not np.isfinite(output).all():
        raise InputError(
            f"Exit {step.exit!r} gave NaN or infinite values; the weights or the input are damaged"
        )
    return output


def check_temperatures(temperatures: Mapping[str, float]) -> None:
    """Temperatures are positive numbers.

    Raises:
        ConfigError: one is not.
    """
    if not isinstance(temperatures, Mapping):
        raise ConfigError(f"Temperatures are a mapping from exit to number, got {temperatures!r}")
    for exit, value in temperatures.items():
        if not is_number(value) or value <= 0:
            raise ConfigError(f"The temperature of exit {exit!r} must be a positive number, got {value!r}")
