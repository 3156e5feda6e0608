import numpy as np
import pytest

from sentio.core.answering import answer, check_temperatures
from sentio.core.anytime import ExitPoint
from sentio.core.confidence import classifier_confidence, softmax
from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.core.policy import Budget, Confidence, Deadline, Ensemble, Entropy, ExitCosts, Fixed, Patience
from sentio.tasks.classification import Classification

COSTS = ExitCosts(("e1", "e2", "final"), (10.0, 50.0, 1000.0), (1.0, 5.0, 100.0))


class TableRow:
    """A row whose exits look their outputs up: ``table[exit][sample]``; the input holds sample numbers."""

    stage_names = ("a", "b", "c")
    exit_names = ("e1", "e2", "final")

    def __init__(self, table, off=()):
        self.table = {name: np.asarray(rows, dtype=np.float32) for name, rows in table.items()}
        stages = dict(zip(self.exit_names, self.stage_names, strict=True))
        self.exit_points = tuple(
            ExitPoint(name, stages[name], ((stages[name], "main"),))
            for name in self.exit_names
            if name not in off
        )
        self.computed = []

    def start(self, inputs):
        return {"main": inputs}

    def run_stage(self, name, boundary):
        self.computed.append(name)
        return boundary

    def run_exit(self, name, tensors):
        return self.table[name][tensors[0]]

    def take(self, array, rows):
        return array[rows]

    def to_numpy(self, array):
        return array


def logits(*probabilities):
    return np.log([[p, 1.0 - p] for p in probabilities])


TABLE = {"e1": logits(0.95, 0.6, 0.3), "e2": logits(0.9, 0.85, 0.45), "final": logits(0.8, 0.9, 0.2)}


class Count:
    """A task without confidence whose answers can or cannot be compared."""

    name = "count"
    outputs = 2

    def __init__(self, comparable=True):
        self.comparable = comparable

    def confidence(self, output, measure):
        return None

    def choice(self, output):
        return output.argmax(axis=1) if self.comparable else None


def run(policy, **options):
    row = options.pop("row", None) or TableRow(TABLE, off=options.pop("off", ()))
    return answer(row, options.pop("inputs", np.arange(3)), policy, **options), row


def test_each_sample_is_answered_where_it_leaves():
    found, row = run(Confidence(0.8))
    assert found.exits == ("e1", "e2", "final")
    assert found.exit_names() == ["e1", "e2", "final"]
    np.testing.assert_allclose(softmax(found.outputs), [[0.95, 0.05], [0.85, 0.15], [0.2, 0.8]], atol=1e-6)
    np.testing.assert_allclose(found.confidence, [0.95, 0.85, 0.8], atol=1e-6)
    assert found.outputs.dtype == np.float32
    assert row.computed == ["a", "b", "c"]
    assert (np.diff(found.ms[np.argsort(found.exit)]) >= 0).all()


def test_nothing_is_computed_once_all_have_left():
    found, row = run(Confidence({"e1": 0.5}))
    assert found.exit.tolist() == [0, 0, 0]
    assert row.computed == ["a"]


def test_patience_keeps_its_memory_with_the_samples_that_stay():
    # sample 0 answers 0 everywhere, 1 too, 2 answers 1 everywhere
    found, _ = run(Patience(1))
    assert found.exit_names() == ["e2", "e2", "e2"]
    changing = {"e1": logits(0.9, 0.9, 0.9), "e2": logits(0.9, 0.1, 0.9), "final": logits(0.9, 0.1, 0.9)}
    found, _ = run(Patience(1), row=TableRow(changing))
    assert found.exit_names() == ["e2", "final", "e2"]


@pytest.mark.parametrize("said", [True, np.True_, [True, True, True]])
def test_a_policy_of_ones_own_may_say_a_plain_true(said):
    class Own:
        measure = None

        def evaluates(self, exit):
            return True

        def decide(self, confidence, prediction, exit, costs, elapsed, memory):
            return (said if exit == "e2" else False), memory

    assert answer(TableRow(TABLE), np.arange(3), Own()).exit_names() == ["e2", "e2", "e2"]


def test_fixed_computes_its_exit_and_no_later_stage():
    found, row = run(Fixed("e2"))
    assert (found.exits, found.exit_names()) == (("e2",), ["e2"] * 3)
    assert row.computed == ["a", "b"]


def test_deadline_and_budget():
    assert run(Budget(60.0), costs=COSTS)[0].exit_names() == ["e2"] * 3
    assert run(Budget(1.0), costs=COSTS)[0].exit_names() == ["e1"] * 3
    assert run(Deadline(1e9), costs=COSTS)[0].exit_names() == ["final"] * 3
    assert run(Deadline(1e-9), costs=COSTS)[0].exit_names() == ["e1"] * 3


def test_an_exit_that_is_off_is_no_way_out_for_a_budget():
    found, row = run(Budget(60.0), costs=COSTS, off=("e2",))
    assert found.exit_names() == ["e1"] * 3
    assert row.computed == ["a"]


def test_temperatures_divide_outputs():
    found, _ = run(Fixed("e1"), temperatures={"e1": 2.0, "final": 9.0})
    np.testing.assert_allclose(found.outputs, TABLE["e1"] / 2.0, rtol=1e-6)
    assert run(Confidence(0.8), temperatures={"e1": 100.0})[0].exit_names() == ["e2", "e2", "final"]


def test_entropy_is_what_an_entropy_policy_reports():
    found, _ = run(Entropy(0.0))
    np.testing.assert_allclose(found.confidence, classifier_confidence(TABLE["final"], "entropy"), atol=1e-6)


