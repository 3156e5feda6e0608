"""Sounds of machines that turn: combustion engine and drill."""

from __future__ import annotations

import numpy as np

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


def revs(generator: np.random.Generator, times: Signal, rate: int, idle: float, top: float) -> Signal:
    """Engine speed (rpm) over time: idling, cruising, pulling away through the gears, slowing, or revved."""
    drive = generator.choice(["idle", "cruise", "pull", "slow", "rev"], p=[0.22, 0.22, 0.26, 0.12, 0.18])
    seconds = float(times[-1])
    if drive in ("idle", "cruise"):
        speed = idle if drive == "idle" else log_uniform(generator, 1.3 * idle, 0.8 * top)
        rpm = speed * (1 + generator.uniform(-0.12, 0.12) * times / seconds)
    elif drive == "slow":
        rpm = np.geomspace(generator.uniform(0.4, 0.9) * top, 1.1 * idle, len(times))
    elif drive == "pull":
        gear, drop = log_uniform(generator, 0.9, 3.5), generator.uniform(0.45, 0.7)
        place = times / gear + generator.uniform(0, 0.8)
        place = place - np.floor(place)
        peak = generator.uniform(0.45, 1.0) * top
        # The clutch takes a fifth of a second, so the speed falls as a ramp rather than at once
        engaged = 1 - min(0.2 / gear, 0.3)
        climb = drop + (1 - drop) * place / engaged
        fall = 1 - (1 - drop) * (place - engaged) / (1 - engaged)
        rpm = np.maximum(peak * np.where(place < engaged, climb, fall), idle)
    else:
        blips = paced(generator, seconds, log_uniform(generator, 0.6, 2.5), 0.3)
        height = generator.uniform(0.3, 0.9) * (top - idle)
        rpm = np.full(len(times), float(idle))
        for start in blips:
            since = np.maximum(times - start, 0)
            rpm += height * generator.uniform(0.5, 1) * (since / 0.25) ** 2 * np.exp(2 - 2 * since / 0.25)
    return np.clip(rpm * (1 + 0.012 * wander(generator, len(times), rate, 6)), 0.7 * idle, 1.1 * top)


def combustion(
    generator: np.random.Generator,
    rpm: Signal,
    rate: int,
    *,
    cylinders: int,
    unevenness: float,
    slope: float,
    breath: float,
    knock: float,
) -> Signal:
    """What a four-stroke engine gives off: each cylinder fires every second turn.

    The firing rate is ``rpm / 60 * cylinders / 2`` Hz and carries the strongest line; the engine cycle,
    ``rpm / 120`` Hz, and its other multiples come from cylinders that are not alike.

    Args:
        generator: for everything that is not an argument.
        rpm: speed over time, shape ``(time,)``.
        rate: Hz.
        cylinders: how many.
        unevenness: of the cylinders, 0 to 1.
        slope: how fast the firing harmonics fall: ``k ** -slope``.
        breath: intake and exhaust noise, over the RMS of the tones.
        knock: noise of the combustion blows themselves, over the RMS of the tones.
    """
    cycles = turns(rpm / 120, rate, generator.uniform())
    numbers = allowed(float(rpm.max()) / 120, rate)
    order = numbers / cylinders
    size = np.maximum(order, 0.5) ** -slope * np.exp(generator.normal(0, 0.3, len(numbers)))
    size[numbers % cylinders != 0] *= 0.7 * unevenness
    # Pipes and mufflers round off the pressure steps of the valves
    size /= 1 + (numbers * float(rpm.mean()) / 120 / log_uniform(generator, 300, 2000)) ** 2
    tones = periodic(cycles, size * np.exp(2j * np.pi * generator.uniform(0, 1, len(numbers))))
    tones *= 1 + unevenness * 0.25 * wander(generator, len(rpm), rate, 25)
    tones /= np.sqrt(np.mean(tones**2))
    fired = cycles * cylinders
    fired = fired - np.floor(fired)
    air = noise(generator, len(rpm), rate, band(generator.uniform(80, 400), generator.uniform(900, 5000), 1))
    blow = noise(generator, len(rpm), rate, band(generator.uniform(600, 1800), generator.uniform(2500, 7000)))
    # Flow grows with engine speed, about by its square in pressure
    flow = (rpm / rpm.mean()) ** 1.5
    return (
        tones * flow**0.5
        + breath * air * flow * (0.35 + 0.65 * np.exp(-3 * fired))
        + knock * blow * np.exp(-generator.uniform(8, 20) * fired) * 3
    )


def engine(generator: np.random.Generator, rate: int) -> Signal:
    """A car, diesel or motorcycle for 2 to 6.5 s, idling, driving, changing gear or being revved.

    Firing rate ``rpm / 60 * cylinders / 2``; exhaust pipes resonate at multiples of ``c / 2 L``.
    """
    kind = generator.choice(["petrol", "diesel", "motorcycle", "truck"], p=[0.35, 0.2, 0.25, 0.2])
    built, idle, top = {
        "petrol": ([3, 4, 4, 6, 8], 800, 5500),
        "diesel": ([4, 4, 6], 780, 3800),
        "motorcycle": ([1, 2, 2, 4], 1250, 9000),
        "truck": ([6, 6, 8], 560, 2100),
    }[kind]
    cylinders = int(generator.choice(built))
    rough = kind in ("diesel", "truck")
    times = seconds_axis(log_uniform(generator, 2, 6.5), rate)
    rpm = revs(generator, times, rate, idle * generator.uniform(0.85, 1.3), top * generator.uniform(0.7, 1.1))
    pipe = generator.uniform(0.6, 3.0)
    sound = combustion(
        generator,
        rpm,
        rate,
        cylinders=cylinders,
        unevenness=generator.uniform(0.1, 1.0),
        slope=generator.uniform(0.4, 1.4),
        breath=log_uniform(generator, 0.12, 1.3),
        knock=log_uniform(generator, 0.15, 1.5) if rough else log_uniform(generator, 0.01, 0.4),
    )
    centres = 343 / (2 * pipe) * np.arange(1, 9) * np.exp(generator.normal(0, 0.05, 8))
    exhaust = resonances(centres, 0.25 * centres[0] + 0.1 * centres, generator.uniform(0.3, 2, 8))
    colour, hull = tilt(generator.uniform(-4, 3), 300), band(generator.uniform(35, 90), 9000, 1)
    sound *= swell(times, 0, times[-1], 0.1, 0.1)
    return finished(sound, rate, lambda f: (0.5 + exhaust(f)) * colour(f) * hull(f))


