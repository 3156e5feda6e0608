from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sentio.core.errors import ConfigError, InputError
from sentio.data.readers import open_data
from sentio.data.splits import splits
from sentio.data.urbansound8k import CLASSES

HEADER = "slice_file_name,fsID,start,end,salience,fold,classID,class"


@pytest.fixture
def urban(tmp_path, clip) -> Path:
    """Two classes, ten folds, in each fold one recording of a class, cut to two clips."""
    folder = tmp_path / "UrbanSound8K"
    lines = [HEADER]
    for fold in range(1, 11):
        for number in (3, 8):
            recording = 1000 * number + fold
            for piece in range(2):
                name = f"{recording}-{number}-0-{piece}.wav"
                clip(folder / "audio" / f"fold{fold}" / name)
                lines.append(
                    f"{name},{recording},{piece / 2},{4 + piece / 2},1,{fold},{number},{CLASSES[number]}"
                )
    (folder / "metadata").mkdir()
    (folder / "metadata" / "UrbanSound8K.csv").write_text("\n".join(lines) + "\n")
    (folder / "UrbanSound8K_README.txt").write_text("x")
    return folder


def change(folder: Path, old: str, new: str) -> None:
    table = folder / "metadata" / "UrbanSound8K.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))


def test_clips_with_fold_and_recording(urban):
    dataset = open_data(urban)
    assert dataset.name == "UrbanSound8K" and dataset.labels == ("dog_bark", "siren")
    assert dataset.protocols == ("urbansound8k",) and dataset.notes == ()
    assert Counter(item.group for item in dataset.items) == {str(fold): 4 for fold in range(1, 11)}
    first = dataset.items[0]
    assert (first.name, first.source.is_file()) == ("audio/fold1/3001-3-0-0.wav", True)
    assert first.details == {"start": "0.0", "end": "4.0", "salience": "1", "recording": "3001"}


def test_the_fold_before_validates_and_all_ten_are_tested(urban):
    dataset = open_data(urban)
    found = splits(dataset)
    assert [split.name for split in found] == [f"fold {fold}" for fold in range(1, 11)]
    groups = np.array([int(item.group) for item in dataset.items])
    for fold, split in enumerate(found, 1):
        assert set(groups[split.test]) == {fold}
        assert set(groups[split.validation]) == {10 if fold == 1 else fold - 1}
        assert len(split.train) == 8 * 4 and split.notes == ()
        recordings = [
            {dataset.items[i].details["recording"] for i in part} for part in (split.train, split.test)
        ]
        assert not recordings[0] & recordings[1]


@pytest.mark.parametrize("prefix", ["", "wrapper/"])
def test_in_a_zip(urban, tmp_path, zipped, prefix):
    assert len(open_data(zipped(urban, tmp_path / "u.zip", prefix))) == 40


def test_a_recording_in_two_folds_is_noted(urban):
    (urban / "audio" / "fold1" / "3001-3-0-1.wav").rename(urban / "audio" / "fold2" / "3001-3-0-1.wav")
    change(urban, "3001-3-0-1.wav,3001,0.5,4.5,1,1", "3001-3-0-1.wav,3001,0.5,4.5,1,2")
    assert "clips in several folds (1): 3001" in open_data(urban).notes[0]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("1,3,dog_bark", "1,8,dog_bark", r"line 2 has .* classID '8' .* contradicts; take the table"),
        ("1,3,dog_bark", "1,3,siren", r"line 2 has .* class 'siren', which the file name .* contradicts"),
        (",3001,0.0", ",3002,0.0", r"line 2 has fsID '3002'.* contradicts"),
        ("4.0,1,1,3", "4.0,1,11,3", r"line 2 has fold '11'; UrbanSound8K has folds 1 to 10"),
        ("4.0,1,1,3", "4.0,1,2,3", r"line 2 names 'fold2/3001-3-0-0.wav', which is not in 'audio/'"),
        ("3001-3-0-1.wav,3001", "3001-3-0-0.wav,3001", r"names 'fold1/3001-3-0-0.wav' on lines 2 and 3"),
        ("3001-3-0-0.wav", "dog.wav", r"line 2 names 'dog.wav'; clips of UrbanSound8K are named"),
        ("salience,fold", "salience,part", r"has no column 'fold' \(found: .*; take the file"),
    ],
)
def test_an_altered_table(urban, old, new, message):
    change(urban, old, new)
    with pytest.raises(InputError, match=message) as raised:
        open_data(urban)
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_another_protocol(urban):
    (urban / "audio" / "fold4" / "3004-3-0-0.wav").unlink()
    with pytest.raises(InputError, match=r"names 'fold4/3004-3-0-0.wav', which is not in 'audio/'"):
        open_data(urban)
    with pytest.raises(ConfigError, match="no protocol 'random'; choose one of: urbansound8k"):
        open_data(urban, protocol="random")
