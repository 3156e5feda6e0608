"""Techniques as phases: what each trains, what stays, and that they compute what the paper says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sentio.core import registry
from sentio.core.anytime import FINAL
from sentio.core.cutting import CutNetwork, stage
from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.multi_exit import MultiExit, add_exits
from sentio.core.staged import Staged
from sentio.techniques.phases import Phase, loss_weights, set_mode, trained_modules

STEPS = 20


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def phases_of(name, net, **options):
    return registry.build("technique", name, net, **options)


def batches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        x = torch.randn(6, 1, 8, 8, generator=generator)
        yield x, torch.randint(3, (6,), generator=generator)


def run(net, phase):
    """A phase on the same batches each time, without Lightning."""
    set_mode(net, phase)
    parameters = [p for module in trained_modules(net, phase) for p in module.parameters()]
    optimiser = torch.optim.Adam(parameters, 1e-2)
    for x, targets in batches():
        found = net(x, phase.losses)
        losses = [
            weight * nn.functional.cross_entropy(found[n], targets) for n, weight in phase.losses.items()
        ]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()


def weights(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def differing(before, after):
    """Names of tensors that are not equal bit for bit."""
    return {key for key in before if not torch.equal(before[key], after[key])}


def test_classifier_wise_leaves_the_backbone_as_it_is_bit_for_bit(small):
    net = small.multi_exit()
    (phase,) = phases_of("classifier-wise", net, train_backbone=False)
    before = weights(net)
    run(net, phase)
    changed = differing(before, weights(net))
    assert changed == {key for key in before if key.startswith("branches.")}
    assert any("running_mean" in key for key in before), "there are buffers that could have moved"


def test_branches_trained_together_or_alone_end_with_the_same_weights(small):
    net = small.multi_exit()
    together, (phase,) = copy.deepcopy(net), phases_of("classifier-wise", net, train_backbone=False)
    run(together, phase)
    for name in ("e1", "e2"):
        alone = copy.deepcopy(net)
        run(alone, Phase("alone", (), (name,), {name: 1.0}))
        expected, found = weights(together.branch(name)), weights(alone.branch(name))
        assert max(float((expected[key] - found[key]).abs().max()) for key in expected) == 0.0
        assert differing(weights(net.branch(name)), found) == set(found)


def test_classifier_wise_trains_the_backbone_first(small):
    backbone, exits = phases_of("classifier-wise", small.multi_exit())
    assert (backbone.stages, backbone.branches, dict(backbone.losses)) == (
        ("a", "b", "head"),
        (),
        {FINAL: 1.0},
    )
    assert (exits.stages, exits.branches, dict(exits.losses)) == ((), ("e1", "e2"), {"e1": 1.0, "e2": 1.0})


def test_classifier_wise_without_backbone_and_exits_has_nothing_to_train(small):
    bare = MultiExit(small.multi_exit().backbone)
    assert [phase.name for phase in phases_of("classifier-wise", bare)] == ["backbone"]
    with pytest.raises(ConfigError, match="Nothing would be trained"):
        phases_of("classifier-wise", bare, train_backbone=False)


def test_layer_wise_freezes_each_segment_for_those_behind_it(small):
    net = small.multi_exit()
    phases = phases_of("layer-wise", net)
    assert [(phase.stages, phase.branches) for phase in phases] == [
        (("a",), ("e1",)),
        (("b",), ("e2",)),
        (("head",), ()),
    ]
    assert [tuple(phase.losses) for phase in phases] == [("e1",), ("e2",), (FINAL,)]
    parts = {
        "a": ("backbone.stages.a.", "branches.e1."),
        "b": ("backbone.stages.b.", "branches.e2."),
        "head": ("backbone.stages.head.",),
    }
    for phase, own in zip(phases, parts.values(), strict=True):
        before = weights(net)
        run(net, phase)
        changed = differing(before, weights(net))
        assert changed == {key for key in before if key.startswith(own)}


def test_layer_wise_with_an_exit_behind_the_last_stage_trains_the_final_answer_too(small):
    net = small.multi_exit().backbone
    with_exit = MultiExit(net, {"e": small.branch(3, 3)}, [_spec("e", "head")])
    (phase,) = phases_of("layer-wise", with_exit)
    assert phase.stages == ("a", "b", "head")
    assert dict(phase.losses) == {"e": 1.0, FINAL: 1.0}


def test_layer_wise_without_exits_trains_the_network(small):
    (phase,) = phases_of("layer-wise", MultiExit(small.multi_exit().backbone))
    assert (phase.stages, dict(phase.losses)) == (("a", "b", "head"), {FINAL: 1.0})


def test_end_to_end_trains_everything_on_the_weighted_sum(small):
    net = small.multi_exit()
    (phase,) = phases_of("end-to-end", net, weights={"e1": 0.5, "e2": 2})
    assert dict(phase.losses) == {"e1": 0.5, "e2": 2.0, FINAL: 1.0}
    before = weights(net)
    run(net, phase)
    # A bias in front of a batch norm has no gradient beyond rounding, but rounding is enough for Adam.
    assert differing(before, weights(net)) == set(before)


def test_weight_zero_is_not_training_that_branch(small):
    net = small.multi_exit()
    zero, without = copy.deepcopy(net), copy.deepcopy(net)
    (phase,) = phases_of("end-to-end", zero, weights={"e1": 0, "e2": 1.0})
    torch.manual_seed(0)
    run(zero, phase)
    assert differing(weights(net.branch("e1")), weights(zero.branch("e1"))) == set()

    bare = MultiExit(without.backbone, {"e2": without.branch("e2")}, [s for s in net.specs if s.name == "e2"])
    torch.manual_seed(0)
    run(bare, phases_of("end-to-end", bare)[0])
    assert differing(weights(zero.backbone), weights(bare.backbone)) == set()
    assert differing(weights(zero.branch("e2")), weights(bare.branch("e2"))) == set()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"e1": 1.0}, ConfigError, "Exits without a loss weight: e2"),
        ({"e1": 1.0, "e2": 1.0, "e11": 1.0}, UnknownNameError, "did you mean"),
        ({"e1": -1.0, "e2": 1.0}, ConfigError, "a number from 0 up"),
        (float("nan"), ConfigError, "a number from 0 up"),
        ("much", ConfigError, "a number from 0 up"),
        (True, ConfigError, "a number from 0 up"),
    ],
)
def test_weights_that_do_not_fit_are_refused(small, given, error, message):
    with pytest.raises(error, match=message):
        loss_weights(small.multi_exit(), given)


def test_outputs_are_those_of_the_network_and_no_more(small):
    net = small.multi_exit()
    x = torch.randn(4, 1, 8, 8)
    expected = net(x)
    for names in (("e1",), ("e2",), ("e1", FINAL), ("e1", "e2", FINAL)):
        found = net(x, names)
        assert list(found) == list(names)
        assert all(torch.equal(found[name], expected[name]) for name in names)


def test_nothing_behind_the_last_wanted_exit_is_computed(small):
    net = small.multi_exit()
    seen = []
    for name in net.stage_names:
        net.backbone.stage(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    net(torch.randn(2, 1, 8, 8), ["e1"])
    assert seen == ["a"]


def test_modes_and_gradients_follow_the_phase(small):
    net = small.multi_exit()
    set_mode(net, Phase("b", ("b",), ("e2",), {"e2": 1.0}))
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {name.split(".")[2 if name.startswith("backbone") else 1] for name in trained} == {"b", "e2"}
    assert [net.backbone.stage(name).training for name in net.stage_names] == [False, True, False]
    assert (net.branch("e1").training, net.branch("e2").training) == (False, True)
    set_mode(net, Phase("all", net.stage_names, (), {FINAL: 1.0}))
    assert net.backbone.training and not net.branch("e2").training


class Residual(nn.Module):
    """A network of somebody else's: a batch norm, a shortcut, no stages."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        return self.last((x + self.second(x)).mean((2, 3)))


