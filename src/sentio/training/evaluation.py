"""What a model is worth: accuracy, cost and time of each exit and of the policy. No PyTorch needed.

Models whose tasks have other figures than accuracy are measured by `sentio.training.scoring`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.anytime import anytime
from sentio.core.confidence import MAX_PROBABILITY
from sentio.core.errors import ConfigError, InputError
from sentio.core.features import finished, first_of, rows_of
from sentio.core.model import Model
from sentio.core.policy import Policy, policy_to_dict
from sentio.core.tables import drawn, short
from sentio.core.task import TargetMaker
from sentio.data.dataset import Dataset
from sentio.data.features import FeatureSet, features, with_targets
from sentio.data.readers import open_data
from sentio.data.splits import natural
from sentio.tasks.metrics.probabilities import expected_calibration_error, log_loss, macro_accuracy
from sentio.training.by_recording import Mistake, Recordings, TradeoffPoint, mistakes, tradeoff
from sentio.training.progress import Cancel, Progress, Report, counter, stop_if
from sentio.training.scoring import Scores, score
from sentio.training.task_of_recipe import check_data

#: windows over which the time to each exit is measured
TIMED = 50


@dataclass(frozen=True)
class ExitFigures:
    """One exit.

    Args:
        name: of the exit.
        accuracy: if every recording were answered here.
        macs: multiply-accumulates to get here, the exits before included; None where unknown.
        ms: median milliseconds from features to this exit, one window at a time.
        share: of the windows (silent ones aside) that left here under the policy.
        accuracy_leaving: of the windows that left here; None if none did.
        log_loss, ece: if every recording were answered here, see `Evaluation`.
    """

    name: str
    accuracy: float
    macs: float | None
    ms: float
    share: float
    accuracy_leaving: float | None
    log_loss: float | None = None
    ece: float | None = None


@dataclass(frozen=True)
class GroupFigures:
    """The recordings that share a value of what is known about them.

    Args:
        name: the value, e.g. a device.
        recordings: how many there are.
        accuracy: of them, under the policy.
    """

    name: str
    recordings: int
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured.

    Args:
        accuracy: of recordings under the policy; "none of these" counts as wrong.
        macro_accuracy: the mean over the classes present.
        mean_macs: per window under the policy, all exits on the way included, computed or not (`Fixed` skips
            them); None where costs are unknown.
        mean_ms: per window under the policy, one at a time, from features to answer.
        exits: figures of each exit.
        confusion: recordings by true label (rows) and answered label, the last column "none of these".
        labels: of rows and columns.
        recordings: how many were evaluated.
        windows: how many were answered by the network.
        silent: windows without signal, which are not given to it.
        policy: the policy as plain values.
        runtime: what the network ran on.
        notes: what was odd about the data.
        mistakes: the surest of the recordings that were answered wrongly.
        log_loss: mean of -log of the right class's probability under the policy, in nats; recordings that
            are nothing but silence have no probabilities and are left out, here and in the next two.
        log_loss_by_class: the mean over the classes present of each class's log loss.
        ece: expected calibration error under the policy, in 15 bins.
        tradeoff: accuracy and cost if one confidence threshold held for all exits, from everything at the
            first exit to everything at the last.
        by: the column that ``groups`` go by; None where none was asked for.
        groups: figures of the recordings by their value in that column.
    """

    accuracy: float
    macro_accuracy: float
    mean_macs: float | None
    mean_ms: float
    exits: tuple[ExitFigures, ...]
    confusion: list[list[int]]
    labels: tuple[str, ...]
    recordings: int
    windows: int
    silent: int
    policy: dict[str, Any]
    runtime: str
    notes: tuple[str, ...] = field(default=())
    mistakes: tuple[Mistake, ...] = field(default=())
    tradeoff: tuple[TradeoffPoint, ...] = field(default=())
    by: str | None = None
    groups: tuple[GroupFigures, ...] = field(default=())
    log_loss: float | None = None
    log_loss_by_class: float | None = None
    ece: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def for_card(self) -> dict[str, Any]:
        """The same without what names recordings or fills pages: what a model carries with it."""
        return {key: value for key, value in self.to_dict().items() if key not in ("mistakes", "tradeoff")}

    def table(self) -> str:
        """The exits and the policy as a table in plain text."""
        from rich.table import Table

        table = Table()
        for column in ("exit", "accuracy", "MACs", "ms", "leaving", "accuracy of those"):
            table.add_column(column, justify="left" if column == "exit" else "right")
        for row in self.exits:
            leaving = "" if row.accuracy_leaving is None else f"{row.accuracy_leaving:.1%}"
            table.add_row(
                row.name,
                f"{row.accuracy:.1%}",
                short(row.macs),
                f"{row.ms:.2f}",
                f"{row.share:.1%}",
                leaving,
            )
        table.add_section()
        name = str(self.policy.get("name"))
        table.add_row(
            f"policy: {name}",
            f"{self.accuracy:.1%}",
            short(self.mean_macs),
            f"{self.mean_ms:.2f}",
            "100.0%",
            "",
        )
        silent = f" and {self.silent} silent ones" if self.silent else ""
        counts = f"{self.recordings} recordings, {self.windows} windows{silent}"
        sure = ""
        if self.log_loss is not None:
            sure = f"log loss {self.log_loss:.3f} nats ({self.log_loss_by_class:.3f} mean over the classes), "
            sure += f"calibration error (ECE) {self.ece:.3f}\n"
        found = f"{drawn(table)}\n{sure}{counts}, runtime {self.runtime}\n"
        if self.by is None:
            return found
        parts = Table()
        for column in (self.by, "recordings", "accuracy"):
            parts.add_column(column, justify="left" if column == self.by else "right")
        for group in self.groups:
            parts.add_row(group.name, str(group.recordings), f"{group.accuracy:.1%}")
        return f"{found}{drawn(parts)}\n"


