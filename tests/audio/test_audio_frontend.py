"""The front end of record: held to librosa, and its settings checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sentio.audio import frontend
from sentio.audio.frontend import LogMel, hann_window, hz_to_mel, mel_filters, mel_to_hz
from sentio.audio.io import read
from sentio.core.errors import ConfigError, InputError

DCASE = LogMel(rate=32000, n_fft=4096, win_length=3072, hop_length=500, n_mels=256)
SETTINGS = {
    "dcase": DCASE,
    "speech": LogMel(rate=16000, n_fft=512, win_length=400, hop_length=160, n_mels=64),
    "librosa-default": LogMel(rate=22050, n_fft=2048, hop_length=512, n_mels=128),
    "htk": LogMel(
        rate=16000, n_fft=1024, win_length=400, hop_length=160, n_mels=40, mel_scale="htk", norm=None
    ),
    "band-limited": LogMel(rate=32000, n_fft=1024, hop_length=320, n_mels=64, f_min=50, f_max=14000),
    "magnitude": LogMel(rate=44100, n_fft=1024, hop_length=512, n_mels=64, power=1.0),
    "reflect": LogMel(rate=16000, n_fft=1024, hop_length=250, n_mels=48, pad_mode="reflect"),
    "not-centred": LogMel(rate=16000, n_fft=2048, hop_length=512, n_mels=40, center=False),
    "odd-lengths": LogMel(rate=11025, n_fft=1001, win_length=700, hop_length=97, n_mels=33),
    "ref-max": LogMel(rate=16000, n_fft=512, hop_length=160, n_mels=40, ref="max", top_db=60.0),
    "top-db": LogMel(rate=22050, n_fft=1024, hop_length=256, n_mels=64, top_db=30.0, amin=1e-8),
    "one-band": LogMel(rate=8000, n_fft=256, hop_length=64, n_mels=1),
}


def librosa_db(samples: np.ndarray, s: LogMel) -> np.ndarray:
    """What librosa makes of settings, ``(time, mel)``, of the samples' type."""
    librosa = pytest.importorskip("librosa")
    mel = librosa.feature.melspectrogram(
        y=samples,
        sr=s.rate,
        n_fft=s.n_fft,
        win_length=s.win_length,
        hop_length=s.hop_length,
        center=s.center,
        pad_mode=s.pad_mode,
        power=s.power,
        n_mels=s.n_mels,
        fmin=s.f_min,
        fmax=s.f_max,
        htk=s.mel_scale == "htk",
        norm=s.norm,
        dtype=samples.dtype,
    )
    if s.power == 1:
        return librosa.amplitude_to_db(
            mel, ref=np.max if s.ref == "max" else 1.0, amin=np.sqrt(s.amin), top_db=s.top_db
        ).T
    return librosa.power_to_db(mel, ref=np.max if s.ref == "max" else 1.0, amin=s.amin, top_db=s.top_db).T


