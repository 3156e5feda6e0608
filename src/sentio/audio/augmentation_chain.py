"""Several changes of a sound, their strengths drawn: what one augmented copy is.

``WaveformChanges(pitch=2.0, noise=(10, 30))(samples, rate, generator)`` changes samples of any rate and gives
as many back. Order: speed, tempo and pitch, device, time shift, band mask, time mask, noise, gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sentio.audio import augmentation_waveform as waveform
from sentio.audio.checking import cells_of
from sentio.audio.impulse_responses import Response, measured_responses, synthetic_microphones
from sentio.core.errors import ConfigError
from sentio.core.numeric import within

Array = NDArray[Any]
Range = tuple[float, float]
Change = Callable[[Array, int, np.random.Generator], Array]

#: length of a frame of the phase vocoder, s
FRAME = 0.064
#: the bank of synthetic microphones is one and the same for all trainings
BANK_SEED = 0


@dataclass(frozen=True, kw_only=True)
class WaveformChanges:
    """What may happen to a sound; the defaults change nothing.

    Args:
        speed: range of factors of playing faster.
        stretch: range of rates of changing the tempo alone.
        pitch: largest change in either direction, in semitones.
        impulse_response: probability of being heard through another device.
        responses: folder of measured responses; the bank of synthetic microphones if None.
        shift: largest shift in time in either direction, in seconds.
        edge: what a shift leaves behind, see `sentio.audio.augmentation_waveform.time_shift`.
        band_mask: widest removed band of frequencies, as a share of all.
        mask: widest hidden span, as a share of the sound.
        mask_fill: what is in it, "zeros" or "mean".
        noise: range of signal-to-noise ratios of white noise, in dB; None for none.
        gain: largest change of level in either direction, in dB.
        one: make one of the changes only, the next each time, instead of all.

    Raises:
        ConfigError: a strength is not possible.
    """

    speed: Range = (1.0, 1.0)
    stretch: Range = (1.0, 1.0)
    pitch: float = 0.0
    impulse_response: float = 0.0
    responses: str | None = None
    shift: float = 0.0
    edge: Literal["roll", "discard"] = "roll"
    band_mask: float = 0.0
    mask: float = 0.0
    mask_fill: Literal["zeros", "mean"] = "zeros"
    noise: Range | None = None
    gain: float = 0.0
    one: bool = False

    def __post_init__(self) -> None:
        for name in ("speed", "stretch", "noise"):
            value = getattr(self, name)
            none = value is None and name == "noise"
            if not none and not (isinstance(value, tuple | list) and len(value) == 2):
                raise ConfigError(f"{name} is a range of two numbers, the smaller first, got {value!r}")
        for name, choices in (("edge", ("roll", "discard")), ("mask_fill", ("zeros", "mean"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {choices[0]!r} or {choices[1]!r}, got {getattr(self, name)!r}")
        for name in ("speed", "stretch"):
            low, high = getattr(self, name)
            if not (
                within(low, 1 / waveform.FASTEST, waveform.FASTEST) and within(high, low, waveform.FASTEST)
            ):
                raise ConfigError(f"{name} is a range of rates within 1/4 to 4, got {low!r} to {high!r}")
        limits = {"pitch": waveform.MOST_SEMITONES, "impulse_response": 1, "mask": 1, "band_mask": 1}
        for name in ("pitch", "impulse_response", "mask", "band_mask", "shift", "gain"):
            value, most = getattr(self, name), limits.get(name, math.inf)
            if not within(value, 0, most):
                text = "be at least 0 and finite" if most == math.inf else f"lie in 0..{most:g}"
                raise ConfigError(f"{name} must {text}, got {value!r}")
        if self.noise is not None and not (
            within(self.noise[0], -math.inf, math.inf) and within(self.noise[1], self.noise[0], math.inf)
        ):
            raise ConfigError(f"noise is a range of dB, the smaller first, got {self.noise!r}")

    def names(self) -> tuple[str, ...]:
        """The changes that are on, in their order."""
        return tuple(self._changes())

    def __call__(
        self, x: Array, rate: int, generator: np.random.Generator, *, device: bool = True, turn: int = 0
    ) -> Array:
        """Change a sound.

        Args:
            x: float32 or float64, ``(time,)`` or ``(channel, time)``.
            rate: samples per second.
            generator: source of all that is drawn.
            device: whether it may be heard through another device.
            turn: with ``one``, which change is made, counted through those that are on.

        Returns:
            As many samples, of the same type.

        Raises:
            InputError: ``x`` is no sound, or responses cannot be read.
        """
        x = waveform.checked(x)
        changes = self._changes()
        if not device:
            changes.pop("impulse_response", None)
        chosen = list(changes.values())
        if self.one and chosen:
            chosen = [chosen[turn % len(chosen)]]
        for change in chosen:
            x = change(x, rate, generator)
        return x

    def _changes(self) -> dict[str, Change]:
        found: dict[str, tuple[bool, Change]] = {
            "speed": (self.speed != (1, 1), self._speed),
            "stretch": (self.stretch != (1, 1), self._stretch_only if self.one else self._vocoder),
            "pitch": (self.pitch > 0, self._pitch_only),
            "impulse_response": (self.impulse_response > 0, self._device),
            "shift": (self.shift > 0, self._shift),
            "band_mask": (self.band_mask > 0, self._band_mask),
            "mask": (self.mask > 0, self._mask),
            "noise": (self.noise is not None, self._noise),
            "gain": (self.gain > 0, self._gain),
        }
        chosen = {name: change for name, (on, change) in found.items() if on}
        if "stretch" in chosen and not self.one:
            # Both are made in one pass of the vocoder.
            chosen.pop("pitch", None)
        return chosen

    def _speed(self, x: Array, rate: int, generator: np.random.Generator) -> Array:
        return waveform.fit_length(waveform.speed(x, generator.uniform(*self.speed)), x.shape[-1])

    def _vocoder(self, x: Array, rate: int, generator: np.random.Generator) -> Array:
        factor, semitones = generator.uniform(*self.stretch), generator.uniform(-self.pitch, self.pitch)
        found = waveform.stretch_and_shift(x, factor, semitones, n_fft=_frame(rate))
        return waveform.fit_length(found, x.shape[-1])

    def _stretch_only(self, x: Array, rate: int, generator: np.random.Generator) -> Array:
        found = waveform.time_stretch(x, generator.uniform(*self.stretch), n_fft=_frame(rate))
        return waveform.fit_length(found, x.shape[-1])

    def _pitch_only(self, x: Array, rate: int, generator: np.random.Generator) -> Array:
        return waveform.pitch_shift(x, generator.uniform(-self.pitch, self.pitch), n_fft=_frame(rate))

    def _device(self, x: Array, rate: int, generator: np.random.Generator) -> Array:
        if generator.random() >= self.impulse_response:
            return x
        bank = _bank(self.responses, rate)
        return waveform.impulse_response(x, bank[int(generator.integers(len(bank)))])

    def _shift(self, x: Array, rate: int, generator: np.random.Generator) -> Array:
        most = min(round(self.shift * rate), x.shape[-1])
        return waveform.time_shift(x, int(generator.integers(-most, most + 1)), edge=self.edge)

    def _band_mask(self, x: Array, rate: int, generator: np.random.Generator) -> Array:
        width = generator.uniform(0, self.band_mask)
        low = generator.uniform(0, 1 - width)
        return waveform.band_mask(x, low, low + width)

    def _mask(self, x: Array, rate: int, generator: np.random.Generator) -> Array:
        width = int(generator.integers(0, cells_of(self.mask, x.shape[-1]) + 1))
        return waveform.time_mask(x, width, generator, fill=self.mask_fill)

    def _noise(self, x: Array, rate: int, generator: np.random.Generator) -> Array:
        assert self.noise is not None
        return waveform.add_noise(x, generator.uniform(*self.noise), generator)

    def _gain(self, x: Array, rate: int, generator: np.random.Generator) -> Array:
        return waveform.gain(x, generator.uniform(-self.gain, self.gain))


@lru_cache(maxsize=4)
def _bank(folder: str | None, rate: int) -> Sequence[Response]:
    return synthetic_microphones(rate, seed=BANK_SEED) if folder is None else measured_responses(folder, rate)


def _frame(rate: int) -> int:
    return max(16, 2 ** round(math.log2(rate * FRAME)))
