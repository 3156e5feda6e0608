from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sentio.core.errors import ConfigError, InputError
from sentio.data.readers import open_data
from sentio.data.splits import splits

SCENES = (
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
)
CITIES = (
    "barcelona",
    "helsinki",
    "lisbon",
    "london",
    "lyon",
    "milan",
    "paris",
    "prague",
    "stockholm",
    "vienna",
)
#: 10 s clips of each device in the published parts of the 2020 set; of the 2022 set ten times as many
TRAIN = {"a": 10215, "b": 749, "c": 748, "s1": 750, "s2": 750, "s3": 750}
TEST = {"a": 330, "b": 329, "c": 329, **{f"s{number}": 330 for number in range(1, 7)}}


def names(counts: dict[str, int], first_place: int, chunks: int) -> list[str]:
    """Files as the set names them: clips of a device spread over scenes, cities and places."""
    found = []
    for device, count in counts.items():
        for number in range(count):
            scene, city = SCENES[number % 10], CITIES[number // 10 % 10]
            place = first_place + (number // 100 % 6) * 10 + number % 10
            middle = [f"{number}"] if chunks == 1 else [f"{number}-{chunk}" for chunk in range(chunks)]
            found += [f"audio/{scene}-{city}-{place}-{segment}-{device}.wav" for segment in middle]
    return found


def write_tables(folder: Path, train: list[str], test: list[str], unused: list[str] = ()) -> Path:
    """meta.csv and evaluation_setup/, tab-separated."""
    (folder / "evaluation_setup").mkdir(parents=True)
    meta = ["filename\tscene_label\tidentifier\tsource_label"]
    for name in [*train, *test, *unused]:
        scene, city, place, *_, device = Path(name).stem.split("-")
        meta.append(f"{name}\t{scene}\t{city}-{place}\t{device}")
    (folder / "meta.csv").write_text("\n".join(meta) + "\n")
    tables = {"fold1_train": train, "fold1_evaluate": test, "fold1_test": test}
    for table, rows in tables.items():
        labelled = table != "fold1_test"
        lines = ["filename\tscene_label" if labelled else "filename"]
        lines += [f"{name}\t{Path(name).stem.split('-')[0]}" if labelled else name for name in rows]
        (folder / "evaluation_setup" / f"{table}.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def tau(tmp_path, clip) -> Path:
    """A small set of 1 s chunks: two scenes, five places of each for training, one for the test."""
    train = [
        f"audio/{scene}-lisbon-{place}-{recording}-{chunk}-{device}.wav"
        for scene in ("bus", "street_traffic")
        for place in range(10, 15)
        for recording, device in ((40, "a"), (41, "s1"))
        for chunk in range(3)
    ]
    test = [
        f"audio/{scene}-paris-90-7-0-{device}.wav" for scene in ("bus", "street_traffic") for device in "ab"
    ]
    for name in [*train, *test]:
        clip(tmp_path / "tau" / name)
    return write_tables(tmp_path / "tau", train, test, ["audio/bus-paris-91-8-0-a.wav"])


def devices(dataset, indices) -> Counter[str]:
    return Counter(dataset.items[index].details["device"] for index in indices)


@pytest.mark.parametrize(
    "chunks", [pytest.param(1, id="2020"), pytest.param(10, id="2022", marks=pytest.mark.slow)]
)
def test_the_counts_of_the_published_parts(tmp_path, monkeypatch, chunks):
    train, test = names(TRAIN, 0, chunks), names(TEST, 900, chunks)
    folder = write_tables(tmp_path / "tau", train, test, names({"a": 6110}, 500, 1) if chunks == 1 else [])
    really = Path.is_file
    # 16,930 and 169,300 recordings need not be written to be counted.
    monkeypatch.setattr(Path, "is_file", lambda self: self.suffix == ".wav" or really(self))
    dataset = open_data(folder)
    (split,) = splits(dataset)
    seen = np.concatenate([split.train, split.validation])
    assert (len(seen), len(split.test)) == (13_962 * chunks, 2_968 * chunks)
    assert devices(dataset, seen) == {device: count * chunks for device, count in TRAIN.items()}
    assert devices(dataset, split.test) == {device: count * chunks for device, count in TEST.items()}
    assert dataset.labels == SCENES and split.notes == ()
    assert len({dataset.items[index].details["city"] for index in seen}) == 10
    places = [{dataset.items[index].group for index in part} for part in (split.train, split.validation)]
    assert not places[0] & places[1]
    assert 0.15 < len(split.validation) / len(seen) < 0.25
    assert dataset.notes == (
        ("Left out clips that the published split does not use (6110).",) if chunks == 1 else ()
    )


def test_what_is_known_of_a_clip(tau):
    dataset = open_data(tau)
    item = dataset.items[0]
    assert (item.name, item.label, item.group) == ("audio/bus-lisbon-10-40-0-a.wav", "bus", "lisbon-10")
    assert item.details == {
        "device": "a",
        "source": "a",
        "city": "lisbon",
        "recording": "lisbon-10",
        "part": "train",
    }
    assert dataset.protocols == ("official",) and len(dataset) == 64
    assert dataset.notes == ("Left out clips that the published split does not use (1).",)
    with pytest.raises(ConfigError, match="no protocol 'folds'; choose one of: official"):
        open_data(tau, protocol="folds")


def test_no_place_is_on_both_sides(tau):
    dataset = open_data(tau)
    (split,) = splits(dataset, seed=3)
    assert split.name == "official" and len(split.test) == 4
    places = [{dataset.items[index].group for index in part} for part in (split.train, split.validation)]
    assert not places[0] & places[1] and len(split.validation) == 12
    assert splits(dataset, seed=3)[0].validation.tolist() == split.validation.tolist()


def test_a_share_of_a_recipe_leaks_no_place(tau):
    from sentio.training.division import divide
    from sentio.training.sections import DataSection

    dataset = open_data(tau)
    split = divide(dataset, DataSection(validation=0.3), seed=0)
    places = [{dataset.items[index].group for index in part} for part in (split.train, split.validation)]
    assert not places[0] & places[1] and len(split.validation)


@pytest.mark.parametrize("prefix", ["", "TAU-urban-acoustic-scenes-2022-mobile-development/"])
def test_in_a_zip(tau, tmp_path, zipped, prefix):
    assert len(open_data(zipped(tau, tmp_path / "tau.zip", prefix))) == 64


@pytest.mark.parametrize("present", ["fold1_evaluate.csv", "fold1_test.csv"])
def test_one_list_of_the_test_part_is_enough(tau, present):
    for name in ("fold1_evaluate.csv", "fold1_test.csv"):
        if name != present:
            (tau / "evaluation_setup" / name).unlink()
    assert len(splits(open_data(tau))[0].test) == 4


@pytest.mark.parametrize("name", ["fold1_train.csv", "fold1_evaluate.csv"])
def test_a_list_is_missing(tau, name):
    for other in (name, name.replace("evaluate", "test")):
        (tau / "evaluation_setup" / other).unlink(missing_ok=True)
    with pytest.raises(InputError, match=f"{name} is missing, so the published split is not known"):
        open_data(tau)


def test_a_recording_is_missing(tau):
    (tau / "audio" / "bus-lisbon-10-40-1-a.wav").unlink()
    with pytest.raises(
        InputError, match=r"line 3 names 'audio/bus-lisbon-10-40-1-a.wav', which is not there"
    ):
        open_data(tau)


@pytest.mark.parametrize(
    "table, old, new, message",
    [
        ("meta.csv", "a.wav\tbus\tlisbon-10\t", "a.wav\ttram\tlisbon-10\t", "and meta.csv calls it 'tram'"),
        (
            "meta.csv",
            "lisbon-10\t",
            "lisbon-11\t",
            "has scene 'bus' and identifier 'lisbon-11', which the file",
        ),
        ("meta.csv", "lisbon-10\t", "lisbon-1\t", "identifier 'lisbon-1', which the file name"),
        ("fold1_train.csv", "40-1-a", "40-0-a", "on lines 2 and 3; keep one"),
        ("fold1_train.csv", "40-1-a", "40-9-a", "line 3 names .* which meta.csv does not have"),
        ("fold1_train.csv", "0-a.wav\tbus", "0-a.wav\ttram", "calls .* 'tram' and meta.csv calls it 'bus'"),
        (
            "fold1_test.csv",
            "audio/bus-paris-90-7-0-a.wav\n",
            "",
            "lists different clips in fold1_evaluate.csv and",
        ),
        ("fold1_train.csv", "bus-lisbon-10-40-0-a", "bus-paris-90-7-0-a", "for training and for the test"),
    ],
)
def test_altered_tables(tau, table, old, new, message):
    path = tau / table if table == "meta.csv" else tau / "evaluation_setup" / table
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as raised:
        open_data(tau)
    assert "\n" not in str(raised.value)
