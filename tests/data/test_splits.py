from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentio.core.errors import ConfigError, InputError
from sentio.data.dataset import Item, make_dataset
from sentio.data.readers import open_data
from sentio.data.splits import hold_out, splits

PROTOCOLS = {"folds": ("folds", "random"), "speaker": ("index", "speaker"), "index": ("index", "speaker")}


def build(rows, protocol="random"):
    """Rows of (label, group) or (label, group, index)."""
    items = []
    for number, (label, group, *rest) in enumerate(rows):
        details = {"index": str(rest[0])} if rest else {}
        items.append(Item(f"{number}.wav", Path(f"{number}.wav"), label, group, details))
    protocols = PROTOCOLS.get(protocol, (protocol,))
    return make_dataset(Path("set"), items, protocols=protocols, protocol=protocol)


def check(dataset, found, groups_whole=True):
    for split in found:
        parts = [split.train, split.validation, split.test]
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(dataset)))
        if groups_whole:
            groups = [{dataset.items[i].group for i in part} for part in parts]
            assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_every_fold_is_tested_once_and_the_next_validates():
    dataset = build([(label, str(fold)) for fold in (10, 9, 1) for label in "ab"], "folds")
    found = splits(dataset)
    check(dataset, found)
    assert [split.name for split in found] == ["fold 1", "fold 9", "fold 10"]
    held = [{dataset.items[i].group for i in split.validation} for split in found]
    assert held == [{"9"}, {"10"}, {"1"}]
    assert all(split.notes == () for split in found)


def test_speakers_are_left_out_in_turn():
    dataset = build([(d, s, n) for d in "01" for s in ("ann", "bob", "cy", "di") for n in (5, 6)], "speaker")
    found = splits(dataset)
    check(dataset, found)
    assert [split.name for split in found] == ["speaker ann", "speaker bob", "speaker cy", "speaker di"]
    assert [len(split.train) for split in found] == [8] * 4


def test_two_folds_keep_the_test_apart_and_say_what_that_costs():
    dataset = build([(label, fold) for fold in "12" for label in "ab" for _ in range(5)], "folds")
    found = splits(dataset)
    check(dataset, found, groups_whole=False)
    for split, tested in zip(found, "12", strict=True):
        assert {dataset.items[i].group for i in split.test} == {tested}
        assert (len(split.train), len(split.validation)) == (8, 2)
        assert "too good" in split.notes[0]


@pytest.mark.parametrize("groups", [["1", "1"], ["1", None]])
def test_too_few_folds(groups):
    with pytest.raises(InputError, match="has 1 fold and cross-validation needs at least 2"):
        splits(build([("a", groups[0]), ("b", groups[1])], "folds"))


def test_a_class_that_only_one_fold_holds_is_noted():
    dataset = build([("a", "1"), ("b", "1"), ("b", "2"), ("b", "3")], "folds")
    assert splits(dataset)[0].notes == (
        "The training part has no clip of: a.",
        "The validation part has no clip of: a.",
    )


def digits(indices):
    return build([(d, s, n) for d in "01" for s in ("ann", "bob") for n in indices], "index")


def test_the_index_protocol_tests_on_0_to_4():
    dataset = digits(range(15))
    (split,) = splits(dataset)
    check(dataset, [split], groups_whole=False)
    index = np.array([int(item.details["index"]) for item in dataset.items])
    assert set(index[split.test]) == set(range(5)) and set(index[split.validation]) == set(range(5, 10))
    assert split.notes == ()


def test_without_a_test_part_the_index_protocol_says_so():
    (split,) = splits(digits(range(5, 15)))
    assert len(split.test) == 0 and len(split.validation) == len(split.train) == 20
    assert split.notes == ("Indices 0 to 4, the test part, are absent; 5 to 9 serve as validation.",)


def test_too_few_indices():
    with pytest.raises(InputError, match="recordings of 3 indices beside the test indices 0 to 4"):
        splits(digits(range(8)))


def test_an_unknown_protocol():
    with pytest.raises(ConfigError, match="no protocol 'speaker'; choose one of: folds, random"):
        splits(build([("a", "1"), ("b", "2")], "folds"), "speaker")


def test_a_random_split_is_stratified_and_follows_its_seed():
    dataset = build([(label, None) for label, n in (("a", 50), ("b", 10), ("c", 3)) for _ in range(n)])
    (split,) = splits(dataset, seed=3)
    check(dataset, [split], groups_whole=False)
    counts = [np.bincount(dataset.targets[p]).tolist() for p in (split.train, split.validation, split.test)]
    assert counts == [[32, 6, 1], [8, 2, 1], [10, 2, 1]]
    assert split.notes == () and split.name == "random, seed 3"
    assert splits(dataset, seed=3)[0].test.tolist() == split.test.tolist()
    assert splits(dataset, seed=4)[0].test.tolist() != split.test.tolist()


def test_a_random_split_is_the_same_on_every_machine():
    dataset = build([(label, None) for label in "ab" for _ in range(5)])
    (split,) = splits(dataset, seed=0)
    assert (split.train.tolist(), split.validation.tolist(), split.test.tolist()) == PINNED


