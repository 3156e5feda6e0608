"""What an augmented data set consists of: which copies of which clips each recipe asks for."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath

from sentio.audio.augmentation_chain import WaveformChanges
from sentio.core.errors import ConfigError
from sentio.data.copies import draws
from sentio.data.dataset import Dataset, Item, listed

RECIPES = ("data-hunger", "device-balance", "impulse-response")
#: the changes of which a clip gets one copy each
FIVE = ("shift", "pitch", "stretch", "mask", "band-mask")
RESPONSE, RECHUNK = "impulse-response", "rechunk"
#: TAU Urban Acoustic Scenes: scene, city, location, recording, segment (where there are such), device
TAU_NAME = re.compile(r"(?P<recording>[a-z_]+-[a-z]+-\d+-\d+)(?:-(?P<segment>\d+))?-(?P<device>[a-z]\d*)")


@dataclass(frozen=True)
class Strengths:
    """How much the offline recipes change.

    Args:
        shift: largest shift in time, in seconds; 0.3125 are 10,000 samples at 32 kHz.
        pitch: largest change of pitch, in semitones.
        stretch: largest change of tempo, as a share: 0.1 for rates from 0.9 to 1.1.
        mask: widest hidden span, as a share of the clip.
        band_mask: widest removed band, as a share of all frequencies.
        probability: of a copy through another microphone, for each clip of the reference device.
    """

    shift: float = 0.3125
    pitch: float = 2.0
    stretch: float = 0.1
    mask: float = 0.2
    band_mask: float = 0.2
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.stretch) and 0 <= self.stretch <= 0.75):
            raise ConfigError(f"stretch must lie in 0..0.75, got {self.stretch!r}")
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"probability must lie in 0..1, got {self.probability!r}")
        self.changes(None)

    def changes(self, responses: str | None) -> dict[str, WaveformChanges]:
        """By name, what makes a copy.

        Raises:
            ConfigError: a strength is not possible.
        """
        return {
            "shift": WaveformChanges(shift=self.shift),
            "pitch": WaveformChanges(pitch=self.pitch),
            "stretch": WaveformChanges(stretch=(1 - self.stretch, 1 + self.stretch)),
            "mask": WaveformChanges(mask=self.mask),
            "band-mask": WaveformChanges(band_mask=self.band_mask),
            RESPONSE: WaveformChanges(impulse_response=1.0, responses=responses),
        }


@dataclass(frozen=True)
class Piece:
    """One file to be written.

    Args:
        filename: relative to the folder of sounds.
        sources: the original; or two neighbouring segments, from the middle of one to that of the next.
        change: by name; None for the original itself.
    """

    filename: str
    sources: tuple[Item, ...]
    change: str | None

    @property
    def name(self) -> str:
        """What was done, as the table says it."""
        if len(self.sources) == 1 or self.change == RECHUNK:
            return self.change or ""
        return f"{RECHUNK}+{self.change}"


def planned(
    dataset: Dataset, recipe: str, strengths: Strengths, seed: int, device: str | None, column: str
) -> tuple[list[Piece], list[str]]:
    """All files of an augmented data set, the originals first; and notes.

    Args:
        dataset: the originals.
        recipe: one of RECIPES.
        strengths, seed: decide which clips get a copy through another microphone.
        device: the reference device; the one that has the most clips if None.
        column: where details say an item's device.

    Raises:
        ConfigError: the recipe needs to know devices and the data does not say them, or not this one.
    """
    names = _Names()
    pieces = [Piece(names.new(item.name), (item,), None) for item in dataset.items]
    notes: list[str] = []
    devices = {item.name: _device(item, column) for item in dataset.items}
    if recipe == "data-hunger":
        return pieces + _five(dataset.items, names), notes
    reference = _reference(dataset, devices, device, column, needed=recipe == "device-balance")
    if recipe == "impulse-response":
        if reference is None:
            notes.append("No devices are known, so every clip may be heard through another microphone.")
        heard = [
            item
            for item in dataset.items
            if devices[item.name] == reference
            and draws(seed, item.name, 0, 2).random() < strengths.probability
        ]
        copies = [Piece(names.new(item.name, RESPONSE), (item,), RESPONSE) for item in heard]
        return pieces + _five(dataset.items, names) + copies, notes
    pairs = _neighbours(dataset.items, devices)
    if not pairs:
        notes.append("No clips are known to be neighbouring segments of a recording, so none are cut again.")
    pieces += [Piece(names.new(pair[0].name, RECHUNK), pair, RECHUNK) for pair in pairs]
    others = [item for item in dataset.items if devices[item.name] != reference]
    pieces += _five(others, names)
    for pair in pairs:
        if devices[pair[0].name] != reference:
            for change in FIVE:
                pieces.append(Piece(names.new(pair[0].name, f"{RECHUNK}-{change}"), pair, change))
    return pieces, notes


def _five(items: list[Item] | tuple[Item, ...], names: _Names) -> list[Piece]:
    return [Piece(names.new(item.name, change), (item,), change) for item in items for change in FIVE]


class _Names:
    """File names, each given once, on file systems that do not tell capitals from small letters too."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def new(self, name: str, change: str | None = None) -> str:
        """``a/clip.ogg`` as it is, or with a change ``a/clip.pitch.wav``."""
        found = name
        if change is not None:
            found = f"{PurePosixPath(name).with_suffix('')}.{change}.wav"
            if found.casefold() in self.taken:
                found = f"{name}.{change}.wav"
        if found.casefold() in self.taken:
            raise ConfigError(f"Two clips would be written to {found!r}; rename one")
        self.taken.add(found.casefold())
        return found


def _device(item: Item, column: str) -> str | None:
    told = item.details.get(column)
    match = TAU_NAME.fullmatch(PurePosixPath(item.name).stem)
    return told or (match["device"] if match else None)


def _reference(
    dataset: Dataset, devices: dict[str, str | None], device: str | None, column: str, needed: bool
) -> str | None:
    counts = Counter(found for found in devices.values() if found is not None)
    if device is not None and device not in counts:
        known = listed(sorted(counts)) or "none"
        raise ConfigError(
            f"No clip of {dataset.root} is of device {device!r} (known from {column!r}: {known})"
        )
    if needed and not counts:
        raise ConfigError(
            f"{dataset.root} does not say of what device its clips are, so devices cannot be balanced; add a "
            f"column {column!r} to its table"
        )
    return device or min(counts, key=lambda name: (-counts[name], name), default=None)


def _neighbours(items: tuple[Item, ...], devices: dict[str, str | None]) -> list[tuple[Item, Item]]:
    """Segments of a recording that follow each other, by TAU's names or by ``recording`` and ``segment``."""
    recordings: dict[tuple[str, str, str | None], dict[int, Item]] = defaultdict(dict)
    for item in items:
        match = TAU_NAME.fullmatch(PurePosixPath(item.name).stem)
        if match and match["segment"]:
            # The reader of TAU says a clip's place in "recording", which has many recordings.
            recording, segment = match["recording"], match["segment"]
        else:
            recording, segment = item.details.get("recording"), item.details.get("segment")
        if recording and segment and segment.isdecimal():
            recordings[item.label, recording, devices[item.name]][int(segment)] = item
    return [
        (segments[number], segments[number + 1])
        for segments in recordings.values()
        for number in sorted(segments)
        if number + 1 in segments
    ]
