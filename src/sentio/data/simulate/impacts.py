"""Sounds of things that hit the ground: footsteps and breaking glass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sentio.data.simulate.signals import (
    Signal,
    band,
    finished,
    log_uniform,
    modes,
    noise,
    paced,
    pulse,
    struck,
    tilt,
)


@dataclass(frozen=True)
class Surface:
    """What a shoe meets; levels are relative to each other.

    Args:
        thump: of the body's weight on the ground, below 250 Hz.
        click: of sole on surface.
        bright: Hz, band that the click fills (low end, high end).
        dull: s, in which a click loses 60 dB (range).
        ring: level of the surface's own modes; 0 where it does not ring.
        pitches: Hz, range of those modes.
        grains: stones, leaves or snow that give way under one step (range of their number).
    """

    thump: float
    click: float
    bright: tuple[float, float]
    dull: tuple[float, float]
    ring: float = 0.0
    pitches: tuple[float, float] = (100.0, 400.0)
    grains: tuple[int, int] = (0, 1)


SURFACES = {
    "pavement": Surface(0.5, 1.0, (500, 5000), (0.015, 0.05), 0.3, (250, 1200)),
    "heels": Surface(0.2, 1.2, (1200, 7000), (0.008, 0.03), 0.8, (700, 4000)),
    "wood": Surface(1.0, 0.5, (300, 3000), (0.015, 0.05), 1.2, (90, 700)),
    "metal": Surface(0.5, 0.6, (600, 7000), (0.01, 0.04), 1.2, (200, 3500)),
    "gravel": Surface(0.4, 0.2, (700, 8000), (0.01, 0.03), 0.0, grains=(25, 110)),
    "leaves": Surface(0.2, 0.1, (1500, 9000), (0.02, 0.06), 0.0, grains=(10, 60)),
}


def footfall(
    generator: np.random.Generator, rate: int, surface: Surface, body: Signal, swing: float
) -> Signal:
    """One contact of heel or sole, 0.3 s.

    Args:
        generator: no two contacts are alike.
        rate: Hz.
        surface: what is trodden on.
        body: how the surface rings, the same for each step (`modes`).
        swing: duration over which loose ground gives way (s).
    """
    samples = round(0.3 * rate)
    sound = surface.ring * body[:samples] * np.exp(generator.normal(0, 0.3))
    click = round(0.1 * rate)
    snap = noise(generator, click, rate, band(*surface.bright))
    snap *= pulse(click, rate, generator.uniform(0.0005, 0.004), generator.uniform(*surface.dull))
    sound[:click] += surface.click * snap
    thump = modes(generator.uniform(55, 130), generator.uniform(0.06, 0.16), 1.0, samples, rate)
    sound += surface.thump * thump
    count = int(generator.integers(*surface.grains))
    if count:
        size = round(0.02 * rate)
        grain = noise(generator, size, rate, band(*surface.bright)) * pulse(size, rate, 0.0005, 0.012)
        places = swing * generator.beta(1.5, 2.5, count)
        sizes = generator.choice([-1, 1], count) * log_uniform(generator, 0.08, 1.0, count)
        sound += struck(places, sizes, grain, samples, rate)
    return sound


def footsteps(generator: np.random.Generator, rate: int) -> Signal:
    """One walker for 1.6 to 6.5 s: heel then toe, 1.3 to 2.6 steps a second, on one surface.

    People walk at 1.5 to 2.3 steps a second (pedestrian loading of footbridges: Bachmann and Ammann 1987);
    strolling is slower and running faster, with heel and toe together.
    """
    seconds = log_uniform(generator, 1.6, 6.5)
    pace = float(np.clip(generator.normal(1.9, 0.32), 1.3, 2.6))
    return walk(generator, rate, seconds, pace, str(generator.choice(list(SURFACES))))


def walk(generator: np.random.Generator, rate: int, seconds: float, pace: float, surface: str) -> Signal:
    """Footsteps at ``pace`` steps a second on one of `SURFACES`."""
    ground = SURFACES[surface]
    times = paced(generator, seconds - 0.25, 1 / pace, generator.uniform(0.01, 0.05))
    count = int(generator.integers(3, 9))
    body = modes(
        log_uniform(generator, *ground.pitches, count),
        log_uniform(generator, 0.03, 0.25 if surface != "metal" else 0.6, count),
        np.exp(generator.normal(0, 0.6, count)),
        round(0.3 * rate),
        rate,
    )
    roll = generator.uniform(0.06, 0.16) * min(1.0, 1.9 / pace) if pace < 2.3 else 0.0
    toe = generator.uniform(0.1, 0.7)
    swing = generator.uniform(0.1, 0.22)
    limp = generator.uniform(0.75, 1.0)
    samples = round(seconds * rate)
    sound = np.zeros(samples)
    for number, start in enumerate(times):
        force = (1.0 if number % 2 else limp) * np.exp(generator.normal(0, 0.15))
        heel = footfall(generator, rate, ground, body, swing)
        sound += struck([start], [force], heel, samples, rate)
        if roll:
            sole = footfall(generator, rate, ground, 0.4 * body, swing)
            sound += struck([start + roll], [force * toe], sole, samples, rate)
    return finished(sound, rate, tilt(generator.uniform(-4, 2)))


def shard(generator: np.random.Generator, rate: int, lowest: float, highest: float, ring: float) -> Signal:
    """One splinter as it hits the ground: a few high modes."""
    count = int(generator.integers(2, 7))
    centre = log_uniform(generator, lowest, highest)
    centres = centre * np.cumprod(generator.uniform(1.02, 1.6, count))
    # A mode above what the rate holds would leave the shard silent, so its first one stays in range
    centres[0] = min(centre, 0.42 * rate)
    fall = ring * np.exp(generator.normal(0, 0.5, count)) * (2000 / centres) ** 0.4
    return modes(
        centres, fall, np.exp(generator.normal(0, 0.6, count)), round(min(2 * ring, 0.6) * rate), rate
    )


def glass(generator: np.random.Generator, rate: int) -> Signal:
    """A bottle, a pane or a drinking glass breaks, 0.4 to 3 s.

    A blow, a burst of splitting noise, then shards that ring at 1 to 12 kHz, fall and bounce, ever fewer.
    """
    kind = generator.choice(["bottle", "pane", "tumbler"], p=[0.35, 0.4, 0.25])
    spread, count, ring, lowest, highest = {
        "bottle": (log_uniform(generator, 0.08, 0.5), generator.integers(12, 60), 0.12, 900, 6000),
        "pane": (log_uniform(generator, 0.2, 1.1), generator.integers(40, 160), 0.1, 1200, 9000),
        "tumbler": (log_uniform(generator, 0.05, 0.35), generator.integers(8, 35), 0.22, 1800, 10000),
    }[str(kind)]
    ring *= log_uniform(generator, 0.5, 2.2)
    lowest *= generator.uniform(0.7, 1.3)
    seconds = float(np.clip(2.2 * spread + 2 * ring + generator.uniform(0.1, 0.5), 0.4, 3.0))
    samples = round(seconds * rate)
    sound = np.zeros(samples)
    start = generator.uniform(0.0, 0.05)
    crack = round(log_uniform(generator, 0.03, 0.25) * rate)
    burst = noise(generator, crack, rate, band(generator.uniform(300, 2500), generator.uniform(5000, 14000)))
    burst *= pulse(crack, rate, 0.001, 0.9 * crack / rate)
    sound += struck([start], [generator.uniform(0.5, 2.5)], burst, samples, rate)
    blow = log_uniform(generator, 150, 1200, 4)
    thump = modes(blow, log_uniform(generator, 0.03, 0.12, 4), 0.5, round(0.15 * rate), rate)
    sound += struck([start], [generator.uniform(0, 2)], thump, samples, rate)
    kinds = int(generator.integers(8, 20))
    when = start + 0.005 + generator.exponential(spread / 1.6, count)
    for group in range(kinds):
        piece = shard(generator, rate, lowest, highest, ring)
        times = when[group::kinds]
        sizes = log_uniform(generator, 0.08, 1.2, len(times)) * np.exp(-(times - start) / (1.5 * spread))
        # Each splinter jumps a few times, lower and sooner with each jump
        hop, keep = generator.uniform(0.02, 0.12), generator.uniform(0.3, 0.6)
        for jump in range(3):
            sound += struck(times, sizes * keep**jump, piece, samples, rate)
            times = times + hop * keep**jump
    return finished(sound, rate, tilt(generator.uniform(-4, 1)), fade=0.002)
