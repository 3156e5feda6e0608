"""What int8 costs: accuracy of every exit and of the policy before and after, and which stage it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.anytime import MAIN, Boundary
from sentio.core.confidence import softmax
from sentio.core.errors import ConfigError, InputError
from sentio.core.manifest import EXIT, STAGE
from sentio.core.model import Model, RuntimeRow
from sentio.core.policy import Confidence, Ensemble
from sentio.data.dataset import Dataset
from sentio.data.features import FeatureSet, features
from sentio.data.readers import open_data
from sentio.data.splits import hold_out, splits
from sentio.exporting.quantisation import Int8
from sentio.training.by_recording import Recordings
from sentio.training.calibrating import Calibrated, calibrate
from sentio.training.evaluation import Evaluation, evaluate
from sentio.training.sections import CalibrationSection

#: a drop of accuracy beyond which the stage that costs most is looked for
POINT = 0.01
#: what thresholds are fitted for where the training did not say
GOAL = {"accuracy_drop": 0.01}


@dataclass(frozen=True)
class Labelled:
    """Windows with their classes.

    Args:
        name: of the data.
        windows: the features.
        labels: what the class numbers mean.
    """

    name: str
    windows: FeatureSet
    labels: tuple[str, ...]

    @property
    def heard(self) -> NDArray[np.bool_]:
        """Which windows hold a signal."""
        return ~self.windows.silent

    def facts(self) -> dict[str, Any]:
        """Plain values for the card."""
        recordings = len(np.unique(self.windows.rows))
        return {"name": self.name, "recordings": recordings, "windows": int(self.heard.sum())}


@dataclass(frozen=True)
class Parts:
    """Data for the ranges and data for the figures.

    Args:
        ranges: windows by the names of the network's inputs.
        calibration: the same with classes; None for plain features.
        measured: for the accuracies; None where nothing has classes.
        apart: no recording is in both.
        notes: what the data did not allow, one sentence each.
    """

    ranges: Mapping[str, NDArray[Any]]
    calibration: Labelled | None
    measured: Labelled | None
    apart: bool
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Plain values for the card."""
        both = {"calibration": self.calibration, "measured": self.measured}
        return {
            **{name: None if part is None else part.facts() for name, part in both.items()},
            "apart": self.apart,
        }


def divide(model: Model, settings: Int8, *, cache: str | Path | None = None, skip_bad: bool = False) -> Parts:
    """The data of the settings through the model's front end, calibration and measured part apart.

    Raises:
        InputError: the data cannot be read, or hold no window with a signal.
        ConfigError: there is no such split, or the model has no front end for files.
    """

    def prepared(data: Dataset) -> Labelled:
        if model.frontend is None:
            raise ConfigError(
                f"Model {model.name!r} takes features; calibrate with a FeatureSet instead of files"
            )
        found = features(data, model.frontend, cache=cache, skip_bad=skip_bad)
        return Labelled(data.name, found, data.labels)

    def labelled(data: Any) -> Labelled | None:
        if isinstance(data, FeatureSet):
            return Labelled("features", data, _labels(model))
        if isinstance(data, Dataset):
            return prepared(data)
        return prepared(open_data(data)) if isinstance(data, str | Path) else None

    given, measured = settings.calibration, settings.measured
    files = any(isinstance(data, FeatureSet | Dataset | str | Path) for data in (given, measured))
    if files and not _labels(model):
        raise ConfigError(
            f"Model {model.name!r} does not classify, and what int8 costs is measured in accuracy; in Python "
            "give Int8 plain features, which only the ranges come from"
        )
    given = open_data(given) if isinstance(given, str | Path) else given
    if measured is not None:
        used, figures = labelled(given), labelled(measured)
        apart, notes = True, ()
    elif isinstance(given, Dataset):
        first, second, apart, notes = _by_protocol(given, settings)
        used = prepared(first)
        figures = prepared(second) if apart else used
    elif isinstance(given, FeatureSet):
        used, figures, apart, notes = _by_recording(given, _labels(model), settings.seed)
    else:
        used, figures, apart, notes = None, None, False, ()
    if used is not None:
        ranges: Mapping[str, Any] = {MAIN: used.windows.inputs[used.heard]}
    else:
        ranges = given if isinstance(given, Mapping) else {MAIN: given}
    trained = (model.card.get("data") or {}).get("name")
    if figures is not None and figures.name == trained:
        notes = (*notes, f"The model was trained on files of {trained}; accuracies on those are too good.")
    return Parts(ranges, used, figures, apart, notes)


