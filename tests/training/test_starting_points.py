"""Where a training may start: a model or an artifact to fine-tune, a network of one's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import sentio
from sentio.core.cutting import CutNetwork
from sentio.core.errors import ArtifactError, ConfigError
from sentio.training.training import train


def weights(model):
    return model.network.state_dict()


def test_fine_tuning_on_the_same_labels_keeps_front_end_and_weights(trained, tones, recipe):
    before = copy.deepcopy(weights(trained.model))
    values = recipe(frontend=None, network=None, exits=None, epochs=1, optimiser={"lr": 1e-12})
    model = train(trained.path, values, tones)
    assert model.frontend.settings() == trained.model.frontend.settings()
    for name, parameter in model.network.named_parameters():
        torch.testing.assert_close(parameter, before[name], atol=1e-6, rtol=0)
    assert model.network.exit_names == trained.model.network.exit_names
    assert train(trained.model, values, tones).network is not trained.model.network
    assert all(torch.equal(before[key], value) for key, value in weights(trained.model).items())


def test_fine_tuning_on_other_labels_renews_the_last_stage_and_the_exits(trained, few, recipe):
    values = recipe(frontend=None, network=None, exits=None, epochs=1, optimiser={"lr": 1e-12})
    model = train(trained.path, values, few(8, labels=("high", "low")))
    assert model.task.labels == ("high", "low")
    assert model.frontend.settings() == trained.model.frontend.settings()
    before, after_ = dict(trained.model.network.named_parameters()), dict(model.network.named_parameters())
    kept = [name for name in before if name.startswith("backbone.stages.block")]
    for name in kept:
        torch.testing.assert_close(after_[name], before[name], atol=1e-6, rtol=0)
    assert {tuple(after_[name].shape) for name in after_ if name.endswith("head.1.bias")} == {(2,)}
    assert set(model.network.exit_names) == {"block1", "block2", "final"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frontend": None}, "names a network, and training starts from another one"),
        ({"network": None}, "keeps its front end when it is fine-tuned"),
    ],
)
def test_a_recipe_that_contradicts_the_model_to_fine_tune(trained, tones, recipe, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(trained.path, recipe(exits=None, **changes), tones)


def test_an_exit_that_the_model_has_already(trained, tones, recipe):
    with pytest.raises(ConfigError, match="An exit called 'block1' exists already"):
        train(trained.path, recipe(frontend=None, network=None), tones)


def test_exits_alone_on_a_trained_model(trained, tones, recipe):
    exits = [{"kind": "pooled-linear", "at": ["block3"]}]
    technique = {"name": "classifier-wise", "options": {"train_backbone": False}}
    model = train(
        trained.path,
        recipe(frontend=None, network=None, exits=exits, technique=technique, epochs=1),
        tones,
    )
    assert model.network.exit_names == ("block1", "block2", "block3", "final")
    before, found = trained.model.network.backbone.state_dict(), model.network.backbone.state_dict()
    assert all(torch.equal(before[key], found[key]) for key in before)


class Residual(nn.Module):
    """A network of somebody else's."""

    def __init__(self, classes=3):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4, classes)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        return self.last((x + self.second(x)).mean((2, 3)))


@pytest.mark.parametrize("technique", ["end-to-end", "classifier-wise"])
def test_a_network_of_somebody_elses(tones, recipe, tmp_path, technique):
    def cut():
        return sentio.stage(Residual(), ["norm"], torch.randn(2, 1, 19, 24))

    net = cut()
    assert isinstance(net, CutNetwork)
    before = net.original.norm.running_mean.clone()
    exits = [{"kind": "pooled-linear", "at": ["norm"]}]
    values = recipe(network=None, exits=exits, epochs=2, technique=technique)
    model = train(net, values, tones, out=tmp_path / "m")
    assert model.network.backbone is net
    assert not torch.equal(before, net.original.norm.running_mean)
    with pytest.raises(ArtifactError, match="not in the registry"):
        sentio.load(tmp_path / "m", runtime="torch")
    structure = sentio.add_exits(cut(), "pooled-linear", at=["norm"], classes=3)
    again = sentio.load(tmp_path / "m", network=structure)
    clip = tones / "low" / "0.wav"
    assert again.predict(clip).scores == pytest.approx(model.predict(clip).scores)


def test_a_multi_exit_network_is_trained_in_place(tones, recipe):
    net = sentio.create_network("tiny-cnn", width=4, classes=3)
    net = sentio.add_exits(net, "pooled-linear", at=["block1"], classes=3)
    net.switch("block1", on=False)
    model = train(net, recipe(network=None, exits=None, epochs=1), tones)
    assert model.network is net
    assert model.exit_names == ("block1", "final")
    assert net.backbone.input_shapes == {"main": (1, 19, 24)}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            lambda: sentio.create_network("tiny-cnn", classes=7),
            "the data has 3 classes; build the network",
        ),
        (lambda: sentio.create_network("tiny-cnn", classes=3, in_channels=2), "does not take the front end"),
        (lambda: Residual(), "is a Staged, a MultiExit or a Model, got Residual; sentio.stage cuts"),
    ],
)
def test_networks_that_do_not_fit_the_data(tones, recipe, network, message):
    told = []
    with pytest.raises(ConfigError, match=message):
        train(network(), recipe(network=None, exits=None), tones, progress=told.append)
    assert told == [], "this is seen before the features are computed"
