"""Sounds with a pitch: siren, horn and bell."""

from __future__ import annotations

import numpy as np

from sentio.data.simulate.signals import (
    HIGHEST,
    Signal,
    allowed,
    band,
    finished,
    harmonics,
    log_uniform,
    modes,
    noise,
    paced,
    periodic,
    pulse,
    resonances,
    seconds_axis,
    struck,
    swell,
    tilt,
    turns,
    wander,
)

#: partials of a church bell: hum, prime, tierce, quint, nominal, twelfth, octave nominal and others between
#: (Rossing and Perrin, Vibrations of Bells, Applied Acoustics 1987)
CHURCH = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 2.61, 3.0, 4.0, 5.2, 6.4])
#: a handbell is tuned to its twelfth (Rossing and Perrin 1987)
HAND = np.array([1.0, 2.0, 3.0, 5.4, 6.2, 8.1])
#: flexural modes of a ring, n (n^2 - 1) / sqrt(n^2 + 1) for n = 2, 3, 4, 5 over that of n = 2 (Fletcher and
#: Rossing, The Physics of Musical Instruments): shells of bicycle and shop bells, gongs of trams
SHELL = np.array([1.0, 2.83, 5.42, 8.77])


def swept(times: Signal, low: float, high: float, per_second: float, rising: float, bend: float) -> Signal:
    """The pitch (Hz) of a wail or yelp: up from ``low`` in the share ``rising`` of a cycle, then down again.

    ``bend`` above 1 starts slowly and ends quickly, as a motor that is being switched does.
    """
    place = times * per_second
    place = place - np.floor(place)
    height = np.where(place < rising, place / rising, (1 - place) / (1 - rising))
    return low * (high / low) ** (np.clip(height, 0, 1) ** bend)


def alternating(times: Signal, low: float, high: float, tone: float, glide: float) -> Signal:
    """The pitch (Hz) of a hi-lo siren: two tones, each ``tone`` s long."""
    side = np.clip(np.sin(np.pi * times / tone) * tone / (np.pi * glide), -1, 1)
    return low * (high / low) ** (0.5 + 0.5 * side)


def siren(generator: np.random.Generator, rate: int) -> Signal:
    """A wail, yelp or hi-lo siren of 2 to 6.5 s, as a horn loudspeaker or compressed-air horns give it.

    Wails sweep 10 to 30 and yelps 150 to 250 times a minute (California Code of Regulations, title 13,
    section 1028). Hi-lo pairs lie around a fourth between 360 and 630 Hz (DIN 14610).
    """
    kind = generator.choice(["wail", "yelp", "hi-lo"], p=[0.4, 0.3, 0.3])
    times = seconds_axis(log_uniform(generator, 2, 6.5), rate)
    begin = generator.uniform(0, 8)
    if kind == "hi-lo":
        low = generator.uniform(360, 475)
        high = low * generator.uniform(1.22, 1.36)
        pitch = alternating(
            times + begin, low, high, generator.uniform(0.3, 0.85), generator.uniform(0.004, 0.05)
        )
    else:
        low = log_uniform(generator, 400, 850)
        high = min(low * generator.uniform(1.6, 2.6), 1700.0)
        cycles = generator.uniform(10, 30) if kind == "wail" else generator.uniform(150, 250)
        rising = generator.uniform(0.25, 0.7)
        pitch = swept(times + begin, low, high, cycles / 60, rising, generator.uniform(0.6, 1.6))
    numbers = np.arange(1, 13)
    amplitudes = numbers ** -generator.uniform(0.6, 2.2)
    amplitudes[1::2] *= generator.uniform(0, 1)
    amplitudes *= np.exp(generator.normal(0, 0.4, 12))
    throat = generator.uniform(250, 700), log_uniform(generator, 1800, 7000)
    peak = log_uniform(generator, 700, 3000)
    width, gain = peak * generator.uniform(0.2, 0.8), generator.uniform(0, 4)
    flutter = 1 + generator.uniform(0, 0.15) * wander(generator, len(times), rate, generator.uniform(3, 12))
    horn_mouth = resonances(peak, width, gain)
    sound = harmonics(pitch, amplitudes, rate) * flutter * swell(times, 0, times[-1], 0.05, 0.08)
    return finished(sound, rate, lambda f: band(*throat)(f) * (1 + horn_mouth(f)))