def _labels(model: Model) -> tuple[str, ...]:
    return tuple(getattr(model.task, "labels", ()))


def _by_protocol(data: Dataset, settings: Int8) -> tuple[Dataset, Dataset, bool, tuple[str, ...]]:
    try:
        found = splits(data, seed=settings.seed)
    except InputError as error:
        return data, data, False, (f"Accuracies are of the calibration data: {error}.",)
    if not 0 <= settings.split < len(found):
        raise ConfigError(f"{data.root} has splits 0 to {len(found) - 1}, got {settings.split}")
    split = found[settings.split]
    parts = [part for part in (split.validation, split.train) if len(part)]
    test = split.test if len(split.test) else parts.pop(0) if len(parts) > 1 else split.test
    if not len(test):
        return data, data, False, (*split.notes, "Accuracies are of the calibration data.")
    return data.subset(parts[0]), data.subset(test), True, split.notes


def _by_recording(
    data: FeatureSet, labels: tuple[str, ...], seed: int
) -> tuple[Labelled, Labelled, bool, tuple[str, ...]]:
    """Half of each class's recordings for either part."""
    generator = np.random.Generator(np.random.PCG64(seed))
    held = hold_out(data.targets, data.rows, 0.5, generator)
    if not held.any():
        part = Labelled("features", data, labels)
        return part, part, False, ("Accuracies are of the calibration data: no class has two recordings.",)
    first, second = (
        Labelled("features", data.select(np.unique(data.rows[mask])), labels) for mask in (~held, held)
    )
    return first, second, True, ()


