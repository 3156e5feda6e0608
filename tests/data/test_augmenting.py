"""Augmented data sets on disk: what each recipe writes, and that splits stay free of leaks."""

from __future__ import annotations

import csv
import errno
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sentio.core.errors import ArtifactError, CancelledError, ConfigError, InputError
from sentio.data import augmenting
from sentio.data.augmenting import augment_data
from sentio.data.augmenting_plans import FIVE, Strengths
from sentio.data.readers import open_data
from sentio.data.splits import originals, splits
from sentio.training.division import divide
from sentio.training.sections import DataSection

RATE = 8000
SEGMENTS = 10


def write_scenes(folder: Path, recordings: dict[str, int]) -> Path:
    """Recordings of ten segments of 0.05 s each, ``recordings`` by device, named as TAU names them."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    for label in ("bus", "park"):
        for device, count in recordings.items():
            for number in range(count):
                recording = draw.normal(0, 0.1, SEGMENTS * 400)
                for segment, samples in enumerate(recording.reshape(SEGMENTS, 400)):
                    name = f"{label}-paris-{number}-{number}-{segment}-{device}.wav"
                    soundfile.write(folder / name, samples, RATE)
    names = sorted(path.name for path in folder.glob("*.wav"))
    lines = [f"{name},{name.split('-')[0]},{name.split('-')[2]}" for name in names]
    (folder / "meta.csv").write_text("\n".join(["filename,label,fold", *lines]) + "\n")
    return folder


def write_tau(folder: Path, test_place: str) -> Path:
    """TAU's 2022 layout: two places of two recordings each, of three segments of 0.05 s."""
    draw = np.random.default_rng(0)
    (folder / "evaluation_setup").mkdir(parents=True)
    (folder / "audio").mkdir()
    tables = {"meta": ["filename\tscene_label\tidentifier\tsource_label"]}
    tables |= {f"evaluation_setup/fold1_{part}": ["filename\tscene_label"] for part in ("train", "evaluate")}
    for label in ("bus", "park"):
        for place in ("lisbon-0", "paris-1"):
            for recording in (7, 8):
                for segment in range(3):
                    name = f"audio/{label}-{place}-{recording}-{segment}-a.wav"
                    soundfile.write(folder / name, draw.normal(0, 0.1, 400), RATE)
                    tables["meta"].append(f"{name}\t{label}\t{place}\ta")
                    part = "evaluate" if place == test_place else "train"
                    tables[f"evaluation_setup/fold1_{part}"].append(f"{name}\t{label}")
    for name, lines in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """60 clips of device a and 20 of device b; not to be written to."""
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", {"a": 3, "b": 1})


@pytest.fixture
def small(tmp_path):
    """Two classes of four clips each, without devices."""
    draw = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for number in range(4):
            soundfile.write(tmp_path / "pets" / label / f"{number}.wav", draw.normal(0, 0.3, 900), RATE)
    return tmp_path / "pets"


