"""`train`: from labelled files and a recipe to a calibrated model with exits and thresholds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sentio.core import registry
from sentio.core.errors import ConfigError, InputError
from sentio.core.features import FrontEnd, finished
from sentio.core.loading import load
from sentio.core.model import Model
from sentio.core.multi_exit import MultiExit
from sentio.core.profiling import profile
from sentio.core.staged import Staged
from sentio.core.task import TargetMaker, Task
from sentio.core.torch_artifact import save
from sentio.core.torch_row import TorchRow
from sentio.data.dataset import Dataset
from sentio.data.features import FeatureSet, features, with_targets
from sentio.data.readers import open_data
from sentio.techniques.objective import Setting, TrainingPart
from sentio.techniques.phases import Phase
from sentio.training.batches import Arrays
from sentio.training.building import attach, build_network, check_fit, random_features, with_new_labels
from sentio.training.calibrating import calibrate, measure
from sentio.training.card import circumstances
from sentio.training.checking import frontend_problems
from sentio.training.copying import standardise, training_copies
from sentio.training.defaults import complete
from sentio.training.division import rounds
from sentio.training.evaluation import evaluate
from sentio.training.loop import check_devices, run_phase
from sentio.training.progress import Cancel, Report, counter, main_process
from sentio.training.recipe import Recipe, read_recipe
from sentio.training.run_folder import (
    check_out,
    give_up,
    load_phase,
    run_folder,
    save_phase,
    training_identity,
)
from sentio.training.second_hearing import heard_through
from sentio.training.task_of_recipe import task_of, technique_problem

SILENT = "Nothing to train on: the features of the training clips do not vary, as of silence"


def train(
    network: MultiExit | Staged | Model | str | Path | None,
    recipe: Recipe | str | Path | dict[str, Any],
    data: Dataset | str | Path | None = None,
    *,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    skip_bad: bool = False,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Model:
    """Train a network with its exits, calibrate it, fit thresholds, and measure it on the test part.

    Args:
        network: trained in place, the recipe's exits added; a model or an artifact to fine-tune (a copy is
            trained: its front end is kept, its weights too, but for the last stage and the exits where the
            labels differ); None to build what the recipe names.
        recipe: how; a `Recipe`, a YAML file, or plain values.
        data: labelled files; by default what the recipe names.
        out: where the artifact goes (a folder, or a file ending in ``.zip`` or ``.sentio``). Beside it
            ``OUT.run/`` keeps checkpoints and logs (CSV, TensorBoard), from which an interrupted training
            goes on when it is started again. Without ``out`` nothing is kept.
        cache: a folder that keeps features between trainings.
        skip_bad: leave out files that cannot be read, with a note, instead of raising.
        progress: is told about every step.
        cancel: is asked at every step whether to stop.

    Returns:
        The model, in PyTorch, with its figures in ``model.card``.

    Raises:
        ConfigError: the recipe is not valid (all problems at once), does not fit the data or the network, or
            its goal cannot be met.
        InputError: the data cannot be used.
        ArtifactError: the result cannot be written to ``out``.
        CancelledError: stopped; with ``out`` at most one epoch is lost.
    """
    recipe = read_recipe(recipe)
    if out is not None:
        check_out(out)
    check_devices(recipe.devices)
    dataset = _open(recipe, data)
    start = load(network, runtime="torch") if isinstance(network, str | Path) else network
    _check_start(recipe, start)
    task = task_of(recipe.task, dataset)
    recipe = complete(recipe, dataset, start)
    split, parts = rounds(dataset, recipe.data, recipe.seed)
    frontend = _frontend(recipe, start)
    if problems := frontend_problems(recipe, frontend, task):
        raise ConfigError(f"Recipe {recipe.name!r} does not fit {start.name!r}: {'; '.join(problems)}")
    # What is random here draws from PyTorch's own generator; the caller's is left as it was.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(recipe.seed)
        net = _network(recipe, task, frontend, start)
        phases = registry.build("technique", recipe.technique.name, net, **recipe.technique.options)
        if misfit := technique_problem(
            task, recipe.technique.name, phases, several=len(frontend.input_shapes) > 1
        ):
            raise ConfigError(f"Recipe {recipe.name!r} is not valid: technique: {misfit}")
        objectives = [phase.objective for phase in phases if phase.objective is not None]
        orders = [phase.order for phase in phases if phase.order is not None]
        for part in (*objectives, *orders):
            part.check(net, Setting(task, frontend, recipe.seed))
        if recipe.refit and any(getattr(order, "scores", None) is not None for order in orders):
            raise ConfigError(
                "Scores are given for the samples of one training, and with refit others train on more; take "
                "refit out, or leave the scores to a teacher"
            )

        def windows(frontend: FrontEnd) -> FeatureSet:
            told = None if progress is None else counter(progress, "features")
            found = features(dataset, frontend, cache=cache, skip_bad=skip_bad, progress=told, cancel=cancel)
            if not isinstance(task, TargetMaker):
                return found
            return with_targets(found, dataset, task, frontend, skip_bad=skip_bad)

        if recipe.standardise is not None:  # also where a model brings the figures of other recordings
            frontend = _changed(frontend, mean=None, std=None)
        prepared, plain = windows(frontend), frontend
        taught = prepared
        if recipe.data.train_hop is not None:
            plain = _changed(frontend, hop=recipe.data.train_hop)
            taught = windows(plain)
        if recipe.standardise is not None or not isinstance(start, Model):
            frontend = _standardised(frontend, prepared.select(split.train), recipe.standardise)
        prepared, taught = (_scaled(part, plain, frontend) for part in (prepared, taught))
        held = [_heard(prepared.select(part.validation), task) for part in parts]
        test = prepared.select(split.test)

        def material(*places: NDArray[np.intp]) -> Arrays:
            """Windows and copies of these items, told to the objectives too, since they look samples up."""
            chosen = taught.select(np.unique(np.concatenate(places)))
            copies = training_copies(
                recipe, dataset, plain, frontend, chosen, cache=cache, progress=progress, cancel=cancel
            )
            arrays = _arrays(chosen, copies, frontend, task, one=recipe.data.draw == "one")
            if not len(arrays):
                count = len(np.unique(chosen.rows))
                raise InputError(
                    f"Nothing to train on: all {count} training clips of {dataset.root} are silent"
                )
            heard = _heard(chosen, task)
            part = TrainingPart(
                heard.targets, heard.rows, partial(heard_through, own=plain, windows=heard, compute=windows)
            )
            for objective in objectives:
                objective.prepare(net, Setting(task, frontend, recipe.seed, part), arrays.inputs)
            return arrays

        train_arrays = material(parts[0].train)
        with run_folder(
            out, recipe, training_identity(recipe, dataset, start, [*objectives, *orders])
        ) as run:
            trained = [
                net,
                *(objective for objective in objectives if isinstance(objective, torch.nn.Module)),
            ]
            untrained = [copy.deepcopy(module.state_dict()) for module in trained] if recipe.refit else []
            setting = Setting(task, frontend, recipe.seed)

            again = recipe.refit and any(len(heard) for heard in held)
            counted = _counted(progress, len(parts) + again)

            def run_all(arrays: Arrays, validation: FeatureSet, part: str) -> None:
                told = next(counted)
                _run_phases(net, phases, recipe, setting, arrays, validation, run, part, told, cancel)

            def begin_again() -> None:
                for module, state in zip(trained, untrained, strict=True):
                    module.load_state_dict(state)

            run_all(train_arrays, held[0], "phase")
            model = _uncalibrated(net, task, frontend, recipe)
            outputs = [_outputs(model, held[0], recipe.batch)]
            for number, (part, heard) in enumerate(zip(parts[1:], held[1:], strict=True), start=1):
                begin_again()
                run_all(material(part.train), heard, f"round-{number}")
                outputs.append(_outputs(model, heard, recipe.batch))
            _calibrate(model, recipe, outputs, held)
            if again:
                begin_again()
                run_all(material(split.train, split.validation), prepared.select([]), "refit")
            model.card |= circumstances(recipe, task, dataset, split, prepared, sum(map(len, held)))
            if main_process():
                if len(test):
                    # Each recording by itself: the test part as a user would meet it.
                    measured = evaluate(model, test, labels=dataset.labels, progress=progress, cancel=cancel)
                    model.card["test"] = measured.for_card()
                if out is not None:
                    save(model, out)
    return model


def _open(recipe: Recipe, data: Dataset | str | Path | None) -> Dataset:
    if isinstance(data, Dataset):
        return data
    path = data or recipe.data.path
    if path is None:
        raise ConfigError(f"Recipe {recipe.name!r} names no data; pass data=, or add data.path")
    return open_data(path, protocol=recipe.data.protocol, labels=recipe.data.labels)


def _check_start(recipe: Recipe, start: Any) -> None:
    if start is None:
        return
    if recipe.network is not None:
        raise ConfigError(
            f"Recipe {recipe.name!r} names a network, and training starts from another one; "
            "take network out of the recipe"
        )
    if isinstance(start, Model):
        if recipe.frontend is not None:
            raise ConfigError(
                f"Model {start.name!r} keeps its front end when it is fine-tuned; take frontend out of "
                f"recipe {recipe.name!r}"
            )
        if start.frontend is None:
            raise ConfigError(
                f"Model {start.name!r} takes features, not files; it cannot be fine-tuned on files"
            )
    elif not isinstance(start, MultiExit | Staged):
        raise ConfigError(
            f"A network to train is a Staged, a MultiExit or a Model, got {type(start).__name__}; "
            "sentio.stage cuts any module into stages"
        )


def _frontend(recipe: Recipe, start: Any) -> FrontEnd:
    if isinstance(start, Model):
        assert start.frontend is not None
        return start.frontend
    assert recipe.frontend is not None
    frontend: FrontEnd = registry.build("frontend", recipe.frontend.name, **recipe.frontend.options)
    return frontend


def _changed(frontend: FrontEnd, **settings: Any) -> FrontEnd:
    """The same front end with other settings."""
    changed: FrontEnd = registry.build("frontend", frontend.name, **{**frontend.settings(), **settings})
    return changed


def _standardised(frontend: FrontEnd, training: FeatureSet, over: str | None) -> FrontEnd:
    """With the mean and the deviation of the training part, where it has none yet."""
    settings = frontend.settings()
    if "mean" not in settings or settings["mean"] is not None:
        return frontend
    sample = training.inputs
    if not len(training):
        raise InputError("Nothing to train on: no training clip can be read")
    fit = getattr(frontend, "fitted", None)
    if fit is not None:  # its features are standardised in the batch
        fitted: FrontEnd = fit(sample)
        return fitted
    if over == "band":
        axes = tuple(range(sample.ndim - 1))
        mean, std = sample.mean(axes, dtype=np.float64), sample.std(axes, dtype=np.float64)
        # A band above what the recordings hold, or below it, is the same everywhere: it is only shifted.
        std[std < 1e-6 * np.maximum(1.0, np.abs(mean))] = 1.0
        scale = {"mean": mean.tolist(), "std": std.tolist()}
        if not (sample.std() > 0):
            raise InputError(SILENT)
    else:
        middle, spread = float(sample.mean(dtype=np.float64)), float(sample.std(dtype=np.float64))
        # Nothing but rounding is left where all clips are silent.
        if spread < 1e-6 * max(1.0, abs(middle)):
            raise InputError(SILENT)
        scale = {"mean": middle, "std": spread}
    return _changed(frontend, **scale)


def _scaled(part: FeatureSet, plain: FrontEnd, fitted: FrontEnd) -> FeatureSet:
    """The features that ``fitted`` would have given, where it does not finish them in the batch."""
    if hasattr(fitted, "fitted"):
        return part
    return replace(part, inputs=standardise(part.inputs, plain, fitted))


def _arrays(
    training: FeatureSet, copies: NDArray[np.float32] | None, frontend: FrontEnd, task: Task, *, one: bool
) -> Arrays:
    """What is trained on, without windows that are silent in the original; ``one`` of each recording."""
    heard = _heard(training, task)
    kept = None if copies is None else copies[:, ~training.silent]
    rows = heard.rows if one else None
    return Arrays(heard.inputs, heard.targets, kept, rows, partial(finished, frontend))


def _heard(part: FeatureSet, task: Task) -> FeatureSet:
    """Without silent windows where a model is not asked about them either."""
    return part if task.silence() is None else part.windows(~part.silent)


def _network(recipe: Recipe, task: Task, frontend: FrontEnd, start: Any) -> MultiExit:
    shapes = frontend.input_shapes
    if isinstance(start, Model):
        net = copy.deepcopy(start.network)
        net.requires_grad_(True)
        if start.task.settings().get("labels") != task.settings().get("labels"):
            net = with_new_labels(net, task.outputs)
    elif start is not None:
        net = start if isinstance(start, MultiExit) else MultiExit(start)
    else:
        assert recipe.network is not None
        net = build_network(recipe.network, task.outputs, shapes)
    net.to("cpu").switch(on=True)
    check_fit(net, task, shapes)
    net.backbone.input_shapes = dict(shapes)
    for section in recipe.exits:
        net = attach(net, section, task.outputs, shapes)
    if recipe.exits and isinstance(task, TargetMaker):
        check_fit(net, task, shapes)
    return net


def _run_phases(
    net: MultiExit,
    phases: list[Phase],
    recipe: Recipe,
    setting: Setting,
    train: Arrays,
    validation: FeatureSet,
    run: Path,
    part: str,
    progress: Report | None,
    cancel: Cancel | None,
) -> None:
    """Train phase by phase; those that were finished before an interruption are taken from the run folder.

    What is kept of phase ``n`` is called ``part-n`` there.
    """
    known = None
    if len(validation):
        known = Arrays(validation.inputs, validation.targets, finish=train.finish)
    for number, phase in enumerate(phases):
        done, folder = run / f"{part}-{number}.safetensors", run / f"{part}-{number}"
        if done.exists():
            load_phase(net, done)
            continue
        try:
            if phase.order is not None:
                phase.order.prepare(net, setting, train.inputs, train.targets)
            run_phase(net, phase, recipe, setting.task, train, known, folder, report=progress, cancel=cancel)
        except ConfigError:
            # The recipe has to change, so there is nothing to go on from.
            give_up(run)
            raise
        save_phase(net, done)


def _counted(progress: Report | None, trainings: int) -> Iterator[Report | None]:
    """For each of several trainings a report that says which it is, since each begins again at nothing."""
    for number in range(1, trainings + 1):
        if progress is None or trainings == 1:
            yield progress
        else:
            of = f", {number} of {trainings}"
            yield lambda step, tell=progress, of=of: tell(replace(step, job=step.job + of))


def _uncalibrated(net: MultiExit, task: Task, frontend: FrontEnd, recipe: Recipe) -> Model:
    costs = profile(net, random_features(frontend.input_shapes, 1)).costs
    return Model(TorchRow(net), task, frontend=frontend, costs=costs, name=recipe.name)


def _outputs(model: Model, validation: FeatureSet, batch: int) -> dict[str, Any]:
    """What every exit says about a validation part; nothing about an empty one."""
    if not len(validation):
        return {}
    if isinstance(model.task, TargetMaker):
        return model.outputs(validation.inputs, batch=batch, change=model.task.reduced)
    return model.outputs(validation.inputs)


def _calibrate(
    model: Model, recipe: Recipe, outputs: Sequence[dict[str, Any]], held: Sequence[FeatureSet]
) -> None:
    """Temperatures and thresholds by what was said about all that was held out."""
    known = [(said, part) for said, part in zip(outputs, held, strict=True) if len(part)]
    if not known:
        return
    joined = {name: _joined([said[name] for said, _ in known]) for name in known[0][0]}
    targets = _joined([part.targets for _, part in known])
    costs = model.costs
    assert costs is not None
    if isinstance(model.task, TargetMaker):
        found = measure(joined, targets, costs, model.task)
    else:
        rows = np.concatenate([part.rows for _, part in known])
        found = calibrate(joined, targets, costs, recipe.calibration, recordings=rows, seed=recipe.seed)
    model.temperatures, model.policy = found.temperatures, found.policy
    model.card["validation"] = found.report


def _joined(values: Sequence[Any]) -> Any:
    """The rows of several arrays, or of several by name, as one."""
    if isinstance(values[0], Mapping):
        return {name: _joined([value[name] for value in values]) for name in values[0]}
    return values[0] if len(values) == 1 else np.concatenate(values)
