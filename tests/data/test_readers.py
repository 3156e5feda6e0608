from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from sentio.core.errors import ConfigError, InputError
from sentio.data.readers import open_data


def test_a_folder_per_class(classes):
    dataset = open_data(classes)
    assert dataset.name == "pets" and dataset.labels == ("cat", "dog")
    assert dataset.counts() == {"cat": 4, "dog": 3}
    assert [item.name for item in dataset.items][:2] == ["cat/0.wav", "cat/1.wav"]
    assert all(soundfile.info(item.source).samplerate == 8000 for item in dataset.items)
    assert dataset.protocols == ("random",) and dataset.notes == ()


def test_a_path_relative_to_the_working_folder_stays_good(classes, monkeypatch, tmp_path):
    monkeypatch.chdir(classes)
    dataset = open_data(".")
    monkeypatch.chdir(tmp_path)
    assert dataset.name == "pets" and dataset.items[0].source.is_file()


def test_hidden_files_are_passed_over_and_others_noted(classes, clip):
    clip(classes / "__MACOSX" / "cat" / "0.wav")
    clip(classes / "cat" / "._0.wav")
    (classes / ".DS_Store").write_bytes(b"x")
    (classes / "cat" / "list.txt").write_text("x")
    (classes / "README.md").write_text("x")
    (classes / "empty").mkdir()
    clip(classes / "stray.wav")
    clip(classes / "dog" / "deeper" / "0.wav")
    dataset = open_data(classes)
    assert dataset.counts() == {"cat": 4, "dog": 3}
    assert dataset.notes == (
        "Ignored files that are neither sound nor image (2): README.md, list.txt.",
        "Ignored media files outside the class folders (1): stray.wav.",
        "Ignored folders inside class folders (1): dog/deeper.",
        "Ignored folders without sounds or images (1): empty.",
    )


def test_images_and_odd_labels_are_read(tmp_path):
    for label in ('été & co, "x"', "e\u0301te\u0301 2"):
        (tmp_path / "set" / label).mkdir(parents=True)
        (tmp_path / "set" / label / "1.JPG").write_bytes(b"")
    assert open_data(tmp_path / "set").labels == ('été & co, "x"', "été 2")


def test_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"There is no folder or file .*nowhere; check the path"):
        open_data(tmp_path / "nowhere")


def test_an_empty_folder(tmp_path):
    with pytest.raises(
        InputError, match="is empty or holds no sounds or images; put the files of each class"
    ):
        open_data(tmp_path)


def test_files_directly_inside(tmp_path, clip):
    clip(tmp_path / "a.wav")
    clip(tmp_path / "b.wav")
    with pytest.raises(InputError, match=r"files directly inside .*\(2: a.wav, b.wav\); put the files"):
        open_data(tmp_path)


def test_class_folders_without_media(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match=r"hold no sounds or images \(cat\)"):
        open_data(tmp_path)


def test_classes_one_level_too_deep(tmp_path, clip):
    clip(tmp_path / "first" / "cat" / "0.wav")
    clip(tmp_path / "second" / "cat" / "0.wav")
    with pytest.raises(InputError, match=r"looked in: first, second.* one level deeper, give that folder"):
        open_data(tmp_path)


def test_one_class_folder(tmp_path, clip):
    clip(tmp_path / "cat" / "0.wav")
    with pytest.raises(InputError, match="only one class, 'cat'"):
        open_data(tmp_path)


def test_another_kind_of_file(tmp_path, clip):
    with pytest.raises(InputError, match="neither a folder nor a CSV nor a zip"):
        open_data(clip(tmp_path / "a.wav"))


def test_an_unreadable_folder_is_named(classes, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"Cannot read .*pets: Permission denied; check its permissions"):
        open_data(classes)


def test_an_unknown_protocol(classes):
    with pytest.raises(ConfigError, match="pets has no protocol 'speaker'; choose one of: random"):
        open_data(classes, protocol="speaker")


def digits(folder: Path, clip, indices=range(5, 12)) -> Path:
    for digit in (0, 1):
        for speaker in ("ann", "bob", "cy"):
            for index in indices:
                clip(folder / f"{digit}_{speaker}_{index}.wav")
    return folder


