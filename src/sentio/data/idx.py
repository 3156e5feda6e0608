"""Reads Fashion-MNIST, MNIST and what else comes in their IDX files, packed or not.

H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", 2017; Y. LeCun, C. Cortes, C. Burges, MNIST. 70,000 images of 28x28, 60,000 of them to train on.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError
from sentio.data.dataset import Dataset, Item, choose_protocol, make_dataset
from sentio.data.records import temporary_folder, write_pictures

OFFICIAL = ("official", "random")
#: the beginning of a part's files -> the part
PARTS = {"train": "train", "t10k": "test"}
FASHION = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
#: more images than any such file holds: 4 GiB of 28x28
MOST_BYTES = 2**32


def is_idx(folder: Path) -> bool:
    """Whether a folder holds images in IDX files."""
    return any(_file(folder, part, "images-idx3") is not None for part in PARTS)


def read_idx(folder: Path, shown: Path, protocol: str | None = None) -> Dataset:
    """The images of the parts that are there, written out as files of their own.

    Classes bear Fashion-MNIST's names where the path says "fashion", since the files themselves do not say,
    and otherwise their numbers; of two folders that say "fashion" or "mnist" the inner one counts.
    ``details["part"]`` is the part.

    Args:
        folder: the data set.
        shown: what messages call it.
        protocol: ``official``, the authors' test part, a share of the rest validates; or ``random``.

    Raises:
        InputError: a file is missing, damaged, or does not belong to the other.
        ConfigError: no such protocol.
    """
    chosen = choose_protocol(protocol, OFFICIAL, shown)
    names = FASHION if _says_fashion(shown) else None
    kept = temporary_folder()
    items = []
    for stem, part in PARTS.items():
        file = _file(folder, stem, "images-idx3")
        if file is None:
            continue
        of_labels = _file(folder, stem, "labels-idx1")
        if of_labels is None:
            raise InputError(
                f"{shown} has {file.name} and not its labels, {stem}-labels-idx1-ubyte.gz; add them"
            )
        pixels = _array(file, shown / file.name, 3)
        labels = _array(of_labels, shown / of_labels.name, 1)
        if len(pixels) != len(labels):
            raise InputError(
                f"{shown} has {len(pixels)} images in {file.name} and {len(labels)} "
                f"labels in {of_labels.name}; "
                "download both again"
            )
        if names is not None and len(labels) and int(labels.max()) >= len(names):
            raise InputError(f"{shown / of_labels.name} has a label beyond its {len(names)} classes")
        (kept.folder / stem).mkdir()
        numbers = [f"{number:05d}" for number in range(len(pixels))]
        paths = write_pictures(pixels[..., None], kept.folder / stem, numbers, file, shown / file.name)
        for path, label in zip(paths, labels.tolist(), strict=True):
            called = str(label) if names is None else names[label]
            items.append(Item(f"{stem}/{path.name}", path, called, None, {"part": part}))
    made = make_dataset(shown, items, protocols=OFFICIAL, protocol=chosen)
    return replace(made, keep=kept)


def _says_fashion(shown: Path) -> bool:
    telling = [
        name for name in shown.absolute().parts if "fashion" in name.lower() or "mnist" in name.lower()
    ]
    return bool(telling) and "fashion" in telling[-1].lower()


def _file(folder: Path, part: str, kind: str) -> Path | None:
    for name in (f"{part}-{kind}-ubyte.gz", f"{part}-{kind}-ubyte"):
        if (folder / name).is_file():
            return folder / name
    return None


def _array(path: Path, shown: Path, axes: int) -> NDArray[np.uint8]:
    """An array of bytes: two zeros, the type 8, the number of axes, their lengths, then the values."""
    length = 4 + 4 * axes
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            header = file.read(length)
            if len(header) < length or header[:4] != bytes((0, 0, 8, axes)):
                raise InputError(f"{shown} is no IDX file of bytes in {axes} axes; download it again")
            shape = struct.unpack(f">{axes}I", header[4:])
            if prod(shape) > MOST_BYTES:
                raise InputError(
                    f"{shown} claims {prod(shape):,} bytes, more than is read; download it again"
                )
            # No more than is announced: a packed file may hold anything behind it.
            content = file.read(prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{shown} is damaged ({error}); download it again") from error
    if len(content) != prod(shape) or not content:
        raise InputError(
            f"{shown} does not hold the {prod(shape):,} bytes that it announces; download it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
