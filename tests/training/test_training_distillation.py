"""Distillation in whole trainings: from recipes, interrupted, in several phases, and what is refused."""

from __future__ import annotations

import csv
import json

import pytest
import torch
import yaml

import sentio
from sentio.core.errors import CancelledError, ConfigError
from sentio.training.recipe import read_recipe
from sentio.training.training import train


def with_teacher(teacher, **options):
    return {"name": "distillation", "options": {"teacher": teacher, **options}}


def same(first, second):
    pairs = zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_recipe_names_a_teacher_by_its_path(trained, tones, recipe, tmp_path):
    values = recipe(technique=with_teacher(str(trained.path)), augment={"mixup": 0.3, "roll": 0.5}, epochs=2)
    before = {file: file.read_bytes() for file in trained.path.iterdir()}
    model = train(None, values, tones, out=tmp_path / "student")
    assert {file: file.read_bytes() for file in trained.path.iterdir()} == before
    with (tmp_path / "student.run" / "phase-0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        parts = [float(row[f"train_loss/{name}"]) for name in ("labels", "distillation")]
        assert min(parts) > 0 and sum(parts) == pytest.approx(float(row["train_loss"]), rel=1e-4)
    assert set(model.network.state_dict()) == set(trained.model.network.state_dict())
    assert model.card["recipe"]["technique"]["options"] == {"teacher": trained.path.name}
    assert str(tones.parent.parent) not in json.dumps(model.card)
    again = yaml.safe_load((tmp_path / "student.run" / "recipe.yaml").read_text())
    assert again["technique"]["options"]["teacher"] == str(trained.path)


def test_the_teacher_makes_a_difference(trained, tones, recipe):
    plain, half, whole = (
        train(None, recipe(epochs=1, technique=technique), tones)
        for technique in (
            "end-to-end",
            with_teacher(str(trained.path), weight=0.5),
            with_teacher(str(trained.path), weight=1.0),
        )
    )
    assert not same(plain, half) and not same(half, whole)
    # Without any weight it is the technique that it was built on, bit for bit.
    assert same(plain, train(None, recipe(epochs=1, technique=with_teacher(trained.model, weight=0)), tones))


def test_an_interrupted_distillation_ends_like_an_uninterrupted_one(trained, tones, recipe, tmp_path):
    technique = with_teacher([str(trained.path), "self-made"], average="probabilities", phases="layer-wise")
    technique["options"]["teacher"][1] = trained.model
    values = recipe(epochs=2, deterministic=True, technique=technique, augment={"mixup": 0.3})
    whole = train(None, values, tones, out=tmp_path / "whole")
    told = []
    with pytest.raises(CancelledError):
        train(
            None,
            values,
            tones,
            out=tmp_path / "parts",
            progress=told.append,
            cancel=lambda: sum(step.job.startswith("train") for step in told) >= 11,
        )
    assert same(whole, train(None, values, tones, out=tmp_path / "parts"))


def test_another_teacher_does_not_go_on_from_this_one(trained, tones, recipe, tmp_path):
    told = []
    with pytest.raises(CancelledError):
        train(
            None,
            recipe(technique=with_teacher(trained.model)),
            tones,
            out=tmp_path / "m",
            progress=told.append,
            cancel=lambda: any(step.job.startswith("train") for step in told),
        )
    other = train(None, recipe(epochs=1), tones)
    with pytest.raises(ConfigError, match="another recipe, other data or another start"):
        train(None, recipe(technique=with_teacher(other)), tones, out=tmp_path / "m")


def test_answers_kept_for_each_clip(trained, tones, recipe):
    technique = with_teacher(str(trained.path), cache=True)
    kept = train(None, recipe(epochs=1, technique=technique), tones)
    asked = train(None, recipe(epochs=1, technique=with_teacher(str(trained.path))), tones)
    for a, b in zip(kept.network.parameters(), asked.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)  # other batches, other rounding
    with pytest.raises(ConfigError, match="the batch mixes clips; take mixup out"):
        train(None, recipe(epochs=1, technique=technique, augment={"mixup": 0.3}), tones)


def test_a_teacher_of_other_scale_of_features(trained, tones, few, recipe):
    """Trained on other clips, its mean and deviation differ, and are converted."""
    technique = with_teacher(str(trained.path), weight=1.0)
    model = train(None, recipe(epochs=1, technique=technique), few(9))
    assert model.frontend.settings()["mean"] != trained.model.frontend.settings()["mean"]
    assert model.card["test"]["accuracy"] >= 0


def test_what_does_not_fit_is_seen_before_any_feature_is_computed(trained, tones, few, recipe):
    told = []
    frontend = recipe()["frontend"]
    other = {**frontend, "options": {**frontend["options"], "n_mels": 20}}
    technique = with_teacher(str(trained.path))
    with pytest.raises(ConfigError, match="takes other features than the student: n_mels is 24 there and 20"):
        train(None, recipe(technique=technique, frontend=other), tones, progress=told.append)
    with pytest.raises(ConfigError, match="knows middle, which the data has not"):
        train(None, recipe(technique=technique), few(8, labels=("high", "low")), progress=told.append)
    assert told == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "technique: Distillation needs a teacher: give the path of an artifact as option teacher"),
        ({"teacher": "nowhere/to/be"}, "technique: No artifact at nowhere/to/be: there is no such file"),
        ({"teacher": "self", "tau": 3}, "has no option 'tau'"),
        ({"teacher": "self", "temperature": -3}, "The temperature of distillation is a number above 0"),
    ],
)
def test_a_recipe_is_refused_whole(recipe, options, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(recipe(technique={"name": "distillation", "options": options}))


def test_a_network_given_in_python_is_named_in_what_is_written(trained, recipe):
    values = read_recipe(recipe(technique=with_teacher([trained.model, trained.model.network])))
    named = yaml.safe_load(values.dump())["technique"]["options"]["teacher"]
    assert named == ["Model in Python", "MultiExit in Python"]


def test_exits_that_teach_themselves(tones, recipe):
    model = train(None, recipe(epochs=1, technique=with_teacher("self")), tones)
    assert [row["name"] for row in sentio.evaluate(model, tones).for_card()["exits"]] == [
        "block1",
        "block2",
        "final",
    ]