def honks(generator: np.random.Generator) -> list[tuple[float, float]]:
    """When a driver presses the button: (start, end) in s."""
    habit = generator.choice(["one", "double", "many", "long"], p=[0.3, 0.25, 0.25, 0.2])
    if habit == "long":
        return [(0.0, log_uniform(generator, 1.2, 5))]
    if habit == "one":
        return [(0.0, log_uniform(generator, 0.2, 1.2))]
    count = 2 if habit == "double" else int(generator.integers(3, 7))
    length, gap = log_uniform(generator, 0.09, 0.5), log_uniform(generator, 0.08, 0.4)
    pressed, start = [], 0.0
    for _ in range(count):
        end = start + length * generator.uniform(0.7, 1.4)
        pressed.append((start, end))
        start = end + gap * generator.uniform(0.6, 1.6)
    return pressed


def horn_notes(generator: np.random.Generator) -> Signal:
    """The fundamentals (Hz) of a vehicle's horn.

    A scooter has one; a car has two between 350 and 520 Hz, a third or so apart, or two that are meant to be
    equal and beat; a truck has one to three air trumpets between 130 and 350 Hz.
    """
    vehicle = generator.choice(["scooter", "car", "equal", "truck"], p=[0.2, 0.4, 0.1, 0.3])
    if vehicle == "scooter":
        return log_uniform(generator, 330, 620, 1)
    if vehicle == "car":
        return generator.uniform(345, 440) * np.array([1, generator.uniform(1.15, 1.28)])
    if vehicle == "equal":
        return generator.uniform(350, 500) * np.array([1, generator.uniform(1.003, 1.02)])
    steps = generator.uniform(1.15, 1.4, generator.integers(0, 3))
    return log_uniform(generator, 130, 300) * np.cumprod([1.0, *steps])


def horn(generator: np.random.Generator, rate: int) -> Signal:
    """A car, truck or scooter horn of 0.2 to 6 s: one press, two, several or a long one.

    Disc and trumpet horns hold many harmonics, with most of their level from 1.8 to 3.55 kHz (the band that
    UN Regulation No. 28 asks for); pitch settles in the first hundredths of a second.
    """
    pressed, notes = honks(generator), horn_notes(generator)
    slope, buzz = generator.uniform(0.3, 1.4), log_uniform(generator, 900, 3800)
    buzz_width, buzz_gain = buzz * generator.uniform(0.25, 0.9), generator.uniform(0.3, 4)
    floor, colour = generator.uniform(120, 350), generator.uniform(-4, 1)
    droop, settling = generator.uniform(-0.02, 0.06), generator.uniform(0.015, 0.08)
    rise, fall = log_uniform(generator, 0.008, 0.05), log_uniform(generator, 0.02, 0.1)
    times = seconds_axis(pressed[-1][1] + fall, rate)
    starts = np.array([start for start, _ in pressed])
    since = times - starts[np.searchsorted(starts, times, side="right") - 1]
    bend = 1 - droop * np.exp(-since / settling)
    envelope = np.zeros(len(times))
    for start, end in pressed:
        first, last = int(start * rate), min(int((end + fall) * rate) + 1, len(times))
        envelope[first:last] = swell(times[first:last], start, end + fall, rise, fall)
    total = np.zeros(len(times))
    for note in notes:
        numbers = allowed(note * (1 + max(0, -droop)), rate, 60)
        partials = numbers**-slope * np.exp(2j * np.pi * generator.uniform(0, 1, len(numbers)))
        partials *= np.exp(generator.normal(0, 0.35, len(numbers)))
        unsteady = 1 + 0.002 * wander(generator, len(times), rate, 15)
        total += generator.uniform(0.6, 1) * periodic(turns(note * bend * unsteady, rate), partials)
    bell_mouth = resonances(buzz, buzz_width, buzz_gain)
    body, slant = band(floor, 9000), tilt(colour)
    return finished(total * envelope, rate, lambda f: body(f) * slant(f) * (1 + bell_mouth(f)))


