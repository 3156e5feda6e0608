"""The task that a recipe names, and what of the recipe does not fit one that makes targets of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentio.core import registry
from sentio.core.errors import ConfigError
from sentio.core.task import TargetMaker, Task
from sentio.data.dataset import LABELS, Dataset
from sentio.training.sections import AugmentSection, CalibrationSection, NamedSection, Recipe

#: techniques that ask nothing of the targets
PLAIN = ("end-to-end", "classifier-wise", "layer-wise")
#: what stands for labels where a recipe is looked at without its data
ANY_LABELS = ("a", "b")


def build_task(section: NamedSection, labels: Sequence[str] = ANY_LABELS) -> Task:
    """The task; one that tells labels apart gets those of the data.

    Raises:
        ConfigError: an option out of range, or a task that no recipe trains.
    """
    takes_labels = "labels" in registry.find("task", section.name).options()
    given: dict[str, Any] = {"labels": list(labels)} if takes_labels else {}
    task: Task = registry.build("task", section.name, **given, **section.options)
    if not takes_labels and not isinstance(task, TargetMaker):
        raise ConfigError(
            f"{section.name!r} is not learnt by a recipe: it makes no targets of a data set; name another "
            "task"
        )
    return task


def task_of(section: NamedSection, dataset: Dataset) -> Task:
    """The task for this data.

    Raises:
        ConfigError: as `build_task` and `check_data`.
    """
    task = build_task(section, dataset.labels if dataset.truth == LABELS else ANY_LABELS)
    check_data(task, dataset)
    return task


def check_data(task: Task, dataset: Dataset) -> None:
    """See that the data knows what the task learns from.

    Raises:
        ConfigError: it does not.
    """
    wanted = task.truth if isinstance(task, TargetMaker) else LABELS
    if dataset.truth != wanted:
        raise ConfigError(
            f"{dataset.root} holds {dataset.truth}, and task {task.name!r} learns from {wanted}; take "
            "other data, or another task"
        )


def problems(recipe: Recipe, task: Task) -> list[str]:
    """What a recipe asks of a task that makes targets of its own and has no classes, a sentence each."""
    if not isinstance(task, TargetMaker):
        return []
    found = [
        f"augment.{key}: the targets of task {task.name!r} do not follow it; take it out, and use "
        f"{' or '.join(sorted(task.follows))}"
        for key in changed(recipe.augment)
        if key not in task.follows
    ]
    stated = recipe.calibration.model_fields_set if "calibration" in recipe.model_fields_set else set()
    found += [
        f"calibration.{key}: outputs of task {task.name!r} have no confidence to calibrate or set thresholds "
        "on; take it out"
        for key in sorted(stated)
        if getattr(recipe.calibration, key) and key != "certainty"  # of a goal: nothing without one
    ]
    if recipe.data.labels is not None:
        found.append(f"data.labels: task {task.name!r} has no classes to keep; take it out")
    return found


def changed(section: AugmentSection) -> list[str]:
    """The keys of ``augment`` that a recipe does not leave at their defaults."""
    plain = AugmentSection()
    return [key for key in AugmentSection.model_fields if getattr(section, key) != getattr(plain, key)]


def technique_problem(task: Task, name: str, phases: Sequence[Any], *, several: bool = False) -> str | None:
    """Why a technique cannot train a task without classes, or a network of several inputs; None if it can."""
    if all(phase.objective is None and phase.order is None for phase in phases):
        return None
    if not isinstance(task, TargetMaker):
        return f"{name!r} takes networks of one input; use {', '.join(PLAIN)}" if several else None
    return f"{name!r} goes by classes, and task {task.name!r} has none; use {', '.join(PLAIN)}"


def settled(recipe: Recipe) -> Recipe:
    """The recipe with no goal where the task has no thresholds that could meet one.

    Raises:
        SentioError: there is no such task.
    """
    if not isinstance(build_task(recipe.task), TargetMaker):
        return recipe
    return recipe.model_copy(update={"calibration": CalibrationSection(temperature=False)})
