import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentio.core.anytime import ExitPoint, Step, anytime, batch_size
from sentio.core.errors import InputError, StageError


class DoublingRow:
    """Four stages that each double their input; an exit behind each gives what it reads, summed."""

    stage_names = ("a", "b", "c", "d")

    def __init__(self, *points: ExitPoint) -> None:
        self.exit_points = points or tuple(
            ExitPoint(name, stage, ((stage, "main"),))
            for name, stage in (("e1", "a"), ("e2", "b"), ("e3", "c"), ("final", "d"))
        )
        self.exit_names = tuple(point.name for point in self.exit_points)
        self.seen: list[tuple[str, int]] = []

    def start(self, inputs):
        return {"main": inputs}

    def run_stage(self, name, boundary):
        self.seen.append((name, len(boundary["main"])))
        return {"main": 2 * boundary["main"], "half": boundary["main"] / 2}

    def run_exit(self, name, tensors):
        return sum(tensors)

    def take(self, array, rows):
        return array[rows]

    def to_numpy(self, array):
        return array


def batch(count: int) -> np.ndarray:
    return np.arange(1.0, count + 1.0)


def test_exits_equal_a_full_forward_bit_for_bit(small):
    torch = pytest.importorskip("torch")
    net, x = small.multi_exit(), torch.from_numpy(small.features(5))
    with torch.no_grad():
        whole = net(x)
        steps = list(net.anytime(x))
        assert torch.equal(net.backbone(x), whole["final"])
    assert [step.exit for step in steps] == ["e1", "e2", "final"] == list(whole)
    for step in steps:
        assert torch.equal(step.output, whole[step.exit])
        assert step.samples.tolist() == [0, 1, 2, 3, 4]


def test_samples_that_leave_are_not_computed_further():
    row = DoublingRow()
    wanted = {"e1": [0, 0, 1, 0, 0], "e2": [1, 0, 0, 0], "e3": [0, 1, 0]}
    found = {}
    for step in anytime(row, batch(5)):
        found[step.exit] = (step.samples.tolist(), step.output.tolist())
        if step.exit in wanted:
            step.drop(np.array(wanted[step.exit], dtype=bool))
    assert row.seen == [("a", 5), ("b", 4), ("c", 3), ("d", 2)]
    assert found["e2"] == ([0, 1, 3, 4], [4.0, 8.0, 16.0, 20.0])
    assert found["e3"] == ([1, 3, 4], [16.0, 32.0, 40.0])
    assert found["final"] == ([1, 4], [32.0, 80.0])


def test_stages_of_a_network_see_only_the_samples_that_stay(small):
    torch = pytest.importorskip("torch")
    net = small.multi_exit()
    rows = []
    for name in net.stage_names:
        net.backbone.stage(name).register_forward_pre_hook(
            lambda module, inputs, name=name: rows.append((name, batch_size(_named(inputs[0]))))
        )
    with torch.no_grad():
        for step in net.anytime(torch.from_numpy(small.features(6))):
            step.drop(torch.arange(len(step.samples)) % 2 == 0)
    assert rows == [("a", 6), ("b", 3), ("head", 1)]


def _named(value):
    return value if isinstance(value, dict) else {"main": value}


def test_when_all_have_left_the_loop_ends():
    row = DoublingRow()
    exits = []
    for step in anytime(row, batch(3)):
        exits.append(step.exit)
        if step.exit == "e2":
            step.drop(np.ones(3, dtype=bool))
    assert exits == ["e1", "e2"]
    assert [name for name, _ in row.seen] == ["a", "b"]


def test_a_loop_that_is_left_computes_no_further_stage():
    row = DoublingRow()
    for step in anytime(row, batch(3)):
        if step.exit == "e2":
            break
    assert [name for name, _ in row.seen] == ["a", "b"]


def test_drops_add_up_within_one_step():
    row = DoublingRow()
    for step in anytime(row, batch(3)):
        if step.exit == "e1":
            step.drop([True, False, False])
            step.drop([False, False, True])
        else:
            assert step.samples.tolist() == [1]