@pytest.mark.parametrize("inner", ["", "recordings"])
def test_spoken_digits(tmp_path, clip, inner):
    digits(tmp_path / "fsdd" / inner, clip)
    (tmp_path / "fsdd" / inner / "README.md").write_text("x")
    dataset = open_data(tmp_path / "fsdd")
    assert dataset.labels == ("0", "1") and len(dataset) == 42
    assert dataset.protocols == ("index", "speaker") and dataset.protocol == "index"
    assert Counter(item.group for item in dataset.items) == {"ann": 14, "bob": 14, "cy": 14}
    assert [item.details["index"] for item in dataset.items[:7]] == ["5", "6", "7", "8", "9", "10", "11"]
    assert dataset.notes == ("Ignored files not named digit_speaker_index.wav (1): README.md.",)
    assert open_data(tmp_path / "fsdd", protocol="speaker").protocol == "speaker"
    with pytest.raises(ConfigError, match="choose one of: index, speaker"):
        open_data(tmp_path / "fsdd", protocol="folds")


@pytest.mark.parametrize("prefix", ["", "wrapper/"])
def test_a_zip_of_class_folders(classes, tmp_path, prefix, zipped):
    (classes / "README.md").write_text("x")
    dataset = open_data(zipped(classes, tmp_path / "all.zip", prefix))
    assert dataset.name == "all" and dataset.root == tmp_path / "all.zip"
    assert [item.name for item in dataset.items] == [item.name for item in open_data(classes).items]
    assert dataset.items[3].source.read_bytes() == (classes / "cat" / "3.wav").read_bytes()
    assert dataset.notes == ("Ignored files that are neither sound nor image (1): README.md.",)


@pytest.mark.parametrize("prefix", ["", "wrapper/"])
def test_a_zip_with_a_table(classes, tmp_path, prefix, zipped):
    (classes / "meta.csv").write_text("filename,label\ncat/0.wav,x\ndog/0.wav,y\n")
    assert open_data(zipped(classes, tmp_path / "all.zip", prefix)).counts() == {"x": 1, "y": 1}


@pytest.mark.parametrize("prefix", ["", "wrapper/", "recordings/", "wrapper/recordings/"])
def test_a_zip_of_spoken_digits(tmp_path, clip, prefix, zipped):
    archive = zipped(digits(tmp_path / "in", clip), tmp_path / "fsdd.zip", prefix)
    assert len(open_data(archive, protocol="speaker")) == 42


def test_a_zip_lives_as_long_as_its_data(classes, tmp_path, zipped):
    dataset = open_data(zipped(classes, tmp_path / "all.zip"))
    part = dataset.subset([0])
    source = part.items[0].source
    del dataset
    assert source.is_file()
    del part
    assert not source.exists()


def test_messages_about_a_zip_name_the_zip(classes, tmp_path, zipped):
    (classes / "meta.csv").write_text("filename,label\ncat/9.wav,x\n")
    archive = zipped(classes, tmp_path / "all.zip", "inner/")
    with pytest.raises(InputError) as caught:
        open_data(archive)
    assert str(tmp_path / "all.zip" / "inner" / "meta.csv") + " line 2 names 'cat/9.wav'" in str(caught.value)


def test_the_real_esc10(public_data):
    dataset = open_data(public_data / "esc10")
    assert len(dataset) == 320 and len(dataset.labels) == 10
    assert set(Counter((item.group, item.label) for item in dataset.items).values()) == {8}
    folds: dict[str, set[str | None]] = {}
    for item in dataset.items:
        folds.setdefault(item.name.split("-")[1], set()).add(item.group)
    assert {len(found) for found in folds.values()} == {1}, "a recording's clips lie in several folds"
    assert soundfile.info(os.fspath(dataset.items[0].source)).samplerate == 44100


def test_the_real_fsdd(public_data):
    dataset = open_data(public_data / "fsdd")
    assert len(dataset) == 2700
    assert dataset.labels == tuple("0123456789") and set(dataset.counts().values()) == {270}
    assert set(Counter(item.group for item in dataset.items).values()) == {450}
    assert soundfile.info(os.fspath(dataset.items[0].source)).samplerate == 8000
