import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from sentio.core.errors import ConfigError, InputError, StageError, UnknownNameError  # noqa: E402
from sentio.core.multi_exit import ExitSpec, MultiExit, add_exits  # noqa: E402
from sentio.core.policy import Budget, Confidence, ExitCosts, Fixed  # noqa: E402
from sentio.core.staged import Staged  # noqa: E402


def staged():
    torch.manual_seed(0)
    return Staged({"a.0": nn.Linear(4, 6), "b": nn.Linear(6, 5), "head": nn.Linear(5, 3)}, input_shapes=(4,))


def spec(name, after, *reads):
    return ExitSpec(name, "linear", after, reads or ((after, "main"),), 3)


def test_a_network_without_exits_has_the_last():
    net, x = MultiExit(staged()), torch.randn(2, 4)
    assert net.exit_names == ("final",)
    assert torch.equal(net(x)["final"], net.backbone(x))


def test_exits_are_ordered_by_where_they_sit():
    branches = {"late": nn.Linear(5, 3), "early": nn.Linear(6, 3)}
    net = MultiExit(staged(), branches, [spec("late", "b"), spec("early", "a.0")])
    assert net.exit_names == ("early", "late", "final")
    assert list(net(torch.randn(2, 4))) == ["early", "late", "final"]
    assert net.branch("early") is branches["early"]
    assert {key.rsplit(".", 1)[0] for key in net.state_dict()} == {
        "backbone.stages.a__0",
        "backbone.stages.b",
        "backbone.stages.head",
        "branches.early",
        "branches.late",
    }


@pytest.mark.parametrize(
    ("branches", "specs", "error", "message"),
    [
        ({"e": nn.Linear(6, 3)}, [], StageError, "Each branch needs a spec of the same name"),
        ({"final": nn.Linear(6, 3)}, [spec("final", "b")], StageError, "belongs to the exit behind the last"),
        ({"e": nn.Linear(6, 3)}, [spec("e", "c")], UnknownNameError, "Unknown stage 'c'"),
        ({"e": nn.Linear(6, 3)}, [spec("e", "b", ("c", "main"))], UnknownNameError, "Unknown boundary 'c'"),
        (
            {"e": nn.Linear(6, 3)},
            [spec("e", "a.0", ("b", "main"))],
            ConfigError,
            "cannot read boundary 'b', which comes later",
        ),
        (
            {"e": nn.Linear(6, 3)},
            [ExitSpec("e", "linear", "b", (), 3)],
            ConfigError,
            "Exit 'e' reads nothing",
        ),
        ({"forward": nn.Linear(6, 3)}, [spec("forward", "b")], StageError, "cannot be called 'forward' here"),
        ({"": nn.Linear(6, 3)}, [spec("", "b")], StageError, "cannot be called '' here"),
        (
            {"e.0": nn.Linear(6, 3), "e__0": nn.Linear(6, 3)},
            [spec("e.0", "b"), spec("e__0", "b")],
            StageError,
            "cannot be called 'e__0' here",
        ),
    ],
)
def test_exits_that_do_not_fit(branches, specs, error, message):
    with pytest.raises(error, match=message):
        MultiExit(staged(), branches, specs)


def test_switching():
    net = MultiExit(
        staged(), {"e": nn.Linear(6, 3), "f": nn.Linear(5, 3)}, [spec("e", "a.0"), spec("f", "b")]
    )
    net.switch("f", on=False)
    assert net.switched_off == ("f",)
    assert [point.name for point in net.exit_points] == ["e", "final"]
    assert net.exit_names == ("e", "f", "final")
    net.switch(on=False)
    assert net.switched_off == ("e", "f")
    net.switch(on=True)
    assert net.switched_off == ()
    for name in ("g", "final"):
        with pytest.raises(UnknownNameError, match=f"Unknown exit '{name}'"):
            net.switch(name, on=False)
    with pytest.raises(UnknownNameError, match="Unknown exit 'final'"):
        net.branch("final")


def test_predict_runs_in_eval_mode_without_gradients_and_leaves_the_mode_as_it_was(small):
    net = small.multi_exit()
    x = torch.from_numpy(small.features(6))
    expected = net.predict(x, Fixed("final"))
    net.train()
    found = net.predict(x, Fixed("final"))
    np.testing.assert_array_equal(found.outputs, expected.outputs)
    assert net.training
    assert net.backbone.stage("a").drop.training
    with torch.no_grad():
        whole = net.eval()(x)
    mixed = net.predict(x, Confidence({"e1": 0.8, "e2": 0.6}))
    assert len(set(mixed.exit_names())) > 1
    for row, name in enumerate(mixed.exit_names()):
        np.testing.assert_allclose(mixed.outputs[row], whole[name][row], atol=1e-6)


def test_predict_with_costs_and_temperatures(small):
    net, x = small.multi_exit(), torch.from_numpy(small.features(3))
    costs = ExitCosts(("e1", "e2", "final"), (1.0, 2.0, 3.0))
    assert net.predict(x, Budget(2.5), costs=costs).exit_names() == ["e2"] * 3
    plain, halved = net.predict(x, Fixed("e1")), net.predict(x, Fixed("e1"), temperatures={"e1": 2.0})
    np.testing.assert_allclose(halved.outputs, plain.outputs / 2.0, rtol=1e-6)


