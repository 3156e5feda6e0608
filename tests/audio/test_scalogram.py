"""Scalograms, held to the direct sum, and the torch twin held to them."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sentio.audio import scalogram
from sentio.audio.scalogram import Scalogram, wavelet
from sentio.core import registry
from sentio.core.errors import ConfigError, InputError

SMALL = Scalogram(rate=4000, n_scales=9, f_min=40.0, f_max=1990.0, hop_length=50, amin=1e-8)
SETTINGS = {
    "l1": SMALL,
    "l2": replace(SMALL, norm="l2"),
    "omega": replace(SMALL, omega=8.0),
    "standardised": replace(SMALL, mean=-40.0, std=20.0),
    "per-scale": replace(SMALL, mean=tuple(range(9)), std=tuple(range(1, 10))),
}


def noise(samples: int = 1030, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples)


def direct(settings: Scalogram, samples: np.ndarray) -> np.ndarray:
    """The definition: a sum over samples for each scale and place, magnitudes averaged, decibels."""
    columns = len(samples) // settings.hop_length
    features = np.empty((columns, settings.n_scales))
    places = np.arange(len(samples))
    for index, frequency in enumerate(settings.frequencies()):
        conjugate = wavelet(settings, frequency, places[None, :] - places[:, None]).conj()
        magnitude = np.abs(conjugate @ samples)[: columns * settings.hop_length]
        features[:, index] = magnitude.reshape(columns, settings.hop_length).mean(axis=1)
    decibels = 20 * np.log10(np.maximum(features, settings.amin))
    return decibels if settings.mean is None else (decibels - settings.mean) / settings.std


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_the_direct_sum(name: str) -> None:
    settings = SETTINGS[name]
    found = settings(noise())
    assert found.shape == settings.shape(1030) == (20, 9)
    np.testing.assert_allclose(found, direct(settings, noise()), rtol=0, atol=1e-6)
    single = settings(noise().astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, found, rtol=0, atol=2e-3)


def test_nothing_comes_round_from_the_end_to_the_beginning() -> None:
    click = np.zeros(1000)
    click[-1] = 1.0
    assert SMALL(click)[0].max() == pytest.approx(20 * np.log10(SMALL.amin))


@pytest.mark.parametrize(
    ("norm", "peak"), [("l1", 1000.0), ("l2", 1000.0 * 12 / (6 + np.sqrt(38)))], ids=["l1", "l2"]
)
def test_a_tone_peaks_where_the_normalisation_puts_it(norm: Any, peak: float) -> None:
    settings = Scalogram(rate=16000, n_scales=601, f_min=970.0, f_max=1015.0, hop_length=1600, norm=norm)
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    loudest = settings.frequencies()[settings(tone)[5].argmax()]
    assert loudest == pytest.approx(peak, abs=0.08)
    assert norm == "l1" or peak == pytest.approx(986.48, abs=0.01)


def test_normalisations_treat_tones_and_noise_alike() -> None:
    """L1 shows tones of all frequencies equally loud, L2 white noise."""
    settings = Scalogram(rate=16000, n_scales=5, f_min=200.0, f_max=3200.0, hop_length=1600)
    time = np.arange(16000) / 16000
    tones = [settings(np.sin(2 * np.pi * f * time))[5, i] for i, f in enumerate(settings.frequencies())]
    np.testing.assert_allclose(tones, 20 * np.log10(np.sqrt(2 * np.pi) / 2), atol=1e-3)
    hiss = np.random.default_rng(0).standard_normal(160_000)
    levels = replace(settings, norm="l2")(hiss).mean(axis=0)
    assert np.ptp(levels) < 0.5 < 10 < np.ptp(settings(hiss).mean(axis=0))


def test_the_defaults_are_100_columns_of_128_scales_a_second() -> None:
    settings = Scalogram()
    assert settings.shape(32000) == (100, 128)
    ends = settings.frequencies()[[0, -1]]
    np.testing.assert_allclose(ends, [50.0, 15500.0])
    assert settings(np.zeros(32000, np.float32)).shape == (100, 128)


@pytest.mark.parametrize(("omega", "mean"), [(5.0, 3.7e-6), (6.0, 1.5e-8)])
def test_the_wavelet_has_as_good_as_no_mean(omega: float, mean: float) -> None:
    """The sheet's figures: the wavelet's mean over the mean of its magnitude."""
    values = wavelet(replace(SMALL, omega=omega), 50.0, np.arange(-4000, 4001))
    assert abs(values.sum()) / np.abs(values).sum() == pytest.approx(mean, rel=0.02)


def test_clips_of_a_batch_are_computed_each_for_itself() -> None:
    batch = np.stack([noise(seed=seed) for seed in range(4)]).reshape(2, 2, -1)
    found = SMALL(batch)
    for index in np.ndindex(2, 2):
        np.testing.assert_array_equal(found[index], SMALL(batch[index]))


def test_without_scipy_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = SMALL(noise())
    monkeypatch.setitem(sys.modules, "scipy.fft", None)
    scalogram._fft.cache_clear()
    try:
        assert scalogram._fft().forward is np.fft.fft
        np.testing.assert_allclose(SMALL(noise()), expected, rtol=0, atol=1e-9)
    finally:
        scalogram._fft.cache_clear()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_twin_agrees(name: str) -> None:
    torch = pytest.importorskip("torch")
    from sentio.audio.torch_frontend import twin

    settings = SETTINGS[name]
    batch = np.stack([noise(), noise(seed=1)])[:, None]
    found = twin(settings, dtype=torch.float64)(torch.from_numpy(batch))
    np.testing.assert_allclose(found.numpy(), settings(batch), rtol=0, atol=1e-6)
    module = twin(settings)
    samples = torch.from_numpy(batch).float().requires_grad_()
    single = module(samples)
    np.testing.assert_allclose(single.detach().numpy(), settings(batch), rtol=0, atol=2e-3)
    single.sum().backward()
    assert samples.grad.isfinite().all() and samples.grad.abs().max() > 0
    assert not module.state_dict()
    assert module(samples[..., :500]).shape == (2, 1, 10, 9)  # another length, another table


def test_the_registry_builds_it_from_its_settings() -> None:
    built = registry.build("frontend", "scalogram", window=0.5, rate=4000, f_max=2000.0, n_scales=4)
    assert built.name == "scalogram" and built.input_shapes == {"main": (1, 6, 4)}
    assert registry.build("frontend", built.name, **built.settings()) == built
    prepared = built.prepare((noise(4000).astype(np.float32), 4000))
    assert prepared.inputs.shape == (2, 1, 6, 4)
    np.testing.assert_array_equal(
        prepared.inputs[1, 0], built.features(noise(4000)[2000:].astype(np.float32))
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0}, "rate must be a whole number above 0, got 0"),
        ({"n_scales": 2.5}, "n_scales must be a whole number above 0"),
        ({"f_min": 0.0}, r"must lie above 0 and up to half the rate \(16000 Hz\)"),
        ({"f_max": 17000.0}, "got f_min 50 and f_max 17000"),
        ({"omega": 4.0}, "omega must be at least 5"),
        ({"norm": "l3"}, "norm must be 'l1' or 'l2', got 'l3'"),
        ({"amin": 0.0}, "amin must be at least 1e-30"),
        ({"f_max": "high"}, "f_max must be a number, got 'high'"),
        ({"mean": 1.0}, "give both or neither"),
        ({"mean": (1.0, 2.0), "std": 1.0}, r"one per band \(128\), got 2"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^Scalogram settings: .*" + message):
        Scalogram(**changes)


def test_unusable_samples_are_refused() -> None:
    with pytest.raises(InputError, match="float32 or float64 samples, got int16"):
        SMALL(np.zeros(100, np.int16))
    with pytest.raises(InputError, match="A clip of 49 samples is too short: the front end needs 50"):
        SMALL(np.zeros(49))
    with pytest.raises(ConfigError, match=r"window of 0\.01 s is too short"):
        registry.build("frontend", "scalogram", rate=4000, f_max=2000.0, window=0.01)


def test_the_twins_tables_serve_gradients_exports_and_threads() -> None:
    torch = pytest.importorskip("torch")
    from sentio.audio.torch_frontend import twin

    module = twin(SMALL)
    clips = [torch.from_numpy(noise(length)).float() for length in (1030, 700)]
    with torch.inference_mode():
        expected = [module(clip) for clip in clips]
    followed = clips[1].clone().requires_grad_()
    module(followed).sum().backward()
    assert followed.grad.abs().max() > 0
    exported = torch.export.export(twin(SMALL), (clips[0],)).module()
    assert torch.equal(exported(clips[0]), expected[0])
    assert module.double()(clips[0]).dtype == torch.float64
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(module.float(), clips * 20))
    for index, features in enumerate(found):
        assert torch.equal(features, expected[index % 2])
