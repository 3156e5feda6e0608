"""More data that is only trained on."""

import shutil

import numpy as np
import pytest

from sentio.core.errors import ConfigError
from sentio.training.training import train


@pytest.fixture
def more(tones, tmp_path):
    """A folder of two of the three classes."""
    folder = tmp_path / "more"
    for label in ("high", "low"):
        shutil.copytree(tones / label, folder / label)
    return folder


def test_extra_data_are_trained_on_and_nothing_else(recipe, tones, more, monkeypatch):
    import sentio.training.training as module

    seen = []
    kept = module.run_phase

    def spy(net, phase, plan, task, arrays, validation, folder, **told):
        seen.append((arrays.targets, validation.targets))
        kept(net, phase, plan, task, arrays, validation, folder, **told)

    monkeypatch.setattr(module, "run_phase", spy)
    values = recipe(epochs=1)
    alone = train(None, values, tones)
    both = train(None, {**values, "data": {**values.get("data", {}), "extra": str(more)}}, tones)
    (few, held), (many, same) = seen
    assert np.array_equal(held, same) and np.array_equal(many[: len(few)], few)
    # high is class 0 and low class 1 of high, low and middle.
    assert np.bincount(many[len(few) :], minlength=3).tolist() == [12, 12, 0]
    assert both.card["test"]["recordings"] == alone.card["test"]["recordings"]
    assert both.frontend.settings() == alone.frontend.settings()
    assert "extra" not in both.card["recipe"]["data"]


def test_extra_data_of_other_classes_or_beside_copies_are_refused(recipe, tones, more):
    (more / "low").rename(more / "loud")
    values = recipe(epochs=1)
    data = {**values.get("data", {}), "extra": str(more)}
    with pytest.raises(ConfigError, match=r"has classes that .* does not have: loud"):
        train(None, {**values, "data": data}, tones)
    (more / "loud").rename(more / "low")
    with pytest.raises(ConfigError, match="Extra data has no augmented copies"):
        train(None, {**values, "data": data, "augment": {"copies": 1, "pitch": 1.0}}, tones)
