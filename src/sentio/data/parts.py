"""Reads files that lie in a folder per part and class: ``train/cat/1.png``, ``test/cat/2.png``."""

from __future__ import annotations

from pathlib import Path

from sentio.core.errors import InputError
from sentio.data.dataset import Dataset, Item, choose_protocol, clean_label, listed, make_dataset
from sentio.data.media import ignored_note, is_media, listing

#: what a part's folder may be called -> the part
PARTS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
OFFICIAL = ("official", "random")


def is_parts(folder: Path) -> bool:
    """Whether a folder holds nothing but parts with classes in each, one to train on among them."""
    folders, files = listing(folder)
    parts = [PARTS.get(sub.name.lower()) for sub in folders]
    if "train" not in parts or None in parts or len(set(parts)) < len(parts):
        return False
    if any(is_media(file.name) for file in files):
        return False
    # Where files lie directly inside, "train" is a class, say beside "test" of a railway.
    return all(_classes(sub) for sub in folders)


def read_parts(folder: Path, shown: Path, protocol: str | None = None) -> Dataset:
    """The files of all parts; ``details["part"]`` says of which.

    Args:
        folder: the data set.
        shown: what messages call it.
        protocol: ``official``, the parts as they are, of ``train`` a share validates where no part does; or
            ``random``, all of them together.

    Raises:
        InputError: a part has a class that is not trained on.
        ConfigError: no such protocol.
    """
    chosen = choose_protocol(protocol, OFFICIAL, shown)
    items, others = [], []
    for sub in listing(folder)[0]:
        for inner in listing(sub)[0]:
            for file in listing(inner)[1]:
                if is_media(file.name):
                    name = f"{sub.name}/{inner.name}/{file.name}"
                    details = {"part": PARTS[sub.name.lower()]}
                    items.append(Item(name, file, clean_label(inner.name), None, details))
                else:
                    others.append(file.name)
    trained = {item.label for item in items if item.details["part"] == "train"}
    strange = sorted({item.label for item in items} - trained)
    if strange:
        raise InputError(
            f"{shown} has no training files of {listed(strange)}, which another part "
            "holds; add some, or take "
            "those folders out"
        )
    return make_dataset(shown, items, protocols=OFFICIAL, protocol=chosen, notes=ignored_note(others))


def _classes(folder: Path) -> bool:
    folders, files = listing(folder)
    if any(is_media(file.name) for file in files):
        return False
    return any(is_media(file.name) for sub in folders for file in listing(sub)[1])
