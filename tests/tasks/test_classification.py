import numpy as np
import pytest

from sentio.core import registry
from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.task import Batch
from sentio.tasks.classification import NO_EXIT, Classification

TASK = Classification(["cat", "dog", "owl"])


def logits(*probabilities):
    return np.log(np.array(probabilities, dtype=np.float32))


def part(*probabilities, task=TASK, milliseconds=2.0, start=0.0, end=1.0, only=None):
    label = task.decode(logits(*probabilities), exit="e1", milliseconds=milliseconds, only=only)
    return label.at(start, end)


def test_a_label_with_all_scores_largest_first():
    found = part(0.2, 0.7, 0.1)
    assert (found.label, found.exit, found.milliseconds) == ("dog", "e1", 2.0)
    assert found.score == pytest.approx(0.7)
    assert list(found.scores) == ["dog", "cat", "owl"]
    assert list(found.scores.values()) == pytest.approx([0.7, 0.2, 0.1])


def test_of_equal_scores_the_first_label_answers():
    assert part(0.4, 0.4, 0.2).label == "cat"


def test_none_of_these():
    task = Classification(["cat", "dog", "owl"], none_below=0.6)
    assert part(0.6001, 0.3, 0.0999, task=task).label == "cat"
    found = part(0.59, 0.31, 0.1, task=task)
    assert (found.label, found.score) == (None, pytest.approx(0.59))


def test_labels_of_interest():
    assert part(0.2, 0.7, 0.1, only=["dog", "owl"]).label == "dog"
    found = part(0.2, 0.7, 0.1, only=["cat"])
    assert (found.label, found.score) == (None, pytest.approx(0.7))
    assert part(0.2, 0.7, 0.1, only=[]).label is None
    with pytest.raises(
        UnknownNameError, match=r"Unknown label 'cow'; choose one of|Unknown label 'cow'; did you"
    ):
        part(0.2, 0.7, 0.1, only=["dog", "cow"])
    with pytest.raises(ConfigError, match="only takes a list of labels, got the text 'dog'"):
        part(0.2, 0.7, 0.1, only="dog")


def test_windows_are_merged_by_their_mean():
    windows = [part(0.6, 0.3, 0.1), part(0.1, 0.5, 0.4, start=1.0, end=2.0)]
    found = TASK.merge(windows, exit="final")
    assert (found.label, found.score) == ("dog", pytest.approx(0.4))
    assert found.scores == pytest.approx({"cat": 0.35, "dog": 0.4, "owl": 0.25})
    assert (found.exit, found.milliseconds, found.start, found.end) == ("final", 4.0, 0.0, 2.0)
    assert found.windows == tuple(windows)


def test_one_window_has_no_parts():
    found = TASK.merge([part(0.2, 0.7, 0.1)], exit="e1")
    assert (found.label, found.windows) == ("dog", ())


def test_merging_minds_none_below_and_only_on_the_mean():
    task = Classification(["cat", "dog", "owl"], none_below=0.5)
    windows = [part(0.9, 0.1, 1e-9, task=task), part(0.3, 0.4, 0.3, task=task)]
    assert windows[1].label is None
    assert task.merge(windows, exit="e1").label == "cat"
    assert task.merge(windows, exit="e1", only=["dog"]).label is None


def test_silent_windows_count_only_if_all_are_silent():
    quiet = TASK.silence().at(1.0, 2.0)
    assert (quiet.label, quiet.score, quiet.exit, quiet.scores) == (None, 0.0, NO_EXIT, {})
    found = TASK.merge([part(0.2, 0.7, 0.1), quiet], exit="e1")
    assert (found.label, found.score, found.end) == ("dog", pytest.approx(0.7), 2.0)
    found = TASK.merge([quiet, quiet], exit="final")
    assert (found.label, found.exit, found.score) == (None, NO_EXIT, 0.0)
    with pytest.raises(UnknownNameError):
        TASK.merge([quiet], exit="final", only=["cow"])


def test_confidence_and_choice():
    output = logits([0.2, 0.7, 0.1], [0.5, 0.3, 0.2])
    assert TASK.choice(output).tolist() == [1, 0]
    np.testing.assert_allclose(TASK.confidence(output, "max-probability"), [0.7, 0.5], atol=1e-6)
    assert (TASK.confidence(output, "entropy") < 0.5).all()
    assert TASK.outputs == 3


def test_score_by_hand():
    output = logits([0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1])
    found = TASK.score(output, np.array([0, 0, 0, 1]))
    assert list(found) == ["accuracy", "macro_accuracy"]
    assert found["accuracy"] == 0.5
    assert found["macro_accuracy"] == pytest.approx((2 / 3 + 0.0) / 2)


def test_loss_of_classes_and_of_probabilities():
    torch = pytest.importorskip("torch")
    output = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    hard = TASK.loss(output, Batch(None, torch.tensor([0, 2])))
    assert hard.item() == pytest.approx(-np.log([0.5, 0.8]).mean(), rel=1e-6)
    soft = TASK.loss(output, Batch(None, torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])))
    expected = -np.mean([0.5 * np.log(0.5) + 0.5 * np.log(0.25), np.log(0.8)])
    assert soft.item() == pytest.approx(expected, rel=1e-6)
    smooth = Classification(["cat", "dog", "owl"], label_smoothing=0.3)
    expected = -np.mean([0.8 * np.log(0.5) + 0.2 * np.log(0.25), 0.8 * np.log(0.8) + 0.2 * np.log(0.1)])
    assert smooth.loss(output, Batch(None, torch.tensor([0, 2]))).item() == pytest.approx(expected, rel=1e-6)


def test_settings_build_it_again():
    task = Classification(["a", "b"], none_below=0.3, label_smoothing=0.1)
    again = registry.build("task", "classification", **task.settings())
    assert (
        again.settings()
        == task.settings()
        == {
            "labels": ["a", "b"],
            "none_below": 0.3,
            "label_smoothing": 0.1,
        }
    )


@pytest.mark.parametrize("labels", [[], ["one"], ["a", "a"], "ab", [1, 2], ["a", None]])
def test_labels_that_cannot_be(labels):
    with pytest.raises(ConfigError, match="needs a list of two or more different names"):
        Classification(labels)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_numbers_out_of_range(value):
    with pytest.raises(ConfigError, match="none_below is a probability"):
        Classification(["a", "b"], none_below=value)
    with pytest.raises(ConfigError, match="label_smoothing lies between 0 and 1"):
        Classification(["a", "b"], label_smoothing=value)


def test_what_is_no_name_and_no_number_is_refused():
    for labels in (["a", ""], 3, None):
        with pytest.raises(ConfigError, match="two or more different names"):
            Classification(labels)
    for option in ("none_below", "label_smoothing"):
        with pytest.raises(ConfigError, match=f"{option} .*, got '0.5'"):
            Classification(["a", "b"], **{option: "0.5"})
