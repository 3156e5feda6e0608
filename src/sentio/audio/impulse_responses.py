"""Impulse responses of recording devices: a bank of synthetic microphones, or a folder of measured ones.

A synthetic microphone is a row of what colours real ones, each drawn at random: a lower and an upper limit
of its band (Butterworth slopes of first to fourth order), a tilt, and two to six resonances (the analogue
peaking filter of parametric equalisers). Only magnitudes are drawn; the phase is the one of least delay
(minimum phase), so that a response begins at once and is over within milliseconds. Frequencies are drawn in
hertz: microphone 7 is the same microphone at any rate.
"""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.audio.io import read, resample
from sentio.core.errors import ConfigError, InputError

Response = NDArray[np.float32]

#: as many as MicIRP, the bank of vintage microphones that the literature uses
COUNT = 66
#: length of a synthetic response and of its last, faded part, s
SECONDS, FADE = 0.02, 0.005
#: what of a measured response is used at most, s: a device's, not a room's
LONGEST = 0.5
#: silence before a response that is resampled, s
AHEAD = 0.001
#: limits of the band, Hz; slopes; gain of a resonance (standard deviation, bound), dB; dB per octave
LOWER, UPPER = (20.0, 400.0), (3000.0, 18000.0)
ORDERS = (1, 2, 3, 4)
RESONANCES, CENTRES, PEAK, QUALITY = (2, 6), (100.0, 12000.0), (5.0, 12.0), (0.7, 8.0)
TILT = 1.0
#: the deepest notch: a logarithm of 0 has no minimum phase
FLOOR = 1e-4


def synthetic_microphones(rate: int, count: int = COUNT, seed: int = 0) -> list[Response]:
    """A bank of made-up microphones.

    Args:
        rate: samples per second of the sound they are for.
        count: how many.
        seed: of the bank.

    Returns:
        Responses ``(taps,)`` of unit energy, so that noise keeps its level.

    Raises:
        ConfigError: the rate or the count is not above 0.
    """
    if rate < 1 or count < 1:
        raise ConfigError(f"A bank needs a rate and a count above 0, got {rate!r} and {count!r}")
    return [_microphone(rate, np.random.default_rng([seed, number])) for number in range(count)]


def measured_responses(folder: str | PathLike[str], rate: int) -> list[Response]:
    """The responses that lie in a folder as sound files, in the order of their names.

    Args:
        folder: one file a response, of any format and rate; channels are averaged.
        rate: to which they are resampled.

    Returns:
        Responses ``(taps,)`` of unit energy, cut after half a second.

    Raises:
        InputError: there is no such folder, a file in it cannot be read or is silent, or there is none.
    """
    return [_measured(file, rate) for file in response_files(folder)]


def response_files(folder: str | PathLike[str]) -> list[Path]:
    """The files of a folder of measured responses.

    Raises:
        InputError: there is no such folder, or nothing in it.
    """
    path = Path(folder).expanduser()
    try:
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"Impulse responses cannot be read from {folder}: {error.strerror or error}"
        ) from error
    if not files:
        raise InputError(f"{folder} holds no impulse responses; put one sound file for each device there")
    return files


def minimum_phase(magnitude: NDArray[Any]) -> NDArray[np.float64]:
    """The impulse response of these magnitudes that has the least delay (Oppenheim and Schafer, 1975).

    Args:
        magnitude: above 0, at ``size // 2 + 1`` bins from 0 to half the rate.

    Returns:
        ``(size,)``; twice as many bins as the response is long keep it from wrapping around.
    """
    size = 2 * (len(magnitude) - 1)
    cepstrum = np.fft.irfft(np.log(magnitude), size)
    # The cepstrum of least delay is causal: what lies before 0 is folded onto what lies behind.
    cepstrum[1 : size // 2] *= 2
    cepstrum[size // 2 + 1 :] = 0
    found: NDArray[np.float64] = np.fft.irfft(np.exp(np.fft.rfft(cepstrum)), size)
    return found


def _measured(file: Path, rate: int) -> Response:
    sound = read(file, mono=True)
    if sound.rate != rate:
        # A response begins with a jump, whose resampled form swings before it as well as behind.
        ahead = round(AHEAD * sound.rate)
        sound = resample(replace(sound, samples=np.pad(sound.samples, ((0, 0), (ahead, 0)))), rate)
    return _unit_energy(sound.samples[0, : int(rate * LONGEST)], file)


def _microphone(rate: int, draws: np.random.Generator) -> Response:
    taps = max(16, round(SECONDS * rate))
    size = 8 << (taps - 1).bit_length()
    hertz = np.fft.rfftfreq(size, 1 / rate)
    lower, upper = _log_uniform(draws, LOWER), _log_uniform(draws, UPPER)
    low, high = (2 * int(draws.choice(ORDERS)) for _ in range(2))
    # Near 0 Hz the lower slope would be 0.
    seen = np.maximum(hertz, 1.0)
    power = 1 / (1 + (lower / seen) ** low) / (1 + (seen / upper) ** high)
    power *= 10 ** (draws.uniform(-TILT, TILT) * np.log2(np.maximum(hertz, 20.0) / 1000) / 10)
    for _ in range(int(draws.integers(RESONANCES[0], RESONANCES[1] + 1))):
        centre, quality = _log_uniform(draws, CENTRES), _log_uniform(draws, QUALITY)
        peak = float(np.clip(draws.normal(0, PEAK[0]), -PEAK[1], PEAK[1]))
        power *= _resonance(seen / centre, 10 ** (peak / 40), quality)
    response = minimum_phase(np.maximum(np.sqrt(power), FLOOR))[:taps]
    fade = max(1, round(FADE * rate))
    response[-fade:] *= 0.5 + 0.5 * np.cos(np.pi * (np.arange(fade) + 1) / fade)
    return _unit_energy(response, "synthetic")


def _resonance(ratio: NDArray[Any], strength: float, quality: float) -> NDArray[Any]:
    """Power of the analogue filter ``(s^2 + s A/Q + 1) / (s^2 + s/(A Q) + 1)`` at ``ratio`` of its centre."""
    away = (1 - ratio**2) ** 2
    return (away + (ratio * strength / quality) ** 2) / (away + (ratio / strength / quality) ** 2)


def _log_uniform(draws: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(draws.uniform(*np.log(bounds))))


def _unit_energy(response: NDArray[Any], name: object) -> Response:
    energy = float(np.sum(np.square(response, dtype=np.float64)))
    if energy == 0:
        raise InputError(f"The impulse response {name} is silent; take it out of the folder")
    return (response / np.sqrt(energy)).astype(np.float32)
