"""Augmentation of sound: exact properties, and librosa where it does the same."""

from __future__ import annotations

import numpy as np
import pytest

from sentio.audio import augmentation_waveform as waveform
from sentio.audio.augmentation_chain import WaveformChanges
from sentio.core.errors import ConfigError, InputError

RATE = 32_000


def noise(*shape: int, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape or (1000,)).astype(dtype)


def tone(hertz: float = 440.0, samples: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)).astype(np.float32)


def peak(x: np.ndarray) -> float:
    """The loudest frequency, from a padded spectrum of a Hann window."""
    size = 1 << 19
    return float(np.argmax(np.abs(np.fft.rfft(x * np.hanning(len(x)), size))) * RATE / size)


def seeded(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_roll_keeps_every_sample_and_goes_back() -> None:
    x = noise(2, 500)
    rolled = waveform.time_shift(x, 137)
    assert np.array_equal(np.sort(rolled, axis=1), np.sort(x, axis=1))
    assert np.array_equal(rolled[:, 137:], x[:, :-137])
    assert np.array_equal(waveform.time_shift(rolled, -137), x)


@pytest.mark.parametrize("samples", [-500, -3, 0, 3, 499, 700])
def test_a_shift_that_discards_leaves_zeros_and_never_more_energy(samples: int) -> None:
    x = noise(500)
    moved = waveform.time_shift(x, samples, edge="discard")
    assert np.count_nonzero(moved == 0) == min(abs(samples), 500)
    assert np.sum(moved**2) <= np.sum(x**2)
    kept = x[: 500 - samples] if samples >= 0 else x[-samples:]
    start = max(samples, 0)
    assert np.array_equal(moved[start : start + len(kept)], kept[: max(0, 500 - abs(samples))])


@pytest.mark.parametrize(("rate", "samples"), [(0.9, 35_556), (1.1, 29_091)])
def test_stretching_keeps_the_pitch(rate: float, samples: int) -> None:
    found = waveform.time_stretch(tone(), rate)
    assert found.shape == (samples,) and found.dtype == np.float32
    assert peak(found) == pytest.approx(440, abs=0.2)


@pytest.mark.parametrize(("semitones", "hertz"), [(2, 493.883), (-2, 391.995)])
def test_a_shift_of_pitch_keeps_the_length(semitones: float, hertz: float) -> None:
    found = waveform.pitch_shift(tone(), semitones)
    assert found.shape == (RATE,)
    assert peak(found) == pytest.approx(hertz, abs=0.2)


@pytest.mark.parametrize("rate", [0.5, 0.9, 1.0001, 1.3])
@pytest.mark.parametrize("samples", [300, 2048, 20_001])
def test_the_phase_vocoder_is_librosas(rate: float, samples: int) -> None:
    librosa = pytest.importorskip("librosa")
    x = noise(samples)
    n_fft = 256
    hops = {"n_fft": n_fft, "hop_length": n_fft // 4}
    wanted = librosa.istft(
        librosa.phase_vocoder(librosa.stft(x, **hops), rate=rate, **hops),
        **hops,
        length=round(samples / rate),
    )
    assert np.allclose(waveform.time_stretch(x, rate, n_fft=n_fft), wanted, atol=1e-8)


def test_pitch_is_librosas_too() -> None:
    librosa = pytest.importorskip("librosa")
    x = noise(8000) * 0.1
    wanted = librosa.effects.pitch_shift(x, sr=RATE, n_steps=3.5)
    assert np.allclose(waveform.pitch_shift(x, 3.5), wanted, atol=1e-6)


def test_channels_are_changed_one_by_one() -> None:
    x = noise(3, 4000, dtype=np.float32)
    for change in (
        lambda y: waveform.time_stretch(y, 1.1),
        lambda y: waveform.pitch_shift(y, 1.0),
        lambda y: waveform.speed(y, 0.9),
        lambda y: waveform.band_mask(y, 0.2, 0.5),
        lambda y: waveform.impulse_response(y, noise(30)),
        lambda y: waveform.time_mask(y, 100, seeded(), fill="mean"),
    ):
        found = change(x)
        assert found.dtype == np.float32
        for channel, alone in zip(found, x, strict=True):
            assert np.allclose(channel, change(alone), atol=1e-6)


def test_both_at_once_are_one_after_the_other_for_a_tone() -> None:
    found = waveform.stretch_and_shift(tone(), 1.1, 2.0)
    assert found.shape == (29_091,)
    assert peak(found) == pytest.approx(493.883, abs=0.3)


def test_speed_changes_pitch_and_length_together() -> None:
    found = waveform.speed(tone(), 1.25)
    assert len(found) == 25_600
    assert peak(found) == pytest.approx(550, abs=0.2)
    x = noise(300)
    assert np.allclose(waveform.speed(x, 1.0), x)


def test_nothing_changes_at_no_strength() -> None:
    x = noise(2, 900)
    for found in (
        waveform.time_stretch(x, 1.0),
        waveform.pitch_shift(x, 0.0),
        waveform.time_mask(x, 0, seeded()),
        waveform.band_mask(x, 0.3, 0.3),
        waveform.gain(x, 0.0),
        WaveformChanges()(x, RATE, seeded()),
    ):
        assert np.array_equal(found, x)


def test_a_length_is_cut_or_reflected() -> None:
    x = np.arange(5.0)
    assert waveform.fit_length(x, 3).tolist() == [0, 1, 2]
    assert waveform.fit_length(x, 8).tolist() == [0, 1, 2, 3, 4, 3, 2, 1]


def test_a_mask_hides_one_span_with_zeros_or_its_mean() -> None:
    x = noise(2, 400)
    kept = x.copy()
    for fill, values in (
        ("zeros", lambda span: np.zeros((2, 1))),
        ("mean", lambda span: span.mean(1, keepdims=True)),
    ):
        found = waveform.time_mask(x, 50, seeded(), fill=fill)
        places = np.flatnonzero((found != x).any(axis=0))
        assert len(places) == 50 and places[-1] - places[0] == 49
        assert np.allclose(found[:, places], values(x[:, places]))
        if fill == "mean":
            assert np.allclose(found.sum(axis=1), x.sum(axis=1))
    assert np.array_equal(x, kept)
    starts = {int(np.flatnonzero(waveform.time_mask(x[0], 398, seeded(s)) == 0)[0]) for s in range(30)}
    assert starts == {0, 1, 2}


def test_a_band_is_removed_and_the_others_stay() -> None:
    found = waveform.band_mask(tone(3000) + tone(9000), 0.1, 0.3)
    assert np.allclose(found, tone(9000), atol=1e-4)


def test_noise_has_the_ratio_asked_for_and_silence_stays() -> None:
    x = tone().astype(np.float64)
    added = waveform.add_noise(x, 10.0, seeded()) - x
    assert np.mean(x**2) / np.mean(added**2) == pytest.approx(10.0, rel=0.05)
    assert not waveform.add_noise(np.zeros(50), 10.0, seeded()).any()


def test_a_gain_is_in_decibels() -> None:
    assert np.allclose(waveform.gain(np.ones(3), 20.0), 10.0)


# What the sheet on device impulse responses asks for.


def test_a_unit_response_is_the_identity_and_a_late_one_a_delay() -> None:
    x = noise(500)
    assert np.allclose(waveform.impulse_response(x, np.eye(1, 40)[0]), x, atol=1e-14)
    delayed = waveform.impulse_response(x, np.eye(1, 40, 7)[0])
    assert np.allclose(delayed[:7], 0, atol=1e-14)
    assert np.allclose(delayed[7:], x[:-7], atol=1e-14)


def test_a_response_is_a_linear_causal_convolution() -> None:
    x, y, h = noise(500), noise(500, seed=1), noise(60, seed=2)
    found = waveform.impulse_response(x, h)
    assert np.allclose(found, np.convolve(x, h)[:500], atol=1e-12)
    product = np.fft.irfft(np.fft.rfft(x, 559) * np.fft.rfft(h, 559), 559)[:500]
    assert np.abs(found - product).max() < 1e-13
    mixed = waveform.impulse_response(2 * x - 3 * y, h)
    assert np.allclose(mixed, 2 * found - 3 * waveform.impulse_response(y, h), atol=1e-12)
    later = x.copy()
    later[300:] = y[300:]
    assert np.allclose(waveform.impulse_response(later, h)[:300], found[:300], atol=1e-13)


def test_a_response_shifts_the_level_of_a_tone_by_its_magnitude() -> None:
    h = noise(64)
    x = np.sin(2 * np.pi * 1000 * np.arange(6400) / RATE)
    steady = waveform.impulse_response(x, h)[64:]
    shift = 10 * np.log10(np.mean(steady[:6336] ** 2) / np.mean(x[64:] ** 2))
    magnitude = np.abs(np.sum(h * np.exp(-2j * np.pi * 1000 * np.arange(64) / RATE)))
    assert shift == pytest.approx(20 * np.log10(magnitude), abs=0.05)


def test_pieces_of_a_recording_are_cut_again_half_a_piece_later() -> None:
    x = noise(320_000, dtype=np.float32)
    pieces = x.reshape(10, 32_000)
    found = waveform.rechunk(x, 32_000)
    assert found.shape == (9, 32_000)
    for number, piece in enumerate(found):
        assert np.array_equal(piece[:16_000], pieces[number, 16_000:])
        assert np.array_equal(piece[16_000:], pieces[number + 1, :16_000])
    wrapped = waveform.rechunk(x, 32_000, wrapped=True)
    assert wrapped.shape == (10, 32_000) and np.array_equal(wrapped[:9], found)
    assert np.array_equal(wrapped[9], np.concatenate([pieces[9, 16_000:], pieces[0, :16_000]]))
    assert waveform.rechunk(noise(2, 100), 40, offset=10).shape == (2, 2, 40)


@pytest.mark.parametrize(("extra", "total"), [(9, 265_278), (10, 279_240)])
def test_pieces_of_all_recordings_add_up(extra: int, total: int) -> None:
    """13,962 recordings of ten pieces, counted with tiny ones."""
    pieces = len(waveform.rechunk(np.zeros(100, np.float32), 10, wrapped=extra == 10))
    assert 13_962 * (10 + pieces) == total


ALL = WaveformChanges(
    speed=(0.95, 1.05),
    stretch=(0.9, 1.1),
    pitch=2.0,
    impulse_response=0.5,
    shift=0.1,
    band_mask=0.1,
    mask=0.2,
    noise=(10, 30),
    gain=6.0,
)


@pytest.mark.parametrize("shape", [(5000,), (2, 5000), (1,)])
@pytest.mark.parametrize("rate", [8000, 44_100])
def test_changes_keep_shape_and_type_and_follow_their_seed(shape: tuple[int, ...], rate: int) -> None:
    x = noise(*shape, dtype=np.float32)
    found = ALL(x, rate, seeded())
    assert found.shape == x.shape and found.dtype == x.dtype and np.isfinite(found).all()
    assert np.array_equal(found, ALL(x, rate, seeded()))
    assert not np.array_equal(found, ALL(x, rate, seeded(2)))


def test_one_change_at_a_time_is_taken_in_turn() -> None:
    one = WaveformChanges(**{**vars(ALL), "one": True})
    assert one.names() == (
        "speed",
        "stretch",
        "pitch",
        "impulse_response",
        "shift",
        "band_mask",
        "mask",
        "noise",
        "gain",
    )
    x = noise(4000, dtype=np.float32)
    louder = one(x, RATE, seeded(), turn=8) / x
    assert np.ptp(louder) < 1e-5 and 0.5 <= louder[0] <= 2
    rolled = one(x, RATE, seeded(), turn=4 + 9)
    assert np.array_equal(np.sort(rolled), np.sort(x)) and not np.array_equal(rolled, x)


def test_other_devices_recordings_stay_as_they_are() -> None:
    changes = WaveformChanges(impulse_response=1.0)
    x = noise(4000, dtype=np.float32)
    assert np.array_equal(changes(x, RATE, seeded(), device=False), x)
    assert not np.allclose(changes(x, RATE, seeded()), x, atol=0.01)


def test_a_response_is_used_as_often_as_asked() -> None:
    changes = WaveformChanges(impulse_response=0.6)
    x, generator = noise(64, dtype=np.float32), seeded()
    used = sum(not np.array_equal(changes(x, 8000, generator), x) for _ in range(400))
    assert used == pytest.approx(240, abs=40)


def test_what_is_not_possible_is_said() -> None:
    x = noise(100)
    for call, text in (
        (lambda: waveform.time_stretch(x, 0.0), "from 1/4 to 4"),
        (lambda: waveform.speed(x, float("nan")), "from 1/4 to 4"),
        (lambda: waveform.pitch_shift(x, 25), "-24 to 24 semitones"),
        (lambda: waveform.time_stretch(x, 1.1, n_fft=30), "multiple of 4"),
        (lambda: waveform.time_shift(x, 3, edge="mirror"), "'roll' or 'discard'"),
        (lambda: waveform.time_mask(x, 101, seeded()), "101 samples does not fit in 100"),
        (lambda: waveform.time_mask(x, 3, seeded(), fill="noise"), "'zeros' or 'mean'"),
        (lambda: waveform.band_mask(x, 0.5, 0.4), "in order within"),
        (lambda: waveform.add_noise(x, float("inf"), seeded()), "finite number of dB"),
        (lambda: waveform.gain(x, float("nan")), "finite number of dB"),
        (lambda: waveform.fit_length(x, 0), "above 0 samples"),
        (lambda: waveform.rechunk(x, 10, offset=10), "offset below it"),
        (lambda: WaveformChanges(pitch=-1), "pitch must lie in 0..24"),
        (lambda: WaveformChanges(gain=float("inf")), "gain must be at least 0"),
        (lambda: WaveformChanges(mask=2), "mask must lie in 0..1"),
        (lambda: WaveformChanges(stretch=(1.1, 0.9)), "stretch is a range"),
        (lambda: WaveformChanges(noise=(30, 10)), "noise is a range"),
        (lambda: WaveformChanges(noise=10), "noise is a range of two numbers, the smaller first, got 10"),
        (lambda: WaveformChanges(speed=1.1), "speed is a range of two numbers, the smaller first, got 1.1"),
        (lambda: WaveformChanges(edge="wrap"), "edge is 'roll' or 'discard', got 'wrap'"),
        (lambda: WaveformChanges(mask_fill="noise"), "mask_fill is 'zeros' or 'mean', got 'noise'"),
    ):
        with pytest.raises(ConfigError, match=text):
            call()
    for wrong in (x.astype(np.int16), x[:0], x[None, None]):
        with pytest.raises(InputError, match=r"must be float32 or float64 samples, \(time,\) or"):
            waveform.gain(wrong, 1.0)
    with pytest.raises(InputError, match=r"has shape \(taps,\)"):
        waveform.impulse_response(x, noise(2, 3))


@pytest.mark.parametrize("bad", ["0.5", None, [0.1], float("nan")])
def test_a_strength_that_is_no_number_is_refused(bad):
    x, generator = np.ones(4000, np.float32), np.random.default_rng(0)
    changes = [
        lambda: waveform.time_shift(x, bad),
        lambda: waveform.time_stretch(x, bad),
        lambda: waveform.time_stretch(x, 1.5, n_fft=bad),
        lambda: waveform.pitch_shift(x, bad),
        lambda: waveform.fit_length(x, bad),
        lambda: waveform.time_mask(x, bad, generator),
        lambda: waveform.band_mask(x, bad, 0.5),
        lambda: waveform.band_mask(x, 0.5, bad),
        lambda: waveform.add_noise(x, bad, generator),
        lambda: waveform.gain(x, bad),
        lambda: waveform.rechunk(x, bad),
        lambda: WaveformChanges(pitch=bad),
        lambda: WaveformChanges(speed=(bad, 1.0)),
        lambda: WaveformChanges(noise=(bad, 1.0)),
    ]
    for change in changes:
        with pytest.raises(ConfigError):
            change()


def test_lengths_are_whole():
    x = np.ones(100, np.float32)
    for change in (waveform.time_shift, waveform.fit_length, waveform.rechunk):
        with pytest.raises(ConfigError, match=r"whole.* got 1\.5"):
            change(x, 1.5)
