"""Events with times in recordings, in a table as in the DCASE challenges."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from sentio.core.errors import InputError

#: the columns that a table must have, in seconds where they are times
COLUMNS = ("filename", "onset", "offset", "event_label")


@dataclass(frozen=True)
class Event:
    """One event.

    Args:
        filename: the recording, as the table calls it.
        onset, offset: seconds from its start.
        label: the class.
        details: the table's other columns, as text.
    """

    filename: str
    onset: float
    offset: float
    label: str
    details: dict[str, str] = field(default_factory=dict, compare=False)


def read_labels(path: str | PathLike[str]) -> list[Event]:
    """The events of a table with the columns ``filename``, ``onset``, ``offset`` and ``event_label``.

    Args:
        path: a CSV or TSV file, or a folder that holds ``labels.csv``.

    Raises:
        InputError: it cannot be read, misses a column, or a row lacks a file, times or a
            class; names the line.
    """
    place = Path(path)
    place = place / "labels.csv" if place.is_dir() else place
    try:
        text = place.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"Labels {place} cannot be read: {reason}") from error
    first = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in first else ",")
    try:
        missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise InputError(
                f"Labels {place} have no column {', '.join(missing)}; the first line must name "
                f"{', '.join(COLUMNS)}"
            )
        return [_event(row, f"{place}, line {rows.line_num}") for row in rows]
    except csv.Error as error:
        raise InputError(
            f"Labels {place}, line {rows.line_num + 1} is not valid CSV: {error}; correct it"
        ) from error


def _event(row: dict[str, str], where: str) -> Event:
    try:
        onset, offset = float(row["onset"]), float(row["offset"])
    except (TypeError, ValueError):
        onset = offset = math.nan
    if not (0 <= onset < offset < math.inf):
        raise InputError(
            f"Labels {where}: onset and offset must be seconds with 0 <= onset < offset, got "
            f"{row['onset']!r} and {row['offset']!r}"
        )
    if not row["filename"] or not row["event_label"]:
        raise InputError(f"Labels {where}: a filename and an event_label are needed; fill them in")
    details = {key: value for key, value in row.items() if key and key not in COLUMNS and value is not None}
    return Event(row["filename"], onset, offset, row["event_label"], details)
