"""Reads UrbanSound8K: 8,732 clips of at most 4 s, ten classes, ten folds that are never drawn anew.

J. Salamon, C. Jacoby, J. P. Bello, "A Dataset and Taxonomy for Urban Sound Research", ACM Multimedia 2014.
"""

from __future__ import annotations

import re
from pathlib import Path

from sentio.core.errors import InputError
from sentio.data.dataset import Dataset, Item, choose_protocol, listed, make_dataset
from sentio.data.table import Row, check_columns, find_files, read_rows

TABLE = Path("metadata", "UrbanSound8K.csv")
#: a class's place is its ``classID``
CLASSES = (
    "air_conditioner",
    "car_horn",
    "children_playing",
    "dog_bark",
    "drilling",
    "engine_idling",
    "gun_shot",
    "jackhammer",
    "siren",
    "street_music",
)
FOLDS = tuple(str(fold) for fold in range(1, 11))
COLUMNS = ("slice_file_name", "fsid", "start", "end", "salience", "fold", "classid", "class")
#: the recording at Freesound, the class, which sound of it in the recording, which slice of that sound
NAME = re.compile(r"(\d+)-(\d)-\d+-\d+\.wav")


def is_urbansound8k(folder: Path) -> bool:
    """Whether a folder is laid out as UrbanSound8K."""
    return (folder / TABLE).is_file()


def read_urbansound8k(folder: Path, shown: Path, protocol: str | None = None) -> Dataset:
    """The clips of ``audio/fold1`` to ``audio/fold10`` with what ``metadata/UrbanSound8K.csv`` says.

    The group is the fold; ``details["recording"]`` is the recording at Freesound (``fsID``), beside
    ``start``, ``end`` and ``salience``.

    Args:
        folder: the data set.
        shown: what messages call it.
        protocol: ``urbansound8k``: each fold tested once, the one before it validates.

    Raises:
        InputError: a file is missing or named twice, or a line contradicts the name of its file.
        ConfigError: no such protocol.
    """
    protocols = ("urbansound8k",)
    chosen = choose_protocol(protocol, protocols, shown)
    table = shown / TABLE
    rows = read_rows(folder / TABLE, table, COLUMNS)
    check_columns(rows, COLUMNS, table)
    for row in rows:
        _check(row, table)
    names = [f"fold{cells['fold']}/{cells['slice_file_name']}" for _, cells in rows]
    paths = find_files(rows, names, [folder / "audio"], table, "not in 'audio/'")
    items = []
    folds: dict[str, set[str]] = {}
    for (_, cells), name, source in zip(rows, names, paths, strict=True):
        details = {key: cells[key] for key in ("start", "end", "salience")}
        details["recording"] = cells["fsid"]
        folds.setdefault(cells["fsid"], set()).add(cells["fold"])
        items.append(Item(f"audio/{name}", source, cells["class"], cells["fold"], details))
    parted = [recording for recording, found in folds.items() if len(found) > 1]
    notes = []
    if parted:
        notes.append(
            f"Recordings with clips in several folds ({len(parted)}): {listed(parted)}; figures on them are "
            "too good."
        )
    return make_dataset(shown, items, protocols=protocols, protocol=chosen, notes=notes)


def _check(row: Row, table: Path) -> None:
    line, cells = row
    if cells["fold"] not in FOLDS:
        raise InputError(f"{table} line {line} has fold {cells['fold']!r}; UrbanSound8K has folds 1 to 10")
    match = NAME.fullmatch(cells["slice_file_name"])
    if match is None:
        raise InputError(
            f"{table} line {line} names {cells['slice_file_name']!r}; clips of UrbanSound8K are named "
            "fsID-classID-occurrence-slice.wav"
        )
    if (*match.groups(), CLASSES[int(match[2])]) != (cells["fsid"], cells["classid"], cells["class"]):
        raise InputError(
            f"{table} line {line} has fsID {cells['fsid']!r}, classID {cells['classid']!r} and class "
            f"{cells['class']!r}, which the file name {match[0]!r} contradicts; take the table from the data "
            "set's own archive again"
        )
