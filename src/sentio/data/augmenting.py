"""Augmented data sets on disk: `augment_data` writes the originals, their copies and a table of both.

The recipes are those of F. Piovesan, "Exploring Transformer Model for Acoustic Scene Classification",
Politecnico di Torino, 2024. Its strengths are not published; those here are defaults that can be changed.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from sentio import __version__
from sentio.audio.augmentation_chain import WaveformChanges
from sentio.audio.impulse_responses import response_files
from sentio.audio.io import Sound, read
from sentio.core.errors import ArtifactError, CancelledError, ConfigError, InputError, UnknownNameError
from sentio.data.augmenting_plans import RECIPES, Piece, Strengths, planned
from sentio.data.copies import draws
from sentio.data.dataset import Dataset, listed
from sentio.data.processes import cores, importable, in_processes
from sentio.data.readers import open_data
from sentio.data.simulate.jobs import write
from sentio.data.splits import AUGMENTED_FROM, SEPARATOR, originals

SETTINGS, TABLE, AUDIO = "augmentation.json", "meta.csv", "audio"
CHANGE = "augmentation"
#: columns of the table that are not an item's further details
OWN_COLUMNS = ("filename", "label", "fold", AUGMENTED_FROM, CHANGE)
#: so many files are written by this process alone where nothing else is asked for
FEW = 64
#: what would clip is made softer, to this peak
PEAK = 0.999


@dataclass(frozen=True)
class Augmented:
    """What was written.

    Args:
        folder: where.
        files: how many of each kind: ``original``, and by the name of the change.
        notes: what was left out, one sentence each.
    """

    folder: Path
    files: Mapping[str, int]
    notes: tuple[str, ...]


def augment_data(
    data: str | Path | Dataset,
    out: str | Path,
    recipe: str,
    *,
    strengths: Strengths | None = None,
    seed: int = 0,
    device: str | None = None,
    device_column: str = "device",
    responses: str | Path | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Augmented:
    """Write a data set with augmented copies beside the originals.

    ``audio/`` gets both, copies as 16-bit WAV at the original's rate; ``meta.csv`` says what each file is:
    ``filename``, ``label``, ``fold`` (the fold or speaker, where known), the items' further details,
    ``augmented_from`` (the originals) and ``augmentation`` (the change). `sentio.data.splits.splits` keeps
    copies with their originals and out of what is validated and tested on.

    Args:
        data: labelled sounds.
        out: a folder that is empty or not there.
        recipe: ``data-hunger`` (five copies of each clip, one for each change), ``device-balance`` (the same
            for clips of all devices but one, and all recordings cut again half a clip later), or
            ``impulse-response`` (as data-hunger, and the clips of one device through another microphone).
        strengths: of the changes.
        seed: of all that is drawn; the files do not depend on how many processes write them.
        device: the one that has the most clips, if None.
        device_column: where the items' details say the device.
        responses: folder of measured impulse responses; the synthetic microphones if None.
        processes: how many share the work; by default one per core.
        progress: called with (files done, files in all).
        cancel: asked again and again; true stops the work.

    Raises:
        ConfigError: there is no such recipe, or it does not fit the data.
        InputError: the data cannot be used, or no file of it can be read.
        ArtifactError: the folder holds something already, or cannot be written; nothing is left there.
        CancelledError: ``cancel`` said so; nothing is left there.
    """
    if recipe not in RECIPES:
        raise UnknownNameError("recipe", recipe, RECIPES)
    if seed < 0 or (processes is not None and processes < 1):
        raise ConfigError(f"A seed is at least 0 and processes at least 1, got {seed!r} and {processes!r}")
    if responses is not None:
        response_files(responses)
    target = Path(out)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ArtifactError(
            f"{target} holds something already, so nothing is written there; choose another folder"
        )
    dataset = data if isinstance(data, Dataset) else open_data(data)
    if len(originals(dataset)) < len(dataset):
        raise ConfigError(f"{dataset.root} holds augmented copies already; augment the originals")
    strengths = strengths or Strengths()
    pieces, notes = planned(dataset, recipe, strengths, seed, device, device_column)
    changes = strengths.changes(None if responses is None else str(responses))
    created = not target.exists()
    try:
        failed = _write_all(target, pieces, changes, seed, processes, progress, cancel)
        kept = [piece for piece in pieces if not failed.keys() & {item.name for item in piece.sources}]
        notes += [f"Skipped {name} ({reason})." for name, reason in sorted(failed.items())]
        if not kept:
            named = listed(f"{name} ({reason})" for name, reason in sorted(failed.items()))
            raise InputError(f"No file of {dataset.root} can be used: {named}; correct them")
        settings = {"sentio": __version__, "recipe": recipe, "seed": seed, "strengths": asdict(strengths)}
        write(target / SETTINGS, (json.dumps({**settings, "notes": notes}, indent=1) + "\n").encode())
        write(target / TABLE, _table(kept))
    except OSError as error:
        _remove(target, created)
        raise ArtifactError(f"{target} could not be written: {error.strerror or error}") from error
    except BaseException:
        _remove(target, created)
        raise
    files: dict[str, int] = {}
    for piece in kept:
        files[piece.change or "original"] = files.get(piece.change or "original", 0) + 1
    return Augmented(target, files, (*dataset.notes, *notes))


def _write_all(
    target: Path,
    pieces: Sequence[Piece],
    changes: Mapping[str, WaveformChanges],
    seed: int,
    processes: int | None,
    progress: Callable[[int, int], None] | None,
    cancel: Callable[[], bool] | None,
) -> dict[str, str]:
    """Write every file that can be; the names of originals that cannot be read, with the reasons."""
    audio = target / AUDIO
    for folder in {(audio / piece.filename).parent for piece in pieces}:
        folder.mkdir(parents=True, exist_ok=True)
    if processes is None:
        processes = cores() if len(pieces) > FEW and importable() else 1

    def check(done: int) -> None:
        if cancel is not None and cancel():
            raise CancelledError(f"Augmenting was stopped on request after {done} of {len(pieces)} files")

    failed: dict[str, str] = {}
    work = partial(_portion, audio=audio, changes=changes, seed=seed)
    for done, found in enumerate(in_processes(work, pieces, min(processes, len(pieces)), check), 1):
        failed |= found
        if progress is not None:
            progress(done, len(pieces))
    return failed


def _portion(
    pieces: Sequence[Piece], audio: Path, changes: Mapping[str, WaveformChanges], seed: int
) -> list[dict[str, str]]:
    return [_write_one(piece, audio, changes, seed) for piece in pieces]


def _write_one(
    piece: Piece, audio: Path, changes: Mapping[str, WaveformChanges], seed: int
) -> dict[str, str]:
    """Write one file; what could not be read, by name."""
    sounds: list[Sound] = []
    for item in piece.sources:
        try:
            sounds.append(read(item.source))
        except (InputError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{item.source} ")
            return {item.name: reason.rstrip(".")}
    if piece.change is None:
        shutil.copyfile(piece.sources[0].source, audio / piece.filename)
        return {}
    samples, rate = sounds[0].samples, sounds[0].rate
    if len(sounds) == 2:
        if sounds[1].rate != rate or len(sounds[1].samples) != len(samples):
            return {piece.sources[1].name: "its rate or channels are not those of the segment before"}
        # What begins in the middle of one segment and ends in that of the next.
        half = samples.shape[-1] // 2
        samples = np.concatenate([samples[:, half:], sounds[1].samples[:, :half]], axis=1)
    if piece.change in changes:
        generator = draws(seed, piece.filename, 0, 0)
        samples = changes[piece.change](samples, rate, generator)
    peak = max(float(np.abs(samples).max()), PEAK)
    file = io.BytesIO()
    soundfile.write(file, (samples * (PEAK / peak)).T, rate, subtype="PCM_16", format="WAV")
    write(audio / piece.filename, file.getvalue())
    return {}


def _table(pieces: Sequence[Piece]) -> bytes:
    """A line for each file."""
    folds = all(item.group is not None for piece in pieces for item in piece.sources)
    details = sorted({name for piece in pieces for name in piece.sources[0].details} - set(OWN_COLUMNS))
    header = ["filename", "label", *(["fold"] if folds else []), *details, AUGMENTED_FROM, CHANGE]
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(header)
    for piece in pieces:
        first = piece.sources[0]
        values: dict[str, Any] = {**first.details, "filename": piece.filename, "label": first.label}
        values["fold"] = first.group
        sources = "" if piece.change is None else SEPARATOR.join(item.name for item in piece.sources)
        values |= {AUGMENTED_FROM: sources, CHANGE: piece.name}
        rows.writerow([values.get(column, "") for column in header])
    return text.getvalue().encode()


def _remove(target: Path, created: bool) -> None:
    """Leave the place as it was found: not there, or an empty folder."""
    shutil.rmtree(target, ignore_errors=True)
    if not created:
        target.mkdir(exist_ok=True)