#: of seed 0, PCG64
PINNED = ([0, 2, 4, 5, 7, 9], [1, 6], [3, 8])


def test_with_two_folds_the_order_of_the_items_does_not_matter_either():
    rows = [(label, fold) for fold in "12" for label in "ab" for _ in range(10)]
    dataset = build(rows, "folds")
    turned = dataset.subset(reversed(range(len(dataset))))
    for one, other in zip(splits(dataset), splits(turned), strict=True):
        first, second = (
            {data.items[place].name for place in split.validation}
            for data, split in ((dataset, one), (turned, other))
        )
        assert first == second


def test_the_order_of_the_items_does_not_matter():
    dataset = build([(label, None) for label in "ab" for _ in range(10)])
    turned = dataset.subset(range(19, -1, -1))
    names = {dataset.items[i].name for i in splits(dataset)[0].test}
    assert {turned.items[i].name for i in splits(turned)[0].test} == names


def test_groups_stay_whole_in_a_random_split():
    dataset = build(
        [(label, str(group)) for group in range(9) for label in "ab" for _ in range(group % 3 + 1)]
    )
    check(dataset, splits(dataset, "random"))


def test_classes_of_one_and_two_clips_are_noted():
    dataset = build([("a", None)] * 10 + [("b", None)] * 2 + [("c", None)])
    (split,) = splits(dataset)
    assert split.notes == (
        "The validation part has no clip of: b, c.",
        "The test part has no clip of: c.",
    )
    assert sorted(set(dataset.targets[split.train])) == [0, 1, 2]


def test_nothing_to_hold_out():
    with pytest.raises(InputError, match="no class with two clips that may be parted"):
        splits(build([("a", None), ("b", None)]))
    with pytest.raises(InputError, match="no class with two clips that may be parted"):
        splits(build([("a", "1"), ("a", "1"), ("b", "1"), ("b", "1")]))


def test_no_clip_left_to_validate_on():
    (split,) = splits(build([("a", None), ("a", None), ("b", None), ("b", None)]))
    assert len(split.validation) == 0
    assert split.notes == ("The validation part is empty: there are too few clips to set some aside.",)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=40),
    st.integers(0, 5),
    st.sampled_from([0.1, 0.2, 0.5]),
)
@settings(max_examples=150, deadline=None)
def test_hold_out_never_parts_a_unit_nor_empties_a_class(rows, seed, share):
    targets, units = np.array(rows).T
    held = hold_out(targets, units, share, np.random.Generator(np.random.PCG64(seed)))
    assert all(len(set(held[units == unit])) == 1 for unit in units)
    assert set(targets[~held]) == set(targets)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_hold_out_of_single_clips_meets_each_share(labels, seed):
    targets = np.array(labels)
    held = hold_out(targets, np.arange(len(targets)), 0.2, np.random.Generator(np.random.PCG64(seed)))
    for label in set(labels):
        n = labels.count(label)
        wanted = 0 if n == 1 else min(max(int(n * 0.2 + 0.5), 1), n - 1)
        assert held[targets == label].sum() == wanted


def test_real_esc10_folds(public_data):
    dataset = open_data(public_data / "esc10")
    found = splits(dataset)
    check(dataset, found)
    assert [(s.name, len(s.train), len(s.validation), len(s.test)) for s in found] == [
        (f"fold {n}", 160, 80, 80) for n in (1, 2, 3, 4)
    ]


def test_real_fsdd_protocols(public_data):
    dataset = open_data(public_data / "fsdd")
    check(dataset, splits(dataset, "speaker"))
    (split,) = splits(dataset)
    assert (len(split.train), len(split.validation), len(split.test)) == (2400, 300, 0)


def published(parts):
    """Two classes in each of the parts, each clip a group of its own."""
    items = [
        Item(f"{number}{label}", Path("x"), label, f"{number}{label}", {"part": part})
        for number, part in enumerate(parts)
        for label in "ab"
    ]
    return make_dataset(Path("set"), items, protocols=("official",), protocol="official")


def test_published_parts_are_followed():
    (split,) = splits(published(["train", "validation", "test", "train"]))
    assert (split.train.tolist(), split.validation.tolist(), split.test.tolist()) == (
        [0, 1, 6, 7],
        [2, 3],
        [4, 5],
    )


def test_without_a_published_validation_part_one_is_drawn_from_training():
    dataset = published(["train"] * 10 + ["test"])
    (split,) = splits(dataset)
    check(dataset, [split])
    assert split.test.tolist() == [20, 21] and len(split.validation) == 4 and split.notes == ()
    assert splits(dataset, seed=1)[0].validation.tolist() != split.validation.tolist()


def test_published_parts_that_are_absent():
    (split,) = splits(published(["train"] * 5))
    assert len(split.test) == 0 and split.notes == ("The data set's own test part is absent.",)
    with pytest.raises(
        InputError, match="set holds no clip of the data set's own training part; add its files"
    ):
        splits(published(["test", "validation"]))