@pytest.fixture
def cut():
    torch.manual_seed(0)
    net = stage(Residual(), ["norm"], torch.randn(2, 1, 8, 8))
    assert isinstance(net, CutNetwork)
    return add_exits(net, "pooled-linear", at=["norm"], classes=3)


def test_a_network_cut_by_graph_trains_as_the_module_it_was(cut):
    """The batch norm normalises by the batch in training, also where some exits are left out."""
    expected, x = copy.deepcopy(cut.backbone.original), torch.randn(5, 1, 8, 8)
    expected.train()
    for phase in phases_of("classifier-wise", cut)[:1] + phases_of("end-to-end", cut, weights=0):
        set_mode(cut, phase)
        torch.testing.assert_close(cut(x, phase.losses)[FINAL], expected(x))
    before = cut.backbone.original.norm.running_mean.clone()
    run(cut, phase)
    assert not torch.equal(before, cut.backbone.original.norm.running_mean)


def test_a_network_cut_by_graph_stays_as_it_is_under_its_exits(cut):
    exits = phases_of("classifier-wise", cut)[1]
    before = weights(cut.backbone)
    run(cut, exits)
    assert differing(before, weights(cut.backbone)) == set()


def test_a_network_cut_by_graph_is_refused_layer_wise(cut):
    with pytest.raises(ConfigError, match="end-to-end or classifier-wise"):
        phases_of("layer-wise", cut)


def test_a_sequential_that_was_split_trains_layer_wise():
    net = stage(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 3)), ["1"], torch.randn(2, 1, 8, 8)
    )
    assert type(net) is Staged
    phases = phases_of("layer-wise", add_exits(net, "pooled-linear", at=["1"], classes=3))
    assert [phase.stages for phase in phases] == [("1",), ("rest",)]


def _spec(name, after):
    from sentio.core.multi_exit import ExitSpec

    return ExitSpec(name, "small-branch", after, ((after, "main"),), 3)
