"""Training again on everything once thresholds are fitted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sentio.core.errors import CancelledError, ConfigError
from sentio.core.torch_artifact import save
from sentio.data.readers import open_data
from sentio.training.recipe import read_recipe
from sentio.training.training import train

REFIT = {"refit": True, "keep": "last", "deterministic": True}


def weights(model):
    return model.network.state_dict().values()


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


@pytest.fixture(scope="module")
def models(tones, recipe):
    return train(None, recipe(**REFIT), tones), train(None, recipe(**{**REFIT, "refit": False}), tones)


def test_thresholds_stay_and_weights_are_new(models):
    again, once = models
    assert again.policy == once.policy and again.temperatures == once.temperatures
    assert again.card["validation"] == once.card["validation"]
    assert not same(again, once)


def test_the_second_training_begins_where_the_first_began_and_has_the_validation_part_too(
    models, tones, recipe, monkeypatch
):
    import sentio.training.training as module

    seen = []
    kept = module.run_phase

    def spy(net, phase, plan, task, train_part, validation, folder, **told):
        begun = [value.clone() for value in net.state_dict().values()]
        seen.append((begun, len(train_part.targets), validation))
        kept(net, phase, plan, task, train_part, validation, folder, **told)

    monkeypatch.setattr(module, "run_phase", spy)
    model = train(None, recipe(**REFIT), tones)
    (first, few, validation), (second, all_, none) = seen
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all_ == few + len(validation.targets) and none is None
    assert same(model, models[0])
    assert np.isin(model.card["data"]["files"]["validation"], [len(validation.targets)])


@pytest.fixture
def folds(tones):
    """The tones in four folds."""
    data = open_data(tones)
    items = tuple(replace(item, group=str(place % 4)) for place, item in enumerate(data.items))
    return replace(data, items=items, protocols=("folds",), protocol="folds")


EACH = {**REFIT, "data": {"protocol": "folds", "split": 1, "validation": "each-group"}}


def test_thresholds_are_fitted_on_every_group_in_turn(folds, recipe, monkeypatch):
    import sentio.training.training as module

    begun, sizes, said = [], [], []
    kept, calibrate = module.run_phase, module.calibrate

    def spy(net, phase, plan, task, train_part, validation, folder, **told):
        begun.append([value.clone() for value in net.state_dict().values()])
        sizes.append(len(train_part.targets))
        kept(net, phase, plan, task, train_part, validation, folder, **told)
        said.append(net)

    def listen(outputs, targets, *arguments, recordings, **options):
        said.append((outputs, targets, recordings))
        return calibrate(outputs, targets, *arguments, recordings=recordings, **options)

    monkeypatch.setattr(module, "run_phase", spy)
    monkeypatch.setattr(module, "calibrate", listen)
    model = train(None, recipe(**EACH), folds)
    # Three trainings without one of the three folds each, calibration, and one on all three.
    assert [isinstance(one, tuple) for one in said] == [False] * 3 + [True, False]
    assert all(torch.equal(a, b) for one in begun for a, b in zip(one, begun[0], strict=True))
    outputs, targets, recordings = said[3]
    assert sum(sizes[:3]) == 2 * sizes[3] and len(targets) == sizes[3]
    assert {len(output) for output in outputs.values()} == {len(targets)}
    numbers = [int(item.group) for item in folds.items]
    assert sorted({numbers[row] for row in recordings}) == [0, 2, 3]
    assert targets.tolist() == folds.targets[recordings].tolist()
    files = model.card["data"]["files"]
    assert files["train"] == files["validation"] == numbers.count(0) + numbers.count(2) + numbers.count(3)
    assert files["test"] == numbers.count(1)
    assert model.card["validation"]["recordings"] == files["validation"]


def test_each_training_is_a_job_of_its_own(folds, recipe):
    told = []
    train(None, recipe(**EACH), folds, progress=told.append)
    jobs = [step.job for step in told if step.job.startswith("train")]
    assert list(dict.fromkeys(jobs)) == [f"train end-to-end, {number} of 4" for number in range(1, 5)]
    last = {}
    for step in told:
        assert step.done >= last.get(step.job, 0), "done never falls within a job"
        last[step.job] = step.done


def test_interrupted_between_groups_it_ends_the_same(folds, recipe, tmp_path):
    every, told = [], []
    model = train(None, recipe(**EACH), folds, progress=every.append)
    steps = sum(step.job.startswith("train") for step in every)
    with pytest.raises(CancelledError):
        train(
            None,
            recipe(**EACH),
            folds,
            out=tmp_path / "m",
            progress=told.append,
            cancel=lambda: sum(step.job.startswith("train") for step in told) >= 0.6 * steps,
        )
    names = {path.name for path in (tmp_path / "m.run").iterdir()}
    assert "round-1-0.safetensors" in names and "refit-0.safetensors" not in names
    again = train(None, recipe(**EACH), folds, out=tmp_path / "m")
    assert same(again, model) and again.policy == model.policy


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_an_interrupted_one_ends_like_an_uninterrupted_one(models, tones, recipe, tmp_path, share):
    """In its first training, and in its second."""
    every, told = [], []
    train(None, recipe(**REFIT), tones, progress=every.append)
    steps = sum(step.job.startswith("train") for step in every)
    with pytest.raises(CancelledError):
        train(
            None,
            recipe(**REFIT),
            tones,
            out=tmp_path / "m",
            progress=told.append,
            cancel=lambda: sum(step.job.startswith("train") for step in told) >= share * steps,
        )
    assert (tmp_path / "m.run" / "phase-0.safetensors").exists() == (share > 0.5)
    assert same(train(None, recipe(**REFIT), tones, out=tmp_path / "m"), models[0])


def test_a_teacher_whose_answers_are_kept_is_asked_about_the_validation_part_too(
    models, tones, recipe, tmp_path
):
    save(models[0], tmp_path / "teacher")
    options = {"teacher": str(tmp_path / "teacher"), "cache": True}
    model = train(None, recipe(**REFIT, technique={"name": "distillation", "options": options}), tones)
    assert not same(model, models[0])


def test_what_needs_a_validation_part_is_refused(recipe, tones):
    with pytest.raises(ConfigError, match="refit: the second training has no validation part"):
        read_recipe(recipe(refit=True, keep="best"))
    with pytest.raises(ConfigError, match="refit"):
        read_recipe(recipe(refit=True, keep="last", early_stopping=3))
    options = {"scores": [1.0] * 8}
    with pytest.raises(ConfigError, match="with refit others train on more; take refit out"):
        train(None, recipe(**REFIT, technique={"name": "curriculum", "options": options}), tones)
    with pytest.raises(ConfigError, match=r"data\.validation: each-group .* set refit: true"):
        read_recipe(recipe(data={"validation": "each-group"}))
