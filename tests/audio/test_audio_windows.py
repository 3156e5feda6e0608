"""From recordings to windows of features."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentio.audio import io
from sentio.audio.frontend import LogMel
from sentio.audio.windows import AudioFrontEnd, fit_standardisation, log_mel_windows, window_starts
from sentio.core import registry
from sentio.core.errors import ConfigError, InputError

RATE = 8000
SMALL = LogMel(rate=RATE, n_fft=256, hop_length=200, n_mels=16)
ONE_SECOND = AudioFrontEnd(SMALL, window=1.0)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (0.1 * samples).astype(np.float32)


def test_a_recording_of_one_window_is_that_window() -> None:
    samples = noise(1.0)
    found = ONE_SECOND.prepare((samples, RATE))
    assert found.inputs.dtype == np.float32 and found.inputs.shape == (1, 1, 41, 16)
    assert ONE_SECOND.input_shapes == {"main": (1, 41, 16)}
    np.testing.assert_array_equal(found.inputs[0, 0], SMALL(samples))
    assert (found.starts.tolist(), found.ends.tolist()) == ([0.0], [1.0])
    assert (found.silent.tolist(), found.notes) == ([False], ())


def test_the_last_window_ends_with_the_recording() -> None:
    samples = noise(2.3)
    found = ONE_SECOND.prepare((samples, RATE))
    np.testing.assert_allclose(found.starts, [0.0, 1.0, 1.3])
    np.testing.assert_allclose(found.ends, [1.0, 2.0, 2.3])
    for start, features in zip(found.starts, found.inputs, strict=True):
        first = round(start * RATE)
        np.testing.assert_array_equal(features[0], SMALL(samples[first : first + RATE]))


def test_windows_overlap_by_the_hop() -> None:
    found = ONE_SECOND.prepare((noise(2.1), RATE), hop=0.5)
    np.testing.assert_allclose(found.starts, [0.0, 0.5, 1.0, 1.1])


def test_a_rest_too_short_for_a_frame_makes_no_window() -> None:
    assert window_starts(1009, 1000, 1000, 10).tolist() == [0]
    assert window_starts(1010, 1000, 1000, 10).tolist() == [0, 10]
    assert window_starts(2009, 1000, 1000, 10).tolist() == [0, 1000]


@given(st.integers(1, 500), st.integers(1, 100), st.integers(1, 100))
@settings(max_examples=200, deadline=None)
def test_every_sample_is_heard(samples: int, length: int, step: int) -> None:
    starts = window_starts(samples, length, min(step, length))
    heard = np.zeros(max(samples, length), bool)
    for start in starts:
        assert start >= 0 and start + length <= len(heard)
        heard[start : start + length] = True
    assert heard.all()
    assert (np.diff(starts) > 0).all()
    # No window could be left out: they are as many as the ceiling says.
    assert len(starts) == 1 + max(0, -(-(samples - length) // min(step, length)))


def test_a_short_recording_is_padded_and_said_to_be() -> None:
    found = ONE_SECOND.prepare((noise(0.4), RATE))
    assert found.inputs.shape == (1, 1, 41, 16) and np.isfinite(found.inputs).all()
    np.testing.assert_array_equal(found.inputs[0, 0], SMALL(np.pad(noise(0.4), (0, 4800))))
    assert (found.starts.tolist(), found.ends.tolist()) == ([0.0], [0.4])
    assert found.notes == ("The recording of 0.400 s is padded with silence to 1 s",)


def test_silent_windows_are_marked() -> None:
    samples = np.concatenate([noise(1.0), np.zeros(RATE, np.float32), noise(1.0) * 1e-5, noise(1.0) * 1e-2])
    found = ONE_SECOND.prepare((samples, RATE))
    assert found.silent.tolist() == [False, True, True, False]
    assert np.isfinite(found.inputs).all()


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@pytest.mark.parametrize("rate", [11025, 44100])
def test_files_of_any_rate_and_channels_are_prepared(tmp_path: Path, name: str, rate: int) -> None:
    time = np.arange(2 * rate) / rate
    left, right = 0.4 * np.sin(2 * np.pi * 500 * time), 0.2 * np.sin(2 * np.pi * 1500 * time)
    path = tmp_path / name
    io.write(path, np.stack([left, right]).astype(np.float32), rate)
    found = ONE_SECOND.prepare(path)
    same = ONE_SECOND.prepare(str(path))
    assert found.inputs.shape == (2, 1, 41, 16)
    np.testing.assert_array_equal(found.inputs, same.inputs)
    mixed = io.read(path, rate=RATE, mono=True)
    np.testing.assert_array_equal(found.inputs[1, 0], SMALL(mixed.samples[0, RATE:]))


def test_a_sound_and_its_samples_are_the_same_source() -> None:
    samples = np.stack([noise(1.0, 1), noise(1.0, 2)])
    found = ONE_SECOND.prepare((samples, RATE)).inputs
    np.testing.assert_array_equal(ONE_SECOND.prepare(io.Sound(samples, RATE)).inputs, found)
    np.testing.assert_array_equal(found[0, 0], SMALL(samples.mean(axis=0)))
    whole = np.round(samples * 32767).astype(np.int16)
    np.testing.assert_allclose(ONE_SECOND.prepare((whole, RATE)).inputs, found, atol=0.5)


def test_notes_of_the_sound_are_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    io.write(path, np.zeros(RATE // 2), RATE)
    notes = ONE_SECOND.prepare(path).notes
    assert notes[0].endswith("is digital silence: every sample is 0") and "is padded" in notes[1]
    assert ONE_SECOND.prepare(io.read(path)).notes == notes
    assert ONE_SECOND.prepare((np.zeros(RATE), RATE)).notes == (
        "The recording is digital silence: every sample is 0",
    )


@pytest.mark.parametrize("source", [np.zeros(RATE), [0.0, 0.1], None, 5, (np.zeros(5), 8000, 1)])
def test_other_sources_are_refused(source: object) -> None:
    with pytest.raises(InputError, match=r"is a path, a Sound or \(samples, rate\), got"):
        ONE_SECOND.prepare(source)


def test_unusable_recordings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        ONE_SECOND.prepare(tmp_path / "gone.wav")
    with pytest.raises(InputError, match="The recording holds 1 samples that are NaN"):
        ONE_SECOND.prepare((np.array([0.0, np.nan]), RATE))
    with pytest.raises(InputError, match="The recording holds no samples"):
        ONE_SECOND.prepare(io.Sound(np.zeros((1, 0), np.float32), RATE))


@pytest.mark.parametrize("hop", [0.0, -1.0, float("nan")])
def test_a_hop_must_be_positive(hop: float) -> None:
    with pytest.raises(ConfigError, match="hop must be a number of seconds above 0"):
        ONE_SECOND.prepare((noise(1.0), RATE), hop=hop)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (0.0, "window must be a number of seconds above 0"),
        (float("inf"), "window must be a number of seconds above 0"),
        ("1", "window must be a number of seconds above 0"),
        (1e-5, "is too short: A clip of 0 samples"),
    ],
)
def test_impossible_windows_are_refused(window: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AudioFrontEnd(SMALL, window)  # type: ignore[arg-type]


def test_the_registry_builds_it_again_from_its_settings() -> None:
    given = AudioFrontEnd(
        LogMel(rate=16000, n_mels=3, log="ln", mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 2.0)), window=0.7
    )
    stored = json.loads(json.dumps(given.settings()))
    assert stored == given.settings()
    again = registry.build("frontend", given.name, **stored)
    assert again == given and again.input_shapes == given.input_shapes
    np.testing.assert_array_equal(
        again.prepare((noise(1.0), RATE)).inputs, given.prepare((noise(1.0), RATE)).inputs
    )


def test_the_builder_takes_every_setting_with_its_default() -> None:
    assert {"log-mel", "scalogram", "waveform"} <= set(registry.names("frontend"))
    options = registry.find("frontend", "log-mel").options()
    assert list(options) == ["preset", "window", "hop", "quiet", *(entry.name for entry in fields(LogMel))]
    assert log_mel_windows() == AudioFrontEnd(LogMel(), window=1.0)
    with pytest.raises(ConfigError, match="has no option 'n_mel'"):
        registry.build("frontend", "log-mel", n_mel=3)
    with pytest.raises(ConfigError, match="hop_length must be a whole number"):
        registry.build("frontend", "log-mel", hop_length=0)


def test_standardisation_makes_features_of_mean_0_and_deviation_1(tmp_path: Path) -> None:
    quiet = tmp_path / "quiet.wav"
    io.write(quiet, 1e-2 * noise(0.5, 3), RATE, subtype="FLOAT")
    sources = [(noise(2.3, 1), RATE), quiet, (noise(1.0, 2), RATE)]
    fitted = fit_standardisation(ONE_SECOND, iter(sources))
    raw = np.concatenate([ONE_SECOND.prepare(source).inputs for source in sources])
    assert fitted.features.mean == pytest.approx(float(raw.mean(dtype=np.float64)), abs=1e-6)
    assert fitted.features.std == pytest.approx(float(raw.std(dtype=np.float64)), abs=1e-6)
    found = np.concatenate([fitted.prepare(source).inputs for source in sources])
    assert abs(found.mean()) < 1e-5 and abs(found.std() - 1) < 1e-5
    assert fit_standardisation(fitted, sources).features == fitted.features
    assert ONE_SECOND.features.mean is None
    assert fitted.log_mel is fitted.features  # its name when all features were log-mel


def test_standardisation_needs_recordings_that_vary() -> None:
    with pytest.raises(InputError, match="needs at least one recording"):
        fit_standardisation(ONE_SECOND, [])
    with pytest.raises(InputError, match="needs features that vary"):
        fit_standardisation(ONE_SECOND, [(np.zeros(RATE), RATE)])


def test_a_front_end_may_have_a_hop_of_its_own() -> None:
    own = log_mel_windows(window=0.5, hop=0.25, rate=RATE)
    sound = np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)
    found = own.prepare((sound, RATE))
    assert found.starts.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    asked = log_mel_windows(window=0.5, rate=RATE).prepare((sound, RATE), hop=0.25)
    assert np.array_equal(found.inputs, asked.inputs)
    assert own.prepare((sound, RATE), hop=1.0).starts.tolist() == [0.0, 1.0, 1.5]
    with pytest.raises(ConfigError, match=r"hop must be a number of seconds above 0, got 0\.0"):
        log_mel_windows(window=0.5, hop=0.0, rate=RATE)


def test_windows_far_below_the_recordings_peak_may_count_as_silent() -> None:
    sound = np.zeros(4 * RATE, np.float32)
    sound[:RATE] = 0.5
    sound[RATE : 2 * RATE] = 0.05  # -20 dB
    sound[2 * RATE : 3 * RATE] = 0.002  # -48 dB
    plain = log_mel_windows(window=1.0, rate=RATE).prepare((sound, RATE))
    assert plain.silent.tolist() == [False, False, False, True]
    strict = log_mel_windows(window=1.0, rate=RATE, quiet=30.0).prepare((sound, RATE))
    assert strict.silent.tolist() == [False, False, True, True]
    softer = log_mel_windows(window=1.0, rate=RATE, quiet=30.0).prepare((0.1 * sound, RATE))
    assert softer.silent.tolist() == strict.silent.tolist()
    with pytest.raises(ConfigError, match=r"quiet must be a number of decibels above 0, got -3"):
        log_mel_windows(window=1.0, rate=RATE, quiet=-3)