class MixedRow:
    """A row of which one stage or exit runs in another row.

    Args:
        row, other: two rows with the same stages and exits.
        key: ``stage:NAME`` or ``exit:NAME``: what runs in the other.
    """

    def __init__(self, row: RuntimeRow, other: RuntimeRow, key: str) -> None:
        self.runtime, self.input_shapes = row.runtime, row.input_shapes
        self.stage_names, self.exit_names, self.exit_points = row.stage_names, row.exit_names, row.exit_points
        self.row, self.other, self.key = row, other, key

    def start(self, inputs: Any) -> Boundary:
        return self.row.start(inputs)

    def run_stage(self, name: str, boundary: Boundary) -> Boundary:
        return (self.other if self.key == STAGE + name else self.row).run_stage(name, boundary)

    def run_exit(self, name: str, tensors: list[Any]) -> Any:
        return (self.other if self.key == EXIT + name else self.row).run_exit(name, tensors)

    def take(self, array: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
        return self.row.take(array, rows)

    def to_numpy(self, array: Any) -> NDArray[Any]:
        return self.row.to_numpy(array)


def figures(before: Model, after: Model, parts: Parts) -> dict[str, Any]:
    """Accuracies of both, for the card; nothing where the data have no classes.

    Args:
        before, after: the exported stages in float and in int8, as the box runs them.
        parts: the data.
    """
    measured = parts.measured
    if measured is None or not measured.labels:
        return {}
    both = [evaluate(model, measured.windows, labels=measured.labels) for model in (before, after)]
    found: dict[str, Any] = {"before": _summary(both[0]), "after": _summary(both[1])}
    drops = {"policy": both[0].accuracy - both[1].accuracy}
    drops |= {a.name: a.accuracy - b.accuracy for a, b in zip(both[0].exits, both[1].exits, strict=True)}
    found["drops"] = drops
    goal = _goal(before)
    # What exits say together was not measured exit by exit.
    if goal and not ("accuracy_drop" in goal and isinstance(before.policy, Ensemble)):
        found["goal"] = {"wanted": goal, "before": _meets(goal, both[0]), "after": _meets(goal, both[1])}
    return found


def difference(before: Model, after: Model, parts: Parts) -> dict[str, float]:
    """Largest and mean difference of a class probability, over all exits and windows."""
    inputs = _inputs(parts)
    ours, theirs = before.outputs(inputs), after.outputs(inputs)
    gaps = np.concatenate([np.abs(softmax(ours[name]) - softmax(theirs[name])).ravel() for name in ours])
    return {"largest": float(gaps.max()), "mean": float(gaps.mean())}


def sensitivity(before: Model, after: Model, keys: tuple[str, ...], parts: Parts) -> list[dict[str, Any]]:
    """What each stage and exit costs where it alone is in int8, the dearest first.

    Args:
        before, after: as for `figures`.
        keys: of the graphs that are in int8.
        parts: the data.

    Returns:
        for each ``graph``: ``drop``, the largest drop of an exit's accuracy (None where nothing has
        classes), and ``difference``, the mean difference of a class probability.
    """
    inputs = _inputs(parts)
    whole = before.outputs(inputs)
    accuracy = _accuracies(whole, before, parts)
    rows = []
    for key in keys:
        mixed = copy.copy(before)
        mixed.row = MixedRow(before.row, after.row, key)
        outputs = mixed.outputs(inputs)
        gaps = [np.abs(softmax(whole[name]) - softmax(outputs[name])).mean() for name in whole]
        now = _accuracies(outputs, before, parts)
        drop = max(accuracy[name] - now[name] for name in now) if now else None
        rows.append({"graph": key, "drop": drop, "difference": float(np.mean(gaps))})
    return sorted(rows, key=lambda row: (-(row["drop"] or 0.0), -row["difference"]))


def refitted(after: Model, parts: Parts, seed: int) -> Model:
    """The model with temperatures and thresholds that are fitted on the calibration part.

    Raises:
        ConfigError: the calibration data have no classes, the costs of the exits are not known, or the goal
            cannot be met.
    """
    part = parts.calibration
    if part is None or not part.labels:
        raise ConfigError(
            "Thresholds are fitted on labelled data; calibrate with a data set, or without refit"
        )
    if after.costs is None:
        raise ConfigError(f"Model {after.name!r} does not know the costs of its exits, so none can be fitted")
    plain, heard = copy.copy(after), part.heard
    plain.temperatures = {}
    found: Calibrated = calibrate(
        plain.outputs(part.windows.inputs[heard]),
        _targets(after, part)[heard],
        after.costs,
        CalibrationSection(
            **(_goal(after) or GOAL), certainty=_certainty(after), ensemble=isinstance(after.policy, Ensemble)
        ),
        recordings=part.windows.rows[heard],
        seed=seed,
    )
    plain.temperatures = found.temperatures
    if isinstance(after.policy, Confidence):
        plain.policy = found.policy
    return plain


def _goal(model: Model) -> dict[str, float]:
    """What the thresholds were fitted for in the training."""
    return dict((model.card.get("validation") or {}).get("operating_point", {}).get("goal", {}))


def _certainty(model: Model) -> float:
    """With which the training asked for it."""
    calibration = (model.card.get("recipe") or {}).get("calibration") or {}
    return float(calibration.get("certainty", 0.5))


def _meets(goal: Mapping[str, float], found: Evaluation) -> bool:
    best = max(row.accuracy for row in found.exits)
    least = goal.get("target_accuracy", best - goal.get("accuracy_drop", 1.0))
    most = goal.get("mean_macs", np.inf)
    return found.accuracy >= least and (found.mean_macs is None or found.mean_macs <= most)


def _inputs(parts: Parts) -> Any:
    part = parts.measured
    return dict(parts.ranges) if part is None else part.windows.inputs[part.heard]


def _accuracies(outputs: Mapping[str, NDArray[Any]], model: Model, parts: Parts) -> dict[str, float]:
    """Of each exit, by recording."""
    part = parts.measured
    if part is None or not part.labels:
        return {}
    targets = _targets(model, part)
    heard = np.flatnonzero(part.heard)
    recordings = Recordings(part.windows.rows, targets, heard, getattr(model.task, "none_below", None))
    return {
        name: float((recordings.answers(values)[0] == recordings.truth).mean())
        for name, values in outputs.items()
    }


def _targets(model: Model, part: Labelled) -> NDArray[np.int64]:
    """The model's class number of each window; the data may count classes otherwise."""
    known = _labels(model)
    number = np.array([known.index(label) if label in known else -1 for label in part.labels])
    targets: NDArray[np.int64] = number[part.windows.targets]
    return targets


def _summary(found: Evaluation) -> dict[str, Any]:
    exits = {row.name: {"accuracy": row.accuracy, "share": row.share} for row in found.exits}
    return {"accuracy": found.accuracy, "mean_macs": found.mean_macs, "exits": exits}
