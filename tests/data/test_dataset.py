from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sentio.core.errors import ConfigError, InputError
from sentio.data.dataset import Item, choose_protocol, listed, make_dataset


def of_labels(*labels: str):
    items = [Item(f"{n}.wav", Path(f"{n}.wav"), label) for n, label in enumerate(labels)]
    return make_dataset(Path("some/set"), items, protocols=("random",), protocol="random")


def test_classes_are_numbered_in_sorted_order():
    dataset = of_labels("b", "a", "c", "a")
    assert dataset.labels == ("a", "b", "c")
    assert dataset.targets.tolist() == [1, 0, 2, 0] and dataset.targets.dtype == np.int64
    assert dataset.counts() == {"a": 2, "b": 1, "c": 1}
    assert (dataset.name, len(dataset)) == ("set", 4)


def test_a_subset_keeps_the_class_numbers():
    part = of_labels("b", "a", "c", "a").subset(np.array([2, 0]))
    assert [item.name for item in part.items] == ["2.wav", "0.wav"]
    assert part.targets.tolist() == [2, 1]
    assert part.counts() == {"a": 0, "b": 1, "c": 1}


def test_a_mask_is_not_taken_for_indices():
    with pytest.raises(TypeError):
        of_labels("a", "b").subset(np.array([True, False]))


def test_one_class_is_refused():
    with pytest.raises(InputError, match="only one class, 'a'"):
        of_labels("a", "a")


def test_labels_that_differ_in_case_only_are_noted():
    assert of_labels("Dog", "dog", "cat").notes == (
        "Labels 'Dog', 'dog' differ in case only and are taken as different classes.",
    )
    assert of_labels("dog", "cat").notes == ()


def test_an_unknown_protocol_lists_the_valid_ones():
    assert choose_protocol(None, ("index", "speaker"), Path("x")) == "index"
    with pytest.raises(ConfigError, match="no protocol 'folds'; choose one of: index, speaker"):
        choose_protocol("folds", ("index", "speaker"), Path("x"))


def test_long_lists_are_cut():
    assert listed("abc") == "a, b, c"
    assert listed("abcdefg") == "a, b, c, d, e and 2 more"


def test_the_room_imports_without_torch():
    code = (
        "import sys, sentio.data.readers, sentio.data.splits, sentio.data.features;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
