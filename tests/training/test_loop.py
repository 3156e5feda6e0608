"""One phase under Lightning: what is trained, kept, logged, and how it goes on after an interruption."""

from __future__ import annotations

import copy
import csv
import os
import signal
import threading

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from sentio.core.errors import ArtifactError, CancelledError, ConfigError
from sentio.core.multi_exit import MultiExit
from sentio.core.staged import Staged
from sentio.tasks.classification import Classification
from sentio.techniques.phases import Phase
from sentio.training.batches import Arrays, Shuffled
from sentio.training.loop import check_devices, run_phase
from sentio.training.recipe import Recipe
from sentio.training.sections import DevicesSection

TASK = Classification(["cat", "dog", "owl"])
ALL = Phase("all", ("a", "b", "head"), ("e1", "e2"), {"e1": 0.5, "e2": 0.5, "final": 1.0})
EXITS = Phase("exits", (), ("e1", "e2"), {"e1": 1.0, "e2": 1.0})
BATCHES = 4


def made(**changes):
    values = {"name": "loop", "epochs": 4, "batch": 8, "optimiser": {"lr": 0.01}, "keep": "last"}
    return Recipe.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def arrays(small):
    """A training part of 32 samples and a validation part of 9, classes told apart by their level."""

    def part(samples, seed):
        targets = np.arange(samples) % 3
        levels = (targets[:, None, None, None] - 1).astype(np.float32)
        return Arrays(small.features(samples, seed) * 0.5 + levels, targets.astype(np.int64))

    return part(32, 1), part(9, 2)


@pytest.fixture
def go(small, arrays, tmp_path):
    """``go(recipe, phase=ALL, folder="run", validation=True, ...)``: a fresh network, trained."""

    def run(recipe, phase=ALL, folder="run", validation=True, net=None, **told):
        net = net or small.multi_exit(seed=3)
        run_phase(
            net, phase, recipe, TASK, arrays[0], arrays[1] if validation else None, tmp_path / folder, **told
        )
        return net

    return run


def after(steps):
    """Wants to stop after so many calls."""
    calls = []

    def cancel():
        calls.append(1)
        return len(calls) > steps

    return cancel


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_phase_learns_and_leaves_the_network_ready(go, small, arrays):
    net = go(made(epochs=10))
    assert not net.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in net.parameters())
    with torch.no_grad():
        x = torch.from_numpy(arrays[1].inputs)
        before, found = (n(x)["final"].numpy() for n in (small.multi_exit(seed=3), net))
    accuracy = [TASK.score(output, arrays[1].targets)["accuracy"] for output in (before, found)]
    assert accuracy[0] < 0.5 < 0.8 < accuracy[1]


def test_two_deterministic_runs_give_the_same_bits(go):
    recipe = made(deterministic=True, augment={"mixup": 0.3, "time_mask": 0.2, "roll": 0.5})
    first = go(recipe, folder="1")
    torch.manual_seed(99)
    assert same(first, go(recipe, folder="2"))
    assert not same(first, go(made(**{**recipe.model_dump(), "seed": 1}), folder="3"))


def test_pytorch_is_left_as_it_was(go):
    handler = signal.getsignal(signal.SIGINT)
    go(made(epochs=1, deterministic=True), folder="1")
    assert not torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        go(made(epochs=1), folder="2")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert signal.getsignal(signal.SIGINT) is handler


def test_frozen_stages_keep_parameters_and_buffers_while_exits_train(go, small):
    net = go(made(), EXITS)
    before = small.multi_exit(seed=3)
    assert same(net.backbone, before.backbone)
    assert not same(net.branch("e1"), before.branch("e1"))


def test_branches_trained_together_or_alone_end_with_the_same_weights(go):
    """Twenty steps and one Adam; the branches of this network have no dropout."""
    together = go(made(epochs=5), EXITS, folder="together")
    for name in ("e1", "e2"):
        alone = go(made(epochs=5), Phase("alone", (), (name,), {name: 1.0}), folder=name)
        assert same(together.branch(name), alone.branch(name))


def test_a_second_phase_is_in_the_mode_it_needs(go):
    """The first one leaves the network in eval mode; batch norm has to learn its statistics all the same."""
    net = go(made(epochs=1), EXITS)
    before = net.backbone.stage("a").norm.running_mean.clone()
    go(made(epochs=1), Phase("a", ("a",), ("e1",), {"e1": 1.0}), folder="second", net=net)
    assert not torch.equal(before, net.backbone.stage("a").norm.running_mean)


