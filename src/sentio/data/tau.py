"""Reads TAU Urban Acoustic Scenes 2020 Mobile (10 s clips) and 2022 Mobile (the same cut to 1 s).

T. Heittola, A. Mesaros, T. Virtanen, "Acoustic Scene Classification in DCASE 2020 Challenge: Generalization
Across Devices and Low Complexity Solutions", DCASE 2020.
"""

from __future__ import annotations

from pathlib import Path

from sentio.core.errors import InputError
from sentio.data.dataset import Dataset, Item, choose_protocol, make_dataset
from sentio.data.table import check_columns, find_files, read_rows

TABLE = "meta.csv"
COLUMNS = ("filename", "scene_label", "identifier", "source_label")
SETUP = "evaluation_setup"
#: the file of each part; of two that hold the same part the first is read, it has labels to compare
PARTS = {"train": ("fold1_train.csv",), "test": ("fold1_evaluate.csv", "fold1_test.csv")}


def is_tau(folder: Path) -> bool:
    """Whether a folder's ``meta.csv`` is one of these data sets."""
    if not (folder / TABLE).is_file():
        return False
    with (folder / TABLE).open("rb") as file:
        first = file.readline(1000).decode("utf-8-sig", "replace").lower().split()
    return first == list(COLUMNS)


def read_tau(folder: Path, shown: Path, protocol: str | None = None) -> Dataset:
    """The clips of the published training and test parts, with device and city.

    The group is the place (city and number, as ``identifier`` has it), so that what is held out for
    validation shares no place, and no recording, with what is trained on. ``details``: ``device`` (a, b, c,
    s1 to s6), ``source``, ``city``, ``recording`` (the place again: what a recipe's validation share keeps
    whole) and ``part``.

    Args:
        folder: the data set, with ``meta.csv``, ``evaluation_setup/`` and ``audio/``.
        shown: what messages call it.
        protocol: ``official``: the published parts.

    Raises:
        InputError: a file is missing or named twice, or two tables contradict each other.
        ConfigError: no such protocol.
    """
    protocols = ("official",)
    chosen = choose_protocol(protocol, protocols, shown)
    table = shown / TABLE
    rows = read_rows(folder / TABLE, table, COLUMNS)
    check_columns(rows, COLUMNS, table)
    labels = {cells["filename"]: cells["scene_label"] for _, cells in rows}
    parts = _parts(folder, shown, labels)
    used = [(line, cells) for line, cells in rows if cells["filename"] in parts]
    names = [cells["filename"] for _, cells in used]
    items = []
    for (line, cells), source in zip(
        used, find_files(used, names, [folder], table, "not there"), strict=True
    ):
        name, identifier = cells["filename"], cells["identifier"]
        # scene, city, place, segment (2022: recording and segment), device
        scene, *middle, device = name.rpartition("/")[2].rpartition(".")[0].split("-")
        place = "-".join(middle[:2])
        if len(middle) < 3 or scene != cells["scene_label"] or not f"{identifier}-".startswith(f"{place}-"):
            raise InputError(
                f"{table} line {line} has scene {cells['scene_label']!r} and identifier {identifier!r}, "
                f"which the file name {name!r} contradicts; take the table from the data set's own "
                "archive again"
            )
        details = {
            "device": device,
            "source": cells["source_label"],
            "city": middle[0],
            "recording": place,
            "part": parts[name],
        }
        items.append(Item(name, source, cells["scene_label"], place, details))
    left = len(rows) - len(items)
    notes = [f"Left out clips that the published split does not use ({left})."] if left else []
    return make_dataset(shown, items, protocols=protocols, protocol=chosen, notes=notes)


def _parts(folder: Path, shown: Path, labels: dict[str, str]) -> dict[str, str]:
    """The part of each clip that has one; checks the published lists against ``meta.csv``."""
    found: dict[str, str] = {}
    for part, files in PARTS.items():
        present = [name for name in files if (folder / SETUP / name).is_file()]
        if not present:
            raise InputError(
                f"{shown / SETUP / files[0]} is missing, so the published split is not known; "
                "unpack the data set's meta archive again"
            )
        names = [_list(folder, shown / SETUP / name, labels) for name in present]
        if any(set(other) != set(names[0]) for other in names[1:]):
            raise InputError(
                f"{shown / SETUP} lists different clips in {' and '.join(present)}; "
                "unpack the data set's meta archive again"
            )
        both = next((name for name in names[0] if name in found), None)
        if both is not None:
            raise InputError(
                f"{shown / SETUP} lists {both!r} for training and for the test; "
                "unpack the data set's meta archive again"
            )
        found.update(dict.fromkeys(names[0], part))
    return found


def _list(folder: Path, shown: Path, labels: dict[str, str]) -> list[str]:
    """The clips of one published list."""
    rows = read_rows(folder / SETUP / shown.name, shown, ("filename",))
    check_columns(rows, ("filename",), shown)
    lines: dict[str, int] = {}
    for line, cells in rows:
        name = cells["filename"]
        if name in lines:
            raise InputError(f"{shown} names {name!r} on lines {lines[name]} and {line}; keep one of them")
        if name not in labels:
            raise InputError(
                f"{shown} line {line} names {name!r}, which {TABLE} does not have; "
                "unpack the data set's meta archive again"
            )
        if cells.get("scene_label", labels[name]) != labels[name]:
            raise InputError(
                f"{shown} line {line} calls {name!r} {cells['scene_label']!r} and {TABLE} calls it "
                f"{labels[name]!r}; unpack the data set's meta archive again"
            )
        lines[name] = line
    return list(lines)