def test_a_task_without_confidence():
    assert run(Fixed("e1"), task=Count())[0].confidence is None
    assert run(Patience(1), task=Count())[0].exit_names() == ["e2"] * 3
    assert run(Budget(60.0), task=Count(), costs=COSTS)[0].exit_names() == ["e2"] * 3
    for policy in (Confidence(0.5), Entropy(0.5)):
        with pytest.raises(ConfigError, match="needs a confidence"):
            run(policy, task=Count())
    with pytest.raises(ConfigError, match="which this task does not offer"):
        run(Patience(1), task=Count(comparable=False))


@pytest.mark.parametrize("policy", [Fixed("e9"), Confidence({"e9": 0.5})])
def test_an_exit_that_does_not_exist(policy):
    with pytest.raises(UnknownNameError, match="Unknown exit 'e9'"):
        run(policy)


def test_a_threshold_for_an_exit_that_is_off_is_no_mistake():
    assert run(Confidence({"e1": 0.5, "e2": 0.5}), off=("e1",))[0].exit_names() == ["e2"] * 3


def test_fixed_at_an_exit_that_is_off():
    with pytest.raises(ConfigError, match="evaluates none of the exits that are switched on: e1, final"):
        run(Fixed("e2"), off=("e2",))


def test_an_empty_batch():
    with pytest.raises(InputError, match="The batch is empty"):
        run(Fixed("final"), inputs=np.arange(0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite(value):
    broken = TABLE | {"e1": [[value, 0.0]] * 3}
    with pytest.raises(InputError, match="Exit 'e1' gave NaN or infinite values"):
        run(Confidence(0.5), row=TableRow(broken))


def test_exits_of_different_widths():
    broken = TABLE | {"e2": np.zeros((3, 5))}
    with pytest.raises(ConfigError, match=r"Exit 'e2' gives outputs of shape \(5,\) and exit 'e1' of \(2,\)"):
        run(Confidence(1.0), row=TableRow(broken))


def test_outputs_that_do_not_fit_the_task():
    task = Classification(["a", "b", "c"])
    with pytest.raises(ConfigError, match=r"shape \(3, 2\); task 'classification' takes 3 values"):
        run(Fixed("final"), task=task)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_temperatures_are_positive(value):
    with pytest.raises(ConfigError, match="The temperature of exit 'e1' must be a positive number"):
        check_temperatures({"e1": value})
    with pytest.raises(ConfigError, match="temperature of exit 'e1'"):
        run(Fixed("final"), temperatures={"e1": value})


def test_an_ensemble_answers_with_the_mean_of_the_exits_so_far():
    row = TableRow(TABLE)
    found = answer(row, np.arange(3), Ensemble({"e1": 0.9, "e2": 0.7}))
    means = [[0.95], [(0.6 + 0.85) / 2], [(0.3 + 0.45 + 0.2) / 3]]
    assert found.exit_names() == ["e1", "e2", "final"], "the second by what both say, the third by none"
    np.testing.assert_allclose(softmax(found.outputs)[:, :1], means, rtol=1e-6)
    np.testing.assert_allclose(found.confidence, [0.95, 0.725, 1 - 0.95 / 3], rtol=1e-6)


def test_an_ensemble_hears_calibrated_answers_and_exits_that_it_passes():
    temperatures = {"e1": 2.0, "final": 0.5}
    found = answer(TableRow(TABLE), np.arange(3), Ensemble({}), temperatures=temperatures)
    scaled = [TABLE[name] / temperatures.get(name, 1.0) for name in TABLE]
    assert found.exit_names() == ["final"] * 3
    np.testing.assert_allclose(
        softmax(found.outputs), np.mean([softmax(s) for s in scaled], axis=0), rtol=1e-6
    )


def test_an_ensemble_does_not_hear_an_exit_that_is_switched_off():
    found = answer(TableRow(TABLE, off=("e2",)), np.arange(3), Ensemble(1.0))
    mean = np.mean([softmax(TABLE[name]) for name in ("e1", "final")], axis=0)
    np.testing.assert_allclose(softmax(found.outputs), mean, rtol=1e-6)


def test_an_ensemble_stays_finite_where_an_exit_is_certain():
    table = {name: [[200.0, -200.0]] for name in ("e1", "e2", "final")}
    found = answer(TableRow(table), np.arange(1), Ensemble(1.0))
    assert np.isfinite(found.outputs).all() and found.outputs.dtype == np.float32
    assert found.exit_names() == ["e1"] and found.confidence.tolist() == [1.0]


def test_an_ensemble_needs_classes():
    table = {name: [[[1.0, 2.0]]] for name in ("e1", "e2", "final")}
    with pytest.raises(ConfigError, match=r"outputs are \(1, 2\) for each sample; use Fixed"):
        answer(TableRow(table), np.arange(1), Ensemble(0.5))
    with pytest.raises(
        ConfigError, match="Ensemble averages probabilities of classes, and task 'count' has none"
    ):
        answer(TableRow(TABLE), np.arange(3), Ensemble(0.5), Count())
    named = answer(TableRow(TABLE), np.arange(3), Ensemble({}), Classification(["cat", "dog"]))
    np.testing.assert_array_equal(named.outputs, answer(TableRow(TABLE), np.arange(3), Ensemble({})).outputs)


def test_what_is_no_policy_is_refused():
    for policy in ("confidence", 0.9, Confidence):
        with pytest.raises(ConfigError, match="A policy is an object such as"):
            answer(TableRow(TABLE), np.arange(3), policy)


def test_temperatures_are_of_exits_that_exist():
    with pytest.raises(UnknownNameError, match="Unknown exit 'e9'"):
        answer(TableRow(TABLE), np.arange(3), Fixed("final"), temperatures={"e9": 2.0})
    for bad in ({"e1": "2"}, {"e1": None}, 2.0):
        with pytest.raises(ConfigError, match="emperature"):
            check_temperatures(bad)
