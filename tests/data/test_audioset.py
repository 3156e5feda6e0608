from __future__ import annotations

from pathlib import Path

import pytest

from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.data.audioset import _part, balancing_weights
from sentio.data.readers import open_data
from sentio.data.splits import splits

CLASSES = """index,mid,display_name
0,/m/09x0r,"Speech"
1,/m/0bt9lr,"Dog"
2,/m/01yrx,"Cat"
3,/m/068hy,"Domestic animals, pets"
"""
TRAIN = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=6, num_segs=6, num_unique_labels=4, num_positive_labels=9
# YTID, start_seconds, end_seconds, positive_labels
--aaaaaaaa0, 0.000, 10.000, "/m/0bt9lr,/m/068hy"
-_aaaaaaa_1, 30.000, 40.000, "/m/01yrx,/m/068hy"
Yaaaaaaaaa2, 420.000, 430.000, "/m/0bt9lr,/m/01yrx"
aaaaaaaaaa3, 5.500, 15.500, "/m/0bt9lr"
aaaaaaaaaa4, 0.000, 10.000, "/m/01yrx"
aaaaaaaaaa5, 0.000, 10.000, "/m/09x0r"
aaaaaaaaaa6, 0.000, 10.000, "/m/01yrx"
"""
EVAL = """# Segments csv
# YTID, start_seconds, end_seconds, positive_labels
bbbbbbbbbb0, 0.000, 10.000, "/m/0bt9lr"
bbbbbbbbbb1, 30.000, 40.000, "/m/01yrx"
"""
FILES = (
    "train/--aaaaaaaa0.wav",
    "train/Y-_aaaaaaa_1.wav",
    "train/Yaaaaaaaaa2_420.000_430.000.wav",
    "train/deeper/aaaaaaaaaa3_5500_15500.flac",
    "train/aaaaaaaaaa4_0.wav",
    "aaaaaaaaaa5_0.0.wav",
    "eval/bbbbbbbbbb0.wav",
    "eval/bbbbbbbbbb1_30.wav",
    "eval/stranger.wav",
)


@pytest.fixture
def audioset(tmp_path, clip) -> Path:
    folder = tmp_path / "audioset"
    for name in FILES:
        clip(folder / name)
    (folder / "class_labels_indices.csv").write_text(CLASSES)
    (folder / "balanced_train_segments.csv").write_text(TRAIN)
    (folder / "eval_segments.csv").write_text(EVAL)
    return folder


def test_clips_of_exactly_one_chosen_class(audioset):
    dataset = open_data(audioset, labels=["Dog", "Cat"])
    assert dataset.labels == ("Cat", "Dog") and dataset.counts() == {"Cat": 3, "Dog": 3}
    assert [item.name for item in dataset.items][:4] == [
        "train/--aaaaaaaa0.wav",
        "train/Y-_aaaaaaa_1.wav",
        "train/deeper/aaaaaaaaaa3_5500_15500.flac",
        "train/aaaaaaaaaa4_0.wav",
    ]
    assert dataset.notes == (
        "Left out clips whose file is not there (1).",
        "Left out clips that carry several of the classes (1).",
    )
    first = dataset.items[0]
    assert first.details == {
        "positive_labels": "/m/0bt9lr,/m/068hy",
        "labels": "Dog; Domestic animals, pets",
        "start_seconds": "0",
        "end_seconds": "10",
        "part": "train",
        "recording": "--aaaaaaaa0",
    }


def test_classes_by_code_and_with_a_comma_in_the_name(audioset):
    dataset = open_data(audioset, labels=["/m/0bt9lr", "/m/09x0r"])
    assert dataset.counts() == {"Dog": 4, "Speech": 1}
    pets = open_data(audioset, labels=["Domestic animals, pets", "Speech"])
    assert pets.counts() == {"Domestic animals, pets": 2, "Speech": 1}


def test_without_a_choice_all_classes_count(audioset):
    dataset = open_data(audioset)
    assert dataset.counts() == {"Cat": 2, "Dog": 2, "Speech": 1}
    assert "several of the classes (3)" in dataset.notes[1]


def test_the_published_parts(audioset):
    dataset = open_data(audioset, labels=["Dog", "Cat"])
    assert dataset.protocols == ("official", "random")
    (split,) = splits(dataset)
    assert [dataset.items[index].name for index in split.test] == [
        "eval/bbbbbbbbbb0.wav",
        "eval/bbbbbbbbbb1_30.wav",
    ]
    assert len(split.train) == 2 and len(split.validation) == 2
    (audioset / "eval_segments.csv").unlink()
    assert open_data(audioset, labels=["Dog", "Cat"]).protocols == ("random",)


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (
            "train",
            "balanced_train_segments latest valley segments train_val training-eval TrainTest retrieval",
        ),
        ("validation", "valid_segments validation2017 my-val crossvalidation"),
        ("test", "eval_segments evaluation AudioSetEval audioseteval 2017-Testing devtest my_test"),
    ],
)
def test_a_manifests_name_says_its_part(part, names):
    assert {name: _part(name) for name in names.split()} == dict.fromkeys(names.split(), part)


def test_a_published_validation_part_is_used(audioset):
    text = (audioset / "eval_segments.csv").read_text().replace("bbbb0,", "bbbb0,", 1)
    (audioset / "valid_segments.csv").write_text(text.replace("bbbbbbbbbb", "aaaaaaaaaa"))
    (audioset / "balanced_train_segments.csv").write_text(
        TRAIN.replace('aaaaaaaaaa3, 5.500, 15.500, "/m/0bt9lr"\n', "")
    )
    (audioset / "train" / "--aaaaaaaa0.wav").rename(audioset / "aaaaaaaaaa0.wav")
    dataset = open_data(audioset, labels=["Dog", "Cat"])
    (split,) = splits(dataset)
    assert [dataset.items[index].name for index in split.validation] == ["aaaaaaaaaa0.wav"]


def test_manifests_without_comments_in_a_zip(audioset, tmp_path, zipped):
    header = "YTID,start_seconds,end_seconds,positive_labels\n"
    rows = [line for line in TRAIN.splitlines() if not line.startswith("#")]
    (audioset / "balanced_train_segments.csv").write_text(header + "\n".join(rows).replace(", ", ","))
    dataset = open_data(zipped(audioset, tmp_path / "a.zip", "audioset/"), labels=["Dog", "Cat"])
    assert dataset.counts() == {"Cat": 3, "Dog": 3}


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "aaaaaaaaaa4, 0.000",
            "aaaaaaaaaa3, 5.500",
            "line 8 names clip 'aaaaaaaaaa3' at 5.5 s, as .* line 7 does",
        ),
        (
            '"/m/09x0r"',
            '"/m/none"',
            r"labels that class_labels_indices.csv does not know: /m/none; take both",
        ),
        ('"/m/09x0r"', '""', "does not know: none at all"),
        (
            '"/m/09x0r"',
            "/m/09x0r, /m/068hy",
            "line 9 should hold YTID, start_seconds, end_seconds and, in quotes",
        ),
        (
            "aaaaaaaaaa5, 0.000, 10.000",
            "--aaaaaaaa0, 30.000, 40.000",
            "line 9 names clip '--aaaaaaaa0' at 30 s, whose file would be '--aaaaaaaa0.wav'.* line 4",
        ),
        ("5.500, 15.500", "15.500, 5.500", "clip from 15.5 s to 5.5 s; the end comes after the start"),
        ("5.500, 15.500", "soon, 15.500", "has times 'soon' and '15.500'; they are seconds"),
        ("5.500, 15.500", "nan, 15.500", "clip from nan s"),
        ("5.500, 15.500", "5.500, inf", "clip from 5.5 s to inf s"),
        ('"/m/0bt9lr"\naaaaaaaaaa4', '"/m/0bt9lr\naaaaaaaaaa4', "line 7 has a double quote that is not clo"),
        ('"/m/0bt9lr"', '"' + 200_000 * "a", "line 7 is not valid CSV: field larger than field limit"),
    ],
)
def test_altered_manifests(audioset, old, new, message):
    path = audioset / "balanced_train_segments.csv"
    assert old in TRAIN
    path.write_text(TRAIN.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as raised:
        open_data(audioset)
    assert "\n" not in str(raised.value)


def test_altered_classes_and_no_files(audioset):
    table = audioset / "class_labels_indices.csv"
    table.write_text(CLASSES.replace("/m/01yrx", "/m/0bt9lr"))
    with pytest.raises(
        InputError, match="line 4 has the class '/m/0bt9lr', 'Cat', which is empty or there twice"
    ):
        open_data(audioset)
    table.write_text(CLASSES.replace("display_name", "name"))
    with pytest.raises(InputError, match="has no column 'display_name'"):
        open_data(audioset)
    table.write_text(CLASSES)
    for name in FILES:
        (audioset / name).unlink()
    with pytest.raises(
        InputError, match=r"\(missing files: 9, clips with several of the classes: 0\); name files"
    ):
        open_data(audioset)


def test_wrong_choices(audioset):
    with pytest.raises(UnknownNameError, match="Unknown class 'Dogs'; did you mean 'Dog'"):
        open_data(audioset, labels=["Dogs", "Cat"])
    with pytest.raises(ConfigError, match="needs at least two labels, got Dog"):
        open_data(audioset, labels=["Dog"])
    with pytest.raises(ConfigError, match="no protocol 'folds'"):
        open_data(audioset, protocol="folds")


def test_some_classes_of_other_data(classes, clip):
    clip(classes / "owl" / "0.wav")
    dataset = open_data(classes, labels=["owl", "dog"])
    assert dataset.labels == ("dog", "owl") and dataset.targets.tolist() == [0, 0, 0, 1]
    with pytest.raises(UnknownNameError, match=r"Unknown label of .*pets, 'dogs'; did you mean 'dog'"):
        open_data(classes, labels=["dogs", "owl"])


def test_weights_have_a_floor_and_a_mean_of_one():
    weights = balancing_weights({"a": 40_000, "b": 20_000, "c": 10_000, "d": 12})
    assert weights["c"] == weights["d"]
    assert weights["a"] / weights["d"] == pytest.approx(0.25) and weights["b"] == pytest.approx(
        2 * weights["a"]
    )
    assert sum(weights.values()) == pytest.approx(4)
    assert balancing_weights({"a": 1, "b": 2}, least=1)["a"] == pytest.approx(4 / 3)
    with pytest.raises(ConfigError, match="least is at least 1, got 0"):
        balancing_weights({"a": 1}, least=0)
