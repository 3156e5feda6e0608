"""Checks of what front ends and augmentation are given: settings, samples and shares."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError

if TYPE_CHECKING:
    from sentio.audio.frontend import LogMel

#: the smallest floor that float32 still tells from zero after scaling
SMALLEST_FLOOR = 1e-30
#: of a count, such as a rate or a length: what comes from a stranger must not fill the memory
MOST = 1 << 24
#: of the bands' filters, likewise
MOST_WEIGHTS = 1 << 27


def check_samples(samples: Any) -> NDArray[Any]:
    """The samples as an array.

    Raises:
        InputError: they are not float32 or float64.
    """
    samples = np.asarray(samples)
    if samples.dtype not in (np.float32, np.float64):
        raise InputError(
            f"The front end takes float32 or float64 samples, got {samples.dtype}; "
            "sentio.audio.io.from_array converts them"
        )
    return samples


def log_mel_problem(s: LogMel) -> str | None:
    """The first thing that is wrong with settings, as half a sentence."""
    problem = counts_problem(s, ("rate", "n_fft", "win_length", "hop_length", "n_mels"))
    if problem:
        return problem
    for name in ("f_min", "f_max", "power", "amin", "offset"):
        if not is_number(getattr(s, name)):
            return f"{name} must be a number, got {getattr(s, name)!r}"
    if s.n_fft * s.n_mels > MOST_WEIGHTS:
        return f"n_fft must be at most {MOST_WEIGHTS // s.n_mels} with {s.n_mels} bands, got {s.n_fft}"
    if (s.win_length or s.n_fft) > s.n_fft:
        return f"win_length {s.win_length} is longer than n_fft {s.n_fft}; raise n_fft or shorten the window"
    if s.n_fft < 2:
        return "n_fft must be at least 2"
    if not 0 <= s.f_min < (s.f_max or 0.0) <= s.rate / 2:
        return (
            f"the bands must lie between 0 and half the rate ({s.rate / 2:g} Hz), lower edge first, "
            f"got f_min {s.f_min:g} and f_max {s.f_max:g}"
        )
    if s.pre_emphasis is not None and not (is_number(s.pre_emphasis) and 0 < s.pre_emphasis <= 1):
        return f"pre_emphasis must be above 0 and at most 1, or None, got {s.pre_emphasis!r}"
    choices: dict[str, tuple[Any, ...]] = {
        "mel_scale": ("slaney", "htk"),
        "triangles": ("hertz", "mel"),
        "norm": ("slaney", "sum", None),
        "power": (1.0, 2.0),
        "center": (True, False),
        "pad_mode": ("constant", "reflect"),
        "log": ("db", "ln", "ln-floor"),
        "symmetric": (True, False),
        "frames_of": ("fft", "window"),
        "drop_last": (True, False),
        "frame_peak": (True, False),
    }
    for name, allowed in choices.items():
        if getattr(s, name) not in allowed:
            return f"{name} must be {' or '.join(map(repr, allowed))}, got {getattr(s, name)!r}"
    if s.drop_last and not s.center:
        return "drop_last goes with center, for only the last centred frame reaches beyond the clip"
    if s.frames_of == "window" and s.center:
        return "frames_of 'window' goes with center False, for centred frames are padded"
    name = "offset" if s.log == "ln" else "amin"
    if getattr(s, name) < SMALLEST_FLOOR:
        return f"{name} must be at least {SMALLEST_FLOOR:g}, so that silence has a finite logarithm"
    if s.ref not in ("one", "max") or (s.ref == "max" and s.log != "db"):
        return f"ref must be 'one', or with log 'db' 'max', got {s.ref!r} with {s.log!r}"
    if s.top_db is not None and (s.log != "db" or not is_number(s.top_db) or s.top_db <= 0):
        return f"top_db goes with log 'db' and must be above 0, got {s.top_db!r} with {s.log!r}"
    return standardisation_problem(s.mean, s.std, s.n_mels)


def counts_problem(settings: Any, names: tuple[str, ...]) -> str | None:
    """Which of some settings is no whole number above 0, as half a sentence."""
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return f"{name} must be a whole number above 0, got {value!r}"
        if value > MOST:
            return f"{name} must be at most {MOST}, got {value}"
    return None


def standardisation_problem(mean: Any, std: Any, bands: int) -> str | None:
    """What is wrong with a mean and a deviation, as half a sentence."""
    if (mean is None) != (std is None):
        return "mean and std belong together: give both or neither"
    for name, value in (("mean", mean), ("std", std)):
        if value is None:
            continue
        entries = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) and len(value) != bands:
            return f"{name} needs one number, or one per band ({bands}), got {len(value)}"
        if not all(is_number(entry) and (name == "mean" or entry > 0) for entry in entries):
            return f"{name} must hold finite numbers{'' if name == 'mean' else ' above 0'}"
    return None


def make_plain(settings: Any) -> None:
    """Turn numpy's numbers, such as a measured mean, into Python's and a list of means into a tuple."""
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if isinstance(value, np.generic):
            object.__setattr__(settings, entry.name, value.item())
        elif isinstance(value, list | np.ndarray) and entry.name in ("mean", "std"):
            object.__setattr__(settings, entry.name, tuple(float(number) for number in value))


def cells_of(share: float, size: int) -> int:
    """A share of an axis in whole cells, rounded down: 29 of 100 for 0.29, whose product is 28.999..."""
    return math.floor(round(share * size, 9))


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
