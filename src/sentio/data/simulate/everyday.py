"""Sounds of house, farm and shore: what a network may learn from before it meets few recordings of them."""

from __future__ import annotations

import numpy as np

from sentio.data.simulate.machines import combustion
from sentio.data.simulate.signals import (
    Signal,
    allowed,
    band,
    finished,
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


def helicopter(generator: np.random.Generator, rate: int) -> Signal:
    """A helicopter for 2 to 6 s: blades that slap at 8 to 32 Hz, a tail rotor, turbine and air.

    Blades pass at ``blades * rpm / 60`` Hz; each blow is a pressure pulse and a gust of noise (Leishman,
    *Principles of Helicopter Aerodynamics*, on rotor noise).
    """
    times = seconds_axis(log_uniform(generator, 2, 6), rate)
    passing = log_uniform(generator, 8, 32) * (1 + 0.02 * wander(generator, len(times), rate, 1))
    cycles = turns(passing, rate, generator.uniform())
    numbers = allowed(float(passing.max()), rate, 80)
    slap = periodic(cycles, numbers ** -generator.uniform(0.4, 1.6) * np.exp(0.5j * numbers))
    place = cycles - np.floor(cycles)
    gusts = np.exp(-generator.uniform(1.5, 9) * place) + generator.uniform(0.1, 0.8)
    air = noise(
        generator,
        len(times),
        rate,
        band(log_uniform(generator, 60, 400), log_uniform(generator, 900, 6000), 1),
    )
    rotor = turns(passing * generator.uniform(3.5, 7), rate)
    orders = np.arange(1.0, 9.0)
    tail = periodic(rotor, orders ** -generator.uniform(0.3, 1.5) * np.exp(1j * generator.uniform(0, 6, 8)))
    whine = np.sin(2 * np.pi * turns(np.full(len(times), log_uniform(generator, 900, 5000)), rate))
    total = (
        generator.uniform(0.2, 1.5) * slap / (np.std(slap) + 1e-9)
        + generator.uniform(0.5, 2.0) * air * gusts
        + generator.uniform(0, 0.5) * tail / (np.std(tail) + 1e-9)
        + generator.uniform(0, 0.1) * whine
    )
    near = 1 + 0.3 * wander(generator, len(times), rate, 0.7)
    return finished(total * np.maximum(near, 0.2), rate, tilt(generator.uniform(-4, 1)))


def chainsaw(generator: np.random.Generator, rate: int) -> Signal:
    """A chainsaw or another small two-stroke engine, 1.5 to 6 s: idling, revving, biting.

    One cylinder that fires on every turn, 2,500 to 13,000 rpm.
    """
    times = seconds_axis(log_uniform(generator, 1.5, 6), rate)
    idle, top = generator.uniform(2300, 3500), generator.uniform(7000, 13000)
    gas = np.zeros(len(times))
    for start in paced(generator, float(times[-1]), log_uniform(generator, 0.5, 4), 0.4):
        length = log_uniform(generator, 0.3, 4)
        gas += swell(times, start, start + length, 0.08, 0.25) * generator.uniform(0.5, 1)
    gas = np.clip(gas + generator.uniform(-0.2, 0.6), 0, 1)
    rpm = idle + (top - idle) * gas
    rpm *= 1 - generator.uniform(0, 0.3) * gas * np.clip(wander(generator, len(times), rate, 2), 0, 1.5)
    rpm = np.maximum(rpm * (1 + 0.01 * wander(generator, len(times), rate, 12)), 1500)
    # A two-stroke fires twice as often as the four-stroke that `combustion` computes
    sound = combustion(
        generator,
        2 * rpm,
        rate,
        cylinders=1,
        unevenness=generator.uniform(0.2, 0.9),
        slope=generator.uniform(0.2, 1.1),
        breath=generator.uniform(0.1, 0.7),
        knock=generator.uniform(0.1, 0.6),
    )
    teeth = noise(generator, len(times), rate, band(generator.uniform(1500, 3000), 9000, 1))
    sound = sound / np.std(sound) * (0.4 + gas) + generator.uniform(0, 0.5) * teeth * gas
    centres = np.sort(log_uniform(generator, 400, 6000, 4))
    body = resonances(centres, 0.25 * centres, generator.uniform(0.3, 1, 4))
    return finished(
        sound + generator.uniform(0, 1.5) * finished(sound, rate, body), rate, tilt(generator.uniform(-2, 3))
    )


def clock_tick(generator: np.random.Generator, rate: int) -> Signal:
    """A clock or watch for 3 to 8 s: one to five beats a second, each a few clicks of the escapement.

    Tick and tock differ; a beat is two or three impacts within some 20 ms.
    """
    seconds = generator.uniform(3, 8)
    period = float(generator.choice([1.0, 0.5, 0.4, 0.25, 0.2])) * np.exp(generator.normal(0, 0.03))
    beats = paced(generator, seconds, period, 0.01)
    samples = round(seconds * rate)
    ring, total = log_uniform(generator, 0.004, 0.12), np.zeros(samples)
    apart = np.sort(generator.uniform(0, 0.03, 2))
    low = log_uniform(generator, 500, 3500)
    for parity in (0, 1):
        count = 10
        centres = log_uniform(generator, low, min(9 * low, 12_000), count)
        fall = ring * (low / centres) ** 0.5 * generator.uniform(0.5, 1.5, count)
        click = modes(centres, fall, generator.uniform(0.2, 1, count), round((4 * ring + 0.01) * rate), rate)
        click += (
            0.3
            * noise(generator, len(click), rate, band(low, 12_000))
            * pulse(len(click), rate, 0.0003, 0.006)
        )
        struck_at = beats[parity::2]
        for late, gain in zip((0.0, *apart), (1.0, *generator.uniform(0.1, 0.9, 2)), strict=True):
            gains = gain * np.exp(generator.normal(0, 0.06, len(struck_at)))
            total += struck(struck_at + late, gains, click, samples, rate)
        if generator.uniform() < 0.3:  # some clocks say tick, tick
            total += struck(beats[1 - parity :: 2], 1.0, click, samples, rate)
            break
    return finished(total, rate)


def fire(generator: np.random.Generator, rate: int) -> Signal:
    """A wood fire for 3 to 7 s: crackles at random, of very different size, over hiss and a low roar.

    Crackles are a Poisson process whose sizes have a heavy tail (Farnell, *Designing Sound*, on fire).
    """
    seconds = generator.uniform(3, 7)
    samples = round(seconds * rate)
    total = np.zeros(samples)
    often = log_uniform(generator, 5, 90)
    for _ in range(6):
        count = generator.poisson(often * seconds / 6)
        if not count:
            continue
        low = log_uniform(generator, 500, 3500)
        crack = noise(generator, round(0.05 * rate), rate, band(low, min(6 * low, 14_000), 1))
        crack *= pulse(len(crack), rate, 0.0004, log_uniform(generator, 0.003, 0.03))
        at = generator.uniform(0, seconds, count)
        total += struck(at, np.exp(generator.normal(-1, 1.0, count)), crack, samples, rate)
    total /= np.abs(total).max() + 1e-9
    roar = noise(generator, samples, rate, band(40, log_uniform(generator, 150, 700), 1))
    hiss = noise(generator, samples, rate, band(log_uniform(generator, 600, 3000), 12_000, 1))
    stir = np.maximum(1 + 0.5 * wander(generator, samples, rate, 3), 0.1)
    total += (log_uniform(generator, 0.005, 0.12) * roar + log_uniform(generator, 0.003, 0.05) * hiss) * stir
    return finished(total, rate)


def waves(generator: np.random.Generator, rate: int) -> Signal:
    """Waves on a shore for 4 to 8 s: each swells, breaks and runs out, brighter while it breaks."""
    times = seconds_axis(generator.uniform(4, 8), rate)
    low = noise(generator, len(times), rate, tilt(generator.uniform(-7, -3)))
    high = noise(generator, len(times), rate, band(log_uniform(generator, 300, 1500), 12_000, 1))
    size, foam = np.zeros(len(times)), np.zeros(len(times))
    start = -generator.uniform(0, 5)
    while start < times[-1]:
        length, gain = generator.uniform(2.5, 7), generator.uniform(0.4, 1)
        crest = start + length * generator.uniform(0.2, 0.5)
        size += gain * swell(times, start, start + length, crest - start, start + length - crest)
        foam += gain * swell(times, crest - 0.3, crest + length, 0.4, length)
        start += generator.uniform(2, 6)
    calm = generator.uniform(0.1, 0.6)
    return finished(
        low * (calm + size) + generator.uniform(0.2, 1.5) * high * (0.3 * calm + foam), rate, fade=0.05
    )


def crying(generator: np.random.Generator, rate: int) -> Signal:
    """A baby cries, 1.5 to 6 s: wails on one breath each, 300 to 650 Hz, with gasps between them.

    Fundamental and the arch of a cry as in LaGasse et al., *Assessment of Infant Cry* (2005); formants of a
    tract of about 8 cm.
    """
    seconds = log_uniform(generator, 1.5, 6)
    times = seconds_axis(seconds, rate)
    base = log_uniform(generator, 300, 650)
    pitch, loud, gasp = np.full(len(times), base), np.zeros(len(times)), np.zeros(len(times))
    start = generator.uniform(0, 0.2)
    harsh = generator.uniform(0, 0.8)
    while start < seconds - 0.2:
        end = start + log_uniform(generator, 0.3, 1.8)
        place = np.clip((times - start) / (end - start), 0, 1)
        key = base * np.exp(generator.normal(0, 0.06))
        arch = generator.uniform(0.05, 0.45) * np.sin(np.pi * place ** generator.uniform(0.5, 1.2))
        inside = (times >= start) & (times < end)
        pitch[inside] = (key * (0.9 + arch - 0.15 * place))[inside]
        loud += swell(times, start, end, 0.06, 0.15) * generator.uniform(0.7, 1)
        rest = log_uniform(generator, 0.1, 0.6)
        gasp += swell(times, end + 0.2 * rest, end + rest, 0.05, 0.05) * generator.uniform(0, 0.3)
        start = end + rest
    tremor = 1 + generator.uniform(0, 0.03) * np.sin(2 * np.pi * generator.uniform(5, 9) * times)
    pitch = pitch * tremor * (1 + 0.04 * harsh * wander(generator, len(times), rate, 120))
    numbers = allowed(float(pitch.max()), rate)
    cycles = turns(pitch, rate)
    voice = periodic(cycles, numbers ** -generator.uniform(0.4, 1.2) * np.exp(1j * numbers**2))
    voice = voice / (np.std(voice) + 1e-9) * (1 + 0.8 * harsh * np.cos(np.pi * cycles))
    breath = noise(generator, len(times), rate, band(800, 9000, 1))
    source = (voice + harsh * 0.4 * breath) * loud + breath * gasp
    tract = generator.uniform(0.07, 0.1)
    centres = 343 / (4 * tract) * (2 * np.arange(5) + 1) * np.exp(generator.normal(0, 0.08, 5))
    mouth = resonances(centres, 90 + 0.12 * centres, [1, 0.9, 0.6, 0.4, 0.3] * generator.uniform(0.5, 1.2, 5))
    return finished(source, rate, mouth)


def rooster(generator: np.random.Generator, rate: int) -> Signal:
    """A rooster crows, 1.3 to 3 s: two short notes, a high one and a long glide down, rich in harmonics."""
    base = log_uniform(generator, 380, 900)
    notes = [(0.12, 0.85, 0.95), (0.1, 0.9, 1.0), (0.3, 1.05, 1.25), (0.9, 1.25, 0.7)]
    stretched = np.exp(generator.normal(0, 0.2, len(notes))) * generator.uniform(0.9, 1.6)
    seconds = float(sum(length for length, _, _ in notes) * 1.3 * stretched.max() + 0.4)
    times = seconds_axis(seconds, rate)
    pitch, loud, start = np.full(len(times), base), np.zeros(len(times)), 0.02
    for (length, first, last), slow in zip(notes, stretched, strict=True):
        end = start + length * slow
        place = np.clip((times - start) / (end - start), 0, 1)
        inside = (times >= start) & (times < end)
        bend = 1 + 0.08 * np.sin(np.pi * place)
        pitch[inside] = (base * (first + (last - first) * place**1.5) * bend)[inside]
        loud += swell(times, start, end, 0.02, 0.3 * (end - start)) * generator.uniform(0.6, 1)
        start = end + generator.uniform(0.0, 0.08)
    times, pitch, loud = (part[: round((start + 0.1) * rate)] for part in (times, pitch, loud))
    pitch = pitch * (1 + 0.015 * wander(generator, len(times), rate, 40))
    numbers = allowed(float(pitch.max()), rate)
    voice = periodic(turns(pitch, rate), numbers ** -generator.uniform(0.2, 0.9) * np.exp(1j * numbers**1.5))
    rasp = noise(generator, len(times), rate, band(1000, 7000, 1)) * generator.uniform(0, 0.4)
    source = (voice / (np.std(voice) + 1e-9) + rasp) * loud
    centres = np.sort(log_uniform(generator, 900, 6000, 4))
    return finished(source, rate, resonances(centres, 0.2 * centres, generator.uniform(0.3, 1, 4)))


def sneeze(generator: np.random.Generator, rate: int) -> Signal:
    """Somebody sneezes once or twice, 0.5 to 3 s: a breath in, then a blast of noise with a short vowel."""
    blasts = 2 if generator.uniform() < 0.25 else 1
    parts = []
    base, tract = log_uniform(generator, 110, 380), generator.uniform(0.13, 0.18)
    for _ in range(blasts):
        inhale, blast = log_uniform(generator, 0.15, 0.7), log_uniform(generator, 0.15, 0.6)
        after = log_uniform(generator, 0.05, 0.5)
        times = seconds_axis(inhale + 0.08 + blast + after, rate)
        begun = inhale + generator.uniform(0, 0.08)
        drawn = noise(generator, len(times), rate, band(400, 5000, 1))
        drawn *= swell(times, 0, inhale, 0.7 * inhale, 0.05) * generator.uniform(0, 0.25)
        edge = log_uniform(generator, 700, 3500)
        hiss = noise(generator, len(times), rate, band(edge, min(5 * edge, 13_000), 1))
        hiss *= pulse(len(times), rate, 0.01, 2.2 * blast)[: len(times)]
        hiss = np.roll(hiss, round(begun * rate))
        hiss[: round(begun * rate)] = 0
        pitch = base * (1 + 0.5 * np.exp(-np.maximum(times - begun, 0) / 0.1))
        numbers = allowed(float(pitch.max()), rate)
        voice = periodic(turns(pitch, rate), numbers**-1.1 * np.exp(1j * numbers**1.3))
        voiced = swell(
            times, begun - generator.uniform(0, 0.25), begun + generator.uniform(0.05, 0.25), 0.03, 0.08
        )
        tailed = swell(times, begun + blast, times[-1], 0.05, 0.1) * generator.uniform(0, 0.4)
        vowel = voice / (np.std(voice) + 1e-9) * (voiced + tailed) * generator.uniform(0.1, 1.0)
        centres = 343 / (4 * tract) * (2 * np.arange(5) + 1) * np.exp(generator.normal(0, 0.1, 5))
        mouth = resonances(centres, 80 + 0.1 * centres, [1, 0.7, 0.5, 0.35, 0.25])
        parts.append(drawn + 1.2 * hiss + finished(vowel, rate, mouth))
        parts.append(np.zeros(round(generator.uniform(0.1, 0.8) * rate)))
    return finished(np.concatenate(parts[:-1]), rate)