def test_what_a_later_exit_reads_of_an_earlier_boundary_is_compacted_with_the_batch():
    row = DoublingRow(
        ExitPoint("e1", "a", (("a", "main"),)),
        ExitPoint("e3", "c", (("a", "half"), ("c", "main"))),
        ExitPoint("final", "d", (("d", "main"),)),
    )
    outputs = {}
    for step in anytime(row, batch(4)):
        outputs[step.exit] = dict(zip(step.samples.tolist(), step.output.tolist(), strict=True))
        if step.exit == "e1":
            step.drop([False, True, False, True])
    assert outputs["e3"] == {0: 1 / 2 + 8.0, 2: 3 / 2 + 24.0}
    assert outputs["final"] == {0: 16.0, 2: 48.0}


def test_two_exits_behind_one_stage_drop_in_turn():
    row = DoublingRow(
        ExitPoint("first", "b", (("b", "main"),)),
        ExitPoint("second", "b", (("a", "main"), ("b", "main"))),
        ExitPoint("final", "d", (("d", "main"),)),
    )
    found = []
    for step in anytime(row, batch(3)):
        found.append((step.exit, step.samples.tolist(), step.output.tolist()))
        step.drop(np.arange(len(step.samples)) == 0)
    assert found == [
        ("first", [0, 1, 2], [4.0, 8.0, 12.0]),
        ("second", [1, 2], [12.0, 18.0]),
        ("final", [2], [48.0]),
    ]


def test_only_wanted_exits_are_computed_and_the_last_of_them_ends_it():
    row = DoublingRow()
    steps = list(anytime(row, batch(2), evaluates=lambda name: name in ("e1", "e3")))
    assert [step.exit for step in steps] == ["e1", "e3"]
    assert [name for name, _ in row.seen] == ["a", "b", "c"]


def test_nothing_wanted_computes_nothing():
    row = DoublingRow()
    assert list(anytime(row, batch(2), evaluates=lambda name: False)) == []
    assert row.seen == []


def test_exits_switched_off_are_passed(small):
    torch = pytest.importorskip("torch")
    net, x = small.multi_exit(), torch.from_numpy(small.features(3))
    with torch.no_grad():
        before = net(x)
        net.switch("e2", on=False)
        assert [step.exit for step in net.anytime(x)] == ["e1", "final"]
        net.switch(on=False)
        steps = list(net.anytime(x))
        assert [step.exit for step in steps] == ["final"]
        assert torch.equal(steps[0].output, before["final"])
        net.switch("e2", on=True)
        assert list(net(x)) == ["e2", "final"]


@pytest.mark.parametrize("mask", [[True], [[True, False]], [0, 1], True, np.array([1.0, 0.0])])
def test_a_mask_that_does_not_fit_is_refused(mask):
    step = Step("e1", np.zeros(2), np.arange(2))
    with pytest.raises(
        InputError, match=r"drop\(\) at exit 'e1' takes one boolean for each of the 2 samples"
    ):
        step.drop(mask)
    assert not step.left.any()


def test_a_missing_tensor_is_named():
    row = DoublingRow(ExitPoint("final", "a", (("a", "audio"),)))
    with pytest.raises(
        StageError, match="reads tensor 'audio' behind stage 'a', which gives only: main, half"
    ):
        list(anytime(row, batch(2)))


@pytest.mark.parametrize("boundary", [{}, {"x": np.zeros((2, 1)), "y": np.zeros((3, 1))}])
def test_a_batch_needs_one_length(boundary):
    with pytest.raises(InputError, match="one common first axis"):
        batch_size(boundary)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_pattern_of_leaving_gives_each_sample_what_it_gets_alone(small_alone, data):
    net, x, alone = small_alone
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        staying = set(range(len(x)))
        for step in net.anytime(x):
            assert set(step.samples.tolist()) == staying
            for row, sample in enumerate(step.samples):
                expected = alone[sample][step.exit]
                assert torch.allclose(step.output[row], expected, rtol=0, atol=1e-6)
            size = len(step.samples)
            mask = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
            step.drop(mask)
            staying -= {int(sample) for sample, leaves in zip(step.samples, mask, strict=True) if leaves}
            if not staying:
                break


@pytest.fixture(scope="module")
def small_alone(small):
    torch = pytest.importorskip("torch")
    net, x = small.multi_exit(), torch.from_numpy(small.features(7))
    with torch.no_grad():
        alone = [
            {name: output[0] for name, output in net(x[index : index + 1]).items()} for index in range(7)
        ]
    return net, x, alone
