"""A user's own sounds in place of the parametric ones: their labels become the kinds of events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.audio.io import read
from sentio.core.errors import InputError
from sentio.data.dataset import Dataset, listed
from sentio.data.readers import open_data
from sentio.data.simulate.backgrounds import at_level
from sentio.data.simulate.events import EventKind
from sentio.data.simulate.scene import BACKGROUND, Sounds

Array = NDArray[np.float64]

#: of a sample's beginning and end, what is this far below its loudest moment is silence, dB
SILENCE = 40.0
#: frames in which loudness is looked at, s
FRAME = 0.01
#: of longer samples, a stretch of this length is used, s
LONGEST = 8.0
#: what is not known of a recording: its level at 1 m, dB SPL, and from how far it is heard, m
LEVEL, DISTANCE = (75.0, 95.0), (2.0, 25.0)
#: where a background is shorter than the scene, its repetitions overlap by this, s
OVERLAP = 0.5


@dataclass(frozen=True)
class OwnSamples:
    """Files by class, as plain values that another process can take.

    Args:
        files: of each class of events.
        backgrounds: files of the class ``background``; empty if there is none.
        identity: changes with the names, labels and samples of the files.
        notes: what was left out, one sentence each.
        keep: what has to live as long as the files are read, e.g. the folder of an unpacked archive; it
            stays behind when this goes to another process.
    """

    files: Mapping[str, tuple[Path, ...]]
    backgrounds: tuple[Path, ...]
    identity: str
    notes: tuple[str, ...] = ()
    keep: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "keep": None}


def own_samples(samples: str | Path | Dataset, rate: int) -> OwnSamples:
    """What a data set holds; every file is looked at once, and those that can be used are kept.

    Raises:
        InputError: it cannot be opened, or no file of it can be used as an event.
    """
    dataset = samples if isinstance(samples, Dataset) else open_data(samples)
    usable: dict[str, list[Path]] = {}
    bad: list[str] = []
    content = sha256()
    for item in dataset.items:
        try:
            sound = trimmed(item.source, rate)
        except (InputError, OSError) as error:
            bad.append(f"{item.name} ({str(error).removeprefix(f'{item.source} ')})")
            continue
        content.update(f"{item.name}\0{item.label}\0".encode())
        content.update(sound.astype(np.float32).tobytes())
        usable.setdefault(item.label, []).append(item.source)
    backgrounds = tuple(usable.pop(BACKGROUND, ()))
    if not usable:
        raise InputError(
            f"No file of {dataset.root} can be used as an event: {listed(bad, 3) or 'all are background'}"
        )
    notes = list(dataset.notes)
    if bad:
        notes.append(f"Left out files that cannot be used ({len(bad)}): {listed(bad)}.")
    lost = [label for label in dataset.labels if label not in usable and label != BACKGROUND]
    if lost:
        notes.append(f"Left out classes without a usable file ({len(lost)}): {listed(lost)}.")
    files = {label: tuple(paths) for label, paths in sorted(usable.items())}
    return OwnSamples(files, backgrounds, content.hexdigest(), tuple(notes), dataset)


def sounds(samples: OwnSamples) -> Sounds:
    """What scenes are made of, from files."""
    kinds = {
        label: EventKind(label, partial(_event, files), LEVEL, DISTANCE)
        for label, files in samples.files.items()
    }
    return Sounds(kinds, partial(_background, samples.backgrounds) if samples.backgrounds else None)


def trimmed(path: Path, rate: int) -> Array:
    """A file's sound without the silence at both ends, mono, without DC; not to be written to.

    Raises:
        InputError, OSError: it cannot be read, or holds nothing but silence.
    """
    facts = path.stat()
    return _trimmed(path, rate, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=16)
def _trimmed(path: Path, rate: int, size: int, time: int) -> Array:
    """Kept for the next scene as long as the file stays what it is."""
    samples = read(path, rate=rate, mono=True).samples[0].astype(np.float64)
    samples -= samples.mean()
    frame = max(1, round(FRAME * rate))
    padded = np.pad(samples, (0, -len(samples) % frame))
    power = np.mean(np.square(padded.reshape(-1, frame)), axis=1)
    if power.max() <= 0:
        raise InputError(f"{path} is digital silence; nothing of it can be heard")
    loud = np.flatnonzero(power > 10 ** (-SILENCE / 10) * power.max())
    found: Array = samples[loud[0] * frame : (loud[-1] + 1) * frame]
    found.setflags(write=False)
    return found


def _event(files: tuple[Path, ...], draw: np.random.Generator, rate: int) -> Array:
    sound = trimmed(files[int(draw.integers(len(files)))], rate)
    longest = round(LONGEST * rate)
    start = int(draw.integers(max(1, len(sound) - longest + 1)))
    sound = sound[start : start + longest].copy()
    fade = min(len(sound) // 2, round(FRAME * rate))
    ramp = np.linspace(0, 1, fade)
    sound[:fade] *= ramp
    sound[len(sound) - fade :] *= ramp[::-1]
    return sound


def _background(
    files: tuple[Path, ...], level: float, draw: np.random.Generator, length: int, rate: int
) -> Array:
    sound = trimmed(files[int(draw.integers(len(files)))], rate)
    overlap = min(len(sound) // 2, round(OVERLAP * rate))
    total = np.zeros(length + len(sound))
    # Fading in and out with equal power keeps the level of what is unlike itself.
    shape = np.ones(len(sound))
    shape[:overlap] = np.sin(np.linspace(0, np.pi / 2, overlap))
    shape[len(sound) - overlap :] = shape[:overlap][::-1]
    start = -int(draw.integers(max(1, len(sound) - overlap)))
    step = max(1, len(sound) - overlap)
    for place in range(start - step, length, step):
        piece = (sound * shape)[max(0, -place) :]
        at = max(0, place)
        total[at : at + len(piece)] += piece
    return at_level(total[:length], level, rate)
