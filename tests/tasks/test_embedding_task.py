"""Embeddings as a task: verification, a gallery, early exits in both, in PyTorch and on the box."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import sentio
from sentio.core import registry
from sentio.core.anytime import ExitPoint
from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.core.frame_budget import exit_within
from sentio.core.model import Model
from sentio.core.multi_exit import add_exits
from sentio.core.policy import Budget, Confidence, Entropy, ExitCosts, Fixed, Patience
from sentio.core.prediction import Embedding
from sentio.core.staged import Staged
from sentio.core.task import Batch
from sentio.core.torch_row import TorchRow
from sentio.tasks.classification import Classification
from sentio.tasks.embedding import EmbeddingTask
from sentio.tasks.gallery import Gallery
from sentio.tasks.metrics.selective import certainties_in_turn, least_certainty
from sentio.tasks.pairs import (
    evaluate_pairs,
    exit_distances,
    fit_identification,
    fit_verification,
    verify_pairs,
)

torch.set_num_threads(1)
EXITS = ("e1", "e2", "final")
COSTS = ExitCosts(EXITS, (10.0, 50.0, 100.0), (1.0, 5.0, 10.0))
PERSONS, EACH = 6, 8


class Blurred:
    """Rows of embeddings, which exits see through noise that is less with each; the input is their number."""

    stage_names = ("a", "b", "c")
    exit_names = EXITS
    exit_points = tuple(
        ExitPoint(name, stage, ((stage, "main"),)) for name, stage in zip(EXITS, stage_names, strict=True)
    )
    input_shapes = {"main": (1,)}  # noqa: RUF012
    runtime = "edge"

    def __init__(self, seed=0):
        generator = np.random.default_rng(seed)
        centres = generator.normal(size=(PERSONS, 12))
        self.who = np.repeat(np.arange(PERSONS), EACH)
        clean = centres[self.who] + 0.25 * generator.normal(size=(PERSONS * EACH, 12))
        noise = generator.normal(size=(2, *clean.shape))
        blurred = (clean + 1.3 * noise[0], clean + 0.5 * noise[1], clean)
        self.table = {name: each.astype(np.float32) for name, each in zip(EXITS, blurred, strict=True)}
        self.computed = []

    def start(self, inputs):
        return dict(inputs)

    def run_stage(self, name, boundary):
        self.computed.append((name, len(boundary["main"])))
        return boundary

    def run_exit(self, name, tensors):
        return self.table[name][tensors[0][:, 0].astype(int)]

    def take(self, array, rows):
        return array[rows]

    def to_numpy(self, array):
        return array


def numbers(rows):
    return np.asarray(rows, np.float32)[:, None]


@pytest.fixture
def row():
    return Blurred()


@pytest.fixture
def pairs(row):
    """Places of both of each pair, and whether they are of one person; each kind as often."""
    generator = np.random.default_rng(1)
    first, second = generator.integers(0, len(row.who), (2, 4000))
    first, second = first[first != second], second[first != second]
    same = row.who[first] == row.who[second]
    kept = np.concatenate([np.flatnonzero(same)[:200], np.flatnonzero(~same)[:200]])
    return first[kept], second[kept], same[kept]


@pytest.fixture
def model(row, pairs):
    """With thresholds and margins of the pairs, and a gallery of every second sample."""
    first, second, same = pairs
    model = Model(row, EmbeddingTask(dimension=12), costs=COSTS)
    outputs = model.outputs(numbers(np.arange(len(row.who))))
    found = exit_distances(
        *({name: each[part] for name, each in outputs.items()} for part in (first, second))
    )
    thresholds, margins = fit_verification(found, same, max_error=0.03)
    gallery = Gallery(12)
    for place in range(0, len(row.who), 2):
        gallery.enrol(f"person {row.who[place]}", outputs["final"][place])
    model.task = EmbeddingTask(dimension=12, thresholds=thresholds, margins=margins, gallery=gallery)
    row.computed.clear()
    return model


# Verification


def test_a_pair_is_the_same_below_the_exits_threshold():
    task = EmbeddingTask(dimension=2, normalise=False, thresholds={"e1": 2.0, "final": 1.0})
    first, second = np.zeros((3, 2)), np.array([[0.5, 0.0], [1.5, 0.0], [2.0, 0.0]])
    same, distance = task.verify(first, second, exit="e1")
    assert same.tolist() == [True, True, False] and distance.tolist() == [0.5, 1.5, 2.0]
    assert task.verify(first, second, exit="final")[0].tolist() == [True, False, False]
    unit = EmbeddingTask(dimension=2, thresholds={"final": 0.1})
    assert unit.verify(second, 7 * second, exit="final")[0].all(), "lengths do not count"
    with pytest.raises(UnknownNameError, match="Unknown exit with a threshold 'e2'"):
        task.verify(first, second, exit="e2")
    with pytest.raises(ConfigError, match="fit_verification"):
        EmbeddingTask(dimension=2).verify(first, second, exit="final")


def test_pairs_leave_where_they_are_clear_and_few_of_them_are_wrong(model, row, pairs):
    first, second, same = pairs
    found = verify_pairs(model, numbers(first), numbers(second))
    names = np.array(found.exit_names())
    assert set(names) == set(EXITS)
    for name in EXITS[:-1]:
        here = names == name
        assert here.any() and (found.same[here] != same[here]).mean() <= 0.03
        threshold, margin = model.task.thresholds[name], model.task.margins[name]
        assert (np.abs(found.distance[here] - threshold) >= margin).all()
    # Both of a pair are gone together, and what left is not computed.
    left = np.cumsum([2 * (names == name).sum() for name in EXITS])
    assert row.computed == [("a", 800), ("b", 800 - left[0]), ("c", 800 - left[1])]
    everybody = verify_pairs(model, numbers(first), numbers(second), policy=Fixed("final"))
    assert everybody.exit_names() == ["final"] * 400
    assert (everybody.same == same).mean() >= (found.same == same).mean() - 0.03
    assert (found.ms > 0).all() and (everybody.ms > 0).all()


def test_margins_let_at_most_the_share_be_wrong():
    certainty = np.array([0.9, 0.8, 0.8, 0.5, 0.1])
    right = np.array([True, True, False, True, False])
    assert least_certainty(certainty, right, 0.0) == 0.9
    assert least_certainty(certainty, right, 0.3) == 0.5
    assert least_certainty(certainty, right, 0.5) == 0.1
    assert least_certainty(certainty[2:3], right[2:3], 0.4) is None
    assert least_certainty(certainty[:0], right[:0], 0.4) is None
    # At the second exit only what the first has not accepted counts.
    turns = certainties_in_turn([certainty, 1 - certainty], [right, right], 0.0)
    assert turns == [0.9, None]
    assert certainties_in_turn([certainty, certainty], [right, ~right], 0.0) == [0.9, None]
    assert certainties_in_turn([], [], 0.0) == []
    with pytest.raises(ConfigError, match="from 0 to below 1, got 1"):
        least_certainty(certainty, right, 1)


def test_an_exit_that_is_the_last_layer_answers_as_it_does(row, pairs):
    """The same space: distances, thresholds and accuracies are those of the whole network."""
    first, second, same = pairs
    ours = row.table["final"]
    both = {"e1": ours, "final": ours}
    found = exit_distances({n: e[first] for n, e in both.items()}, {n: e[second] for n, e in both.items()})
    folds = np.arange(len(same)) % 10
    by_exit = evaluate_pairs(found, same, folds)
    assert by_exit["e1"] == by_exit["final"] and len(by_exit["e1"].folds) == 10
    assert not exit_distances({"e1": ours}, ours)["e1"].any()
    thresholds, _ = fit_verification(found, same)
    assert thresholds["e1"] == thresholds["final"]


def test_the_threshold_of_the_sheets_example():
    distances = np.array([0.2, 0.4, 0.5, 0.9, 1.1, 1.3])
    same = np.array([True, True, False, True, False, False])
    thresholds, margins = fit_verification({"e1": distances, "final": distances}, same, max_error=0.0)
    assert thresholds == {"e1": pytest.approx(0.45), "final": pytest.approx(0.45)}
    # Wrong is 0.9, at a margin of 0.45: what is further off is 1.1 and 1.3.
    assert margins == {"e1": pytest.approx(0.65)}


@pytest.mark.parametrize("samples", [(2, 3), (0, 0)])
def test_pairs_that_do_not_fit_are_refused(model, samples):
    with pytest.raises(InputError, match=r"need the same shape|got an empty batch"):
        verify_pairs(model, *(numbers(np.arange(count)) for count in samples))
    with pytest.raises(InputError, match="need the same shape, batch first, got nothing and nothing"):
        verify_pairs(model, {}, {})


def test_pairs_need_thresholds_and_policies_that_keep_them_together(model):
    x = numbers(np.arange(PERSONS * EACH))
    with pytest.raises(ConfigError, match="sends the two of a pair out at different exits"):
        verify_pairs(model, x[::2], x[1::2], policy=Confidence(0.7))
    model.task = EmbeddingTask(dimension=12)
    with pytest.raises(ConfigError, match="Verification needs a threshold for each exit"):
        verify_pairs(model, x, x)
    model.task = Classification(list("abcdefghijkl"))
    with pytest.raises(ConfigError, match="Model 'model' gives no embeddings"):
        verify_pairs(model, x, x)


# Identification


def test_one_gallery_serves_every_exit(model, row):
    probes = np.arange(1, len(row.who), 2)
    found = {}
    for name in EXITS:
        answers = model.answer(numbers(probes), policy=Fixed(name))
        place = model.task.choice(answers.outputs)
        found[name] = (place == row.who[probes]).mean()
    assert 1 / PERSONS < found["e1"] < found["final"] == 1


def test_probes_leave_by_the_ratio_of_nearest_and_second(model, row):
    probes = np.arange(1, len(row.who), 2)
    names = [f"person {who}" for who in row.who[probes]]
    outputs = model.outputs(numbers(probes))
    policy = fit_identification(model.task, outputs, names, max_error=0.05)
    answers = model.answer(numbers(probes), policy=policy)
    left = np.array(answers.exit_names())
    right = model.task.choice(answers.outputs) == row.who[probes]
    assert (left != "final").mean() > 0.3
    for name in ("e1", "e2"):
        assert not (left == name).any() or (~right[left == name]).mean() <= 0.05
        here = model.task.gallery.nearest(answers.outputs[left == name])
        assert (1 - here.ratio >= policy.threshold[name]).all()
    assert right.mean() > 0.9
    # A name that is not in the gallery cannot be told rightly.
    strange = fit_identification(model.task, outputs, ["nobody"] * len(names))
    assert set(strange.threshold.values()) == {None}
    with pytest.raises(InputError, match="give one for each"):
        fit_identification(model.task, outputs, names[1:])


def test_confidence_comes_with_the_gallery(model, row):
    x = numbers(np.arange(4))
    assert model.answer(x, policy=Patience(1)).confidence.shape == (4,)
    with pytest.raises(ConfigError, match="Entropy needs a confidence"):
        model.answer(x, policy=Entropy(0.5))
    model.task.gallery = None
    with pytest.raises(ConfigError, match="Confidence needs a confidence"):
        model.answer(x, policy=Confidence(0.5))
    with pytest.raises(ConfigError, match="Identification needs a gallery"):
        fit_identification(model.task, model.outputs(x), ["a"] * 4)
    assert model.answer(x, policy=Budget(60)).exit_names() == ["e2"] * 4
    with pytest.raises(ConfigError, match="gallery's embeddings have 5 values and the network's 12"):
        model.task.gallery = Gallery(5)


def test_decodes_to_a_name_or_none():
    gallery = Gallery(2, normalise=False)
    gallery.enrol("Ada", np.array([0.0, 0.0]))
    gallery.enrol("Bo", np.array([4.0, 0.0]))
    task = EmbeddingTask(dimension=2, normalise=False, unknown_beyond={"e1": 0.5}, gallery=gallery)
    near = task.decode(np.array([1.0, 0.0], np.float32), exit="final", milliseconds=2.0)
    assert near == Embedding("Ada", 1 - 1 / 3, "final", 2.0, distance=1.0)
    assert near.vector.tolist() == [1, 0]
    far = task.decode(np.array([1.0, 0.0], np.float32), exit="e1", milliseconds=2.0)
    assert far.label is None and far.distance == 1.0
    assert task.decode(near.vector, exit="final", milliseconds=2.0, only=["Bo"]).label is None
    plain = json.loads(json.dumps(near.at(0, 1).to_dict()))
    assert plain["vector"] == [1, 0] and plain["label"] == "Ada" and plain["end"] == 1
    bare = EmbeddingTask(dimension=2).decode(near.vector, exit="final", milliseconds=1.0)
    assert (bare.label, bare.score, bare.distance) == (None, 0.0, None)
    parts = [near.at(0, 1), task.decode(np.array([3.0, 0.0]), exit="e1", milliseconds=3.0).at(1, 2)]
    merged = task.merge(parts, exit="final")
    assert (merged.vector.tolist(), merged.milliseconds, merged.end) == ([2, 0], 5, 2)
    assert merged.score == 0 and merged.windows == tuple(parts)
    assert task.merge(parts[:1], exit="e1").windows == ()


# Budget


@pytest.mark.parametrize(
    ("ms", "faces", "exit"), [(10, 1, "final"), (10, 2, "e2"), (10, 3, "e1"), (10, 99, "e1"), (1, 0, "final")]
)
def test_the_more_faces_the_earlier_the_exit(ms, faces, exit):
    assert exit_within(COSTS, ms, faces) == Fixed(exit)


def test_a_frames_budget_needs_times():
    with pytest.raises(ConfigError, match="needs measured milliseconds"):
        exit_within(ExitCosts(EXITS, (1.0, 2.0, 3.0)), 10)
    with pytest.raises(ConfigError, match="a time above 0 and 0 samples or more, got 0 and 1"):
        exit_within(COSTS, 0)


# The task in a model


def test_losses_and_scores_by_hand():
    task = EmbeddingTask(dimension=2)
    output, wanted = torch.tensor([[1.0, 1.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert task.loss(output, Batch(None, wanted)).item() == (2 + 1) / 2
    assert task.score(output.numpy(), wanted.numpy()) == {"negative_distance": -1.5}
    who = np.array([0, 0, 1, 1])
    clear = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    assert task.score(clear, who) == {"nearest_same": 1.0}
    assert task.score(clear[[0, 2, 1, 3]], who) == {"nearest_same": 0.0}


def test_settings_build_it_again_without_the_gallery():
    task = EmbeddingTask(
        dimension=3,
        normalise=False,
        thresholds={"final": 1.0},
        margins={"e1": 0.2},
        unknown_beyond={"e1": 2.0},
        gallery=Gallery(3),
    )
    again = registry.build("task", "embedding", **json.loads(json.dumps(task.settings())))
    assert again.settings() == task.settings() and again.outputs == 3 and again.gallery is None


@pytest.mark.parametrize(
    "options",
    [
        {"dimension": 0},
        {"thresholds": {"e1": -1}},
        {"margins": {"e1": None}},
        {"unknown_beyond": {"e1": "1"}},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=f"Option '{next(iter(options))}' of task 'embedding'"):
        EmbeddingTask(**{"dimension": 2, **options})


def test_a_box_gives_the_same_embeddings_names_and_pairs(tmp_path):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    tap = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Linear(294, 8))
    net = Staged({"tap": tap, "head": head}, input_shapes=(3, 16, 16))
    net = add_exits(net, "bag-of-features", at=["tap"], names=["bag"], classes=8, codewords=6)
    task = EmbeddingTask(dimension=8, thresholds={"final": 1.0, "bag": 0.2}, margins={"bag": 0.1})
    model = Model(TorchRow(net), task, name="faces")
    sentio.export(model, tmp_path / "box")
    box = sentio.load(tmp_path / "box", runtime="edge", threads=1)
    x = net.backbone.example(10, seed=1).numpy()
    ours, theirs = model.outputs(x), box.outputs(x)
    assert list(ours) == ["bag", "final"]
    for name, embeddings in ours.items():
        np.testing.assert_allclose(theirs[name], embeddings, atol=1e-4 * np.abs(embeddings).max())
    gallery = Gallery(8)
    for name, vector in zip("abcde", ours["final"], strict=False):
        gallery.enrol(name, vector)
    gallery.save(tmp_path / "people.npz")
    for opened in (model, box):
        assert opened.task.settings() == task.settings()
        opened.task.gallery = Gallery.load(tmp_path / "people.npz")
        answers = opened.answer(x[:5], policy=Fixed("final"))
        names = opened.task.gallery.names
        assert [names[place] for place in opened.task.choice(answers.outputs)] == list("abcde")
    pairs = [verify_pairs(each, x[:5], x[5:]) for each in (model, box)]
    assert pairs[0].exit_names() == pairs[1].exit_names()
    assert pairs[0].same.tolist() == pairs[1].same.tolist()


@pytest.mark.parametrize("percent", range(100))
def test_a_share_of_errors_that_is_just_met_is_met(percent):
    right = np.ones(100, bool)
    right[100 - percent :] = False
    assert least_certainty(np.linspace(1, 0.01, 100), right, percent / 100) == pytest.approx(0.01)


def test_certainties_are_numbers_one_for_each_answer():
    for certainty in (np.array([0.5, np.nan]), np.array([0.5])):
        with pytest.raises(InputError, match="certainty that is a number"):
            least_certainty(certainty, np.array([True, True]), 0.1)
