"""Reads data that a CSV file describes: ``filename``, ``label`` and optionally ``fold``.

ESC-50's own ``meta/esc50.csv`` (``filename, fold, target, category, esc10, src_file, take``) is read as well:
``category`` stands in for ``label``, and the audio lies in ``audio/`` beside ``meta/``.
K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", ACM Multimedia 2015.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from sentio.core.errors import InputError
from sentio.data.dataset import Dataset, Item, choose_protocol, clean_label, listed, make_dataset
from sentio.data.media import relative_path
from sentio.data.splits import AUGMENTED_FROM

#: ESC's file names: fold, recording, take, class
ESC_NAME = re.compile(r"\d-(\d+)-[A-Z]-[\w.]+")
#: the parts that the authors of a data set may have published
PARTS = {"train", "validation", "test"}
#: a line of the table: its number in the file, and its cells by column
Row = tuple[int, dict[str, str]]


def read_table(path: Path, shown: Path, root: Path, protocol: str | None = None) -> Dataset:
    """The files that a CSV names, in its order.

    Args:
        path: the CSV.
        shown: what messages call it.
        root: the data set as the user named it.
        protocol: ``folds`` (where there is a ``fold`` column), ``random``, or ``esc10`` (where there is an
            ``esc10`` column): only the rows flagged there, divided by folds. Of augmented copies of a data
            set with published parts ``official`` first: the parts of their originals.

    Raises:
        InputError: the table or a row of it cannot be used; says which row.
        ConfigError: no such protocol for this table.
    """
    rows = read_rows(path, shown, ("filename", "label"))
    columns = list(rows[0][1])
    label_column = next((name for name in ("label", "category") if name in columns), None)
    missing = [name for name in ("filename",) if name not in columns]
    missing += ["label"] if label_column is None else []
    if label_column is None or missing:
        raise InputError(
            f"{shown} has no column {' and no column '.join(map(repr, missing))}; "
            f"it needs 'filename' and 'label' (found: {listed(map(repr, columns))})"
        )
    has_folds = any(cells.get("fold") for _, cells in rows)
    protocols: tuple[str, ...] = ("folds", "random") if has_folds else ("random",)
    if AUGMENTED_FROM in columns and {"train", "test"} <= {cells.get("part") for _, cells in rows} <= PARTS:
        protocols = ("official", *protocols)
    flagged = has_folds and "esc10" in columns
    chosen = choose_protocol(protocol, (*protocols, "esc10") if flagged else protocols, root)
    if chosen == "esc10":
        rows = [(line, cells) for line, cells in rows if cells["esc10"].lower() in ("true", "1")]
        protocols = ("esc10", *protocols)
        if not rows:
            raise InputError(f"{shown} flags no row in its column 'esc10'; open it without protocol 'esc10'")

    used = {"filename", "fold", label_column}
    bases = [path.parent, path.parent / "audio"]
    if path.parent.name == "meta":
        bases.append(path.parent.parent / "audio")
    names = [cells["filename"] for _, cells in rows]
    paths = find_files(rows, names, bases, shown, "neither beside the table nor in 'audio/'")
    items = []
    for (line, cells), source in zip(rows, paths, strict=True):
        label = clean_label(cells[label_column])
        if not label:
            raise InputError(f"{shown} line {line} has no {label_column}; fill it in or delete the line")
        if has_folds and not cells["fold"]:
            raise InputError(f"{shown} line {line} has no fold while others do; fill it in on every line")
        details = {name: cell for name, cell in cells.items() if name not in used}
        name = str(relative_path(cells["filename"]))
        if match := ESC_NAME.fullmatch(PurePosixPath(name).name):
            # ESC cuts several clips from one recording; they belong on the same side of a split.
            details.setdefault("recording", match[1])
        items.append(Item(name, source, label, cells["fold"] if has_folds else None, details))
    return make_dataset(root, items, protocols=protocols, protocol=chosen)


def read_text(path: Path, shown: Path) -> str:
    """The text of a table, with or without a byte order mark.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{shown} is not UTF-8 text (at byte {error.start}); save it again as 'CSV UTF-8'"
        ) from error