SCHEDULES = {
    "plateau": {"schedule": {"name": "plateau", "patience": 0}, "early_stopping": 3, "keep": "best"},
    "warmup": {"schedule": {"name": "cosine", "warmup_epochs": 2}},
    "augmented": {"augment": {"mixup": 0.3, "roll": 0.5, "frequency_mask": 0.3}, "keep": "best"},
    "muon": {"optimiser": {"name": "muon", "lr": 0.02}},
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [BATCHES + 1, 3 * BATCHES])
def test_an_interrupted_phase_ends_like_an_uninterrupted_one(go, tmp_path, name, steps):
    """Dropout, order, augmentation, optimiser, schedule, best epoch: all go on as they would have."""
    options = {"optimiser": {"name": "adamw", "lr": 0.02}, **SCHEDULES[name]}
    recipe = made(deterministic=True, epochs=5, **options)
    whole = go(recipe, folder="whole")
    with pytest.raises(CancelledError, match="the same command goes on"):
        go(recipe, folder="parts", cancel=after(steps))
    assert len(rows(tmp_path / "parts")) == steps // BATCHES
    assert same(whole, go(recipe, folder="parts"))
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_an_interruption_loses_at_most_one_epoch(go, tmp_path):
    told = []
    with pytest.raises(CancelledError):
        go(made(), cancel=after(2 * BATCHES + 3))
    go(made(), report=told.append)
    assert told[0].done == 2 * BATCHES + 1


def test_a_finished_phase_is_not_trained_further(go):
    first = go(made())
    told = []
    assert same(first, go(made(), report=told.append))
    assert told == []


def test_a_phase_that_had_stopped_early_does_not_go_on(go):
    recipe = made(epochs=30, early_stopping=1, keep="best", optimiser={"lr": 0.3})
    told = []
    first = go(recipe)
    assert same(first, go(recipe, report=told.append))
    assert told == []


def test_ctrl_c_is_a_cancellation_and_the_next_one_still_works(go):
    def press(step):
        if step.done == BATCHES + 2:
            os.kill(os.getpid(), signal.SIGINT)

    # A job in the background starts with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(CancelledError, match="interrupted") as caught:
            go(made(), report=press)
        assert caught.value.exit_code == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    told = []
    go(made(), report=told.append)
    assert told[0].done == BATCHES + 1


def test_training_in_another_thread(go):
    found = []
    worker = threading.Thread(target=lambda: found.append(go(made(epochs=1))))
    worker.start()
    worker.join()
    assert isinstance(found[0], MultiExit)


def test_progress_is_monotone_and_ends_at_the_total(go):
    told = []
    go(made(), report=told.append)
    assert {step.job for step in told} == {"train all"}
    assert [step.done for step in told] == sorted(step.done for step in told)
    assert (told[-1].done, told[-1].total) == (4 * BATCHES, 4 * BATCHES)
    expected = {"epoch", "learning_rate", "train_loss", "val_loss", "val_accuracy/e1", "val_accuracy/final"}
    assert expected <= set(told[-1].figures)
    assert told[0].figures == {}


def test_figures_are_logged_as_csv_and_for_tensorboard(go, tmp_path):
    go(made())
    table = rows(tmp_path / "run")
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4"]
    losses = [float(row["train_loss"]) for row in table]
    assert losses[-1] < losses[0]
    assert all(0 <= float(row["val_accuracy/final"]) <= 1 for row in table)

    events = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    assert {"train_loss", "val_loss", "val_accuracy/e1", "learning_rate"} <= set(events.Tags()["scalars"])
    logged = [event.value for event in events.Scalars("val_loss")]
    assert logged == pytest.approx([float(row["val_loss"]) for row in table], rel=1e-4)


def test_the_learning_rate_falls_on_a_plateau(go, tmp_path):
    schedule = {"name": "plateau", "factor": 0.5, "patience": 0}
    go(made(epochs=8, schedule=schedule, optimiser={"lr": 2.0}))
    table = rows(tmp_path / "run")
    rate, best = 2.0, float("inf")
    for row in table:
        assert float(row["learning_rate"]) == pytest.approx(rate)
        if float(row["val_loss"]) < best * (1 - 1e-4):
            best = float(row["val_loss"])
        else:
            rate *= 0.5
    assert rate < 2.0, "the loss rose at least once, else nothing was tested"


def test_the_learning_rate_rises_and_falls_along_a_cosine(go, tmp_path):
    go(made(epochs=6, schedule={"name": "cosine", "warmup_epochs": 2}))
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "run")]
    cosine = [0.005 * (1 + np.cos(np.pi * epoch / 4)) for epoch in range(4)]
    assert rates == pytest.approx([0.0001, 0.00505, *cosine], rel=1e-4)


def test_a_warmup_takes_at_most_half_of_the_epochs(go, tmp_path):
    go(made(epochs=2, schedule={"name": "cosine", "warmup_epochs": 50}))
    assert float(rows(tmp_path / "run")[1]["learning_rate"]) == pytest.approx(0.01)


def test_the_constant_learning_rate_is_constant(go, tmp_path):
    go(made(schedule={"name": "constant"}, optimiser={"name": "sgd", "lr": 0.01}))
    assert {row["learning_rate"] for row in rows(tmp_path / "run")} == {"0.01"}


