"""A recording as a picture."""

import numpy as np
import pytest
import soundfile

from sentio.audio.spectrogram import spectrogram
from sentio.core.errors import InputError


def test_a_tone_shows_in_its_time_and_band(tmp_path):
    seconds = np.arange(30 * 16000) / 16000
    tone = np.where((seconds >= 10) & (seconds < 20), 0.5 * np.sin(2 * np.pi * 2000 * seconds), 0)
    soundfile.write(tmp_path / "tone.wav", tone, 16000)
    found = spectrogram(tmp_path / "tone.wav", frames=300, bands=64)
    assert found.shape == (300, 64) and found.dtype == np.float32
    loud = found.max(axis=1)
    assert loud[105:195].min() > loud[:95].max() + 40
    assert len(set(found[105:195].argmax(axis=1))) == 1


@pytest.mark.parametrize("seconds", [0.01, 0.5, 12.3])
def test_any_length_gives_no_more_frames_than_there_are(tmp_path, seconds):
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * 44100))
    soundfile.write(tmp_path / "noise.flac", noise, 44100)
    found = spectrogram(tmp_path / "noise.flac")
    assert 1 <= len(found) <= min(600, seconds * 16000 / 256 + 2)
    assert np.isfinite(found).all()


def test_the_mean_over_merged_frames_is_that_of_powers(tmp_path):
    """Noise of one power looks the same whether few or many frames fall together."""
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * 16000)
    soundfile.write(tmp_path / "noise.wav", noise, 16000, subtype="FLOAT")
    fine, coarse = (spectrogram(tmp_path / "noise.wav", frames=frames) for frames in (600, 20))
    mean = 10 * np.log10((10 ** (fine / 10)).mean(axis=0))
    assert np.abs(coarse.mean(axis=0) - mean).max() < 0.5


def test_a_file_that_is_no_sound(tmp_path):
    (tmp_path / "x.wav").write_text("hello")
    with pytest.raises(InputError, match=r"x\.wav"):
        spectrogram(tmp_path / "x.wav")
