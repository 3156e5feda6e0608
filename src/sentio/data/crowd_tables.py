"""Crowds that two tables describe: ``crowds.csv`` with a picture a line, ``heads.csv`` with a head a line."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError
from sentio.data.crowds import Crowds, CrowdScene
from sentio.data.dataset import listed
from sentio.data.media import relative_path
from sentio.data.parts import PARTS
from sentio.data.table import Row, read_rows

CROWDS, HEADS = "crowds.csv", "heads.csv"
#: the columns of the two tables; ``crowds.csv`` may have more, which become details
CROWD_COLUMNS = ("filename", "part", "sound", "people")
HEAD_COLUMNS = ("filename", "x", "y")
#: what `PARTS` calls a part -> what a scene does
_SCENES = {"train": "train", "validation": "val", "test": "test"}


def read_crowd_tables(folder: str | Path) -> Crowds:
    """Pictures with heads, and sounds where there are some.

    ``crowds.csv`` names a picture, its part (``train``, ``val`` or ``test``), its sound (empty for none) and
    how many people there are; ``heads.csv`` the picture and (x, y) in pixels of each of them. Both files lie
    in the folder, and names are relative to it; ``./a.png`` is ``a.png``. ``sentio simulate crowds`` writes
    such folders.

    Raises:
        InputError: a table or a line of it cannot be used, or the two contradict each other.
    """
    root = Path(folder)
    rows = _rows(root / CROWDS, CROWD_COLUMNS)
    heads = _heads(root / HEADS)
    scenes: list[CrowdScene] = []
    seen: set[str] = set()
    for line, cells in rows:
        where = f"{root / CROWDS} line {line}"
        name = _key(cells["filename"])
        if name in seen:
            raise InputError(f"{where} names {name!r} for a second time; delete one of the lines")
        seen.add(name)
        part = PARTS.get(cells["part"].lower())
        if part is None:
            raise InputError(f"{where} has part {cells['part']!r}; it is train, val or test")
        points = np.array(heads.get(name, ()), dtype=np.float64).reshape(-1, 2)
        if cells["people"] != str(len(points)):
            raise InputError(
                f"{where} says {cells['people'] or 'nothing'} people of {name!r}, and {HEADS} has "
                f"{len(points)} heads of it; correct one of them"
            )
        scenes.append(
            CrowdScene(
                name,
                _file(root, name, where),
                _SCENES[part],
                root / HEADS,
                sound=_file(root, cells["sound"], where) if cells["sound"] else None,
                points=_these(points),
                details={key: cell for key, cell in cells.items() if key not in CROWD_COLUMNS},
            )
        )
    strange = sorted(heads.keys() - seen)
    if strange:
        raise InputError(
            f"{root / HEADS} has heads of pictures that {CROWDS} does not name: {listed(strange)}"
        )
    return Crowds(root.name, tuple(scenes), root)


def _rows(path: Path, columns: tuple[str, ...]) -> list[Row]:
    rows = read_rows(path, path, columns)
    missing = [name for name in columns if name not in rows[0][1]]
    if missing:
        raise InputError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}; it needs "
            f"{', '.join(columns)}"
        )
    return rows


def _heads(path: Path) -> dict[str, list[tuple[float, float]]]:
    if not path.is_file():
        raise InputError(f"{path} is missing, so nobody knows where the heads are; add the file")
    if len(path.read_bytes().strip().splitlines()) == 1:  # nobody is in any picture
        return {}
    found: dict[str, list[tuple[float, float]]] = {}
    for line, cells in _rows(path, HEAD_COLUMNS):
        try:
            x, y = float(cells["x"]), float(cells["y"])
        except ValueError:
            x = y = float("nan")
        if not (isfinite(x) and isfinite(y)):
            raise InputError(
                f"{path} line {line} has a head at {cells['x']!r}, {cells['y']!r}; x and y are "
                "numbers of pixels"
            )
        found.setdefault(_key(cells["filename"]), []).append((x, y))
    return found


def _key(name: str) -> str:
    """One spelling of a path, so that a picture is the same one however a line writes it."""
    relative = relative_path(name)
    return name if relative is None else str(relative)


def _file(root: Path, name: str, where: str) -> Path:
    relative = relative_path(name)
    if relative is None or not (root / relative).is_file():
        raise InputError(f"{where} names {name!r}, which is not in {root}; add the file or delete the line")
    return root / relative


def _these(points: NDArray[np.float64]) -> Callable[[], NDArray[np.float64]]:
    return lambda: points
