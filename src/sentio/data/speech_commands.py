"""Reads Speech Commands, versions 1 (30 words) and 2 (35 words): spoken words of a second, at 16 kHz.

P. Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", 2018 (arXiv:1804.03209).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path, PurePosixPath

import numpy as np

from sentio.audio.io import read, write
from sentio.core.errors import InputError
from sentio.data.archive import Unpacked
from sentio.data.dataset import Dataset, Item, choose_protocol, listed, make_dataset
from sentio.data.media import is_media, listing, relative_path
from sentio.data.table import read_text

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
SILENCE, UNKNOWN = "_silence_", "_unknown_"
NOISE = "_background_noise_"
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
#: clips of silence, and of unknown words, for every hundred clips of the ten commands
EXTRA_PERCENT = 10
#: the stretch of each background recording that a part's silence is cut from, so that parts share none
STRETCH = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
#: lower than this a quiet stretch would round to digital silence
LEAST_VOLUME = 0.1
SEED = 59185
#: one less than the number of values that the data set's authors reduce a hash to
HASHES = 2**27 - 1


def official_part(name: str, validation: float = 10.0, testing: float = 10.0) -> str:
    """The part that the data set's authors give a file: ``train``, ``validation`` or ``test``.

    It follows from the SHA-1 of the speaker, the file name up to ``_nohash_``: all that a speaker says is in
    one part, and files may be added without moving others.

    Args:
        name: a file name, with or without folders.
        validation, testing: about how many percent of the speakers.
    """
    speaker = _speaker(name)
    percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (HASHES + 1) * (100.0 / HASHES)
    if percent < validation:
        return "validation"
    return "test" if percent < validation + testing else "train"


def is_speech_commands(folder: Path) -> bool:
    """Whether a folder is laid out as Speech Commands."""
    return (folder / NOISE).is_dir() or any((folder / name).is_file() for name in LISTS.values())


def read_speech_commands(folder: Path, shown: Path, protocol: str | None = None) -> Dataset:
    """The words of a folder each, in the parts that ``validation_list.txt`` and ``testing_list.txt`` say.

    The group is the speaker; ``details``: ``speaker``, ``word``, ``part``, ``recording`` (the speaker again:
    what a recipe's validation share keeps whole).

    Args:
        folder: the data set.
        shown: what messages call it.
        protocol: ``words``, every word a class; or ``commands``, the ten commands, ``_unknown_`` (other
            words) and ``_silence_`` (seconds cut from ``_background_noise_``), of each of the two a tenth as
            many clips in every part as there are of the ten commands together, the same on every machine.

    Raises:
        InputError: a list is missing, a file that a list names is, or one is listed twice; for ``commands``
            also if a command or the background noise is missing.
        ConfigError: no such protocol.
    """
    protocols = ("words", "commands")
    chosen = choose_protocol(protocol, protocols, shown)
    parts = _parts(folder, shown)
    items = []
    for sub in listing(folder)[0]:
        if sub.name == NOISE:
            continue
        for file in listing(sub)[1]:
            if is_media(file.name):
                name = f"{sub.name}/{file.name}"
                speaker = _speaker(name)
                details = {"speaker": speaker, "word": sub.name, "part": parts.pop(name, "train")}
                items.append(Item(name, file, sub.name, speaker, {**details, "recording": speaker}))
    if parts:
        raise InputError(
            f"{shown} lacks files that its lists name ({len(parts)}: {listed(parts, 2)}); "
            "unpack the data set's archive again"
        )
    if not items:
        raise InputError(f"{shown} holds no recordings of words; unpack the data set's archive again")
    moved = sum(item.details["part"] != official_part(item.name) for item in items)
    notes = []
    if moved:
        notes.append(f"Files in another part than their speaker's hash says ({moved}); the lists count.")
    if chosen == "words":
        return make_dataset(shown, items, protocols=protocols, protocol=chosen, notes=notes)
    commands, found = _commands(items, shown)
    counts = {part: _extra(commands, part) for part in STRETCH}
    keep, silence = _silence(folder / NOISE, shown / NOISE, counts)
    dataset = make_dataset(
        shown,
        [*commands, *silence],
        protocols=("commands", "words"),
        protocol=chosen,
        notes=(*notes, *found),
    )
    return replace(dataset, keep=keep)


def _speaker(name: str) -> str:
    return PurePosixPath(name).stem.partition("_nohash_")[0]


def _parts(folder: Path, shown: Path) -> dict[str, str]:
    """The part of each listed file."""
    found: dict[str, str] = {}
    for part, name in LISTS.items():
        if not (folder / name).is_file():
            raise InputError(
                f"{shown / name} is missing, so the published split is not known; unpack the data set's "
                "archive again"
            )
        for number, line in enumerate(read_text(folder / name, shown / name).splitlines(), 1):
            if not line.strip():
                continue
            path = relative_path(line.strip())
            if path is None or len(path.parts) != 2:
                raise InputError(
                    f"{shown / name} line {number} is {line.strip()!r} and should be WORD/FILE; "
                    "unpack the data set's archive again"
                )
            if str(path) in found:
                raise InputError(
                    f"{shown / name} line {number} names {str(path)!r}, which is listed before; "
                    "keep it in one list, once"
                )
            found[str(path)] = part
    return found


def _extra(items: Sequence[Item], part: str) -> int:
    """How many clips of silence, and of unknown words, a part gets."""
    of_commands = sum(item.details["part"] == part and item.label in COMMANDS for item in items)
    return ceil(of_commands * EXTRA_PERCENT / 100)


def _commands(items: list[Item], shown: Path) -> tuple[list[Item], list[str]]:
    """The ten commands and as many unknown words as belong beside them, in the order of ``items``."""
    have = {item.label for item in items}
    missing = [word for word in COMMANDS if word not in have]
    if missing:
        raise InputError(
            f"{shown} has no recordings of {listed(missing)}, which protocol 'commands' needs; "
            "unpack the data set's archive again"
        )
    others = sorted(
        (item for item in items if item.label not in COMMANDS),
        key=lambda item: hashlib.sha1(item.name.encode()).digest(),
    )
    unknown: set[str] = set()
    notes = []
    for part in STRETCH:
        wanted = _extra(items, part)
        of_part = [item.name for item in others if item.details["part"] == part]
        unknown.update(of_part[:wanted])
        if len(of_part) < wanted:
            notes.append(f"The {part} part has {len(of_part)} clips of unknown words instead of {wanted}.")
    kept = []
    for item in items:
        if item.label in COMMANDS:
            kept.append(item)
        elif item.name in unknown:
            kept.append(replace(item, label=UNKNOWN))
    return kept, notes


def _silence(noise: Path, shown: Path, counts: Mapping[str, int]) -> tuple[Unpacked, list[Item]]:
    """Seconds cut from the background recordings, at a random place and volume, as files of their own."""
    files = [file for file in listing(noise)[1] if is_media(file.name)] if noise.is_dir() else []
    sounds = [(file, read(file, mono=True)) for file in files]
    # The shortest stretch, a tenth, has to hold a second.
    long = [(file, sound) for file, sound in sounds if sound.seconds >= 10]
    if not long:
        raise InputError(
            f"{shown} holds no recording of 10 s or more, which protocol 'commands' cuts silence from; "
            "unpack the data set's archive again"
        )
    keep = Unpacked(Path(tempfile.mkdtemp(prefix="sentio-")))
    generator = np.random.Generator(np.random.PCG64(SEED))
    items = []
    cut: Counter[str] = Counter()
    for part, (first, last) in STRETCH.items():
        for number in range(counts[part]):
            file, sound = long[number % len(long)]
            length = sound.samples.shape[1]
            room = int(last * length) - ceil(first * length) - sound.rate
            start = ceil(first * length) + int(generator.integers(0, max(room, 0) + 1))
            volume = generator.uniform(LEAST_VOLUME, 1.0)
            name = f"{file.stem}_{cut[file.stem]:05}.wav"
            cut[file.stem] += 1
            target = keep.folder / name
            write(target, volume * sound.samples[:, start : start + sound.rate], sound.rate)
            # With the time of its source a cache of features knows the clip again.
            os.utime(target, (file.stat().st_mtime, file.stat().st_mtime))
            details = {"speaker": "", "word": "", "part": part, "recording": f"{file.stem} {part}"}
            items.append(Item(f"{SILENCE}/{name}", target, SILENCE, f"{file.stem} {part}", details))
    return keep, items
