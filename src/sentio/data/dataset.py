"""A labelled set of files: what every reader gives and every split and front end takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index as as_index
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError, InputError

#: what may be known about items: a class each, or the heads in each picture
LABELS, HEADS = "labels", "heads"


@dataclass(frozen=True)
class Item:
    """One labelled file.

    Args:
        name: the file as the data set calls it, a path with ``/`` relative to the data set.
        source: the file on disk, what `sentio.audio.io.read` and ``FrontEnd.prepare`` take.
        label: its class.
        group: what must stay on one side of a split (a fold, a speaker), None where nothing is known.
        details: everything else that is known, e.g. further columns of a table.
        truth: what is known beside a class, as the tasks that learn from it take it, e.g. a
            `sentio.data.crowds.CrowdScene`; None where the label is all.
        beside: other files of the same moment by the input that they are for, e.g. the sound of a picture
            under ``audio``; None for one that the data set says is not there. Where it says nothing, a front
            end may find one by its name, see `companions`.
    """

    name: str
    source: Path
    label: str
    group: str | None = None
    details: Mapping[str, str] = field(default_factory=dict, hash=False)
    truth: Any = field(default=None, repr=False, compare=False)
    beside: Mapping[str, Path | None] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Dataset:
    """Labelled files with their classes, in an order that depends on names only.

    Args:
        name: a short name, for reports.
        items: the files.
        labels: the classes, sorted; a class's place here is its number.
        root: the folder, table or archive that was opened.
        protocols: the ways in which `sentio.data.splits.splits` may divide this data, the default first.
        protocol: the one it was opened with.
        notes: what was odd about the data and how it was met, one sentence each.
        keep: what has to live as long as the items, e.g. the folder that an archive was unpacked to.
        truth: what is known about the items: `LABELS`, or `HEADS` in pictures of crowds. A task says which
            of them it learns from.
    """

    name: str
    items: tuple[Item, ...]
    labels: tuple[str, ...]
    root: Path
    protocols: tuple[str, ...] = ("random",)
    protocol: str = "random"
    notes: tuple[str, ...] = ()
    keep: Any = field(default=None, repr=False, compare=False)
    truth: str = LABELS

    def __len__(self) -> int:
        return len(self.items)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Each item's class number, shape ``(len(self),)``."""
        number = {label: index for index, label in enumerate(self.labels)}
        return np.array([number[item.label] for item in self.items], dtype=np.int64)

    def counts(self) -> dict[str, int]:
        """Items per class, with a zero for a class of which this subset holds none."""
        found = Counter(item.label for item in self.items)
        return {label: found[label] for label in self.labels}

    def subset(self, indices: Iterable[int]) -> Dataset:
        """The items at these places, in this order; the classes and their numbers stay."""
        return replace(self, items=tuple(self.items[as_index(index)] for index in indices))


def companions(item: Item, frontend: Any) -> Mapping[str, Path | None]:
    """The files beside an item's own that a front end of several inputs reads, by input.

    What the data set says counts; where it says nothing, what the front end finds by its name. None for a
    file that the data set says is not there, and nothing at all where nobody knows of one.
    """
    if len(frontend.input_shapes) < 2:
        return {}
    find = getattr(frontend, "companions", None)
    return item.beside if item.beside or find is None else find(item.source)


def make_dataset(
    root: Path,
    items: Sequence[Item],
    *,
    protocols: tuple[str, ...],
    protocol: str,
    notes: Iterable[str] = (),
) -> Dataset:
    """A `Dataset` of a reader's items, named after ``root``.

    Raises:
        InputError: all items are of one class.
    """
    labels = tuple(sorted({item.label for item in items}))
    if len(labels) < 2:
        raise InputError(
            f"{root} holds only one class, {labels[0]!r}; a classifier needs files of at least two classes"
        )
    spellings: dict[str, list[str]] = {}
    for label in labels:
        spellings.setdefault(label.casefold(), []).append(label)
    alike = [
        f"Labels {listed(map(repr, same))} differ in case only and are taken as different classes."
        for same in spellings.values()
        if len(same) > 1
    ]
    return Dataset(
        name=short_name(root),
        items=tuple(items),
        labels=labels,
        root=root,
        protocols=protocols,
        protocol=protocol,
        notes=(*notes, *alike),
    )


def short_name(root: Path) -> str:
    """A data set's name: its folder's, or its file's without the ending."""
    if root.suffix.lower() not in (".csv", ".zip"):
        return root.name
    return root.absolute().parent.name if root.stem == "meta" else root.stem


def choose_protocol(wanted: str | None, valid: tuple[str, ...], root: Path) -> str:
    """``wanted``, or the first valid protocol if None.

    Raises:
        ConfigError: this data has no such protocol; lists those it has.
    """
    if wanted is None:
        return valid[0]
    if wanted not in valid:
        raise ConfigError(f"{root} has no protocol {wanted!r}; choose one of: {', '.join(valid)}")
    return wanted


def clean_label(text: str) -> str:
    """A label as it is compared: some file systems spell the same accented letter differently (NFD, NFC)."""
    return normalize("NFC", text).strip()


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first names and how many more there are, for a message."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
