"""What a model is worth whose task has figures of its own in place of accuracy, as a counter's errors are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.features import first_of, rows_of
from sentio.core.model import Model
from sentio.core.policy import Policy, policy_to_dict
from sentio.core.tables import drawn, short
from sentio.core.task import TargetMaker
from sentio.data.features import FeatureSet
from sentio.data.splits import natural
from sentio.training.progress import Cancel, Progress, Report, stop_if

#: samples given to the network at once, beside those that are timed one at a time
BATCH = 16


@dataclass(frozen=True)
class ExitScores:
    """One exit.

    Args:
        name: of the exit.
        figures: if everything were answered here, by name.
        macs: multiply-accumulates to get here, the exits before included; None where unknown.
        ms: median milliseconds from features to this exit, one window at a time.
        share: of the windows that left here under the policy.
    """

    name: str
    figures: dict[str, float]
    macs: float | None
    ms: float
    share: float


@dataclass(frozen=True)
class GroupScores:
    """The recordings that share a value of what is known about them.

    Args:
        name: the value, e.g. a condition.
        recordings: how many there are.
        figures: of them, under the policy.
        exits: exit -> figures of them, if everything were answered there.
    """

    name: str
    recordings: int
    figures: dict[str, float]
    exits: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Scores:
    """What `sentio.evaluate` measured of a model that does not classify.

    Args:
        figures: under the policy, by name; those of the task, e.g. ``mae`` and ``rmse``.
        headings: what each figure is called.
        unit: what the figures count, in the singular; None where they have no unit.
        mean_macs: per window under the policy, all exits on the way included, computed or not (`Fixed` skips
            them); None where costs are unknown.
        mean_ms: per window under the policy, one at a time, from features to answer.
        exits: figures of each exit.
        recordings: how many were evaluated.
        windows: how many were answered by the network.
        policy: the policy as plain values.
        runtime: what the network ran on.
        notes: what was odd about the data.
        by: the column that ``groups`` go by; None where none was asked for.
        groups: figures of the recordings by their value in that column.
    """

    figures: dict[str, float]
    headings: dict[str, str]
    unit: str | None
    mean_macs: float | None
    mean_ms: float
    exits: tuple[ExitScores, ...]
    recordings: int
    windows: int
    policy: dict[str, Any]
    runtime: str
    notes: tuple[str, ...] = field(default=())
    by: str | None = None
    groups: tuple[GroupScores, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the figures also stand beside the rest by their own names."""
        return {**asdict(self), **self.figures}

    def for_card(self) -> dict[str, Any]:
        """What a model carries with it."""
        return self.to_dict()

    def table(self) -> str:
        """The exits and the policy as a table in plain text."""
        from rich.table import Table

        table = Table()
        headings = list(self.headings.values())
        for column in ("exit", *headings, "MACs", "ms", "leaving"):
            table.add_column(column, justify="left" if column == "exit" else "right")
        for row in self.exits:
            cost = (short(row.macs), f"{row.ms:.2f}", f"{row.share:.1%}")
            table.add_row(row.name, *self.cells(row.figures), *cost)
        table.add_section()
        cost = (short(self.mean_macs), f"{self.mean_ms:.2f}", "100.0%")
        table.add_row(f"policy: {self.policy.get('name')}", *self.cells(self.figures), *cost)
        unit = "" if self.unit is None else f"{' and '.join(headings)} in {self.unit}s; "
        counts = f"{self.recordings} recordings, {self.windows} windows, runtime {self.runtime}"
        found = f"{drawn(table)}\n{unit}{counts}\n"
        if self.by is None:
            return found
        parts = Table()
        main = next(iter(self.headings))
        names = [row.name for row in self.exits]
        for column in (self.by, "recordings", *headings, *(f"{self.headings[main]} at {n}" for n in names)):
            parts.add_column(column, justify="left" if column == self.by else "right")
        for group in self.groups:
            at_exits = (f"{group.exits[name][main]:.2f}" for name in names)
            parts.add_row(group.name, str(group.recordings), *self.cells(group.figures), *at_exits)
        return f"{found}{drawn(parts)}\n"

    def cells(self, figures: Mapping[str, float]) -> list[str]:
        """The figures in order, as tables show them."""
        return [f"{figures[name]:.2f}" for name in self.headings]


def score(
    model: Model,
    prepared: FeatureSet,
    policy: Policy,
    ms: Mapping[str, float],
    *,
    by: str | None = None,
    values: list[str] | None = None,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Scores:
    """Measure a model on windows with targets.

    Args:
        model: its task is a `TargetMaker`.
        prepared: windows with the targets that the task makes.
        policy: who leaves when.
        ms: exit -> median milliseconds to get there.
        by, values: the column to go by, and each item's value in it.
        progress, cancel: for a caller that shows progress or wants to stop.

    Raises:
        CancelledError: ``cancel`` said so.
        ConfigError: the policy does not fit the task.
    """
    task = model.task
    assert isinstance(task, TargetMaker)
    names = model.exit_names
    answers, left, spent = _answers(model, task, prepared.inputs, policy, progress, cancel)
    outputs = model.outputs(prepared.inputs, batch=BATCH, change=task.reduced)
    macs = None if model.costs is None else [model.costs.macs[model.costs.index(name)] for name in names]

    def figures(output: NDArray[Any], rows: Any = slice(None)) -> dict[str, float]:
        found = task.score(output[rows], rows_of(prepared.targets, rows))
        return {name: float(found[name]) for name in task.figures}

    groups = []
    if values:
        column = np.array([values[row] for row in prepared.rows])
        for value in sorted(set(column.tolist()), key=natural):
            here = column == value
            at_exits = {name: figures(outputs[name], here) for name in names}
            count = len(np.unique(prepared.rows[here]))
            groups.append(GroupScores(value, count, figures(answers, here), at_exits))
    return Scores(
        figures=figures(answers),
        headings=dict(task.figures),
        unit=getattr(task, "unit", None),
        mean_macs=None if macs is None else float(np.asarray(macs)[left].mean()),
        mean_ms=float(spent.mean()),
        exits=tuple(
            ExitScores(
                name,
                figures(outputs[name]),
                None if macs is None else float(macs[index]),
                ms[name],
                float((left == index).mean()),
            )
            for index, name in enumerate(names)
        ),
        recordings=len(np.unique(prepared.rows)),
        windows=len(prepared),
        policy=policy_to_dict(policy),
        runtime=model.runtime,
        notes=prepared.notes,
        by=by,
        groups=tuple(groups),
    )


def _answers(
    model: Model,
    task: TargetMaker,
    inputs: Any,
    policy: Policy,
    progress: Report | None,
    cancel: Cancel | None,
) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[np.float64]]:
    """What scores need of each window's answer, its exit and milliseconds, one at a time."""
    count = len(first_of(inputs))
    outputs, left, spent = [], np.empty(count, dtype=np.intp), np.empty(count)
    for index in range(count):
        stop_if(cancel, "The evaluation")
        sample = rows_of(inputs, slice(index, index + 1))
        one = model.answer(sample, policy=policy)
        outputs.append(task.reduced(one.outputs))
        left[index], spent[index] = model.exit_names.index(one.exit_names()[0]), one.ms[0]
        if progress is not None:
            progress(Progress("evaluate", index + 1, count))
    return np.concatenate(outputs), left, spent
