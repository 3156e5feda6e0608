"""Weight averaging, the layout of images and epochs without validation, in the loop."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sentio.core.errors import CancelledError, ConfigError, UnknownNameError
from sentio.tasks.classification import Classification
from sentio.tasks.losses import focal_loss, inverse_weights, scaled_weights
from sentio.techniques.phases import Phase
from sentio.training.averaging import WeightAverage
from sentio.training.batches import Arrays
from sentio.training.criterion import with_loss
from sentio.training.loop import run_phase
from sentio.training.phase_module import PhaseModule
from sentio.training.recipe import Recipe, read_recipe

TASK = Classification(["cat", "dog", "owl"])
ALL = Phase("all", ("a", "b", "head"), ("e1", "e2"), {"e1": 0.5, "e2": 0.5, "final": 1.0})
EXITS = Phase("exits", (), ("e1", "e2"), {"e1": 1.0, "e2": 1.0})
BATCHES, EPOCHS = 4, 5
EMA, SWA = {"name": "ema", "decay": 0.8}, {"name": "swa", "start": 0.4}


def made(**changes):
    values = {"name": "loop", "epochs": EPOCHS, "batch": 8, "keep": "last", "deterministic": True}
    return Recipe.model_validate({**values, "optimiser": {"lr": 0.02}, **changes})


@pytest.fixture(scope="module")
def arrays(small):
    def part(samples, seed):
        targets = np.arange(samples) % 3
        levels = (targets[:, None, None, None] - 1).astype(np.float32)
        return Arrays(small.features(samples, seed) * 0.5 + levels, targets.astype(np.int64))

    return part(32, 1), part(9, 2)


@pytest.fixture
def go(small, arrays, tmp_path):
    def run(recipe, phase=ALL, folder="run", dropout=0.5, **told):
        net = small.multi_exit(seed=3)
        net.backbone.stage("a").drop.p = dropout
        run_phase(net, phase, recipe, TASK, *arrays, tmp_path / folder, **told)
        return net

    return run


@pytest.fixture
def seen(monkeypatch):
    """The weights and statistics of the network after every training step, before any average."""
    found = []
    hook = WeightAverage.on_train_batch_end

    def watch(self, trainer, *rest):
        found.append({k: v.detach().clone() for k, v in self.net.state_dict().items()})
        hook(self, trainer, *rest)

    monkeypatch.setattr(WeightAverage, "on_train_batch_end", watch)
    return found


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def loss_of(net, arrays):
    with torch.no_grad():
        found = net(torch.from_numpy(arrays[1].inputs))
    targets = torch.from_numpy(arrays[1].targets)
    return float(sum(w * torch.nn.functional.cross_entropy(found[n], targets) for n, w in ALL.losses.items()))


def test_the_exponential_mean_is_kept(go, seen):
    net = go(made(averaging=EMA))
    assert len(seen) == EPOCHS * BATCHES
    for name, kept in net.state_dict().items():
        mean = seen[0][name]
        for n, step in enumerate(seen[1:], 1):
            keep = min(0.8, (1 + n) / (10 + n))
            mean = keep * mean + (1 - keep) * step[name] if mean.is_floating_point() else step[name]
        torch.testing.assert_close(kept, mean)


def test_the_plain_mean_of_the_last_epochs_is_kept(go, seen, arrays):
    """From epoch 2 of 5: three ends of epochs; statistics are those of the mean weights on clean data."""
    net = go(made(averaging=SWA))
    ends = [seen[BATCHES * epoch - 1] for epoch in (3, 4, 5)]
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.data, torch.stack([end[name] for end in ends]).mean(0))
    norm = net.backbone.stage("a").norm
    with torch.no_grad():
        x = net.backbone.stage("a").conv(torch.from_numpy(arrays[0].inputs))
    # Four batches of equal size: the mean of their means is the mean of all.
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
    assert not torch.allclose(norm.running_mean, ends[-1]["backbone.stages.a.norm.running_mean"], atol=1e-3)
    assert norm.momentum == 0.1


@pytest.mark.parametrize("averaging", [EMA, SWA], ids=lambda section: section["name"])
@pytest.mark.parametrize(("keep", "steps"), [("best", 3 * BATCHES), ("last", 4 * BATCHES + 2)])
def test_an_interrupted_phase_ends_like_an_uninterrupted_one(go, tmp_path, averaging, keep, steps):
    left = iter(range(steps))
    recipe = made(averaging=averaging, keep=keep, augment={"mixup": 0.3})
    whole = go(recipe, folder="whole")
    with pytest.raises(CancelledError):
        go(recipe, folder="parts", cancel=lambda: next(left, None) is None)
    assert same(whole, go(recipe, folder="parts"))
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    # A phase that is finished has nothing left to do, and still ends with the mean.
    assert same(whole, go(recipe, folder="parts"))


@pytest.mark.parametrize("averaging", [EMA, SWA], ids=lambda section: section["name"])
def test_the_averaged_network_is_the_one_that_is_validated(go, tmp_path, arrays, averaging):
    last = go(made(averaging=averaging))
    losses = [float(row["val_loss"]) for row in rows(tmp_path / "run")]
    assert loss_of(last, arrays) == pytest.approx(losses[-1], rel=1e-4)
    best = go(made(averaging=averaging, keep="best"), folder="best")
    assert loss_of(best, arrays) == pytest.approx(min(losses), rel=1e-4)
    plain = go(made(), folder="plain")
    assert abs(loss_of(plain, arrays) - losses[-1]) > 1e-3


@pytest.mark.parametrize("averaging", [EMA, SWA], ids=lambda section: section["name"])
def test_an_average_does_not_change_the_training(go, tmp_path, averaging):
    go(made(averaging=averaging, augment={"mixup": 0.3}))
    go(made(augment={"mixup": 0.3}), folder="plain")
    losses = [[row["train_loss"] for row in rows(tmp_path / folder)] for folder in ("run", "plain")]
    assert losses[0] == losses[1]


def test_what_a_phase_does_not_train_stays_bit_for_bit(go, small):
    before = small.multi_exit(seed=3)
    for averaging in (EMA, SWA):
        net = go(made(averaging=averaging), EXITS, folder=averaging["name"])
        assert same(net.backbone, before.backbone)
        assert not same(net.branch("e1"), before.branch("e1"))


def test_a_training_of_one_epoch_has_a_mean(go):
    assert same(go(made(epochs=1, averaging={"name": "swa"}), folder="1"), go(made(epochs=1, averaging=SWA)))


def test_the_layout_of_images_changes_nothing_but_rounding(go):
    """Without dropout, which draws in the order in which numbers lie, and Adam, which enlarges rounding."""
    sgd = {"name": "sgd", "lr": 0.02}
    plain = go(made(optimiser=sgd), dropout=0.0)
    devices = {"accelerator": "cpu", "channels_last": True}
    other = go(made(optimiser=sgd, devices=devices), folder="other", dropout=0.0)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
        assert other.state_dict()[name].is_contiguous()


def test_images_reach_the_network_with_channels_last(small, arrays):
    net = small.multi_exit()
    module = PhaseModule(net, ALL, made(devices={"channels_last": True}), TASK, arrays[0], arrays[1])
    x = torch.zeros(2, 3, 4, 5)
    assert module._laid_out(x).is_contiguous(memory_format=torch.channels_last)
    assert module._laid_out(x[0]).is_contiguous()
    weight = net.backbone.stage("b").conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def test_a_training_in_bfloat16_goes_on_bit_for_bit(go):
    devices = {"accelerator": "cpu", "precision": "bf16-mixed", "channels_last": True}
    recipe = made(devices=devices, averaging=EMA)
    left = iter(range(2 * BATCHES))
    whole = go(recipe, folder="whole")
    with pytest.raises(CancelledError):
        go(recipe, folder="parts", cancel=lambda: next(left, None) is None)
    assert same(whole, go(recipe, folder="parts"))
    assert all(p.dtype == torch.float32 for p in whole.parameters())


def test_epochs_without_validation_say_so(go, tmp_path):
    told = []
    go(made(validate_every=2), report=told.append)
    table = rows(tmp_path / "run")
    assert [row["val_loss"] != "" for row in table] == [False, True, False, True, True]
    assert [row["val_accuracy/final"] != "" for row in table] == [False, True, False, True, True]
    assert all(row["train_loss"] for row in table)
    figures = {step.figures["epoch"]: step.figures for step in told if step.figures}
    assert [("val_loss" in figures[epoch]) for epoch in range(1, 6)] == [False, True, False, True, True]


def test_epochs_without_validation_train_all_the_same(go, tmp_path, arrays):
    assert same(go(made(validate_every=3)), go(made(), folder="every"))
    losses = [float(row["val_loss"]) for row in rows(tmp_path / "every")]
    best = go(made(validate_every=2, keep="best"), folder="best")
    assert loss_of(best, arrays) == pytest.approx(min(losses[1], losses[3], losses[4]), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "watcher"),
    [({"early_stopping": 3}, "early_stopping"), ({"schedule": "plateau"}, "schedule plateau")],
)
def test_who_watches_every_epoch_needs_every_epoch(changes, watcher):
    if "schedule" in changes:
        changes = {"schedule": {"name": changes["schedule"]}}
    with pytest.raises(ConfigError, match=f"validate_every: {watcher} looks at every epoch's"):
        read_recipe({"name": "x", "validate_every": 2, **changes})


def test_the_learning_rate_of_a_plateau_has_a_floor(go, tmp_path):
    schedule = {"name": "plateau", "factor": 0.1, "patience": 0, "floor": 0.5}
    go(made(epochs=8, schedule=schedule, optimiser={"lr": 2.0}))
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "run")]
    assert set(rates) == {2.0, 1.0}


def test_the_learning_rate_moves_within_an_epoch_where_asked(go, monkeypatch):
    rates = []
    hook = PhaseModule.training_step

    def watch(self, *args):
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return hook(self, *args)

    monkeypatch.setattr(PhaseModule, "training_step", watch)
    go(made(epochs=2, schedule={"name": "linear", "every": "step"}, optimiser={"lr": 1.0}))
    assert rates == pytest.approx([1 - step / 8 for step in range(8)])


LOSS = {"name": "focal", "gamma": 2.0, "label_smoothing": 0.1, "class_weights": "inverse"}


def test_the_loss_of_the_recipe_is_what_every_exit_is_trained_on(go, tmp_path, arrays):
    net = go(made(loss=LOSS))
    counts = np.bincount(arrays[0].targets)
    weights = scaled_weights(inverse_weights(counts), counts)
    with torch.no_grad():
        found = net(torch.from_numpy(arrays[1].inputs))
    targets = torch.from_numpy(arrays[1].targets)
    expected = sum(
        share * focal_loss(found[name], targets, gamma=2.0, label_smoothing=0.1, weights=weights)
        for name, share in ALL.losses.items()
    )
    assert float(rows(tmp_path / "run")[-1]["val_loss"]) == pytest.approx(float(expected), rel=1e-4)


def test_weights_by_label(go):
    """Labels that are not named weigh 1; the mean over the samples is 1."""
    section = made(loss={"class_weights": {"dog": 0.0}}).loss
    found = with_loss(TASK, section, np.array([0, 0, 1, 2]))
    assert found.training_loss.weights == pytest.approx((4 / 3, 0.0, 4 / 3))
    assert found.settings() == TASK.settings()
    assert TASK.training_loss.weights is None
    with pytest.raises(ConfigError, match="no training sample has a class that weighs anything"):
        go(made(loss={"class_weights": {"cat": 0.0, "dog": 0.0, "owl": 0.0}}), folder="none")


def test_a_loss_that_does_not_fit_is_one_sentence(go):
    with pytest.raises(UnknownNameError, match="Unknown label 'cow'"):
        go(made(loss={"class_weights": {"cow": 2.0}}))
    task = {"name": "classification", "options": {"label_smoothing": 0.1}}
    with pytest.raises(ConfigError, match=r"loss: label_smoothing stands in task\.options too"):
        read_recipe({"name": "x", "task": task, "loss": {"label_smoothing": 0.1}})
    with pytest.raises(ConfigError, match=r"loss\.gamma: should be greater than or equal to 0"):
        read_recipe({"name": "x", "loss": {"name": "focal", "gamma": -1}})


def test_the_mean_begins_at_the_share_of_epochs_that_is_asked_for(small, arrays):
    """0.29 of 100 epochs are 29, although their product is 28.999..."""
    recipe = made(epochs=100, averaging={"name": "swa", "start": 0.29})
    average = WeightAverage(small.multi_exit(), ALL, recipe, arrays[0])
    for epoch, count in ((28, 0), (29, 1)):
        average.on_train_batch_end(SimpleNamespace(is_last_batch=True, current_epoch=epoch))
        assert average.count == count
