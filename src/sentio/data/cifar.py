"""Reads CIFAR-10 and CIFAR-100 as their authors give them: the binary version, or the Python version.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. 60,000 images of 32x32, 50,000
of them to train on. The Python version's pickles are read without running what they hold, see
`sentio.data.inert_pickle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError
from sentio.data.dataset import Dataset, Item, choose_protocol, make_dataset
from sentio.data.inert_pickle import read_inert
from sentio.data.records import temporary_folder, write_pictures

PIXELS = 3 * 32 * 32
OFFICIAL = ("official", "random")


@dataclass(frozen=True)
class _Kind:
    """One of the two data sets.

    Args:
        train: stems of the training files; those that are there are read.
        test: stem of the test file.
        labels: labels before the pixels of a record, by name; the last is the class.
        texts: of the binary version, the file of names of each label.
        meta: of the Python version, the file of names and its key for each label.
        keys: of the Python version, the key of each label.
    """

    train: tuple[str, ...]
    test: str
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    meta: tuple[str, tuple[str, ...]]
    keys: tuple[str, ...]


TEN = _Kind(
    tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test_batch",
    ("fine",),
    ("batches.meta.txt",),
    ("batches.meta", ("label_names",)),
    ("labels",),
)
HUNDRED = _Kind(
    ("train",),
    "test",
    ("coarse", "fine"),
    ("coarse_label_names.txt", "fine_label_names.txt"),
    ("meta", ("coarse_label_names", "fine_label_names")),
    ("coarse_labels", "fine_labels"),
)


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds a version of CIFAR-10 or CIFAR-100."""
    return _found(folder) is not None


def read_cifar(folder: Path, shown: Path, protocol: str | None = None) -> Dataset:
    """The images of the files that are there, written out as files of their own.

    ``details``: ``part``, and of CIFAR-100 ``coarse``, its superclass.

    Args:
        folder: the data set.
        shown: what messages call it.
        protocol: ``official``, the authors' test part, a share of the rest validates; or ``random``.

    Raises:
        InputError: a file is damaged, or not what it should be.
        ConfigError: no such protocol.
    """
    chosen = choose_protocol(protocol, OFFICIAL, shown)
    known = _found(folder)
    assert known is not None, "ask is_cifar first"
    kind, binary = known
    names = _label_names(folder, shown, kind, binary)
    kept = temporary_folder()
    items = []
    for stem in (*kind.train, kind.test):
        file = folder / (f"{stem}.bin" if binary else stem)
        if not file.is_file():
            continue
        pixels, labels = (_binary if binary else _python)(file, shown / file.name, kind)
        for label, numbers, each in zip(kind.labels, labels, names, strict=True):
            if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(each):
                raise InputError(
                    f"{shown / file.name} has a {label} label beyond its {len(each)} classes; "
                    "download it again"
                )
        into = kept.folder / stem
        into.mkdir()
        paths = write_pictures(
            pixels, into, [f"{number:05d}" for number in range(len(pixels))], file, shown / file.name
        )
        part = "test" if stem == kind.test else "train"
        for place, path in enumerate(paths):
            details = {"part": part}
            if kind is HUNDRED:
                details["coarse"] = names[0][labels[0][place]]
            items.append(Item(f"{stem}/{path.name}", path, names[-1][labels[-1][place]], None, details))
    made = make_dataset(shown, items, protocols=OFFICIAL, protocol=chosen)
    return replace(made, keep=kept)


def _found(folder: Path) -> tuple[_Kind, bool] | None:
    """Which data set lies there, and whether in the binary version."""
    for kind in (TEN, HUNDRED):
        stems = (*kind.train, kind.test)
        if any((folder / f"{stem}.bin").is_file() for stem in stems):
            return kind, True
        if (folder / kind.meta[0]).is_file() and any((folder / stem).is_file() for stem in stems):
            return kind, False
    return None


def _label_names(folder: Path, shown: Path, kind: _Kind, binary: bool) -> list[Sequence[str]]:
    """For each label of a record the names of its classes."""
    found: list[Sequence[str]] = []
    if binary:
        for name in kind.texts:
            try:
                lines = (folder / name).read_text("utf-8-sig").split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(
                    f"{shown / name} with the names of the classes cannot be read; add it"
                ) from error
            found.append([line.strip() for line in lines if line.strip()])
    else:
        name, keys = kind.meta
        values = read_inert(folder / name, shown / name)
        found = [values.get(key) or [] for key in keys]
    for names in found:
        if not names or not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            raise InputError(f"{shown} does not say what its classes are called; download it again")
    return found


def _binary(file: Path, shown: Path, kind: _Kind) -> tuple[NDArray[np.uint8], list[NDArray[Any]]]:
    """Records of one byte for each label, then red, green and blue planes."""
    width = len(kind.labels) + PIXELS
    content = np.fromfile(file, np.uint8)
    if not len(content) or len(content) % width:
        raise InputError(
            f"{shown} holds {len(content):,} bytes, which is no whole number of records of {width}; "
            "download it again"
        )
    records = content.reshape(-1, width)
    labels = [records[:, place] for place in range(len(kind.labels))]
    return _images(records[:, len(kind.labels) :]), labels


def _python(file: Path, shown: Path, kind: _Kind) -> tuple[NDArray[np.uint8], list[NDArray[Any]]]:
    values = read_inert(file, shown)
    data = values.get("data")
    labels = [values.get(key) for key in kind.keys]
    fits = isinstance(data, np.ndarray) and data.ndim == 2 and data.shape[1] == PIXELS and len(data) > 0
    for each in labels:
        fits = fits and isinstance(each, list) and len(each) == len(data)  # type: ignore[arg-type]
        fits = fits and all(isinstance(number, int) for number in each)  # type: ignore[union-attr]
    if not fits:
        raise InputError(f"{shown} does not hold images and labels as CIFAR's files do; download it again")
    return _images(data), [np.array(each) for each in labels]  # type: ignore[arg-type]


def _images(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
