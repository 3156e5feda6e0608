"""Sound on its way: times, levels, Doppler and the air, against what physics says."""

import numpy as np
import pytest

from sentio.data.simulate import space
from sentio.data.simulate.space import LEAD, Air, absorption, emission_times, impulse_response, moving

#: air that takes nothing away: dry absorption is far below a decibel at these distances and tones
RATE = 16000
AIR = Air(20.0, 60.0)


def tone(hertz, seconds=1.0, rate=RATE):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def one(*place):
    return np.array([place], dtype=np.float64)


def pitch(sound, rate=RATE):
    """The frequency of a lasting tone, from the slope of its phase."""
    spectrum = np.fft.fft(sound * np.hanning(len(sound)))
    spectrum[len(sound) // 2 :] = 0
    phase = np.unwrap(np.angle(np.fft.ifft(spectrum)))
    middle = slice(len(sound) // 4, 3 * len(sound) // 4)
    return np.polyfit(np.arange(len(sound))[middle] / rate, phase[middle], 1)[0] / (2 * np.pi)


@pytest.mark.parametrize(
    ("temperature", "humidity", "per_kilometre"),
    # ISO 9613-2:1996, table 2, from ISO 9613-1: 63 Hz to 8 kHz, dB/km
    [
        (10, 70, [0.1, 0.4, 1.0, 1.9, 3.7, 9.7, 32.8, 117]),
        (20, 70, [0.1, 0.3, 1.1, 2.8, 5.0, 9.0, 22.9, 76.6]),
        (30, 70, [0.1, 0.3, 1.0, 3.1, 7.4, 12.7, 23.1, 59.3]),
        (15, 20, [0.3, 0.6, 1.2, 2.7, 8.2, 28.2, 88.8, 202]),
        (15, 50, [0.1, 0.5, 1.2, 2.2, 4.2, 10.8, 36.2, 129]),
        (15, 80, [0.1, 0.3, 1.1, 2.4, 4.1, 8.3, 23.7, 82.8]),
    ],
)
def test_the_air_takes_what_the_standard_says(temperature, humidity, per_kilometre):
    octaves = 1000 * 10.0 ** (0.3 * np.arange(-4, 4))
    found = 1000 * absorption(octaves, Air(temperature, humidity))
    np.testing.assert_allclose(found, per_kilometre, rtol=0.01, atol=0.05)


def test_speed_of_sound():
    assert Air(20).speed_of_sound == pytest.approx(343.2)
    assert Air(0).speed_of_sound == pytest.approx(331.3, abs=0.1)


def test_what_is_heard_was_sent_a_way_earlier():
    offsets, velocities = np.array([[3.0, 4, 0], [-50, 2, 1]]), np.array([[0.0, 0, 0], [30, -5, 0]])
    times = np.linspace(0.2, 3, 50)
    sent = emission_times(times, offsets, velocities, 340.0)
    places = offsets[:, None] + velocities[:, None] * sent[:, :, None]
    np.testing.assert_allclose(np.linalg.norm(places, axis=2), 340.0 * (times - sent), rtol=1e-9)
    np.testing.assert_allclose(times - sent[0], 5 / 340.0)


def test_a_click_arrives_on_time_and_spreads():
    distances = np.array([10.0, 20.0, 40.0])
    response = impulse_response(distances, np.ones(3), AIR, RATE)
    places = LEAD + (distances - 10) / AIR.speed_of_sound * RATE
    found = [int(np.argmax(np.abs(response) * (np.abs(np.arange(len(response)) - p) < 5))) for p in places]
    np.testing.assert_allclose(found, places, atol=0.51)
    # Half as loud at twice the distance, in the low tones that the air leaves alone.
    low = [
        np.abs(np.fft.rfft(impulse_response(np.array([d]), np.ones(1), AIR, RATE), 4096))[20]
        for d in distances
    ]
    np.testing.assert_allclose(np.array(low) * distances, 1.0, rtol=0.003)


@pytest.mark.parametrize("hertz", [250.0, 4000.0])
def test_a_fraction_of_a_sample_is_kept(hertz):
    """A pure tone through the response is the tone itself, later and weaker; to -60 dB."""
    distance = 12.345
    second = distance + 0.3 * AIR.speed_of_sound / RATE
    response = impulse_response(np.array([distance, second]), np.array([0.0, 1.0]), AIR, RATE)
    heard = np.convolve(tone(hertz), response)[2000:12000]
    gain = 10 ** (-absorption(hertz, AIR) * second / 20) / second
    times = (np.arange(2000, 12000) - LEAD - 0.3) / RATE
    np.testing.assert_allclose(heard / gain, np.sin(2 * np.pi * hertz * times), atol=1e-3)


@pytest.mark.parametrize(("hertz", "error"), [(500.0, 1e-4), (2000.0, 1e-3), (4000.0, 2e-3), (7000.0, 1e-2)])
def test_interpolation_error_of_a_sine(hertz, error):
    """Of a moving source's sound, against the sine at the very moments it was sent."""
    offsets, velocities = one(8.0, 3.0, 0.0), one(-1.7, 0.4, 0.0)
    heard = moving(tone(hertz), offsets, velocities, np.ones(1), AIR, RATE)
    times = np.linalg.norm(offsets) / AIR.speed_of_sound + np.arange(len(heard)) / RATE
    sent = emission_times(times, offsets, velocities, AIR.speed_of_sound)[0]
    distance = AIR.speed_of_sound * (times - sent)
    ends = np.linalg.norm(offsets), np.linalg.norm(offsets + velocities)
    loss = 10 ** (-absorption(hertz, AIR) * np.mean(ends) / 20)
    middle = slice(1000, 14000)
    found = heard[middle] * distance[middle] / loss
    assert np.abs(found - np.sin(2 * np.pi * hertz * sent[middle])).max() < error


@pytest.mark.parametrize("speed", [-30.0, -10.0, 10.0, 30.0])
def test_doppler(speed):
    """Towards the microphone a tone of frequency f is heard as ``f c / (c - v)``."""
    c = AIR.speed_of_sound
    heard = moving(tone(1000.0), one(100.0, 0, 0), one(-speed, 0, 0), np.ones(1), AIR, RATE)
    assert pitch(heard) == pytest.approx(1000.0 * c / (c - speed), rel=1e-5)
    # All of it arrives, shorter or longer by the same ratio.
    assert len(heard) == pytest.approx(RATE * (c - speed) / c, abs=2)


def test_a_source_that_passes_is_loudest_when_it_passes():
    heard = moving(tone(500.0, 4.0), one(-40.0, 5, 0), one(20.0, 0, 0), np.ones(1), AIR, RATE)
    level = np.sqrt(np.mean(heard[: len(heard) // 400 * 400].reshape(-1, 400) ** 2, axis=1))
    # At 2 s of its own time, less the way that the first sound had.
    passing = 2.0 + 5 / AIR.speed_of_sound - np.hypot(40, 5) / AIR.speed_of_sound
    assert np.argmax(level) * 400 / RATE == pytest.approx(passing, abs=0.06)
    assert level.max() == pytest.approx(np.sqrt(0.5) / 5, rel=0.02)


def test_standing_and_slowly_moving_are_the_same():
    offsets, gains = np.array([[6.0, 2, 1], [6.0, -9, 1], [6, 2, -4]]), np.array([1.0, 0.8, 0.5])
    noise = np.fft.irfft(np.fft.rfft(np.random.default_rng(0).standard_normal(8000))[:1500], 8000)
    noise *= np.hanning(8000)
    still = space.convolve(noise, impulse_response(np.linalg.norm(offsets, axis=1), gains, AIR, RATE))[LEAD:]
    slow = moving(noise, offsets, np.full((3, 3), 1e-6), gains, AIR, RATE)
    difference = still[:7900] - slow[:7900]
    assert np.sqrt(np.mean(difference**2)) < 1e-3 * np.sqrt(np.mean(still**2))


def test_nothing_is_infinitely_loud():
    """A source may pass through the microphone itself."""
    heard = moving(tone(300.0), one(-5.0, 0, 0), one(10.0, 0, 0), np.ones(1), AIR, RATE)
    assert np.abs(heard).max() <= 1 / space.NEAREST * 1.01