def rows(folder):
    with (folder / "meta.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def samples(folder, name):
    return soundfile.read(folder / "audio" / name, dtype="float64")[0]


def test_every_recording_of_a_place_is_cut_again(tmp_path):
    found = augment_data(
        write_tau(tmp_path / "tau", "paris-1"), tmp_path / "out", "device-balance", processes=1
    )
    assert found.files == {"original": 24, "rechunk": 8 * 2}
    for row in rows(tmp_path / "out"):
        if row["augmentation"] == "rechunk":
            first, second = (name.split("-") for name in row["augmented_from"].split("|"))
            assert first[:4] == second[:4] and int(second[4]) == int(first[4]) + 1


def test_published_parts_outlive_the_augmentation(tmp_path):
    tau = write_tau(tmp_path / "tau", "paris-1")
    augment_data(tau, tmp_path / "out", "data-hunger", processes=1)
    before, after = open_data(tau), open_data(tmp_path / "out")
    assert (after.protocols, after.protocol) == (("official", "folds", "random"), "official")
    (wanted,), (found,) = splits(before), splits(after)
    for part in ("validation", "test"):
        named = {before.items[place].name for place in getattr(wanted, part)}
        assert {after.items[place].name for place in getattr(found, part)} == named
    assert len(found.train) == 6 * len(wanted.train)


def test_data_hunger_writes_six_files_for_each_clip(scenes, tmp_path):
    found = augment_data(scenes, tmp_path / "out", "data-hunger", processes=1)
    assert found.files == {"original": 80, **dict.fromkeys(FIVE, 80)}
    assert len(open_data(tmp_path / "out")) == 6 * 80
    for row in rows(tmp_path / "out"):
        original = row["augmented_from"] or row["filename"]
        assert (row["label"], row["fold"]) == (original.split("-")[0], original.split("-")[2])
        assert len(samples(tmp_path / "out", row["filename"])) == 400
    name = rows(scenes)[0]["filename"]
    assert (tmp_path / "out" / "audio" / name).read_bytes() == (scenes / name).read_bytes()
    shifted = samples(tmp_path / "out", name.replace(".wav", ".shift.wav"))
    assert np.allclose(np.sort(shifted), np.sort(samples(tmp_path / "out", name)), atol=1e-4)


def test_device_balance_adds_what_the_arithmetic_of_the_recipe_says(scenes, tmp_path):
    """n clips give 0.9 n pieces cut again; the m of other devices, cut again or not, five copies each."""
    found = augment_data(scenes, tmp_path / "out", "device-balance", processes=1)
    n, m = 80, 20
    assert sum(found.files.values()) == round(n * 1.9 + 5 * m * 1.9)
    assert found.files == {"original": n, "rechunk": round(0.9 * n), **dict.fromkeys(FIVE, round(m * 1.9))}
    copied = [row for row in rows(tmp_path / "out") if row["augmentation"] not in ("", "rechunk")]
    assert all(name.endswith("-b.wav") for row in copied for name in row["augmented_from"].split("|"))
    again = [row for row in rows(tmp_path / "out") if row["augmentation"] == "rechunk"]
    for row in again:
        first, second = row["augmented_from"].split("|")
        piece, before, after = (samples(tmp_path / "out", name) for name in (row["filename"], first, second))
        assert np.allclose(piece, np.concatenate([before[200:], after[:200]]), atol=1e-4)
    assert {row["augmentation"] for row in copied} == {*FIVE, *(f"rechunk+{change}" for change in FIVE)}


def test_impulse_response_adds_the_reference_device_through_other_microphones(scenes, tmp_path):
    found = augment_data(scenes, tmp_path / "out", "impulse-response", processes=1, seed=2)
    heard = [row for row in rows(tmp_path / "out") if row["augmentation"] == "impulse-response"]
    assert sum(found.files.values()) == 480 + len(heard)
    assert all(row["augmented_from"].endswith("-a.wav") for row in heard)
    assert len({row["augmented_from"] for row in heard}) == len(heard) == pytest.approx(30, abs=12)
    every = augment_data(
        scenes,
        tmp_path / "all",
        "impulse-response",
        processes=1,
        device="b",
        strengths=Strengths(probability=1.0),
    )
    assert every.files["impulse-response"] == 20


def test_the_files_do_not_depend_on_processes_but_on_the_seed(small, tmp_path):
    for name, options in (
        ("1", {"processes": 1}),
        ("2", {"processes": 2}),
        ("3", {"processes": 1, "seed": 1}),
    ):
        augment_data(small, tmp_path / name, "impulse-response", **options)
    contents = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name / "audio").rglob("*.wav")
        }
        for name in "123"
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    assert (tmp_path / "1" / "meta.csv").read_bytes() == (tmp_path / "2" / "meta.csv").read_bytes()


def leak_free(dataset, split):
    """The names of the originals each part rests on, and that copies train only."""
    parts = {}
    for part in ("train", "validation", "test"):
        items = [dataset.items[place] for place in getattr(split, part)]
        named = [item.details["augmented_from"] for item in items]
        assert part == "train" or not any(named)
        parts[part] = {
            name for item, text in zip(items, named, strict=True) for name in (text or item.name).split("|")
        }
    assert not parts["train"] & (parts["validation"] | parts["test"])
    return parts


@pytest.mark.parametrize("recipe", ["device-balance", "impulse-response"])
@pytest.mark.parametrize("protocol", ["folds", "random"])
def test_splits_keep_copies_with_their_originals_and_out_of_tests(scenes, tmp_path, recipe, protocol):
    augment_data(scenes, tmp_path / "out", recipe, processes=1)
    dataset, plain = open_data(tmp_path / "out"), open_data(scenes)
    assert len(originals(dataset)) == len(plain)
    for split, before in zip(splits(dataset, protocol), splits(plain, protocol), strict=True):
        parts = leak_free(dataset, split)
        for part, names in parts.items():
            assert names == {plain.items[place].name for place in getattr(before, part)}
        assert len(split.train) >= 1.9 * len(before.train)
        left = len(dataset) - sum(len(getattr(split, part)) for part in parts)
        assert f"Augmented copies of clips outside the training part are left out ({left})." in split.notes


def test_recipes_of_trainings_keep_them_apart_too(scenes, tmp_path):
    augment_data(scenes, tmp_path / "out", "data-hunger", processes=1)
    dataset = open_data(tmp_path / "out")
    for section in (
        DataSection(split="all"),
        DataSection(split=1, validation=0.3),
        DataSection(protocol="random"),
    ):
        split = divide(dataset, section, seed=0)
        leak_free(dataset, split)
        assert len(split.train) % 6 == 0 and len(split.validation)


