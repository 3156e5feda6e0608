"""What of a recipe can be seen to be wrong without its data: names, options, stages, what does not fit."""

from __future__ import annotations

from typing import Any

from sentio.core import registry
from sentio.core.errors import MissingExtraError, SentioError
from sentio.core.features import FrontEnd
from sentio.core.task import TargetMaker, Task
from sentio.training.copying import augment_problems
from sentio.training.criterion import problems as loss_problems
from sentio.training.sections import Recipe
from sentio.training.task_of_recipe import build_task, changed, technique_problem
from sentio.training.task_of_recipe import problems as task_problems

#: keys of ``augment`` that change features along time and frequency
OF_MAPS = {
    *("roll", "shift", "warp_time", "warp_frequency", "gain", "time_mask", "frequency_mask"),
    *("erase", "freq_mixstyle", "mixstyle"),
}
#: kind -> option that follows from the data
FROM_DATA = {"network": "classes", "task": "labels"}


def check(recipe: Recipe) -> list[str]:
    """Problems of a recipe, one sentence each.

    Raises:
        MissingExtraError: the recipe names a network or an exit, and PyTorch is not installed.
    """
    problems = []
    for place, kind, name, options in _named(recipe):
        try:
            problems += [f"{place}: {text}" for text in registry.find(kind, name).check_options(options)]
        except MissingExtraError:
            raise
        except SentioError as error:
            problems.append(f"{place}: {error}")
        if FROM_DATA.get(kind) in options:
            problems.append(f"{place}: option {FROM_DATA[kind]!r} follows from the data; take it out")
    if len(recipe.calibration.goals()) > 1:
        problems.append(f"calibration: give one goal, not {' and '.join(recipe.calibration.goals())}")
    if recipe.calibration.certainty > 0.5 and not {"accuracy_drop", "target_accuracy"} & set(
        recipe.calibration.goals()
    ):
        problems.append(
            "calibration.certainty: is about an accuracy; give accuracy_drop or target_accuracy beside it"
        )
    problems += augment_problems(recipe.augment)
    if recipe.validate_every > 1 and (recipe.early_stopping or recipe.schedule.name == "plateau"):
        watcher = "early_stopping" if recipe.early_stopping else "schedule plateau"
        problems.append(f"validate_every: {watcher} looks at every epoch's validation loss; take one out")
    if recipe.refit and (recipe.keep == "best" or recipe.early_stopping or recipe.schedule.name == "plateau"):
        problems.append(
            "refit: the second training has no validation part to go by; set keep to last, and take out "
            "early_stopping and schedule plateau"
        )
    if recipe.data.validation == "each-group" and not recipe.refit:
        problems.append(
            "data.validation: each-group leaves a network for each of them and none for all; set refit: true"
        )
    # What is built needs its name and options right, so values are looked at only then.
    wrong = {problem.partition(":")[0] for problem in problems}
    return problems + _built(recipe, wrong)


