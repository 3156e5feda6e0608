"""A data set as a network takes it: every item through a front end, once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import index as as_index
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.anytime import MAIN
from sentio.core.errors import CancelledError, InputError
from sentio.core.features import FrontEnd, Prepared, arrays_of, each, rows_of
from sentio.core.task import TargetMaker
from sentio.data import feature_cache
from sentio.data.dataset import Dataset, Item, companions, listed


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """The windows of a data set's items, item by item in order.

    Args:
        inputs: float32, ``(n, channel, time, frequency)`` for sound; uint8 pixels of images, see
            `sentio.core.features.finished`; arrays by name where the front end gives several.
        targets: int64 class numbers, shape ``(n,)``; or what a task makes of them, arrays by name, see
            `with_targets`.
        rows: int64, the item that each window belongs to, as its place in the data set, shape ``(n,)``.
        silent: windows that hold no signal, shape ``(n,)``.
        item_notes: item -> what was odd about its file and how it was met.
        notes: the same about the set as a whole: skipped files, a cache that could not be used.
        times: start and end of each window in its recording, in seconds, ``(n, 2)``; None where nobody says.
    """

    inputs: Any
    targets: Any
    rows: NDArray[np.int64]
    silent: NDArray[np.bool_]
    item_notes: dict[int, tuple[str, ...]]
    notes: tuple[str, ...] = ()
    times: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, items: Iterable[int]) -> FeatureSet:
        """The windows of these items only, e.g. of ``split.train``; ``rows`` still counts in the data set."""
        wanted = np.array([as_index(item) for item in items], dtype=np.int64)
        chosen = set(wanted.tolist())
        notes = {item: notes for item, notes in self.item_notes.items() if item in chosen}
        return replace(self.windows(np.isin(self.rows, wanted)), item_notes=notes)

    def windows(self, keep: NDArray[np.bool_]) -> FeatureSet:
        """Some of the windows, ``(n,)``; notes stay."""
        return replace(
            self,
            inputs=rows_of(self.inputs, keep),
            targets=rows_of(self.targets, keep),
            rows=self.rows[keep],
            silent=self.silent[keep],
            times=None if self.times is None else self.times[keep],
        )


def features(
    dataset: Dataset,
    frontend: FrontEnd,
    *,
    cache: str | PathLike[str] | None = None,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> FeatureSet:
    """Compute every item's windows, or take them from the cache.

    Args:
        dataset: the items.
        frontend: what prepares them.
        cache: a folder for results, made if it is not there. A result is found again as long as the front
            end's settings and the files' names, sizes and times stay; a damaged one is made again. Without
            room on the disk the work goes on uncached, with a note.
        skip_bad: leave files that cannot be read out, with a note, instead of raising.
        progress: called with (items done, items in all).
        cancel: asked before each item; true stops the work.

    Raises:
        InputError: files cannot be read; names up to five and counts the rest. Also where ``skip_bad``
            leaves nothing.
        CancelledError: ``cancel`` said so.
    """
    folder = None if cache is None else Path(cache).expanduser()
    notes: list[str] = []
    key = ""
    stored = None
    if folder is not None:
        key = feature_cache.key(dataset, frontend, skip_bad)
        stored, problem = feature_cache.load(folder, key, len(dataset))
        notes += problem
    if stored is None:
        stored = _compute(dataset, frontend, skip_bad, progress, cancel)
        if folder is not None:
            notes += feature_cache.save(folder, key, stored)
    elif progress is not None:
        progress(len(dataset), len(dataset))
    return FeatureSet(
        inputs=stored.inputs,
        targets=dataset.targets[stored.rows],
        rows=stored.rows,
        silent=stored.silent,
        item_notes=stored.item_notes,
        notes=(*stored.notes, *notes),
        times=stored.times,
    )


def with_targets(
    prepared: FeatureSet, dataset: Dataset, task: TargetMaker, frontend: FrontEnd, *, skip_bad: bool = False
) -> FeatureSet:
    """The same windows with the targets that a task makes of what is known about their items.

    Args:
        prepared: of this data set.
        dataset: its items.
        task: makes the targets.
        frontend: that made the windows.
        skip_bad: leave items whose annotation cannot be used out, with a note, instead of raising.

    Raises:
        InputError: annotations cannot be used, or the data set knows nothing that this task learns from.
    """
    if dataset.truth != task.truth:
        raise InputError(
            f"{dataset.root} holds {dataset.truth}, and task {task.name!r} learns from {task.truth}; take "
            "other data, or another task"
        )
    spans = np.tile([0.0, np.inf], (len(prepared), 1)) if prepared.times is None else prepared.times
    made: list[tuple[int, dict[str, NDArray[Any]]]] = []
    bad: dict[int, str] = {}
    for place, (start, end) in zip(prepared.rows.tolist(), spans.tolist(), strict=True):
        if place in bad:
            continue
        item = dataset.items[place]
        try:
            made.append((place, task.target(item, frontend, (start, end))))
        except InputError as error:
            bad[place] = f"{item.name} ({_reason(error, item.source)})"
    kept = [target for place, target in made if place not in bad]
    if bad and (not skip_bad or not kept):
        advice = "correct or remove them"
        if not skip_bad:
            advice += ", or leave them out with --skip-bad (skip_bad=True)"
        raise InputError(
            f"{len(bad)} of {len(dataset)} annotations of {dataset.root} cannot be used: "
            f"{listed(bad.values())}; {advice}"
        )
    if bad:
        prepared = prepared.windows(~np.isin(prepared.rows, list(bad)))
    targets = {name: np.stack([one[name] for one in kept]) for name in kept[0]}
    notes = (*prepared.notes, *(f"Skipped {text}." for text in bad.values()))
    return replace(prepared, targets=targets, notes=notes)


def _compute(
    dataset: Dataset,
    frontend: FrontEnd,
    skip_bad: bool,
    progress: Callable[[int, int], None] | None,
    cancel: Callable[[], bool] | None,
) -> feature_cache.Stored:
    inputs: list[Any] = []
    silent: list[NDArray[np.bool_]] = []
    times: list[NDArray[np.float64]] = []
    places: list[int] = []
    item_notes: dict[int, tuple[str, ...]] = {}
    bad: list[tuple[str, str]] = []
    total = len(dataset)
    for place, item in enumerate(dataset.items):
        if cancel is not None and cancel():
            raise CancelledError(f"Preparing {dataset.root} was cancelled after {place} of {total} files")
        try:
            prepared = _prepare(item, frontend, _shapes(inputs[0]) if inputs else None)
        except (InputError, OSError) as error:
            bad.append((item.name, _reason(error, item.source)))
        else:
            inputs.append(each(prepared.inputs, _kept))
            silent.append(prepared.silent.astype(bool, copy=False))
            times.append(np.stack([prepared.starts, prepared.ends], axis=1).astype(np.float64, copy=False))
            places += [place] * len(prepared)
            if prepared.notes:
                item_notes[place] = tuple(prepared.notes)
        if progress is not None:
            progress(place + 1, total)
    if bad and (not skip_bad or not inputs):
        named = listed((f"{name} ({reason})" for name, reason in bad), 5)
        advice = "correct or remove them"
        if not skip_bad:
            advice += ", or leave them out with --skip-bad (skip_bad=True)"
        raise InputError(f"{len(bad)} of {total} files of {dataset.root} cannot be used: {named}; {advice}")
    if not inputs:
        raise InputError(f"{dataset.root} has no items to prepare; choose a part of it that has some")
    return feature_cache.Stored(
        inputs=_joined(inputs),
        rows=np.array(places, dtype=np.int64),
        silent=np.concatenate(silent),
        times=np.concatenate(times),
        item_notes=item_notes,
        notes=tuple(f"Skipped {name} ({reason})." for name, reason in bad),
    )


def _kept(array: NDArray[Any]) -> NDArray[Any]:
    """Pixels as they are, all else as float32."""
    return array if array.dtype == np.uint8 else array.astype(np.float32, copy=False)


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], Mapping):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts)


def _shapes(inputs: Any) -> Any:
    """Of one window."""
    return each(inputs, lambda array: array.shape[1:])


def _prepare(item: Item, frontend: FrontEnd, shape: Any) -> Prepared:
    """One item's windows; ``shape`` is that of the windows before it.

    Raises:
        InputError, OSError: the file cannot be used.
    """
    beside = companions(item, frontend)
    prepared = frontend.prepare({MAIN: item.source, **beside} if beside else item.source)
    if not len(prepared):
        raise InputError("it is too short for one window")
    if not all(np.isfinite(array).all() for array in arrays_of(prepared.inputs)):
        raise InputError("its features are not finite numbers")
    found = _shapes(prepared.inputs)
    if shape is not None and found != shape:
        raise InputError(f"its features have shape {found}, those of others {shape}")
    return prepared


def _reason(error: Exception, source: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # The item's name stands before the reason already.
    return str(error).removeprefix(f"{source} ").rstrip(".")