def bell_body(
    generator: np.random.Generator, ratios: Signal, strike: float, ring: float, hardness: float, rate: int
) -> Signal:
    """One stroke on a bell.

    Args:
        generator: for amplitudes, and for the pair that each partial is split into (no bell is quite round).
        ratios: of its partials to ``strike``.
        strike: Hz.
        ring: time in which the lowest partial loses 60 dB (s); higher ones fall faster.
        hardness: Hz up to which the clapper excites.
        rate: Hz.
    """
    ratios = ratios * np.exp(generator.normal(0, 0.006, len(ratios)))
    amplitudes = np.exp(generator.normal(0, 0.5, len(ratios))) / np.hypot(1, ratios * strike / hardness)
    fall = ring * (ratios / ratios[0]) ** -generator.uniform(0.5, 1.1)
    split = 1 + log_uniform(generator, 2e-4, 6e-3, len(ratios))
    samples = round(min(ring, 6.0) * rate)
    share = generator.uniform(0.1, 0.9, len(ratios))
    body = modes(
        np.concatenate([ratios * strike, ratios * strike * split]),
        np.concatenate([fall, fall * generator.uniform(0.8, 1.2)]),
        np.concatenate([amplitudes * share, amplitudes * (1 - share)]),
        samples,
        rate,
    )
    click = min(samples, round(0.03 * rate))
    blow = noise(generator, click, rate, band(strike, min(6 * strike, 9000)))
    body[:click] += generator.uniform(0, 0.6) * blow * pulse(click, rate, 0.0005, 0.02)
    return body


def bell(generator: np.random.Generator, rate: int) -> Signal:
    """A church, hand, shop, tram or bicycle bell, 0.5 to 8 s: one stroke, swinging, or a trill."""
    kind = generator.choice(["church", "hand", "shell", "bicycle"], p=[0.3, 0.2, 0.25, 0.25])
    seconds, period, count = log_uniform(generator, 1.5, 7), 0.0, 1
    if kind == "church":
        ratios, strike = CHURCH, log_uniform(generator, 140, 900)
        ring, hardness = log_uniform(generator, 3, 14), log_uniform(generator, 600, 3000)
        period = log_uniform(generator, 0.6, 2.5) if generator.uniform() < 0.65 else 0.0
    elif kind == "hand":
        ratios, strike = HAND, log_uniform(generator, 300, 2200)
        ring, hardness = log_uniform(generator, 0.8, 5), log_uniform(generator, 800, 5000)
        period = log_uniform(generator, 0.22, 0.6) if generator.uniform() < 0.6 else 0.0
    elif kind == "shell":
        ratios, strike = SHELL, log_uniform(generator, 420, 1900)
        ring, hardness = log_uniform(generator, 0.5, 3), log_uniform(generator, 1500, 7000)
        period = log_uniform(generator, 0.06, 0.4) if generator.uniform() < 0.75 else 0.0
    else:
        ratios, strike = SHELL, log_uniform(generator, 1300, 0.95 * min(3800, HIGHEST * rate))
        ring, hardness = log_uniform(generator, 0.3, 1.8), 8000.0
        period, count = log_uniform(generator, 0.035, 0.09), int(generator.integers(1, 4))
    body = bell_body(generator, ratios, strike, ring, hardness, rate)
    if kind == "bicycle":
        # The thumb lever spins the clappers once a pull: quick strokes that slow down, then a pause
        pulls = np.cumsum(np.concatenate([[0.0], log_uniform(generator, 0.4, 1.2, count - 1)]))
        strokes = np.arange(int(generator.integers(3, 12)))
        slowing = generator.uniform(0.0, 0.06)
        times = (pulls[:, None] + period * strokes * (1 + slowing * strokes)).ravel()
        seconds = times[-1] + min(ring * 0.6, 1.5)
    elif period:
        times = paced(generator, max(seconds - min(ring, 1.5) / 2, 0.3), period, generator.uniform(0, 0.06))
    else:
        times, seconds = np.zeros(1), float(np.clip(ring, 0.5, seconds))
    samples = round(min(seconds, 8.0) * rate)
    gains = np.exp(generator.normal(0, 0.25, len(times)))
    return finished(struck(times, gains, body, samples, rate), rate, fade=0.002)
