"""Stages by name, their parts, and what they refuse."""

import pytest
import torch
from torch import nn

from sentio.core.errors import ConfigError, StageError, UnknownNameError
from sentio.core.staged import Staged, create_network, reset_classifier


def row() -> Staged:
    torch.manual_seed(0)
    stages = {"a": nn.Linear(4, 6), "b.c": nn.ReLU(), "head": nn.Linear(6, 3)}
    return Staged(stages, input_shapes=(4,)).eval()


def test_parts_before_and_after_a_boundary_make_the_whole():
    net = row()
    x = net.example(5)
    for name in net.stage_names[:-1]:
        assert torch.equal(net.after(name)(net.before(name)(x)), net(x))
    assert torch.equal(net.before("head")(x), net(x))
    assert net.after("a").input_shapes == {"main": (6,)}
    assert net.before("a").stage("a") is net.stage("a")


def test_boundaries_come_in_order_with_their_shapes():
    net = row()
    found = dict(net.boundaries(net.example(2)))
    assert list(found) == ["a", "b.c", "head"]
    assert net.boundary_shapes() == {"a": {"main": (6,)}, "b.c": {"main": (6,)}, "head": {"main": (3,)}}
    assert set(net.state_dict()) >= {"stages.a.weight", "stages.head.bias"}


def test_examples_repeat_by_seed():
    net = row()
    assert torch.equal(net.example(3, seed=1), net.example(3, seed=1))
    assert not torch.equal(net.example(3, seed=1), net.example(3, seed=2))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "at least one stage"),
        ([("a", nn.ReLU()), ("a", nn.ReLU())], "must differ"),
        ([("a.b", nn.ReLU()), ("a__b", nn.ReLU())], "'.' and '__'"),
        ([("keys", nn.ReLU())], "cannot have this name"),
    ],
)
def test_rows_that_cannot_be_are_refused(stages, message):
    with pytest.raises(StageError, match=message):
        Staged(stages)


def test_unknown_stages_and_missing_shapes_are_named():
    net = row()
    with pytest.raises(UnknownNameError, match="did you mean 'head'"):
        net.before("haed")
    with pytest.raises(StageError, match="it is the last one"):
        net.after("head")
    with pytest.raises(StageError, match="input shape"):
        Staged({"a": nn.ReLU()}).example()


def test_a_new_classifier_keeps_everything_else():
    net = create_network("tiny-cnn", classes=5)
    fresh = reset_classifier(net, 3)
    assert fresh.spec["options"]["classes"] == 3 and net.spec["options"]["classes"] == 5
    for name in net.stage_names[:-1]:
        for old, new in zip(net.stage(name).parameters(), fresh.stage(name).parameters(), strict=True):
            assert torch.equal(old, new) and old is not new
    with pytest.raises(ConfigError, match="registered"):
        reset_classifier(row(), 3)


@pytest.mark.parametrize("name", [3, None])
def test_a_name_that_is_no_text_is_unknown(name):
    with pytest.raises(UnknownNameError, match=f"Unknown network {name}; choose one of"):
        create_network(name)


def test_an_error_that_the_input_does_not_explain_stays_as_it_is():
    words = Staged({"a": nn.Embedding(5, 4), "b": nn.Linear(4, 3)}, input_shapes=(8,))
    with pytest.raises(IndexError, match="out of range"):
        words(torch.full((2, 8), 9))

    class Full(nn.Module):
        def forward(self, x):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Staged({"a": Full()}, input_shapes=(4,))(torch.zeros(2, 3))
