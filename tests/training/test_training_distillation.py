"""Distillation in whole trainings: from recipes, interrupted, in several phases, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

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


def stop(values, tones, out, after):
    """A training that is stopped after so many steps."""
    told = []
    with pytest.raises(CancelledError):
        train(
            None,
            values,
            tones,
            out=out,
            progress=told.append,
            cancel=lambda: sum(step.job.startswith("train") for step in told) >= after,
        )


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
    stop(values, tones, tmp_path / "parts", after=11)
    assert same(whole, train(None, values, tones, out=tmp_path / "parts"))


def test_another_teacher_does_not_go_on_from_this_one(trained, tones, recipe, tmp_path):
    stop(recipe(technique=with_teacher(trained.model)), tones, tmp_path / "m", after=1)
    other = train(None, recipe(epochs=1), tones)
    with pytest.raises(ConfigError, match="another recipe, other data or another start"):
        train(None, recipe(technique=with_teacher(other)), tones, out=tmp_path / "m")


def test_answers_kept_for_each_clip(trained, tones, recipe):
    technique = with_teacher(str(trained.path), cache=True)
    kept = train(None, recipe(epochs=1, technique=technique), tones)
    asked = train(None, recipe(epochs=1, technique=with_teacher(str(trained.path))), tones)
    for a, b in zip(kept.network.parameters(), asked.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)  # other batches, other rounding


def test_kept_answers_are_mixed_with_the_clips(trained, tones, recipe):
    technique = with_teacher(str(trained.path), cache=True, weight=1.0)
    mixing = {"mixup": 1.0, "mixup_per_sample": True}
    mixed, plain = (
        train(None, recipe(epochs=1, technique=technique, augment=change), tones) for change in (mixing, {})
    )
    assert not same(mixed, plain)


def test_a_teacher_of_another_front_end_and_other_classes(trained, tones, few, recipe, tmp_path):
    """It knows two of three classes, by other bands, at another rate, and hears clips for itself."""
    frontend = recipe()["frontend"]
    settings = {**frontend["options"], "n_mels": 20, "rate": 8000}
    apart = recipe(frontend={**frontend, "options": settings}, epochs=3)
    teacher = train(None, apart, few(8, labels=("high", "low")), out=tmp_path / "teacher")
    assert teacher.frontend.settings()["n_mels"] != trained.model.frontend.settings()["n_mels"]
    technique = with_teacher(str(tmp_path / "teacher"), cache=True, probe=0.1, weight=1.0)
    values = recipe(epochs=2, technique=technique, augment={"mixup": 0.5}, refit=True, keep="last")
    taught = train(None, values, tones)
    assert taught.card["test"]["accuracy"] > 0.5  # of three classes, and no label was seen
    with pytest.raises(ConfigError, match=r"does not know middle; choose a teacher of the same classes"):
        train(None, recipe(technique=with_teacher(str(tmp_path / "teacher"), cache=True)), tones)


def test_a_teacher_of_another_front_end_hears_for_itself_with_cache_alone(trained, tones, recipe):
    frontend = recipe()["frontend"]
    other = {**frontend, "options": {**frontend["options"], "n_mels": 20}}
    technique = with_teacher(str(trained.path), weight=1.0)
    with pytest.raises(ConfigError, match=r"n_mels is 24 there and 20 here; give both .* or cache: true"):
        train(None, recipe(technique=technique, frontend=other), tones)
    technique["options"]["cache"] = True
    model = train(None, recipe(technique=technique, frontend=other, epochs=4), tones)
    assert model.card["test"]["accuracy"] > 0.5  # of three classes


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


def test_what_is_trained_beside_the_student_is_left_behind(trained, tones, recipe, tmp_path):
    """What is saved, and so what is exported, has the tensors that it has without a teacher."""
    technique = with_teacher(str(trained.path), features=True)
    for keep in ("best", "last"):
        model = train(None, recipe(epochs=1, keep=keep, technique=technique), tones, out=tmp_path / keep)
        found, expected = sentio.load(tmp_path / keep).network, trained.model.network
        assert {name: tensor.shape for name, tensor in found.state_dict().items()} == {
            name: tensor.shape for name, tensor in expected.state_dict().items()
        }
        assert [type(part) for part in found.modules()] == [type(part) for part in expected.modules()]
    kept = torch.load(tmp_path / "last.run" / "phase-0" / "last.ckpt", weights_only=True)["state_dict"]
    beside = sum(value.numel() for name, value in kept.items() if name.startswith("objective."))
    assert beside > sum(p.numel() for p in model.network.parameters())
    assert {name.partition(".")[0] for name in kept} == {"net", "objective"}, "the teacher is not kept"


def test_an_interrupted_training_on_features_ends_like_an_uninterrupted_one(trained, tones, recipe, tmp_path):
    """Masks, alignments and generator go on as they would have."""
    technique = with_teacher(str(trained.path), features={"alpha": 1e-3, "beta": 1e-3})
    values = recipe(epochs=3, deterministic=True, technique=technique)
    whole = train(None, values, tones, out=tmp_path / "whole")
    stop(values, tones, tmp_path / "parts", after=7)
    assert same(whole, train(None, values, tones, out=tmp_path / "parts"))
    other = recipe(epochs=3, deterministic=True, technique=with_teacher(str(trained.path)))
    assert not same(whole, train(None, other, tones)), "features make a difference"


TWO_PROCESSES = """
import sys
import sentio
from sentio.training.progress import main_process

if __name__ == "__main__":
    recipe = {
        "name": "two",
        "network": {"name": "tiny-cnn", "options": {"width": 4}},
        "frontend": {"name": "log-mel", "options": sentio.load(sys.argv[3]).frontend.settings()},
        "exits": [{"kind": "pooled-linear", "at": ["block1"]}],
        "technique": {"name": "distillation", "options": {"teacher": sys.argv[3], "features": True}},
        "epochs": 2, "batch": 6,
        "devices": {"accelerator": "cpu", "devices": 2, "strategy": "ddp"},
    }
    model = sentio.train(None, recipe, sys.argv[1], out=sys.argv[2])
    print("main" if main_process() else "other", model.card.get("test", {}).get("recordings"))
"""


@pytest.mark.slow
def test_two_processes_have_a_teacher_each(trained, tones, tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, str(script), str(tones), str(tmp_path / "m"), str(trained.path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:2]) == ["main 6", "other None"]
    assert sentio.load(tmp_path / "m").exit_names == ("block1", "final")
