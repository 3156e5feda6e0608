"""Sounds of the weather: rain."""

from __future__ import annotations

import numpy as np

from sentio.data.simulate.signals import (
    Signal,
    band,
    finished,
    log_uniform,
    modes,
    noise,
    pulse,
    struck,
    tilt,
    wander,
)


def drop(generator: np.random.Generator, rate: int, surface: str) -> Signal:
    """The sound of one drop on stone, leaves, metal or water."""
    samples = round(0.1 * rate)
    if surface == "stone":
        high = log_uniform(generator, 2500, 12000)
        return noise(generator, samples, rate, band(high / 5, high, 1)) * pulse(samples, rate, 0.0004, 0.012)
    if surface == "leaves":
        centres = log_uniform(generator, 300, 2500, 3)
        return modes(centres, log_uniform(generator, 0.008, 0.03, 3), 1.0, samples, rate)
    if surface == "metal":
        centres = log_uniform(generator, 350, 5000, 6)
        return modes(centres, log_uniform(generator, 0.03, 0.12, 6), 0.6, samples, rate)
    # A bubble of radius r m rings at about 3.26 / r Hz (Minnaert 1933): here 0.7 to 2.5 mm
    return modes(
        3.26 / generator.uniform(0.7e-3, 2.5e-3), log_uniform(generator, 0.01, 0.05), 1.0, samples, rate
    )


def rain(generator: np.random.Generator, rate: int) -> Signal:
    """Drizzle to downpour for 2 to 6.5 s: the hiss of far drops and the impacts of near ones.

    Near drops come at random, 15 to 3000 a second, and their sizes spread widely.
    """
    seconds = log_uniform(generator, 2, 6.5)
    samples = round(seconds * rate)
    surfaces = generator.choice(["stone", "leaves", "metal", "water"], int(generator.integers(1, 4)), False)
    drops_per_second = log_uniform(generator, 15, 3000)
    high = log_uniform(generator, 2500, 12000)
    low = log_uniform(generator, 120, 1500)
    shape, colour = band(low, high, 1), tilt(generator.uniform(-4, 3))
    gusts = np.exp(
        generator.uniform(0.02, 0.25) * wander(generator, samples, rate, generator.uniform(0.5, 2))
    )
    near = np.zeros(samples)
    for surface in surfaces:
        count = generator.poisson(drops_per_second * seconds / len(surfaces))
        times = generator.uniform(-0.05, seconds, count)
        sizes = generator.lognormal(0, 0.8, count) * generator.choice([-1, 1], count)
        near += struck(times, sizes, drop(generator, rate, surface), samples, rate)
    near /= np.sqrt(np.mean(near**2)) + 1e-9
    hiss = noise(generator, samples, rate, lambda f: shape(f) * colour(f))
    sound = (near + log_uniform(generator, 0.2, 3) * hiss) * gusts
    return finished(sound, rate, fade=0.05)