def _named(recipe: Recipe) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Everything that names something of the registry: (place in the recipe, kind, name, options)."""
    found = [
        (kind, kind, section.name, section.options)
        for kind in ("frontend", "network", "task", "technique")
        if (section := getattr(recipe, kind)) is not None
    ]
    exits = [(f"exits.{i}", "exit", section.kind, section.options) for i, section in enumerate(recipe.exits)]
    return found + exits


def _built(recipe: Recipe, wrong: set[str]) -> list[str]:
    """Problems that show when everything is built, without memory, as the training will build it."""
    problems: list[str] = []
    shapes: dict[str, tuple[int, ...]] = {}
    task: Task | None = None
    if "task" not in wrong:
        try:
            task = build_task(recipe.task)
            problems += [f"loss: {text}" for text in loss_problems(task, recipe.loss)]
            problems += task_problems(recipe, task)
        except (SentioError, TypeError, ValueError) as error:
            problems.append(f"task: {error}")
    if recipe.frontend is not None and "frontend" not in wrong:
        try:
            frontend = registry.build("frontend", recipe.frontend.name, **recipe.frontend.options)
            shapes = dict(frontend.input_shapes)
            problems += frontend_problems(recipe, frontend, task)
        except (SentioError, TypeError, ValueError) as error:
            problems.append(f"frontend: {error}")
    if recipe.network is None or "network" in wrong:
        return problems
    return problems + _built_network(recipe, wrong, shapes, task)


def _always_scales(frontend: FrontEnd) -> bool:
    """Whether a front end cannot be without a mean and a deviation, to be given those of the data."""
    try:
        registry.build("frontend", frontend.name, **{**frontend.settings(), "mean": None, "std": None})
    except (SentioError, TypeError, ValueError):
        return True
    return False


def frontend_problems(recipe: Recipe, frontend: FrontEnd, task: Task | None) -> list[str]:
    """What a recipe asks of a front end that it cannot do; None for a task that is not known."""
    settings, found = frontend.settings(), []
    if recipe.standardise is not None and "mean" not in settings:
        found.append(f"standardise: front end {frontend.name!r} has no mean and std; take standardise out")
    elif recipe.standardise is not None and _always_scales(frontend):
        found.append(
            f"standardise: the mean and std of front end {frontend.name!r} are settings of its own; take "
            "standardise out"
        )
    elif recipe.standardise == "band" and hasattr(frontend, "fitted"):
        found.append(
            f"standardise: front end {frontend.name!r} scales its inputs in its own way and not by band; "
            "take standardise out"
        )
    if recipe.data.train_hop is not None and "hop" not in settings:
        found.append(f"data.train_hop: front end {frontend.name!r} has no hop; take train_hop out")
    if isinstance(task, TargetMaker):
        misfit = task.takes(frontend)
        found += [] if misfit is None else [f"frontend: {misfit}"]
    elif len(frontend.input_shapes) > 1:
        found += [
            f"augment.{key}: front end {frontend.name!r} gives several inputs, which nothing changes alike; "
            "take it out"
            for key in changed(recipe.augment)
        ]
    elif any(len(shape) != 3 for shape in frontend.input_shapes.values()):
        found += [
            f"augment.{key}: front end {frontend.name!r} gives no (channel, time, frequency) to change; take "
            "it out"
            for key in changed(recipe.augment)
            if key in OF_MAPS
        ]
    return found


def _built_network(
    recipe: Recipe, wrong: set[str], shapes: dict[str, tuple[int, ...]], task: Task | None
) -> list[str]:
    import torch

    from sentio.training.building import attach, build_network, listed_shapes, random_features

    assert recipe.network is not None
    problems: list[str] = []
    outputs = 2 if task is None else task.outputs
    with torch.device("meta"):
        try:
            net = build_network(recipe.network, outputs, shapes)
        except (SentioError, TypeError, ValueError, RuntimeError) as error:
            return [f"network: {_first_line(error)}"]
        try:
            net.backbone.boundary_shapes(random_features(shapes) if shapes else None)
        except (SentioError, TypeError, ValueError, RuntimeError) as error:
            given = listed_shapes(shapes)
            return [f"network: it does not take the front end's features {given}: {_first_line(error)}"]
        for index, section in enumerate(recipe.exits):
            if f"exits.{index}" in wrong:
                continue
            unknown = [stage for stage in section.at if stage not in net.stage_names]
            if unknown:
                problems += [
                    f"exits.{index}: network {recipe.network.name!r} has no stage {stage!r}; "
                    f"its stages are {', '.join(net.stage_names)}"
                    for stage in unknown
                ]
                continue
            try:
                net = attach(net, section, outputs, shapes)
            except (SentioError, TypeError, ValueError, RuntimeError) as error:
                problems.append(f"exits.{index}: {_first_line(error)}")
        if not problems and not wrong & {"technique", *(f"exits.{i}" for i in range(len(recipe.exits)))}:
            try:
                phases = registry.build("technique", recipe.technique.name, net, **recipe.technique.options)
            except (SentioError, TypeError, ValueError) as error:
                problems.append(f"technique: {_first_line(error)}")
            else:
                name, several = recipe.technique.name, len(shapes) > 1
                misfit = None if task is None else technique_problem(task, name, phases, several=several)
                problems += [] if misfit is None else [f"technique: {misfit}"]
    return problems


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
