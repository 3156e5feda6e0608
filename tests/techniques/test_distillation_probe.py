"""Linear probes: the minimum that they are, what they are fitted to, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from sentio.core import registry
from sentio.core.errors import ConfigError
from sentio.core.staged import Staged
from sentio.tasks.classification import Classification
from sentio.tasks.embedding import EmbeddingTask
from sentio.techniques.distillation_probe import LEAST_SPREAD, SMOOTHING, LinearProbe
from sentio.techniques.distillation_teacher import Ensemble, Teacher
from sentio.techniques.objective import Setting, TrainingPart


def clouds(windows=60, dim=5, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    targets = generator.integers(classes, size=windows)
    x = generator.standard_normal((windows, dim)) + 1.5 * np.eye(classes, dim)[targets]
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(targets)


def test_it_is_where_the_gradient_of_the_loss_vanishes():
    x, y = clouds()
    rows = torch.arange(60) // 3  # three windows of each recording
    probe = LinearProbe(0.2)
    probe.fit(x, y, rows, 3)
    spread = x.double().std(0, correction=0)
    a = (x.double() - x.double().mean(0)) / (spread + LEAST_SPREAD * spread.mean())
    weight, bias = probe._weights
    p = (a @ weight + bias).softmax(1)
    wanted = one_hot(y, 3) * (1 - SMOOTHING) + SMOOTHING / 3
    gradient = a.T @ (p - wanted) / 60 + 2 * 0.2 * weight
    assert gradient.abs().max() < 1e-5 and (p - wanted).mean(0).abs().max() < 1e-5
    torch.testing.assert_close(probe(x), (a @ weight + bias).float())


def test_a_recording_counts_once_however_many_windows_it_has():
    x, y = clouds()
    once, often = LinearProbe(0.1), LinearProbe(0.1)
    counts = torch.tensor([1, 3] * 30)
    few, many = torch.arange(60), torch.arange(60).repeat_interleave(counts)
    once.fit(x, y, few, 3)
    often.fit(x[many], y[many], many, 3)
    often._scale = once._scale  # of the windows, which are more here
    assert (often(x).argmax(1) == once(x).argmax(1)).float().mean() > 0.95
    assert (often(x) - once(x)).abs().max() < 0.5


def test_a_value_that_never_varies_says_nothing():
    x, y = clouds()
    probe = LinearProbe(0.1)
    probe.fit(torch.cat([x, torch.full((60, 1), 7.0)], 1), y, torch.arange(60), 3)
    assert torch.isfinite(probe(torch.cat([x, torch.full((60, 1), 7.0)], 1))).all()


def part_of(inputs, targets):
    def through(other):
        return inputs * other.settings()["gain"]

    return TrainingPart(targets, np.arange(len(targets)), through)


def test_an_embedding_is_the_answer_or_what_enters_the_last_stage(small):
    x = torch.from_numpy(small.features(4))
    teacher = Teacher(small.multi_exit(), probe=0.1)
    teacher.fit(Setting(Classification(["a", "b"]), small.frontend()))
    entering = small.multi_exit().tapped(x, (), [("b", "main")])[1][("b", "main")]
    torch.testing.assert_close(teacher.embed(x), entering.mean((2, 3)).detach())
    net = small.multi_exit()
    model = small.model(net=net, task=EmbeddingTask(dimension=3), frontend=small.frontend())
    teacher = Teacher(model, probe=0.1)
    teacher.fit(Setting(Classification(["a", "b"]), small.frontend()))
    torch.testing.assert_close(teacher.embed(x), net(x)["final"].detach())


def test_what_the_training_part_is_heard_through(small):
    """A teacher with other ears is asked about what those hear, and fitted to the student's classes."""
    inputs, targets = small.features(40), np.arange(40) % 2
    inputs[targets == 1] += 1.0
    setting = Setting(
        Classification(["a", "b"]), small.frontend(), part=part_of(inputs, targets.astype(np.int64))
    )
    ensemble = Ensemble(small.model(frontend=small.frontend(gain=2.0)), itself=True, probe=0.05)
    ensemble.check(setting, torch.zeros(2, 1, 8, 8))
    ensemble.keep(inputs, 2.0, setting)
    kept = ensemble.kept(torch.arange(40))
    assert kept.shape == (40, 2) and (kept.argmax(1).numpy() == targets).mean() > 0.65
    (teacher,) = ensemble.members
    expected = teacher.probe(teacher.embed(torch.from_numpy(inputs * 2.0)))
    torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probe": True}, "give cache: true too"),
        ({"probe": 0, "cache": True}, "a number above 0; got 0"),
        ({"probe": "yes", "cache": True}, "probe is true, or the probe's L2 penalty"),
        ({"probe": float("inf"), "cache": True}, "a number above 0; got inf"),
    ],
)
def test_options_that_cannot_be(small, options, message):
    with pytest.raises(ConfigError, match=message):
        registry.build("technique", "distillation", small.multi_exit(), teacher=small.multi_exit(), **options)


def test_a_network_cannot_probe_itself(small):
    with pytest.raises(ConfigError, match="Option 'probe' needs another network as teacher"):
        registry.build("technique", "distillation", small.multi_exit(), teacher="self", probe=True)


def test_a_network_of_one_stage_has_nothing_to_probe(small):
    one = Staged({"only": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))})
    ensemble = Ensemble(one, itself=True, probe=0.1)
    setting = Setting(Classification(["a", "b"]), small.frontend())
    with pytest.raises(ConfigError, match="has one stage, and a probe reads what enters the last"):
        ensemble.check(setting, torch.zeros(2, 1, 8, 8))
