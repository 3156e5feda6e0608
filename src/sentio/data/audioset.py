"""Reads clips that manifests in the style of AudioSet describe: several labels to a clip, found by id.

J. F. Gemmeke et al., "Audio Set: An Ontology and Human-Labeled Dataset for Audio Events", ICASSP 2017.
A classifier answers one class, so of the chosen classes a clip must carry exactly one; all its labels stay in
``Item.details``.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.data.dataset import Dataset, Item, choose_protocol, listed, make_dataset
from sentio.data.media import is_hidden, is_media
from sentio.data.table import check_columns, read_rows, read_text

CLASSES = "class_labels_indices.csv"
COLUMNS = ("ytid", "start_seconds", "end_seconds", "positive_labels")


@dataclass(frozen=True)
class Segment:
    """One line of a manifest.

    Args:
        where: the manifest and line, for messages.
        clip: the video's id.
        start, end: of the clip in the video, in seconds.
        marks: its labels by their codes, e.g. ``/m/0bt9lr``.
        part: ``train``, ``validation`` or ``test``.
    """

    where: str
    clip: str
    start: float
    end: float
    marks: tuple[str, ...]
    part: str


def is_audioset(folder: Path) -> bool:
    """Whether a folder is laid out as AudioSet: the table of classes beside at least one manifest."""
    return (folder / CLASSES).is_file() and any(_manifests(folder))


def read_audioset(
    folder: Path, shown: Path, protocol: str | None = None, labels: Sequence[str] | None = None
) -> Dataset:
    """The clips of the manifests that are there and carry exactly one of the chosen classes.

    A file holds the clip, not the whole video, anywhere below the folder, and is named by the id: ``ID``,
    ``YID``, ``ID_START``, ``ID_START_END``, times in seconds or milliseconds. The group is the id.
    ``details``: ``positive_labels`` (all codes of the clip), ``labels`` (the same by name),
    ``start_seconds``, ``end_seconds``, ``part`` and ``recording`` (the id).

    Args:
        folder: ``class_labels_indices.csv`` with the manifests beside it.
        shown: what messages call it.
        protocol: ``official``, where manifests for training and for evaluation are there; or ``random``.
        labels: the classes to keep, by name or code; all if None.

    Raises:
        InputError: a manifest cannot be used, lists a clip twice, two clips have one file, or no file is
            found.
        ConfigError: no such protocol.
        UnknownNameError: no such class.
    """
    names = _classes(folder, shown)
    chosen_marks = set(names) if labels is None else _chosen(labels, names)
    files = _files(folder)
    items: list[Item] = []
    taken: dict[Path, str] = {}
    absent = several = 0
    for segment in _segments(folder, shown, names):
        marks = [mark for mark in segment.marks if mark in chosen_marks]
        if not marks:
            continue
        source = next((files[name] for name in _file_names(segment) if name in files), None)
        if source is None:
            absent += 1
            continue
        if source in taken:
            raise InputError(
                f"{segment.where} names clip {segment.clip!r} at {segment.start:g} s, whose file would be "
                f"{source.name!r}, as that of {taken[source]}; name files after id and start, e.g. ID_30.wav"
            )
        taken[source] = segment.where
        if len(marks) > 1:
            several += 1
        else:
            items.append(_item(segment, source, folder, names, marks[0]))
    if not items:
        raise InputError(
            f"{shown} holds no file of a clip with exactly one of the chosen classes (missing files: "
            f"{absent}, clips with several of the classes: {several}); name files after their id, e.g. ID.wav"
        )
    present = {item.details["part"] for item in items}
    protocols = ("official", "random") if {"train", "test"} <= present else ("random",)
    notes = []
    if absent:
        notes.append(f"Left out clips whose file is not there ({absent}).")
    if several:
        notes.append(f"Left out clips that carry several of the classes ({several}).")
    return make_dataset(
        shown,
        items,
        protocols=protocols,
        protocol=choose_protocol(protocol, protocols, shown),
        notes=notes,
    )


def balancing_weights(counts: Mapping[str, int], least: int = 10_000) -> dict[str, float]:
    """A weight for each class in a loss, ``1 / max(count, least)`` scaled to a mean of 1.

    The floor keeps small classes from outweighing all others.

    Args:
        counts: clips of each class, e.g. ``dataset.counts()``.
        least: classes of fewer clips weigh as if they had so many.
    """
    if least < 1:
        raise ConfigError(f"least is at least 1, got {least}")
    raw = {label: 1.0 / max(count, least) for label, count in counts.items()}
    scale = len(raw) / sum(raw.values()) if raw else 1.0
    return {label: weight * scale for label, weight in raw.items()}


def _item(segment: Segment, source: Path, folder: Path, names: Mapping[str, str], mark: str) -> Item:
    details = {
        "positive_labels": ",".join(segment.marks),
        "labels": "; ".join(names[other] for other in segment.marks),
        "start_seconds": f"{segment.start:g}",
        "end_seconds": f"{segment.end:g}",
        "part": segment.part,
        "recording": segment.clip,
    }
    return Item(source.relative_to(folder).as_posix(), source, names[mark], segment.clip, details)


def _classes(folder: Path, shown: Path) -> dict[str, str]:
    """Code to name."""
    rows = read_rows(folder / CLASSES, shown / CLASSES, ("mid", "display_name"))
    check_columns(rows, ("mid", "display_name"), shown / CLASSES)
    found: dict[str, str] = {}
    for line, cells in rows:
        mark, name = cells["mid"], cells["display_name"]
        if not mark or not name or mark in found or name in found.values():
            raise InputError(
                f"{shown / CLASSES} line {line} has the class {mark!r}, {name!r}, which is empty or there "
                "twice; take the table from the data set again"
            )
        found[mark] = name
    return found


def _chosen(labels: Sequence[str], names: Mapping[str, str]) -> set[str]:
    by_name = {name: mark for mark, name in names.items()}
    found = set()
    for label in labels:
        if label not in names and label not in by_name:
            raise UnknownNameError("class", label, list(by_name))
        found.add(label if label in names else by_name[label])
    return found


def _manifests(folder: Path) -> Iterator[Path]:
    """The tables of the folder whose header, commented out or not, begins with the id."""
    for path in sorted(folder.glob("*.csv")):
        if path.name == CLASSES or is_hidden(path.name):
            continue
        with path.open("rb") as file:
            head = [file.readline(2000).decode("utf-8-sig", "replace") for _ in range(4)]
        if any(line.lstrip("# ").upper().startswith("YTID") for line in head):
            yield path


def _part(name: str) -> str:
    """The part that a manifest's name says, as in ``eval_segments.csv``; training where it says none."""
    words = set(re.split("[^a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower()))
    if words & {"train", "training"}:
        return "train"
    if any(word.startswith("valid") or word.endswith("validation") or word == "val" for word in words):
        return "validation"
    tested = any(word.endswith(("eval", "evaluation")) and not word.endswith("ieval") for word in words)
    return "test" if tested or words & {"test", "testing", "devtest"} else "train"


def _segments(folder: Path, shown: Path, names: Mapping[str, str]) -> Iterator[Segment]:
    seen: dict[tuple[str, float], str] = {}
    for path in _manifests(folder):
        text = read_text(path, shown / path.name)
        reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
        for first, cells in _lines(reader, shown / path.name):
            where = f"{shown / path.name} line {first}"
            if not cells or cells[0].startswith("#") or cells[0].strip().upper() == "YTID":
                continue
            if reader.line_num > first:
                raise InputError(f"{where} has a double quote that is not closed on it; close it")
            segment = _segment([cell.strip() for cell in cells], where, _part(path.stem), names)
            key = (segment.clip, segment.start)
            if key in seen:
                raise InputError(
                    f"{where} names clip {segment.clip!r} at {segment.start:g} s, as {seen[key]} does; "
                    "keep one of the lines"
                )
            seen[key] = where
            yield segment


def _lines(reader: Any, shown: Path) -> Iterator[tuple[int, list[str]]]:
    """What a CSV reader finds, each with the number of the line that it begins on."""
    first = 1
    try:
        for cells in reader:
            yield first, cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{shown} line {first} is not valid CSV: {error}; correct it") from error


def _segment(cells: list[str], where: str, part: str, names: Mapping[str, str]) -> Segment:
    if len(cells) != len(COLUMNS) or not cells[0]:
        raise InputError(f"{where} should hold YTID, start_seconds, end_seconds and, in quotes, its labels")
    try:
        start, end = float(cells[1]), float(cells[2])
    except ValueError as error:
        raise InputError(f"{where} has times {cells[1]!r} and {cells[2]!r}; they are seconds") from error
    if not 0 <= start < end < inf:
        raise InputError(f"{where} has a clip from {start:g} s to {end:g} s; the end comes after the start")
    marks = tuple(dict.fromkeys(mark.strip() for mark in cells[3].split(",") if mark.strip()))
    unknown = [mark for mark in marks if mark not in names]
    if unknown or not marks:
        raise InputError(
            f"{where} has labels that {CLASSES} does not know: {listed(unknown) or 'none at all'}; "
            "take both files from the same release"
        )
    return Segment(where, cells[0], start, end, marks, part)


def _files(folder: Path) -> dict[str, Path]:
    """Every sound below the folder by its name without the ending, the first in order of names."""
    found: dict[str, Path] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(files):
            if is_media(name) and not is_hidden(name):
                found.setdefault(name.rpartition(".")[0], Path(place, name))
    return found


def _file_names(segment: Segment) -> Iterator[str]:
    """What the file of a clip may be called, without its ending."""
    times = []
    for seconds in (segment.start, segment.end):
        times.append([f"{seconds:.3f}", f"{seconds:.1f}", f"{seconds:g}", f"{round(seconds * 1000)}"])
    for name in (segment.clip, f"Y{segment.clip}"):
        for start, end in zip(*times, strict=True):
            yield f"{name}_{start}_{end}"
            yield f"{name}_{start}"
        yield name
