"""Computed features on disk: one checksummed ``.npz`` file per data set, front end and state of the files."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.features import FrontEnd, arrays_of
from sentio.data.dataset import Dataset, companions

FORMAT = 2
#: the array of the features, or what the names of several begin with
INPUTS = "inputs"


@dataclass(frozen=True, eq=False)
class Stored:
    """What is worth keeping: the fields of a `FeatureSet` that cost time. ``notes`` tell of skipped files."""

    inputs: Any
    rows: NDArray[np.int64]
    silent: NDArray[np.bool_]
    item_notes: dict[int, tuple[str, ...]]
    notes: tuple[str, ...]
    times: NDArray[np.float64] | None = None


def key(
    dataset: Dataset, frontend: FrontEnd, skip_bad: bool, changes: Mapping[str, Any] | None = None
) -> str:
    """SHA-256 over the front end's settings and each file's name, size and modification time.

    Files beside an item's own count as well, also those that the front end finds by their names.
    The release is part of it, since a correction of a front end changes what the same settings give.
    ``changes``, plain values, says what is done to the sound before; None for nothing.
    """
    try:
        release = version("sentio")
    except PackageNotFoundError:
        release = "source"
    settings = frontend.settings()
    if hasattr(frontend, "finish"):  # pixels are standardised later, so the same ones serve every mean
        settings = {name: value for name, value in settings.items() if name not in ("mean", "std")}
    facts: dict[str, Any] = {
        "format": FORMAT,
        "release": release,
        "frontend": [frontend.name, settings],
        "skip_bad": skip_bad,
        "root": [str(dataset.root.expanduser().absolute()), *file_state(dataset.root.expanduser())],
        "files": [[item.name, *file_state(item.source)] for item in dataset.items],
    }
    if len(frontend.input_shapes) > 1:
        facts["beside"] = [_beside(companions(item, frontend)) for item in dataset.items]
    if changes is not None:
        facts["changes"] = changes
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load(folder: Path, key: str, items: int) -> tuple[Stored | None, list[str]]:
    """The stored result, or None; and a note if there was one that is damaged.

    Args:
        folder, key: where it lies.
        items: the length of the data set, which no stored row may exceed.
    """
    path = _path(folder, key)
    try:
        # allow_pickle=False: reading a cache that somebody else wrote must not run code.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            stored = Stored(
                _inputs(arrays),
                arrays["rows"],
                arrays["silent"],
                *_notes(bytes(arrays["notes"])),
                times=arrays.get("times"),
            )
        if _fits(stored, items):
            return stored, []
        reason = "its arrays do not fit together"
    except FileNotFoundError:
        return None, []
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError) as error:
        reason = str(error)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        reason = str(error)
    return None, [f"The cached features {path.name} could not be read ({reason}) and were computed again."]


def save(folder: Path, key: str, stored: Stored) -> list[str]:
    """Write a result whole or not at all; a note if the disk did not take it."""
    notes = json.dumps({"items": stored.item_notes, "set": stored.notes}).encode()
    temporary: str | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix="part-")
        with os.fdopen(handle, "wb") as file:
            inputs = stored.inputs if isinstance(stored.inputs, Mapping) else {"": stored.inputs}
            np.savez(
                file,
                **{f"{INPUTS}.{name}" if name else INPUTS: array for name, array in inputs.items()},
                rows=stored.rows,
                silent=stored.silent,
                **({} if stored.times is None else {"times": stored.times}),
                notes=np.frombuffer(notes, dtype=np.uint8),
            )
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(_path(folder, key))
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        return [f"The features were not cached in {folder}: {error.strerror or error}."]
    return []


def _inputs(arrays: Any) -> Any:
    """One array, or several by name in the order in which they were written."""
    if INPUTS in arrays:
        return arrays[INPUTS]
    found = {key.removeprefix(f"{INPUTS}."): arrays[key] for key in arrays if key.startswith(f"{INPUTS}.")}
    if not found:
        raise KeyError(INPUTS)
    return found


def _path(folder: Path, key: str) -> Path:
    return folder / f"features-{key[:32]}.npz"


def file_state(path: Path) -> list[int]:
    """A file's size and time of change; empty if there is none."""
    try:
        facts = path.stat()
    except OSError:
        return []
    return [facts.st_size, facts.st_mtime_ns]


def _beside(files: Mapping[str, Path | None]) -> list[list[Any]]:
    """Input, name and state of each; a zip's files are unpacked to another folder each time."""
    return [[name, *(() if path is None else (path.name, *file_state(path)))] for name, path in files.items()]


def _notes(text: bytes) -> tuple[dict[int, tuple[str, ...]], tuple[str, ...]]:
    found = json.loads(text)
    return {int(item): tuple(notes) for item, notes in found["items"].items()}, tuple(found["set"])


def _fits(stored: Stored, items: int) -> bool:
    arrays = arrays_of(stored.inputs)
    count = len(arrays[0])
    return (
        all(array.dtype in (np.float32, np.uint8) and len(array) == count for array in arrays)
        and stored.rows.dtype == np.int64
        and stored.silent.dtype == np.bool_
        and (stored.times is None or (stored.times.shape == (count, 2) and stored.times.dtype == np.float64))
        and stored.rows.shape == stored.silent.shape == (count,)
        and count > 0
        and int(stored.rows.min()) >= 0
        and int(stored.rows.max()) < items
    )
