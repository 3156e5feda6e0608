"""Training on features other than the usual log-mels: what comes out is stored and answers the same."""

from __future__ import annotations

import pytest

import sentio
from sentio.core.errors import ConfigError
from sentio.training.training import train

CASES = {
    "waveform": ({"rate": 8000, "window": 0.5}, "phinet-1d", {"filters": 2, "n_layers": 3}),
    "scalogram": (
        {"rate": 8000, "window": 0.3, "n_scales": 16, "f_max": 3900.0, "hop_length": 160},
        "tiny-cnn",
        {"width": 4},
    ),
    "log-mel": ({"preset": "bc-resnet", "window": 0.3}, "bc-resnet", {"width": 4}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_model_on_these_features_is_stored_and_answers_the_same(name, tones, recipe, tmp_path):
    options, network, sizes = CASES[name]
    changes = {
        "frontend": {"name": name, "options": options},
        "network": {"name": network, "options": sizes},
        "exits": None,
        "epochs": 1,
    }
    model = train(None, recipe(**changes), tones, out=tmp_path / "model")
    again = sentio.load(tmp_path / "model")
    assert again.frontend == model.frontend
    assert again.frontend.name == name
    clip = tones / "low" / "0.wav"
    assert again.predict(clip).scores == model.predict(clip).scores
    settings = model.frontend.settings()
    assert settings.get("mean", "none") is not None  # fitted in training, or none to fit
    assert "preset" not in settings


@pytest.mark.parametrize("key", ["roll", "gain", "time_mask", "erase", "freq_mixstyle"])
def test_waveforms_have_no_frequencies_to_change(key, tones, recipe):
    options, network, sizes = CASES["waveform"]
    changes = {"frontend": {"name": "waveform", "options": options}, "exits": None, "augment": {key: 0.2}}
    message = rf"augment\.{key}: front end 'waveform' gives no \(channel, time, frequency\) to change"
    with pytest.raises(ConfigError, match=message):
        train(None, recipe(**changes, network={"name": network, "options": sizes}), tones)