def test_speakers_stay_together(tmp_path):
    """The Free Spoken Digit Dataset's speakers become folds."""
    folder = tmp_path / "fsdd"
    folder.mkdir()
    for digit in range(2):
        for speaker in ("ann", "bob", "eve"):
            soundfile.write(
                folder / f"{digit}_{speaker}_7.wav", np.random.default_rng(digit).normal(0, 0.1, 500), RATE
            )
    augment_data(folder, tmp_path / "out", "data-hunger", processes=1)
    dataset = open_data(tmp_path / "out")
    for split in splits(dataset):
        leak_free(dataset, split)
        speakers = [{dataset.items[place].group for place in part} for part in (split.train, split.test)]
        assert len(speakers[1]) == 1 and not speakers[0] & speakers[1]


def test_a_copy_without_its_original_is_not_guessed_about(scenes, tmp_path):
    augment_data(scenes, tmp_path / "out", "data-hunger", processes=1)
    table = tmp_path / "out" / "meta.csv"
    lines = table.read_text().splitlines()
    lost = lines.pop(1).split(",")[0]
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=f"is a copy of '{lost}', which it does not hold"):
        splits(open_data(tmp_path / "out"))


def test_broken_files_are_named_and_their_copies_left_out(small, tmp_path):
    (small / "cat" / "1.wav").write_bytes(b"nonsense")
    found = augment_data(small, tmp_path / "out", "data-hunger", processes=1)
    assert found.files == {"original": 7, **dict.fromkeys(FIVE, 7)}
    assert [note for note in found.notes if note.startswith("Skipped cat/1.wav (is not a sound file")]
    assert not any("cat/1." in row["filename"] for row in rows(tmp_path / "out"))
    for path in small.rglob("*.wav"):
        path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"No file of .* can be used: cat/0\.wav \(is not"):
        augment_data(small, tmp_path / "none", "data-hunger", processes=1)
    assert not (tmp_path / "none").exists()


def test_loud_clips_are_made_softer_not_clipped(tmp_path, small):
    loud = np.sign(np.random.default_rng(0).normal(size=900)) * 0.99
    soundfile.write(small / "cat" / "0.wav", loud, RATE)
    augment_data(small, tmp_path / "out", "data-hunger", processes=1)
    found = samples(tmp_path / "out", "cat/0.pitch.wav")
    assert np.abs(found).max() == pytest.approx(0.999, abs=1e-3) and np.mean(np.abs(found) > 0.99) < 0.05


def test_names_that_would_collide_are_kept_apart(tmp_path, small):
    soundfile.write(small / "cat" / "0.flac", np.random.default_rng(5).normal(0, 0.1, 800), RATE)
    found = augment_data(small, tmp_path / "out", "data-hunger", processes=1)
    assert found.files["pitch"] == 9
    names = Counter(row["filename"] for row in rows(tmp_path / "out"))
    assert {"cat/0.pitch.wav", "cat/0.wav.pitch.wav"} <= names.keys() and max(names.values()) == 1


def test_a_folder_that_holds_something_is_left_alone(small, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"out holds something already"):
        augment_data(small, tmp_path / "out", "data-hunger")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_full_disk_and_a_stop_leave_nothing_behind(small, tmp_path, monkeypatch):
    with pytest.raises(CancelledError, match="after 3 of 48 files"):
        calls = []
        augment_data(
            small,
            tmp_path / "out",
            "data-hunger",
            processes=1,
            cancel=lambda: calls.append(1) or len(calls) > 3,
        )
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(augmenting, "write", full)
    with pytest.raises(ArtifactError, match="out could not be written: No space left on device"):
        augment_data(small, tmp_path / "out", "data-hunger", processes=1)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_does_not_fit_is_said(small, scenes, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="Unknown recipe 'data-hungry'; did you mean 'data-hunger'"):
        augment_data(small, out, "data-hungry")
    with pytest.raises(ConfigError, match="does not say of what device its clips are"):
        augment_data(small, out, "device-balance")
    with pytest.raises(ConfigError, match=r"is of device 'z' \(known from 'device': a, b\)"):
        augment_data(scenes, out, "impulse-response", device="z")
    with pytest.raises(InputError, match="cannot be read from nowhere"):
        augment_data(small, out, "impulse-response", responses="nowhere")
    with pytest.raises(ConfigError, match="at least 0 and processes at least 1"):
        augment_data(small, out, "data-hunger", processes=0)
    for wrong, text in (
        ({"stretch": 0.9}, "stretch"),
        ({"probability": 2}, "probability"),
        ({"mask": -1}, "mask"),
    ):
        with pytest.raises(ConfigError, match=text):
            Strengths(**wrong)
    assert not out.exists()
    augment_data(small, out, "data-hunger", processes=1)
    with pytest.raises(ConfigError, match="holds augmented copies already"):
        augment_data(out, tmp_path / "twice", "data-hunger")
    found = augment_data(small, tmp_path / "any", "impulse-response", processes=1)
    assert "No devices are known, so every clip may be heard through another microphone." in found.notes
