"""Pacing, order and batches as `curriculum_exits` says; its numbers come out exactly."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

from sentio.core import registry
from sentio.core.anytime import FINAL
from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.multi_exit import MultiExit, add_exits
from sentio.core.staged import Staged
from sentio.techniques.curriculum import Curriculum, difficulty, sample_order
from sentio.techniques.objective import Setting
from sentio.techniques.pacing import find_pacing, fixed_exponential, geometric, linear, root, single_step
from sentio.training.batches import Arrays

SHARES = [0.04, 0.076, 0.1444, 0.27436, 0.521284, 0.9904396, 1.0]
COUNTS = [1600, 3040, 5776, 10974, 20851, 39617, 40000]


@pytest.mark.parametrize("every", [100, 200, 300])
def test_fixed_exponential_pacing(every):
    pacing = fixed_exponential(every=every)
    assert [pacing(step * every) for step in range(7)] == pytest.approx(SHARES, abs=1e-12)
    assert pacing(every - 1) == 0.04
    assert pacing(every) == pytest.approx(0.076, abs=1e-12)
    assert pacing(6 * every - 1) < 1 == pacing(6 * every)
    assert pacing(10**9) == 1
    # In epochs of 625 batches the curriculum lasts 0.96, 1.92 and 2.88 of them.
    assert 6 * every / 625 == pytest.approx({100: 0.96, 200: 1.92, 300: 2.88}[every])


def test_single_step_pacing():
    pacing = single_step()
    assert (pacing(0), pacing(299), pacing(300)) == (0.3, 0.3, 1.0)


def test_continuous_pacings():
    at_half = {
        linear(): 0.52,
        root(): 0.7076722,
        root(power=3): 0.7937175,
        geometric(): 0.2,
        root(power=1): 0.52,
    }
    for pacing, wanted in at_half.items():
        assert pacing(0) == pytest.approx(0.04)
        assert pacing(300) == pytest.approx(wanted, abs=5e-8)
        assert pacing(600) == pacing(10**6) == 1.0
        shares = [pacing(batch) for batch in range(0, 700, 7)]
        assert all(a <= b for a, b in pairwise(shares))
    assert geometric()(300) == pytest.approx(0.2, abs=1e-15)
    assert root(power=2)(123) == root()(123)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("slow", UnknownNameError, "pacing"),
        ({"name": "linear", "from": 3}, UnknownNameError, "option of pacing 'linear'"),
        ({"start": 3}, ConfigError, "pacing is a name"),
        (3, ConfigError, "pacing is a name"),
        ({"name": "linear", "start": 0}, ConfigError, "share above 0"),
        ({"name": "linear", "start": "low"}, ConfigError, "is a number"),
        ({"name": "single-step", "every": 0}, ConfigError, "number of batches from 1 on"),
        ({"name": "fixed-exponential", "growth": 1.0}, ConfigError, "above 1"),
        ({"name": "root", "power": 0}, ConfigError, "power of a pacing"),
    ],
)
def test_impossible_pacings_are_refused(given, error, said):
    with pytest.raises(error, match=said):
        find_pacing(given)


def test_difficulty_is_the_cross_entropy():
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    torch.testing.assert_close(difficulty(z, y), z.logsumexp(1) - z[torch.arange(6), y])
    assert difficulty(torch.zeros(1, 10), torch.tensor([3])).item() == pytest.approx(2.302585, abs=1e-6)
    assert difficulty(torch.zeros(1, 100), torch.tensor([3])).item() == pytest.approx(4.605170, abs=1e-6)


def test_orders():
    scores = np.array([0.3, 0.1, 0.2, 0.1])
    easy = sample_order(scores)
    assert easy.tolist() == [1, 3, 2, 0]
    assert sample_order(scores, "hard-first").tolist() == easy[::-1].tolist()
    assert sample_order(np.zeros(5)).tolist() == [0, 1, 2, 3, 4]
    drawn = sample_order(np.arange(50), "random", seed=3)
    assert sorted(drawn) == list(range(50))
    assert drawn.tolist() == sample_order(np.zeros(50), "random", seed=3).tolist()
    assert drawn.tolist() != sample_order(np.zeros(50), "random", seed=4).tolist()


@pytest.mark.parametrize("order", ["easy-first", "hard-first"])
def test_a_balanced_beginning_holds_the_same_share_of_each_class(order):
    targets = np.array([0] * 60 + [1] * 30)
    scores = np.r_[np.random.default_rng(0).random(60), 5 + np.random.default_rng(1).random(30)]
    found = sample_order(scores, order, targets=targets)
    assert sorted(found) == list(range(90))
    assert np.bincount(targets[found[:30]]).tolist() == [20, 10]
    inside = scores[found[targets[found] == 0]]
    assert (np.diff(inside) > 0).all() if order == "easy-first" else (np.diff(inside) < 0).all()


def curriculum(samples, pacing, *, scores=None):
    made = Curriculum(np.arange(samples) if scores is None else scores, None, "easy-first", pacing, False)
    made.prepare(None, Setting(None, None, 0), np.zeros(samples), np.zeros(samples, np.int64))
    return made


def test_the_number_of_samples_is_rounded_down():
    made = curriculum(40_000, fixed_exponential(every=1))
    assert [made.available(batch, 64) for batch in range(7)] == COUNTS
    assert made.available(0, 2000) == 2000  # a batch at least


def test_batches_come_from_the_beginning_of_the_order():
    scores = np.random.default_rng(0).random(200)
    pacing = fixed_exponential(start=0.1, growth=2.0, every=3)
    made = curriculum(200, pacing, scores=scores)
    order = np.argsort(scores, kind="stable")
    seen = 0
    for epoch in range(3):
        for place, batch in enumerate(made.batches(epoch, 5, 16, (0,))):
            available = int(max(16, np.floor(pacing(epoch * 5 + place) * 200)))
            assert len(batch) == len(set(batch.tolist())) == 16
            assert set(batch.tolist()) <= set(order[:available].tolist())
            seen += len(batch)
    assert seen == 240
    assert made.full_from(5) == 3  # everything from batch 12 on, in the middle of an epoch
    assert curriculum(200, lambda _: 1.0).full_from(5) == 0


def epochs(arrays, plan, count=4):
    loader = arrays.shuffled(8, seed=5, plan=plan)
    found = []
    for epoch in range(count):
        loader.batch_sampler.sampler.set_epoch(epoch)
        found.append([items.tolist() for _, _, items in loader])
    return found


def test_training_goes_on_as_any_other_once_everything_is_available():
    arrays = Arrays(np.zeros((40, 1), np.float32), np.zeros(40, np.int64))
    plain = epochs(arrays, None)
    paced = epochs(arrays, curriculum(40, single_step(start=0.25, every=7)))
    assert paced[2:] == plain[2:]
    assert paced[:2] != plain[:2]
    assert [len(batches) for batches in paced] == [5, 5, 5, 5]
    assert max(max(batch) for batch in paced[0]) < 10
    assert paced == epochs(arrays, curriculum(40, single_step(start=0.25, every=7)))
    # With everything available from the start there is no difference at all.
    assert epochs(arrays, curriculum(40, lambda _: 1.0)) == plain
    assert sorted(item for batch in plain[0] for item in batch) == list(range(40))


def blobs(flipped=0.2):
    """Two classes of points apart from each other; which labels are wrong."""
    generator = np.random.default_rng(0)
    targets = np.arange(1000) % 2
    inputs = generator.normal(size=(1000, 2)).astype(np.float32) + 6 * (targets[:, None] - 0.5)
    wrong = generator.random(1000) < flipped
    return inputs.astype(np.float32), np.where(wrong, 1 - targets, targets), wrong


class Knows(torch.nn.Module):
    """A teacher that has seen the blobs."""

    def forward(self, x):
        score = x.sum(1) * 3
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize(("order", "most"), [("easy-first", 0.01), ("hard-first", 1.0)])
def test_wrong_labels_are_hard(order, most):
    inputs, targets, wrong = blobs()
    net = MultiExit(Staged({"head": Knows()}, input_shapes=(2,)))
    made = Curriculum(None, None, order, fixed_exponential(), False)
    made.prepare(net, Setting(None, None, 0), inputs, targets)
    (batch,) = made.batches(0, 1, 40, (0,))
    share = wrong[batch].mean()
    assert share <= most if order == "easy-first" else share > 0.99


def small(seed=0):
    torch.manual_seed(seed)
    layers = {"first": torch.nn.Linear(2, 6), "second": torch.nn.Linear(6, 6), "head": torch.nn.Linear(6, 2)}
    return add_exits(Staged(layers, input_shapes=(2,)), "pooled-linear", at=["first", "second"], classes=2)


def test_the_phases_are_those_of_another_technique():
    net = small()
    phases = registry.build("technique", "curriculum", net)
    assert [phase.name for phase in phases] == ["backbone", "exits"]
    # Nobody knows what is hard before the backbone is trained.
    assert [phase.order is None for phase in phases] == [True, False]
    phases = registry.build("technique", "curriculum", net, order="random", phases="end-to-end")
    assert [phase.order is None for phase in phases] == [False]
    assert set(phases[0].losses) == {"first", "second", FINAL}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": "medium-first"}, "order of samples is one of"),
        ({"phases": "end-to-end"}, "not trained yet cannot say what is hard"),
        ({"scores": [1.0, float("nan")]}, "finite numbers"),
        ({"scores": [1.0], "teacher": Knows()}, "in place of a teacher"),
        ({"phases": {"name": "distillation", "options": {"teacher": "self"}}}, "loss of its own"),
    ],
)
def test_impossible_options_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        registry.build("technique", "curriculum", small(), **options)


def test_scores_are_one_for_each_sample():
    made = Curriculum(np.arange(3.0), None, "easy-first", linear(), False)
    with pytest.raises(ConfigError, match="3 scores and 4 samples"):
        made.prepare(None, Setting(None, None, 0), np.zeros(4), np.zeros(4, np.int64))


def test_a_fingerprint_tells_scores_apart():
    plain = Curriculum(None, None, "easy-first", linear(), False).identity()
    first = Curriculum(np.arange(3.0), None, "easy-first", linear(), False).identity()
    assert (
        len({plain, first, Curriculum(np.arange(4.0), None, "easy-first", linear(), False).identity()}) == 3
    )


def test_scoring_changes_nothing():
    net = small().train()
    before = copy.deepcopy(net.state_dict())
    inputs, targets, _ = blobs()
    made = Curriculum(None, None, "easy-first", linear(), False)
    made.prepare(net, Setting(None, None, 0), inputs, targets)
    assert net.training
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    wanted = difficulty(net.eval()(torch.from_numpy(inputs))[FINAL], torch.from_numpy(targets))
    assert np.array_equal(made.places, np.argsort(wanted.detach().numpy(), kind="stable"))