def bursts(generator: np.random.Generator, seconds: float) -> list[tuple[float, float]]:
    """When a tool is at work: one stretch, or a few with pauses."""
    if generator.uniform() < 0.45:
        return [(0.0, seconds)]
    worked, start = [], 0.0
    while start < seconds - 0.3:
        end = min(start + log_uniform(generator, 0.4, 3), seconds)
        worked.append((start, float(end)))
        start = float(end) + log_uniform(generator, 0.15, 1.2)
    return worked


def hammering(
    generator: np.random.Generator, seconds: float, rate: int, blows: float, jitter: float = 0.04
) -> Signal:
    """A hammer on stone or tarmac: ``blows`` a second, each ringing in the chisel and the ground."""
    samples = round(seconds * rate)
    times = paced(generator, seconds, 1 / blows, jitter)
    count = int(generator.integers(5, 12))
    centres = log_uniform(generator, 250, 7000, count)
    fall = log_uniform(generator, 0.012, 0.12, count)
    kernel = modes(centres, fall, np.exp(generator.normal(0, 0.7, count)), round(0.12 * rate), rate)
    kernel /= np.sqrt(np.mean(kernel**2)) + 1e-9
    crack = noise(generator, len(kernel), rate, tilt(generator.uniform(-6, 1)))
    crack *= pulse(len(kernel), rate, 0.001, log_uniform(generator, 0.015, 0.08))
    gains = np.exp(generator.normal(0, 0.25, len(times)))
    kernel = kernel * generator.uniform(0.2, 1) + crack * generator.uniform(0.8, 3)
    return struck(times, gains, kernel, samples, rate)


def whining(generator: np.random.Generator, speed: Signal, rate: int) -> Signal:
    """An electric motor and its gears; ``speed`` is turns of the rotor a second over time.

    Lines at the rotor, at its commutator and at the teeth of the pinion, each with neighbours one turn off.
    """
    numbers = allowed(float(speed.max()), rate, 120)
    size = 0.25 * numbers ** -generator.uniform(0.5, 1.3) * np.exp(generator.normal(0, 0.5, len(numbers)))
    for teeth in (generator.integers(4, 9), generator.integers(9, 25)):
        for multiple in (1, 2, 3):
            centre = int(teeth * multiple) - 1
            if centre < len(size):
                size[centre] += generator.uniform(0.3, 1.2) / multiple
                size[max(centre - 1, 0)] += generator.uniform(0, 0.3) / multiple
    partials = size * np.exp(2j * np.pi * generator.uniform(0, 1, len(numbers)))
    return periodic(turns(speed, rate, generator.uniform()), partials)


def drill(generator: np.random.Generator, rate: int) -> Signal:
    """A breaker, hammer drill or rotary drill at work for 2 to 6.5 s, in one or several bursts.

    Pneumatic and electric breakers strike 900 to 2000 times a minute, rotary hammers 3000 to 5000 (makers'
    data sheets); the universal motor of a hand drill turns 150 to 500 times a second.
    """
    kind = generator.choice(["breaker", "hammer", "rotary"], p=[0.4, 0.3, 0.3])
    seconds = log_uniform(generator, 2, 6.5)
    times = seconds_axis(seconds, rate)
    work = np.zeros(len(times))
    for start, end in bursts(generator, seconds):
        work = np.maximum(work, swell(times, start, end, 0.12, 0.2))
    load = 1 - generator.uniform(0.03, 0.2) * np.clip(wander(generator, len(times), rate, 1.5) + 0.5, 0, 1.5)
    speed = log_uniform(generator, 130, 480) * (0.25 + 0.75 * np.sqrt(work)) * load
    motor = whining(generator, speed, rate) * work
    air = noise(
        generator,
        len(times),
        rate,
        band(log_uniform(generator, 150, 1500), log_uniform(generator, 2500, 9000), 1),
    )
    motor /= np.sqrt(np.mean(motor**2)) + 1e-9
    if kind == "rotary":
        bit = turns(speed / generator.uniform(9, 25), rate)
        grinding = 1 + generator.uniform(0.2, 1) * np.sin(2 * np.pi * bit)
        sound = motor + log_uniform(generator, 0.2, 2) * air * work * grinding
    else:
        blows = generator.uniform(15, 33) if kind == "breaker" else generator.uniform(33, 70)
        hammer = hammering(generator, seconds, rate, blows, generator.uniform(0.01, 0.08)) * work
        hammer /= np.sqrt(np.mean(hammer**2)) + 1e-9
        sound = hammer + log_uniform(generator, 0.05, 0.8) * air * work
        sound += motor * (
            log_uniform(generator, 0.02, 0.2) if kind == "breaker" else log_uniform(generator, 0.1, 0.8)
        )
    return finished(sound, rate, tilt(generator.uniform(-5, 2)))