def test_early_stopping_ends_a_phase_and_the_best_epoch_is_kept(go, tmp_path, arrays):
    recipe = made(epochs=40, early_stopping=2, keep="best", optimiser={"lr": 0.3})
    net = go(recipe)
    losses = [float(row["val_loss"]) for row in rows(tmp_path / "run")]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 40
    with torch.no_grad():
        found = net(torch.from_numpy(arrays[1].inputs))
        targets = torch.from_numpy(arrays[1].targets)
        loss = sum(w * nn.functional.cross_entropy(found[n], targets) for n, w in ALL.losses.items())
    assert float(loss) == pytest.approx(losses[best], rel=1e-4)


def test_without_validation_the_last_epoch_is_kept_and_nothing_stops_early(go, tmp_path):
    recipe = made(epochs=5, early_stopping=1, keep="best", schedule={"name": "plateau"})
    kept = go(recipe, validation=False)
    assert len(rows(tmp_path / "run")) == 5
    assert "val_loss" not in rows(tmp_path / "run")[0]
    last = made(epochs=5, keep="last", schedule={"name": "plateau"})
    assert same(kept, go(last, validation=False, folder="last"))


def test_a_loss_that_is_no_number_stops_the_training(go, tmp_path):
    with pytest.raises(
        ConfigError, match=r"loss is no longer a finite number in epoch \d .*optimiser.lr is 1e\+30"
    ):
        go(made(optimiser={"name": "sgd", "lr": 1e30}))


def test_a_full_disk_is_one_sentence_and_the_training_goes_on_later(go, monkeypatch, tmp_path):
    whole = go(made(deterministic=True), folder="whole")
    with pytest.raises(CancelledError):
        go(made(deterministic=True), cancel=after(BATCHES + 1))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lightning.fabric.plugins.io.torch_io._atomic_save", full)
        with pytest.raises(ArtifactError, match=r"could not be written: No space left on device; once that"):
            go(made(deterministic=True))
    assert same(whole, go(made(deterministic=True)))


def test_a_folder_that_cannot_be_made(go, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="could not be written"):
        go(made(), folder="file/run")


def test_batches_larger_than_the_data(go, tmp_path):
    go(made(batch=1000, epochs=2))
    assert len(rows(tmp_path / "run")) == 2


def test_a_last_batch_of_one_sample_is_left_out(small, arrays):
    inputs, targets = arrays[0].inputs[:17], arrays[0].targets[:17]
    assert [len(x) for x, *_ in Arrays(inputs, targets).shuffled(8, seed=0)] == [8, 8]
    assert [len(x) for x, *_ in Arrays(inputs, targets).shuffled(1, seed=0)] == [1] * 17
    assert [len(x) for x, *_ in Arrays(inputs[:1], targets[:1]).shuffled(8, seed=0)] == [1]


def test_batch_norm_on_single_samples_is_one_sentence(arrays, tmp_path):
    stages = {"flat": nn.Flatten(), "norm": nn.BatchNorm1d(64), "head": nn.Linear(64, 3)}
    net = MultiExit(Staged(stages, input_shapes=(1, 8, 8)))
    phase = Phase("all", net.stage_names, (), {"final": 1.0})
    with pytest.raises(ConfigError, match="give a batch of at least 2"):
        run_phase(net, phase, made(batch=1), TASK, *arrays, tmp_path)


def test_memory_that_does_not_suffice_is_one_sentence(go, small):
    net = small.multi_exit(seed=3)

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    net.backbone.stage("a").register_forward_hook(exhausted)
    with pytest.raises(ConfigError, match="A batch of 8 does not fit in the device's memory"):
        go(made(), net=net)


@pytest.mark.parametrize(
    "devices", [{"accelerator": "abacus"}, {"strategy": "none"}, {"devices": 0}, {"devices": "two"}]
)
def test_devices_that_do_not_exist_are_refused(devices):
    with pytest.raises(ConfigError, match="devices cannot be used: "):
        check_devices(DevicesSection.model_validate({"accelerator": "cpu", **devices}))


def test_the_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch, **share):
        sampler = Shuffled(10, seed, **share)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert sorted(order(0, 1)) == list(range(10))
    assert len({tuple(order(0, 0)), tuple(order(0, 1)), tuple(order(1, 0))}) == 3


@pytest.mark.parametrize("devices", [2, 3, 12])
def test_devices_get_equal_shares_that_do_not_overlap(devices):
    shares = [list(Shuffled(10, 0, rank, devices)) for rank in range(devices)]
    assert {len(share) for share in shares} == {max(1, 10 // devices)}
    if devices <= 10:
        chosen = [index for share in shares for index in share]
        assert len(set(chosen)) == len(chosen)


def test_the_network_given_is_the_one_that_is_trained(go, small):
    net = small.multi_exit(seed=3)
    before = copy.deepcopy(net)
    assert go(made(epochs=1), net=net) is net
    assert not same(before, net)