def signals(rate: int, seconds: float = 1.0) -> dict[str, np.ndarray]:
    """Float64 test signals: broad-band, tonal, transient and of a large dynamic range."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time))
    sweep = np.sin(2 * np.pi * (20 * time + (0.45 * rate - 20) * time**2 / (2 * seconds)))
    click = np.zeros(len(time))
    click[len(time) // 3] = 1.0
    return {
        "noise": 0.1 * noise,
        "sweep": 0.5 * sweep,
        "click": click,
        "fade": 0.5 * noise * 10 ** (-4 * time / seconds),
        "tone and hiss": 0.9 * np.sin(2 * np.pi * 440 * time) + 1e-3 * noise,
    }


def assert_agree(samples: np.ndarray, settings: LogMel) -> None:
    """1e-6 dB in double precision everywhere, 1e-3 dB in single within 60 dB of the clip's maximum."""
    expected = librosa_db(samples, settings)
    found = settings(samples)
    assert found.dtype == np.float64 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)

    single = samples.astype(np.float32)
    expected, found = librosa_db(single, settings), settings(single)
    assert found.dtype == np.float32 and found.shape == expected.shape
    near = expected > expected.max() - 60
    assert near.any()
    np.testing.assert_allclose(found[near], expected[near], rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Empty filters", "ignore:Trying to estimate")
@pytest.mark.parametrize("name", SETTINGS)
def test_it_agrees_with_librosa(name: str) -> None:
    settings = SETTINGS[name]
    for samples in signals(settings.rate).values():
        assert_agree(samples, settings)


@pytest.mark.parametrize("name", ["dcase", "speech", "htk", "magnitude"])
def test_filters_are_librosas(name: str) -> None:
    librosa = pytest.importorskip("librosa")
    s = SETTINGS[name]
    expected = librosa.filters.mel(
        sr=s.rate,
        n_fft=s.n_fft,
        n_mels=s.n_mels,
        fmin=s.f_min,
        fmax=s.f_max,
        htk=s.mel_scale == "htk",
        norm=s.norm,
        dtype=np.float64,
    )
    np.testing.assert_allclose(mel_filters(s), expected, rtol=0, atol=1e-12)


def test_it_agrees_with_librosa_on_a_real_recording() -> None:
    folder = os.environ.get("SENTIO_DATA")
    if not folder or not Path(folder, "esc10", "audio").is_dir():
        pytest.skip("SENTIO_DATA does not name a folder that holds esc10/audio")
    for path in sorted(Path(folder, "esc10", "audio").glob("*.ogg"))[::80]:
        for settings in (SETTINGS["dcase"], SETTINGS["librosa-default"]):
            samples = read(path, rate=settings.rate, mono=True).samples[0]
            assert_agree(samples[: 2 * settings.rate].astype(np.float64), settings)


def test_without_scipy_and_with_an_fft_in_double_precision_it_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = signals(32000)["fade"].astype(np.float32)
    expected = DCASE(samples)
    monkeypatch.setitem(sys.modules, "scipy.fft", None)
    frontend._library.cache_clear()
    try:
        assert frontend._library().rfft is np.fft.rfft
        np.testing.assert_allclose(DCASE(samples), expected, rtol=0, atol=1e-3)
    finally:
        frontend._library.cache_clear()
    # What numpy before 2.0 does with float32 frames.
    double = frontend.Library(np.multiply, lambda frames: np.fft.rfft(frames.astype(np.float64)))
    monkeypatch.setattr(frontend, "_library", lambda: double)
    found = DCASE(samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_one_second_of_the_dcase_setting_is_65_frames_of_256_bands() -> None:
    assert DCASE.frames(32000) == 65
    assert DCASE(np.zeros(32000, np.float32)).shape == (65, 256)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("n_fft", [256, 255])
def test_frames_says_how_many_come(center: bool, n_fft: int) -> None:
    settings = LogMel(rate=8000, n_fft=n_fft, hop_length=100, n_mels=8, center=center)
    assert settings.frames(255 if center else 100) == (3 if center else 0)
    for samples in (256, 299, 300, 301, 1000):
        assert settings.frames(samples) == len(settings(np.ones(samples)))


def test_clips_of_a_batch_are_computed_each_for_itself() -> None:
    settings = SETTINGS["top-db"]
    batch = np.stack([value[:12000] for value in signals(22050).values()][:4]).reshape(2, 2, 12000)
    batch[0, 1] *= 1e-3
    found = settings(batch)
    assert found.shape == (2, 2, settings.frames(12000), 64)
    for index in np.ndindex(2, 2):
        np.testing.assert_array_equal(found[index], settings(batch[index]))


def test_the_length_of_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = signals(32000)["sweep"]
    whole = DCASE(samples)
    monkeypatch.setattr(frontend, "CHUNK", 7 * DCASE.n_fft)
    np.testing.assert_allclose(DCASE(samples), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("settings", [LogMel(), LogMel(power=1.0), LogMel(log="ln"), LogMel(top_db=80.0)])
def test_silence_is_finite(settings: LogMel, dtype: type) -> None:
    found = settings(np.zeros(32000, dtype))
    assert np.ptp(found) == 0
    assert found.flat[0] == pytest.approx(np.log(1e-5) if settings.log == "ln" else -100.0, abs=1e-4)


def test_ln_is_the_natural_logarithm_with_an_offset() -> None:
    samples = signals(16000)["fade"]
    db = replace(SETTINGS["speech"], amin=1e-30)
    found = replace(db, log="ln", offset=0.01)(samples)
    np.testing.assert_allclose(found, np.log(10 ** (db(samples) / 10) + 0.01), rtol=0, atol=1e-9)


def test_standardisation_comes_last() -> None:
    samples = signals(16000)["noise"]
    plain = SETTINGS["speech"](samples)
    found = replace(SETTINGS["speech"], mean=-30.0, std=12.5)(samples)
    np.testing.assert_allclose(found, (plain + 30.0) / 12.5, rtol=0, atol=1e-12)
    bands = replace(SETTINGS["speech"], mean=list(plain.mean(0)), std=list(plain.std(0)))(samples)
    np.testing.assert_allclose(bands.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(bands.std(0), 1, atol=1e-9)


def test_numbers_of_numpy_are_numbers() -> None:
    measured = np.array([-40.5, -39.5], np.float32)
    found = LogMel(rate=np.int64(16000), mean=measured.mean(), std=measured.std())
    assert found == LogMel(rate=16000, mean=-40.0, std=0.5)
    assert json.loads(json.dumps(asdict(found))) == asdict(found)


def test_settings_are_stored_whole_and_come_back_equal() -> None:
    settings = LogMel(rate=16000, n_fft=512, n_mels=3, mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 2.0))
    stored = json.loads(json.dumps(asdict(settings)))
    assert (stored["win_length"], stored["f_max"]) == (512, 8000)
    again = LogMel(**stored)
    assert again == settings and hash(again) == hash(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0}, "rate must be a whole number above 0, got 0"),
        ({"rate": 16000.0}, "rate must be a whole number above 0"),
        ({"n_fft": 1}, "n_fft must be at least 2"),
        ({"n_fft": True}, "n_fft must be a whole number"),
        ({"win_length": 2048}, "win_length 2048 is longer than n_fft 1024"),
        ({"win_length": 0}, "win_length must be a whole number above 0"),
        ({"hop_length": -1}, "hop_length must be a whole number above 0, got -1"),
        ({"n_mels": 0}, "n_mels must be a whole number above 0"),
        ({"f_max": 16001.0}, r"between 0 and half the rate \(16000 Hz\)"),
        ({"f_min": 9000.0, "f_max": 8000.0}, "got f_min 9000 and f_max 8000"),
        ({"f_min": -1.0}, "the bands must lie between 0"),
        ({"f_min": float("nan")}, "f_min must be a number, got nan"),
        ({"f_max": "high"}, "f_max must be a number, got 'high'"),
        ({"mel_scale": "bark"}, "mel_scale must be 'slaney' or 'htk', got 'bark'"),
        ({"norm": "l1"}, "norm must be 'slaney' or 'sum' or None"),
        ({"power": 3.0}, r"power must be 1\.0 or 2\.0, got 3\.0"),
        ({"center": "yes"}, "center must be True or False"),
        ({"pad_mode": "wrap"}, "pad_mode must be 'constant' or 'reflect'"),
        ({"log": "log2"}, "log must be 'db' or 'ln'"),
        ({"amin": 0.0}, "amin must be at least 1e-30"),
        ({"log": "ln", "offset": 0.0}, "offset must be at least 1e-30"),
        ({"ref": "loudest"}, "ref must be"),
        ({"ref": "max", "log": "ln"}, "ref must be"),
        ({"top_db": -3.0}, "top_db goes with log 'db' and must be above 0"),
        ({"top_db": 80.0, "log": "ln"}, "top_db goes with log 'db'"),
        ({"mean": 1.0}, "give both or neither"),
        ({"mean": 1.0, "std": 0.0}, "std must hold finite numbers above 0"),
        ({"mean": float("nan"), "std": 1.0}, "mean must hold finite numbers"),
        ({"mean": (1.0, 2.0), "std": 1.0}, r"mean needs one number, or one per band \(64\), got 2"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^Log-mel settings: .*" + message) as caught:
        LogMel(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "samples", "message"),
    [
        (LogMel(), np.zeros(100, np.int16), "takes float32 or float64 samples, got int16"),
        (LogMel(), np.zeros(100, np.float16), "got float16"),
        (LogMel(), np.zeros(0, np.float32), "A clip of 0 samples is too short: the front end needs 1"),
        (LogMel(), np.float32(1), "A clip of 0 samples is too short"),
        (
            LogMel(center=False),
            np.zeros(1023),
            "A clip of 1023 samples is too short: the front end needs 1024",
        ),
        (LogMel(pad_mode="reflect"), np.zeros(512), "A clip of 512 samples is too short.* needs 513"),
    ],
)
def test_unusable_samples_are_refused(settings: LogMel, samples: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(samples)


def test_the_shortest_clips_are_taken() -> None:
    assert LogMel()(np.ones(1, np.float32)).shape == (1, 64)
    assert LogMel(center=False)(np.ones(1024)).shape == (1, 64)
    assert LogMel(pad_mode="reflect")(np.ones(513)).shape == (2, 64)


def test_empty_bands_are_warned_of_once() -> None:
    settings = LogMel(rate=16000, n_fft=256, hop_length=160, n_mels=128)
    with pytest.warns(UserWarning, match=r"of the 128 mel bands are empty.*256-point FFT"):
        settings(np.ones(1000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings(np.ones(1000))


@pytest.mark.parametrize(("scale", "at_1000"), [("slaney", 15.0), ("htk", 999.9855)])
def test_mel_scales_have_their_known_values_and_inverses(scale: str, at_1000: float) -> None:
    assert float(hz_to_mel(1000.0, scale)) == pytest.approx(at_1000, abs=1e-3)
    hertz = np.linspace(0, 22050, 500)
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hertz, scale), scale), hertz, atol=1e-8)


def test_the_window_is_a_periodic_hann_window() -> None:
    np.testing.assert_allclose(hann_window(400), np.hanning(401)[:-1], atol=1e-12)


def test_neither_torch_nor_scipy_is_imported_with_it() -> None:
    code = (
        "import sys, sentio.audio.io, sentio.audio.frontend, sentio.audio.windows; "
        "print(sorted({'torch', 'scipy', 'librosa', 'av'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_with_the_maximum_as_reference_loudness_does_not_matter() -> None:
    log_mel = LogMel(rate=16000, ref="max")
    clip = np.random.default_rng(0).normal(0.0, 0.1, 16000)
    np.testing.assert_allclose(log_mel(clip), log_mel(0.03 * clip), atol=1e-6)
    assert log_mel(clip).max() == 0.0
    assert np.isfinite(log_mel(np.zeros(16000))).all()


@pytest.mark.parametrize("center", [True, False])
def test_samples_that_do_not_lie_together_or_cannot_be_written_give_the_same(center: bool) -> None:
    settings = LogMel(rate=8000, n_fft=256, win_length=200, hop_length=100, n_mels=8, center=center)
    both = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    both.flags.writeable = False
    for apart in (both[:, ::2], both[:, ::-1], both.T[1000:2000].T):
        assert np.array_equal(settings(apart), settings(apart.copy()))


def test_a_rate_that_is_no_number_is_refused_in_a_sentence() -> None:
    for rate in ("x", None):
        with pytest.raises(ConfigError, match="rate must be a whole number above 0"):
            LogMel(rate=rate)
