"""Augmented copies of the training part, as a recipe asks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentio.audio.augmentation_chain import WaveformChanges
from sentio.core.errors import InputError, SentioError
from sentio.core.features import FrontEnd
from sentio.data.copies import CopyPlan, copy_features
from sentio.data.dataset import Dataset
from sentio.data.features import FeatureSet
from sentio.training.progress import Cancel, Progress, Report
from sentio.training.sections import AugmentSection, Recipe


def copy_plan(section: AugmentSection, seed: int) -> CopyPlan:
    """What a recipe does to the sound of its copies.

    Raises:
        ConfigError: a strength is not possible.
    """
    changes = WaveformChanges(
        speed=section.speed,
        stretch=section.stretch,
        pitch=section.pitch,
        impulse_response=section.impulse_response,
        responses=section.responses,
        shift=section.time_shift,
        edge=section.time_shift_edge,
        band_mask=section.band_mask,
        mask=section.wave_mask,
        mask_fill=section.wave_mask_fill,
        noise=section.noise,
        gain=section.wave_gain,
        one=section.each_copy == "one",
    )
    devices = None if section.devices is None else tuple(section.devices)
    return CopyPlan(
        changes=changes,
        seed=seed,
        devices=devices,
        device_column=section.device_column,
        mel_jitter=section.mel_jitter,
    )


def augment_problems(section: AugmentSection) -> list[str]:
    """What of the section does not fit together, one sentence each."""
    try:
        plan = copy_plan(section, 0)
    except SentioError as error:
        return [f"augment: {error}"]
    names = [*plan.changes.names(), *(["mel_jitter"] if plan.mel_jitter else [])]
    problems = []
    if section.copies and not names:
        problems.append(
            "augment.copies: the copies would equal the originals; give pitch, stretch, noise, ..."
        )
    if names and not section.copies:
        problems.append(f"augment: {', '.join(names)} are of augmented copies; give copies, at least 1")
    return problems


def training_copies(
    recipe: Recipe,
    dataset: Dataset,
    frontend: FrontEnd,
    fitted: FrontEnd,
    training: FeatureSet,
    *,
    cache: str | Path | None = None,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> NDArray[np.float32] | None:
    """The windows of all copies of what is trained on.

    Args:
        recipe: which copies, and how many.
        dataset: all data, in which ``training.rows`` counts.
        frontend: before it was standardised, so that the cache serves every split.
        fitted: with the mean and deviation of the originals, which the copies get as well.
        training: the originals of the training part, standardised.
        cache, progress, cancel: as for `sentio.training.training.train`.

    Returns:
        ``(copy, *training.inputs.shape)``; None where the recipe asks for none. Where a change left nothing
        of a window but silence, the original stands in its place.

    Raises:
        ConfigError, InputError: copies of this data cannot be made.
        CancelledError: the caller stopped it.
    """
    count = recipe.augment.copies
    if not count or not len(training):
        return None
    plan = copy_plan(recipe.augment, recipe.seed)
    items, rows = np.unique(training.rows, return_inverse=True)
    originals = dataset.subset(items)
    found = np.empty((count, *training.inputs.shape), np.float32)
    for copy in range(count):
        told = None if progress is None else _counter(progress, copy * len(items), count * len(items))
        made = copy_features(originals, frontend, plan, copy, cache=cache, progress=told, cancel=cancel)
        if not np.array_equal(made.rows, rows):
            raise InputError(
                f"Front end {frontend.name!r} cuts the copies of {dataset.root} into other windows than the "
                "originals, so augment.copies cannot be used with it"
            )
        scaled = standardise(made.inputs, frontend, fitted)
        silent = made.silent[:, *[None] * (scaled.ndim - 1)]
        found[copy] = np.where(silent, training.inputs, scaled)
    return found


def standardise(inputs: NDArray[np.float32], frontend: FrontEnd, fitted: FrontEnd) -> NDArray[np.float32]:
    """Features of ``frontend`` as ``fitted``, which differs in mean and deviation at most, gives them."""
    settings = fitted.settings()
    if frontend.settings().get("mean") is not None or settings.get("mean") is None:
        return inputs
    mean, std = np.float32(settings["mean"]), np.float32(settings["std"])  # numbers, or one for each band
    return ((inputs - mean) / std).astype(np.float32)


def _counter(report: Report, before: int, total: int) -> Callable[[int, int], None]:
    """One job over all copies."""
    return lambda done, _: report(Progress("augmented copies", before + done, total))
