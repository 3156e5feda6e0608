"""The sounds of the street simulator: their contract, and that each does what its physics says."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sentio.core.errors import InputError
from sentio.data.simulate import impacts, machines, signals, tones, voices, weather
from sentio.data.simulate.events import EVENTS, EVERYDAY, KINDS, EventKind, dry

NAMES = ["babble", "bark", "bell", "drill", "engine", "footsteps", "glass", "horn", "rain", "siren"]
RATE = 16000


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def power(sound: np.ndarray, rate: int = RATE) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (Hz) and power of the whole sound under a window whose side lobes do not matter."""
    return np.fft.rfftfreq(len(sound), 1 / rate), np.abs(np.fft.rfft(sound * np.blackman(len(sound)))) ** 2


def strongest(sound: np.ndarray, low: float, high: float, rate: int = RATE) -> float:
    """The frequency of the highest line between two."""
    frequencies, lines = power(sound, rate)
    inside = (frequencies >= low) & (frequencies <= high)
    return float(frequencies[inside][np.argmax(lines[inside])])


def centroid(sound: np.ndarray) -> float:
    frequencies, lines = power(sound)
    return float((frequencies * lines).sum() / lines.sum())


def envelope(sound: np.ndarray, step: float = 0.02, rate: int = RATE) -> np.ndarray:
    """RMS of each ``step`` s."""
    size = round(step * rate)
    return np.sqrt((sound[: len(sound) // size * size].reshape(-1, size) ** 2).mean(1))


def constant(hertz: float, seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    return np.full(round(seconds * rate), hertz)


# The contract


def test_the_ten_kinds_and_eight_more():
    assert list(EVENTS) == NAMES and list(EVERYDAY) == sorted(EVERYDAY) and len(EVERYDAY) == 8
    for name, kind in KINDS["all"].items():
        assert kind.name == name
        # A helicopter is louder than anything in a street, and a clock is heard from nearer.
        loudest, nearest = (130, 1) if name in EVENTS else (131, 0.3)
        assert 40 < kind.level[0] < kind.level[1] < loudest
        assert nearest <= kind.distance[0] < kind.distance[1]
        assert 0 <= kind.speed[0] <= kind.speed[1] <= 30


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
@pytest.mark.parametrize("name", [*NAMES, *EVERYDAY])
def test_every_sound_is_clean_and_its_seed_is_all_it_depends_on(name, rate):
    first = dry(KINDS["all"][name], generator(1), rate)
    np.testing.assert_array_equal(first, dry(KINDS["all"][name], generator(1), rate))
    others = [dry(KINDS["all"][name], generator(seed), rate) for seed in (2, 3)]
    for other in others:
        length = min(len(first), len(other))
        alike = np.vdot(first[:length], other[:length]) / np.sqrt(
            np.vdot(first[:length], first[:length]) * np.vdot(other[:length], other[:length])
        )
        assert abs(alike) < 0.9
    for sound in (first, *others):
        assert sound.dtype == np.float64
        assert sound.ndim == 1
        assert np.isfinite(sound).all()
        assert 0.1 * rate < len(sound) < 10 * rate
        assert abs(sound.mean()) < 1e-9
        size = rate // 8
        padded = np.pad(sound, (0, max(size - len(sound), 0)))
        loud = np.lib.stride_tricks.sliding_window_view(padded, size)[:: rate // 1000]
        assert np.sqrt((loud**2).mean(1).max()) == pytest.approx(1, abs=0.02)
        frequencies, lines = power(sound, rate)
        assert lines[frequencies > 0.46 * rate].sum() < 1e-6 * lines.sum()


def test_two_draws_of_a_kind_differ_in_length_and_timbre():
    for kind in KINDS["all"].values():
        sounds = [kind.make(generator(seed), RATE) for seed in range(12)]
        lengths, centroids = [len(sound) for sound in sounds], [centroid(sound) for sound in sounds]
        assert max(lengths) > 1.5 * min(lengths), kind.name
        assert max(centroids) > 1.5 * min(centroids), kind.name


@pytest.mark.parametrize(
    "made", [np.zeros(100), np.zeros(0), np.array([0.0, np.nan]), np.array([np.inf, 1.0])], ids=str
)
def test_a_kind_that_makes_nothing_usable_is_refused(made):
    kind = EventKind("mute", lambda generator, rate: made, (60, 70), (1, 2))
    with pytest.raises(InputError, match="'mute' made no usable sound at 8000 Hz"):
        dry(kind, generator(), 8000)


def test_a_sound_shorter_than_the_meter_counts_as_followed_by_silence():
    kind = EventKind("tick", lambda generator, rate: np.ones(250), (60, 70), (1, 2))
    np.testing.assert_allclose(dry(kind, generator(), 8000), 2.0)  # a quarter of 1000 samples


# Building blocks


@pytest.mark.parametrize("samples", [1, 2, 7, 31, 1000, 4097, 31999, 65537])
def test_fast_lengths(samples):
    def smooth(number: int) -> bool:
        for factor in (2, 3, 5):
            while number % factor == 0:
                number //= factor
        return number == 1

    assert signals.fast_length(samples) == next(n for n in range(samples, 2 * samples + 1) if smooth(n))


def test_modes_are_decaying_sines_below_the_margin():
    time = np.arange(3000) / RATE
    expected = sum(
        a * 10 ** (-3 * time / t) * np.sin(2 * np.pi * f * time)
        for f, t, a in [(440, 0.2, 1), (3e3, 0.1, 0.5)]
    )
    made = signals.modes([440, 3e3, 7900], [0.2, 0.1, 1], [1, 0.5, 9], 3000, RATE)
    np.testing.assert_allclose(made, expected, atol=1e-9)


def test_few_and_many_strikes_add_the_same():
    kernel = signals.modes(900, 0.05, 1.0, 500, RATE)
    times, gains = np.linspace(-0.01, 0.55, 80), np.linspace(-1, 1, 80)
    many = signals.struck(times, gains, kernel, 8000, RATE)
    few = sum(signals.struck(times[i::4], gains[i::4], kernel, 8000, RATE) for i in range(4))
    np.testing.assert_allclose(many, few, atol=1e-9)
    assert np.abs(few).max() > 0.1


def test_a_period_read_from_its_table_is_the_sum_of_its_partials():
    cycles = signals.turns(np.linspace(80, 300, 8000), RATE)
    partials = np.array([1.0, 0.5j, 0, 0.2 + 0.1j])
    expected = sum((p * np.exp(2j * np.pi * k * cycles)).real for k, p in enumerate(partials, start=1))
    np.testing.assert_allclose(signals.periodic(cycles, partials), expected, atol=1e-5)


def test_harmonics_leave_out_what_would_alias():
    frequencies, lines = power(signals.harmonics(constant(1500, rate=8000), np.ones(10), 8000), 8000)
    near = (np.abs(frequencies - 1500) < 10) | (np.abs(frequencies - 3000) < 10)
    assert lines[~near].sum() < 1e-9 * lines.sum()
    sweep = signals.harmonics(np.geomspace(300, 3000, 16000), np.ones(12), 8000)
    frequencies, lines = power(sweep, 8000)
    assert lines[frequencies > 3700].sum() < 1e-4 * lines.sum()


def test_resonators_ring_after_the_blow_and_not_before():
    frequencies = np.fft.rfftfreq(4096, 1 / RATE)
    impulse = np.zeros(4000)
    impulse[1000] = 1
    rung = signals.filtered(impulse, RATE, signals.resonances([700, 2000], [60, 90], [1, 0.5]))
    assert (rung[:990] ** 2).sum() < 1e-3 * (rung**2).sum()
    gain = np.abs(signals.resonances(700, 60, 2.0)(frequencies))
    assert gain.max() == pytest.approx(2, rel=0.01)
    assert frequencies[gain > np.sqrt(2)].mean() == pytest.approx(700, abs=5)
    assert np.ptp(frequencies[gain > np.sqrt(2)]) == pytest.approx(60, abs=8)


def test_noise_has_the_spectrum_that_was_asked_for():
    sound = signals.noise(generator(), 40000, RATE, signals.tilt(-6))
    frequencies, lines = power(sound)
    octave = [lines[(frequencies > f / 1.2) & (frequencies < f * 1.2)].mean() for f in (500, 4000)]
    assert 10 * np.log10(octave[0] / octave[1]) == pytest.approx(18, abs=1.5)
    assert np.sqrt(np.mean(sound**2)) == pytest.approx(1)


def test_wandering_is_slow_and_centred():
    curve = signals.wander(generator(), 200 * 1000, 1000, 5.0)
    assert abs(curve.mean()) < 0.15
    assert curve.std() == pytest.approx(1, abs=0.15)
    assert np.abs(np.diff(curve)).max() < 0.05


# Physics


def test_a_wail_stays_in_its_range_and_keeps_its_rate():
    times = signals.seconds_axis(8, RATE)
    pitch = tones.swept(times, 600, 1400, 0.5, rising=0.4, bend=1.2)
    sound = signals.harmonics(pitch, [1.0], RATE)
    found = np.array([strongest(frame, 50, 7000) for frame in sound.reshape(-1, 1600)])
    assert found.min() > 590
    assert found.min() < 650
    assert 1250 < found.max() < 1410
    crossings = np.sum((found[:-1] < 1000) & (found[1:] >= 1000))
    assert crossings == 4  # half a cycle a second for 8 s


def test_a_hi_lo_siren_has_two_tones():
    pitch = tones.alternating(signals.seconds_axis(4, RATE), 440, 585, tone=0.5, glide=0.02)
    assert pitch.min() == pytest.approx(440)
    assert pitch.max() == pytest.approx(585)
    assert np.mean((pitch < 445) | (pitch > 580)) > 0.9
    assert np.sum(np.diff(np.sign(pitch - 510)) != 0) in (7, 8)


def test_sirens_sweep_over_the_pitches_that_rules_name():
    for seed in range(8):
        sound = dry(EVENTS["siren"], generator(seed), RATE)
        frames = sound[: len(sound) // 1600 * 1600].reshape(-1, 1600)[1:-1]
        lowest = []
        for frame in frames:
            frequencies, lines = power(frame)
            lowest.append(frequencies[np.argmax(lines > 0.02 * lines.max())])
        assert min(lowest) > 330
        assert min(lowest) < 1000
        assert np.ptp(lowest) > 50


def test_horns():
    for seed in range(40):
        notes = tones.horn_notes(generator(seed))
        assert 1 <= len(notes) <= 3
        assert 125 < notes.min() <= notes.max() < 650
        pressed = tones.honks(generator(seed))
        edges = np.ravel(pressed)
        assert (np.diff(edges) > 0.04).all()
        assert edges[-1] < 8


def test_a_horn_holds_its_pitch():
    for seed in range(6):
        sound = dry(EVENTS["horn"], generator(seed), RATE)
        level = envelope(sound, 0.05)
        loud = [f for f, e in zip(sound[: len(level) * 800].reshape(-1, 800), level, strict=True) if e > 0.7]
        spectra = np.array([power(frame)[1] for frame in loud])
        spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
        assert np.median(spectra @ spectra.mean(0)) > 0.75


def test_a_church_bell_has_its_partials_and_the_high_ones_fall_first():
    strike = 400.0
    body = tones.bell_body(generator(), tones.CHURCH, strike, 8.0, 2000.0, RATE)
    for ratio in (0.5, 1.0, 1.2, 1.5, 2.0):
        near = strongest(body, strike * ratio * 0.95, strike * ratio * 1.05)
        assert near == pytest.approx(strike * ratio, rel=0.025)
    frequencies, lines = power(body)
    between = (frequencies > 1.3 * strike) & (frequencies < 1.42 * strike)
    assert (
        lines[between].max()
        < 1e-3 * lines[(frequencies > 1.15 * strike) & (frequencies < 1.25 * strike)].max()
    )
    early, late = power(body[:RATE])[1], power(body[3 * RATE : 4 * RATE])[1]  # a line per Hz
    lost = [early[band].sum() / late[band].sum() for band in (slice(190, 211), slice(760, 841))]
    assert lost[1] > 3 * lost[0]


@pytest.mark.parametrize(("rpm", "cylinders"), [(900, 4), (3000, 4), (2000, 6), (4000, 2)])
def test_an_engine_fires_at_half_a_cylinder_a_turn(rpm, cylinders):
    quiet = {"breath": 0.02, "knock": 0.0, "slope": 1.2}
    sound = machines.combustion(
        generator(3), constant(rpm), RATE, cylinders=cylinders, unevenness=0.1, **quiet
    )
    firing = rpm / 60 * cylinders / 2
    assert strongest(sound, 10, 3000) == pytest.approx(firing, abs=1)
    uneven = machines.combustion(
        generator(3), constant(rpm), RATE, cylinders=cylinders, unevenness=1.0, **quiet
    )

    def beside(made: np.ndarray) -> float:
        """Power of the lines of single cylinders over that of the firing line."""
        frequencies, lines = power(made)
        cycle = rpm / 120
        side = [np.abs(frequencies - cycle * k) < 1 for k in range(1, cylinders)]
        return float(max(lines[s].sum() for s in side) / lines[np.abs(frequencies - firing) < 1].sum())

    assert beside(uneven) > 20 * beside(sound)


def test_engine_speed_stays_between_idling_and_the_red_line():
    times = signals.seconds_axis(5, 1000)
    spans = []
    for seed in range(30):
        rpm = machines.revs(generator(seed), times, 1000, 800, 5000)
        assert 0.7 * 800 <= rpm.min() <= rpm.max() <= 1.1 * 5000
        spans.append(rpm.max() / rpm.min())
    assert min(spans) < 1.2
    assert max(spans) > 2.5


@pytest.mark.parametrize("blows", [18.0, 45.0])
def test_a_breaker_strikes_at_its_rate(blows):
    sound = machines.hammering(generator(1), 4.0, RATE, blows, jitter=0.01)
    level = envelope(sound, 0.002)
    assert strongest(level - level.mean(), 8, 70, 500) == pytest.approx(blows, rel=0.03)


def test_a_motor_sounds_at_multiples_of_its_turns():
    sound = machines.whining(generator(2), constant(200), RATE)
    frequencies, lines = power(sound)
    on_line = np.abs(frequencies - 200 * np.round(frequencies / 200)) < 3
    assert lines[~on_line].sum() < 1e-4 * lines.sum()


def test_walkers_make_1_3_to_2_6_steps_a_second():
    for seed in range(12):
        sound = dry(EVENTS["footsteps"], generator(seed), RATE)
        level = envelope(sound, 0.01)
        steps = [-1.0]
        for place in np.flatnonzero(level > 0.3 * level.max()) * 0.01:
            if place - steps[-1] > 0.3:  # the toe belongs to its heel
                steps.append(float(place))
        steps = steps[1:]
        assert 1.2 < (len(steps) - 1) / (steps[-1] - steps[0]) < 2.75, seed


@pytest.mark.parametrize("surface", impacts.SURFACES)
def test_every_surface_keeps_the_pace(surface):
    level = envelope(impacts.walk(generator(5), RATE, 6.0, 2.0, surface), 0.01)
    level = level - level.mean()
    lags = np.correlate(level, level, "full")[len(level) - 1 :]
    period = 0.01 * (30 + np.argmax(lags[30:80]))
    assert period == pytest.approx(0.5, abs=0.03)


def test_broken_glass_is_bright_and_dies_away():
    for seed in range(6):
        sound = dry(EVENTS["glass"], generator(seed), RATE)
        assert centroid(sound) > 900
        energy = np.cumsum(sound**2)
        assert energy[len(sound) // 2] > 0.85 * energy[-1]


def test_a_bigger_dog_has_lower_formants():
    small, large = (
        np.mean([centroid(voices.barking(generator(seed), RATE, tract, 400.0)) for seed in range(8)])
        for tract in (0.09, 0.24)
    )
    assert small > 1.3 * large


def test_a_bark_is_short_and_pitched():
    for seed in range(30):
        called = voices.barks(generator(seed))
        assert all(0.05 < end - start < 0.5 for start, end in called)
        assert all(later[0] > earlier[1] for earlier, later in pairwise(called))


def test_talkers_are_modulated_by_syllables_and_rain_is_not():
    def syllabic(sound: np.ndarray) -> float:
        """Depth of the envelope's modulation from 2 to 8 Hz."""
        level = envelope(sound, 0.02)
        lines = np.abs(np.fft.rfft(level / level.mean()))
        rates = np.fft.rfftfreq(len(level), 0.02)
        return float(np.sqrt((lines[(rates > 2) & (rates < 8)] ** 2).sum()) / len(level))

    hiss = [np.zeros(1600)]
    one = [syllabic(voices.talker(generator(s), np.zeros(3 * RATE), hiss, RATE)) for s in range(4)]
    many = [syllabic(dry(EVENTS["babble"], generator(seed), RATE)) for seed in range(8)]
    wet = [syllabic(dry(EVENTS["rain"], generator(seed), RATE)) for seed in range(8)]
    assert np.mean(one) > np.mean(many) > 1.5 * np.median(wet)  # drizzle may drip


def test_a_voice_has_the_formants_of_its_vowel(monkeypatch):
    monkeypatch.setattr(voices, "VOWELS", np.array([[300.0, 2290.0, 3010.0]]))
    white = generator().standard_normal(3 * RATE)
    sound = voices.spoken_vowels(generator(), white, np.arange(0.1, 2.6, 0.2), 5.0, 1.0, RATE)
    frequencies, lines = power(sound)

    def level(hertz: float) -> float:
        return float(lines[np.abs(frequencies - hertz) < 60].mean())

    assert level(300) > 10 * level(1000)
    assert level(2290) > 10 * level(1000)
    assert level(3010) > 3 * level(1500)


def test_drizzle_is_made_of_drops_and_a_downpour_is_noise():
    """Kurtosis of the samples: 3 for noise, more where single drops stand out."""

    def kurtosis(drops_per_second: float) -> float:
        kernel = weather.drop(generator(), RATE, "stone")
        count = int(3 * drops_per_second)
        draw = generator(1)
        rain = signals.struck(
            draw.uniform(0, 3, count), draw.lognormal(0, 0.8, count), kernel, 3 * RATE, RATE
        )
        return float(np.mean((rain - rain.mean()) ** 4) / np.var(rain) ** 2)

    assert kurtosis(30) > 20
    assert kurtosis(6000) < 6


def test_drops_in_water_ring_as_bubbles_do():
    found = [strongest(weather.drop(generator(seed), RATE, "water"), 500, 7000) for seed in range(8)]
    assert 1250 < min(found) < max(found) < 4750
    assert max(found) > 1.3 * min(found)


# House, farm and shore


def strongest_beat(sound: np.ndarray, low: float, high: float, rate: int = RATE) -> float:
    """The strongest frequency (Hz) of a sound's envelope in a range."""
    step = rate // 400
    envelope = np.abs(sound[: len(sound) // step * step]).reshape(-1, step).mean(1)
    lines = np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(len(envelope)), 1 << 14))
    frequencies = np.fft.rfftfreq(1 << 14, step / rate)
    inside = (frequencies >= low) & (frequencies <= high)
    return float(frequencies[inside][lines[inside].argmax()])


def test_helicopters_beat_at_the_rate_of_their_blades():
    beats = [strongest_beat(dry(EVERYDAY["helicopter"], generator(seed), RATE), 4, 70) for seed in range(12)]
    assert sum(7 <= beat <= 70 for beat in beats) >= 10
    assert max(beats) > 1.5 * min(beats)


def test_clocks_tick_regularly():
    for seed in range(6):
        beat = strongest_beat(dry(EVERYDAY["clock-tick"], generator(seed), RATE), 0.4, 12)
        multiples = beat * np.array([1.0, 0.5, 0.4, 0.25, 0.2])
        assert np.abs(multiples - np.round(multiples)).min() < 0.12, beat


def test_a_fire_is_spikes_over_little():
    for seed in range(6):
        loud = np.abs(dry(EVERYDAY["fire"], generator(seed), RATE))
        assert np.quantile(loud, 0.999) > 6 * np.quantile(loud, 0.5)


def test_cries_and_crows_are_harmonic_and_sneezes_are_noise():
    def flatness(name: str, seed: int) -> float:
        _, lines = power(dry(EVERYDAY[name], generator(seed), RATE), RATE)
        lines = lines[lines > 0]
        return float(np.exp(np.log(lines).mean()) / lines.mean())

    tonal = [flatness(name, seed) for name in ("crying", "rooster") for seed in range(5)]
    noisy = [flatness(name, seed) for name in ("sneeze", "waves") for seed in range(5)]
    assert np.median(tonal) < np.median(noisy)