def read_rows(path: Path, shown: Path, needs: Sequence[str]) -> list[Row]:
    """The lines below the header, by column; separated by commas, semicolons or tabs.

    Args:
        path: the CSV.
        shown: what messages call it.
        needs: columns that a message on an empty table asks for; it does not check that they are there.

    Raises:
        InputError: it is not UTF-8, not a table, or holds no row.
    """
    text = read_text(path, shown)
    first = next((line for line in text.splitlines() if line.strip()), "")
    # Spreadsheets separate with semicolons where the comma is the decimal sign.
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[Row] = []
    columns: list[str] | None = None
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if columns is None:
                columns = [cell.lower() for cell in _without_empty_end(cells)]
                if len(set(columns)) < len(columns):
                    raise InputError(f"{shown} names a column twice (found: {listed(columns)}); rename one")
                continue
            # Spreadsheets go on with empty cells as far as any line ever did.
            cells = cells[: len(columns)] + _without_empty_end(cells[len(columns) :])
            if len(cells) != len(columns):
                raise InputError(
                    f"{shown} line {reader.line_num} has {len(cells)} cells where the header has "
                    f"{len(columns)}; put a value that holds a separator in double quotes"
                )
            rows.append((reader.line_num, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise InputError(f"{shown} line {reader.line_num} is not valid CSV: {error}; correct it") from error
    if not rows:
        raise InputError(
            f"{shown} has no rows; it needs a header with {' and '.join(map(repr, needs))} "
            "and a line per file"
        )
    return rows


def _without_empty_end(cells: list[str]) -> list[str]:
    while cells and not cells[-1]:
        cells = cells[:-1]
    return cells


def check_columns(rows: Sequence[Row], columns: Sequence[str], shown: Path) -> None:
    """Refuse a table of a public data set that lacks columns.

    Raises:
        InputError: names what is missing and what was found.
    """
    found = list(rows[0][1])
    missing = [name for name in columns if name not in found]
    if missing:
        raise InputError(
            f"{shown} has no column {' and no column '.join(map(repr, missing))} "
            f"(found: {listed(map(repr, found), 8)}); take the file from the data set's own archive again"
        )


def find_files(
    rows: Sequence[Row], names: Sequence[str], bases: Sequence[Path], shown: Path, absent: str
) -> list[Path]:
    """The file of each row.

    Args:
        rows: of the table.
        names: what each row calls its file, relative to one of ``bases``.
        bases: the folders that may hold it, the first that does wins.
        shown: what messages call the table.
        absent: where a missing file is not, for the message.

    Raises:
        InputError: a row names no file, a missing one, one outside, or one that another row names too.
    """
    first_line: dict[Path, int] = {}
    paths: list[Path] = []
    lost: list[tuple[int, str]] = []
    for (line, _), text in zip(rows, names, strict=True):
        if not text:
            raise InputError(f"{shown} line {line} has no filename; fill it in or delete the line")
        inner = relative_path(text)
        if inner is None:
            raise InputError(
                f"{shown} line {line} names {text!r}, which leads outside the folder; "
                "name files relative to the table, without '..'"
            )
        path = next((path for base in bases if (path := base / inner).is_file()), None)
        if path is None:
            lost.append((line, text))
            continue
        if path in first_line:
            raise InputError(
                f"{shown} names {text!r} on lines {first_line[path]} and {line}; keep one line for each file"
            )
        first_line[path] = line
        paths.append(path)
    if lost:
        line, text = lost[0]
        more = f" ({len(lost)} lines name missing files)" if len(lost) > 1 else ""
        raise InputError(
            f"{shown} line {line} names {text!r}, which is {absent}{more}; add the file or delete the line"
        )
    return paths
