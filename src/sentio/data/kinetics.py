"""Reads Kinetics (400, 600, 700) and what is laid out like it: a CSV of clips, and their files in folders.

W. Kay et al., "The Kinetics Human Action Video Dataset", 2017. The clips are YouTube's and have to be fetched
by other tools, which name a file ``ID_START_END.mp4`` in whole seconds, ``ID.mp4``, or as both with a class
folder around; all of these are found.
"""

from __future__ import annotations

from pathlib import Path

from sentio.core.errors import InputError
from sentio.data.dataset import Dataset, Item, choose_protocol, listed, make_dataset
from sentio.data.media import VIDEOS, is_hidden
from sentio.data.table import check_columns, read_rows

COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
PARTS = {
    "train": "train",
    "val": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
}


def is_kinetics(folder: Path) -> bool:
    """Whether a folder holds a CSV with the columns of Kinetics."""
    return bool(_tables(folder))


def read_kinetics(folder: Path, shown: Path, protocol: str | None = None) -> Dataset:
    """The clips of the tables that are there, divided as they say; the group is the YouTube video.

    Clips without a file are left out, with a note, since videos disappear from YouTube. ``details``: ``part``
    (train, validation, test), ``time_start`` and ``time_end`` in seconds of the whole video.

    Args:
        folder: with one CSV or several, and videos anywhere inside.
        shown: what messages call it.
        protocol: ``official``: the parts of the tables.

    Raises:
        InputError: a table is not as Kinetics has it, or no clip has a file.
        ConfigError: no such protocol.
    """
    protocols = ("official",)
    chosen = choose_protocol(protocol, protocols, shown)
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in VIDEOS and not is_hidden(path.name):
            files.setdefault(path.stem, []).append(path)
    items, missing, doubled, seen = [], [], [], set()
    for table in _tables(folder):
        name = shown / table.name
        rows = read_rows(table, name, COLUMNS)
        check_columns(rows, COLUMNS, name)
        for line, cells in rows:
            clip = _clip(cells, name, line)
            label, part = cells["label"].strip(), PARTS.get(cells["split"].strip().lower())
            if not label or part is None:
                odd = "no label" if not label else f"the split {cells['split']!r}, not train, val or test"
                raise InputError(f"{name} line {line} has {odd}; correct it")
            found = files.get(clip) or files.get(cells["youtube_id"]) or []
            # The same name in several folders: the one of its class.
            file = next((path for path in found if path.parent.name == label), found[0] if found else None)
            if file is None:
                missing.append(clip)
            elif file in seen:
                doubled.append(clip)
            else:
                seen.add(file)
                times = {key: cells[key] for key in ("time_start", "time_end")}
                inside = file.relative_to(folder).as_posix()
                items.append(Item(inside, file, label, cells["youtube_id"], {"part": part, **times}))
    if not items:
        raise InputError(
            f"No video of {shown} belongs to a clip of its table (looked for {listed(missing, 2)}); "
            "name files ID_START_END.mp4 or ID.mp4"
        )
    notes = [f"Left out clips without a file ({len(missing)}): {listed(missing)}."] if missing else []
    if doubled:
        notes.append(f"Left out clips whose file another line has ({len(doubled)}): {listed(doubled)}.")
    return make_dataset(shown, items, protocols=protocols, protocol=chosen, notes=notes)


def _clip(cells: dict[str, str], shown: Path, line: int) -> str:
    """A clip's usual file name, without the extension."""
    try:
        start, end = (round(float(cells[key])) for key in ("time_start", "time_end"))
    except (ValueError, OverflowError) as error:  # infinite is the latter
        raise InputError(
            f"{shown} line {line} has a time that is no number of seconds; correct it"
        ) from error
    return f"{cells['youtube_id']}_{start:06d}_{end:06d}"


def _tables(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.glob("*.csv")):
        with path.open("rb") as file:
            first = file.readline(1000).decode("utf-8-sig", "replace").strip().lower().replace('"', "")
        if set(COLUMNS) <= set(first.split(",")):
            found.append(path)
    return found
