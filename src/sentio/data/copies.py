"""Augmented copies of recordings: each sound changed before its features are computed.

What a copy is follows from the seed, the item's name and the copy's number alone, so it is the same in any
process, in any order, and in any part of the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentio.audio.augmentation_chain import WaveformChanges
from sentio.audio.impulse_responses import response_files
from sentio.audio.io import Sound, read
from sentio.audio.windows import AudioFrontEnd
from sentio.core.errors import CancelledError, ConfigError, InputError
from sentio.core.features import FrontEnd
from sentio.data import feature_cache
from sentio.data.dataset import Dataset, Item, listed
from sentio.data.features import FeatureSet
from sentio.data.processes import cores, importable, in_processes

#: so many copies are made in this process alone where nothing else is asked for
FEW = 64

Job = tuple[int, Item]
Made = tuple[int, NDArray[np.float32], NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class CopyPlan:
    """What is done to an item's sound to make copy 0, 1, ... of it.

    Args:
        changes: of the sound.
        seed: of all that is drawn.
        devices: whose recordings may be heard through another device, by the item's ``details``; None for
            those of all.
        device_column: where ``details`` say the device.
        mel_jitter: largest change of the upper edge of the mel bands in either direction, in hertz.
    """

    changes: WaveformChanges
    seed: int = 0
    devices: tuple[str, ...] | None = None
    device_column: str = "device"
    mel_jitter: float = 0.0


def changed(item: Item, sound: Sound, copy: int, plan: CopyPlan) -> Sound:
    """An item's sound as a copy of it.

    Raises:
        InputError: the sound cannot be changed, or responses cannot be read.
    """
    device = plan.devices is None or item.details.get(plan.device_column) in plan.devices
    generator = draws(plan.seed, item.name, copy, 0)
    return replace(
        sound, samples=plan.changes(sound.samples, sound.rate, generator, device=device, turn=copy)
    )


def copy_features(
    dataset: Dataset,
    frontend: FrontEnd,
    plan: CopyPlan,
    copy: int,
    *,
    cache: str | PathLike[str] | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> FeatureSet:
    """The windows of one copy of every item, or what the cache holds of them.

    Args:
        dataset: the originals.
        frontend: as for the originals.
        plan: what is done to a sound.
        copy: which copy, from 0.
        cache: a folder for results, as for `sentio.data.features.features`; changes of the plan, of the
            copy's number and of the folder of responses are noticed.
        processes: how many share the work; by default one per core, or this one for a few copies and in a
            script that does not guard its work. The result does not depend on it.
        progress: called with (items done, items in all).
        cancel: asked again and again; true stops the work.

    Returns:
        As many windows of each item as the original has.

    Raises:
        ConfigError: the plan does not fit the data or the front end.
        InputError: files or responses cannot be read.
        CancelledError: ``cancel`` said so.
    """
    check_plan(dataset, frontend, plan)
    folder = None if cache is None else Path(cache).expanduser()
    notes: list[str] = []
    stored, key = None, ""
    if folder is not None:
        devices = [item.details.get(plan.device_column) for item in dataset.items]
        facts = {**asdict(plan), "copy": copy, "responses": _response_states(plan), "devices_of": devices}
        key = feature_cache.key(dataset, frontend, False, facts)
        stored, notes = feature_cache.load(folder, key, len(dataset))
    total = len(dataset)
    if stored is None:
        stored = _compute(dataset, frontend, plan, copy, processes, progress, cancel)
        if folder is not None:
            notes += feature_cache.save(folder, key, stored)
    elif progress is not None:
        progress(total, total)
    return FeatureSet(
        inputs=stored.inputs,
        targets=dataset.targets[stored.rows],
        rows=stored.rows,
        silent=stored.silent,
        item_notes={},
        notes=tuple(notes),
    )


def check_plan(dataset: Dataset, frontend: FrontEnd, plan: CopyPlan) -> None:
    """Raise a `ConfigError` or an `InputError` if copies of this data cannot be made."""
    bands = isinstance(frontend, AudioFrontEnd) and hasattr(frontend.features, "f_max")
    if plan.mel_jitter and not bands:
        raise ConfigError(f"Front end {frontend.name!r} has no mel bands, so their edge cannot be changed")
    if plan.changes.responses is not None:
        response_files(plan.changes.responses)
    if plan.devices is None or not plan.changes.impulse_response:
        return
    found = {item.details.get(plan.device_column) for item in dataset.items} - {None}
    if not found & set(plan.devices):
        known = f"there: {listed(sorted(map(str, found)))}" if found else "no item says one"
        raise ConfigError(
            f"No item of {dataset.root} has one of the devices {listed(plan.devices)} in "
            f"{plan.device_column!r} ({known}); name devices that are there"
        )


def _compute(
    dataset: Dataset,
    frontend: FrontEnd,
    plan: CopyPlan,
    copy: int,
    processes: int | None,
    progress: Callable[[int, int], None] | None,
    cancel: Callable[[], bool] | None,
) -> feature_cache.Stored:
    jobs = list(enumerate(dataset.items))
    if processes is None:
        processes = cores() if len(jobs) > FEW and importable() else 1

    def check(done: int) -> None:
        if cancel is not None and cancel():
            raise CancelledError(f"Augmenting {dataset.root} was cancelled after {done} of {len(jobs)} files")

    found: dict[int, Made] = {}
    work = partial(_portion, frontend=frontend, plan=plan, copy=copy)
    for one in in_processes(work, jobs, max(1, min(processes, len(jobs))), check):
        found[one[0]] = one
        if progress is not None:
            progress(len(found), len(jobs))
    made = [found[place] for place in range(len(jobs))]
    return feature_cache.Stored(
        inputs=np.concatenate([inputs for _, inputs, _ in made]),
        rows=np.repeat(np.arange(len(made)), [len(inputs) for _, inputs, _ in made]),
        silent=np.concatenate([silent for _, _, silent in made]),
        item_notes={},
        notes=(),
    )


def _portion(jobs: Sequence[Job], frontend: FrontEnd, plan: CopyPlan, copy: int) -> list[Made]:
    return [_made(place, item, frontend, plan, copy) for place, item in jobs]


def _made(place: int, item: Item, frontend: FrontEnd, plan: CopyPlan, copy: int) -> Made:
    # At the front end's own rate there is less to change than at the file's.
    sound = changed(item, read(item.source, rate=frontend.settings().get("rate")), copy, plan)
    if plan.mel_jitter:
        assert isinstance(frontend, AudioFrontEnd)
        frontend = _jittered(frontend, plan.mel_jitter, draws(plan.seed, item.name, copy, 1))
    prepared = frontend.prepare(sound)
    inputs = prepared.inputs.astype(np.float32, copy=False)
    if not np.isfinite(inputs).all():
        raise InputError(f"A copy of {item.name} has features that are not finite numbers; change less")
    return place, inputs, prepared.silent.astype(bool, copy=False)


def _jittered(frontend: AudioFrontEnd, most: float, generator: np.random.Generator) -> AudioFrontEnd:
    settings = frontend.features
    top = (settings.f_max or settings.rate / 2) + generator.uniform(-most, most)
    return replace(
        frontend, features=replace(settings, f_max=min(max(top, settings.f_min + 1), settings.rate / 2))
    )


def draws(seed: int, name: str, copy: int, purpose: int) -> np.random.Generator:
    """The random numbers of one copy of one item; ``purpose`` keeps those of different choices apart."""
    digest = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u4")
    # Named, since NumPy's default generator may change.
    return np.random.Generator(np.random.PCG64([seed, copy, purpose, *digest.tolist()]))


def _response_states(plan: CopyPlan) -> list[list[object]]:
    if plan.changes.responses is None:
        return []
    return [[file.name, *feature_cache.file_state(file)] for file in response_files(plan.changes.responses)]