def test_gradients_reach_every_branch_and_stage(small):
    net = small.multi_exit().train()
    sum(output.sum() for output in net(torch.from_numpy(small.features(4))).values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_bfloat16_outputs_become_float32_in_numpy(small):
    net = small.multi_exit().to(torch.bfloat16)
    found = net.predict(torch.from_numpy(small.features(2)).to(torch.bfloat16), Fixed("final"))
    assert found.outputs.dtype == np.float32


# add_exits


def test_exits_are_built_for_the_shapes_they_read(small):
    net = small.multi_exit()
    assert [(s.name, s.after, s.reads, s.shapes) for s in net.specs] == [
        ("e1", "a", (("a", "main"),), ((4, 6, 6),)),
        ("e2", "b", (("a", "skip"), ("b", "main")), ((1, 8, 8), (8, 4, 4))),
    ]


def test_adding_keeps_exits_their_weights_and_what_is_off(small):
    net = small.multi_exit()
    net.switch("e1", on=False)
    more = add_exits(net, "small-branch", at=["b"], names=["e3"], classes=3)
    assert more.exit_names == ("e1", "e2", "e3", "final")
    assert more.switched_off == ("e1",)
    assert more.branch("e1") is net.branch("e1")
    assert net.exit_names == ("e1", "e2", "final")


def test_one_stage_may_be_given_as_text(small):
    assert add_exits(small.multi_exit().backbone, "small-branch", at="a", classes=3).exit_names == (
        "a",
        "final",
    )


def test_reads_may_be_lists(small):
    net = add_exits(small.multi_exit().backbone, "small-branch", at=["b"], classes=3, reads=[[["a", "skip"]]])
    assert list(net(torch.from_numpy(small.features(2)))) == ["b", "final"]


def test_an_example_stands_in_for_unknown_input_shapes(small):
    net = Staged({"a": nn.Conv2d(2, 5, 3), "head": nn.Flatten()})
    found = add_exits(net, "small-branch", at=["a"], classes=3, example=torch.zeros(2, 2, 6, 6))
    assert found.specs[0].shapes == ((5, 4, 4),)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"at": ["c"]}, UnknownNameError, "Unknown stage 'c'"),
        (
            {"at": ["a"], "names": ["x", "y"]},
            ConfigError,
            "1 stages, 2 names and 1 reads must be equally many",
        ),
        (
            {"at": ["a"], "names": ["e1"]},
            ConfigError,
            "An exit called 'e1' exists already; pass other names=",
        ),
        ({"at": ["a"], "names": ["final"]}, ConfigError, "An exit called 'final' exists already"),
        (
            {"at": ["a"], "reads": [[("a", "audio")]]},
            UnknownNameError,
            "Unknown tensor at boundary 'a' 'audio'",
        ),
        ({"at": ["a"], "reads": [[("c", "main")]]}, UnknownNameError, "Unknown boundary 'c'"),
        ({"at": ["a"], "reads": [[("b", "main")]]}, ConfigError, "which comes later"),
        ({"at": ["a"], "reads": [[]]}, ConfigError, "Exit 'a' reads nothing"),
        ({"at": ["a"], "width": 3}, ConfigError, "'small-branch' has no option 'width'"),
    ],
)
def test_exits_that_cannot_be_added(small, options, error, message):
    with pytest.raises(error, match=message):
        add_exits(small.multi_exit(), "small-branch", classes=3, **options)


def test_an_unknown_kind_of_exit(small):
    with pytest.raises(UnknownNameError, match="Unknown exit 'small-brunch'; did you mean 'small-branch'"):
        add_exits(small.multi_exit(), "small-brunch", at=["a"], classes=3, names=["x"])


def test_an_input_of_another_type_or_shape_is_refused_in_a_sentence():
    net = MultiExit(staged())
    with pytest.raises(InputError, match=r"is float32 and the network's weights are float16; convert"):
        net.half().predict(torch.zeros(2, 4), Fixed("final"))
    net.float()
    with pytest.raises(InputError, match=r"cannot take input 'main' of shape \(2, 3\)|too small"):
        net.predict(torch.zeros(2, 3), Fixed("final"))
    for x in (np.zeros((2, 4)), None):
        with pytest.raises(InputError, match="takes a tensor, batch first"):
            net.predict(x, Fixed("final"))


def test_an_error_of_the_networks_own_stays_as_it_is():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("my own")

    net = Staged({"a": nn.Linear(4, 3), "b": Broken()}, input_shapes=(4,))
    for run in (net, lambda x: MultiExit(net).predict(x, Fixed("final"))):
        with pytest.raises(RuntimeError, match="my own"):
            run(torch.zeros(2, 4))


def test_exits_are_asked_for_by_name():
    net = MultiExit(staged(), {"e": nn.Linear(6, 3)}, [spec("e", "a.0")])
    assert list(net(torch.zeros(2, 4), exits="e")) == ["e"]
    with pytest.raises(UnknownNameError, match="Unknown exit 'f'"):
        net(torch.zeros(2, 4), exits=["f"])


def test_exits_are_added_to_networks_in_stages():
    with pytest.raises(ConfigError, match=r"got Linear; cut it with sentio\.stage\(\) first"):
        add_exits(nn.Linear(4, 3), "pooled-linear", at=["a"], classes=3)


def test_places_and_widths_that_are_none_are_refused():
    with pytest.raises(UnknownNameError, match="Unknown stage 3; choose one of: a"):
        add_exits(staged(), "pooled-linear", at=3, classes=3)
    with pytest.raises(ConfigError, match="must be a whole number from 1 up, got True"):
        add_exits(staged(), "pooled-linear", at=["a.0"], classes=True)
