"""The bank of synthetic microphones, and measured responses from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sentio.audio.impulse_responses import measured_responses, minimum_phase, synthetic_microphones
from sentio.core.errors import ConfigError, InputError


def decibels(response: np.ndarray, rate: int, hertz: np.ndarray) -> np.ndarray:
    turns = np.exp(-2j * np.pi * np.outer(hertz, np.arange(len(response))) / rate)
    return 20 * np.log10(np.abs(turns @ response))


def test_a_bank_holds_different_short_responses_of_unit_energy() -> None:
    bank = synthetic_microphones(16_000)
    assert len(bank) == 66
    assert all(h.shape == (320,) and h.dtype == np.float32 for h in bank)
    assert np.allclose([np.sum(h**2) for h in bank], 1.0, atol=1e-5)
    # Over before a millisecond counts: least delay.
    assert all(np.sum(h[:80] ** 2) > 0.9 for h in bank)
    curves = np.stack([decibels(h, 16_000, np.geomspace(100, 7000, 30)) for h in bank])
    spread = curves.std(axis=0)
    assert spread.min() > 1.0 and np.abs(np.diff(curves, axis=1)).max() < 15
    assert np.array_equal(bank[3], synthetic_microphones(16_000, count=4)[3])
    assert not np.allclose(bank[0], synthetic_microphones(16_000, seed=1)[0])


def test_a_microphone_is_the_same_at_another_rate() -> None:
    hertz = np.geomspace(150, 3000, 20)
    for low, high in zip(synthetic_microphones(16_000, 8), synthetic_microphones(32_000, 8), strict=True):
        first, second = decibels(low, 16_000, hertz), decibels(high, 32_000, hertz)
        difference = first - second
        assert np.ptp(difference) < 2.0


def test_least_delay_keeps_the_magnitudes_and_is_the_inverse_of_a_known_filter() -> None:
    size = 512
    # 1 + 0.5 z^-1 has its zero inside the unit circle, so it is its own answer; its mirror image is not.
    for taps in ([1.0, 0.5], [0.5, 1.0]):
        found = minimum_phase(np.abs(np.fft.rfft(taps, size)))
        assert np.allclose(found[:2], [1.0, 0.5], atol=1e-9) and np.allclose(found[2:], 0, atol=1e-9)


def test_measured_responses_are_resampled_and_scaled(tmp_path: Path) -> None:
    bank = synthetic_microphones(32_000, 2)
    for name, response in zip(("b.wav", "a.wav"), bank, strict=True):
        soundfile.write(tmp_path / name, 0.3 * response, 32_000, subtype="FLOAT")
    found = measured_responses(tmp_path, 16_000)
    hertz = np.geomspace(200, 5000, 20)
    for response, original in zip(found, bank[::-1], strict=True):
        assert np.sum(response**2) == pytest.approx(1.0, abs=1e-5)
        assert np.ptp(decibels(response, 16_000, hertz) - decibels(original, 32_000, hertz)) < 0.5


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read from .*nowhere"):
        measured_responses(tmp_path / "nowhere", 8000)
    with pytest.raises(InputError, match="holds no impulse responses"):
        measured_responses(tmp_path, 8000)
    soundfile.write(tmp_path / "zero.wav", np.zeros(100), 8000)
    with pytest.raises(InputError, match=r"zero\.wav is silent"):
        measured_responses(tmp_path, 8000)
    (tmp_path / "zero.wav").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"zero\.wav is not a sound file"):
        measured_responses(tmp_path, 8000)
    with pytest.raises(ConfigError, match="above 0"):
        synthetic_microphones(8000, count=0)
