"""Sounds with a throat: barking dogs and a babble of talkers, as source and filter."""

from __future__ import annotations

import numpy as np

from sentio.data.simulate.signals import (
    Signal,
    allowed,
    band,
    fast_length,
    filtered,
    finished,
    log_uniform,
    noise,
    paced,
    periodic,
    resonances,
    seconds_axis,
    swell,
    turns,
    wander,
)

SOUND_SPEED = 343.0
#: first three formants of men's vowels (Hz): Peterson and Barney, Control Methods Used in a Study of the
#: Vowels, 1952
VOWELS = np.array(
    [
        [270, 2290, 3010],
        [390, 1990, 2550],
        [530, 1840, 2480],
        [660, 1720, 2410],
        [730, 1090, 2440],
        [570, 840, 2410],
        [440, 1020, 2240],
        [300, 870, 2240],
        [640, 1190, 2390],
        [490, 1350, 1690],
    ],
    dtype=np.float64,
)
#: bands of consonants (Hz), from s to h
CONSONANTS = ((3500, 8000), (1800, 5500), (900, 4000), (300, 2500))


def barks(generator: np.random.Generator) -> list[tuple[float, float]]:
    """When a dog barks: (start, end) in s, one bark, a few, or a row of them."""
    count = int(generator.choice([1, 2, 3, 4, 6, 9], p=[0.2, 0.2, 0.2, 0.16, 0.14, 0.1]))
    length, gap = log_uniform(generator, 0.09, 0.35), log_uniform(generator, 0.12, 0.9)
    called, start = [], 0.0
    for _ in range(count):
        end = start + length * generator.uniform(0.75, 1.3)
        called.append((start, float(end)))
        start = float(end) + gap * generator.uniform(0.6, 1.5)
    return called


def barking(generator: np.random.Generator, rate: int, tract: float, base: float) -> Signal:
    """One dog's bout of barks.

    Args:
        generator: for everything that is not an argument.
        rate: Hz.
        tract: length of the vocal tract (m): formants lie at odd multiples of ``c / 4 tract``.
        base: fundamental (Hz) around which the barks glide.
    """
    called = barks(generator)
    harsh = generator.uniform(0.05, 1.0)
    arch, fall = generator.uniform(0.1, 0.6), generator.uniform(-0.1, 0.45)
    times = seconds_axis(called[-1][1] + 0.05, rate)
    pitch, envelope = np.full(len(times), base), np.zeros(len(times))
    for start, end in called:
        first, last = int(start * rate), min(int(end * rate) + 1, len(times))
        place = np.clip((times[first:last] - start) / (end - start), 0, 1)
        key = base * np.exp(generator.normal(0, 0.08))
        pitch[first:last] = key * (1 + arch * np.sin(np.pi * place**0.7) - fall * place)
        flank = (end - start) * generator.uniform(0.08, 0.3)
        envelope[first:last] = swell(times[first:last], start, end, flank, 2 * flank) * generator.uniform(
            0.6, 1
        )
    # Harsh barks have irregular periods (Riede et al. on the harmonics-to-noise ratio of barks)
    pitch = pitch * (1 + 0.05 * harsh * wander(generator, len(times), rate, 180))
    numbers = allowed(float(pitch.max()), rate)
    partials = numbers ** -generator.uniform(0.7, 1.7) * np.exp(1j * generator.uniform(0, 2, len(numbers)))
    cycles = turns(pitch, rate)
    voice = periodic(cycles, partials)
    voice /= np.sqrt(np.mean(voice**2)) + 1e-9
    half = 1 + generator.uniform(0, 0.9) * harsh * np.cos(np.pi * cycles)
    breath = noise(generator, len(times), rate, band(300, 9000, 1)) * harsh * generator.uniform(0.2, 1.4)
    source = (voice * half + breath) * envelope
    spaced = SOUND_SPEED / (4 * tract) * (2 * np.arange(6) + 1)
    widths, gains = 60 + 0.12 * spaced, np.array([1.0, 0.9, 0.6, 0.45, 0.3, 0.2])
    gains = gains * np.exp(generator.normal(0, 0.3, 6))
    # The mouth opens and closes: the first formant goes up, and the highs come and go with it
    opened = filtered(source * envelope, rate, resonances(spaced, widths, gains), ringing=0.05)
    shut = spaced * np.array([0.6, 0.85, 1, 1, 1, 1])
    closed = filtered(
        source * (1 - 0.8 * envelope), rate, resonances(shut, widths, gains * 0.7), ringing=0.05
    )
    return opened + closed


def bark(generator: np.random.Generator, rate: int) -> Signal:
    """A dog of any size barks, 0.15 to 8 s; sometimes two dogs.

    Barks range from harsh and low to tonal and high (Yin and McCowan 2004); formants follow the length of the
    vocal tract, which grows with the dog (Riede and Fitch 1999), and the fundamental mostly does.
    """
    voices = []
    for _ in range(2 if generator.uniform() < 0.2 else 1):
        size = generator.uniform()
        tract = 0.08 * (0.25 / 0.08) ** size
        base = 1100 * (190 / 1100) ** size * np.exp(generator.normal(0, 0.25))
        voices.append(barking(generator, rate, tract, float(np.clip(base, 140, 1500))))
    total = np.zeros(min(max(map(len, voices)), 8 * rate))
    for voice in voices:
        late = round(generator.uniform(0, 1) * (len(total) - min(len(voice), len(total))))
        part = voice[: len(total) - late]
        total[late : late + len(part)] += part * generator.uniform(0.5, 1)
    return finished(total, rate)


