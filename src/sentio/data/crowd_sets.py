"""Crowds as data sets: ShanghaiTech, DISCO and folders with ``crowds.csv``, for learning from heads."""

from __future__ import annotations

from pathlib import Path

from sentio.core.errors import InputError
from sentio.data.crowd_tables import CROWDS, read_crowd_tables
from sentio.data.crowds import Crowds, read_disco, read_shanghaitech
from sentio.data.dataset import HEADS, Dataset, Item, choose_protocol
from sentio.data.parts import OFFICIAL, PARTS

#: the one class of all items: crowds are counted, not told apart
CROWD = "crowd"


def is_crowds(folder: Path) -> bool:
    """Whether a folder is laid out as one of the data sets of crowds."""
    return _is_tables(folder) or _is_shanghaitech(folder) or _is_disco(folder)


def read_crowds(folder: Path, shown: Path, protocol: str | None = None) -> Dataset:
    """Pictures of crowds; each item's ``truth`` is its `CrowdScene`, ``beside["audio"]`` its sound.

    That is None where a table names no sound; ShanghaiTech, which was published without, says nothing.

    Args:
        folder: the data set.
        shown: what messages call it.
        protocol: ``official``, the published parts, of ``train`` a share validates where there is no ``val``;
            or ``random``, all of them together.

    Raises:
        InputError: the data cannot be used as it is.
        ConfigError: no such protocol.
    """
    tables = _is_tables(folder)
    if tables:
        crowds = read_crowd_tables(folder)
    else:
        crowds = read_shanghaitech(folder) if _is_shanghaitech(folder) else read_disco(folder)
    if len(crowds) < 2:
        raise InputError(f"{shown} holds {len(crowds)} picture of a crowd; a counter needs many")
    chosen = choose_protocol(protocol, OFFICIAL, shown)
    return Dataset(
        name=shown.name,
        items=_items(crowds, tables),
        labels=(CROWD,),
        root=shown,
        protocols=OFFICIAL,
        protocol=chosen,
        truth=HEADS,
    )


def _items(crowds: Crowds, tables: bool) -> tuple[Item, ...]:
    return tuple(
        Item(
            scene.name,
            scene.picture,
            CROWD,
            details={"part": PARTS[scene.part], **scene.details},
            truth=scene,
            beside={"audio": scene.sound} if tables or scene.sound is not None else {},
        )
        for scene in crowds
    )


def _is_tables(folder: Path) -> bool:
    return (folder / CROWDS).is_file()


def _is_shanghaitech(folder: Path) -> bool:
    return all((folder / f"{part}_data" / "images").is_dir() for part in ("train", "test"))


def _is_disco(folder: Path) -> bool:
    densities = (folder / name / "train" for name in ("density", "density_maps", "den"))
    return any((folder / name).is_dir() for name in ("imgs", "images")) and any(
        place.is_dir() for place in densities
    )
