"""Evaluation: figures computed by hand on a model whose answers are given."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from sentio.core.anytime import ExitPoint
from sentio.core.errors import CancelledError, ConfigError, InputError
from sentio.core.model import Model
from sentio.core.policy import Confidence, ExitCosts, Fixed
from sentio.data.features import FeatureSet
from sentio.data.readers import open_data
from sentio.tasks.classification import Classification
from sentio.training.evaluation import evaluate

LABELS = ("cat", "dog", "owl")


class Told:
    """A row whose input holds the probabilities of its two exits: ``(batch, exit, class)``."""

    runtime = "torch"
    stage_names = ("one", "two")
    exit_names = ("early", "final")
    exit_points = (
        ExitPoint("early", "one", (("one", "main"),)),
        ExitPoint("final", "two", (("two", "main"),)),
    )
    input_shapes = {"main": (2, 3)}  # noqa: RUF012

    def start(self, inputs):
        return dict(inputs) if isinstance(inputs, dict) else {"main": inputs}

    def run_stage(self, name, boundary):
        return boundary

    def run_exit(self, name, tensors):
        return np.log(tensors[0][:, self.exit_names.index(name)])

    def take(self, array, rows):
        return array[rows]

    def to_numpy(self, array):
        return array


def model(**settings):
    options = {
        "costs": ExitCosts(("early", "final"), (10.0, 100.0)),
        "policy": Confidence(0.7),
        "name": "told",
    }
    none_below = settings.pop("none_below", None)
    return Model(Told(), Classification(LABELS, none_below=none_below), **{**options, **settings})


#: recording, true class, probabilities at the early exit, at the final one, silent
WINDOWS = [
    (0, 0, (0.8, 0.1, 0.1), (0.6, 0.3, 0.1), False),  # leaves early, right
    (1, 1, (0.2, 0.4, 0.4), (0.1, 0.6, 0.3), False),  # goes on, right
    (2, 2, (0.9, 0.05, 0.05), (0.1, 0.1, 0.8), False),  # leaves early, wrong
    (2, 2, (0.1, 0.1, 0.8), (0.1, 0.1, 0.8), False),  # leaves early, right; the recording is wrong
    (2, 2, (0.98, 0.01, 0.01), (0.98, 0.01, 0.01), True),  # silent: does not count
    (3, 0, (0.4, 0.3, 0.3), (0.35, 0.33, 0.32), False),  # goes on, right, but not surely
    (4, 0, (0.98, 0.01, 0.01), (0.98, 0.01, 0.01), True),  # nothing but silence
]


def data(windows=WINDOWS):
    rows, targets, early, final, silent = zip(*windows, strict=True)
    return FeatureSet(
        inputs=np.stack([np.array(early), np.array(final)], axis=1).astype(np.float32),
        targets=np.array(targets),
        rows=np.array(rows),
        silent=np.array(silent),
        item_notes={},
        notes=("a note",),
    )


def test_figures_computed_by_hand():
    found = evaluate(model(), data())
    assert (found.recordings, found.windows, found.silent) == (5, 5, 2)
    # Recordings 0, 1 and 3 are right; the mean of 2 is (0.5, 0.075, 0.425); 4 is none of these.
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.macro_accuracy == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found.mean_macs == pytest.approx((10 + 100 + 10 + 10 + 100) / 5)
    early, final = found.exits
    assert (early.name, early.macs, early.share) == ("early", 10.0, pytest.approx(3 / 5))
    assert (final.name, final.macs, final.share) == ("final", 100.0, pytest.approx(2 / 5))
    # At the early exit: 0 right, 1 a tie that the first wins, so right, 2 wrong, 3 right, 4 silent.
    assert early.accuracy == pytest.approx(3 / 5)
    assert final.accuracy == pytest.approx(4 / 5)
    assert early.accuracy_leaving == pytest.approx(2 / 3)
    assert final.accuracy_leaving == 1.0
    assert found.confusion == [[2, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert found.labels == LABELS
    assert found.notes == ("a note",)
    assert found.policy == {"name": "confidence", "threshold": 0.7}


def test_what_the_probabilities_are_worth_by_hand():
    found = evaluate(model(), data())
    # Of recordings 0 to 3 the right class has these; 4 is silent and has no probabilities.
    assert found.log_loss == pytest.approx(-np.log([0.8, 0.6, 0.425, 0.35]).mean())
    by_class = [np.log([0.8, 0.35]).mean(), np.log(0.6), np.log(0.425)]
    assert found.log_loss_by_class == pytest.approx(-np.mean(by_class))
    # Each lies in a bin of its own: sure by 0.8, 0.6, 0.5 and 0.35, and the third is wrong.
    assert found.ece == pytest.approx((0.2 + 0.4 + 0.5 + 0.65) / 4)
    early, final = found.exits
    assert early.log_loss == pytest.approx(-np.log([0.8, 0.4, 0.425, 0.4]).mean())
    assert final.ece == pytest.approx((0.4 + 0.4 + 0.2 + 0.65) / 4)
    assert "log loss 0.660 nats" in found.table()
    assert "(ECE) 0.4" in found.table()


def test_shares_sum_to_one_and_times_are_there():
    found = evaluate(model(), data())
    assert sum(row.share for row in found.exits) == pytest.approx(1.0)
    assert found.mean_ms > 0
    assert 0 < found.exits[0].ms <= found.exits[1].ms


def test_none_of_these_is_wrong_under_the_policy_and_at_each_exit():
    found = evaluate(model(none_below=0.45), data())
    # Recording 3 is answered with 0.35, at the early exit with 0.4, and recording 1 there with 0.4.
    assert found.accuracy == pytest.approx(2 / 5)
    assert found.confusion == [[1, 0, 0, 2], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert [row.accuracy for row in found.exits] == pytest.approx([1 / 5, 3 / 5])


def test_a_recording_of_silence_is_wrong_whatever_its_label():
    only = [
        (0, 0, (0.8, 0.1, 0.1), (0.8, 0.1, 0.1), False),
        (1, 0, (0.9, 0.05, 0.05), (0.9, 0.05, 0.05), True),
    ]
    found = evaluate(model(), data(only))
    assert found.accuracy == 0.5
    assert [row.accuracy for row in found.exits] == [0.5, 0.5]


def test_a_policy_instead_of_the_models_own():
    found = evaluate(model(), data(), policy=Fixed("early"))
    assert [row.share for row in found.exits] == [1.0, 0.0]
    assert found.mean_macs == 10.0
    assert found.accuracy == found.exits[0].accuracy
    assert found.exits[1].accuracy_leaving is None


def test_costs_may_be_unknown():
    found = evaluate(model(costs=None), data())
    assert found.mean_macs is None
    assert {row.macs for row in found.exits} == {None}
    assert " ? " in found.table()


def test_temperatures_count():
    hot = evaluate(model(temperatures={"early": 5.0, "final": 5.0}), data())
    assert hot.exits[0].share == 0.0


def test_labels_in_another_order():
    other = ("owl", "dog", "cat")
    flipped = FeatureSet(**{**vars(data()), "targets": 2 - data().targets})
    assert evaluate(model(), flipped, labels=other).confusion == evaluate(model(), data()).confusion


def test_labels_that_the_model_does_not_know():
    with pytest.raises(InputError, match="The data holds labels the model does not know: cow; it knows cat"):
        evaluate(model(), data(), labels=("cat", "cow", "owl"))
    without = [row for row in WINDOWS if row[1] != 1]
    assert evaluate(model(), data(without), labels=("cat", "cow", "owl")).recordings == 4


def test_nothing_but_silence():
    with pytest.raises(InputError, match="no window with a signal"):
        evaluate(model(), data([row for row in WINDOWS if row[4]]))


def test_a_model_without_labels():
    class Counting:
        name = "counting"

    told = model()
    told.task = Counting()
    with pytest.raises(ConfigError, match="'told' does not classify"):
        evaluate(told, data())


def test_files_need_a_front_end(tones):
    with pytest.raises(ConfigError, match="takes features; pass a FeatureSet"):
        evaluate(model(), tones)


def test_progress_and_cancellation():
    told = []
    evaluate(model(), data(), progress=told.append)
    assert [(step.job, step.done, step.total) for step in told] == [("evaluate", n, 5) for n in range(1, 6)]
    with pytest.raises(CancelledError, match="The evaluation was stopped"):
        evaluate(model(), data(), cancel=lambda: True)


def test_the_table_holds_every_exit_and_the_policy():
    text = evaluate(model(), data()).table()
    for part in (
        "exit",
        "accuracy",
        "MACs",
        "ms",
        "leaving",
        "early",
        "final",
        "policy: confidence",
        "80.0%",
    ):
        assert part in text
    assert text.endswith("5 recordings, 5 windows and 2 silent ones, runtime torch\n")


def test_values_for_json():
    values = evaluate(model(), data()).to_dict()
    again = json.loads(json.dumps(values, allow_nan=False))
    assert again["accuracy"] == pytest.approx(0.6)
    assert again["mean_macs"] == pytest.approx(46.0)
    assert [row["name"] for row in again["exits"]] == ["early", "final"]


def test_files_as_path_data_set_and_features_agree(trained, tones, tmp_path):
    whole = evaluate(trained.model, tones, cache=tmp_path)
    assert whole.recordings == 36
    assert evaluate(trained.model, open_data(tones), cache=tmp_path).confusion == whole.confusion
    some = open_data(tones).subset(range(5))
    part = evaluate(trained.model, some)
    right = [trained.model.predict(item.source).label == item.label for item in some.items]
    assert part.accuracy == pytest.approx(np.mean(right))


def test_a_label_that_only_other_parts_hold_does_not_matter(trained, tones):
    data = open_data(tones)
    unknown = [item for item in data.items if item.label == "low"][:1]
    from dataclasses import replace

    strange = replace(
        data, items=(*data.items, replace(unknown[0], label="strange")), labels=(*data.labels, "strange")
    )
    with pytest.raises(InputError, match="does not know: strange; it knows high, low, middle"):
        evaluate(trained.model, strange)
    assert evaluate(trained.model, strange.subset(range(4))).recordings == 4


def test_no_pytorch_is_imported():
    code = "import sys; sys.modules['torch'] = None; import sentio.training.evaluation"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_surest_mistakes():
    found = evaluate(model(), data()).mistakes
    # Recording 2 is taken for a cat by the mean of two windows, 4 is nothing but silence.
    assert [(each.truth, each.answer, each.exit) for each in found] == [
        ("owl", "cat", "early"),
        ("cat", None, "none"),
    ]
    assert [each.score for each in found] == pytest.approx([0.5, 0.0])
    assert {each.name for each in found} == {None}


def test_a_mistakes_exit_is_the_deepest_that_its_windows_needed():
    windows = [
        (0, 0, (0.1, 0.8, 0.1), (0.1, 0.8, 0.1), False),  # leaves early
        (0, 0, (0.3, 0.4, 0.3), (0.1, 0.8, 0.1), False),  # goes on
    ]
    (found,) = evaluate(model(), data(windows)).mistakes
    assert (found.answer, found.exit, found.score) == ("dog", "final", pytest.approx(0.8))


def test_at_most_twenty_mistakes_are_named_the_surest_first():
    windows = []
    for number in range(30):
        wrong = 0.5 + 0.49 * ((7 * number) % 30) / 30
        windows.append((number, 0, (0.0 + (1 - wrong), wrong, 1e-9), (1 - wrong, wrong, 1e-9), False))
    scores = [each.score for each in evaluate(model(), data(windows)).mistakes]
    assert len(scores) == 20
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(0.5 + 0.49 * 29 / 30)


def test_mistakes_of_files_are_named(trained, tones):
    found = evaluate(trained.model, tones, policy=Fixed("block1"))
    assert found.mistakes, "the first exit is not perfect"
    dataset = open_data(tones)
    truth = {item.name: item.label for item in dataset.items}
    sources = {item.name: item.source for item in dataset.items}
    for each in found.mistakes:
        assert truth[each.name] == each.truth
        said = trained.model.predict(sources[each.name], policy=Fixed("block1"))
        assert (said.label, said.exit) == (each.answer, each.exit)
        assert said.score == pytest.approx(each.score, abs=1e-5)


def test_the_tradeoff_is_what_the_policy_gives_at_each_threshold():
    points = evaluate(model(), data()).tradeoff
    assert points[0].threshold == 0.0 and points[-1].threshold is None
    for point in points:
        policy = Fixed("final") if point.threshold is None else Confidence(point.threshold)
        found = evaluate(model(), data(), policy=policy)
        assert (point.mean_macs, point.accuracy) == pytest.approx((found.mean_macs, found.accuracy))


def test_the_tradeoff_goes_from_the_first_exit_to_the_last(trained, tones):
    found = evaluate(trained.model, tones)
    first, *_, last = found.tradeoff
    assert (first.mean_macs, first.accuracy) == (found.exits[0].macs, found.exits[0].accuracy)
    assert (last.mean_macs, last.accuracy) == (found.exits[-1].macs, found.exits[-1].accuracy)
    assert 10 < len(found.tradeoff) <= 40
    costs = [point.mean_macs for point in found.tradeoff]
    assert costs == sorted(costs)
    thresholds = [point.threshold for point in found.tradeoff[:-1]]
    assert thresholds == sorted(set(thresholds))


def test_the_tradeoff_counts_none_of_these_as_wrong_and_costs_may_be_unknown():
    points = evaluate(model(none_below=0.45, costs=None), data()).tradeoff
    assert [points[0].accuracy, points[-1].accuracy] == pytest.approx([1 / 5, 3 / 5])
    assert {point.mean_macs for point in points} == {None}


def test_a_task_without_confidence_has_no_tradeoff():
    told = model(policy=Fixed("final"))
    told.task.confidence = lambda output, measure: None
    assert evaluate(told, data()).tradeoff == ()


def test_a_models_card_holds_no_names_of_recordings(trained):
    test = trained.model.card["test"]
    assert "accuracy" in test and "exits" in test
    assert not {"mistakes", "tradeoff"} & set(test)
    found = evaluate(model(), data())
    assert found.for_card().keys() | {"mistakes", "tradeoff"} == found.to_dict().keys()
