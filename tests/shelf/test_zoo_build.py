"""zoo/build.py: what it makes, what it skips, what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import soundfile

import sentio
from sentio.core.shelf import shipped


@pytest.fixture
def run(build, entry, tmp_path, capsys):
    """The command with the stand-in as its only model; what it prints."""

    def main(*arguments, entry=entry):
        places = ["--work", str(tmp_path / "work"), "--shelf", str(tmp_path / "shelf")]
        build.main([*arguments, *places], zoo=(entry,))
        return capsys.readouterr().out

    return main


def test_it_makes_a_model_and_prints_its_figures(run, tones, tmp_path):
    out = run("stand-in", "--data", f"stand-in={tones}")
    assert out.startswith("stand-in  ")
    assert " on a fifth of them  two tones\n" in out
    assert [file.name for file in (tmp_path / "shelf").iterdir()] == ["stand-in.sentio"]
    model = sentio.load(tmp_path / "shelf" / "stand-in.sentio", runtime="edge")
    assert f"accuracy {model.card['test']['accuracy']:.1%}" in out


def test_data_may_be_named_by_the_environment(build, entry, tones, tmp_path, monkeypatch):
    monkeypatch.setenv("SENTIO_ZOO_TONES", str(tones))
    assert build._data(entry, tmp_path, {}) == (tones, None)
    assert build._data(entry, tmp_path, {"stand-in": tmp_path}) == (tmp_path, None)


def test_without_data_it_is_skipped(run, tmp_path, monkeypatch):
    monkeypatch.delenv("SENTIO_ZOO_TONES", raising=False)
    assert run() == (
        "stand-in is skipped: its data are not here; get tones from nowhere, and name the folder with "
        "--data stand-in=FOLDER or SENTIO_ZOO_TONES=FOLDER\n"
    )
    assert not (tmp_path / "shelf").exists()


def test_data_that_cannot_be_used_end_it_with_one_sentence(run, tmp_path):
    with pytest.raises(SystemExit, match=r"^stand-in: There is no folder or file"):
        run("--data", f"stand-in={tmp_path / 'none'}")


@pytest.mark.parametrize("arguments", [["nothing"], ["--data", "nothing=folder"]])
def test_unknown_names(run, capsys, arguments):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert "there is no model 'nothing'; choose of: stand-in" in capsys.readouterr().err


def test_a_recipe_without_a_test_part_is_measured_on_every_split(build, entry, tmp_path, capsys):
    folds = tmp_path / "folds"
    (folds / "audio").mkdir(parents=True)
    rows, generator, time = ["filename,label,fold"], np.random.default_rng(0), np.arange(2400) / 8000
    for number in range(24):
        label, hertz = (("low", 220.0), ("high", 1980.0))[number % 2]
        clip = 0.3 * np.sin(2 * np.pi * hertz * generator.uniform(0.8, 1.25) * time)
        soundfile.write(folds / "audio" / f"{number}.wav", clip + generator.normal(0, 0.05, 2400), 8000)
        rows.append(f"{number}.wav,{label},{number // 8}")
    (folds / "meta.csv").write_text("\n".join(rows))
    start = build.Start(entry.recipe, {"per_class": 6, "seconds": 0.3, "seed": 1, "rate": 8000})
    begun = tmp_path / "begun.yaml"
    lines = entry.recipe.read_text().splitlines()
    begun.write_text(
        "\n".join(line for line in lines if not line.startswith(("network", "frontend", "exits")))
    )
    begun.write_text(begun.read_text() + "\ndata: {split: all, validation: 0.2}\n")
    whole = dataclasses.replace(entry, recipe=begun, start=start)
    made = build.make(whole, tmp_path / "work", shelf=tmp_path / "shelf", given={"stand-in": folds})
    card = sentio.load(made).card
    assert card["data"]["split"] == "all" and card["test"]["recordings"] == 24
    assert [split["name"] for split in card["test"]["splits"]] == ["fold 0", "fold 1", "fold 2"]
    mean = np.mean([split["accuracy"] for split in card["test"]["splits"]])
    assert card["test"]["accuracy"] == pytest.approx(mean)
    assert np.sum(card["test"]["confusion"]) == 24
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fold")]
    assert [line.partition(":")[0] for line in lines] == ["fold 0", "fold 1", "fold 2"]
    first = card["test"]["splits"][0]
    assert f"policy {first['accuracy']:.3f}, block1" in lines[0]
    # It began from what rendered clips had taught: their front end, the network's widths, two new labels.
    started = sentio.load(tmp_path / "work" / "stand-in-start.sentio")
    assert started.task.settings()["labels"] != card["test"]["labels"] == ["high", "low"]
    assert sentio.load(made).frontend.settings() == started.frontend.settings()

    file = tmp_path / "work" / "stand-in-start.sentio"
    (tmp_path / "work" / "stand-in-clips").rename(tmp_path / "clips")
    assert build._begun(file, whole) == file
    build.make(whole, tmp_path / "work", shelf=tmp_path / "again", given={"stand-in": folds}, begun=file)
    assert not (tmp_path / "work" / "stand-in-clips").exists(), "nothing is rendered where it has begun"
    assert (tmp_path / "again" / made.name).exists()
    other = dataclasses.replace(whole, start=dataclasses.replace(start, changes={"epochs": 4}))
    with pytest.raises(SystemExit, match="was not trained by the recipe 'tones' as it is now"):
        build._begun(file, other)
    with pytest.raises(SystemExit, match="begins with random weights; leave --begun out"):
        build._begun(file, entry)


def test_half_of_the_validation_part_tests_where_nothing_else_does(build, entry, run, tones, tmp_path):
    recipe = tmp_path / "halves.yaml"
    recipe.write_text(entry.recipe.read_text() + "data: {split: all, validation: 0.4}\n")
    halves = dataclasses.replace(entry, recipe=recipe, halves=True, dtype="float16")
    run("--data", f"stand-in={tones}", entry=halves)
    made = tmp_path / "shelf" / "stand-in.sentio"
    card = sentio.load(made).card
    # Of 20 clips 8 validate: four fit the thresholds, the other four test.
    assert card["validation"]["samples"] == 4
    assert card["test"]["recordings"] == 4
    assert np.sum(card["test"]["confusion"], axis=1).tolist() == [2, 2]
    trained = tmp_path / "work" / "stand-in-trained"
    stamp = (trained / "weights.safetensors").stat().st_mtime_ns
    run("--data", f"stand-in={tones}", "--trained", f"stand-in={trained}", entry=halves)
    assert (trained / "weights.safetensors").stat().st_mtime_ns == stamp
    again = sentio.load(made).card
    assert again["validation"] == card["validation"]
    recipe.write_text(recipe.read_text().replace("epochs: 3", "epochs: 4"))
    with pytest.raises(SystemExit, match="was not trained by the recipe 'tones' as it is now"):
        run("--data", f"stand-in={tones}", "--trained", f"stand-in={trained}", entry=halves)


def test_a_teacher_is_trained_first_and_its_place_is_not_told(build, entry, run, tones, tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    text = entry.recipe.read_text() + "data: {split: all, validation: 0.4}\n"
    (folder / "older.yaml").write_text(text.replace("name: tones", "name: older"))
    (folder / "taught.yaml").write_text(
        text + "technique: {name: distillation, options: {teacher: self, weight: 0.5}}\n"
    )
    taught = dataclasses.replace(
        entry, recipe=folder / "taught.yaml", teacher=folder / "older.yaml", halves=True
    )
    run("--data", f"stand-in={tones}", entry=taught)
    card = sentio.load(tmp_path / "shelf" / "stand-in.sentio").card
    assert card["recipe"]["technique"]["options"]["teacher"] == "older"
    assert sentio.load(tmp_path / "work" / "older").card["recipe"]["name"] == "older"
    assert build.recipe_on(card, taught.teacher).technique.options["teacher"] == "self"
    trained = tmp_path / "work" / "stand-in-trained"
    run("--data", f"stand-in={tones}", "--trained", f"stand-in={trained}", entry=taught)
    assert build.recipe_on({}, None) is None
    assert build.recipe_on(card, folder / "another.yaml") is None


def test_a_teacher_of_fetched_weights_has_to_lie_in_the_work_folder(build, entry, run, tones, tmp_path):
    recipe = tmp_path / "taught.yaml"
    recipe.write_text(
        entry.recipe.read_text()
        + "technique: {name: distillation, options: {teacher: wise, probe: true, cache: true}}\n"
    )
    taught = dataclasses.replace(entry, recipe=recipe, fetched="wise")
    out = run("--data", f"stand-in={tones}", entry=taught)
    assert out.startswith("stand-in is skipped: its teacher is not here; zoo/wise.py says where its weights")
    (tmp_path / "work").mkdir(exist_ok=True)
    sentio.train(None, entry.recipe, tones, out=tmp_path / "work" / "wise")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "work")  # a recipe with a network looks for its teacher as it is read
        run("--data", f"stand-in={tones}", entry=taught)
    card = sentio.load(tmp_path / "shelf" / "stand-in.sentio").card
    assert card["recipe"]["technique"]["options"]["teacher"] == "wise"


def test_what_was_taught_first_goes_on_and_teaches_itself(build, entry, run, tones, tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    text = entry.recipe.read_text() + "data: {split: all, validation: 0.4}\n"
    taught = "technique: {name: distillation, options: {teacher: self, weight: 0.5}}\n"
    (folder / "older.yaml").write_text(text.replace("name: tones", "name: older"))
    (folder / "first.yaml").write_text(text.replace("name: tones", "name: first") + taught)
    begun = ("name", "data", "technique", "epochs", "batch", "calibration", "devices", "optimiser")
    kept = [line for line in text.splitlines() if line.split(":")[0] in begun]
    (folder / "again.yaml").write_text("\n".join(kept) + "\n" + taught)
    again = dataclasses.replace(
        entry,
        recipe=folder / "again.yaml",
        teacher=folder / "older.yaml",
        first=folder / "first.yaml",
        halves=True,
    )
    run("--data", f"stand-in={tones}", entry=again)
    work = tmp_path / "work"
    first, made = sentio.load(work / "first"), sentio.load(work / "stand-in-trained")
    assert first.card["recipe"]["technique"]["options"]["teacher"] == "older"
    card = sentio.load(tmp_path / "shelf" / "stand-in.sentio").card
    assert card["recipe"]["technique"]["options"]["teacher"] == "first"
    assert again.taught_by == again.first
    # The recipe that it goes on by names no network.
    assert first.network.state_dict().keys() == made.network.state_dict().keys()
    run("--data", f"stand-in={tones}", "--trained", f"stand-in={work / 'stand-in-trained'}", entry=again)


def test_what_is_too_large_is_refused(build, stand_in, monkeypatch):
    build._check(stand_in)
    monkeypatch.setattr(build, "MAX_BYTES", stand_in.stat().st_size)
    with pytest.raises(SystemExit, match="bytes; a shipped model holds less than"):
        build._check(stand_in)


@pytest.mark.parametrize(
    "note", ["Skipped /home/me/a.wav", "/a", r"it was C:\data\a.wav", "see '~/sounds/a.wav'", "HERE/data"]
)
def test_what_tells_of_the_machine_is_refused(build, stand_in, tmp_path, note):
    model = sentio.load(stand_in, runtime="torch")
    model.card["notes"] = ["plain", {"deep": [note.replace("HERE", str(build.ROOT))]}]
    with pytest.raises(SystemExit, match=r"tells of the machine it was made on: .* in sentio\.json"):
        build._check(sentio.save(model, tmp_path / "telling.sentio"))


def test_plain_texts_are_not_taken_for_paths(build, stand_in, tmp_path):
    model = sentio.load(stand_in, runtime="torch")
    model.card["notes"] = ["low/0.wav", "1/2 or 3 / 4", "https://example.org/data", "a: b", "and/or"]
    assert list(build.local_paths(sentio.save(model, tmp_path / "plain.sentio"))) == []


def test_the_zoo_is_whole(build):
    names = [entry.name for entry in build.ZOO]
    assert len(set(names)) == len(names)
    assert set(shipped()) <= set(names), "what ships can be made again"


def test_rendered_data_are_of_the_entrys_settings_and_of_nothing_older(build, entry, tmp_path):
    train, test = ({"per_class": 1, "seconds": 0.2, "seed": seed, "rate": 8000} for seed in (1, 2))
    rendered = dataclasses.replace(entry, source=build.Rendered(train, test))
    (tmp_path / "stand-in-train").mkdir()
    (tmp_path / "stand-in-train" / "old.wav").write_text("")
    folders = build._data(rendered, tmp_path, {})
    assert [folder.name for folder in folders] == ["stand-in-train", "stand-in-test"]
    one, other = (sentio.open_data(folder) for folder in folders)
    assert one.counts() == other.counts() and set(one.counts().values()) == {1}
    clips = [data.items[0].source.read_bytes() for data in (one, other)]
    assert clips[0] != clips[1], "the test clips are others"
    assert not (tmp_path / "stand-in-train" / "old.wav").exists()


def test_street_sounds_is_tested_on_clips_of_another_seed(build):
    (street,) = (entry for entry in build.ZOO if entry.name == "street-sounds")
    assert street.source.train["seed"] != street.source.test["seed"]
    assert street.data == "rendered clips of 2 s at 16 kHz, 400 of each class, simulator seed 1"
    assert street.tested_on == "rendered clips of 2 s at 16 kHz, 100 of each class, simulator seed 2"
