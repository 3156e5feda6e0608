"""Which clips are trained on, held out and tested on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sentio.core.errors import ConfigError
from sentio.data.dataset import Dataset, Item
from sentio.data.splits import AUGMENTED_FROM, splits
from sentio.training.division import divide, rounds
from sentio.training.sections import DataSection


def dataset(groups, protocols=("folds", "random"), recordings=None):
    """Two classes, one clip per class for each entry of ``groups``."""
    items = tuple(
        Item(
            f"{label}{number}.wav",
            Path(f"{label}{number}.wav"),
            label,
            group,
            {"recording": f"{label}{recordings[number]}"} if recordings else {},
        )
        for number, group in enumerate(groups)
        for label in ("cat", "dog")
    )
    return Dataset("made", items, ("cat", "dog"), Path("made"), protocols, protocols[0])


def section(**values):
    return DataSection.model_validate(values)


def parts(split):
    return [set(part.tolist()) for part in (split.train, split.validation, split.test)]


def test_the_protocols_own_split_is_taken_as_it_is():
    data = dataset(["1", "2", "3"] * 2)
    expected = splits(data)[1]
    found = divide(data, section(split=1), seed=0)
    assert parts(found) == parts(expected)
    assert found.name == "fold 2"


@pytest.mark.parametrize("split", [0, 2, "all"])
def test_parts_cover_the_data_and_do_not_overlap(split):
    data = dataset(["1", "2", "3"] * 4)
    train, validation, test = parts(divide(data, section(split=split, validation=0.25), seed=1))
    assert train | validation | test == set(range(len(data)))
    assert not train & validation and not train & test and not validation & test
    assert bool(test) == (split != "all")


def test_a_share_is_held_out_of_all_that_is_not_tested_on():
    data = dataset(["1", "2", "3"] * 4)
    found = divide(data, section(split=0, validation=0.25), seed=0)
    assert parts(found)[2] == parts(splits(data)[0])[2]
    assert len(found.validation) == 4
    assert sorted(data.targets[found.validation]) == [0, 0, 1, 1]
    other = divide(data, section(split=0, validation=0.25), seed=1)
    assert parts(found)[1] != parts(other)[1]
    assert parts(found) == parts(divide(data, section(split=0, validation=0.25), seed=0))


def test_clips_of_one_recording_stay_together():
    data = dataset(["1"] * 8, recordings=[0, 0, 0, 0, 1, 1, 2, 2])
    found = divide(data, section(split="all", validation=0.3), seed=0)
    recordings = [{data.items[i].details["recording"] for i in part} for part in parts(found)]
    assert recordings[1] and not recordings[0] & recordings[1]


def test_all_takes_a_fifth_for_validation_and_needs_no_folds_to_test_on():
    data = dataset(["1"] * 10)
    found = divide(data, section(split="all"), seed=0)
    assert (len(found.train), len(found.validation), len(found.test)) == (16, 4, 0)
    assert found.name == "all"


def test_a_whole_group_can_be_held_out_of_all():
    data = dataset(["1", "2", "3"] * 4)
    found = divide(data, section(split="all", validation="group"), seed=0)
    assert parts(found) == [
        parts(splits(data)[0])[0] | parts(splits(data)[0])[1],
        parts(splits(data)[0])[2],
        set(),
    ]
    assert parts(divide(data, section(split=1, validation="group"), seed=0)) == parts(splits(data)[1])
    for split in (0, "all"):
        with pytest.raises(
            ConfigError, match="leaves a fold or a speaker out, but made is divided by 'random'"
        ):
            divide(data, section(protocol="random", split=split, validation="group"), seed=0)


@pytest.mark.parametrize("split", [1, "all"])
def test_each_group_that_is_not_tested_on_is_held_out_in_turn(split):
    data = dataset(["1", "2", "10"] * 4)
    groups = np.array([item.group for item in data.items])
    whole, found = rounds(data, section(split=split, validation="each-group"), seed=0)
    assert parts(whole)[0] == parts(whole)[1] == parts(found[0])[0] | parts(found[0])[1]
    assert whole.notes == ()
    assert [set(groups[part.validation]) for part in found] == [
        {name} for name in ("1", "2", "10") if (split, name) != (1, "2")
    ]
    for part in found:
        train, validation, test = parts(part)
        assert train | validation | test == set(range(len(data)))
        assert not train & validation and not train & test and not validation & test
        assert set(groups[part.test]) == ({"2"} if split == 1 else set())
    assert parts(found[0])[2] == parts(divide(data, section(split=split, validation="each-group"), seed=0))[2]


def test_what_leaves_no_group_to_hold_out_is_divided_as_ever():
    data = dataset(["1", "2"] * 4)
    for values in ({"validation": "each-group"}, {"validation": "group"}, {}):
        whole, (found,) = rounds(data, section(**values), seed=0)
        assert parts(whole) == parts(found) == parts(divide(data, section(**values), seed=0))
    with pytest.raises(ConfigError, match="leaves a fold or a speaker out"):
        rounds(data, section(protocol="random", validation="each-group"), seed=0)


def test_notes_are_about_all_that_is_trained_on_and_a_group_that_alone_has_a_class_is_named():
    items = [Item(f"{n}.wav", Path(f"{n}.wav"), "cat", str(n % 3), {}) for n in range(9)]
    items += [Item(f"dog{n}.wav", Path(f"dog{n}.wav"), "dog", "1", {}) for n in range(3)]
    copied = Item("copy.wav", Path("copy.wav"), "cat", "0", {AUGMENTED_FROM: "0.wav"})
    tested = Item("other.wav", Path("other.wav"), "cat", "2", {AUGMENTED_FROM: "2.wav"})
    data = Dataset(
        "made", (*items, copied, tested), ("cat", "dog"), Path("made"), ("folds", "random"), "folds"
    )
    whole, found = rounds(data, section(split=2, validation="each-group"), seed=0)
    assert [len(part.train) for part in found] == [6, 4] and len(whole.train) == 10
    alone, absent = whole.notes[1:], whole.notes[0]
    assert absent == "The test part has no clip of: dog."
    assert alone[0].startswith("Only fold 1 has clips of: dog; the network by whose answers")
    assert alone[1] == "Augmented copies of clips outside the training part are left out (1)."
    assert all(part.notes == whole.notes for part in found)


def test_notes_on_a_validation_part_that_was_replaced_are_dropped():
    data = dataset(["1", "2"] * 5)
    assert "validation clips come from the training fold" in divide(data, section(), seed=0).notes[0]
    assert divide(data, section(validation=0.2), seed=0).notes == ()


def test_splits_and_protocols_that_are_not_there():
    data = dataset(["1", "2", "3"])
    with pytest.raises(ConfigError, match="made has 3 splits under protocol 'folds'; choose 0 to 2, or all"):
        divide(data, section(split=3), seed=0)
    for split in (0, "all"):
        with pytest.raises(ConfigError, match="made has no protocol 'speaker'"):
            divide(data, section(split=split, protocol="speaker"), seed=0)


def test_the_seed_of_a_random_protocol():
    data = dataset(["1"] * 30, protocols=("random",))
    data = Dataset(**{**vars(data), "items": tuple(Item(i.name, i.source, i.label) for i in data.items)})
    tested = [parts(divide(data, section(), seed=seed))[2] for seed in (0, 0, 1)]
    assert tested[0] == tested[1] != tested[2]
    assert np.all([len(test) == 12 for test in tested])
