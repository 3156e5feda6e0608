"""Waveforms as features, and their torch twin."""

from __future__ import annotations

import numpy as np
import pytest

from sentio.audio.waveform import Waveform
from sentio.core import registry
from sentio.core.errors import ConfigError, InputError

RATE = 8000


def noise(samples: int, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


def test_each_clip_is_scaled_to_its_own_peak() -> None:
    clips = np.stack([noise(100), noise(100, 0.01), np.zeros(100, np.float32)])
    found = Waveform()(clips)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found).max(axis=1), [1, 1, 0])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_array_equal(Waveform(peak=False)(clips), clips)


def test_the_defaults_are_the_sheets_64000_samples() -> None:
    built = registry.build("frontend", "waveform")
    assert built.input_shapes == {"main": (1, 64_000)}
    assert registry.build("frontend", built.name, **built.settings()) == built


def test_a_short_recording_stands_in_the_middle() -> None:
    built = registry.build("frontend", "waveform", rate=RATE, window=1.0)
    samples = noise(2001)
    prepared = built.prepare((samples, RATE))
    assert prepared.inputs.shape == (1, 1, RATE)
    row = prepared.inputs[0, 0]
    np.testing.assert_allclose(row[2999:5000], samples / np.abs(samples).max(), rtol=1e-6)
    assert not row[:2999].any() and not row[5000:].any()
    assert (prepared.starts[0], prepared.ends[0]) == (0.0, 2001 / RATE)
    assert "is padded with silence to 1 s" in prepared.notes[0]


def test_a_long_recording_is_heard_to_its_end() -> None:
    built = registry.build("frontend", "waveform", rate=RATE, window=1.0)
    samples = noise(2 * RATE + 1)
    prepared = built.prepare((samples, RATE))
    np.testing.assert_allclose(prepared.starts, [0, 1, 1 + 1 / RATE])
    np.testing.assert_allclose(
        prepared.inputs[2, 0], samples[-RATE:] / np.abs(samples[-RATE:]).max(), rtol=1e-6
    )


def test_the_twin_agrees() -> None:
    torch = pytest.importorskip("torch")
    from sentio.audio.torch_frontend import twin

    clips = np.stack([noise(64), np.zeros(64, np.float32)])
    for settings in (Waveform(), Waveform(peak=False)):
        samples = torch.from_numpy(clips).requires_grad_()
        found = twin(settings)(samples)
        np.testing.assert_array_equal(found.detach().numpy(), settings(clips))
        found.square().sum().backward()
        assert samples.grad.isfinite().all()
    with pytest.raises(InputError, match="takes float samples"):
        twin(Waveform())(torch.zeros(5, dtype=torch.int16))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^Waveform settings: rate must be a whole number above 0, got 0"):
        Waveform(rate=0)
    with pytest.raises(ConfigError, match="peak must be True or False, got 'loud'"):
        Waveform(peak="loud")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="A clip of 0 samples is too short: the front end needs 1"):
        Waveform()(np.zeros(0))
    with pytest.raises(InputError, match="got int16"):
        Waveform()(np.zeros(4, np.int16))
