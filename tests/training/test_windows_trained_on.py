"""Which windows a training takes, and what they are standardised with."""

from __future__ import annotations

import numpy as np
import pytest

import sentio
from sentio.core.errors import ConfigError
from sentio.data.readers import open_data
from sentio.training.batches import Arrays, Shuffled
from sentio.training.recipe import read_recipe
from sentio.training.training import train

ROWS = np.array([7, 7, 2, 2, 2, 9])


def order(epoch, **share):
    sampler = Shuffled(len(ROWS), seed=4, rows=ROWS, **share)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_an_epoch_has_one_window_of_each_recording():
    epochs = [order(epoch) for epoch in range(60)]
    assert all(sorted(ROWS[epoch]) == [2, 7, 9] for epoch in epochs)
    assert {window for epoch in epochs for window in epoch} == set(range(len(ROWS)))
    assert order(3) == order(3)


def test_a_window_may_be_of_a_copy():
    drawn = np.concatenate([order(epoch, versions=2) for epoch in range(80)])
    assert set(drawn) == set(range(2 * len(ROWS)))


def test_devices_share_the_recordings():
    shares = [order(0, rank=rank, devices=3) for rank in range(3)]
    assert sorted(ROWS[np.concatenate(shares)]) == [2, 7, 9]


def test_batches_follow_the_order():
    inputs = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
    arrays = Arrays(inputs, np.array([1, 1, 0, 0, 0, 1]), rows=ROWS)
    batches = list(arrays.shuffled(2, seed=0))
    assert sum(len(targets) for _, targets, _ in batches) == 3 - 1  # a last batch of one is left out
    for x, targets, places in batches:
        assert x.flatten().tolist() == places.tolist()
        assert targets.tolist() == (ROWS[places] != 2).astype(int).tolist()


def plain(settings, **options):
    return sentio.core.registry.build(
        "frontend", "log-mel", **{**settings, "mean": None, "std": None} | options
    )


def test_each_band_gets_a_scale_of_its_own(tones, recipe):
    model = train(None, recipe(epochs=1, standardise="band"), tones)
    data, settings = open_data(tones), model.frontend.settings()
    part = sentio.data.splits.splits(data)[0].train
    values = np.concatenate([plain(settings).prepare(data.items[index].source).inputs for index in part])
    assert settings["mean"] == pytest.approx(values.mean((0, 1, 2)), rel=1e-4)
    assert settings["std"] == pytest.approx(values.std((0, 1, 2)), rel=1e-4)


def test_a_model_that_is_fine_tuned_can_be_standardised_anew(trained, tones, recipe):
    values = {
        key: value for key, value in recipe(epochs=1).items() if key not in ("frontend", "network", "exits")
    }
    kept = train(trained.model, values, tones)
    assert kept.frontend.settings() == trained.model.frontend.settings()
    anew = train(trained.model, {**values, "standardise": "band"}, tones)
    assert len(anew.frontend.settings()["mean"]) == anew.frontend.settings()["n_mels"]


def test_closer_windows_are_trained_on_and_not_answered_about(tones, recipe, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "sentio.training.training.Arrays",
        lambda *arguments, **named: seen.append(arguments) or Arrays(*arguments, **named),
    )
    options = recipe()["frontend"]["options"]
    window = options["window"] / 2
    values = recipe(epochs=1, frontend={"name": "log-mel", "options": {**options, "window": window}})
    values["data"] = {"train_hop": window / 4, "draw": "one"}
    model = train(None, values, tones)
    inputs, _, _, rows, _ = seen[0]
    assert len(inputs) == 5 * 24  # windows at 0, 1/4, ..., 4/4 of half the recording
    assert np.bincount(rows).max() == 5
    assert model.frontend.settings()["hop"] is None
    assert seen[1][0].shape[0] == 2 * 6  # of each of the validation part the two that do not overlap
    mean = float(np.asarray(inputs).mean())
    assert abs(mean) < 0.2  # scaled by the windows that do not overlap


def test_front_ends_without_it_say_so(tones, recipe):
    values = recipe(frontend="waveform", standardise="band", network=None, exits=[])
    with pytest.raises(ConfigError, match="standardise: front end 'waveform' has no mean and std; take"):
        train(None, values, tones)
    for frontend in ("image", "image-and-sound"):
        message = f"standardise: front end '{frontend}' scales its inputs in its own way and not by band"
        with pytest.raises(ConfigError, match=message):
            read_recipe({**recipe(network=None, exits=[]), "frontend": frontend, "standardise": "band"})
        read_recipe({**recipe(network=None, exits=[]), "frontend": frontend, "standardise": "all"})
    values = recipe(frontend="skeleton", data={"train_hop": 0.1}, network=None, exits=[])
    with pytest.raises(ConfigError, match=r"data.train_hop: front end 'skeleton' has no hop; take"):
        train(None, values, tones)


@pytest.mark.parametrize("over", ["all", "band"])
def test_a_front_end_that_has_its_own_scale_is_not_given_that_of_the_data(recipe, over):
    message = (
        "standardise: the mean and std of front end 'video' are settings of its own; take standardise out"
    )
    with pytest.raises(ConfigError, match=message):
        read_recipe({**recipe(network=None, exits=[]), "frontend": "video", "standardise": over})


@pytest.mark.parametrize(
    "changes", [{"standardise": "channel"}, {"data": {"draw": "two"}}, {"data": {"train_hop": 0}}]
)
def test_recipes_are_checked(changes, tones, recipe):
    with pytest.raises(ConfigError, match=r"standardise|draw|train_hop"):
        train(None, recipe(**changes), tones)
