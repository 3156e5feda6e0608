"""From files and a recipe to a model: what comes out, goes on, is fine-tuned, and is refused."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import sentio
from sentio.core.errors import ArtifactError, CancelledError, ConfigError, InputError
from sentio.core.policy import Confidence, Fixed
from sentio.data.readers import open_data
from sentio.training.training import train


def weights(model):
    return model.network.state_dict()


def same(first, second):
    pairs = zip(weights(first).values(), weights(second).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def after(count, job="train"):
    """A progress callback and a cancel that wants to stop after so many steps of a job."""
    told = []

    def report(step):
        told.append(step)

    return report, lambda: sum(step.job.startswith(job) for step in told) >= count


def test_the_model_answers_about_files(trained, tones):
    answers = [trained.model.predict(tones / label / "0.wav") for label in ("low", "high")]
    assert all(answer.exit in ("block1", "block2", "final") for answer in answers)
    assert trained.model.card["test"]["accuracy"] > 0.5
    assert isinstance(trained.model.policy, Confidence)
    assert set(trained.model.temperatures) == {"block1", "block2", "final"}


def test_the_artifact_is_the_model(trained, tones):
    again = sentio.load(trained.path)
    assert same(trained.model, again)
    assert again.frontend.settings() == trained.model.frontend.settings()
    assert again.policy == trained.model.policy
    assert again.card == json.loads(json.dumps(trained.model.card))
    assert (
        again.predict(tones / "low" / "3.wav").scores == trained.model.predict(tones / "low" / "3.wav").scores
    )


def test_features_are_standardised_by_the_training_part(trained, tones):
    data = open_data(tones)
    settings = trained.model.frontend.settings()
    plain = sentio.core.registry.build("frontend", "log-mel", **{**settings, "mean": None, "std": None})
    part = sentio.data.splits.splits(data)[0].train
    values = np.stack([plain.prepare(data.items[index].source).inputs for index in part])
    assert settings["mean"] == pytest.approx(float(values.mean()), rel=1e-4)
    assert settings["std"] == pytest.approx(float(values.std()), rel=1e-4)


def test_the_card_says_how_it_was_made_and_names_no_place_of_this_machine(trained, tones):
    card = trained.model.card
    assert card["data"]["files"] == {"train": 24, "validation": 6, "test": 6}
    assert card["data"]["protocol"] == "random"
    assert card["data"]["notes"] == []
    assert card["recipe"]["network"]["name"] == "tiny-cnn"
    assert card["made_with"]["torch"] == torch.__version__
    assert [row["name"] for row in card["validation"]["exits"]] == ["block1", "block2", "final"]
    assert str(tones.parent) not in json.dumps(card)


def test_the_run_folder_keeps_logs_and_the_recipe_and_is_finished(trained):
    assert not (trained.run / "unfinished").exists()
    assert sentio.training.recipe.read_recipe(trained.run / "recipe.yaml").epochs == 6
    with (trained.run / "phase-0" / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    assert list((trained.run / "phase-0" / "logs").glob("events.out.tfevents.*"))


def test_progress_tells_every_job_with_steps_that_never_fall(trained):
    jobs = list(dict.fromkeys(step.job for step in trained.steps))
    assert jobs == ["features", "train end-to-end", "evaluate"]
    for job in jobs:
        done = [step.done for step in trained.steps if step.job == job]
        assert done == sorted(done)
        assert done[-1] == trained.steps[-1].total or done[-1] == next(
            step.total for step in trained.steps if step.job == job
        )
    last = [step for step in trained.steps if step.job == "train end-to-end"][-1]
    assert {"train_loss", "val_loss", "val_accuracy/final"} <= set(last.figures)


def test_two_trainings_give_the_same_model_and_leave_the_callers_random_numbers(tones, recipe):
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        models.append(train(None, recipe(epochs=2, deterministic=True, technique="layer-wise"), tones))
        assert torch.equal(state, torch.random.get_rng_state())
    assert same(*models)
    assert not same(models[0], train(None, recipe(epochs=2, seed=5, technique="layer-wise"), tones))


def test_an_interrupted_training_ends_like_an_uninterrupted_one(tones, recipe, tmp_path):
    """In its second phase, after which the first is taken as it was left."""
    values = recipe(epochs=2, deterministic=True, technique="layer-wise")
    whole = train(None, values, tones, out=tmp_path / "whole")
    report, cancel = after(11)
    with pytest.raises(CancelledError):
        train(None, values, tones, out=tmp_path / "parts", progress=report, cancel=cancel)
    assert (tmp_path / "parts.run" / "unfinished").exists()
    assert not (tmp_path / "parts").exists()
    told = []
    parts = train(None, values, tones, out=tmp_path / "parts", progress=told.append)
    assert same(whole, parts)
    assert "train up to block1" not in {step.job for step in told}
    assert not (tmp_path / "parts.run" / "unfinished").exists()
    assert weights(sentio.load(tmp_path / "parts")).keys() == weights(whole).keys()


def test_a_training_stopped_while_it_was_measured_only_measures_again(tones, recipe, tmp_path):
    report, cancel = after(2, job="evaluate")
    with pytest.raises(CancelledError, match="The evaluation was stopped"):
        train(None, recipe(epochs=1), tones, out=tmp_path / "m", progress=report, cancel=cancel)
    told = []
    train(None, recipe(epochs=1), tones, out=tmp_path / "m", progress=told.append)
    assert {step.job for step in told} == {"features", "evaluate"}


def test_the_features_can_be_stopped(tones, recipe):
    report, cancel = after(3, job="features")
    with pytest.raises(CancelledError):
        train(None, recipe(), tones, progress=report, cancel=cancel)


def test_a_training_of_another_kind_does_not_go_on_from_this_one(tones, recipe, tmp_path):
    report, cancel = after(2)
    with pytest.raises(CancelledError):
        train(None, recipe(), tones, out=tmp_path / "m", progress=report, cancel=cancel)
    with pytest.raises(ConfigError, match="holds an unfinished training of another recipe"):
        train(None, recipe(epochs=9), tones, out=tmp_path / "m")
    calibrated = recipe(calibration={"accuracy_drop": 0.2})
    assert train(None, calibrated, tones, out=tmp_path / "m").card["test"]["accuracy"] >= 0


def test_a_goal_that_cannot_be_met_does_not_cost_the_training(tones, recipe, tmp_path):
    with pytest.raises(ConfigError, match="cannot be met"):
        train(None, recipe(epochs=1, calibration={"mean_macs": 1}), tones, out=tmp_path / "m")
    told = []
    model = train(None, recipe(epochs=1), tones, out=tmp_path / "m", progress=told.append)
    assert "train end-to-end" not in {step.job for step in told}
    assert model.card["validation"]["operating_point"]["goal"] == {"accuracy_drop": 0.01}


def test_after_a_loss_that_was_no_number_another_recipe_may_start(tones, recipe, tmp_path):
    with pytest.raises(ConfigError, match="lower the learning rate"):
        train(None, recipe(optimiser={"name": "sgd", "lr": 1e30}), tones, out=tmp_path / "m")
    train(None, recipe(epochs=1), tones, out=tmp_path / "m")


@pytest.mark.parametrize("out", ["m.zip", "m.sentio", "deep/er/m"])
def test_where_the_result_may_go(tones, recipe, tmp_path, out):
    train(None, recipe(epochs=1), tones, out=f"{tmp_path / out}")
    assert sentio.load(tmp_path / out).name == "tones"
    assert (tmp_path / f"{out}.run").is_dir()
    train(None, recipe(epochs=1, name="second"), tones, out=tmp_path / out)
    assert sentio.load(tmp_path / out).name == "second"


def test_what_is_in_the_way_is_seen_before_anything_runs(tones, recipe, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder.run").mkdir()
    (tmp_path / "folder.run" / "mine").write_text("")
    told = []
    for out, error in (
        ("notes.txt", ArtifactError),
        ("folder", ConfigError),
        ("notes.txt/model", ArtifactError),
    ):
        with pytest.raises(error, match=r"choose another place|could not be written"):
            train(None, recipe(), tones, out=tmp_path / out, progress=told.append)
    with pytest.raises(ArtifactError, match="is not a Sentio artifact, so it is not replaced"):
        train(None, recipe(), tones, out=tones, progress=told.append)
    assert "train end-to-end" not in {step.job for step in told}
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_all_data_without_a_test_part(tones, recipe):
    model = train(None, recipe(epochs=1, data={"split": "all"}), tones)
    assert model.card["data"]["files"] == {"train": 30, "validation": 6, "test": 0}
    assert "test" not in model.card


def test_one_clip_per_class_leaves_no_validation_and_the_card_says_so(few, recipe):
    model = train(None, recipe(epochs=1, data={"split": "all"}), few(1))
    assert model.card["data"]["files"] == {"train": 3, "validation": 0, "test": 0}
    assert "There is no validation part" in model.card["data"]["notes"][-1]
    assert (model.policy, model.temperatures) == (Fixed("final"), {})
    assert "validation" not in model.card


def test_two_clips_per_class_leave_no_validation_either(few, recipe):
    model = train(None, recipe(epochs=1, batch=500, early_stopping=1), few(2))
    assert model.card["data"]["files"] == {"train": 3, "validation": 0, "test": 3}
    assert "early stopping is off" in model.card["data"]["notes"][-1]
    assert model.card["test"]["recordings"] == 3


def test_silence_is_not_trained_on(few, recipe):
    folder = few(4)
    soundfile.write(folder / "low" / "long.wav", np.r_[np.zeros(4800), 0.1 * np.ones(2400)], 8000)
    model = train(None, recipe(epochs=1, data={"split": "all"}), folder)
    assert model.card["data"]["files"]["train"] + model.card["data"]["files"]["validation"] == 13
    for file in folder.rglob("*.wav"):
        soundfile.write(file, np.zeros(2400), 8000)
    with pytest.raises(InputError, match="Nothing to train on"):
        train(None, recipe(epochs=1), folder)


def test_bad_files_stop_the_training_or_are_left_out(few, recipe):
    folder = few(5)
    (folder / "low" / "bad.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"1 of 16 files of .* cannot be used: low/bad.wav"):
        train(None, recipe(epochs=1), folder)
    model = train(None, recipe(epochs=1), folder, skip_bad=True)
    assert sum(model.card["data"]["files"].values()) == 15
    assert any(note.startswith("Skipped low/bad.wav") for note in model.card["data"]["notes"])


def test_odd_files_are_used_and_named(few, recipe):
    folder = few(5)
    soundfile.write(folder / "low" / "clipped.wav", np.sign(np.sin(np.arange(2400))), 8000)
    model = train(None, recipe(epochs=1), folder)
    assert "Odd files, used all the same (1): low/clipped.wav" in " ".join(model.card["data"]["notes"])


def test_a_class_of_few_training_clips_is_named(few, recipe):
    notes = train(None, recipe(epochs=1), few(4)).card["data"]["notes"]
    assert any(note.startswith("Few training clips, too few to rely on the answer: ") for note in notes)


def test_data_is_needed(recipe):
    with pytest.raises(ConfigError, match="names no data"):
        train(None, recipe())


def test_devices_that_are_not_there(tones, recipe):
    with pytest.raises(ConfigError, match="devices cannot be used"):
        train(None, recipe(devices={"accelerator": "abacus"}), tones)


def test_features_are_kept_in_the_cache(tones, recipe, tmp_path):
    train(None, recipe(epochs=1), tones, cache=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 1
    told = []
    train(None, recipe(epochs=1, seed=3), tones, cache=tmp_path, progress=told.append)
    assert [step.done for step in told if step.job == "features"] == [36]


TWO_PROCESSES = """
import sys
import sentio
from sentio.training.progress import main_process

if __name__ == "__main__":
    recipe = {
        "name": "two",
        "network": {"name": "tiny-cnn", "options": {"width": 4}},
        "exits": [{"kind": "pooled-linear", "at": ["block1"]}],
        "technique": "classifier-wise", "epochs": 2, "batch": 6, "keep": "best",
        "devices": {"accelerator": "cpu", "devices": 2, "strategy": "ddp"},
    }
    model = sentio.train(None, recipe, sys.argv[1], out=sys.argv[2])
    print("main" if main_process() else "other", model.card.get("test", {}).get("recordings"))
"""


@pytest.mark.slow
def test_two_processes(tones, tmp_path):
    """Each trains on half of the batches, one measures and writes; both end with the same weights."""
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, str(script), str(tones), str(tmp_path / "m")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:2]) == ["main 6", "other None"]
    model = sentio.load(tmp_path / "m")
    assert model.card["data"]["files"]["test"] == 6
    assert not (tmp_path / "m.run" / "unfinished").exists()
    with (tmp_path / "m.run" / "phase-1" / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