def phrases(generator: np.random.Generator, seconds: float) -> list[tuple[float, float]]:
    """When one talker speaks: stretches of speech and pauses, (start, end) in s."""
    spoken, start = [], -float(generator.uniform(0, 1.5))
    while start < seconds:
        end = start + log_uniform(generator, 0.6, 3.5)
        spoken.append((start, end))
        start = end + log_uniform(generator, 0.15, 1.2)
    return spoken


def spoken_vowels(
    generator: np.random.Generator, source: Signal, times: Signal, tempo: float, scale: float, rate: int
) -> Signal:
    """A buzzing source cut into syllables that start at ``times``, each through the formants of a vowel.

    Syllables are a quarter longer than their pace, so that neighbours run into each other. Formants are those
    of `VOWELS` times ``scale``. Shape of the source, RMS 1.
    """
    length = round(1.25 / tempo * rate)
    places = np.round(times * rate).astype(np.int64)
    pieces = np.append(source, np.zeros(length))[places[:, None] + np.arange(length)]
    shape = np.sin(np.pi * np.linspace(0, 1, length) ** generator.uniform(0.6, 1.1)) ** 1.5
    stress = np.exp(generator.normal(0, 0.35, len(times)))
    size = fast_length(length + round(0.03 * rate))
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    chosen, vowels = np.unique(
        generator.choice(generator.integers(0, len(VOWELS), 6), len(times)), return_inverse=True
    )
    widths, gains = np.array([70, 90, 130, 200, 280]), np.array([1.0, 0.6, 0.35, 0.2, 0.15])
    filters = [
        resonances(scale * np.append(VOWELS[v], [3500, 4500]), widths, gains)(frequencies) for v in chosen
    ]
    spectra = np.fft.rfft(pieces * (shape * stress[:, None]), size) * np.array(filters)[vowels]
    total = np.zeros(len(source) + size)
    for place, syllable in zip(places, np.fft.irfft(spectra, size), strict=True):
        total[place : place + size] += syllable
    voiced = total[: len(source)]
    return voiced / (np.sqrt(np.mean(voiced**2)) + 1e-9)


def hisses(
    generator: np.random.Generator, kinds: list[Signal], times: Signal, samples: int, rate: int
) -> Signal:
    """The noise of consonants, before some of the syllables that start at ``times``."""
    axis = np.arange(len(kinds[0])) / rate
    total = np.zeros(samples)
    for time in times[generator.uniform(size=len(times)) < 0.65]:
        lasts = generator.uniform(0.012, 0.11)
        place = max(round((time - 0.5 * lasts) * rate), 0)
        hiss = kinds[generator.integers(len(kinds))] * swell(axis, 0, lasts, 0.3 * lasts, 0.5 * lasts)
        part = hiss[: samples - place]
        total[place : place + len(part)] += generator.uniform(0.3, 1) * part
    return total


def talker(generator: np.random.Generator, breath: Signal, kinds: list[Signal], rate: int) -> Signal:
    """One person who talks in syllables, 3 to 7 a second, with pauses between phrases.

    Men speak at about 85 to 155 Hz, women at 165 to 255, children higher.

    Args:
        generator: for everything that is not an argument.
        breath: noise as long as what is wanted.
        kinds: of consonants, see `hisses`: noises of one length, that of the longest consonant.
        rate: Hz.
    """
    kind = generator.choice(["man", "woman", "child"], p=[0.45, 0.45, 0.1])
    ranges = {"man": (85, 155, 1.0), "woman": (165, 255, 1.16), "child": (240, 350, 1.35)}
    low, high, scale = ranges[str(kind)]
    samples, seconds = len(breath), len(breath) / rate
    tempo = generator.uniform(3.0, 7.0)
    times, spoken = paced(generator, seconds, 1 / tempo, 0.22), phrases(generator, seconds)
    times = times[[any(start <= time < end for start, end in spoken) for time in times]]
    if not len(times):
        times = np.zeros(1)
    melody = generator.uniform(0.06, 0.2) * wander(generator, samples, rate, 3)
    pitch = log_uniform(generator, low, high) * np.exp(melody)
    numbers = allowed(float(pitch.max()), rate)
    # -12 dB per octave from the glottis, +6 from the lips
    partials = numbers ** -generator.uniform(0.8, 1.3) * np.exp(1j * generator.uniform(0, 1.5, len(numbers)))
    source = periodic(turns(pitch, rate), partials)
    source += generator.uniform(0.05, 0.25) * np.roll(breath, generator.integers(samples))
    voiced = spoken_vowels(generator, source, times, tempo, scale * generator.uniform(0.94, 1.06), rate)
    return voiced + generator.uniform(0.15, 0.7) * hisses(generator, kinds, times, samples, rate)


def babble(generator: np.random.Generator, rate: int) -> Signal:
    """Two to five people talk at once, for 2 to 6.5 s, some nearer than others."""
    samples = round(log_uniform(generator, 2, 6.5) * rate)
    near = log_uniform(generator, 0.25, 1, int(generator.integers(2, 6)))
    breath = noise(generator, samples, rate, band(200, 8000, 1))
    kinds = [noise(generator, round(0.12 * rate), rate, band(*edges)) for edges in CONSONANTS]
    total = sum((level * talker(generator, breath, kinds, rate) for level in near), np.zeros(samples))
    return finished(total, rate, fade=0.05)