def evaluate(
    model: Model,
    data: Dataset | FeatureSet | str | Path,
    *,
    policy: Policy | None = None,
    labels: tuple[str, ...] | None = None,
    by: str | None = None,
    cache: str | Path | None = None,
    skip_bad: bool = False,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Evaluation | Scores:
    """Measure a model on recordings whose labels, or heads, are known.

    Windows are answered one at a time, as on a device; a recording of several windows is answered by the
    mean of their probabilities. Silent windows are left out, and a recording of nothing else is answered
    "none of these".

    A model that does not classify gets its task's figures instead, e.g. a counter the mean absolute error of
    each exit, window by window, silent ones included.

    Args:
        model: the model.
        data: a data set, a path to one, or its features.
        policy: instead of the model's own.
        labels: of classifiers, what the class numbers of a `FeatureSet` mean; the model's own labels if None.
        by: also give the accuracy of each value of this column of the data's details, e.g. ``device``, or of
            each ``group``.
        cache: a folder that keeps features for the next time.
        skip_bad: leave out files that cannot be read, with a note, instead of raising.
        progress, cancel: for a caller that shows progress or wants to stop.

    Raises:
        InputError: the data holds labels that the model does not know, nothing but silence, or cannot be
            read.
        ConfigError: the model's task is not measured on data sets, or learns from other data; the model has
            no front end for files; or the data has no column ``by``.
        CancelledError: ``cancel`` said so.
    """
    if isinstance(model.task, TargetMaker):
        return _scores(model, model.task, data, policy, by, cache, skip_bad, progress, cancel)
    known = getattr(model.task, "labels", None)
    if known is None:
        raise ConfigError(f"Model {model.name!r} does not classify, so it cannot be evaluated on labels")
    if isinstance(data, FeatureSet):
        given, prepared, files = labels or known, data, None
        if by is not None:
            raise ConfigError(f"Features carry no details to go by {by!r}; pass the data set instead")
        values: list[str] = []
    else:
        dataset = data if isinstance(data, Dataset) else open_data(data)
        if model.frontend is None:
            raise ConfigError(f"Model {model.name!r} takes features; pass a FeatureSet instead of files")
        check_data(model.task, dataset)
        given, files = dataset.labels, [item.name for item in dataset.items]
        values = [] if by is None else _values(dataset, by)
        _check_labels([label for label, count in dataset.counts().items() if count], known, str(dataset.root))
        told = None if progress is None else counter(progress, "features")
        prepared = features(
            dataset, model.frontend, cache=cache, skip_bad=skip_bad, progress=told, cancel=cancel
        )
    _check_labels([given[i] for i in np.unique(prepared.targets)], known, "The data")
    number = np.array([known.index(label) if label in known else -1 for label in given])
    targets = number[prepared.targets]
    heard = np.flatnonzero(~prepared.silent)
    if not len(heard):
        raise InputError("There is nothing to evaluate: the data holds no window with a signal")
    chosen = policy or model.policy

    inputs = rows_of(prepared.inputs, heard)
    outputs = model.outputs(inputs)
    names = model.exit_names
    ms = _time_to_exits(model, inputs)
    answered, left, spent = _answers(model, inputs, chosen, progress, cancel)

    recordings = Recordings(prepared.rows, targets, heard, getattr(model.task, "none_below", None))
    truth = recordings.truth

    macs = None if model.costs is None else [model.costs.macs[model.costs.index(name)] for name in names]
    figures = []
    for index, name in enumerate(names):
        here = left == index
        believed_here = recordings.probabilities(outputs[name])
        right_here = answered[here].argmax(axis=1) == targets[heard][here]
        figures.append(
            ExitFigures(
                name,
                float((recordings.answers(outputs[name])[0] == truth).mean()),
                None if macs is None else float(macs[index]),
                ms[name],
                float(here.mean()),
                float(right_here.mean()) if here.any() else None,
                log_loss(*believed_here),
                expected_calibration_error(*believed_here),
            )
        )
    guess, score = recordings.answers(answered)
    right = guess == truth
    believed = recordings.probabilities(answered)
    sure = [model.task.confidence(outputs[name], MAX_PROBABILITY) for name in names[:-1]]
    confusion = np.zeros((len(known), len(known) + 1), dtype=int)
    np.add.at(confusion, (truth, guess), 1)
    return Evaluation(
        accuracy=float(right.mean()),
        macro_accuracy=macro_accuracy(guess, truth),
        mean_macs=None if macs is None else float(np.asarray(macs)[left].mean()),
        mean_ms=float(spent.mean()),
        exits=tuple(figures),
        confusion=confusion.tolist(),
        labels=tuple(known),
        recordings=len(truth),
        windows=len(heard),
        silent=len(prepared) - len(heard),
        policy=policy_to_dict(chosen),
        runtime=model.runtime,
        notes=prepared.notes,
        mistakes=mistakes(recordings, guess, score, left, names, known, files),
        tradeoff=tradeoff(recordings, [outputs[name] for name in names], sure, macs),
        by=by,
        groups=_groups([values[row] for row in recordings.rows], right) if values else (),
        log_loss=log_loss(*believed),
        log_loss_by_class=log_loss(*believed, by_class=True),
        ece=expected_calibration_error(*believed),
    )


def _scores(
    model: Model,
    task: TargetMaker,
    data: Dataset | FeatureSet | str | Path,
    policy: Policy | None,
    by: str | None,
    cache: str | Path | None,
    skip_bad: bool,
    progress: Report | None,
    cancel: Cancel | None,
) -> Scores:
    """Figures of a task that makes its own targets."""
    values: list[str] | None = None
    if isinstance(data, FeatureSet):
        prepared = data
        if by is not None:
            raise ConfigError(f"Features carry no details to go by {by!r}; pass the data set instead")
    else:
        dataset = data if isinstance(data, Dataset) else open_data(data)
        if model.frontend is None:
            raise ConfigError(f"Model {model.name!r} takes features; pass a FeatureSet instead of files")
        check_data(task, dataset)
        values = None if by is None else _values(dataset, by)
        told = None if progress is None else counter(progress, "features")
        prepared = features(
            dataset, model.frontend, cache=cache, skip_bad=skip_bad, progress=told, cancel=cancel
        )
        prepared = with_targets(prepared, dataset, task, model.frontend, skip_bad=skip_bad)
    ms = _time_to_exits(model, prepared.inputs)
    chosen = policy or model.policy
    return score(model, prepared, chosen, ms, by=by, values=values, progress=progress, cancel=cancel)


def _values(dataset: Dataset, by: str) -> list[str]:
    """What each item has in a column, ``-`` where it has nothing."""
    columns = {key for item in dataset.items for key in item.details}
    grouped = any(item.group is not None for item in dataset.items)
    if by not in columns and not (by == "group" and grouped):
        known = [*sorted(columns), *(["group"] if grouped else [])]
        raise ConfigError(
            f"{dataset.root} has no column {by!r} to go by; it has: {', '.join(known) or 'none'}"
        )
    if by in columns:
        return [item.details.get(by) or "-" for item in dataset.items]
    return [item.group or "-" for item in dataset.items]


def _groups(values: list[str], right: NDArray[np.bool_]) -> tuple[GroupFigures, ...]:
    """Figures of each value, in natural order."""
    found = []
    for value in sorted(set(values), key=natural):
        here = np.array([other == value for other in values])
        found.append(GroupFigures(value, int(here.sum()), float(right[here].mean())))
    return tuple(found)


def _answers(
    model: Model,
    inputs: Any,
    policy: Policy,
    progress: Report | None,
    cancel: Cancel | None,
) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[np.float64]]:
    """Output, exit and milliseconds of each window, one at a time; by name where there are several inputs."""
    outputs = []
    count = len(first_of(inputs))
    left = np.empty(count, dtype=np.intp)
    spent = np.empty(count)
    for index in range(count):
        stop_if(cancel, "The evaluation")
        one = model.answer(rows_of(inputs, slice(index, index + 1)), policy=policy)
        outputs.append(one.outputs[0])
        left[index], spent[index] = model.exit_names.index(one.exit_names()[0]), one.ms[0]
        if progress is not None:
            progress(Progress("evaluate", index + 1, count))
    return np.stack(outputs), left, spent


def _time_to_exits(model: Model, inputs: Any) -> dict[str, float]:
    """Median milliseconds until each exit is there, all exits before it included, one window at a time."""
    from time import perf_counter

    found: dict[str, list[float]] = {name: [] for name in model.exit_names}
    for index in range(-3, min(TIMED, len(first_of(inputs)))):
        one = rows_of(inputs, slice(max(index, 0), max(index, 0) + 1))
        start = perf_counter()
        for step in anytime(model.row, finished(model.frontend, one)):
            model.row.to_numpy(step.output)
            if index >= 0:  # the first few only warm up
                found[step.exit].append((perf_counter() - start) * 1000.0)
    return {name: float(np.median(values)) for name, values in found.items()}


def _check_labels(given: Any, known: tuple[str, ...], where: str) -> None:
    unknown = [label for label in given if label not in known]
    if unknown:
        raise InputError(
            f"{where} holds labels the model does not know: {', '.join(unknown[:5])}; "
            f"it knows {', '.join(known)}; rename those, or fine-tune it on them: sentio train --from"
        )
